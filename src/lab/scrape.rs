//! Reads one `/metrics` page into plain numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_parse::{Scrape, Value};

/// One page to read.
pub struct Target {
    /// Its name in the samples.
    pub name: String,
    url: String,
    agent: ureq::Agent,
}

impl Target {
    /// A page that is given up after `timeout`.
    pub fn new(name: &str, url: &str, timeout: Duration) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            agent: crate::http::client::agent(timeout),
        }
    }

    /// Reads it now: value by `metric{label="value",…}`; `Err` says why it could not be read.
    pub fn read(&self) -> Result<BTreeMap<String, f64>, String> {
        let mut answer = self.agent.get(&self.url).call().map_err(|e| e.to_string())?;
        if answer.status() != 200 {
            return Err(format!("{}: status {}", self.url, answer.status()));
        }
        let text = answer.body_mut().read_to_string().map_err(|e| e.to_string())?;
        numbers(&text)
    }
}

/// The finite numbers of a page: value by `metric{label="value",…}`.
///
/// # Errors
/// What the parser says.
pub(crate) fn numbers(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let page =
        Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).map_err(|e| e.to_string())?;
    let mut out = BTreeMap::new();
    for row in page.samples {
        let (Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value)) = row.value
        else {
            continue; // buckets: their _sum and _count come as rows of their own
        };
        if value.is_finite() {
            let labels = row.labels.to_string();
            let key =
                if labels.is_empty() { row.metric } else { format!("{}{{{labels}}}", row.metric) };
            out.insert(key, value);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Metrics, ProcessorMetrics};

    // Guards the contract between what the binaries export and the keys that the report reads.
    #[test]
    fn our_own_metrics_come_back_under_the_keys_that_the_report_reads() {
        let metrics = Metrics::default();
        let processor = ProcessorMetrics::register(&metrics).expect("names");
        processor.fetched.inc_by(41);
        processor.shed.with_label_values(&["newest", "low"]).inc();
        processor.latency_quantiles.with_label_values(&["end_to_end", "0.99"]).set(0.25);
        processor.latency_quantiles.with_label_values(&["sink", "0.99"]).set(f64::NAN);
        processor.end_to_end.observe(0.5);
        let text = String::from_utf8(metrics.text().expect("text")).expect("utf-8");
        let read = numbers(&text).expect("page");
        let is = |key: &str, value: f64| assert_eq!(read.get(key), Some(&value), "{key}: {read:?}");
        is("processor_events_fetched_total", 41.0);
        is("processor_events_shed_total{class=\"low\",reason=\"newest\"}", 1.0);
        is("latency_quantile_seconds{quantile=\"0.99\",stage=\"end_to_end\"}", 0.25);
        is("end_to_end_latency_seconds_sum", 0.5);
        is("end_to_end_latency_seconds_count", 1.0);
        assert!(!read.keys().any(|key| key.contains("stage=\"sink\"")), "NaN is no number");
    }
}
