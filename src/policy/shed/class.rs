//! Which events are of high priority: a share of the ids, spread evenly over them.
//!
//! A pure function of the id, so that the audit knows the class of an id that never arrived.

use crate::queue::spread;

/// The share of ids that are of high priority.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Classes {
    /// From 0 to 1.
    pub high_share: f64,
}

/// Ids are told apart by 32 bits.
const STEPS: f64 = (1_u64 << 32) as f64;

impl Classes {
    /// Whether event `id` is of high priority.
    pub fn is_high(self, id: u64) -> bool {
        self.high_share > 0.0 && ((spread(id) >> 32) as f64) < self.high_share * STEPS
    }

    /// Where the event stands among those of its class, evenly from 0 to below 1: who is shed first when a share
    /// of them is. It says nothing of the class.
    pub(super) fn cohort(id: u64) -> f64 {
        f64::from(spread(id) as u32) / STEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a share that is not the one asked for, in a range of ids or in a part of it; cohorts that favour
    /// a class.
    #[test]
    fn a_tenth_of_any_thousand_ids_is_high_and_cohorts_are_even_in_it() {
        let classes = Classes { high_share: 0.1 };
        for from in [0_u64, 12_345, 1 << 40] {
            let ids = from..from + 10_000;
            let high: Vec<u64> = ids.filter(|id| classes.is_high(*id)).collect();
            assert!((900..1100).contains(&high.len()), "{} of 10,000 from {from}", high.len());
            let early = high.iter().filter(|id| Classes::cohort(**id) < 0.5).count();
            let share = early as f64 / high.len() as f64;
            assert!((0.4..0.6).contains(&share), "{share} of them in the first half");
        }
        assert!(!(0..1000).any(|id| Classes::default().is_high(id)));
        assert!((0..1000).all(|id| Classes { high_share: 1.0 }.is_high(id)));
    }
}
