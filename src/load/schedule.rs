//! When each event is due: the open model. A schedule of rates becomes a piecewise linear curve
//! from time to events due, and back.
//!
//! Invariant: event `n` is due at or before `now` exactly when `n < due_count(now)`; neither ever
//! goes back. Nothing here waits, sends or knows an event: a backlog is a number, since an event
//! is a pure function of its id. Time is a parameter, µs since the epoch.

use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::leases::{Lease, Leases};
use crate::units;

/// Offered rate from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    /// Events/s; 0 is a gap.
    rate: f64,
    /// `None`, in the last step only: until the schedule's end.
    length_us: Option<i64>,
}

/// Rates over time and where they end.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    steps: Vec<Step>,
    /// The sum of the steps, or `--duration` if that is shorter.
    length_us: Option<i64>,
    count_max: Option<u64>,
}

impl Schedule {
    /// One rate, events/s, without end.
    pub fn constant(rate: f64) -> Self {
        Self { steps: vec![Step { rate, length_us: None }], length_us: None, count_max: None }
    }

    /// An `n`th of each rate, at the same times.
    #[must_use]
    pub fn shared_by(mut self, n: u64) -> Self {
        for step in &mut self.steps {
            step.rate /= n as f64;
        }
        self
    }

    /// Ends the schedule after `length`, if it does not end before.
    #[must_use]
    pub fn lasting(mut self, length: Duration) -> Self {
        let length_us = micros(length);
        self.length_us = Some(self.length_us.map_or(length_us, |own| own.min(length_us)));
        self
    }

    /// Ends the schedule after `count` events, if it does not end before.
    #[must_use]
    pub fn counting(mut self, count: u64) -> Self {
        self.count_max = Some(count);
        self
    }

    /// How long it runs, µs; `None` without end or when only a count ends it.
    pub fn length_us(&self) -> Option<i64> {
        self.length_us
    }

    /// Its steps until its end: events/s, and how long, s; `None` when no time ends it.
    pub fn timed_steps(&self) -> Option<Vec<(f64, f64)>> {
        let mut left_us = self.length_us?;
        let steps = self.steps.iter().map(|step| {
            let length_us = step.length_us.map_or(left_us, |own| own.min(left_us));
            left_us -= length_us;
            (step.rate, length_us as f64 / 1e6)
        });
        Some(steps.filter(|(_, s)| *s > 0.0).collect())
    }

    /// The step's rate `at_us` after the start; 0 past the end.
    fn rate_at(&self, at_us: i64) -> f64 {
        if self.length_us.is_some_and(|end| at_us >= end) {
            return 0.0;
        }
        let mut from = 0;
        for step in &self.steps {
            match step.length_us {
                Some(length) if at_us >= from + length => from += length,
                _ => return step.rate,
            }
        }
        0.0
    }

    /// The moments after the start at which the rate may change, in order.
    fn edges(&self) -> impl Iterator<Item = i64> + '_ {
        let edges = self.steps.iter().scan(0, |at, step| {
            *at += step.length_us?;
            Some(*at)
        });
        edges.chain(self.length_us)
    }
}

impl std::str::FromStr for Schedule {
    type Err = String;

    /// `rate:time` steps: `1500:60s,8000:10m`; the last may omit its time. `x20` at the end: all of
    /// them 20 times.
    fn from_str(text: &str) -> Result<Self, String> {
        let last = text.rsplit_once(",x");
        let repeated = last.and_then(|(steps, times)| Some((steps, times.parse::<usize>().ok()?)));
        let (text, times) = repeated.unwrap_or((text, 1));
        let mut steps = Vec::new();
        let mut total_us = Some(0);
        for part in text.split(',') {
            let why = |e: String| format!("step {} ({part:?}): {e}", steps.len() + 1);
            let Some(before) = total_us else {
                return Err(format!(
                    "step {}: only the last step may omit its time (a comma parts steps: three thousand is 3000)",
                    steps.len()
                ));
            };
            let (rate, length) = match part.trim().split_once(':') {
                Some((rate, time)) => (rate, Some(units::duration_above_zero(time).map_err(why)?)),
                None => (part.trim(), None),
            };
            let rate = units::rate_or_zero(rate).map_err(why)?;
            let length_us = length.map(micros);
            total_us = length_us.map(|length| before + length);
            steps.push(Step { rate, length_us });
        }
        if steps.iter().all(|step| step.rate == 0.0) {
            return Err("expected at least one step with a rate above 0".into());
        }
        let in_all = steps.len().saturating_mul(times);
        if !(1..=STEPS_MAX).contains(&in_all) {
            return Err(format!("{in_all} steps in all: allowed: 1 to {STEPS_MAX}"));
        }
        let total_us = match (times, total_us) {
            (1, total) => total,
            // STEPS_MAX years are far from an overflow.
            (_, Some(total)) => Some(total * times as i64),
            (_, None) => return Err(format!("x{times}: each step that is repeated needs a time")),
        };
        Ok(Self { steps: steps.repeat(times), length_us: total_us, count_max: None })
    }
}

/// Most steps of a schedule, repeats included: a change of a lease or of credit draws all of them again.
const STEPS_MAX: usize = 2000;

fn micros(time: Duration) -> i64 {
    // `units::duration` allows a year, 3.2e13 µs.
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

/// A height this close to a whole number of events is that number: f64 rounding, no more.
const SNAP: f64 = 1e-6;
/// Least distance of a new knot above the last event due: well above [`SNAP`], too little to delay
/// anything, and still a distinct f64 at 10^12 events.
const NUDGE: f64 = 1e-3;

/// From this moment on the curve rises with `rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Knot {
    at_us: i64,
    /// Events due before this knot; event `n` belongs to the last knot with `due <= n`.
    due: f64,
    rate: f64,
}

/// A snapshot of the due times, with the changes that are already known. Events are counted from 0,
/// whatever their ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// In order of time and of `due`; never empty.
    knots: Vec<Knot>,
    count_max: u64,
}

impl Curve {
    /// When event `n` is due, µs since the epoch; `None` if the curve never reaches it. `n` must
    /// not be below the cursor that the curve was trimmed to.
    pub fn due_at(&self, n: u64) -> Option<i64> {
        if n < self.count_max { self.reaches(n) } else { None }
    }

    /// When the curve's height is `n`, regardless of the count's limit.
    fn reaches(&self, n: u64) -> Option<i64> {
        let after = self.knots.partition_point(|knot| knot.due <= n as f64);
        let knot = self.knots.get(after.checked_sub(1)?)?;
        if knot.rate == 0.0 {
            return None;
        }
        let wait_us = ((n as f64 - knot.due) / knot.rate * 1e6).ceil() as i64;
        let at_us = knot.at_us.saturating_add(wait_us);
        // Rounding must not carry an event past the knot that ends its segment.
        Some(self.knots.get(after).map_or(at_us, |next| at_us.min(next.at_us)))
    }

    /// How many events are due at `now_us`.
    pub fn due_count(&self, now_us: i64) -> u64 {
        let after = self.knots.partition_point(|knot| knot.at_us <= now_us);
        let mut count = match after.checked_sub(1).and_then(|i| self.knots.get(i)) {
            Some(knot) => knot.due_by(now_us) as u64,
            None => 0,
        };
        // Events due before the first knot are due: `due_at` no longer knows when.
        let floor = self.knots.first().map_or(0.0, |first| first.due.ceil()) as u64;
        count = count.max(floor).min(self.count_max);
        // The estimate is within an event of the exact value, which `due_at` gives.
        while self.due_at(count).is_some_and(|at| at <= now_us) {
            count += 1;
        }
        while count > floor && self.due_at(count - 1).is_none_or(|at| at > now_us) {
            count -= 1;
        }
        count
    }
}

impl Knot {
    /// The curve's height at `at_us`, rounded where it is whole within rounding.
    fn due_by(&self, at_us: i64) -> f64 {
        let due = self.due + (at_us - self.at_us) as f64 * self.rate / 1e6;
        if (due - due.round()).abs() < SNAP { due.round().max(self.due) } else { due }
    }
}

/// The schedule as it runs: it has a start time, slow-source leases may lower its rate, credit may
/// hold it at a position, and it may be stopped early.
///
/// Under leases the rate is the lower of the schedule's and their sum. When they end, the
/// schedule's rate is back. The events that leases or credit held back are not made up for, because
/// the source was slowed, not queued.
#[derive(Debug)]
pub struct Pacer {
    schedule: Schedule,
    start_us: i64,
    stop_us: Option<i64>,
    leases: Leases,
    account: Account,
    curve: Arc<Curve>,
    /// The curve without any lease or limit.
    unleased: Curve,
    /// When the curve is, or will be, at the limit of the credit.
    blocked_us: Option<i64>,
    /// How long it was before, µs.
    was_blocked_us: i64,
}

impl Pacer {
    /// Starts `schedule` at `start_us`.
    pub fn new(schedule: Schedule, start_us: i64) -> Self {
        let count_max = schedule.count_max.unwrap_or(u64::MAX);
        let curve = Curve { knots: Vec::new(), count_max };
        let (unleased, curve) = (curve.clone(), Arc::new(curve));
        let (leases, account) = Default::default();
        let (stop_us, blocked_us, was_blocked_us) = (None, None, 0);
        let mut pacer = Self {
            schedule,
            start_us,
            stop_us,
            leases,
            account,
            curve,
            unleased,
            blocked_us,
            was_blocked_us,
        };
        pacer.unleased.knots = pacer.knots_from(start_us, 0.0);
        pacer.curve = Arc::new(pacer.unleased.clone());
        pacer
    }

    /// The due times as known now.
    pub fn curve(&self) -> Arc<Curve> {
        Arc::clone(&self.curve)
    }

    /// Lowers the rate from `now_us` on; replaces an earlier lease of this holder. Events below
    /// `slowest` will not be asked for again.
    ///
    /// # Errors
    /// As [`Leases::grant`].
    pub fn grant(
        &mut self,
        holder: &str,
        lease: Lease,
        now_us: i64,
        slowest: u64,
    ) -> Result<(), String> {
        self.change(now_us, slowest, |pacer| pacer.leases.grant(holder, lease, now_us))
    }

    /// Ends the lease of `holder`, if it has one.
    pub fn end_lease(&mut self, holder: &str, now_us: i64, slowest: u64) {
        self.change(now_us, slowest, |pacer| pacer.leases.end(holder));
    }

    /// Changes the credit: `apply` gets the account, the time and the events that are due by then.
    pub fn credit<T>(
        &mut self,
        now_us: i64,
        slowest: u64,
        apply: impl FnOnce(&mut Account, i64, u64) -> T,
    ) -> T {
        let now_us = now_us.max(self.start_us);
        let (due, before) = (self.curve.due_count(now_us), self.account.limit());
        let applied = apply(&mut self.account, now_us, due);
        if self.account.limit() != before {
            self.change(now_us, slowest, |_| ());
        }
        applied
    }

    /// Ends the schedule at `now_us`: nothing more becomes due. The first stop counts.
    pub fn stop(&mut self, now_us: i64, slowest: u64) {
        if self.stop_us.is_none() {
            self.change(now_us, slowest, |pacer| pacer.stop_us = Some(now_us));
        }
    }

    /// Whether nothing more can become due after `now_us`.
    pub fn ended(&self, now_us: i64) -> bool {
        let length = self.schedule.length_us.map(|length| self.start_us + length);
        self.stop_us.into_iter().chain(length).any(|end| now_us >= end)
            || self.curve.due_count(now_us) >= self.curve.count_max
    }

    /// How long the schedule has run by `now_us`, s: up to its end and no longer. A count ends it
    /// when the event after the last would be due, so that events ÷ time is its rate.
    pub fn ran_s(&self, now_us: i64) -> f64 {
        if !self.ended(now_us) {
            return (now_us - self.start_us) as f64 / 1e6;
        }
        let length = self.schedule.length_us.map(|length| self.start_us + length);
        let count = self.curve.reaches(self.curve.count_max);
        let end = [self.stop_us, length, count].into_iter().flatten().min();
        (end.unwrap_or(now_us) - self.start_us) as f64 / 1e6
    }

    /// The schedule's rate at `now_us`, events/s; 0 once it has ended.
    pub fn schedule_rate(&self, now_us: i64) -> f64 {
        if self.ended(now_us) { 0.0 } else { self.schedule.rate_at(now_us - self.start_us) }
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// What is offered at `now_us`, events/s: the lower of schedule and leases.
    pub fn rate(&self, now_us: i64) -> f64 {
        if self.ended(now_us) { 0.0 } else { self.offered(now_us) }
    }

    /// The credit.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// How long the schedule has stood for want of credit by `now_us`, µs.
    pub fn blocked_us(&self, now_us: i64) -> i64 {
        let length = self.schedule.length_us.map(|length| self.start_us + length);
        let end_us = self.stop_us.into_iter().chain(length).fold(now_us, i64::min);
        self.was_blocked_us + self.blocked_us.map_or(0, |since| (end_us - since).max(0))
    }

    /// Events that the schedule alone would have made due by `now_us` and leases or credit held back.
    pub fn held_back(&self, now_us: i64) -> u64 {
        let at_us = self.stop_us.map_or(now_us, |stop| stop.min(now_us));
        self.unleased.due_count(at_us).saturating_sub(self.curve.due_count(now_us))
    }

    /// Redraws the curve after `now_us`; what is already due stays as it is.
    fn change<T>(&mut self, now_us: i64, slowest: u64, apply: impl FnOnce(&mut Self) -> T) -> T {
        let now_us = now_us.max(self.start_us);
        let count = self.curve.due_count(now_us) as f64;
        self.was_blocked_us = self.blocked_us(now_us);
        let applied = apply(self);
        let mut past = self.curve.knots.clone();
        past.truncate(past.partition_point(|knot| knot.at_us <= now_us));
        let height = past.last().map_or(0.0, |knot| knot.due_by(now_us));
        // Rounding must move neither the last event due nor the next one across the new knot.
        let height = height.min(count).max(if count > 0.0 { count - 1.0 + NUDGE } else { 0.0 });
        past.drain(..past.partition_point(|knot| knot.due <= slowest as f64).saturating_sub(1));
        let mut knots = self.knots_from(now_us, height);
        // A limit that the last event does not reach holds nothing back.
        let limit = self.account.limit().filter(|limit| *limit < self.curve.count_max);
        self.blocked_us = limit.and_then(|limit| hold(&mut knots, limit as f64));
        past.append(&mut knots);
        self.curve = Arc::new(Curve { knots: past, count_max: self.curve.count_max });
        applied
    }

    /// The knots from `from_us` to the end, if `due` events are due there.
    fn knots_from(&self, from_us: i64, due: f64) -> Vec<Knot> {
        let edges = self.schedule.edges().map(|at| self.start_us + at);
        let mut edges: Vec<i64> =
            edges.chain(self.leases.edges()).filter(|&at| at > from_us).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut knot = Knot { at_us: from_us, due, rate: self.offered(from_us) };
        let mut knots = vec![knot];
        for at_us in edges {
            knot = Knot { at_us, due: knot.due_by(at_us), rate: self.offered(at_us) };
            knots.push(knot);
        }
        knots
    }

    /// As [`Pacer::rate`], but without the count's limit: the curve is made from it.
    fn offered(&self, at_us: i64) -> f64 {
        if self.stop_us.is_some_and(|stop| at_us >= stop) {
            return 0.0;
        }
        let rate = self.schedule.rate_at(at_us - self.start_us);
        self.leases.ceiling(at_us).map_or(rate, |ceiling| ceiling.min(rate))
    }
}

/// Ends the rise of the curve at the height `limit`, where the event of that number would be due; gives when.
fn hold(knots: &mut Vec<Knot>, limit: f64) -> Option<i64> {
    let n = knots.partition_point(|knot| knot.due < limit);
    let next = knots.get(n).map(|knot| knot.at_us);
    let at_us = match n.checked_sub(1).and_then(|before| knots.get(before)) {
        Some(Knot { rate: 0.0, .. }) => return None,
        Some(knot) => {
            let rise_us = ((limit - knot.due) / knot.rate * 1e6).ceil() as i64;
            next.unwrap_or(i64::MAX).min(knot.at_us.saturating_add(rise_us))
        }
        None => next?,
    };
    knots.truncate(n);
    knots.push(Knot { at_us, due: limit, rate: 0.0 });
    Some(at_us)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
