//! How long to wait before trying a dead dependency again: exponential with equal jitter, so that
//! a fleet does not return in step ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

use rand::RngExt as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use crate::clock;

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
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// The next wait: between half the current ceiling and all of it; the ceiling then doubles.
    pub fn wait(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(self.rng.random_range(0.5..=1.0));
        self.ceiling = (self.ceiling * 2).min(self.most);
        wait
    }

    /// The dependency answered: the next wait is short again.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
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
}
