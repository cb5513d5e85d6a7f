//! The ground truth of a run: which ids were delivered, how often too often, and in which order
//! where order matters.
//!
//! Invariant: events = distinct + duplicates, and `distinct` is the size of the id set that an
//! audit can fetch. Ids are a bitmap: one bit each while they are dense (21 MB for a day at
//! 2,000/s); it grows with the distinct ids and with nothing else. It takes no clock and no lock.

use std::collections::HashMap;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use crate::event::Event;

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
    /// First deliveries with a lower id than their key's last first delivery.
    pub order_violations: u64,
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

/// What one request changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Events whose id had been delivered before.
    pub duplicates: u64,
    /// First deliveries with a lower id than their key's last.
    pub order_violations: u64,
    /// True for the one request that brought the first key too many.
    pub keys_full: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    ids: RoaringTreemap,
    /// Per key the id of its last first delivery: a replay after a restart is duplicates, no
    /// disorder.
    last_by_key: HashMap<u64, u64>,
    events: u64,
    duplicates: u64,
    order_violations: u64,
    untracked: u64,
    writes: u64,
    /// Time and events of the first request.
    first: Option<(i64, u64)>,
    last_us: Option<i64>,
}

impl Ledger {
    /// Counts one request's events as delivered at `now_us` (µs since the epoch).
    pub fn record(&mut self, events: &[Event], now_us: i64) -> Recorded {
        let mut recorded = Recorded::default();
        for event in events {
            if !self.ids.insert(event.id) {
                recorded.duplicates += 1;
                continue;
            }
            let room = self.last_by_key.len() < KEYS_MAX;
            match self.last_by_key.get_mut(&event.key) {
                Some(last) => {
                    recorded.order_violations += u64::from(event.id < *last);
                    *last = event.id;
                }
                None if room => drop(self.last_by_key.insert(event.key, event.id)),
                None => {
                    recorded.keys_full |= self.untracked == 0;
                    self.untracked += 1;
                }
            }
        }
        self.events += events.len() as u64;
        self.duplicates += recorded.duplicates;
        self.order_violations += recorded.order_violations;
        self.writes += 1;
        self.first.get_or_insert((now_us, events.len() as u64));
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
            writes: self.writes,
            keys: self.last_by_key.len() as u64,
            untracked: self.untracked,
            min_id: self.ids.min(),
            max_id: self.ids.max(),
            first_delivery_us: self.first.map(|(us, _)| us),
            last_delivery_us: self.last_us,
            events_per_second: rate,
        }
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

    fn event(id: u64, key: u64) -> Event {
        Event { id, key, ts_us: 0, payload: Box::default() }
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
                let request: Vec<Event> = request.iter().map(|&(id, key)| event(id, key)).collect();
                ledger.record(&request, at as i64 * 1_000_000);
                for e in &request {
                    events += 1;
                    if seen.insert(e.id) {
                        deliveries.entry(e.key).or_default().push(e.id);
                    } else {
                        duplicates += 1;
                    }
                }
            }
            let violations: usize = deliveries
                .values()
                .map(|ids| ids.windows(2).filter(|pair| pair[1] < pair[0]).count())
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
        let run: Vec<Event> = (0..10).map(|id| event(id, 1)).collect();
        ledger.record(&run, 0);
        let replay = ledger.record(&run[5..], 1);
        assert_eq!((replay.duplicates, replay.order_violations), (5, 0));
        assert_eq!(ledger.record(&[event(12, 1), event(11, 1)], 2).order_violations, 1);
    }

    #[test]
    fn keys_are_bounded_and_the_first_one_too_many_is_told_once() {
        let mut ledger = Ledger::default();
        let keys: Vec<Event> = (0..KEYS_MAX as u64).map(|i| event(i, i)).collect();
        assert!(!ledger.record(&keys, 0).keys_full);
        let new = |i: u64| event(KEYS_MAX as u64 + i, KEYS_MAX as u64 + i);
        assert!(ledger.record(&[new(0), new(1)], 1).keys_full);
        assert!(!ledger.record(&[new(2)], 2).keys_full);
        // A known key is still watched.
        assert_eq!(
            ledger.record(&[event(2_000_000, 7), event(1_999_999, 7)], 3).order_violations,
            1
        );
        let totals = ledger.totals();
        assert_eq!((totals.keys, totals.untracked), (KEYS_MAX as u64, 3));
    }
}
