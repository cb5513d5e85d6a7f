//! The token bucket that makes the sink slower than its source, seen as a fluid: tokens `earned`
//! since the start (piecewise linear, slope = rate) against tokens `claimed` by requests.
//!
//! Invariant: a request owns the place at which its last token lies and is served once `earned` has
//! reached it. So requests are served in the order of their claims, and since the start never more
//! than rate × time + burst. A larger rate serves waiting requests sooner. It never sleeps and
//! never reads a clock: `gate` does, and passes the time.

use std::time::{Duration, Instant};

/// Default burst as a share of the rate: 50 ms of tokens. A handler that oversleeps (some 0.1 ms, a
/// few ms on a busy machine) may catch up on so much before capacity is lost.
pub const BURST_SHARE: f64 = 0.05;

/// A request's place in the order of service: all tokens claimed up to and with its own.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Place(f64);

/// When a place is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Its tokens are earned.
    Now,
    /// At this instant, unless the rate changes.
    At(Instant),
    /// Not before the rate changes: it is 0, or so low that the time overflows.
    Unknown,
}

/// See the module. Tokens are `f64`: exact to 1e-6 tokens for 1e10 of them, 57 days at 2,000/s.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    fixed_burst: Option<f64>,
    earned: f64,
    claimed: f64,
    at: Instant,
}

impl Bucket {
    /// A bucket that earns `rate` tokens/s from `now` and starts with its burst full. Without
    /// a `burst` (tokens) it is [`BURST_SHARE`] of the rate in force, at least 1. At a rate of 0 it is empty.
    pub fn new(rate: f64, burst: Option<f64>, now: Instant) -> Self {
        let mut bucket = Self { rate, fixed_burst: burst, earned: f64::MAX, claimed: 0.0, at: now };
        bucket.cap();
        bucket
    }

    /// Tokens/s earned now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Tokens that may be saved up while there are no requests.
    pub fn burst(&self) -> f64 {
        self.fixed_burst.unwrap_or((self.rate * BURST_SHARE).max(1.0))
    }

    /// Earns `rate` tokens/s from `at`, or from the last known time, whichever is later.
    pub fn set_rate(&mut self, rate: f64, at: Instant) {
        self.advance(at);
        self.rate = rate;
        self.cap();
    }

    /// Claims `cost` tokens, after all earlier claims.
    pub fn claim(&mut self, cost: f64, now: Instant) -> Place {
        self.advance(now);
        self.claimed += cost;
        Place(self.claimed)
    }

    /// Claims like [`Bucket::claim`], but only if `cost` tokens or a whole burst are there now: a
    /// request larger than the burst then waits for the rest, else it would be refused for ever.
    ///
    /// # Errors
    /// When the tokens for the next try are there, as far as that is known.
    pub fn try_claim(&mut self, cost: f64, now: Instant) -> Result<Place, Due> {
        self.advance(now);
        match self.due(Place(self.claimed + cost.min(self.burst())), now) {
            Due::Now => Ok(self.claim(cost, now)),
            later => Err(later),
        }
    }

    /// When `place` is served, seen from `now`.
    pub fn due(&mut self, place: Place, now: Instant) -> Due {
        self.advance(now);
        let missing = place.0 - self.earned;
        if missing <= 0.0 {
            return Due::Now;
        }
        // Rounded up by a nanosecond, so that the token is there at the returned instant.
        Duration::try_from_secs_f64(missing / self.rate)
            .ok()
            .and_then(|wait| self.at.checked_add(wait)?.checked_add(Duration::from_nanos(1)))
            .map_or(Due::Unknown, Due::At)
    }

    /// Tokens that are there at `now`; below 0 what is claimed ahead.
    pub fn level(&mut self, now: Instant) -> f64 {
        self.advance(now);
        self.earned - self.claimed
    }

    /// Whether no more can be saved up.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.advance(now);
        self.earned >= self.most()
    }

    /// When all claims so far are served, seen from `now`.
    pub fn drained(&mut self, now: Instant) -> Due {
        self.due(Place(self.claimed), now)
    }

    fn advance(&mut self, now: Instant) {
        if let Some(passed) = now.checked_duration_since(self.at) {
            self.earned += self.rate * passed.as_secs_f64();
            self.at = now;
            self.cap();
        }
    }

    /// Idle credit ends at the burst. No request waits when it binds: `claimed` is behind `earned`.
    fn cap(&mut self) {
        self.earned = self.earned.min(self.most());
    }

    /// A pause lets nothing through: nothing is saved up for it.
    fn most(&self) -> f64 {
        if self.rate > 0.0 { self.claimed + self.burst() } else { self.claimed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Float dust: costs and rates in these tests stay below 1e7 tokens in all.
    const DUST: f64 = 1e-3;

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Claim(f64),
        Rate(f64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1u64..2_000_000).prop_map(Step::Pass),
            4 => (0.0f64..400.0).prop_map(Step::Claim),
            1 => prop_oneof![Just(0.0), 0.5f64..20_000.0].prop_map(Step::Rate),
        ];
        proptest::collection::vec(step, 1..120)
    }

    /// One served request: when, its tokens, and what the rate had earned by then (its integral).
    struct Served {
        ordinal: usize,
        cost: f64,
        offered: f64,
        credit_after: f64,
    }

    /// Drives a bucket from service to service, with ideal waiters.
    struct Run {
        bucket: Bucket,
        now: Instant,
        /// ∫ rate dt, separate from the bucket's own arithmetic.
        offered: f64,
        waiting: VecDeque<(usize, Place, f64)>,
        served: Vec<Served>,
        burst_max: f64,
        claims: usize,
    }

    impl Run {
        fn new(rate: f64, burst: Option<f64>) -> Self {
            let now = Instant::now();
            let bucket = Bucket::new(rate, burst, now);
            let burst_max = bucket.burst();
            let (waiting, served) = (VecDeque::new(), Vec::new());
            Self { bucket, now, offered: 0.0, waiting, served, burst_max, claims: 0 }
        }

        fn step(&mut self, step: &Step) {
            match *step {
                Step::Claim(cost) => {
                    let place = self.bucket.claim(cost, self.now);
                    self.waiting.push_back((self.claims, place, cost));
                    self.claims += 1;
                }
                Step::Rate(rate) => {
                    self.bucket.set_rate(rate, self.now);
                    self.burst_max = self.burst_max.max(self.bucket.burst());
                }
                Step::Pass(us) => {
                    let end = self.now + Duration::from_micros(us);
                    while let Some(at) = self.next_service().filter(|at| *at <= end) {
                        self.pass_to(at);
                        self.serve();
                    }
                    self.pass_to(end);
                }
            }
            self.serve();
        }

        fn next_service(&mut self) -> Option<Instant> {
            let dues = self.waiting.iter().map(|w| self.bucket.due(w.1, self.now));
            // The one that is due first, not the one that claimed first: FIFO is what is tested.
            dues.filter_map(|due| if let Due::At(at) = due { Some(at) } else { None }).min()
        }

        fn pass_to(&mut self, at: Instant) {
            self.offered += self.bucket.rate() * (at - self.now).as_secs_f64();
            self.now = at;
        }

        fn serve(&mut self) {
            let mut left = VecDeque::new();
            for (ordinal, place, cost) in std::mem::take(&mut self.waiting) {
                if self.bucket.due(place, self.now) == Due::Now {
                    let credit_after = self.bucket.earned - place.0;
                    let offered = self.offered;
                    self.served.push(Served { ordinal, cost, offered, credit_after });
                } else {
                    left.push_back((ordinal, place, cost));
                }
            }
            self.waiting = left;
        }
    }

    proptest! {
        /// Prevents a sink that delivers more than its limit, over any stretch of any run.
        #[test]
        fn never_more_than_rate_times_time_plus_burst(
            rate in 0.5f64..20_000.0, burst in proptest::option::of(1.0f64..500.0), steps in steps(),
        ) {
            let mut run = Run::new(rate, burst);
            steps.iter().for_each(|s| run.step(s));
            let total: f64 = run.served.iter().map(|s| s.cost).sum();
            prop_assert!(total <= run.offered + run.burst_max + DUST);
            // Windows that open just after a service; one that opens while a request is half
            // paid can see that request's tokens on top, never more.
            for (i, first) in run.served.iter().enumerate() {
                let mut tokens = 0.0;
                for last in run.served.iter().skip(i + 1) {
                    tokens += last.cost;
                    let earned = last.offered - first.offered;
                    prop_assert!(
                        tokens <= earned + run.burst_max + DUST,
                        "{tokens} tokens, {earned} earned, burst {}", run.burst_max
                    );
                }
            }
        }

        /// Prevents: a small request that overtakes an earlier large one.
        #[test]
        fn served_in_the_order_of_the_claims(rate in 0.5f64..20_000.0, steps in steps()) {
            let mut run = Run::new(rate, None);
            steps.iter().for_each(|s| run.step(s));
            let order: Vec<usize> = run.served.iter().map(|s| s.ordinal).collect();
            let sorted: Vec<usize> = (0..order.len()).collect();
            prop_assert_eq!(order, sorted);
        }

        /// Prevents: lost capacity. While a request waits, no token is thrown away, whatever the
        /// rate did in between.
        #[test]
        fn enough_demand_gets_the_whole_rate(
            rate in 0.5f64..20_000.0, costs in 0.01f64..400.0, steps in steps(),
        ) {
            let mut run = Run::new(rate, None);
            for step in &steps {
                // Demand is kept up: the events of 2 s, the longest pass, are claimed.
                if let Step::Pass(_) = step {
                    let ahead = run.bucket.rate() * 2.0 + run.bucket.burst();
                    while run.waiting.iter().map(|w| w.2).sum::<f64>() <= ahead {
                        run.step(&Step::Claim(costs.max(ahead / 50.0)));
                    }
                }
                let before = (run.offered, run.served.iter().map(|s| s.cost).sum::<f64>());
                let head = run.waiting.iter().map(|w| w.2).fold(0.0, f64::max);
                run.step(step);
                let delivered = run.served.iter().map(|s| s.cost).sum::<f64>() - before.1;
                let earned = run.offered - before.0;
                prop_assert!(delivered >= earned - head - DUST, "{delivered} of {earned}");
            }
            for served in &run.served {
                prop_assert!(served.credit_after <= run.burst_max + DUST);
            }
        }

        /// Prevents: a reject with a wrong time: at the instant it names, the try succeeds.
        #[test]
        fn a_refused_try_succeeds_at_the_instant_it_was_told(
            rate in 0.5f64..20_000.0, debt in 0.0f64..2_000.0, cost in 0.0f64..2_000.0,
        ) {
            let now = Instant::now();
            let mut bucket = Bucket::new(rate, None, now);
            bucket.claim(debt, now);
            if let Err(due) = bucket.try_claim(cost, now) {
                let Due::At(at) = due else { panic!("the rate is not 0: {due:?}") };
                prop_assert!(bucket.try_claim(cost, at - Duration::from_micros(1)).is_err());
                prop_assert!(bucket.try_claim(cost, at).is_ok());
            }
        }
    }

    #[test]
    fn a_rate_change_plans_anew_for_those_who_wait() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2_000.0, Some(1.0), start);
        bucket.set_rate(200.0, start);
        let place = bucket.claim(401.0, start);
        let Due::At(slow) = bucket.due(place, start) else { panic!("2 s away") };
        assert_eq!((slow - start).as_millis(), 2_000);
        // After 1 s at 200/s, 200 tokens are missing: 100 ms at 2,000/s.
        let restored = start + Duration::from_secs(1);
        bucket.set_rate(2_000.0, restored);
        let Due::At(fast) = bucket.due(place, restored) else { panic!("100 ms away") };
        assert_eq!((fast - restored).as_millis(), 100);
    }

    #[test]
    fn a_pause_has_no_due_time_and_extreme_rates_do_not_panic() {
        let now = Instant::now();
        for rate in [0.0, f64::MIN_POSITIVE, 1e-12] {
            let mut bucket = Bucket::new(rate, None, now);
            let place = bucket.claim(2.0, now);
            assert_ne!(bucket.due(place, now + Duration::from_secs(60)), Due::Now, "{rate}");
            assert!(rate > 0.0 || bucket.drained(now) == Due::Unknown);
        }
        let mut bucket = Bucket::new(1e9, None, now);
        bucket.claim(1e15, now);
        assert!(matches!(bucket.drained(now), Due::At(_)));
    }

    /// Prevents: a pause that serves what was saved up before it, or a bucket that is made during it.
    #[test]
    fn at_a_rate_of_0_nothing_is_saved_up() {
        let now = Instant::now();
        let mut bucket = Bucket::new(2_000.0, Some(200.0), now);
        bucket.set_rate(0.0, now);
        let mut new = Bucket::new(0.0, Some(200.0), now);
        for bucket in [&mut bucket, &mut new] {
            let place = bucket.claim(1.0, now);
            assert_eq!(bucket.due(place, now + Duration::from_secs(60)), Due::Unknown);
        }
    }

    /// Prevents: a full bucket that is never called full, because its sum was rounded down.
    #[test]
    fn a_bucket_fills_whatever_was_claimed() {
        let now = Instant::now();
        for tokens in 1..2_000 {
            let mut bucket = Bucket::new(1_234.0, None, now);
            bucket.claim(f64::from(tokens), now);
            assert!(!bucket.is_full(now));
            assert!(bucket.is_full(now + Duration::from_secs(10)), "{tokens}");
        }
    }

    #[test]
    fn time_that_goes_back_earns_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut bucket = Bucket::new(100.0, Some(1.0), now);
        let place = bucket.claim(2.0, now);
        let due = bucket.due(place, now);
        assert_eq!(bucket.due(place, now - Duration::from_secs(5)), due);
    }
}
