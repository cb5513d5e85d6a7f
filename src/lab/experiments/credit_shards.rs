//! What a window of credit per shard would cost and save against one for all, computed: it is not built, as a producer
//! would have to know the shards of its consumers and hold back the events of some.
//!
//! Nothing here is fitted: keys are drawn from the seed as the producer draws them, and sent to shards as the queue sends
//! them.

use super::{ArmSetup, Setup, Table};
use crate::event;
use crate::lab::text::figure;
use crate::load::keys::Keys;
use crate::queue;

/// Events that the shares are counted over.
const DRAWS: u64 = 100_000;

/// The share of each worker's shard, the largest first, where keys are drawn with this exponent.
fn shares(arm: &ArmSetup, skew: f64) -> Vec<f64> {
    let Ok(keys) = Keys::new(arm.keys, skew) else { return Vec::new() };
    let mut shards = vec![0.0; arm.workers as usize];
    for id in 0..DRAWS {
        let shard = queue::shard(keys.draw(&mut event::stream(arm.seed, id)), shards.len());
        if let Some(share) = shards.get_mut(shard) {
            *share += 1.0 / DRAWS as f64;
        }
    }
    shards.sort_by(|a, b| b.total_cmp(a));
    shards
}

/// What each of `wants` gets of `all`, if nobody gets more than another who wants it: the water level.
fn level(all: f64, wants: &[f64]) -> f64 {
    let mut low = wants.to_vec();
    low.sort_by(f64::total_cmp);
    let (mut rest, mut level) = (all, 0.0);
    for (n, want) in low.iter().enumerate() {
        let each = rest / (low.len() - n) as f64;
        if *want > each {
            return each;
        }
        rest -= want;
        level = *want;
    }
    level
}

/// A row for each of `skews`, where a round trip takes `trip` s.
pub fn table(setup: &Setup, arm: &ArmSetup, trip: f64, skews: [f64; 3]) -> Table {
    let (offered, ceiling, window) = (setup.overload().rate, setup.ceiling, arm.credit_window);
    let row = |skew: f64| {
        let shares = shares(arm, skew);
        let most = shares.first().copied().unwrap_or(f64::NAN);
        let each = window / shares.len() as f64 / trip;
        let wants: Vec<f64> = shares.iter().map(|share| (offered * share).min(each)).collect();
        let hottest = wants.first().copied().unwrap_or(f64::NAN).min(level(ceiling, &wants));
        let others: f64 = wants.iter().skip(1).sum();
        let needs = shares.len() as f64 * most * ceiling * trip;
        [
            skew,
            100.0 * most,
            most * ceiling.min(window / trip),
            hottest,
            ceiling * trip,
            needs,
            0.0,
            others.min(ceiling),
        ]
        .map(figure)
        .to_vec()
    };
    let head = [
        "Zipf exponent",
        "hottest shard, % of the load",
        "it gets with one window, events/s",
        "with a window per shard",
        "least window for its share: one",
        "per shard, in all",
        "delivered while it stands: one window",
        "per shard",
    ];
    let title = format!(
        "What a window per shard would cost and save (computed: {} shards, {} events)",
        figure(f64::from(arm.workers)),
        figure(window)
    );
    Table::new(&title, &head, skews.map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_another_who_wants_it() {
        assert!((level(10.0, &[8.0, 1.0, 8.0]) - 4.5).abs() < 1e-9);
        assert!((level(10.0, &[1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
