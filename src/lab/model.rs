//! The fluid model: events as a liquid, offered at λ(t), served at μ(t), held in a queue of some
//! capacity and, beyond it, in the log. Exact for piecewise-constant rates, no integration step.
//!
//! Invariant: offered = served + queue + log at every instant. Pure functions: nothing here has
//! seen a measurement, so what it says before a run it also says after it.

use std::time::Duration;

/// A rate over time in events/s, constant between steps; the last rate holds on.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// (start s, events/s), the first from 0, in ascending order.
    steps: Vec<(f64, f64)>,
    end_s: f64,
}

impl Rates {
    /// The same rate for ever.
    pub fn constant(rate: f64) -> Self {
        Self { steps: vec![(0.0, rate)], end_s: f64::INFINITY }
    }

    /// One rate after the other, nothing after the last: a producer's schedule.
    pub fn schedule(steps: impl IntoIterator<Item = (f64, Duration)>) -> Self {
        let mut start = 0.0;
        let mut out = Vec::new();
        for (rate, time) in steps {
            out.push((start, rate));
            start += time.as_secs_f64();
        }
        out.push((start, 0.0));
        Self { steps: out, end_s: start }
    }

    /// `rate`, but `stalled` for `time` from `at`: a sink that stalls and comes back.
    pub fn with_stall(rate: f64, stalled: f64, at: Duration, time: Duration) -> Self {
        let (from, to) = (at.as_secs_f64(), (at + time).as_secs_f64());
        Self { steps: vec![(0.0, rate), (from, stalled), (to, rate)], end_s: f64::INFINITY }
    }

    /// When a schedule ends, s; infinite for a rate that holds on.
    pub fn end_s(&self) -> f64 {
        self.end_s
    }

    /// The rate at `t` s.
    pub fn at(&self, t: f64) -> f64 {
        self.steps.iter().rev().find(|(start, _)| *start <= t).map_or(0.0, |(_, rate)| *rate)
    }

    /// Events from 0 to `t` s.
    pub fn total(&self, t: f64) -> f64 {
        let ends = self.steps.iter().skip(1).map(|s| s.0).chain([f64::INFINITY]);
        self.steps
            .iter()
            .zip(ends)
            .filter(|((start, _), _)| *start < t)
            .map(|((start, rate), end)| rate * (end.min(t) - start))
            .sum()
    }

    /// When the `n`th event was offered, s: the inverse of [`Rates::total`]. `None` when fewer
    /// than `n` ever are.
    pub fn when(&self, n: f64) -> Option<f64> {
        let mut before = 0.0;
        let ends = self.steps.iter().skip(1).map(|s| s.0).chain([f64::INFINITY]);
        for ((start, rate), end) in self.steps.iter().zip(ends) {
            // Written so that a rate of 0 for ever is not 0 × ∞.
            if *rate > 0.0 && before + rate * (end - start) >= n {
                return Some(start + (n - before) / rate);
            }
            if end.is_finite() {
                before += rate * (end - start);
            }
        }
        None
    }
}

/// Events offered and not yet served at `t` s: the consumer lag, wherever they wait.
pub fn backlog(offered: &Rates, ceiling: &Rates, t: f64) -> f64 {
    let mut edges: Vec<f64> =
        offered.steps.iter().chain(&ceiling.steps).map(|s| s.0).filter(|&s| s < t).collect();
    edges.push(t);
    edges.sort_by(f64::total_cmp);
    let (mut from, mut held) = (0.0, 0.0_f64);
    for to in edges {
        // Between two edges both rates are constant, so the backlog is a straight line that
        // stops at 0.
        held = (held + (offered.at(from) - ceiling.at(from)) * (to - from)).max(0.0);
        from = to;
    }
    held
}

/// The part of a backlog that a queue of `capacity` events holds (`INFINITY`: unbounded, 0:
/// pull); the rest waits in the log.
pub fn queued(backlog: f64, capacity: f64) -> f64 {
    backlog.min(capacity)
}

/// Resident bytes with `queue` events of `event_bytes` each in memory, over `base_bytes`.
pub fn rss_bytes(base_bytes: f64, event_bytes: f64, queue: f64) -> f64 {
    base_bytes + event_bytes * queue
}

/// How long the last of `queue` events waits at `service_rate` events/s, s.
pub fn sojourn_s(queue: f64, service_rate: f64) -> f64 {
    queue / service_rate
}

/// How long the event that is served at `t` s has waited since it was offered, s; `None` before
/// anything was offered.
pub fn wait_s(offered: &Rates, ceiling: &Rates, t: f64) -> Option<f64> {
    let served = offered.total(t) - backlog(offered, ceiling, t);
    Some(t - offered.when(served)?)
}

/// When an unbounded queue reaches `limit_bytes`, s from the start of the overload; `None` when
/// the service keeps up.
pub fn oom_s(
    limit_bytes: f64,
    base_bytes: f64,
    event_bytes: f64,
    offered: f64,
    ceiling: f64,
) -> Option<f64> {
    let growth = event_bytes * (offered - ceiling);
    (growth > 0.0).then(|| (limit_bytes - base_bytes).max(0.0) / growth)
}

/// What a sink's stall leaves behind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stall {
    /// Events waiting when it ends.
    pub peak: f64,
    /// From its end until the backlog is gone, s; infinite when the service only just keeps up.
    pub recovery_s: f64,
}

/// A sink of `ceiling` events/s that serves only `stalled` for `time`, offered `offered`.
pub fn stall(offered: f64, ceiling: f64, stalled: f64, time: Duration) -> Stall {
    let peak = ((offered - stalled) * time.as_secs_f64()).max(0.0);
    let spare = ceiling - offered;
    let recovery_s = if spare > 0.0 { peak / spare } else { f64::INFINITY };
    Stall { peak, recovery_s: if peak == 0.0 { 0.0 } else { recovery_s } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_designs_own_stall_figures() {
        let at_75 = stall(1500.0, 2000.0, 200.0, S(90));
        assert_eq!((at_75.peak, at_75.recovery_s), (117_000.0, 234.0));
        // 80 % of the ceiling: past the five-minute target.
        assert_eq!(stall(1600.0, 2000.0, 200.0, S(90)).recovery_s, 315.0);
        // No spare capacity, no recovery: a division by 0 must not come out as 0.
        assert_eq!(stall(2000.0, 2000.0, 200.0, S(90)).recovery_s, f64::INFINITY);
        assert_eq!(stall(100.0, 2000.0, 200.0, S(90)).recovery_s, 0.0);
    }

    #[test]
    fn the_backlog_over_time_agrees_with_the_stalls_closed_form() {
        let (offered, ceiling) =
            (Rates::constant(1500.0), Rates::with_stall(2000.0, 200.0, S(60), S(90)));
        assert_eq!(backlog(&offered, &ceiling, 60.0), 0.0);
        assert_eq!(backlog(&offered, &ceiling, 150.0), 117_000.0);
        assert!(backlog(&offered, &ceiling, 150.0 + 233.0) > 0.0);
        assert_eq!(backlog(&offered, &ceiling, 150.0 + 234.0), 0.0);
    }

    #[test]
    fn overload_climbs_at_the_difference_and_waits_three_quarters_of_its_age() {
        let offered = Rates::schedule([(1500.0, S(20)), (8000.0, S(60))]);
        let ceiling = Rates::constant(2000.0);
        assert_eq!(offered.end_s(), 80.0);
        assert_eq!(backlog(&offered, &ceiling, 20.0), 0.0);
        assert_eq!(backlog(&offered, &ceiling, 80.0), 360_000.0);
        // 60 s in, 120,000 are served; the 120,000th was offered 15 s in.
        let wait = wait_s(&offered, &ceiling, 80.0).expect("served");
        assert!((wait - 45.0).abs() < 1e-9, "{wait}");
        // After the end of the schedule it drains at 2,000/s: 180 s.
        assert_eq!(backlog(&offered, &ceiling, 260.0), 0.0);
        assert!(backlog(&offered, &ceiling, 259.0) > 0.0);
    }

    #[test]
    fn oom_time_is_the_headroom_over_the_growth() {
        // 594 B an event at 6,000/s: 3.56 MB/s; 256 MB less 20 MB lasts 66 s.
        let s = oom_s(256e6, 20e6, 594.0, 8000.0, 2000.0).expect("overload");
        assert!((s - 236e6 / (594.0 * 6000.0)).abs() < 1e-9);
        assert_eq!(oom_s(256e6, 20e6, 594.0, 1500.0, 2000.0), None);
    }

    proptest! {
        // Guards the sum: offered = served + queue + log, and nothing below 0, at any time and
        // whatever the steps.
        #[test]
        fn nothing_appears_or_vanishes(
            steps in proptest::collection::vec((0u32..10_000, 1u64..100), 1..6),
            ceiling in 1u32..5000, capacity in 0u32..50_000, t in 0.0f64..700.0,
        ) {
            let offered = Rates::schedule(steps.iter().map(|&(r, s)| (f64::from(r), S(s))));
            let ceiling = Rates::constant(f64::from(ceiling));
            let held = backlog(&offered, &ceiling, t);
            let queue = queued(held, f64::from(capacity));
            let (log, served) = (held - queue, offered.total(t) - held);
            prop_assert!(log >= 0.0 && queue >= 0.0 && served >= -1e-6);
            prop_assert!(served <= ceiling.total(t) + 1e-6);
            if let Some(due) = offered.when(served) {
                prop_assert!(due <= t + 1e-6, "served at {t} before it was offered at {due}");
            }
        }
    }
}
