//! The fluid model: events as a liquid, offered at λ(t), served at μ(t), held in a queue of some
//! capacity and, beyond it, in the log. Exact for piecewise-constant rates, no integration step.
//!
//! Invariant: offered = served + queue + log at every instant. These are pure functions without any
//! measurement, so a prediction is the same before a run and after it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

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

    /// The same, but `rate` from `from` to `to`, s: a sink that stalls and comes back.
    #[must_use]
    pub fn but(mut self, rate: f64, from: f64, to: f64) -> Self {
        let after = self.at(to);
        self.steps.retain(|&(start, _)| start < from || start > to);
        self.steps.extend([(from, rate), (to, after)].iter().filter(|(at, _)| at.is_finite()));
        self.steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        self
    }

    /// The part of this rate that enters a place of `room` events before `ceiling`, if events that
    /// come while the place is full are dropped: its own rate, and the ceiling's while the place is
    /// full.
    #[must_use]
    pub fn admitted(&self, ceiling: &Self, room: f64) -> Self {
        let mut edges: Vec<f64> = self.edges().chain(ceiling.edges()).collect();
        edges.sort_by(f64::total_cmp);
        edges.dedup();
        let (mut steps, mut held) = (Vec::new(), 0.0_f64);
        let ends = edges.iter().skip(1).copied().chain([f64::INFINITY]);
        for (from, to) in edges.iter().copied().zip(ends) {
            let (rate, served) = (self.at(from), ceiling.at(from));
            let slope = rate - served;
            let full = from + (room - held) / slope;
            if slope > 0.0 && full < to {
                if full > from {
                    steps.push((from, rate));
                }
                steps.push((full, served));
                held = room;
            } else {
                steps.push((from, rate));
                // The last step has no end, and its value of `held` is not used.
                held = (held + slope * (to - from)).max(0.0);
            }
        }
        Self { steps, end_s: self.end_s }
    }

    /// This rate until `at` s, and `after` from then on.
    #[must_use]
    pub fn until(&self, at: f64, after: &Self) -> Self {
        let mut steps = self.steps.clone();
        steps.retain(|(start, _)| *start < at);
        steps.push((at, after.at(at)));
        steps.extend(after.steps.iter().filter(|(start, _)| *start > at));
        Self { steps, end_s: after.end_s }
    }

    /// When the rate changes, s; from 0 on, ascending.
    pub fn edges(&self) -> impl Iterator<Item = f64> + '_ {
        self.steps.iter().map(|step| step.0)
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

/// A time in which a rate holds: a step of the offered load, or a stall of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Events/s.
    pub rate: f64,
    /// Start, s from the schedule's.
    pub from: f64,
    /// End, s from the schedule's start.
    pub to: f64,
}

impl Phase {
    /// No phase.
    pub const NONE: Self = Self { rate: 0.0, from: 0.0, to: 0.0 };

    /// How long it lasts, s.
    pub fn length(self) -> f64 {
        self.to - self.from
    }

    /// The phase without its first `skip` s, in which the change of load still shows, and without
    /// its last second, in which the next change may.
    #[must_use]
    pub fn settled(self, skip: f64) -> Self {
        let to = self.to - 1.0;
        Self { from: (self.from + skip).min(to), to, ..self }
    }

    /// `200@600s:90s`: a rate, when it begins, how long it lasts.
    ///
    /// # Errors
    /// What is expected, and what is wrong with the part.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = "expected RATE@AT:TIME such as 200@600s:90s";
        let (rate, when) = text.split_once('@').ok_or(shape)?;
        let (at, time) = when.split_once(':').ok_or(shape)?;
        let why = |e: String| format!("{shape} ({e})");
        let from = units::duration(at).map_err(why)?.as_secs_f64();
        let time = units::duration_above_zero(time).map_err(why)?.as_secs_f64();
        Ok(Self { rate: units::rate_or_zero(rate).map_err(why)?, from, to: from + time })
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

/// A backlog over time as the corners of its line: (s, events).
#[derive(Debug, Clone, PartialEq)]
pub struct Course(Vec<(f64, f64)>);

impl Course {
    /// Of `offered` less `ceiling`, from 0 to `until` s.
    pub fn of(offered: &Rates, ceiling: &Rates, until: f64) -> Self {
        let mut edges: Vec<f64> =
            offered.edges().chain(ceiling.edges()).filter(|&edge| edge < until).collect();
        edges.push(until);
        edges.sort_by(f64::total_cmp);
        edges.dedup();
        let mut corners = vec![(0.0, 0.0)];
        let (mut from, mut held) = (0.0, 0.0);
        for to in edges.into_iter().filter(|&edge| edge > 0.0) {
            let slope = offered.at(from) - ceiling.at(from);
            let end = held + slope * (to - from);
            if end < 0.0 && held > 0.0 {
                corners.push((from - held / slope, 0.0)); // it is gone before `to`
            }
            (from, held) = (to, end.max(0.0));
            corners.push((from, held));
        }
        Self(corners)
    }

    /// The corners of the line.
    pub fn corners(&self) -> &[(f64, f64)] {
        &self.0
    }

    /// The backlog at `t` s; after its end the last value.
    pub fn at(&self, t: f64) -> f64 {
        let after = self.0.partition_point(|corner| corner.0 <= t);
        match (after.checked_sub(1).and_then(|last| self.0.get(last)), self.0.get(after)) {
            (Some(&a), Some(&b)) => a.1 + (b.1 - a.1) * (t - a.0) / (b.0 - a.0),
            (Some(a), None) => a.1,
            (None, _) => 0.0,
        }
    }

    /// Whether nothing waits at `t` s, nor did just before.
    pub fn is_idle(&self, t: f64) -> bool {
        let after = self.0.partition_point(|corner| corner.0 < t);
        let before = after.checked_sub(1).and_then(|last| self.0.get(last));
        self.at(t) <= 0.0 && before.is_none_or(|corner| corner.1 <= 0.0)
    }

    /// The largest backlog, and when.
    pub fn peak(&self) -> (f64, f64) {
        self.0.iter().copied().fold((0.0, 0.0), |a, b| if b.1 > a.1 { b } else { a })
    }

    /// When it first rises to `level`, s.
    pub fn rises_to(&self, level: f64) -> Option<f64> {
        self.lines().find(|(a, b)| a.1 <= level && level < b.1).map(|(a, b)| crossing(a, b, level))
    }

    /// When it first is down to `level` at or after `from` s.
    pub fn falls_to(&self, level: f64, from: f64) -> Option<f64> {
        let down = self.lines().find(|(a, b)| b.0 > from && b.1 <= level && a.1 > b.1);
        down.map(|(a, b)| crossing(a, b, level).max(from))
    }

    fn lines(&self) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + '_ {
        self.0.iter().copied().zip(self.0.iter().copied().skip(1))
    }
}

/// Where the line from `a` to `b`, which is not level, is at `level`.
fn crossing(a: (f64, f64), b: (f64, f64), level: f64) -> f64 {
    a.0 + (b.0 - a.0) * (level - a.1) / (b.1 - a.1)
}

/// Events/s of a sink that gives `rate_limit` tokens/s and takes `call_cost` for a call and
/// `event_cost` for each of its `batch` events.
pub fn ceiling(rate_limit: f64, call_cost: f64, event_cost: f64, batch: f64) -> f64 {
    rate_limit * batch / (call_cost + event_cost * batch)
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

/// The share of a target of seconds that is left for the way to the queue and out of it.
pub const TIMELY_REST: f64 = 0.05;

/// Events that a queue may hold so that the last of them is acked within `time_s`, by Little's law: as many as are
/// served meanwhile at `rate`, less the `in_flight` events that workers hold when it comes, and as many that are served
/// before its own batch: workers take turns at the sink.
pub fn timely_capacity(rate: f64, time_s: f64, in_flight: f64) -> f64 {
    rate * time_s - 2.0 * in_flight
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

/// The result of a sink's stall.
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
            (Rates::constant(1500.0), Rates::constant(2000.0).but(200.0, 60.0, 150.0));
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
    fn a_course_has_a_corner_wherever_the_backlog_bends() {
        let offered = Rates::schedule([(1500.0, S(600))]);
        let ceiling = Rates::constant(2000.0).but(200.0, 60.0, 150.0);
        let course = Course::of(&offered, &ceiling, 600.0);
        let bends = [(0.0, 0.0), (60.0, 0.0), (150.0, 117_000.0), (384.0, 0.0), (600.0, 0.0)];
        assert_eq!(course.corners(), bends);
        assert_eq!(course.peak(), (150.0, 117_000.0));
        let at: Vec<f64> = [0.0, 60.0, 70.0, 150.0, 152.0, 700.0].map(|t| course.at(t)).into();
        assert_eq!(at, [0.0, 0.0, 13_000.0, 117_000.0, 116_000.0, 0.0]);
        let idle = [0.0, 60.0, 61.0, 384.0, 385.0].map(|t| course.is_idle(t));
        assert_eq!(idle, [true, true, false, false, true], "at 384 s the last one is served");
        assert_eq!(course.rises_to(13_000.0), Some(70.0));
        assert_eq!(course.rises_to(117_001.0), None);
        assert_eq!(course.falls_to(0.0, 150.0), Some(384.0));
        assert_eq!(course.falls_to(0.0, 384.0), None, "it has been there before");
    }

    #[test]
    fn what_a_full_place_does_not_take_is_dropped() {
        let offered = Rates::schedule([(1500.0, S(20)), (8000.0, S(60)), (1000.0, S(20))]);
        let ceiling = Rates::constant(2000.0);
        let admitted = offered.admitted(&ceiling, 12_000.0);
        // 12,000 events of room are full after 2 s at 6,000/s.
        let at = [0.0, 21.0, 22.0, 79.9, 80.0, 100.0].map(|t| admitted.at(t));
        assert_eq!(at, [1500.0, 8000.0, 2000.0, 2000.0, 1000.0, 0.0]);
        assert_eq!(Course::of(&admitted, &ceiling, 200.0).peak(), (22.0, 12_000.0));
        assert_eq!(offered.total(100.0) - admitted.total(100.0), 6000.0 * 58.0);
        // While it stays full a stall drops more, and after it there is room again only by what is served.
        let stalled = ceiling.clone().but(0.0, 40.0, 50.0);
        let admitted = offered.admitted(&stalled, 12_000.0);
        assert_eq!(admitted.at(45.0), 0.0);
        assert_eq!(Course::of(&admitted, &stalled, 200.0).peak().1, 12_000.0);
        assert_eq!(offered.admitted(&ceiling, f64::INFINITY), offered);
    }

    #[test]
    fn stalls_lie_over_each_other_and_one_without_end_never_ends() {
        let twice = Rates::constant(10.0).but(1.0, 5.0, 15.0).but(0.0, 10.0, f64::INFINITY);
        let at: Vec<f64> = [0.0, 5.0, 9.9, 10.0, 1e9].map(|t| twice.at(t)).into();
        assert_eq!(at, [10.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_ceiling_with_a_calls_cost_is_the_designs() {
        for (batch, thousands) in [(1.0, 2.0), (50.0, 16.9), (200.0, 19.1), (1000.0, 19.8)] {
            let rate = ceiling(2000.0, 0.9, 0.1, batch);
            assert!((rate / 1e3 - thousands).abs() < 0.06, "{batch}: {rate}");
        }
        assert_eq!(ceiling(2000.0, 0.0, 1.0, 200.0), 2000.0);
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
            let last = Course::of(&offered, &ceiling, t).corners().last().copied();
            prop_assert!(last.is_some_and(|(_, end)| (end - held).abs() <= 1e-6 * (1.0 + held)));
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
