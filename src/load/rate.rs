//! The producer's rate control, as it travels: the body of `POST /rate` and the answer to
//! `GET /rate`. `DELETE /rate` ends a lease.
//!
//! Invariant: a lease can only lower the offered rate, and it ends by itself, so a processor
//! that dies cannot slow the source for ever. The last lease posted wins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Path of the rate control.
pub const RATE: &str = "/rate";

/// Longest lease: a dead processor slows the source for at most this long.
pub const LEASE_MAX: Duration = Duration::from_secs(600);

/// Highest rate a lease may name, events/s, as for `--rate`.
const RATE_MAX: f64 = 1e9;

/// Body of `POST /rate`: offer at most `rate` until the lease runs out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLease {
    /// Ceiling of the offered rate, events/s; 0 pauses the source.
    pub rate: f64,
    /// How long it holds, ms from its arrival.
    pub lease_ms: u64,
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
        Ok(self)
    }
}

/// Answer to `GET /rate`, and to `POST` and `DELETE` once they are in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateState {
    /// What the schedule asks for now, events/s.
    pub schedule_rate: f64,
    /// The lease in force and what is left of it, if there is one.
    pub lease: Option<RateLease>,
    /// The lower of the two: what the producer offers, events/s.
    pub effective_rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_out_of_range_is_refused_and_named() {
        let check = |rate, lease_ms| RateLease { rate, lease_ms }.check();
        assert!(check(0.0, 1).is_ok() && check(1e9, 600_000).is_ok());
        for rate in [-1.0, f64::NAN, f64::INFINITY, 2e9] {
            assert!(check(rate, 1).is_err_and(|e| e.starts_with("rate ")), "{rate}");
        }
        for lease_ms in [0, 600_001, u64::MAX] {
            assert!(check(1.0, lease_ms).is_err_and(|e| e.starts_with("lease_ms ")), "{lease_ms}");
        }
    }
}
