//! The messages of the producer's rate control: the body of `POST /rate` and the answer to
//! `GET /rate`. `DELETE /rate?holder=NAME` ends that holder's lease.
//!
//! Invariant: leases can only lower the offered rate, and each ends by itself, so a processor
//! that dies cannot slow the source for ever. How several add up: [`super::leases`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// Path of the rate control.
pub const RATE: &str = "/rate";

/// Longest lease: a dead processor slows the source for at most this long.
pub const LEASE_MAX: Duration = Duration::from_secs(600);

/// Highest rate a lease may name, events/s, as for `--rate`.
const RATE_MAX: f64 = 1e9;

/// Longest name of a holder.
const HOLDER_BYTES_MAX: usize = 64;

/// Body of `POST /rate`: offer at most `rate` for this holder until the lease runs out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLease {
    /// Ceiling of the offered rate, events/s; 0 pauses the source.
    pub rate: f64,
    /// How long it holds, ms from its arrival.
    pub lease_ms: u64,
    /// Its holder; without a name, no particular one.
    #[serde(default)]
    pub holder: String,
    /// It counts only while another lease, one that does not follow, is in force.
    #[serde(default)]
    pub follows: bool,
}

/// Checks the name of a holder; `Err` says what it may be. It needs no escapes in a query.
pub fn check_holder(holder: &str) -> Result<&str, String> {
    if holder.len() <= HOLDER_BYTES_MAX && units::is_name(holder) {
        return Ok(holder);
    }
    Err(format!(
        "holder {holder:?}: expected at most {HOLDER_BYTES_MAX} letters, digits, '.', '_' or '-'"
    ))
}

impl RateLease {
    /// Checks the ranges; `Err` names the field, its value and what it may be.
    pub fn check(self) -> Result<Self, String> {
        if !(0.0..=RATE_MAX).contains(&self.rate) {
            return Err(format!("rate {}: expected events/s from 0 to {RATE_MAX}", self.rate));
        }
        if self.lease_ms == 0 || u128::from(self.lease_ms) > LEASE_MAX.as_millis() {
            let most = LEASE_MAX.as_millis();
            return Err(format!("lease_ms {}: expected 1 to {most}", self.lease_ms));
        }
        check_holder(&self.holder)?;
        Ok(self)
    }
}

/// The sum of all leases in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Their sum, events/s.
    pub rate: f64,
    /// Time left of the longest leading lease, ms.
    pub lease_ms: u64,
    /// How many leases lead.
    pub leading: usize,
}

/// Answer to `GET /rate`, and to `POST` and `DELETE` once they are in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateState {
    /// What the schedule asks for now, events/s.
    pub schedule_rate: f64,
    /// The rate that leases allow, while one leads.
    pub lease: Option<Held>,
    /// The lower of the two: what the producer offers, events/s.
    pub effective_rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_out_of_range_is_refused_and_named() {
        let held = |rate, lease_ms, holder: &str| {
            RateLease { rate, lease_ms, holder: holder.into(), follows: false }.check()
        };
        let check = |rate, lease_ms| held(rate, lease_ms, "");
        assert!(check(0.0, 1).is_ok() && check(1e9, 600_000).is_ok());
        for rate in [-1.0, f64::NAN, f64::INFINITY, 2e9] {
            assert!(check(rate, 1).is_err_and(|e| e.starts_with("rate ")), "{rate}");
        }
        assert!(held(1.0, 1, "host-1.lab_7").is_ok());
        for holder in ["a b", "a&b", "ä", "x".repeat(65).as_str()] {
            assert!(held(1.0, 1, holder).is_err_and(|e| e.starts_with("holder ")), "{holder}");
        }
        for lease_ms in [0, 600_001, u64::MAX] {
            assert!(check(1.0, lease_ms).is_err_and(|e| e.starts_with("lease_ms ")), "{lease_ms}");
        }
    }
}
