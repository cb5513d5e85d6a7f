//! The end of a run: the signal that wakes everyone, and the gate that closes the queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shuttle::rand::Rng as _;
use shuttle::thread;

use crate::ends::{self, Dequeued, Intake, Load, Occupancy, Offer, Outlet, Shard};
use crate::stop::Stop;
use crate::sync::channel::{self, NEVER};
use crate::{every_order, many_orders};

/// A wait that ends whenever the scheduler likes.
const A_WHILE: Duration = Duration::from_millis(1);

/// Defect prevented: the run is told to end because of a failure, and ends with exit code 0.
#[test]
fn whom_a_failure_wakes_finds_its_reason() {
    many_orders(|| {
        let stop = Stop::default();
        let failing = stop.clone();
        let failing = thread::spawn(move || failing.fail("first"));
        assert!(stop.wait(NEVER) && stop.is_set());
        assert!(stop.outcome().is_err());
        failing.join().expect("no panic");
    });
}

/// Defect prevented: a later failure, often a result of the first, hides the cause.
#[test]
fn the_first_reason_stays() {
    many_orders(|| {
        let stop = Stop::default();
        let why = |stop: &Stop| stop.outcome().err().map(|failure| failure.to_string());
        let (setting, failing) = (stop.clone(), stop.clone());
        let threads = [
            thread::spawn(move || setting.set()),
            thread::spawn(move || {
                failing.fail("one");
                let first = why(&failing);
                failing.fail("another");
                assert_eq!(why(&failing), first);
            }),
        ];
        assert!(stop.wait(NEVER));
        let early = why(&stop);
        for thread in threads {
            thread.join().expect("no panic");
        }
        let late = why(&stop);
        assert!(stop.is_set() && late.as_deref() == Some("one"));
        assert!(early.is_none() || early == late);
    });
}

/// A single event as a run.
impl Load for u32 {
    fn events(&self) -> usize {
        1
    }

    fn split_off(&mut self, _at: usize) -> Self {
        panic!("a single event is not cut")
    }
}

/// A queue of one shard as `queue::Kind::open` makes it, and its receiver.
fn queue(
    capacity: usize,
    workers: usize,
) -> (Intake<u32>, Vec<Outlet<u32>>, Occupancy, channel::Receiver<u32>) {
    let (sender, receiver) = channel::bounded(capacity);
    let limit = (1..usize::MAX).contains(&capacity).then_some(capacity as u64);
    let receivers = vec![receiver.clone(); workers];
    let (intake, outlets, occupancy) = ends::join(vec![Shard { sender, receivers, limit }]);
    (intake, outlets, occupancy, receiver)
}

/// The fate of each event.
#[derive(Default)]
struct Fates {
    taken: Mutex<BTreeMap<u32, usize>>,
    given_back: Mutex<BTreeMap<u32, usize>>,
    /// In the queue before the gate began to close.
    in_time: Mutex<Vec<u32>>,
    closing: AtomicBool,
    closed: AtomicBool,
}

fn count(fates: &Mutex<BTreeMap<u32, usize>>, event: u32) {
    *fates.lock().expect("whole").entry(event).or_default() += 1;
}

/// A producer like `policy::Admission`: it waits for room until the queue is closed.
fn produce(intake: &Intake<u32>, mut events: std::ops::Range<u32>, fates: &Fates) {
    for event in events.by_ref() {
        loop {
            let late = fates.closed.load(Ordering::SeqCst);
            match intake.offer(0, event, A_WHILE) {
                Offer::Full(_) => continue,
                Offer::Closed(_) => count(&fates.given_back, event),
                Offer::Queued => {
                    assert!(!late, "a closed gate lets event {event} in");
                    if !fates.closing.load(Ordering::SeqCst) {
                        fates.in_time.lock().expect("whole").push(event);
                    }
                }
            }
            break;
        }
    }
}

/// A worker that drains: it goes on until the queue says that it is closed.
fn work(outlet: &Outlet<u32>, fates: &Fates) {
    loop {
        match outlet.dequeue(A_WHILE) {
            Dequeued::Run(event) => count(&fates.taken, event),
            Dequeued::Nothing => {}
            Dequeued::Closed => return,
        }
    }
}

/// One worker alone shows faults that another would hide; two show faults between them.
fn stop_while_events_move(capacity: usize) {
    many_orders(move || stop_once(capacity, 1));
    many_orders(move || stop_once(capacity, 2));
}

fn stop_once(capacity: usize, workers: usize) {
    let (intake, outlets, occupancy, inside) = queue(capacity, workers);
    let fates = Arc::new(Fates::default());
    let mut threads = Vec::new();
    for n in 0..2 {
        let (intake, fates) = (intake.clone(), Arc::clone(&fates));
        threads.push(thread::spawn(move || produce(&intake, n * 2..n * 2 + 2, &fates)));
    }
    for outlet in outlets {
        let fates = Arc::clone(&fates);
        threads.push(thread::spawn(move || work(&outlet, &fates)));
    }
    // A fair chance for the gate to close early, late and in between.
    for _ in 0..shuttle::rand::thread_rng().gen_range(0..40) {
        thread::yield_now();
    }
    fates.closing.store(true, Ordering::SeqCst);
    intake.gate().close();
    fates.closed.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().expect("no panic");
    }
    let taken = fates.taken.lock().expect("whole").clone();
    for event in fates.in_time.lock().expect("whole").iter() {
        assert!(taken.contains_key(event), "event {event} was inside and is not drained");
    }
    let mut left = 0;
    let mut fate = taken;
    for (event, times) in fates.given_back.lock().expect("whole").iter() {
        *fate.entry(*event).or_default() += times;
    }
    while let Ok(event) = inside.try_recv() {
        *fate.entry(event).or_default() += 1;
        left += 1;
    }
    assert_eq!(fate, (0..4).map(|event| (event, 1)).collect(), "not one fate each");
    assert_eq!(occupancy.depth(), left, "occupancy is not what is inside");
    assert!(capacity > 0 || left == 0, "nothing can be inside a queue without room");
}

/// Defect prevented: a worker whose wait ends just before an event comes in, and which checks the
/// gate just after it closed, ends and leaves the event to the next owner.
#[test]
fn closed_means_that_what_was_inside_is_taken() {
    every_order(|| {
        let (intake, mut outlets, _, _inside) = queue(1, 1);
        let outlet = outlets.remove(0);
        let worker = thread::spawn(move || (outlet.dequeue(A_WHILE), outlet));
        assert_eq!(intake.offer(0, 7, A_WHILE), Offer::Queued);
        intake.gate().close();
        let (taken, outlet) = worker.join().expect("no panic");
        let taken = if taken == Dequeued::Nothing { outlet.dequeue(A_WHILE) } else { taken };
        assert_eq!(taken, Dequeued::Run(7), "it was inside when the gate closed");
    });
}

/// Defect prevented: an event that a producer enqueues during the stop is lost and its producer is
/// not told, is dequeued twice, or stays although it was queued before the gate closed.
#[test]
fn a_bounded_queue_drains_when_its_gate_closes() {
    stop_while_events_move(1);
}

/// As above for `unbounded`: no model enqueues more than it holds.
#[test]
fn an_unbounded_queue_drains_when_its_gate_closes() {
    stop_while_events_move(usize::MAX);
}

/// As above for `pull`: an event that leaves the producer is in flight at a worker.
#[test]
fn a_pull_queue_drains_when_its_gate_closes() {
    stop_while_events_move(0);
}

/// Defect prevented: a fetcher that waits for room sleeps on although a worker made some, or although
/// the gate closed. It waits without a limit here, so a missed wake-up is a deadlock.
#[test]
fn a_full_queue_wakes_its_fetcher() {
    for closes in [false, true] {
        many_orders(move || {
            let (intake, mut outlets, occupancy, _inside) = queue(1, 1);
            assert_eq!(intake.offer(0, 1, A_WHILE), Offer::Queued);
            let (outlet, gate, sending) = (outlets.remove(0), intake.gate(), intake.clone());
            let fetcher = thread::spawn(move || sending.offer(0, 2, NEVER));
            if closes {
                gate.close();
                assert_eq!(fetcher.join().expect("no panic"), Offer::Closed(2));
            } else {
                assert_eq!(outlet.dequeue(NEVER), Dequeued::Run(1));
                assert_eq!(fetcher.join().expect("no panic"), Offer::Queued);
                assert_eq!(occupancy.depth(), 1);
            }
        });
    }
}
