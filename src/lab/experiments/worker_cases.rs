//! The arms of experiment 4 as cases: how many workers, how they share events, how keys are drawn,
//! and the share of the fullest shard that follows.
//!
//! Nothing here is fitted: keys are drawn from the seed as the producer draws them, and sent to
//! shards as the queue sends them.

use super::Setup;
use crate::event;
use crate::load::keys::Keys;
use crate::queue;

/// The load's keys.
pub const KEYS: u64 = 100;
/// Exponent of the skewed keys.
pub const ZIPF: f64 = 1.0;

/// How an arm's workers share events, and how its keys are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The arm's name.
    pub arm: &'static str,
    /// Threads that call the sink.
    pub workers: u32,
    /// Whether each key has one worker.
    pub by_key: bool,
    /// Zipf exponent of the keys; 0 is uniform.
    pub skew: f64,
}

const fn case(arm: &'static str, workers: u32, by_key: bool, skew: f64) -> Case {
    Case { arm, workers, by_key, skew }
}

/// Every arm.
pub const CASES: [Case; 9] = [
    case("single", 1, false, 0.0),
    case("rr4-uniform", 4, false, 0.0),
    case("rr16-uniform", 16, false, 0.0),
    case("key4-uniform", 4, true, 0.0),
    case("key16-uniform", 16, true, 0.0),
    case("rr4-zipf", 4, false, ZIPF),
    case("rr16-zipf", 16, false, ZIPF),
    case("key4-zipf", 4, true, ZIPF),
    case("key16-zipf", 16, true, ZIPF),
];

/// The share of all offered events that the busiest of `case`'s workers gets: it bounds them all
/// once every queue is full.
pub fn busiest_share(setup: &Setup, case: Case) -> f64 {
    if !case.by_key {
        return 1.0 / f64::from(case.workers); // a free worker takes the next
    }
    let seed = setup.arms.first().map_or(0, |arm| arm.seed);
    let Ok(keys) = Keys::new(KEYS, case.skew) else { return f64::NAN };
    let ids = setup.offered().total(setup.end_s()) as u64;
    let mut shards = vec![0u64; case.workers as usize];
    for id in 0..ids {
        let shard = queue::shard(keys.draw(&mut event::stream(seed, id)), shards.len());
        if let Some(events) = shards.get_mut(shard) {
            *events += 1;
        }
    }
    shards.into_iter().max().unwrap_or(0) as f64 / ids as f64
}

/// The arm with as many workers on the same keys that does not keep order.
pub fn without_order(of: Case) -> Option<Case> {
    let same = |c: &Case| !c.by_key && c.workers == of.workers && c.skew == of.skew;
    CASES.into_iter().find(|c| of.by_key && same(c))
}

#[cfg(test)]
mod tests {
    use super::super::exp4;
    use super::*;

    // 100 uniform keys: the hash puts 13 of them into one of 16 shards, 30 into one of 4.
    #[test]
    fn the_busiest_worker_is_known_from_the_seed_and_the_hash() {
        let setup = Setup::quick(&exp4::EXPERIMENT);
        let share = |arm: &str| {
            let case = CASES.into_iter().find(|case| case.arm == arm).expect(arm);
            busiest_share(&setup, case)
        };
        assert!((share("key16-uniform") - 0.13).abs() < 0.01);
        assert!((share("key4-uniform") - 0.30).abs() < 0.01);
        // Of Zipf's 100 keys the first alone has 1 / H(100) = 19 %.
        assert!((share("key16-zipf") - 0.204).abs() < 0.01);
        assert_eq!((share("rr16-zipf"), share("single")), (1.0 / 16.0, 1.0));
    }
}
