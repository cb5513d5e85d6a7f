//! The producer's account of credit: how far its holders, the processors of a group, let it send.
//!
//! Invariant: while a holder's grant is in force, no event at or above the limit is due. The limit is the first event
//! of the epoch and what all holders grant of it; while one of them has not granted in this epoch yet, it is the first
//! event itself. So a limit never falls within an epoch, whatever grants are lost, doubled or late.
//!
//! An epoch begins where the counts of the holders are worth nothing: one is new, has another assignment, is gone, or
//! what was sent is nowhere any more (`HEAL`). Without a holder there is no limit: a processor that dies leaves
//! no stopped source behind. Time is a parameter, µs since the epoch; ids and the network are the caller's.

use std::collections::BTreeMap;

use super::credit::Grant;
use super::leases::HOLDERS_MAX;

/// Without credit, and with nothing in the log or on the way to it, the counts must have lost something: after this
/// time an epoch begins. It doubles while that comes again soon: those events may wait in partitions that nobody has.
pub const HEAL_US: i64 = 1_000_000;
const HEAL_US_MAX: i64 = 60_000_000;
/// Heals that are this many times as far apart as they must be do not come soon.
const SOON: i64 = 10;

/// What one holder grants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Part {
    generation: u64,
    /// Events of this epoch; none before its first grant in it.
    granted: Option<i64>,
    waiting: u64,
    expires_us: i64,
}

/// The epoch in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Begun {
    /// When it began.
    pub at_us: i64,
    /// Events that were due by then: the position of its first one.
    pub first: u64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Account {
    parts: BTreeMap<String, Part>,
    epoch: Option<Begun>,
    /// The last epoch's name: the next one's is larger.
    last_us: i64,
    quiet_since_us: Option<i64>,
    /// When it was healed last, and the time that this took.
    healed: Option<(i64, i64)>,
}

impl Account {
    /// Takes a grant at `now_us`, when `due` events were due.
    ///
    /// # Errors
    /// When there are too many holders, or the holder has begun anew since.
    pub fn grant(&mut self, grant: &Grant, now_us: i64, due: u64) -> Result<(), String> {
        let Grant { holder, generation, epoch, granted, waiting, lease_ms } = grant;
        self.lapse(now_us, due);
        // `Grant::check` bounds it to ten minutes.
        let expires_us = now_us.saturating_add(*lease_ms as i64 * 1000);
        match self.parts.get(holder) {
            Some(part) if *generation < part.generation => {
                return Err(format!("generation {generation}: a later one has begun"));
            }
            Some(part) if *generation == part.generation => {}
            None if self.parts.len() >= HOLDERS_MAX => {
                let why = "holders, which is the most";
                return Err(format!("holder {holder}: there are {HOLDERS_MAX} {why}"));
            }
            _ => {
                let (generation, waiting) = (*generation, *waiting);
                let part = Part { generation, granted: None, waiting, expires_us };
                self.parts.insert(holder.clone(), part);
                self.begin(now_us, due);
            }
        }
        let current = self.epoch.map(|begun| begun.at_us);
        if let Some(part) = self.parts.get_mut(holder) {
            part.expires_us = part.expires_us.max(expires_us);
            part.waiting = *waiting;
            // A grant of another epoch is late; one of this epoch that is below the last one too.
            if epoch.is_some() && *epoch == current {
                part.granted = part.granted.max(Some(*granted));
            }
        }
        Ok(())
    }

    /// Ends the part of `holder`, if it has one.
    pub fn end(&mut self, holder: &str, now_us: i64, due: u64) {
        if self.parts.remove(holder).is_some() {
            self.begin(now_us, due);
        }
    }

    /// Ends the parts that have expired, and begins an epoch where nothing else would go on: `is_sent` says that all
    /// that is due is in the log.
    pub fn look(&mut self, now_us: i64, due: u64, is_sent: bool) {
        self.lapse(now_us, due);
        let is_blocked = self.limit().is_some_and(|limit| due >= limit) && self.is_open();
        if !is_blocked || !is_sent || self.parts.values().any(|part| part.waiting > 0) {
            self.quiet_since_us = None;
            return;
        }
        let since_us = *self.quiet_since_us.get_or_insert(now_us);
        let after_us = match self.healed {
            Some((at_us, after_us)) if now_us - at_us < SOON * after_us => {
                (2 * after_us).min(HEAL_US_MAX)
            }
            _ => HEAL_US,
        };
        if now_us - since_us >= after_us {
            log::warn!(
                quiet_ms = (now_us - since_us) / 1000;
                "no credit is left and nothing waits anywhere: the count begins anew"
            );
            self.begin(now_us, due);
            self.healed = Some((now_us, after_us));
        }
    }

    /// Events are due below this position alone; none while no holder's grant is in force.
    pub fn limit(&self) -> Option<u64> {
        let Begun { first, .. } = self.epoch?;
        let granted = self.parts.values().map(|part| part.granted);
        // One that has not granted yet does not count yet either.
        let sum = granted.sum::<Option<i64>>().unwrap_or(0);
        // What waits at one of them beyond its window is taken from the others' grants.
        Some(first.saturating_add_signed(sum.max(0)))
    }

    /// The epoch in force.
    pub fn epoch(&self) -> Option<Begun> {
        self.epoch
    }

    /// Holders of grants in force.
    pub fn holders(&self) -> usize {
        self.parts.len()
    }

    /// Whether all holders have granted in this epoch.
    fn is_open(&self) -> bool {
        self.parts.values().all(|part| part.granted.is_some())
    }

    fn lapse(&mut self, now_us: i64, due: u64) {
        let before = self.parts.len();
        self.parts.retain(|holder, part| {
            let is_in_force = now_us < part.expires_us;
            if !is_in_force {
                log::warn!(holder = holder.as_str(); "its credit has expired");
            }
            is_in_force
        });
        if self.parts.len() < before {
            self.begin(now_us, due);
        }
    }

    /// An epoch begins, or none where nobody is left.
    fn begin(&mut self, now_us: i64, due: u64) {
        self.quiet_since_us = None;
        // Who holds credit has changed: what was waited for is no measure any more.
        self.healed = None;
        for part in self.parts.values_mut() {
            part.granted = None;
        }
        self.last_us = now_us.max(self.last_us + 1);
        let begun = Begun { at_us: self.last_us, first: due };
        self.epoch = (!self.parts.is_empty()).then_some(begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(holder: &str, epoch: Option<i64>, granted: i64) -> Grant {
        let holder = holder.into();
        Grant { holder, generation: 0, epoch, granted, waiting: 0, lease_ms: 2 }
    }

    /// Prevents: credit that comes back by a message that was late, or that one holder gives for another.
    #[test]
    fn a_limit_is_the_sum_of_all_and_never_falls_within_an_epoch() {
        let mut account = Account::default();
        assert_eq!(account.limit(), None, "without a holder the schedule alone counts");
        account.grant(&grant("a", None, 0), 100, 40).expect("room");
        let epoch = account.epoch().expect("begun");
        assert_eq!((epoch, account.limit()), (Begun { at_us: 100, first: 40 }, Some(40)));
        account.grant(&grant("a", Some(100), 7), 200, 40).expect("its own");
        assert_eq!(account.limit(), Some(47));
        account.grant(&grant("a", Some(100), 5), 300, 44).expect("late");
        assert_eq!(account.limit(), Some(47));
        // Another one: what was sent is nobody's any more, and both must grant.
        account.grant(&grant("b", None, 0), 400, 44).expect("room");
        account.grant(&grant("a", Some(100), 9), 500, 44).expect("late, of another epoch");
        account.grant(&grant("b", Some(400), 3), 500, 44).expect("its own");
        assert_eq!(account.limit(), Some(44), "a has not granted yet");
        account.grant(&grant("a", Some(400), 3), 600, 44).expect("its own");
        assert_eq!(account.limit(), Some(50));
        // One goes, the other expires.
        account.end("b", 700, 50);
        assert_eq!((account.limit(), account.holders()), (Some(50), 1));
        account.look(2_600, 50, true);
        assert_eq!((account.limit(), account.epoch()), (None, None));
    }

    #[test]
    fn what_an_earlier_assignment_granted_is_refused() {
        let mut account = Account::default();
        account.grant(&Grant { generation: 1, ..grant("a", None, 0) }, 100, 0).expect("room");
        assert!(account.grant(&grant("a", Some(100), 5), 200, 0).is_err());
        assert_eq!(account.limit(), Some(0));
    }

    #[test]
    fn there_is_room_for_a_group_and_not_for_a_flood() {
        let mut account = Account::default();
        for n in 0..HOLDERS_MAX {
            account.grant(&grant(&n.to_string(), None, 0), 0, 0).expect("room");
        }
        assert!(account.grant(&grant("one more", None, 0), 0, 0).is_err());
        account.grant(&grant("one more", None, 0), 2_000, 0).expect("the others have expired");
        assert_eq!(account.holders(), 1);
    }

    /// Prevents: a source that stands for ever because an event vanished; one that runs away because events wait in
    /// partitions that nobody has.
    #[test]
    fn an_event_that_vanished_is_forgiven_after_a_while_and_less_often_each_time() {
        let mut account = Account::default();
        let mut begun = Vec::new();
        for ms in (0..40_000).step_by(50) {
            let now_us = ms * 1000;
            let epoch = account.epoch().map(|epoch| epoch.at_us);
            let mut renewed = grant("a", epoch, 1);
            renewed.lease_ms = 1_000;
            account.grant(&renewed, now_us, begun.len() as u64 + 1).expect("room");
            account.look(now_us, account.limit().unwrap_or(0), true);
            if account.epoch().map(|epoch| epoch.at_us) != epoch {
                begun.push(ms);
            }
        }
        let apart: Vec<i64> = begun.windows(2).map(|two| (two[1] - two[0]) / 1000).collect();
        assert_eq!(apart, [1, 2, 4, 8, 16], "{begun:?}");
        // Not while something is on its way.
        let before = account.epoch();
        account.look(60_000_000, 1_000, false);
        assert_ne!(account.epoch(), before, "it has expired");
    }
}
