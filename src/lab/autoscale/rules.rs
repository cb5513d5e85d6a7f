//! When to add a member to a consumer group, and when to take one back.
//!
//! - `marginal` ours: a member stays only if more is delivered with it than without it
//! - `lag`      KEDA's: as many as the lag has thresholds; it asks nothing of the sink
//! - `steps`    by the clock: what a person would do, and what the cost of a rebalance is measured with
//!
//! Invariant: a rule sees looks, one after the other, and nothing else: no clock, no process, no broker. So the rule of a
//! simulation is the rule that runs. Whatever it sees, it wants at least `min` and at most `max` members, and it adds
//! none beyond the partitions that have lag.

pub mod lag;
pub mod marginal;
pub mod steps;

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::lab::stats;

/// How few and how many members there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// At least.
    pub min: NonZeroUsize,
    /// At most.
    pub max: NonZeroUsize,
}

impl Bounds {
    /// The number within the bounds that is nearest to `members`.
    pub fn clamp(self, members: usize) -> usize {
        members.max(self.min.get()).min(self.max.get())
    }
}

/// What a rule sees.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// When, s; it never goes back.
    pub at_s: f64,
    /// Lag of each partition, events.
    pub lags: &'a [i64],
    /// Events delivered so far, in all: what the group has committed.
    pub delivered: f64,
    /// Members that run now.
    pub members: usize,
}

impl Look<'_> {
    /// Events that wait.
    pub fn lag(&self) -> f64 {
        self.lags.iter().map(|lag| (*lag).max(0) as f64).sum()
    }

    /// Partitions that a further member could work on: those with at least a tenth of the mean lag. One that is read
    /// as fast as it is written has the events of a commit interval, which is no lag beside a backlog.
    pub fn lagging(&self) -> usize {
        let least = (LAGGING * self.lag() / self.lags.len().max(1) as f64).max(1.0);
        self.lags.iter().filter(|lag| **lag as f64 >= least).count()
    }
}

/// The share of the mean lag that a partition with lag has at least.
const LAGGING: f64 = 0.1;

/// What a rule says beside its number, once each time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// A member is added.
    Added,
    /// The member that was added stays: events/s before it and with it.
    Kept {
        /// Without it.
        before: f64,
        /// With it.
        after: f64,
    },
    /// It is taken back, for the sink delivers no more to more members: events/s before it and with it.
    SinkIsTheLimit {
        /// Without it.
        before: f64,
        /// With it.
        after: f64,
    },
    /// One more would help nobody: no further partition has lag.
    PartitionsAreTheLimit,
    /// One goes, because nothing waits.
    Fewer,
}

/// What a rule wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Members.
    pub wanted: usize,
    /// What it has to say.
    pub said: Said,
}

/// Which rule, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plan {
    /// See [`marginal`].
    Marginal(marginal::Settings),
    /// See [`lag`].
    Lag(lag::Settings),
    /// See [`steps`].
    Steps(Vec<(usize, f64)>),
}

/// One of the rules, and what it remembers.
pub enum Rule {
    /// See [`marginal`].
    Marginal(marginal::Marginal),
    /// See [`lag`].
    Lag(lag::Proportional),
    /// See [`steps`].
    Steps(steps::Steps),
}

impl Rule {
    /// The rule of a plan, which has seen nothing.
    pub fn new(plan: &Plan, bounds: Bounds) -> Self {
        match plan {
            Plan::Marginal(settings) => Self::Marginal(marginal::Marginal::new(*settings, bounds)),
            Plan::Lag(settings) => Self::Lag(lag::Proportional::new(*settings, bounds)),
            Plan::Steps(steps) => Self::Steps(steps::Steps::new(steps.clone(), bounds)),
        }
    }

    /// What it wants after this look.
    pub fn decide(&mut self, look: &Look<'_>) -> Decision {
        match self {
            Self::Marginal(rule) => rule.decide(look),
            Self::Lag(rule) => rule.decide(look),
            Self::Steps(rule) => rule.decide(look),
        }
    }

    /// Whether a member more was tried and brought nothing, for the load of now.
    pub fn found_the_sink_the_limit(&self) -> bool {
        matches!(self, Self::Marginal(rule) if rule.found_the_sink_the_limit())
    }
}

/// The last looks, as far back as a window.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// (s, delivered, lag), ascending.
    looks: VecDeque<(f64, f64, f64)>,
}

impl Window {
    /// Adds a look, and forgets what is older than `length_s` behind it, but for the last of these.
    fn add(&mut self, look: &Look<'_>, length_s: f64) {
        self.looks.push_back((look.at_s, look.delivered, look.lag()));
        while self.looks.get(1).is_some_and(|second| second.0 <= look.at_s - length_s) {
            self.looks.pop_front();
        }
    }

    fn forget(&mut self) {
        self.looks.clear();
    }

    /// Time from its first look to its last, s.
    fn length_s(&self) -> f64 {
        match (self.looks.front(), self.looks.back()) {
            (Some(first), Some(last)) => last.0 - first.0,
            _ => 0.0,
        }
    }

    /// Events delivered a second: the slope of the line through the looks, because a group commits in steps, and
    /// the difference of two looks has a step too many or too few.
    fn rate(&self) -> f64 {
        let points: Vec<(f64, f64)> = self.looks.iter().map(|look| (look.0, look.1)).collect();
        stats::line(&points).map_or(0.0, |line| line.slope.max(0.0))
    }

    /// The smallest lag in it, events.
    fn least_lag(&self) -> f64 {
        self.looks.iter().map(|look| look.2).fold(f64::INFINITY, f64::min)
    }

    /// The largest.
    fn most_lag(&self) -> f64 {
        self.looks.iter().map(|look| look.2).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests;
