//! `Retry-After` to the letter, by the standard alone (RFC 9110 10.2.3): whole seconds, and nothing is sent to this
//! sink until then. It reads no other header.
//!
//! Costs nearly all of the rate. A sink of R tokens/s that saves up B of them refuses a client that offers S after
//! t1 = B / (S − R); the client sends nothing for T, which is rounded up to a second. So the sink serves
//! (B + R t1) / (t1 + T) a second.

use std::time::{Duration, Instant};

use super::{Again, Call, Ended, Knob, Outcome, Verdict};

/// When the next call may begin.
#[derive(Default)]
pub struct RetryAfter(Option<Instant>);

impl Knob for RetryAfter {
    fn begin(&mut self, call: &Call) -> Verdict {
        match self.0 {
            Some(until) if call.begun < until => Verdict::At(until),
            _ => Verdict::Go,
        }
    }

    fn ended(&mut self, _: &Call, outcome: &Outcome, now: Instant, _: f64) -> Again {
        match outcome.after_seconds {
            Some(seconds) if outcome.ended == Ended::Limited => {
                self.0 = self.0.max(Some(now + seconds));
                Again::InOrder(Duration::ZERO)
            }
            _ => Again::AsTold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::pace::{Order, Pace};

    /// Prevents: one worker that waits while the others go on, as if each had a limit of its own.
    #[test]
    fn nobody_calls_before_the_second_is_over() {
        let now = Instant::now();
        let mut order = Order::new(Pace::RetryAfter, 2, now);
        assert_eq!(order.may_begin(0, 1, now), Verdict::Go);
        let (ms, second) = (Duration::from_millis(7), Duration::from_secs(1));
        let told = Outcome {
            after: Some(ms),
            after_seconds: Some(second),
            ..Outcome::bare(Ended::Limited)
        };
        order.ended(0, &told, now, 0.5);
        for worker in [0, 1] {
            assert_ne!(order.may_begin(worker, 1, now + ms), Verdict::Go, "{worker}");
        }
        assert_eq!(order.may_begin(0, 1, now + second), Verdict::Go);
        assert_eq!(order.may_begin(1, 1, now + second), Verdict::Go);
    }
}
