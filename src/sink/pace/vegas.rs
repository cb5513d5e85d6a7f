//! A number of calls by the round trip against the shortest one seen, as TCP Vegas does. Ported from
//! Netflix/concurrency-limits, `VegasLimit.java` (at 141214d), with its defaults. A refusal takes as little off as a
//! step of growth adds. The samples are the calls themselves, as that library has it by default.
//!
//! Against a sink whose 429 comes at once, the shortest round trip is that of a refusal.

use std::time::Duration;

use super::concurrency::{Limit, START};

const LIMIT_MAX: f64 = 1000.0;
/// After so many samples for each call of the limit (half to all of it, by chance), the shortest round trip is taken
/// anew.
const PROBE_MULTIPLIER: f64 = 30.0;

/// The rule.
pub struct Vegas {
    limit: f64,
    shortest: Option<Duration>,
    samples: u32,
    jitter: f64,
}

impl Default for Vegas {
    fn default() -> Self {
        Self { limit: START, shortest: None, samples: 0, jitter: 0.75 }
    }
}

/// Their `Log10RootFunction`: at least 1, in whole numbers.
fn log10(limit: f64) -> f64 {
    if limit < 1000.0 { limit.log10().floor().max(1.0) } else { limit.sqrt().floor() }
}

impl Limit for Vegas {
    fn limit(&self) -> f64 {
        self.limit.floor()
    }

    fn sample(&mut self, rtt: Duration, in_flight: usize, is_dropped: bool, chance: f64) {
        self.samples += 1;
        if self.jitter * PROBE_MULTIPLIER * self.limit <= f64::from(self.samples) {
            (self.jitter, self.samples, self.shortest) = (0.5 + chance / 2.0, 0, Some(rtt));
            return;
        }
        let Some(shortest) = self.shortest.filter(|shortest| rtt >= *shortest) else {
            self.shortest = Some(rtt);
            return;
        };
        let queued = (self.limit * (1.0 - shortest.as_secs_f64() / rtt.as_secs_f64())).ceil();
        let step = log10(self.limit.floor());
        let change = if is_dropped {
            -step
        } else if (in_flight as f64) * 2.0 < self.limit {
            return;
        } else if queued <= step {
            6.0 * step
        } else if queued < 3.0 * step {
            step
        } else if queued > 6.0 * step {
            -step
        } else {
            return;
        };
        self.limit = (self.limit + change).clamp(1.0, LIMIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_nothing_queues_and_falls_when_something_does() {
        let (mut vegas, ms) = (Vegas::default(), Duration::from_millis);
        vegas.sample(ms(50), 20, false, 0.5);
        assert_eq!(vegas.limit(), 20.0, "the first is the shortest");
        vegas.sample(ms(50), 20, false, 0.5);
        assert_eq!(vegas.limit(), 26.0, "nothing queues");
        vegas.sample(ms(50), 12, false, 0.5);
        assert_eq!(vegas.limit(), 26.0, "few calls are no evidence");
        vegas.sample(ms(100), 26, false, 0.5);
        assert_eq!(vegas.limit(), 25.0, "half of them queue");
        vegas.sample(ms(50), 25, true, 0.5);
        assert_eq!(vegas.limit(), 24.0, "a refusal");
    }

    /// Prevents: a port that leaves refusals out of the round trips, which the source does not.
    #[test]
    fn after_a_fast_refusal_every_call_that_is_served_looks_queued() {
        let (mut vegas, ms) = (Vegas::default(), Duration::from_millis);
        vegas.sample(Duration::from_micros(300), 20, true, 0.5);
        for _ in 0..13 {
            vegas.sample(ms(50), 20, false, 0.5);
        }
        assert_eq!(vegas.limit(), 7.0);
    }

    #[test]
    fn the_shortest_is_taken_anew_and_the_limit_is_never_below_one() {
        let mut vegas = Vegas::default();
        vegas.sample(Duration::from_millis(1), 20, false, 0.5);
        for _ in 0..2_000 {
            vegas.sample(Duration::from_millis(50), 1, true, 0.5);
            assert!(vegas.limit() >= 1.0);
        }
        assert_eq!(vegas.shortest, Some(Duration::from_millis(50)));
    }
}
