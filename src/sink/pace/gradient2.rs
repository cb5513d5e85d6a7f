//! A number of calls by the round trip against its long average. Ported from Netflix/concurrency-limits,
//! `Gradient2Limit.java` (at 14ddfa2) and `ExpAvgMeasurement.java`, with its defaults; whether a call was refused is
//! never read, there or here. Two choices are ours: the samples are the calls themselves, without the window that may
//! be wrapped around the rule (`WindowedLimit`); and its least limit, 20, which it calls "not desirable" for batch
//! clients, is 1.
//!
//! Against a sink whose 429 comes at once, a refusal is the best of round trips.

use std::time::Duration;

use super::concurrency::{LIMIT_MAX, Limit, START};

/// Calls that may queue.
const QUEUE: f64 = 4.0;
/// Weight of the newest limit.
const SMOOTHING: f64 = 0.2;
/// Samples of the long average; of so many at first it is the plain mean.
const LONG: f64 = 600.0;
const WARM_UP: f64 = 10.0;

/// The rule.
pub struct Gradient2 {
    limit: f64,
    long_s: f64,
    /// Samples of the warm-up.
    samples: f64,
}

impl Default for Gradient2 {
    fn default() -> Self {
        Self { limit: START, long_s: 0.0, samples: 0.0 }
    }
}

impl Gradient2 {
    fn long(&mut self, short_s: f64) -> f64 {
        let weight = if self.samples < WARM_UP {
            self.samples += 1.0;
            1.0 / self.samples
        } else {
            2.0 / (LONG + 1.0)
        };
        self.long_s += weight * (short_s - self.long_s);
        self.long_s
    }
}

impl Limit for Gradient2 {
    fn limit(&self) -> f64 {
        self.limit.floor()
    }

    fn sample(&mut self, rtt: Duration, in_flight: usize, _: bool, _: f64) {
        let short = rtt.as_secs_f64();
        let long = self.long(short);
        // After a long load the average comes down faster.
        if long / short > 2.0 {
            self.long_s *= 0.9;
        }
        if (in_flight as f64) < self.limit / 2.0 {
            return;
        }
        let gradient = (long / short).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + QUEUE;
        self.limit = (self.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING).clamp(1.0, LIMIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a port that reads what its source does not. Against fast refusals it climbs to its maximum.
    #[test]
    fn refusals_that_come_at_once_raise_the_limit_to_its_maximum() {
        let mut rule = Gradient2::default();
        for _ in 0..1_000 {
            let in_flight = rule.limit() as usize;
            rule.sample(Duration::from_micros(300), in_flight, true, 0.5);
        }
        assert_eq!(rule.limit(), LIMIT_MAX);
    }

    #[test]
    fn a_round_trip_above_the_average_lowers_it_by_a_tenth_at_most() {
        let mut rule = Gradient2::default();
        (0..20).for_each(|_| rule.sample(Duration::from_millis(10), 100, false, 0.5));
        let before = rule.limit;
        rule.sample(Duration::from_secs(10), 100, false, 0.5);
        assert!((rule.limit - (0.9 * before + 0.8)).abs() < 1e-9, "{} after {before}", rule.limit);
        (0..500).for_each(|n| rule.sample(Duration::from_millis(n * n), 1, true, 0.5));
        assert!(rule.limit() >= 1.0);
    }
}
