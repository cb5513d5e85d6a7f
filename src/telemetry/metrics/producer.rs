//! The producer's.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::Metrics;
use crate::failure::Failure;

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
    /// Events that may have been sent in all by the credit in force; -1 when there is none.
    pub credit_granted: IntGauge,
    /// Of them, those that are not due yet; -1 when there is none.
    pub credit_left: IntGauge,
    /// Time for which the schedule stood for want of credit, s.
    pub credit_blocked: Gauge,
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
            credit_granted: m.int_gauge(
                "producer_credit_granted_events",
                "Events that may have been sent in all by the credit in force; -1 without one",
            )?,
            credit_left: m.int_gauge(
                "producer_credit_left_events",
                "Events that may be sent before another grant must come; -1 without credit",
            )?,
            credit_blocked: m.gauge(
                "producer_credit_blocked_seconds",
                "Time for which the schedule stood for want of credit",
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
