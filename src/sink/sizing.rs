//! How many events a call may carry: one enum, and one file for each rule that changes the number while it runs.
//!
//! - here       a fixed number; `auto`, which takes what waits
//! - `aimd`     up by one, down by a tenth when a call outlasts the target (Clipper)
//! - `dql`      no more in flight than keeps the sink from starving (Linux)
//! - `debloat`  what is served within the target, by the rate of late (Flink)
//!
//! `auto` needs no rule. A worker that waits for nobody takes what waits when the last call ends: a batch takes the sink
//! no longer than the events in it would have waited anyway, and under load calls last longer, so that more gathers:
//! the batch grows until it carries the load (natural batching). [`SIZE_MAX`] is its only limit.
//!
//! Invariant: a size is at least 1 and at most [`SIZE_MAX`], or the number that was given.

mod aimd;
mod debloat;
mod dql;

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::units;
use aimd::Aimd;
use debloat::Debloat;
use dql::Dql;

/// Most events of a call where a rule chooses: where a call costs as much as nine events, it carries 99 % of what an
/// endless one would.
pub const SIZE_MAX: usize = 1000;

/// What decides the size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizing {
    /// So many events.
    Fixed(usize),
    /// Whatever waits.
    Auto,
    /// See the module; calls should take no longer than this.
    Aimd(Duration),
    /// See the module.
    Dql,
    /// See the module; what is in flight should be served within this time.
    Debloat(Duration),
}

/// A [`Sizing`] as flags name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// [`Sizing::Fixed`].
    Events(usize),
    /// [`Sizing::Auto`].
    Auto,
    /// [`Sizing::Aimd`].
    Aimd,
    /// [`Sizing::Dql`].
    Dql,
    /// [`Sizing::Debloat`].
    Debloat,
}

impl Name {
    /// Reads a number from 1 to 100,000, or the name of a rule.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = [
            ("auto", Self::Auto),
            ("aimd", Self::Aimd),
            ("dql", Self::Dql),
            ("debloat", Self::Debloat),
        ];
        let number = units::count(text).ok().map(std::num::NonZeroUsize::get);
        match number.filter(|events| *events <= 100_000) {
            Some(events) => Ok(Self::Events(events)),
            None => units::one_of(text, &names).map_err(|why| format!("{why}, or 1 to 100000")),
        }
    }

    /// Whether it goes by `--p99-target`.
    pub fn has_target(self) -> bool {
        matches!(self, Self::Aimd | Self::Debloat)
    }

    /// The rule; `target` is for those that have one.
    pub fn with_target(self, target: Duration) -> Sizing {
        match self {
            Self::Events(events) => Sizing::Fixed(events),
            Self::Auto => Sizing::Auto,
            Self::Aimd => Sizing::Aimd(target),
            Self::Dql => Sizing::Dql,
            Self::Debloat => Sizing::Debloat(target),
        }
    }
}

impl Sizing {
    /// Most events of a call, whatever the rule says.
    pub fn events_max(self) -> usize {
        match self {
            Self::Fixed(events) => events,
            _ => SIZE_MAX,
        }
    }
}

/// The rule with its state, shared by all workers.
pub struct Sizer {
    events_max: usize,
    /// None where nothing changes the size.
    rule: Option<Mutex<Rule>>,
}

enum Rule {
    Aimd(Aimd),
    Dql(Dql),
    Debloat(Debloat),
}

impl Sizer {
    /// For so many `workers`, from `now`.
    pub fn new(sizing: Sizing, workers: usize, now: Instant) -> Self {
        let rule = match sizing {
            Sizing::Fixed(_) | Sizing::Auto => None,
            Sizing::Aimd(target) => Some(Rule::Aimd(Aimd::new(target))),
            Sizing::Dql => Some(Rule::Dql(Dql::new(now))),
            Sizing::Debloat(target) => Some(Rule::Debloat(Debloat::new(target, workers, now))),
        };
        Self { events_max: sizing.events_max(), rule: rule.map(Mutex::new) }
    }

    /// Events with which a batch is full; and the most that are posted of it. DQL's limit is passed by what came last, whole:
    /// that it was passed is how it learns that it is too small.
    pub fn full(&self) -> (usize, usize) {
        let Some(rule) = &self.rule else { return (self.events_max, self.events_max) };
        let (size, is_cut) = match &*rule.lock() {
            Rule::Aimd(aimd) => (aimd.size(), true),
            Rule::Dql(dql) => (dql.room(), false),
            Rule::Debloat(debloat) => (debloat.size(), true),
        };
        let full = size.clamp(1, self.events_max);
        (full, if is_cut { full } else { self.events_max })
    }

    /// A call with `events` begins.
    pub fn posted(&self, events: usize) {
        if let Some(rule) = &self.rule
            && let Rule::Dql(dql) = &mut *rule.lock()
        {
            dql.posted(events);
        }
    }

    /// A call with `events` that began at `posted` ended now; the sink acked `acked` of them.
    pub fn answered(&self, events: usize, acked: usize, posted: Instant) {
        if let Some(rule) = &self.rule {
            rule.lock().answered(events, acked, posted, Instant::now());
        }
    }
}

impl Rule {
    fn answered(&mut self, events: usize, acked: usize, posted: Instant, now: Instant) {
        match self {
            Self::Aimd(aimd) => aimd.answered(now.saturating_duration_since(posted)),
            Self::Dql(dql) => dql.answered(events, now),
            Self::Debloat(debloat) => debloat.answered(acked, now),
        }
    }
}

#[cfg(test)]
mod tests;
