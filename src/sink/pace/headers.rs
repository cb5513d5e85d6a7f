//! A rate, as the sink gives it: calls follow a model of the sink's own bucket, whose rate and size come from
//! `RateLimit-Policy`, and whose level is corrected by what `RateLimit` says is left (draft-ietf-httpapi-ratelimit-
//! headers-10; `sink/quota.rs`).
//!
//! - A call begins when the model has its tokens and a reserve: a quarter of what the bucket can hold besides. A call
//!   that comes a little early finds its tokens, and one that comes late finds a bucket that is not full yet, so none are
//!   lost.
//! - Where the sink has less than the model, the model is wrong at once. Where it has more, calls may be on their way:
//!   the model takes over the least surplus of [`HOLD_S`] (the rule of Linux's dynamic queue limits).
//! - A changed rate comes with the next answer. When the rate is so low that no answer comes, a call is sent every
//!   [`PROBE_S`] all the same: its answer has the rate, even if it is a refusal.
//!
//! Without these headers it is [`Blind`].

use std::time::{Duration, Instant};

use super::blind::Blind;
use super::{Again, Call, Ended, Knob, Outcome, Verdict, at, seconds_between};
use crate::sink::bucket::BURST_SHARE;
use crate::sink::quota::{Policy, Quota};

/// Longest time without an answer, s: half of the time in which a new rate is to be found.
const PROBE_S: f64 = 0.5;
/// The reserve's share of what the bucket can hold besides a call: with half of it a run of
/// experiment 13 delivered 99.1 %, with a quarter 99.8 and 100 %.
const RESERVE: f64 = 0.25;
/// How long a surplus must last, s: some round trips.
const HOLD_S: f64 = 0.1;
/// What is left comes in whole tokens, rounded down.
const ROUNDED: f64 = 1.0;

/// The controller. Tokens, and s.
pub struct Headers {
    policy: Option<Policy>,
    level: f64,
    filled: Instant,
    /// The least surplus since then; none yet.
    surplus: Option<f64>,
    surplus_since: Instant,
    /// The last answer, or probe.
    heard: Instant,
    blind: Blind,
}

impl Headers {
    /// Before the first call.
    pub fn new(now: Instant) -> Self {
        Self {
            policy: None,
            level: 0.0,
            filled: now,
            surplus: None,
            surplus_since: now,
            heard: now,
            blind: Blind::new(now),
        }
    }

    fn learn(&mut self, quota: &Quota, now: Instant) {
        let Some(policy) = quota.policy else { return };
        match self.policy {
            Some(old) => self.fill(old, now),
            // Of a bucket that was never seen, what is left is all that is known.
            None => (self.level, self.filled) = (quota.remaining.unwrap_or(0.0), now),
        }
        self.policy = Some(policy);
        self.level = self.level.min(burst(&policy));
        let Some(remaining) = quota.remaining else { return };
        let surplus = remaining - self.level;
        if surplus < -ROUNDED {
            self.level = remaining;
            self.surplus = None;
            return;
        }
        let least = self.surplus.map_or(surplus, |least| least.min(surplus));
        if self.surplus.is_none() {
            self.surplus_since = now;
        }
        self.surplus = Some(least);
        if seconds_between(self.surplus_since, now) >= HOLD_S {
            self.level += least.max(0.0);
            self.surplus = None;
        }
    }

    fn fill(&mut self, policy: Policy, now: Instant) {
        let earned = policy.rate * seconds_between(self.filled, now);
        self.level = (self.level + earned).min(burst(&policy));
        self.filled = now;
    }
}

/// Tokens that the bucket holds.
fn burst(policy: &Policy) -> f64 {
    policy.burst.unwrap_or((policy.rate * BURST_SHARE).max(1.0))
}

/// Tokens that must be there before a call that costs `cost`: its own, as far as the bucket can hold them, and the
/// reserve.
fn needed(policy: &Policy, cost: f64) -> f64 {
    let most = burst(policy);
    cost.min(most) + RESERVE * (most - cost).max(0.0)
}

impl Knob for Headers {
    fn begin(&mut self, call: &Call) -> Verdict {
        let Some(policy) = self.policy else { return self.blind.begin(call) };
        let now = call.begun;
        self.fill(policy, now);
        let cost = policy.costs.of(call.events);
        let missing = needed(&policy, cost) - self.level;
        let is_alone = call.in_flight == 1;
        let silent_s = seconds_between(self.heard, now);
        if missing <= 0.0 || (is_alone && silent_s >= PROBE_S) {
            self.level -= cost;
            self.heard = now;
            return Verdict::Go;
        }
        let wait_s = missing / policy.rate;
        Verdict::At(at(now, if is_alone { wait_s.min(PROBE_S - silent_s) } else { wait_s }))
    }

    fn ended(&mut self, call: &Call, outcome: &Outcome, now: Instant, chance: f64) -> Again {
        self.heard = now;
        if outcome.ended == Ended::Limited
            && let Some(policy) = self.policy
        {
            // It took nothing.
            self.level += policy.costs.of(call.events);
        }
        let is_known = self.policy.is_some();
        self.learn(&outcome.quota, now);
        if !is_known {
            let again = self.blind.ended(call, outcome, now, chance);
            if self.policy.is_none() {
                return again;
            }
        }
        match (outcome.ended, outcome.after) {
            // The draft: `Retry-After` comes first.
            (Ended::Limited, Some(after)) => Again::InOrder(after),
            (Ended::Limited, None) => {
                // A gateway's refusal, or one that does not say when: there is nothing, whatever the model has.
                self.level = self.level.min(0.0);
                Again::InOrder(Duration::ZERO)
            }
            _ => Again::AsTold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::control::Costs;

    const COSTS: Costs = Costs { call_cost: 0.0, event_cost: 1.0 };

    fn quota(rate: f64, remaining: f64) -> Quota {
        let policy = Some(Policy { rate, burst: Some(100.0), costs: COSTS });
        Quota { policy, remaining: Some(remaining) }
    }

    fn call(begun: Instant, in_flight: usize) -> Call {
        Call { worker: 0, events: 10, retries: 0, first: begun, begun, in_flight }
    }

    /// A controller that was answered once.
    fn told(rate: f64, remaining: f64, now: Instant) -> Headers {
        let mut headers = Headers::new(now);
        assert_eq!(headers.begin(&call(now, 1)), Verdict::Go);
        let outcome = Outcome { quota: quota(rate, remaining), ..Outcome::bare(Ended::Acked) };
        headers.ended(&call(now, 1), &outcome, now, 0.5);
        headers
    }

    /// Calls that begin in `time`, asked every 100 µs.
    fn begun(headers: &mut Headers, from: Instant, time: Duration) -> usize {
        let steps = (time.as_micros() / 100) as u64;
        let at = |n| from + Duration::from_micros(100 * n);
        (0..steps).filter(|n| headers.begin(&call(at(*n), 2)) == Verdict::Go).count()
    }

    /// Prevents: a client that does not follow the rate it was told, before or after it changes.
    #[test]
    fn calls_follow_the_rate_that_is_told() {
        let now = Instant::now();
        let mut headers = told(2_000.0, 33.0, now);
        let second = Duration::from_secs(1);
        let calls = begun(&mut headers, now, second);
        assert!((199..=201).contains(&calls), "{calls}");
        let now = now + second;
        headers.learn(&quota(200.0, 33.0), now);
        let calls = begun(&mut headers, now, second);
        assert!((19..=21).contains(&calls), "{calls}");
    }

    /// Prevents: a sink asked as fast as it answers, because its refusals do not say when.
    #[test]
    fn a_refusal_without_a_time_is_no_leave_to_ask_at_once() {
        let now = Instant::now();
        for remaining in [Some(0.0), None] {
            let policy = Policy {
                rate: 100.0 / 60.0,
                burst: None,
                costs: Costs { call_cost: 1.0, event_cost: 0.0 },
            };
            let mut headers = Headers::new(now);
            headers.begin(&call(now, 1));
            let said = Quota { policy: Some(policy), remaining: Some(1.0) };
            let acked = Outcome { quota: said, ..Outcome::bare(Ended::Acked) };
            headers.ended(&call(now, 1), &acked, now, 0.5);
            assert_eq!(headers.begin(&call(now, 1)), Verdict::Go);
            let policy = remaining.and(Some(policy));
            let quota = Quota { policy, remaining };
            let refused = Outcome { quota, ..Outcome::bare(Ended::Limited) };
            headers.ended(&call(now, 1), &refused, now, 0.5);
            assert_ne!(headers.begin(&call(now, 1)), Verdict::Go, "{remaining:?}");
        }
    }

    /// Prevents: a second client of the same sink, or a lost token, that makes every call too early.
    #[test]
    fn what_the_sink_lacks_is_believed_at_once_and_what_it_has_more_after_a_while() {
        let now = Instant::now();
        let mut headers = told(2_000.0, 90.0, now);
        headers.learn(&quota(2_000.0, 20.0), now);
        assert_eq!(headers.level, 20.0);
        headers.learn(&quota(2_000.0, 60.0), now);
        assert_eq!(headers.level, 20.0, "calls may be on their way");
        let now = now + Duration::from_secs_f64(HOLD_S);
        headers.learn(&quota(0.0, 100.0), now);
        assert_eq!(headers.level, 100.0, "40 more, and 200 earned: no more than the bucket holds");
    }

    /// Prevents: a client that sleeps through the end of a pause.
    #[test]
    fn a_sink_that_takes_nothing_is_asked_twice_a_second() {
        let now = Instant::now();
        let mut headers = told(0.0, 0.0, now);
        let Verdict::At(at) = headers.begin(&call(now, 1)) else { panic!("nothing is left") };
        let wait = (at - now).as_secs_f64();
        assert!((wait - PROBE_S).abs() < 0.01, "{wait}");
        assert_eq!(headers.begin(&call(at, 1)), Verdict::Go);
        assert!(matches!(headers.begin(&call(at, 2)), Verdict::At(_)), "one probe at a time");
    }

    /// Prevents: a batch larger than the sink's bucket that never begins.
    #[test]
    fn a_call_larger_than_the_bucket_begins_when_the_bucket_is_full() {
        let now = Instant::now();
        let mut headers = told(2_000.0, 0.0, now);
        let large = |begun| Call { events: 300, ..call(begun, 2) };
        assert!(matches!(headers.begin(&large(now)), Verdict::At(_)));
        assert_eq!(headers.begin(&large(now + Duration::from_millis(51))), Verdict::Go);
        assert!(headers.level < -190.0, "{}", headers.level);
    }
}
