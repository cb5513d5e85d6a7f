//! The ground truth of a run: which ids were delivered, how many of them more than once, and in
//! which order where order matters.
//!
//! Invariant: events = distinct + duplicates, and `distinct` is the size of the id set that an
//! audit can fetch. Ids are a bitmap: one bit each while they are dense (21 MB for a day at
//! 2,000/s); it grows with the distinct ids and with nothing else. It takes no clock and no lock.

use std::collections::HashMap;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

/// Keys whose order is watched: 16 bytes of data each, some 40 MB when all are in use. Events of
/// further keys are counted in `untracked`.
pub const KEYS_MAX: usize = 1_000_000;

/// What `GET /ledger` answers. Times are µs since the epoch, null before the first delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Events acked: distinct + duplicates.
    pub events: u64,
    /// Different ids among them.
    pub distinct: u64,
    /// Events whose id had been delivered before.
    pub duplicates: u64,
    /// First deliveries whose id is below the largest that was delivered of their key: each was overtaken.
    pub order_violations: u64,
    /// Events whose payload did not match their digest; they are delivered all the same.
    #[serde(default)]
    pub corrupt: u64,
    /// Requests acked.
    pub writes: u64,
    /// Keys whose order is watched, at most [`KEYS_MAX`].
    pub keys: u64,
    /// First deliveries whose order was not watched, because there were too many keys.
    pub untracked: u64,
    /// Lowest id delivered.
    pub min_id: Option<u64>,
    /// Highest id delivered.
    pub max_id: Option<u64>,
    /// When the first request was acked.
    pub first_delivery_us: Option<i64>,
    /// When the last request was acked.
    pub last_delivery_us: Option<i64>,
    /// Events per second from the first delivery to the last, the first request's not counted;
    /// null below two requests.
    pub events_per_second: Option<f64>,
}

/// The changes by one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Events whose id had been delivered before.
    pub duplicates: u64,
    /// First deliveries whose id is below the largest that was delivered of their key.
    pub order_violations: u64,
    /// True for the one request with the first key above the limit.
    pub keys_full: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    ids: RoaringTreemap,
    /// The largest delivered id of each key; a replay after a restart counts as duplicates, not as
    /// disorder.
    largest_by_key: HashMap<u64, u64>,
    events: u64,
    duplicates: u64,
    order_violations: u64,
    corrupt: u64,
    untracked: u64,
    writes: u64,
    /// Time and events of the first request.
    first: Option<(i64, u64)>,
    last_us: Option<i64>,
}

impl Ledger {
    /// Counts one request's events, each by its id and key, as delivered at `now_us` (µs since the
    /// epoch); `corrupt` of them did not match their digest.
    pub fn record(
        &mut self,
        events: impl Iterator<Item = (u64, u64)>,
        corrupt: u64,
        now_us: i64,
    ) -> Recorded {
        let mut recorded = Recorded::default();
        let mut count = 0;
        for (id, key) in events {
            count += 1;
            if !self.ids.insert(id) {
                recorded.duplicates += 1;
                continue;
            }
            let room = self.largest_by_key.len() < KEYS_MAX;
            match self.largest_by_key.get_mut(&key) {
                Some(largest) => {
                    recorded.order_violations += u64::from(id < *largest);
                    *largest = id.max(*largest);
                }
                None if room => drop(self.largest_by_key.insert(key, id)),
                None => {
                    recorded.keys_full |= self.untracked == 0;
                    self.untracked += 1;
                }
            }
        }
        self.events += count;
        self.duplicates += recorded.duplicates;
        self.order_violations += recorded.order_violations;
        self.corrupt += corrupt;
        self.writes += 1;
        self.first.get_or_insert((now_us, count));
        self.last_us = Some(now_us);
        recorded
    }

    /// The sums so far.
    pub fn totals(&self) -> Totals {
        let rate = self.first.zip(self.last_us).and_then(|((first_us, first_events), last_us)| {
            let seconds = (last_us - first_us) as f64 / 1e6;
            (seconds > 0.0).then(|| (self.events - first_events) as f64 / seconds)
        });
        Totals {
            events: self.events,
            distinct: self.ids.len(),
            duplicates: self.duplicates,
            order_violations: self.order_violations,
            corrupt: self.corrupt,
            writes: self.writes,
            keys: self.largest_by_key.len() as u64,
            untracked: self.untracked,
            min_id: self.ids.min(),
            max_id: self.ids.max(),
            first_delivery_us: self.first.map(|(us, _)| us),
            last_delivery_us: self.last_us,
            events_per_second: rate,
        }
    }

    /// Those of `ids` that were not delivered so far.
    pub fn missing(&self, ids: std::ops::Range<u64>) -> Vec<u64> {
        ids.filter(|id| !self.ids.contains(*id)).collect()
    }

    /// The ids delivered so far.
    pub fn ids(&self) -> RoaringTreemap {
        self.ids.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn record(ledger: &mut Ledger, events: &[(u64, u64)], now_us: i64) -> Recorded {
        ledger.record(events.iter().copied(), 0, now_us)
    }

    proptest! {
        /// Prevents a ground truth that does not add up or does not agree with counting by hand.
        #[test]
        fn sums_agree_with_a_naive_model(
            requests in proptest::collection::vec(
                proptest::collection::vec((0u64..60, 0u64..4), 1..20), 1..20,
            ),
        ) {
            let mut ledger = Ledger::default();
            let mut seen = BTreeSet::new();
            let mut deliveries: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            let (mut events, mut duplicates) = (0, 0);
            for (at, request) in requests.iter().enumerate() {
                record(&mut ledger, request, at as i64 * 1_000_000);
                for &(id, key) in request {
                    events += 1;
                    if seen.insert(id) {
                        deliveries.entry(key).or_default().push(id);
                    } else {
                        duplicates += 1;
                    }
                }
            }
            let violations: usize = deliveries
                .values()
                .map(|ids| (1..ids.len()).filter(|n| ids[..*n].iter().any(|id| *id > ids[*n])).count())
                .sum();
            let totals = ledger.totals();
            prop_assert_eq!(totals.events, totals.distinct + totals.duplicates);
            prop_assert_eq!(totals.events, events);
            prop_assert_eq!(totals.duplicates, duplicates);
            prop_assert_eq!(totals.order_violations, violations as u64);
            prop_assert_eq!(totals.keys, deliveries.len() as u64);
            prop_assert_eq!(totals.writes, requests.len() as u64);
            prop_assert_eq!(totals.min_id, seen.first().copied());
            prop_assert_eq!(totals.max_id, seen.last().copied());
            let missing: Vec<u64> = (10..60).filter(|id| !seen.contains(id)).collect();
            prop_assert_eq!(ledger.missing(10..60), missing);
            prop_assert_eq!(ledger.ids(), seen.into_iter().collect::<RoaringTreemap>());
            if requests.len() > 1 {
                let later: usize = requests.iter().skip(1).map(Vec::len).sum();
                let seconds = (requests.len() - 1) as f64;
                prop_assert_eq!(totals.events_per_second, Some(later as f64 / seconds));
            }
        }
    }

    #[test]
    fn a_replay_is_duplicates_and_no_disorder() {
        let mut ledger = Ledger::default();
        let run: Vec<(u64, u64)> = (0..10).map(|id| (id, 1)).collect();
        record(&mut ledger, &run, 0);
        let replay = record(&mut ledger, &run[5..], 1);
        assert_eq!((replay.duplicates, replay.order_violations), (5, 0));
        assert_eq!(record(&mut ledger, &[(12, 1), (11, 1)], 2).order_violations, 1);
    }

    /// Prevents: one event that overtakes many counted as one violation.
    #[test]
    fn each_event_that_was_overtaken_counts() {
        let mut ledger = Ledger::default();
        let events = [10, 1, 2, 3, 4].map(|id| (id, 1));
        assert_eq!(record(&mut ledger, &events, 0).order_violations, 4);
    }

    /// Prevents: sums of a sink from before the transform that cannot be read any more.
    #[test]
    fn sums_without_a_count_of_corrupt_events_have_none() {
        let mut ledger = Ledger::default();
        ledger.record([(1, 1), (2, 1)].into_iter(), 1, 0);
        let totals = ledger.totals();
        assert_eq!(totals.corrupt, 1);
        let text = serde_json::to_string(&totals).expect("JSON");
        let old = text.replace("\"corrupt\":1,", "");
        assert_ne!(text, old);
        let read: Totals = serde_json::from_str(&old).expect("without it");
        assert_eq!(read, Totals { corrupt: 0, ..totals });
    }

    #[test]
    fn keys_are_bounded_and_the_first_one_too_many_is_told_once() {
        let mut ledger = Ledger::default();
        let keys: Vec<(u64, u64)> = (0..KEYS_MAX as u64).map(|i| (i, i)).collect();
        assert!(!record(&mut ledger, &keys, 0).keys_full);
        let new = |i: u64| (KEYS_MAX as u64 + i, KEYS_MAX as u64 + i);
        assert!(record(&mut ledger, &[new(0), new(1)], 1).keys_full);
        assert!(!record(&mut ledger, &[new(2)], 2).keys_full);
        // A known key is still watched.
        let disorder = record(&mut ledger, &[(2_000_000, 7), (1_999_999, 7)], 3);
        assert_eq!(disorder.order_violations, 1);
        let totals = ledger.totals();
        assert_eq!((totals.keys, totals.untracked), (KEYS_MAX as u64, 3));
    }
}
