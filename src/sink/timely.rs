//! The most events of a call, so that a call is answered in time and its body is taken.
//!
//! What failed is halved. It grows again, but a number that failed is remembered: it is tried again
//! only after a wait, which doubles each time that it fails after smaller calls went through. So a
//! sink that takes no more than so much is asked for more once in ten minutes in the end, and one
//! that was slow for a while gets whole batches again within a second.

use std::time::{Duration, Instant};

/// The first wait before a number that failed is tried again, and the longest.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub struct Timely {
    most: usize,
    /// The last number that failed, and when it may be tried again.
    failed: Option<(usize, Instant)>,
    wait: Duration,
    /// Whether a call went through since a number failed.
    went_through: bool,
}

impl Default for Timely {
    fn default() -> Self {
        Self { most: usize::MAX, failed: None, wait: WAIT_MIN, went_through: false }
    }
}

impl Timely {
    /// The most events of the next call.
    pub fn most(&self) -> usize {
        self.most
    }

    /// A call of `events` was not answered in time, or its body was not taken.
    pub fn failed(&mut self, events: usize, now: Instant) {
        let is_again = self.went_through && self.failed.is_some_and(|(failed, _)| events >= failed);
        if is_again {
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
        self.went_through = false;
        self.failed = Some((events, now + self.wait));
        self.most = (events / 2).max(1);
    }

    /// A call of `events` went through; `is_fast` is far within its time. At most `all` are ever asked for.
    pub fn went_through(&mut self, events: usize, is_fast: bool, all: usize, now: Instant) {
        self.went_through = true;
        if let Some((failed, again)) = self.failed {
            if events >= failed {
                (self.failed, self.wait) = (None, WAIT_MIN);
            } else if now < again {
                return;
            }
        }
        if is_fast && self.most < all {
            self.most = self.most.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a sink that takes no more than so much and gets more in every second call; one
    /// that was slow for a while and gets small calls ever after.
    #[test]
    fn what_failed_is_tried_again_more_and_more_rarely_until_it_goes_through() {
        let (mut timely, mut now) = (Timely::default(), Instant::now());
        let mut refused = 0;
        let mut calls = |timely: &mut Timely, seconds: u64, limit: usize| {
            refused = 0;
            for _ in 0..seconds * 10 {
                now += Duration::from_millis(100);
                let events = timely.most().min(200);
                if events > limit {
                    refused += 1;
                    timely.failed(events, now);
                } else {
                    timely.went_through(events, true, 200, now);
                }
            }
            refused
        };
        let hour = calls(&mut timely, 3_600, 110);
        assert!((8..=16).contains(&hour), "{hour} in an hour");
        assert_eq!(timely.most(), 100);
        calls(&mut timely, 1_200, 200);
        assert!(timely.most() >= 200, "{timely:?}");
        // Slow for a minute, and no call goes through meanwhile.
        calls(&mut timely, 60, 0);
        assert_eq!(timely.most(), 1);
        calls(&mut timely, 3, 200);
        assert!(timely.most() >= 200, "{timely:?}");
    }
}
