//! A rate, found without headers: by what the sink takes between two refusals.
//!
//! A token bucket refuses when it is empty. So what it took from one refusal to the next is its rate times the time
//! between, and that is measured, not guessed. Below the rate the bucket saves up the difference, above it spends it: a
//! rate that swings around the sink's loses nothing. So it goes a little below what was found for [`REST_S`], then above
//! it by a margin that doubles every [`DOUBLING_S`], until a refusal says where the limit is. The margin's growth finds a
//! higher rate; refusals in a row find a lower one.
//!
//! Its refusals are its measurements: one a cycle.

use std::time::{Duration, Instant};

use super::{Again, Call, Ended, Knob, Outcome, Verdict, at, seconds_between};

/// Events/s at the start, doubled every [`START_DOUBLING_S`] until the first refusal.
const START: f64 = 100.0;
const START_DOUBLING_S: f64 = 0.1;
/// Time below the found rate after a refusal, s, and how far below it and above it goes at first.
const REST_S: f64 = 0.5;
const MARGIN: f64 = 0.02;
/// The margin above doubles in this time, s.
const DOUBLING_S: f64 = 0.2;
/// Least time between refusals that is measured, s: a batch more or less in it is a few percent.
const MEASURED_S: f64 = 0.2;
/// Far above the found rate there was room: the bucket was full, and what it took says too little.
const CLIMBED: f64 = 1.25;
/// Then, and where refusals come in a row, the rate falls to so much of what it was, once in [`CUT_S`].
const CUT: f64 = 0.6;
const CUT_S: f64 = 0.05;
/// What may be sent at once after a pause: so many seconds of the rate.
const BURST_S: f64 = 0.01;
/// A call is sent at least so often, s, whatever was found: else a sink that comes back is not noticed.
const CALL_S: f64 = 0.5;
/// Far above any sink's.
const RATE_MAX: f64 = 1e9;

/// The controller. Events/s, and s.
pub struct Blind {
    found: f64,
    is_starting: bool,
    /// The last refusal, and the last time that the rate was cut.
    refused: Instant,
    cut: Instant,
    /// The refusal from which on it measures, and events taken since.
    mark: Instant,
    taken: f64,
    /// Events that may be sent; below 0 what was sent ahead.
    level: f64,
    filled: Instant,
}

impl Blind {
    /// Before the first call.
    pub fn new(now: Instant) -> Self {
        Self {
            found: START,
            is_starting: true,
            refused: now,
            cut: now,
            mark: now,
            taken: 0.0,
            level: 0.0,
            filled: now,
        }
    }

    /// Events/s at `now`.
    fn rate(&self, now: Instant) -> f64 {
        let since = seconds_between(self.refused, now);
        let by = if self.is_starting {
            (since / START_DOUBLING_S).exp2()
        } else if since < REST_S {
            1.0 - MARGIN
        } else {
            1.0 + MARGIN * ((since - REST_S) / DOUBLING_S).exp2()
        };
        (self.found * by).min(RATE_MAX)
    }

    fn refused(&mut self, call: &Call, now: Instant) {
        let (rate, since_mark) = (self.rate(now), seconds_between(self.mark, now));
        if since_mark >= MEASURED_S {
            let measured = self.taken / since_mark;
            let has_climbed = self.is_starting || rate > CLIMBED * self.found;
            self.found = if has_climbed { measured.max(CUT * rate) } else { measured };
            (self.mark, self.taken, self.cut) = (now, 0.0, now);
        } else if seconds_between(self.cut, now) >= CUT_S {
            (self.found, self.cut) = (self.found * CUT, now);
        }
        self.found = self.found.max(call.events as f64 / CALL_S);
        (self.is_starting, self.refused) = (false, now);
    }
}

impl Knob for Blind {
    fn begin(&mut self, call: &Call) -> Verdict {
        let (now, rate) = (call.begun, self.rate(call.begun));
        let level = self.level + rate * seconds_between(self.filled, now);
        self.level = level.min(rate * BURST_S);
        self.filled = now;
        // Time in which it had less to send than it might is no evidence for a higher rate.
        self.refused +=
            Duration::from_secs_f64((level - self.level) / rate).min(now - self.refused);
        if self.level < 0.0 {
            return Verdict::At(at(now, -self.level / rate));
        }
        self.level -= call.events as f64;
        self.taken += call.events as f64;
        Verdict::Go
    }

    fn ended(&mut self, call: &Call, outcome: &Outcome, now: Instant, _: f64) -> Again {
        if outcome.ended == Ended::Acked {
            return Again::AsTold;
        }
        self.taken = (self.taken - call.events as f64).max(0.0);
        if outcome.ended != Ended::Limited {
            return Again::AsTold;
        }
        self.refused(call, now);
        // The rate is its wait; but a sink that names more than the least that the standard can say means it.
        let told = outcome.after.filter(|after| *after > Duration::from_secs(1));
        Again::InOrder(told.unwrap_or(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Prevents: a sink that says when to come back, and is asked twice a second until then.
    #[test]
    fn a_longer_time_that_the_sink_names_is_obeyed() {
        let now = Instant::now();
        let call = Call { worker: 0, events: 10, retries: 0, first: now, begun: now, in_flight: 1 };
        let again = |ms| {
            let after = Some(Duration::from_millis(ms));
            let outcome = Outcome { after, ..Outcome::bare(Ended::Limited) };
            Blind::new(now).ended(&call, &outcome, now, 0.5)
        };
        assert_eq!(again(20_000), Again::InOrder(Duration::from_secs(20)));
        for short in [50, 1_000] {
            assert_eq!(
                again(short),
                Again::InOrder(Duration::ZERO),
                "that may be its rate's own time"
            );
        }
    }

    proptest! {
        /// Prevents: a rate that falls to nothing, or to no number, so that no call follows.
        #[test]
        fn a_call_follows_within_a_second(
            refused in proptest::collection::vec((0u64..500_000, any::<bool>()), 0..300), events in 1usize..1000,
        ) {
            let mut now = Instant::now();
            let mut blind = Blind::new(now);
            for (us, is_refused) in refused {
                now += Duration::from_micros(us);
                let call = Call { worker: 0, events, retries: 0, first: now, begun: now, in_flight: 1 };
                if blind.begin(&call) == Verdict::Go {
                    let ended = if is_refused { Ended::Limited } else { Ended::Acked };
                    blind.ended(&call, &Outcome::bare(ended), now, 0.5);
                }
            }
            let later = now + Duration::from_secs(1);
            let call = Call { worker: 0, events, retries: 0, first: later, begun: later, in_flight: 1 };
            // At the start it may owe a large batch at its first rate.
            prop_assert!(blind.is_starting || blind.begin(&call) == Verdict::Go, "{}", blind.found);
        }
    }
}
