//! One sample of the pipeline in the page's figures: rates from counters, several processors
//! summed.
//!
//! Invariant: a figure that lacks one of its sources is absent, never the sum of the others.

use serde::Serialize;

use crate::lab::samples::Sample;

/// A sample. Rates are events/s since the sample before, memory is bytes, latency s over the last
/// 10 s.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Point {
    /// Its number, from 1.
    pub seq: u64,
    /// When it was taken, s since the epoch.
    pub at: f64,
    /// What the schedule, or a slow-source lease, asks of the producer.
    pub offered: Option<f64>,
    /// Acknowledged by the brokers.
    pub produced: Option<f64>,
    /// Fetched by the processors.
    pub polled: Option<f64>,
    /// Acked by the sink.
    pub delivered: Option<f64>,
    /// The sink's limit in force, tokens/s.
    pub limit: Option<f64>,
    /// Events in the processors' queues.
    pub queue: Option<f64>,
    /// Consumer lag, events.
    pub lag: Option<f64>,
    /// Resident memory of the processors.
    pub rss: Option<f64>,
    /// Their heap in use.
    pub heap: Option<f64>,
    /// Median end-to-end latency.
    pub p50: Option<f64>,
    /// 99th percentile of the same.
    pub p99: Option<f64>,
    /// The lag that the plan's model predicts.
    pub lag_model: Option<f64>,
    /// The queue that it predicts.
    pub queue_model: Option<f64>,
    /// The latency that it predicts.
    pub wait_model: Option<f64>,
    /// Events that the queues hold at most; infinite without a limit.
    #[serde(skip)]
    pub capacity: Option<f64>,
}

/// The names that the watch was given. `processor` and every name that begins with `processor-`
/// are processors; the same for `producer` and `sink`.
pub struct Sources {
    processes: Vec<String>,
    pages: Vec<String>,
}

impl Sources {
    /// Names of processes and of `/metrics` pages.
    pub fn new(processes: Vec<String>, pages: Vec<String>) -> Self {
        Self { processes, pages }
    }

    /// The figures of `now`; rates need the sample `before`.
    pub fn read(&self, now: &Sample, before: Option<&Sample>) -> Point {
        let gauge = |role, key: &str| total(&self.pages, role, |name| now.metric(name, key));
        let rate = |role, key: &str| {
            let before = before?;
            let seconds = taken_s(now) - taken_s(before);
            total(&self.pages, role, |name| {
                let gained = now.metric(name, key)? - before.metric(name, key)?;
                // A counter that went back belongs to a restarted process.
                (gained >= 0.0 && seconds > 0.0).then(|| gained / seconds)
            })
        };
        let latency = |quantile| {
            let key =
                format!("latency_quantile_seconds{{quantile=\"{quantile}\",stage=\"end_to_end\"}}");
            of_role(&self.pages, PROCESSOR)
                .filter_map(|name| now.metric(name, &key))
                .max_by(f64::total_cmp)
        };
        let capacity = |name: &str| {
            let events = now.metric(name, "processor_queue_capacity")?;
            Some(if events < 0.0 { f64::INFINITY } else { events })
        };
        Point {
            at: taken_s(now),
            offered: gauge("producer", "producer_target_rate"),
            produced: rate("producer", "producer_events_sent_total"),
            polled: rate(PROCESSOR, "processor_events_fetched_total"),
            delivered: rate("sink", "sink_events_total"),
            limit: gauge("sink", "sink_rate_limit"),
            queue: gauge(PROCESSOR, "processor_queue_depth"),
            lag: now.log.as_ref().and_then(|log| log.lag).map(|lag| lag as f64),
            rss: total(&self.processes, PROCESSOR, |name| now.rss_bytes(name)),
            heap: gauge(PROCESSOR, "heap_inuse_bytes"),
            p50: latency("0.5"),
            p99: latency("0.99"),
            capacity: total(&self.pages, PROCESSOR, capacity),
            ..Point::default()
        }
    }
}

const PROCESSOR: &str = "processor";

fn taken_s(sample: &Sample) -> f64 {
    sample.due_us as f64 / 1e6 + sample.late_s
}

fn of_role<'a>(names: &'a [String], role: &'a str) -> impl Iterator<Item = &'a str> {
    names.iter().map(String::as_str).filter(move |name| {
        name.strip_prefix(role).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// The sum over all of a role; `None` without any, and when one of them has no value.
fn total(names: &[String], role: &str, of: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let mut values = of_role(names, role).map(of).peekable();
    values.peek()?;
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(names: &[&str]) -> Sources {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Sources::new(names.clone(), names)
    }

    fn sample(second: i64, metrics: &[(&str, &str, f64)]) -> Sample {
        let mut sample = Sample { due_us: second * 1_000_000, ..Sample::default() };
        for (source, key, value) in metrics {
            sample.metrics.entry((*source).into()).or_default().insert((*key).into(), *value);
        }
        sample
    }

    #[test]
    fn what_was_not_read_is_absent_and_json_says_null() {
        let (a, b) = (sample(0, &[]), sample(1, &[]));
        let point = sources(&["processor", "producer", "sink"]).read(&b, Some(&a));
        assert_eq!(point, Point { at: 1.0, ..Point::default() });
        let json = serde_json::to_value(&point).expect("json");
        assert!(
            json["lag"].is_null() && json["rss"].is_null() && json["polled"].is_null(),
            "{json}"
        );
    }

    #[test]
    fn rates_are_of_the_time_that_passed_and_a_restart_gives_none() {
        let events = "sink_events_total";
        let (a, b) =
            (sample(0, &[("sink", events, 100.0)]), sample(2, &[("sink", events, 4100.0)]));
        let sources = sources(&["sink"]);
        assert_eq!(sources.read(&b, Some(&a)).delivered, Some(2000.0));
        assert_eq!(sources.read(&b, None).delivered, None, "one look is no rate");
        assert_eq!(sources.read(&a, Some(&b)).delivered, None, "a counter never goes back");
    }

    // Guards a sum that hides the processor that could not be read.
    #[test]
    fn several_processors_are_summed_or_absent() {
        let depth = "processor_queue_depth";
        let capacity = "processor_queue_capacity";
        let both = [
            ("processor-1", depth, 3.0),
            ("processor-2", depth, 4.0),
            ("processors", depth, 99.0),
            ("processor-1", capacity, 10.0),
            ("processor-2", capacity, -1.0),
        ];
        let sources = sources(&["processor-1", "processor-2", "processors"]);
        let point = sources.read(&sample(0, &both), None);
        assert_eq!((point.queue, point.capacity), (Some(7.0), Some(f64::INFINITY)));
        assert_eq!(sources.read(&sample(0, &both[..1]), None).queue, None);
    }
}
