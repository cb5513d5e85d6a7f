//! Of the lab's own commands: the watch, and the autoscaler.

use prometheus::{CounterVec, Gauge, IntGauge, IntGaugeVec, Opts};

use super::Metrics;
use crate::failure::Failure;

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
                "High watermark less committed offset (for a reader of committed events, last stable offset)",
                &["consumergroup", "topic", "partition"],
            )?,
            committed: m.int_gauges(
                "kafka_consumergroup_current_offset",
                "Committed offset",
                &["consumergroup", "topic", "partition"],
            )?,
            end: m.int_gauges(
                "kafka_topic_partition_current_offset",
                "High watermark (for a reader of committed events, last stable offset)",
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
                "Whether a member more was tried and taken back, for the load of now",
            )?,
        })
    }
}
