//! A limit on the number of calls that run at once, as Netflix/concurrency-limits has it (`AbstractLimiter`,
//! `BlockingLimiter`): a call waits until fewer run, and each that ends is a sample for the rule.
//!
//! The library says nothing of what a refused caller does next, so here it does what this client does about any answer
//! "not now" without a time: it backs off by itself, and holds no place meanwhile.

use std::time::{Duration, Instant};

use super::{Again, Call, Ended, Knob, Outcome, Verdict, seconds_between};
use crate::backoff;

/// The limit at the start, and the highest: `initialLimit` and `maxLimit` of that library.
pub const START: f64 = 20.0;
/// See [`START`].
pub const LIMIT_MAX: f64 = 200.0;

/// How the limit follows the calls.
pub trait Limit: Send {
    /// Calls at once, at least 1.
    fn limit(&self) -> f64;

    /// A call ended after `rtt`; `in_flight` ran when it began, itself included. `chance` is uniform in 0 to 1.
    fn sample(&mut self, rtt: Duration, in_flight: usize, is_dropped: bool, chance: f64);
}

/// The knob around the rule.
pub struct Concurrency<L>(L);

impl<L: Limit> Concurrency<L> {
    /// At the rule's first limit.
    pub fn new(limit: L) -> Self {
        Self(limit)
    }
}

impl<L: Limit> Knob for Concurrency<L> {
    fn begin(&mut self, call: &Call) -> Verdict {
        if call.in_flight as f64 <= self.0.limit().max(1.0) { Verdict::Go } else { Verdict::Later }
    }

    fn ended(&mut self, call: &Call, outcome: &Outcome, now: Instant, chance: f64) -> Again {
        let rtt = Duration::from_secs_f64(seconds_between(call.begun, now).max(1e-9));
        let mut sample = |is_dropped| self.0.sample(rtt, call.in_flight, is_dropped, chance);
        match outcome.ended {
            Ended::Acked => sample(false),
            Ended::Limited | Ended::Failed => sample(true),
            // Their `onIgnore`: it says nothing about load.
            Ended::Rejected => {}
        }
        match outcome.ended {
            Ended::Limited => Again::Aside(backoff::standard_wait(call.retries, chance)),
            _ => Again::AsTold,
        }
    }
}
