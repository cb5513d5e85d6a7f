//! Additive increase, multiplicative decrease: one call more for each that is served, a tenth fewer for each that is
//! refused or slow. Ported from Netflix/concurrency-limits, `AIMDLimit.java` (at 784c960).
//!
//! One setting differs: its least limit is 20, and a rule that may not go below 20 cannot hold back a client whose
//! right number is 10. Here it is 1.

use std::time::Duration;

use super::concurrency::{LIMIT_MAX, Limit, START};

/// The share that is left after a refusal.
const BACKOFF_RATIO: f64 = 0.9;
/// A call that takes longer counts as refused.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The rule.
pub struct Aimd(f64);

impl Default for Aimd {
    fn default() -> Self {
        Self(START)
    }
}

impl Limit for Aimd {
    fn limit(&self) -> f64 {
        self.0
    }

    fn sample(&mut self, rtt: Duration, in_flight: usize, is_dropped: bool, _: f64) {
        if is_dropped || rtt > TIMEOUT {
            self.0 = (self.0 * BACKOFF_RATIO).floor();
        } else if in_flight as f64 * 2.0 >= self.0 {
            self.0 += 1.0;
        }
        self.0 = self.0.clamp(1.0, LIMIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_one_and_falls_by_a_tenth_and_never_below_one() {
        let (mut aimd, fast) = (Aimd::default(), Duration::from_millis(1));
        aimd.sample(fast, 20, false, 0.5);
        assert_eq!(aimd.limit(), 21.0);
        aimd.sample(fast, 3, false, 0.5);
        assert_eq!(aimd.limit(), 21.0, "few calls are no evidence");
        aimd.sample(fast, 20, true, 0.5);
        assert_eq!(aimd.limit(), 18.0);
        aimd.sample(TIMEOUT * 2, 20, false, 0.5);
        assert_eq!(aimd.limit(), 16.0);
        (0..100).for_each(|_| aimd.sample(fast, 1, true, 0.5));
        assert_eq!(aimd.limit(), 1.0);
    }
}
