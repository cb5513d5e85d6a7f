//! One contract for every kind, under the same names: capacity, order, close wakes the waiter,
//! nothing lost on close.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("not 0")
}

fn drain<T>(outlet: &Outlet<T>) -> Vec<T> {
    let mut out = Vec::new();
    while let Taken::Event(event) = outlet.take(LONG) {
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
                let worker = thread::spawn(move || outlet.take(LONG));
                drop(intake);
                assert_eq!(worker.join().expect("no panic"), Taken::Closed);
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

            #[test]
            fn a_key_always_goes_to_the_same_worker_in_order() {
                let (intake, outlets, _) = by_lane::<(u64, u32)>($kind, n(3));
                let workers: Vec<_> =
                    outlets.into_iter().map(|o| thread::spawn(move || drain(&o))).collect();
                for i in 0..300 {
                    let key = u64::from(i % 10);
                    assert_eq!(intake.offer(key, (key, i), LONG), Offer::Queued);
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
