//! The sink's.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use crate::failure::Failure;

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
            rejected: m.counters(
                "sink_rejected_total",
                "Requests that the sink refused; its server turns others away",
                &["status"],
            )?,
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
