//! A rate by CUBIC: AWS SDK's adaptive retry mode. Ported from boto/botocore, `botocore/retries/adaptive.py`,
//! `throttling.py` and `bucket.py` (at 40454ea), with their constants. It counts requests, whatever is in them, and
//! limits nothing before the first refusal. A refused request waits as `standard.py` has it (at 0719e79), and takes a
//! token again. That SDK gives up after three attempts; here a batch is tried until it is served.

use std::time::{Duration, Instant};

use super::{Again, Call, Ended, Knob, Outcome, Verdict, at, seconds_between};

const SCALE: f64 = 0.4;
const BETA: f64 = 0.7;
/// The rate is at most so many times the measured one.
const MAX_RATE_ADJUST: f64 = 2.0;
/// Least rate, requests/s.
const MIN_RATE: f64 = 0.5;
/// The measured rate: each half second, the newest weighted so.
const BUCKET_S: f64 = 0.5;
const NEWEST: f64 = 0.8;
/// Longest backoff, s; it doubles from 1.
const BACKOFF_MAX_S: f64 = 20.0;

/// The controller. Times are s since its beginning.
pub struct Cubic {
    start: Instant,
    enabled: bool,
    /// CUBIC: the rate at the last refusal, how long it takes to be back there, and when that was.
    rate_max: f64,
    k: f64,
    refused: f64,
    /// The token bucket.
    rate: f64,
    capacity: f64,
    tokens: f64,
    filled: f64,
    /// The measured rate, the answers of this half second, and its beginning.
    measured: f64,
    count: f64,
    bucket: f64,
}

impl Cubic {
    /// Before the first request.
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            enabled: false,
            rate_max: 0.0,
            k: 0.0,
            refused: 0.0,
            rate: 1.0,
            capacity: 1.0,
            tokens: 0.0,
            filled: 0.0,
            measured: 0.0,
            count: 0.0,
            bucket: 0.0,
        }
    }

    fn fill(&mut self, t: f64) {
        self.tokens = (self.tokens + (t - self.filled) * self.rate).min(self.capacity);
        self.filled = t;
    }

    fn set_rate(&mut self, rate: f64, t: f64) {
        self.fill(t);
        self.rate = rate.max(MIN_RATE);
        self.capacity = rate.max(1.0);
        self.tokens = self.tokens.min(self.capacity);
    }

    fn measure(&mut self, t: f64) {
        let bucket = (t / BUCKET_S).floor() * BUCKET_S;
        self.count += 1.0;
        if bucket > self.bucket {
            let newest = self.count / (bucket - self.bucket);
            self.measured = newest * NEWEST + self.measured * (1.0 - NEWEST);
            (self.count, self.bucket) = (0.0, bucket);
        }
    }
}

impl Knob for Cubic {
    fn begin(&mut self, call: &Call) -> Verdict {
        if !self.enabled {
            return Verdict::Go;
        }
        self.fill(seconds_between(self.start, call.begun));
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Verdict::Go;
        }
        Verdict::At(at(call.begun, (1.0 - self.tokens) / self.rate))
    }

    fn ended(&mut self, call: &Call, outcome: &Outcome, now: Instant, chance: f64) -> Again {
        let t = seconds_between(self.start, now);
        self.measure(t);
        let rate = if outcome.ended == Ended::Limited {
            let used = if self.enabled { self.measured.min(self.rate) } else { self.measured };
            self.rate_max = used;
            self.k = (used * (1.0 - BETA) / SCALE).cbrt();
            self.refused = t;
            self.enabled = true;
            used * BETA
        } else {
            SCALE * (t - self.refused - self.k).powi(3) + self.rate_max
        };
        self.set_rate(rate.min(MAX_RATE_ADJUST * self.measured), t);
        match outcome.ended {
            Ended::Limited => {
                let most = 2f64.powi(call.retries.min(10) as i32).min(BACKOFF_MAX_S);
                Again::Aside(Duration::from_secs_f64(chance * most))
            }
            _ => Again::AsTold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(begun: Instant) -> Call {
        Call { worker: 0, events: 10, retries: 0, first: begun, begun, in_flight: 1 }
    }

    /// Prevents: a cubic that is not theirs: after a refusal at w it goes on at 0.7 w, and is back at w after
    /// K = ∛(w (1 − 0.7) / 0.4) s.
    #[test]
    fn after_a_refusal_the_rate_is_back_where_it_was_after_k_seconds() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        let ms = |n: u64| start + Duration::from_millis(n);
        let end = |cubic: &mut Cubic, n, ended| {
            cubic.ended(&call(ms(n)), &Outcome::bare(ended), ms(n), 0.5);
        };
        // 100 answers a second.
        (1..400).for_each(|n| end(&mut cubic, 10 * n, Ended::Acked));
        assert_eq!(cubic.begin(&call(ms(4_000))), Verdict::Go, "no refusal, no limit");
        end(&mut cubic, 4_000, Ended::Limited);
        let w = cubic.rate_max;
        assert!((w - 100.0).abs() < 3.0, "{w}");
        assert!((cubic.rate - 0.7 * w).abs() < 1e-9);
        let k_ms = (w * 0.3 / 0.4).cbrt() * 1e3;
        for n in 401..600 {
            end(&mut cubic, 10 * n, Ended::Acked);
            let t = 10.0 * n as f64 - 4_000.0;
            assert!(t >= k_ms || cubic.rate <= w, "{} after {t} ms", cubic.rate);
        }
        let expected = 0.4 * (1.99 - k_ms / 1e3).powi(3) + w;
        assert!((cubic.rate - expected).abs() < 1e-6, "{} {expected}", cubic.rate);
        // Requests follow the bucket from now on.
        let begun = (0..1_000).filter(|_| cubic.begin(&call(ms(5_990))) == Verdict::Go).count();
        assert!(begun as f64 <= cubic.capacity, "{begun}");
        assert!(matches!(cubic.begin(&call(ms(5_990))), Verdict::At(_)));
    }

    #[test]
    fn it_is_never_slower_than_half_a_request_a_second() {
        let start = Instant::now();
        let mut cubic = Cubic::new(start);
        for n in 0..200 {
            let now = start + Duration::from_millis(n * 10);
            cubic.ended(&call(now), &Outcome::bare(Ended::Limited), now, 0.5);
            assert!(cubic.rate >= MIN_RATE);
        }
        let now = start + Duration::from_secs(5);
        assert_eq!(cubic.begin(&call(now)), Verdict::Go);
    }
}
