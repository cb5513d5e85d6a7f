//! One partition between its fetchers, the workers, the committer and the revoker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shuttle::sync::atomic::AtomicUsize;
use shuttle::thread::{self, JoinHandle};

use crate::assigned::Assigned;
use crate::{every_order, many_orders};

/// State outside the partition. It is not shuttle's: reading it adds no step.
#[derive(Default)]
struct World {
    /// Offsets that the sink acked.
    acked: Mutex<BTreeSet<i64>>,
    /// The partition has a new owner.
    moved: AtomicBool,
    calls: AtomicUsize,
}

impl World {
    /// A call of the sink: it takes a while, and at its end the event is acked.
    fn call(&self, offset: i64) {
        self.must_be_ours(offset);
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.must_be_ours(offset);
        assert!(self.acked.lock().expect("whole").insert(offset), "offset {offset} is sent twice");
    }

    fn must_be_ours(&self, offset: i64) {
        let moved = self.moved.load(Ordering::SeqCst);
        assert!(!moved, "offset {offset} is sent while the new owner sends it");
    }

    /// First offset from `start` on that is not acked.
    fn acked_prefix(&self, start: i64) -> i64 {
        let acked = self.acked.lock().expect("whole");
        (start..).find(|offset| !acked.contains(offset)).expect("not all numbers are acked")
    }
}

/// Never reached: models have no time.
fn never() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// A partition with `offsets` open, as after a fetch.
fn held(offsets: i64) -> (Arc<Assigned>, Arc<World>) {
    let assigned = Assigned::new(0, 0, 0);
    assert!(assigned.open(&(0..offsets).collect::<Vec<_>>()));
    (Arc::new(assigned), Arc::default())
}

/// A worker as in `sink/workers.rs`: a run in flight, checked again before the call.
fn worker(assigned: &Arc<Assigned>, world: &Arc<World>, batch: &'static [i64]) -> JoinHandle<()> {
    let (assigned, world) = (Arc::clone(assigned), Arc::clone(world));
    thread::spawn(move || {
        if !assigned.acquire() {
            return;
        }
        for offset in batch {
            if !assigned.is_revoked() {
                world.call(*offset);
                assigned.done([*offset]);
            }
        }
        assigned.release();
    })
}

/// The member revokes the partition, as `source/member.rs` does: it returns the commit.
fn give_away(assigned: &Assigned, world: &World) -> i64 {
    assigned.revoke();
    assert!(assigned.await_released(never()));
    let committed = assigned.committable();
    world.moved.store(true, Ordering::SeqCst);
    let acked = world.acked_prefix(0);
    assert_eq!(committed, acked, "the new owner starts at the commit, the sink holds more or less");
    committed
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Defect prevented: the old owner sends while the new one does, or commits without what it sent.
/// This worker trusts `acquire` alone: a second look before the call would hide its faults.
#[test]
fn a_revoked_partition_sends_nothing_more_and_commits_what_was_acked() {
    every_order(|| {
        let (assigned, world) = held(1);
        let (hand, sink) = (Arc::clone(&assigned), Arc::clone(&world));
        let worker = thread::spawn(move || {
            if hand.acquire() {
                sink.call(0);
                hand.done([0]);
                hand.release();
            }
        });
        let committed = give_away(&assigned, &world);
        join([worker]);
        assert_eq!((assigned.committable(), world.acked_prefix(0)), (committed, committed));
    });
}

/// As above, with batches that are finished out of order and a fetcher that still opens offsets.
#[test]
fn workers_with_batches_stop_for_the_revoker() {
    many_orders(|| {
        let (assigned, world) = held(4);
        let mut threads =
            vec![worker(&assigned, &world, &[0, 3]), worker(&assigned, &world, &[1, 2])];
        let fetched = Arc::clone(&assigned);
        threads.push(thread::spawn(move || {
            assert!(fetched.open(&[4]));
            fetched.skip_to(6);
        }));
        let committed = give_away(&assigned, &world);
        join(threads);
        assert_eq!((assigned.committable(), world.acked_prefix(0)), (committed, committed));
    });
}

/// Defect prevented: a commit ahead of an ack loses events, one that goes back repeats them.
#[test]
fn the_committer_is_never_ahead_of_an_ack_and_never_goes_back() {
    many_orders(|| {
        let (assigned, world) = held(4);
        let mut threads = vec![
            worker(&assigned, &world, &[3, 0]),
            worker(&assigned, &world, &[2]),
            worker(&assigned, &world, &[1]),
        ];
        let (fetched, sink) = (Arc::clone(&assigned), Arc::clone(&world));
        threads.push(thread::spawn(move || {
            sink.acked.lock().expect("whole").insert(4); // it holds no event: a gap
            assert!(fetched.open(&[5]));
            sink.call(5);
            fetched.done([5]);
        }));
        let mut committed = 0;
        for _ in 0..4 {
            let committable = assigned.committable();
            assert!(committable <= world.acked_prefix(0), "ahead of an ack");
            assert!(committable >= committed, "{committable} after {committed}");
            committed = committable;
        }
        join(threads);
        assert_eq!(assigned.committable(), 6, "an ack is forgotten");
    });
}

/// Defect prevented: a fetcher that was given up comes back beside its successor, and an offset
/// that both deliver is sent twice and closed twice.
#[test]
fn two_fetchers_open_each_offset_once() {
    fn fetch(
        assigned: &Arc<Assigned>,
        opened: &Arc<Mutex<BTreeMap<i64, usize>>>,
    ) -> JoinHandle<()> {
        let (assigned, opened) = (Arc::clone(assigned), Arc::clone(opened));
        thread::spawn(move || {
            for offset in [0, 1, 3] {
                if offset == 3 {
                    assigned.skip_to(offset);
                }
                if offset == assigned.position() && assigned.open(&[offset]) {
                    *opened.lock().expect("whole").entry(offset).or_default() += 1;
                    assigned.done([offset]);
                }
            }
        })
    }
    let model = || {
        let (assigned, opened) = (Arc::new(Assigned::new(0, 0, 0)), Arc::default());
        join([fetch(&assigned, &opened), fetch(&assigned, &opened)]);
        let once = BTreeMap::from([(0, 1), (1, 1), (3, 1)]);
        assert_eq!(*opened.lock().expect("whole"), once);
        assert_eq!(assigned.committable(), 4);
    };
    many_orders(model);
}

/// Defect prevented: a pull source that misses the last ack fetches nothing until its next check.
#[test]
fn a_pull_source_hears_the_last_ack() {
    every_order(|| {
        let (assigned, _) = held(1);
        // Not in flight: another fetcher opened it, and it is no event.
        let other = Arc::clone(&assigned);
        let other = thread::spawn(move || other.done([0]));
        assert!(assigned.await_all_done(never() - Instant::now()));
        assert_eq!(assigned.committable(), 1, "the next fetch began before the end of this one");
        join([other]);
    });
    many_orders(|| {
        let (assigned, world) = held(3);
        let threads = [worker(&assigned, &world, &[0, 2]), worker(&assigned, &world, &[1])];
        assert!(assigned.await_all_done(never() - Instant::now()));
        assert_eq!(assigned.committable(), 3, "the next fetch began before the acks");
        join(threads);
    });
}

/// Defect prevented: a pull source waits for acks that a revoked partition no longer gets.
#[test]
fn a_pull_source_hears_the_revocation() {
    fn fetcher(assigned: &Arc<Assigned>) -> JoinHandle<()> {
        let assigned = Arc::clone(assigned);
        thread::spawn(move || {
            assert!(assigned.await_all_done(never() - Instant::now()));
            let all_done = assigned.committable() == assigned.position();
            assert!(assigned.is_revoked() || all_done, "it stopped waiting for no reason");
        })
    }
    every_order(|| {
        let (assigned, _) = held(1);
        let fetcher = fetcher(&assigned);
        assigned.revoke();
        join([fetcher]);
    });
    many_orders(|| {
        let (assigned, world) = held(3);
        let threads = [
            fetcher(&assigned),
            worker(&assigned, &world, &[0, 1]),
            worker(&assigned, &world, &[2]),
        ];
        give_away(&assigned, &world);
        join(threads);
    });
}
