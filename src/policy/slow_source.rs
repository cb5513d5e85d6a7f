//! Tells the producer what the sink can take: a small controller on the backlog, and a lease.
//!
//! While there is no congestion the producer is left alone. Once the backlog (log and queue) is
//! half its set point, what the sink serves in [`TARGET`], a lease is granted and renewed:
//! granted = served × (1 + gain × error), error = (set point − backlog) / set point. As the backlog
//! integrates the difference of the rates, the loop is first order with a time constant of
//! `TARGET / GAIN` = 2 s whatever the sink's rate, six times its delay (a period, the linger, a
//! poll): it settles without overshoot. When the backlog is gone the lease is ended.
//!
//! In a group each member has a lease of its own, and the producer adds them up. One that has no congestion
//! follows while another leads: it says what it could take, so that its share is not taken from the source.
//!
//! The lease ends by itself too, so a processor that dies leaves no slow producer behind.

use std::time::{Duration, Instant};

use crate::clock;
use crate::http::client::{CallError, Peer};
use crate::load::rate::{RATE, RateLease, RateState};
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

/// What a member grants.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Grant {
    /// Events/s.
    rate: f64,
    /// Only because another leads.
    follows: bool,
}

/// Decides what to grant; time and transport are the caller's.
#[derive(Debug, Default)]
struct Controller {
    served_rate: f64,
    engaged: bool,
}

impl Controller {
    /// What to grant for what was served in the last period (events/s) and the backlog (events), and whether a
    /// lease of another member leads; `None` while the producer is left alone.
    fn step(&mut self, served: f64, backlog: f64, is_led: bool) -> Option<Grant> {
        self.served_rate += SMOOTHING * (served - self.served_rate);
        let set_point = (self.served_rate * TARGET.as_secs_f64()).max(SET_POINT_MIN);
        let threshold = if self.engaged { RELEASE } else { ENGAGE };
        self.engaged = backlog > threshold * set_point;
        let factor = (1.0 + GAIN * (set_point - backlog) / set_point).max(FACTOR_MIN);
        let rate = (self.served_rate * factor).max(RATE_MIN);
        (self.engaged || is_led).then_some(Grant { rate, follows: !self.engaged })
    }
}

/// The lease of one member, as the producer has it.
struct Leased<'a> {
    producer: &'a Peer,
    /// Nobody else's name: a processor that is started again has another one.
    holder: String,
    last: Option<Grant>,
    /// How many leases led when the producer was last heard of.
    leading: usize,
}

impl<'a> Leased<'a> {
    fn new(producer: &'a Peer) -> Self {
        let holder = format!("{}-{}", std::process::id(), clock::now_us());
        Self { producer, holder, last: None, leading: 0 }
    }

    /// Whether another's leads.
    fn is_led(&self) -> bool {
        let own = self.last.is_some_and(|grant| !grant.follows);
        self.leading > usize::from(own)
    }

    /// Renews the lease, ends it, or asks how things stand.
    fn tell(&mut self, grant: Option<Grant>) -> Result<(), CallError> {
        let told: Result<RateState, CallError> = match (grant, self.last) {
            (Some(Grant { rate, follows }), _) => {
                let (lease_ms, holder) = (LEASE.as_millis() as u64, self.holder.clone());
                self.producer.post(RATE, &RateLease { rate, lease_ms, holder, follows })
            }
            (None, Some(_)) => self.producer.delete(&format!("{RATE}?holder={}", self.holder)),
            (None, None) => self.producer.get(RATE),
        };
        // What was not heard lapses by itself; what leads elsewhere is not known.
        self.last = grant;
        self.leading = told.as_ref().ok().and_then(|state| state.lease).map_or(0, |l| l.leading);
        told.map(drop)
    }
}

/// Renews the producer's lease while there is congestion, by the `backlog` of events, until the run stops.
pub fn run(producer: &Peer, backlog: impl Fn() -> u64, metrics: &ProcessorMetrics, stop: &Stop) {
    let mut controller = Controller::default();
    let mut served_before = metrics.acked.get();
    let mut at = Instant::now();
    let mut lease = Leased::new(producer);
    let mut reachable = true;
    while !stop.wait(PERIOD) {
        let (served, now) = (metrics.acked.get(), Instant::now());
        let rate = (served - served_before) as f64 / now.duration_since(at).as_secs_f64();
        (served_before, at) = (served, now);
        let granted = controller.step(rate, backlog() as f64, lease.is_led());
        metrics.granted_rate.set(granted.map_or(-1.0, |grant| grant.rate));
        let is_of_use = granted.is_some() || lease.last.is_some();
        match (lease.tell(granted), reachable) {
            // A producer that nobody has anything to tell need not be there.
            (Err(_), _) if !is_of_use => {}
            (Err(why), true) => {
                log::warn!(why = why.to_string().as_str(); "producer does not take the rate");
                reachable = false;
            }
            (Ok(()), false) => {
                log::info!("producer takes the rate again");
                reachable = true;
            }
            _ => {}
        }
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
            let granted = controller.step(served, backlog, false);
            rate = granted.map_or(f64::INFINITY, |grant| grant.rate).min(schedule);
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

    /// A group against the fluid model: `shares` of the source's events go to each member, the sink serves what
    /// they have in proportion, a member knows what led one period ago. Gives (rate, backlogs).
    fn group(shares: &[f64], schedule: f64, ceiling: f64, seconds: f64) -> Vec<(f64, Vec<f64>)> {
        let step = PERIOD.as_secs_f64();
        let mut members: Vec<(Controller, f64, Option<Grant>)> =
            shares.iter().map(|_| (Controller::default(), 0.0, None)).collect();
        let (mut rate, mut out) = (schedule, Vec::new());
        for _ in 0..(seconds / step) as usize {
            let leading =
                |grants: &[Option<Grant>]| grants.iter().flatten().filter(|g| !g.follows).count();
            let before: Vec<_> = members.iter().map(|member| member.2).collect();
            let waiting: f64 = members
                .iter()
                .zip(shares)
                .map(|(member, share)| member.1 + share * rate * step)
                .sum();
            for ((controller, backlog, grant), share) in members.iter_mut().zip(shares) {
                let has = *backlog + share * rate * step;
                let served = has * (ceiling * step / waiting).min(1.0);
                *backlog = has - served;
                let own = usize::from(grant.is_some_and(|grant| !grant.follows));
                *grant = controller.step(served / step, *backlog, leading(&before) > own);
            }
            let now: Vec<_> = members.iter().map(|member| member.2).collect();
            let sum: f64 = now.iter().flatten().map(|grant| grant.rate).sum();
            rate = if leading(&now) > 0 { sum.min(schedule) } else { schedule };
            out.push((rate, members.iter().map(|member| member.1).collect()));
        }
        out
    }

    /// Prevents: members that take turns in holding the source down and letting it go; one whose share is taken from
    /// it because it has no congestion of its own.
    #[test]
    fn a_group_settles_at_the_sinks_rate_too_whatever_its_shares() {
        for shares in
            [&[0.5, 0.5][..], &[0.34, 0.33, 0.33], &[0.75, 0.25], &[0.6, 0.3, 0.1], &[1.0, 0.0]]
        {
            let run = group(shares, 8000.0, 2000.0, 90.0);
            let settled = &run[4 * 45..];
            let mean = settled.iter().map(|(rate, _)| rate).sum::<f64>() / settled.len() as f64;
            assert!((mean / 2000.0 - 1.0).abs() < 0.05, "{shares:?}: {mean}");
            for (rate, backlogs) in settled {
                assert!((rate / 2000.0 - 1.0).abs() < 0.15, "{shares:?}: {rate}");
                assert!(backlogs.iter().sum::<f64>() < 4000.0, "{shares:?}: {backlogs:?}");
            }
            for (rate, _) in group(shares, 1500.0, 2000.0, 30.0) {
                assert!((rate - 1500.0).abs() < 1e-9, "{shares:?}: left alone, {rate}");
            }
        }
    }
}
