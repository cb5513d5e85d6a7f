//! Tells the producer what the sink can take: a small controller on the backlog, and a lease.
//!
//! While there is no congestion the producer is left alone. Once the backlog (log and queue) is
//! half its set point, what the sink serves in [`TARGET`], a lease is granted and renewed:
//! granted = served × (1 + gain × error), error = (set point − backlog) / set point. As the backlog
//! integrates the difference of the rates, the loop is first order with a time constant of
//! `TARGET / GAIN` = 2 s whatever the sink's rate, six times its delay (a period, the linger, a
//! poll): it settles without overshoot. When the backlog is gone the lease is ended.
//!
//! The lease ends by itself too, so a processor that dies leaves no slow producer behind.

use std::time::{Duration, Instant};

use crate::http::client::{CallError, Peer};
use crate::load::rate::{RATE, RateLease, RateState};
use crate::source::Assignment;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;

/// How often the grant is renewed.
const PERIOD: Duration = Duration::from_millis(250);

/// Longest call of the producer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a grant holds without being renewed: eight missed renewals.
const LEASE: Duration = Duration::from_secs(2);

/// The backlog that is aimed at, as time to serve it: enough that the sink never starves between
/// two renewals, little enough that latency stays near it.
pub const TARGET: Duration = Duration::from_secs(1);

/// Smallest set point, events: below it, batches in flight alone would look like congestion.
const SET_POINT_MIN: f64 = 1000.0;

/// The lease is granted above this share of the set point, and ended below the other.
const ENGAGE: f64 = 0.5;
const RELEASE: f64 = 0.05;

/// Share of the served rate by which the grant may exceed it while there is little backlog.
const GAIN: f64 = 0.5;

/// The grant never falls below this share of the served rate, nor below `RATE_MIN` events/s: a
/// source that is stopped altogether could not show that the sink recovered.
const FACTOR_MIN: f64 = 0.1;
const RATE_MIN: f64 = 10.0;

/// Weight of the newest period in the served rate: a memory of about 1 s.
const SMOOTHING: f64 = 0.25;

/// Decides what to grant; time and transport are the caller's.
#[derive(Debug, Default)]
struct Controller {
    served_rate: f64,
    engaged: bool,
}

impl Controller {
    /// The rate to grant, events/s, for what was served in the last period (events/s) and the
    /// backlog (events); `None` while the producer is left alone.
    fn step(&mut self, served: f64, backlog: f64) -> Option<f64> {
        self.served_rate += SMOOTHING * (served - self.served_rate);
        let set_point = (self.served_rate * TARGET.as_secs_f64()).max(SET_POINT_MIN);
        let threshold = if self.engaged { RELEASE } else { ENGAGE };
        self.engaged = backlog > threshold * set_point;
        let factor = (1.0 + GAIN * (set_point - backlog) / set_point).max(FACTOR_MIN);
        self.engaged.then(|| (self.served_rate * factor).max(RATE_MIN))
    }
}

/// Renews the producer's lease while there is congestion, until the run stops.
pub fn run(producer: &Peer, assignment: &Assignment, metrics: &ProcessorMetrics, stop: &Stop) {
    let mut controller = Controller::default();
    let mut served_before = metrics.acked.get();
    let mut at = Instant::now();
    let mut leased = false;
    let mut reachable = true;
    while !stop.wait(PERIOD) {
        let (served, now) = (metrics.acked.get(), Instant::now());
        let rate = (served - served_before) as f64 / now.duration_since(at).as_secs_f64();
        (served_before, at) = (served, now);
        let granted = controller.step(rate, assignment.backlog() as f64);
        metrics.granted_rate.set(granted.unwrap_or(-1.0));
        let told: Result<RateState, CallError> = match granted {
            Some(rate) => {
                producer.post(RATE, &RateLease { rate, lease_ms: LEASE.as_millis() as u64 })
            }
            None if leased => producer.delete(RATE),
            None => continue,
        };
        leased = granted.is_some();
        match (&told, reachable) {
            (Err(why), true) => {
                log::warn!(why = why.to_string().as_str(); "producer does not take the rate");
            }
            (Ok(_), false) => log::info!("producer takes the rate again"),
            _ => {}
        }
        reachable = told.is_ok();
    }
    metrics.granted_rate.set(-1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loop against the fluid model: source min(schedule, grant), sink `ceiling(t)`.
    fn simulate(schedule: f64, ceiling: impl Fn(f64) -> f64, seconds: f64) -> Vec<(f64, f64)> {
        let step = PERIOD.as_secs_f64();
        let (mut controller, mut backlog, mut rate) = (Controller::default(), 0.0_f64, schedule);
        let mut out = Vec::new();
        for n in 0..(seconds / step) as usize {
            let served = ceiling(n as f64 * step).min(rate + backlog / step);
            backlog = (backlog + (rate - served) * step).max(0.0);
            rate = controller.step(served, backlog).unwrap_or(f64::INFINITY).min(schedule);
            out.push((rate, backlog));
        }
        out
    }

    #[test]
    fn the_source_settles_at_the_sinks_rate_within_seconds() {
        let run = simulate(8000.0, |_| 2000.0, 60.0);
        for (rate, backlog) in &run[40..] {
            assert!((rate / 2000.0 - 1.0).abs() < 0.10, "rate {rate} 10 s after the start");
            assert!((backlog / 2000.0 - 1.0).abs() < 0.5, "backlog {backlog}");
        }
    }

    #[test]
    fn a_source_below_the_ceiling_is_left_alone() {
        for (rate, _) in simulate(1500.0, |_| 2000.0, 30.0) {
            assert!((rate - 1500.0).abs() < 1e-9, "{rate}");
        }
    }

    #[test]
    fn after_a_stall_the_source_is_back_within_seconds() {
        let run = simulate(8000.0, |t| if (20.0..50.0).contains(&t) { 0.0 } else { 2000.0 }, 90.0);
        let (stalled, _) = run[4 * 45];
        assert!(stalled <= 20.0, "a trickle while the sink stands: {stalled}");
        let (recovered, _) = run[4 * 65];
        assert!(recovered > 1800.0, "15 s after the stall: {recovered}");
    }
}
