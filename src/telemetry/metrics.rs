//! Every metric's name, unit and meaning, once. Stages hold the handles and count.
//! Prometheus conventions: base units, `_total` for counters.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::allocator::HeapCollector;
use crate::failure::Failure;

/// A registry and its text form.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A registry with the process's own figures (`process_resident_memory_bytes`, …) and the
    /// allocator's (`heap_inuse_bytes`, `heap_resident_bytes`).
    pub fn new() -> Result<Self, Failure> {
        let metrics = Self::default();
        metrics.register(prometheus::process_collector::ProcessCollector::for_self())?;
        metrics.register(HeapCollector::new()?)?;
        Ok(metrics)
    }

    /// Registers a collector and returns it.
    pub fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Failure> {
        self.register(collector.clone())?;
        Ok(collector)
    }

    fn register(&self, collector: impl Collector + 'static) -> Result<(), Failure> {
        self.registry
            .register(Box::new(collector))
            .map_err(|e| Failure::Failed(format!("cannot register a metric: {e}")))
    }

    /// The Prometheus text format.
    pub fn text(&self) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .map_err(|e| Failure::Failed(format!("cannot write the metrics: {e}")))?;
        Ok(out)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Failure> {
        self.add(IntCounter::new(name, help).map_err(Failure::failed)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Failure> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels).map_err(Failure::failed)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Failure> {
        self.add(Gauge::new(name, help).map_err(Failure::failed)?)
    }

    fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, Failure> {
        self.add(IntGauge::new(name, help).map_err(Failure::failed)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Failure> {
        self.add(GaugeVec::new(Opts::new(name, help), labels).map_err(Failure::failed)?)
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Failure> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels).map_err(Failure::failed)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, Failure> {
        // 1 ms to 2,097 s, doubling: at four times the ceiling an event waits for 1,350 s after half an hour.
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 22).map_err(Failure::failed)?;
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.add(Histogram::with_opts(opts).map_err(Failure::failed)?)
    }
}

/// A counter's sum over all its labels.
pub fn sum(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let values = families.iter().flat_map(|f| f.get_metric()).map(|m| m.get_counter().value());
    // Counters of whole events, exact in an f64 up to 2^53.
    values.sum::<f64>() as u64
}

/// The producer's metrics.
#[derive(Clone)]
pub struct ProducerMetrics {
    /// Events acknowledged by the brokers.
    pub sent: IntCounter,
    /// Events due by the schedule so far.
    pub due: IntGauge,
    /// Rate that the schedule (and a slow-source lease) asks for now, events/s.
    pub target_rate: Gauge,
    /// Rate acknowledged over the last second, events/s.
    pub achieved_rate: Gauge,
    /// Due and not yet acknowledged.
    pub backlog: IntGauge,
    /// Rate of the slow-source lease in force, events/s; -1 when there is none.
    pub lease_rate: Gauge,
    /// Produce requests that failed and were sent again.
    pub retries: IntCounter,
    /// Events that were sent again because the sink did not have them.
    pub resent: IntCounter,
    /// Due → acknowledged by the brokers.
    pub latency: Histogram,
}

impl ProducerMetrics {
    /// Registers the producer's metrics.
    pub fn register(m: &Metrics) -> Result<Self, Failure> {
        Ok(Self {
            sent: m.counter("producer_events_sent_total", "Events acknowledged by the brokers")?,
            due: m.int_gauge("producer_events_due", "Events due by the schedule so far")?,
            target_rate: m.gauge("producer_target_rate", "Rate asked for now, events/s")?,
            achieved_rate: m.gauge("producer_achieved_rate", "Rate acknowledged, events/s")?,
            backlog: m.int_gauge("producer_backlog_events", "Events due and not acknowledged")?,
            lease_rate: m.gauge(
                "producer_lease_rate",
                "Rate of the slow-source lease, events/s; -1 without one",
            )?,
            retries: m.counter("producer_retries_total", "Produce requests sent again")?,
            resent: m.counter(
                "producer_events_resent_total",
                "Events sent again because the sink did not have them (--resend-after)",
            )?,
            latency: m.histogram("producer_latency_seconds", "Due to acknowledged by brokers")?,
        })
    }
}

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
                "Largest time between two polls of the group member",
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

/// The sink's metrics.
#[derive(Clone)]
pub struct SinkMetrics {
    /// Requests acknowledged.
    pub writes: IntCounter,
    /// Events acknowledged.
    pub events: IntCounter,
    /// Events whose id was delivered before.
    pub duplicates: IntCounter,
    /// First deliveries with a lower id than their key's last.
    pub order_violations: IntCounter,
    /// Events whose payload does not match their digest.
    pub corrupt: IntCounter,
    /// Requests refused, by status.
    pub rejected: IntCounterVec,
    /// The rate limit in force, tokens/s.
    pub rate_limit: Gauge,
    /// Requests waiting for their tokens.
    pub waiting: IntGauge,
}

impl SinkMetrics {
    /// Registers the sink's metrics.
    pub fn register(m: &Metrics) -> Result<Self, Failure> {
        Ok(Self {
            writes: m.counter("sink_writes_total", "Requests acknowledged")?,
            events: m.counter("sink_events_total", "Events acknowledged")?,
            duplicates: m.counter("sink_duplicates_total", "Events delivered before")?,
            order_violations: m.counter(
                "sink_order_violations_total",
                "First deliveries with a lower id than their key's last",
            )?,
            corrupt: m.counter(
                "sink_corrupt_total",
                "Events delivered whose payload does not match their digest",
            )?,
            rejected: m.counters("sink_rejected_total", "Requests refused", &["status"])?,
            rate_limit: m.gauge("sink_rate_limit", "The limit in force, tokens/s")?,
            waiting: m.int_gauge("sink_waiting_requests", "Requests waiting for tokens")?,
        })
    }

    /// Counts deliveries.
    pub fn count(&self, writes: u64, events: u64, duplicates: u64, violations: u64, corrupt: u64) {
        self.writes.inc_by(writes);
        self.events.inc_by(events);
        self.duplicates.inc_by(duplicates);
        self.order_violations.inc_by(violations);
        self.corrupt.inc_by(corrupt);
    }
}

/// The metrics of the watch. Names as in kafka_exporter, where it has them.
#[derive(Clone)]
pub struct WatchMetrics {
    /// High watermark less committed offset.
    pub lag: IntGaugeVec,
    /// Committed offset.
    pub committed: IntGaugeVec,
    /// High watermark.
    pub end: IntGaugeVec,
    /// Members of the group.
    pub members: IntGaugeVec,
    /// Resident memory of each process that is watched, B.
    pub rss: IntGaugeVec,
    /// CPU time that it has used, s.
    pub cpu: CounterVec,
    /// Whether the last sample read every requested value.
    pub complete: IntGauge,
}

impl WatchMetrics {
    /// Registers the watch's metrics.
    pub fn register(m: &Metrics) -> Result<Self, Failure> {
        Ok(Self {
            lag: m.int_gauges(
                "kafka_consumergroup_lag",
                "Log end offset less committed offset",
                &["consumergroup", "topic", "partition"],
            )?,
            committed: m.int_gauges(
                "kafka_consumergroup_current_offset",
                "Committed offset",
                &["consumergroup", "topic", "partition"],
            )?,
            end: m.int_gauges(
                "kafka_topic_partition_current_offset",
                "Log end offset",
                &["topic", "partition"],
            )?,
            members: m.int_gauges(
                "kafka_consumergroup_members",
                "Members of the group",
                &["consumergroup"],
            )?,
            rss: m.int_gauges(
                "watch_process_resident_memory_bytes",
                "Resident memory of a process that is watched",
                &["process"],
            )?,
            cpu: m.add(
                CounterVec::new(
                    Opts::new("watch_process_cpu_seconds_total", "CPU time that it has used"),
                    &["process"],
                )
                .map_err(Failure::failed)?,
            )?,
            complete: m.int_gauge(
                "watch_last_look_complete",
                "Whether the last look read every requested value",
            )?,
        })
    }
}

/// The metrics of `lab autoscale`.
#[derive(Clone)]
pub struct AutoscaleMetrics {
    /// What its rule wants.
    pub wanted: IntGauge,
    /// Members now.
    pub members: IntGauge,
    /// Lag of the group, events.
    pub lag: Gauge,
    /// Partitions with lag.
    pub lagging: IntGauge,
    /// Events that the group has committed since the start.
    pub delivered: Gauge,
    /// Whether the last member that was tried was taken back.
    pub sink_is_the_limit: IntGauge,
}

impl AutoscaleMetrics {
    /// Registers the metrics of `lab autoscale`.
    pub fn register(m: &Metrics) -> Result<Self, Failure> {
        Ok(Self {
            wanted: m.int_gauge("lab_autoscale_members_wanted", "Members that the rule wants")?,
            members: m.int_gauge(
                "lab_autoscale_members",
                "Copies of the command that run; without a command, members of the group",
            )?,
            lag: m.gauge("lab_autoscale_lag_events", "Lag of the group, all partitions")?,
            lagging: m.int_gauge(
                "lab_autoscale_partitions_with_lag",
                "Partitions that have at least a tenth of the mean lag: more members help nobody",
            )?,
            delivered: m.gauge(
                "lab_autoscale_delivered_events",
                "Events that the group has committed since this program began; its derivative is what is delivered",
            )?,
            sink_is_the_limit: m.int_gauge(
                "lab_autoscale_sink_is_the_limit",
                "Whether the last member that was tried was taken back",
            )?,
        })
    }
}
