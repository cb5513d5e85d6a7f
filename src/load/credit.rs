//! The messages of the producer's credit: the body of `POST /credit` and the answer to it and to `GET /credit`.
//! `DELETE /credit?holder=NAME` ends that holder's part.
//!
//! A grant is a position, not an increment (RFC 9000, 4.1): it says how many events of an epoch may have been sent in
//! all. So a grant that is lost, doubled or late is healed by the next one. What adds up the grants of a group, and
//! when an epoch ends: [`super::account`].

use serde::{Deserialize, Serialize};

use super::rate::{LEASE_MAX, check_holder};

/// Path of the credit.
pub const CREDIT: &str = "/credit";

/// Most events that a grant may name: whole numbers in the f64 of other programs' JSON.
const GRANTED_MAX: i64 = 1 << 53;

/// Body of `POST /credit`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its holder: a processor, by a name that no other one has.
    pub holder: String,
    /// Counts the assignments of this holder: with another one its count of events begins anew, and so does an epoch.
    pub generation: u64,
    /// The epoch that it belongs to, as an answer told it; none while the holder knows of none.
    #[serde(default)]
    pub epoch: Option<i64>,
    /// Events of this epoch, counted from its first, that may be sent because of this holder. Below 0 where more waits
    /// from before than its window allows: then others' grants make up for it.
    #[serde(default)]
    pub granted: i64,
    /// Events of this holder's partitions that are in the log and not settled.
    pub waiting: u64,
    /// How long the grant holds without being renewed, ms from its arrival.
    pub lease_ms: u64,
}

impl Grant {
    /// Checks the ranges; `Err` names the field, its value and what it may be.
    pub fn check(self) -> Result<Self, String> {
        check_holder(&self.holder)?;
        if !(-GRANTED_MAX..=GRANTED_MAX).contains(&self.granted) {
            let most = GRANTED_MAX;
            return Err(format!("granted {}: expected -{most} to {most}", self.granted));
        }
        if self.lease_ms == 0 || u128::from(self.lease_ms) > LEASE_MAX.as_millis() {
            let most = LEASE_MAX.as_millis();
            return Err(format!("lease_ms {}: expected 1 to {most}", self.lease_ms));
        }
        Ok(self)
    }
}

/// A span of one producer's events: those from `first_id` to below `end_id` that are due at or after `at_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// When it began, µs since the epoch by the producer's clock: its name, which no other has, also of a producer that
    /// was started again.
    pub at_us: i64,
    /// The id of its first event.
    pub first_id: u64,
    /// Above all ids of this producer: those of other shares of the load are not in its credit.
    pub end_id: u64,
}

impl Epoch {
    /// Whether the event belongs to it. An earlier producer's events may have the same ids: they were due before.
    pub fn has(&self, id: u64, due_us: i64) -> bool {
        (self.first_id..self.end_id).contains(&id) && due_us >= self.at_us
    }
}

/// Answer to `GET /credit`, and to `POST` and `DELETE` once they are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CreditState {
    /// The epoch in force; none without a holder, when the producer keeps to its schedule alone.
    pub epoch: Option<Epoch>,
    /// Holders of grants in force.
    pub holders: usize,
    /// Events that may be sent now before another grant must come; 0 without a holder.
    pub left: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_out_of_range_is_refused_and_named() {
        let grant = |holder: &str, granted, lease_ms| {
            let (holder, generation, epoch) = (holder.into(), 0, None);
            Grant { holder, generation, epoch, granted, waiting: 0, lease_ms }.check()
        };
        assert!(grant("host-1.lab_7", GRANTED_MAX, 600_000).is_ok());
        for (holder, granted, lease_ms, name) in [
            ("a b", 1, 1, "holder "),
            ("a", GRANTED_MAX + 1, 1, "granted "),
            ("a", i64::MIN, 1, "granted "),
            ("a", 1, 0, "lease_ms "),
            ("a", 1, 600_001, "lease_ms "),
        ] {
            let why = grant(holder, granted, lease_ms).expect_err(name);
            assert!(why.starts_with(name), "{why}");
        }
    }

    /// Prevents: events of a producer that was started again with the same ids, counted twice; those of another share
    /// counted at all.
    #[test]
    fn an_event_belongs_to_an_epoch_by_its_id_and_its_due_time() {
        let epoch = Epoch { at_us: 1_000, first_id: 50, end_id: 90 };
        for (id, due_us, is_of_it) in [
            (50, 1_000, true),
            (49, 1_000, false),
            (50, 999, false),
            (89, 1_000, true),
            (90, 1_000, false),
        ] {
            assert_eq!(epoch.has(id, due_us), is_of_it, "{id} {due_us}");
        }
    }
}
