//! How long to wait before trying a dead dependency again: exponential with equal jitter, so that
//! many clients do not return at the same time ("Exponential Backoff And Jitter", AWS Architecture
//! Blog, 2015).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use crate::clock;

/// The lab's first and longest wait for brokers and the sink.
const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(2);

/// The standard wait before retry `retry`, from 0, for a `chance` that is uniform in 0 to 1; for code whose time is
/// simulated.
pub fn standard_wait(retry: u32, chance: f64) -> Duration {
    below(FIRST.saturating_mul(1 << retry.min(10)).min(MOST), chance)
}

/// Between half of `ceiling` and all of it.
fn below(ceiling: Duration, chance: f64) -> Duration {
    ceiling.mul_f64(0.5 + chance / 2.0)
}

/// A growing, jittered wait.
pub struct Backoff {
    first: Duration,
    most: Duration,
    ceiling: Duration,
    rng: Xoshiro256PlusPlus,
}

impl Backoff {
    /// Waits that start near `first` and double up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        let seed = clock::now_us().unsigned_abs() ^ (u64::from(std::process::id()) << 32);
        Self { first, most, ceiling: first, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The lab's waits for brokers and the sink: 50 ms up to 2 s.
    pub fn standard() -> Self {
        Self::new(FIRST, MOST)
    }

    /// The next wait: between half the current ceiling and all of it; the ceiling then doubles.
    pub fn wait(&mut self) -> Duration {
        let wait = below(self.ceiling, self.rng.random_range(0.0..=1.0));
        self.ceiling = (self.ceiling * 2).min(self.most);
        wait
    }

    /// The dependency answered: the next wait is short again.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

/// Partitions that failed and are left alone for a while. Each has its own backoff, so that one
/// does not hold up the others. A partition's waits grow until [`Resting::works`] is called for it.
#[derive(Default)]
pub struct Resting(BTreeMap<i32, Rest>);

struct Rest {
    backoff: Backoff,
    until: Instant,
}

impl Resting {
    /// Leaves `partition` alone for its next wait. True when it worked before.
    pub fn rest(&mut self, partition: i32) -> bool {
        let before = self.0.len();
        let rest = self
            .0
            .entry(partition)
            .or_insert_with(|| Rest { backoff: Backoff::standard(), until: Instant::now() });
        rest.until = Instant::now() + rest.backoff.wait();
        self.0.len() > before
    }

    /// Whether `partition` may be tried at `now`.
    pub fn is_awake(&self, partition: i32, now: Instant) -> bool {
        self.0.get(&partition).is_none_or(|rest| rest.until <= now)
    }

    /// `partition` works. True when it had failed.
    pub fn works(&mut self, partition: i32) -> bool {
        self.0.remove(&partition).is_some()
    }

    /// Forgets all but `those`.
    pub fn keep(&mut self, those: impl Fn(i32) -> bool) {
        self.0.retain(|partition, _| those(*partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_reset() {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<Duration> = (0..20).map(|_| backoff.wait()).collect();
        assert!(waits[0] <= first && waits[0] >= first / 2);
        assert!(waits.iter().all(|w| *w <= most));
        assert!(waits[19] >= most / 2);
        backoff.reset();
        assert!(backoff.wait() <= first);
    }

    #[test]
    fn the_standard_waits_are_those_of_the_standard_backoff() {
        let mut backoff = Backoff::standard();
        for retry in 0..12 {
            let wait = backoff.wait();
            assert!((standard_wait(retry, 0.0)..=standard_wait(retry, 1.0)).contains(&wait));
        }
    }

    #[test]
    fn a_partition_rests_alone_until_its_wait_is_over_or_it_works() {
        let mut resting = Resting::default();
        assert!(resting.rest(3) && !resting.rest(3), "only the first is news");
        let now = Instant::now();
        assert!(!resting.is_awake(3, now) && resting.is_awake(4, now));
        assert!(resting.is_awake(3, now + Duration::from_secs(2)));
        assert!(!resting.rest(3), "its wait was over, and it still had not worked");
        assert!(resting.works(3) && !resting.works(3));
        assert!(resting.is_awake(3, now));
        resting.rest(3);
        resting.keep(|partition| partition == 4);
        assert!(resting.is_awake(3, now));
    }
}
