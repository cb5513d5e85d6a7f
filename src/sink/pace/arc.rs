//! Vector's adaptive request concurrency: one batch more at once per round trip without back pressure, a tenth fewer
//! with it. Ported from vectordotdev/vector, `src/sinks/util/adaptive_concurrency/controller.rs` and `attempt.rs` (at
//! 05b56b7, which has both paths), its averages from `vector-common`'s `stats`, its retries from `retries.rs` (at
//! 0133d78), all with their defaults.
//!
//! The limiter stands in front of the retries, so a batch holds its permit from its first call to its ack. What is
//! measured of that is the difference (issue #26123):
//!
//! - [`Measured::Sequence`]: the whole of it, back-offs included; a refusal that is retried into an ack is never seen.
//! - [`Measured::Call`]: each call, and each refusal (pull request #26124, a proposal).

use std::time::{Duration, Instant};

use super::{Again, Call, Ended, Knob, Outcome, Verdict, at, seconds_between};

const INITIAL: usize = 1;
const DECREASE_RATIO: f64 = 0.9;
const EWMA_ALPHA: f64 = 0.4;
const RTT_DEVIATION_SCALE: f64 = 2.5;
const MAX: usize = 200;
/// `retry_initial_backoff_secs` and `retry_max_duration_secs`.
const RETRY_FIRST_S: f64 = 1.0;
const RETRY_MAX_S: f64 = 3_600.0;

/// What a round trip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// From a batch's first call to its ack.
    Sequence,
    /// A call.
    Call,
}

/// Mean and variance of the round trips of the past, weighted by age; s.
#[derive(Debug, Clone, Copy)]
struct Past {
    mean: f64,
    variance: f64,
}

impl Past {
    fn updated(past: Option<Self>, rtt: f64) -> Self {
        let Some(Self { mean, variance }) = past else { return Self { mean: rtt, variance: 0.0 } };
        let difference = rtt - mean;
        let increment = EWMA_ALPHA * difference;
        Self {
            mean: mean + increment,
            variance: (1.0 - EWMA_ALPHA) * (variance + difference * increment),
        }
    }
}

/// The controller.
pub struct Arc {
    measured: Measured,
    limit: usize,
    /// Batches that hold a permit.
    in_flight: usize,
    past: Option<Past>,
    next_update: Instant,
    /// The round trips since the last update: how many, and their sum, s.
    current: (u32, f64),
    had_back_pressure: bool,
    reached_limit: bool,
}

impl Arc {
    /// Before its first batch.
    pub fn new(measured: Measured, now: Instant) -> Self {
        Self {
            measured,
            limit: INITIAL,
            in_flight: 0,
            past: None,
            next_update: now,
            current: (0, 0.0),
            had_back_pressure: false,
            reached_limit: false,
        }
    }

    fn measure(&mut self, rtt: f64) {
        self.current = (self.current.0 + 1, self.current.1 + rtt);
    }

    /// A batch is done, and its permit free.
    fn complete(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let (count, sum) = self.current;
        let current = (count > 0).then(|| sum / f64::from(count));
        let Some(past) = self.past else {
            if let Some(rtt) = current {
                self.past = Some(Past::updated(None, rtt));
                self.next_update = at(now, rtt);
            }
            return;
        };
        if now < self.next_update {
            return;
        }
        self.manage(past, current);
        let past = current.map_or(past, |rtt| Past::updated(Some(past), rtt));
        self.past = Some(past);
        self.next_update = at(now, past.mean);
        self.current = (0, 0.0);
        self.had_back_pressure = false;
        self.reached_limit = false;
    }

    fn manage(&mut self, past: Past, current: Option<f64>) {
        let threshold = past.variance.sqrt() * RTT_DEVIATION_SCALE;
        let is_quick = current.is_some_and(|rtt| rtt <= past.mean);
        let is_slow = current.unwrap_or(0.0) >= past.mean + threshold;
        if self.limit < MAX && self.reached_limit && !self.had_back_pressure && is_quick {
            self.limit += 1;
        } else if self.limit > 1 && (self.had_back_pressure || is_slow) {
            self.limit = ((self.limit as f64 * DECREASE_RATIO) as usize).max(1);
        }
    }
}

/// The backoff before retry `retry`, from 0: Fibonacci seconds, with full jitter.
fn backoff(retry: u32, chance: f64) -> Duration {
    let (mut before, mut most) = (0.0, RETRY_FIRST_S);
    for _ in 0..=retry.min(64) {
        (before, most) = (most, (before + most).min(RETRY_MAX_S));
    }
    Duration::from_secs_f64((most * chance).max(1e-3))
}

impl Knob for Arc {
    fn begin(&mut self, call: &Call) -> Verdict {
        // A retry has its batch's permit.
        if call.retries == 0 {
            if self.in_flight >= self.limit {
                return Verdict::Later;
            }
            self.in_flight += 1;
            self.reached_limit |= self.in_flight >= self.limit;
        }
        Verdict::Go
    }

    fn ended(&mut self, call: &Call, outcome: &Outcome, now: Instant, chance: f64) -> Again {
        match outcome.ended {
            Ended::Acked => {
                let since = match self.measured {
                    Measured::Sequence => call.first,
                    Measured::Call => call.begun,
                };
                self.measure(seconds_between(since, now));
                self.complete(now);
            }
            Ended::Rejected => self.complete(now),
            Ended::Limited | Ended::Failed => {
                self.had_back_pressure |= self.measured == Measured::Call;
            }
        }
        match outcome.ended {
            Ended::Limited => Again::Aside(backoff(call.retries, chance)),
            _ => Again::AsTold,
        }
    }

    fn left(&mut self, _: usize, retries: u32) {
        self.in_flight = self.in_flight.saturating_sub(usize::from(retries > 0));
    }

    fn is_in_order(&self, call: &Call) -> bool {
        call.retries == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::pace::{Order, Pace};

    const S: Duration = Duration::from_secs(1);

    /// Drives batches through `order`, a round of all that may begin each second; the sizes of the rounds.
    fn rounds(order: &mut Order, now: &mut Instant, ended: &[Ended]) -> Vec<usize> {
        let mut sizes = Vec::new();
        for ended in ended {
            let all: Vec<usize> =
                (0..50).filter(|worker| order.may_begin(*worker, 1, *now) == Verdict::Go).collect();
            *now += S;
            for worker in &all {
                order.ended(*worker, &Outcome::bare(*ended), *now, 1.0);
            }
            sizes.push(all.len());
        }
        sizes
    }

    /// Their own tests: it starts at 1, and grows by 1 a round trip, from the second on.
    #[test]
    fn it_grows_by_one_a_round_trip() {
        for pace in [Pace::Arc, Pace::ArcFixed] {
            let mut now = Instant::now();
            let mut order = Order::new(pace, 50, now);
            assert_eq!(
                rounds(&mut order, &mut now, &[Ended::Acked; 5]),
                [1, 1, 2, 3, 4],
                "{pace:?}"
            );
        }
    }

    /// Prevents: a port in which both measure the same. The same batch, refused once and then acked: before the
    /// correction its round trip is the whole time, and nothing was back pressure.
    #[test]
    fn only_the_corrected_one_sees_a_refusal_that_is_retried_into_an_ack() {
        let of = |measured| {
            let mut now = Instant::now();
            let mut arc = Arc::new(measured, now);
            let call = |retries, first, begun| Call {
                worker: 0,
                events: 1,
                retries,
                first,
                begun,
                in_flight: 1,
            };
            let first = now;
            assert_eq!(arc.begin(&call(0, first, now)), Verdict::Go);
            arc.ended(&call(0, first, now), &Outcome::bare(Ended::Limited), now, 1.0);
            assert_eq!(arc.in_flight, 1, "a batch that backs off holds its permit");
            now += S * 19;
            assert_eq!(arc.begin(&call(1, first, now)), Verdict::Go);
            let begun = now;
            now += S / 10;
            let seen = arc.had_back_pressure;
            arc.ended(&call(1, first, begun), &Outcome::bare(Ended::Acked), now, 1.0);
            assert_eq!(arc.in_flight, 0);
            (arc.past.expect("a round trip").mean, seen)
        };
        let (before, after) = (of(Measured::Sequence), of(Measured::Call));
        assert!((before.0 - 19.1).abs() < 1e-6 && !before.1, "{before:?}");
        assert!((after.0 - 0.1).abs() < 1e-6 && after.1, "{after:?}");
    }

    #[test]
    fn retries_wait_for_fibonacci_seconds() {
        let waits: Vec<u64> = (0..6).map(|retry| backoff(retry, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 3, 5, 8, 13]);
        assert!(backoff(u32::MAX, 1.0) <= Duration::from_secs(3_600));
        assert!(backoff(3, 0.0) < S / 100, "full jitter");
    }
}
