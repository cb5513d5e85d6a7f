//! Reads one `/metrics` page into plain numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_parse::{Scrape, Value};

/// Largest page that is read: ours are below 20 kB, with a thousand partitions 120 kB.
const PAGE_BYTES_MAX: u64 = 1 << 20;
/// Most lines with a number: ours have a hundred, and two more for each partition.
pub(crate) const SERIES_MAX: usize = 4_000;
/// Most bytes of their names together, 64 each. With 56 B of records for each number a page is at most
/// 480 kB in a sample; the live page keeps 512 samples (`live::story`), 246 MB if a page is made to be
/// the worst.
const NAMES_BYTES_MAX: usize = 64 * SERIES_MAX;

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
        let body = answer.body_mut().with_config().limit(PAGE_BYTES_MAX).lossy_utf8(true);
        let text = body.read_to_string().map_err(|e| format!("{}: {e}", self.url))?;
        numbers(&text).map_err(|why| format!("{}: {why}", self.url))
    }
}

/// The finite numbers of a page: value by `metric{label="value",…}`.
///
/// # Errors
/// What the parser says, and that a page has more than is kept.
pub(crate) fn numbers(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    if series > SERIES_MAX {
        return Err(format!("{series} lines with a number, at most {SERIES_MAX} are read"));
    }
    let page =
        Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).map_err(|e| e.to_string())?;
    let (mut out, mut names) = (BTreeMap::new(), 0);
    for row in page.samples {
        let (Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value)) = row.value
        else {
            continue; // buckets: their _sum and _count come as rows of their own
        };
        if value.is_finite() {
            let labels = row.labels.to_string();
            let key =
                if labels.is_empty() { row.metric } else { format!("{}{{{labels}}}", row.metric) };
            names += key.len();
            if names > NAMES_BYTES_MAX {
                return Err(format!("names of more than {NAMES_BYTES_MAX} bytes together"));
            }
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

    /// Prevents: a page that fills the watch's memory, which keeps hundreds of samples.
    #[test]
    fn a_page_with_more_than_is_kept_counts_as_unread() {
        let rows = |count: usize, name: &str| -> String {
            (0..count).map(|n| format!("{name}{{n=\"{n}\"}} 1\n")).collect()
        };
        // The processor's page with a thousand partitions.
        let large =
            rows(1_000, "processor_committable_offset") + &rows(1_000, "processor_position");
        assert_eq!(numbers(&large).expect("a page").len(), 2_000);
        assert_eq!(numbers(&rows(SERIES_MAX, "a")).expect("a page").len(), SERIES_MAX);
        let why = numbers(&rows(SERIES_MAX + 1, "a")).expect_err("too many");
        assert!(why.contains("4001") && why.contains("4000"), "{why}");
        let why = numbers(&rows(100, &"a".repeat(10_000))).expect_err("too long");
        assert!(why.contains("256000 bytes"), "{why}");
    }

    #[test]
    fn a_page_without_end_is_given_up_at_its_limit() {
        use crate::http::{Limits, Request, Response, Server};
        let page = |request: Request| {
            let bytes = request.query.parse().expect("a size");
            Response::text(200, format_args!("a 1\n#{}", "x".repeat(bytes)))
        };
        let listen = ([127, 0, 0, 1], 0).into();
        let server = Server::start(listen, Limits::default(), std::sync::Arc::new(page));
        let server = server.expect("a server");
        let read = |bytes: u64| {
            let url = format!("http://{}/metrics?{bytes}", server.addr());
            Target::new("big", &url, Duration::from_secs(10)).read()
        };
        assert_eq!(read(PAGE_BYTES_MAX / 2).expect("a page").get("a"), Some(&1.0));
        let why = read(PAGE_BYTES_MAX).expect_err("too large");
        assert!(why.contains("/metrics") && why.contains("1048576"), "{why}");
    }
}
