//! One partition while this member holds it.
//!
//! Invariant: once revoked, no further event of it is sent to the sink, so the new owner's
//! deliveries do not race with ours. A holding is never revived: a partition that comes back is a
//! new one, and events of the old one find their own holding revoked. `tests/interleavings.rs` drives
//! this file through its interleavings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::tracker::Tracker;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// A log that is gone, as it was left; what was not fetched of it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftLog {
    /// The partition's number.
    pub partition: i32,
    /// Offset below which all was fetched.
    pub position: i64,
    /// Its end as the last fetch told it. Whoever wrote into it may know of a later one.
    pub end: i64,
}

impl LeftLog {
    /// Events that were known to be in it and were not fetched.
    pub fn unfetched(&self) -> u64 {
        up_to(self.end, self.position)
    }
}

/// Offsets from `offset` to the end of a log, which is a broker's word, so it may be any number.
fn up_to(end: i64, offset: i64) -> u64 {
    u64::try_from(end.saturating_sub(offset)).unwrap_or(0)
}

/// One partition, from its assignment to its revocation.
pub struct Holding {
    /// The partition's number.
    pub partition: i32,
    /// The id of the topic whose log it is fetched from; see [`crate::brokers::TopicView::id`].
    pub topic_id: u128,
    tracker: Mutex<Tracker>,
    /// The log's end as the last fetch told it.
    log_end: AtomicI64,
    /// Signalled when the last open offset is done or the last event in hand is put down.
    quiet: Condvar,
    revoked: AtomicBool,
    /// Its log is gone: nothing more of it is opened. Set and read under the tracker's lock.
    left: AtomicBool,
    /// A broker said that the position is behind the end of the log.
    beyond: AtomicBool,
    /// Events that workers are sending now.
    in_hand: AtomicUsize,
    handing_over: Mutex<()>,
}

impl Holding {
    /// A partition of the topic `topic_id` that is fetched from `start` on.
    pub fn new(topic_id: u128, partition: i32, start: i64) -> Self {
        Self {
            partition,
            topic_id,
            tracker: Mutex::new(Tracker::new(start)),
            log_end: AtomicI64::new(start),
            quiet: Condvar::new(),
            revoked: AtomicBool::new(false),
            left: AtomicBool::new(false),
            beyond: AtomicBool::new(false),
            in_hand: AtomicUsize::new(0),
            handing_over: Mutex::new(()),
        }
    }

    /// The next offset to fetch.
    pub fn position(&self) -> i64 {
        self.tracker.lock().next()
    }

    /// Highest offset below which everything is done: what may be committed.
    pub fn committable(&self) -> i64 {
        self.tracker.lock().committable()
    }

    /// Notes where the log ends.
    pub fn log_ends_at(&self, offset: i64) {
        self.log_end.store(offset, Ordering::Relaxed);
    }

    /// Notes that the log ends before the position.
    pub fn found_beyond_the_end(&self) {
        self.beyond.store(true, Ordering::SeqCst);
    }

    /// Whether the log was found to end before the position.
    pub fn is_beyond_the_end(&self) -> bool {
        self.beyond.load(Ordering::SeqCst)
    }

    /// The log is gone: what was opened is still delivered, and nothing more is opened, though a
    /// fetcher may have it in its hands, so that what is lost can be counted.
    pub fn leave(&self) -> LeftLog {
        let tracker = self.tracker.lock();
        self.left.store(true, Ordering::SeqCst);
        let end = self.log_end.load(Ordering::Relaxed);
        LeftLog { partition: self.partition, position: tracker.next(), end }
    }

    /// Events between the acked prefix and the log's end: in the log, the queue and in hand.
    pub fn backlog(&self) -> u64 {
        up_to(self.log_end.load(Ordering::Relaxed), self.committable())
    }

    /// Runs `hand_over`, which opens what was fetched and queues it in order, while no other thread does
    /// so: when the leader moves, the old one's fetcher may still have some of it in its hands, and would
    /// be overtaken at a full queue.
    pub fn one_at_a_time<T>(&self, hand_over: impl FnOnce() -> T) -> T {
        let _alone = self.handing_over.lock();
        hand_over()
    }

    /// Opens an offset that was fetched; false when another fetcher already delivered it, or the log
    /// was left.
    pub fn open(&self, offset: i64) -> bool {
        let mut tracker = self.tracker.lock();
        !self.left.load(Ordering::SeqCst) && tracker.open(offset)
    }

    /// Counts offsets below `offset` that hold no event as done.
    pub fn skip_to(&self, offset: i64) {
        let mut tracker = self.tracker.lock();
        if !self.left.load(Ordering::SeqCst) {
            tracker.skip_to(offset);
        }
    }

    /// The offset is acked, shed or invalid.
    pub fn done(&self, offset: i64) {
        let mut tracker = self.tracker.lock();
        tracker.done(offset);
        if tracker.open_count() == 0 {
            self.quiet.notify_all();
        }
    }

    /// Whether the partition was taken away.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    /// Asks to send one event to the sink; false when the partition was taken away. True must be
    /// followed by one [`Holding::settle`] or [`Holding::put_down`].
    ///
    /// The count goes up before the flag is read and [`Holding::revoke`] reads them in the other
    /// order, so either the sender sees the revocation or the revoker sees the sender.
    #[must_use]
    pub fn take_in_hand(&self) -> bool {
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        if self.is_revoked() {
            self.put_down();
            return false;
        }
        true
    }

    /// The event in hand is acked or rejected for good. It is done before it leaves the hand, so a
    /// revoker that waited for empty hands commits it.
    pub fn settle(&self, offset: i64) {
        self.done(offset);
        self.put_down();
    }

    /// The event in hand is given back: still open, so it stays in the log.
    pub fn put_down(&self) {
        if self.in_hand.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The lock orders this after a waiter's own check, or the wake-up could be missed.
            drop(self.tracker.lock());
            self.quiet.notify_all();
        }
    }

    /// The partition is taken away: nothing of it is sent from now on.
    pub fn revoke(&self) {
        self.revoked.store(true, Ordering::SeqCst);
        drop(self.tracker.lock());
        self.quiet.notify_all();
    }

    /// Waits until no worker is sending one of its events; false when `deadline` came first.
    pub fn await_hands_empty(&self, deadline: Instant) -> bool {
        let mut tracker = self.tracker.lock();
        while self.in_hand.load(Ordering::SeqCst) > 0 {
            if self.quiet.wait_until(&mut tracker, deadline).timed_out() {
                return self.in_hand.load(Ordering::SeqCst) == 0;
            }
        }
        true
    }

    /// Waits at most `time` until every open offset is done; true when it is, or when the
    /// partition was taken away.
    pub fn await_all_done(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut tracker = self.tracker.lock();
        while tracker.open_count() > 0 && !self.is_revoked() {
            if self.quiet.wait_until(&mut tracker, deadline).timed_out() {
                break;
            }
        }
        tracker.open_count() == 0 || self.is_revoked()
    }
}

/// The partitions held now, shared by seat, fetchers and metrics.
#[derive(Default, Clone)]
pub struct Holdings {
    held: Arc<Mutex<BTreeMap<i32, Arc<Holding>>>>,
    /// One a partition for each time that its log went.
    left: Arc<Mutex<Vec<LeftLog>>>,
}

impl Holdings {
    /// Adds a newly assigned partition.
    pub fn add(&self, holding: Holding) {
        self.held.lock().insert(holding.partition, Arc::new(holding));
    }

    /// Takes a revoked partition out; `None` when it was not held.
    pub fn remove(&self, partition: i32) -> Option<Arc<Holding>> {
        self.held.lock().remove(&partition)
    }

    /// Leaves the log of a holding that is held or was, and keeps how far it was.
    pub fn leave(&self, holding: &Holding) -> LeftLog {
        let left = holding.leave();
        self.left.lock().push(left);
        left
    }

    /// The logs that were left.
    pub fn left(&self) -> Vec<LeftLog> {
        self.left.lock().clone()
    }

    /// The partitions held now.
    pub fn all(&self) -> Vec<Arc<Holding>> {
        self.held.lock().values().cloned().collect()
    }

    /// Events between the acked prefixes and the ends of the logs.
    pub fn backlog(&self) -> u64 {
        self.all().iter().map(|h| h.backlog()).sum()
    }

    /// Those of `partitions` of the topic `topic_id` that are held now.
    pub fn among(
        &self,
        topic_id: u128,
        partitions: impl Iterator<Item = i32>,
    ) -> Vec<Arc<Holding>> {
        let held = self.held.lock();
        let of_topic = |holding: &Arc<Holding>| holding.topic_id == topic_id;
        partitions.filter_map(|p| held.get(&p).cloned()).filter(of_topic).collect()
    }
}
