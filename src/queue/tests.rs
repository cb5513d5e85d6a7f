//! One contract for every kind, under the same names: capacity, order, close wakes the waiter,
//! nothing lost on close.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use super::*;

impl Load for u32 {
    fn events(&self) -> usize {
        1
    }

    fn split_off(&mut self, _at: usize) -> Self {
        panic!("a single event is not cut")
    }
}

impl Load for (u64, u32) {
    fn events(&self) -> usize {
        1
    }

    fn split_off(&mut self, _at: usize) -> Self {
        panic!("a single event is not cut")
    }
}

/// A run of so many events.
#[derive(Debug, PartialEq, Eq)]
struct Events(usize);

impl Load for Events {
    fn events(&self) -> usize {
        self.0
    }

    fn split_off(&mut self, at: usize) -> Self {
        let rest = self.0 - at;
        self.0 = at;
        Self(rest)
    }
}

const LONG: Duration = Duration::from_secs(30);

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("not 0")
}

fn drain<T: Load>(outlet: &Outlet<T>) -> Vec<T> {
    let mut out = Vec::new();
    while let Dequeued::Run(event) = outlet.dequeue(LONG) {
        out.push(event);
    }
    out
}

macro_rules! contract {
    ($name:ident, $kind:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn order_is_kept_and_nothing_is_lost_on_close() {
                let (intake, mut outlets, occupancy) = shared::<u32>($kind, n(1));
                let outlet = outlets.remove(0);
                let sender = thread::spawn(move || {
                    for event in 0..1000 {
                        assert_eq!(intake.offer(0, event, LONG), Offer::Queued);
                    }
                });
                assert_eq!(drain(&outlet), (0..1000).collect::<Vec<_>>());
                sender.join().expect("no panic");
                assert_eq!((occupancy.depth(), occupancy.entered()), (0, 1000));
            }

            #[test]
            fn close_wakes_the_waiting_worker() {
                let (intake, mut outlets, _) = shared::<u32>($kind, n(1));
                let outlet = outlets.remove(0);
                let worker = thread::spawn(move || outlet.dequeue(LONG));
                drop(intake);
                assert_eq!(worker.join().expect("no panic"), Dequeued::Closed);
            }

            #[test]
            fn a_closed_queue_gives_the_event_back() {
                let (intake, outlets, occupancy) = shared::<u32>($kind, n(1));
                drop(outlets);
                assert_eq!(intake.offer(0, 7, LONG), Offer::Closed(7));
                assert_eq!(occupancy.depth(), 0);
            }

            #[test]
            fn a_closed_gate_refuses_new_events() {
                let (intake, _outlets, _) = shared::<u32>($kind, n(1));
                intake.gate().close();
                assert_eq!(intake.offer(0, 7, LONG), Offer::Closed(7));
            }

            #[test]
            fn the_capacity_is_what_it_says() {
                let (intake, _outlets, occupancy) = shared::<u32>($kind, n(1));
                let tried = 5000;
                let kind: Kind = $kind;
                let fits = kind.capacity().unwrap_or(tried);
                for event in 0..tried as u32 {
                    let offer = intake.offer(0, event, Duration::ZERO);
                    let expected =
                        if (event as usize) < fits { Offer::Queued } else { Offer::Full(event) };
                    assert_eq!(offer, expected);
                    assert_eq!(occupancy.depth(), fits.min(event as usize + 1) as u64);
                }
            }

            /// Prevents: a capacity that depends on how long the runs are.
            #[test]
            fn the_capacity_counts_events_and_a_worker_makes_room() {
                let kind: Kind = $kind;
                let (intake, outlets, occupancy) = shared::<Events>(kind, n(1));
                let fits = kind.capacity().unwrap_or(5000) / 7;
                for _ in 0..fits {
                    assert_eq!(intake.offer(0, Events(7), Duration::ZERO), Offer::Queued);
                }
                assert_eq!(occupancy.depth(), 7 * fits as u64);
                if kind.capacity().is_some() {
                    assert_eq!(intake.offer(0, Events(7), Duration::ZERO), Offer::Full(Events(7)));
                }
                // One end stays here: the queue is not closed when the sender has ended.
                let offering = intake.clone();
                let sender = thread::spawn(move || offering.offer(0, Events(7), LONG));
                while !sender.is_finished() {
                    let taken = outlets[0].dequeue(Duration::from_millis(1));
                    assert!(matches!(taken, Dequeued::Run(Events(7)) | Dequeued::Nothing));
                }
                assert_eq!(sender.join().expect("no panic"), Offer::Queued);
                assert!(occupancy.depth() <= 7 * fits.max(1) as u64);
            }

            #[test]
            fn a_key_always_goes_to_the_same_worker_in_order() {
                let (intake, outlets, _) = by_shard::<(u64, u32)>($kind, n(3));
                let workers: Vec<_> =
                    outlets.into_iter().map(|o| thread::spawn(move || drain(&o))).collect();
                for i in 0..300 {
                    let key = u64::from(i % 10);
                    let shard = shard(key, intake.shards());
                    assert_eq!(intake.offer(shard, (key, i), LONG), Offer::Queued);
                }
                drop(intake);
                let mut owner = std::collections::HashMap::new();
                for (worker, handle) in workers.into_iter().enumerate() {
                    let mut last = std::collections::HashMap::new();
                    for (key, i) in handle.join().expect("no panic") {
                        assert_eq!(*owner.entry(key).or_insert(worker), worker);
                        assert!(last.insert(key, i).is_none_or(|before| before < i));
                    }
                }
                assert_eq!(owner.len(), 10);
            }
        }
    };
}

contract!(bounded, Kind::Bounded(n(1000)));
contract!(unbounded, Kind::Unbounded);
contract!(pull, Kind::Pull);
contract!(spill_in_memory, Kind::Spill(n(1000)));
