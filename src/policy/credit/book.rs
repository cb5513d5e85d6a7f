//! The count of one holder of credit, a processor: what it grants of each epoch. Time and transport are the caller's.
//!
//! Invariant: a grant never falls within an epoch, and window and debt together bound what waits: events of the epoch
//! that are not settled and the events from before it that were seen as it began are at most `window`, or no more is
//! granted. What a fetch did not see yet by then, at most a window, comes on top until the epoch has worked it off.

use std::time::Duration;

use crate::load::credit::{CreditState, Epoch, Grant};

/// How long a grant holds without being renewed: twenty announcements, and twice the longest call.
pub const LEASE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Book {
    holder: String,
    window: u64,
    generation: u64,
    epoch: Option<Epoch>,
    /// Events of the epoch that were acked or given up.
    settled: u64,
    /// Events from before the epoch that still wait.
    debt: u64,
    /// What was granted in the last announcement.
    announced: i64,
}

impl Book {
    /// A holder of this name, which no other one has, that lets `window` events wait.
    pub fn new(holder: String, window: u64) -> Self {
        let (generation, settled, debt, announced) = (0, 0, 0, i64::MIN);
        Self { holder, window, generation, epoch: None, settled, debt, announced }
    }

    /// Its name.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Counts an event that will not come again.
    pub fn settle(&mut self, id: u64, due_us: i64) {
        if self.epoch.is_some_and(|epoch| epoch.has(id, due_us)) {
            self.settled += 1;
        } else {
            self.debt = self.debt.saturating_sub(1);
        }
    }

    /// Other partitions are assigned: what is counted is worth nothing.
    pub fn reassigned(&mut self) {
        self.generation += 1;
        self.epoch = None;
    }

    /// Events of the epoch that may have been sent: it never falls within one. Below 0 while the debt is larger than the
    /// window, which must not be forgotten: it counts against what others grant.
    pub fn granted(&self) -> i64 {
        let signed = |events: u64| i64::try_from(events).unwrap_or(i64::MAX / 4);
        signed(self.settled) + signed(self.window) - signed(self.debt)
    }

    /// Whether more is granted than was announced.
    pub fn has_news(&self) -> bool {
        self.epoch.is_some() && self.granted() > self.announced
    }

    /// The announcement, while `waiting` events are in the log and not settled.
    pub fn announce(&mut self, waiting: u64) -> Grant {
        // What vanished from the log, by retention for one, is no debt.
        self.debt = self.debt.min(waiting);
        self.announced = self.granted();
        Grant {
            holder: self.holder.clone(),
            generation: self.generation,
            epoch: self.epoch.map(|epoch| epoch.at_us),
            granted: self.announced,
            waiting,
            lease_ms: LEASE.as_millis() as u64,
        }
    }

    /// Hears the producer's answer. Nothing of a new epoch is in the log yet: all that is seen to wait is from before.
    pub fn hear(&mut self, state: &CreditState, waiting: u64) {
        if state.epoch != self.epoch {
            (self.epoch, self.settled, self.debt) = (state.epoch, 0, waiting);
            self.announced = i64::MIN;
        }
    }
}
