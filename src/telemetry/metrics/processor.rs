//! The processor's: what every one has, and what its spill has where there is one.

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Metrics;
use crate::failure::Failure;

/// What waits on disk, where the queue spills; registered only there.
#[derive(Clone)]
pub struct SpillMetrics {
    /// Size of its segments.
    pub bytes: IntGauge,
    /// Events on disk that were not read back yet.
    pub events: IntGauge,
    /// Its segments.
    pub segments: IntGauge,
    /// Bytes written to it.
    pub written_bytes: IntCounter,
    /// Events written to it.
    pub written_events: IntCounter,
    /// Bytes read back.
    pub read_bytes: IntCounter,
    /// Syncs that made what was written durable.
    pub syncs: IntCounter,
    /// Runs that found it full.
    pub full: IntCounter,
}

impl SpillMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(m: &Metrics) -> Result<Self, Failure> {
        Ok(Self {
            bytes: m.int_gauge("processor_spill_bytes", "Size of the spill's segments on disk")?,
            events: m.int_gauge(
                "processor_spill_events",
                "Events on disk that did not come back to memory yet",
            )?,
            segments: m.int_gauge("processor_spill_segments", "The spill's segments on disk")?,
            written_bytes: m
                .counter("processor_spill_written_bytes_total", "Bytes of runs spilled to disk")?,
            written_events: m
                .counter("processor_spill_written_events_total", "Events spilled to disk")?,
            read_bytes: m
                .counter("processor_spill_read_bytes_total", "Bytes of runs that came back")?,
            syncs: m.counter(
                "processor_spill_syncs_total",
                "Syncs of the spill's newest segment (--spill-commit spilled)",
            )?,
            full: m.counter(
                "processor_spill_full_total",
                "Times a run found --spill-max reached or the disk full",
            )?,
        })
    }
}

/// The processor's metrics.
#[derive(Clone)]
pub struct ProcessorMetrics {
    /// Fetch requests answered by a broker.
    pub polls: IntCounter,
    /// Records taken from the log.
    pub fetched: IntCounter,
    /// Records that the client fetched ahead, which are in no queue of the processor's.
    pub prefetched_events: IntGauge,
    /// Their bytes.
    pub prefetched_bytes: IntGauge,
    /// Bytes that brokers sent to such a client so far, those that it threw away included.
    pub client_received_bytes: IntGauge,
    /// Largest time between two of the member's polls so far, s.
    pub poll_gap: Gauge,
    /// The time without a poll after which the group takes the partitions away, s.
    pub poll_interval: Gauge,
    /// Events in the queue.
    pub queue_depth: IntGauge,
    /// The queue's limit; -1 when it has none.
    pub queue_capacity: IntGauge,
    /// Events that entered the queue.
    pub enqueued: IntCounter,
    /// Events acknowledged by the sink.
    pub acked: IntCounter,
    /// Events shed, by the rule that chose them and by class: high, normal.
    pub shed: IntCounterVec,
    /// Records that are no event, by reason.
    pub invalid: IntCounterVec,
    /// Fetched events given up because their partition was revoked or the run stopped; they are
    /// still in the log and will be fetched again. What the spill let go from the log is not among them.
    pub returned: IntCounter,
    /// Events that the sink fails for over and over, set aside.
    pub aside: IntGauge,
    /// Offsets that could not be fetched because they no longer exist, by reason: retention, gap.
    pub lost: IntCounterVec,
    /// Times the group took the partitions away because the member was too slow.
    pub evictions: IntCounter,
    /// Assignments and revocations.
    pub rebalances: IntCounter,
    /// Partitions assigned now.
    pub partitions: IntGauge,
    /// Commits by result: ok, refused, failed.
    pub commits: IntCounterVec,
    /// Committable offset by partition: all below it is acked.
    pub committable: IntGaugeVec,
    /// Next offset to fetch by partition.
    pub position: IntGaugeVec,
    /// High watermark by partition, as of the last fetch.
    pub high_watermark: IntGaugeVec,
    /// Events after the committed offset that the log still has, by partition, up to its end as of
    /// the last fetch.
    pub lag: IntGaugeVec,
    /// Fetches that failed and were tried again.
    pub fetch_retries: IntCounter,
    /// Sink calls by result: ok, partial (a part was acked), retried, rejected.
    pub sink_calls: IntCounterVec,
    /// Events that a batch may have now.
    pub batch_limit: IntGauge,
    /// The age of the oldest batch that asked for a call and is not served yet, s.
    pub oldest_batch: Gauge,
    /// Whether the sink answered the last call that ended; 1 until one has.
    pub sink_up: IntGauge,
    /// Rate granted to the producer by slow-source, events/s; -1 when there is none.
    pub granted_rate: Gauge,
    /// Events of the epoch granted to the producer by credit; -1 when there is none.
    pub granted_events: IntGauge,
    /// Grants by how the producer's answer was: ok, failed.
    pub grants: IntCounterVec,
    /// Due → acknowledged by the sink.
    pub end_to_end: Histogram,
    /// p50, p99, p99.9 and the largest of the last 10 s, by stage, s.
    pub latency_quantiles: GaugeVec,
    /// Events due later than they were fetched.
    pub clock_ahead: IntCounter,
    /// Events with a latency above the hour that the quantiles cover.
    pub latency_beyond: IntCounter,
}

impl ProcessorMetrics {
    /// Registers the processor's metrics.
    pub fn register(m: &Metrics) -> Result<Self, Failure> {
        Ok(Self {
            polls: m.counter("processor_polls_total", "Fetch requests answered by a broker")?,
            fetched: m.counter("processor_events_fetched_total", "Records taken from the log")?,
            prefetched_events: m.int_gauge(
                "processor_prefetched_events",
                "Records that the client fetched ahead of the queue (--client rdkafka)",
            )?,
            prefetched_bytes: m.int_gauge(
                "processor_prefetched_bytes",
                "Their bytes, by librdkafka's own statistics",
            )?,
            client_received_bytes: m.int_gauge(
                "processor_client_received_bytes",
                "Bytes that brokers sent to --client rdkafka so far, thrown away ones included",
            )?,
            poll_gap: m.gauge(
                "processor_poll_gap_seconds",
                "Largest time between two polls of the group member so far",
            )?,
            poll_interval: m.gauge(
                "processor_max_poll_interval_seconds",
                "Time without a poll after which the group takes the partitions away",
            )?,
            queue_depth: m.int_gauge("processor_queue_depth", "Events in the queue")?,
            queue_capacity: m.int_gauge("processor_queue_capacity", "Its limit; -1 without")?,
            enqueued: m.counter("processor_events_enqueued_total", "Events queued")?,
            acked: m.counter("processor_events_acked_total", "Events acked by the sink")?,
            shed: m.counters(
                "processor_events_shed_total",
                "Events shed, by the rule that chose them and by class",
                &["by", "class"],
            )?,
            invalid: m.counters(
                "processor_events_invalid_total",
                "Records that are no event",
                &["reason"],
            )?,
            returned: m.counter(
                "processor_events_returned_total",
                "Fetched events given up on revoke or stop; still in the log",
            )?,
            aside: m.int_gauge(
                "processor_events_aside",
                "Events that the sink fails for over and over: tried again by themselves",
            )?,
            lost: m.counters(
                "processor_events_lost_total",
                "Offsets that were not there to be fetched",
                &["reason"],
            )?,
            evictions: m.counter(
                "processor_evictions_total",
                "Times the group took the partitions away from a slow member",
            )?,
            rebalances: m.counter("processor_rebalances_total", "Assignments and revocations")?,
            partitions: m.int_gauge("processor_partitions", "Partitions assigned now")?,
            commits: m.counters("processor_commits_total", "Offset commits", &["result"])?,
            committable: m.int_gauges(
                "processor_committable_offset",
                "All offsets below it are acked",
                &["partition"],
            )?,
            position: m.int_gauges(
                "processor_position_offset",
                "The next offset to fetch",
                &["partition"],
            )?,
            high_watermark: m.int_gauges(
                "processor_high_watermark_offset",
                "The high watermark as of the last fetch; its derivative is what is written to the log",
                &["partition"],
            )?,
            lag: m.int_gauges(
                "processor_lag_events",
                "High watermark less committed offset",
                &["partition"],
            )?,
            fetch_retries: m.counter("processor_fetch_retries_total", "Fetches tried again")?,
            sink_calls: m.counters(
                "processor_sink_calls_total",
                "Calls of the sink",
                &["result"],
            )?,
            batch_limit: m.int_gauge(
                "processor_batch_limit_events",
                "Events that a batch may have now",
            )?,
            oldest_batch: m.gauge(
                "processor_oldest_batch_seconds",
                "Age of the oldest batch that asked for a call and is not served yet",
            )?,
            sink_up: m.int_gauge(
                "processor_sink_up",
                "Whether the sink answered the last call that ended",
            )?,
            granted_rate: m.gauge(
                "processor_granted_rate",
                "Rate granted to the producer, events/s; -1 without slow-source",
            )?,
            granted_events: m.int_gauge(
                "processor_granted_events",
                "Events of this epoch granted to the producer; -1 without credit",
            )?,
            grants: m.counters("processor_grants_total", "Grants of credit", &["result"])?,
            end_to_end: m.histogram("end_to_end_latency_seconds", "Due to acked by the sink")?,
            latency_quantiles: m.gauges(
                "latency_quantile_seconds",
                "Quantiles of the last 10 s; stage end_to_end is the sum of the others",
                &["stage", "quantile"],
            )?,
            clock_ahead: m.counter(
                "processor_events_clock_ahead_total",
                "Events due later than they were fetched, by clocks that differ: their stage log is 0",
            )?,
            latency_beyond: m.counter(
                "processor_events_latency_beyond_total",
                "Events on their way for more than the hour that quantiles reach to",
            )?,
        })
    }
}
