//! One partition while it is assigned to this member.
//!
//! Invariant: once revoked, no further event of it is sent to the sink, so the new owner's
//! deliveries do not race with ours. It is never revived: a partition that is assigned again is a
//! new [`Assigned`], and events of the old one find the old one revoked. `tests/interleavings.rs`
//! drives this file through its interleavings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::tracker::Tracker;
use crate::planes::ReadTo;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// A log that is gone, and how far it was fetched; the rest of it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftLog {
    /// The partition's number.
    pub partition: i32,
    /// Offset below which all events were fetched.
    pub position: i64,
    /// Its high watermark as of the last fetch. The producer may know of a later one.
    pub end: i64,
}

impl LeftLog {
    /// Known events that were not fetched.
    pub fn unfetched(&self) -> u64 {
        up_to(self.end, self.position)
    }
}

/// Offsets from `offset` to the end of a log, which a broker reports, so it may be any number.
fn up_to(end: i64, offset: i64) -> u64 {
    u64::try_from(end.saturating_sub(offset)).unwrap_or(0)
}

/// The value of [`Assigned::cut`] for a log that is not cut.
const NOT_CUT: i64 = -1;
const CUT_SOMEWHERE: i64 = -2;

/// One partition, from its assignment to its revocation.
pub struct Assigned {
    /// The partition's number.
    pub partition: i32,
    /// The id of the topic whose log it is fetched from; see [`crate::brokers::TopicView::id`].
    pub topic_id: u128,
    tracker: Mutex<Tracker>,
    /// As of the last fetch.
    high_watermark: AtomicI64,
    /// Signalled when the last open offset is done or the last run in flight is released.
    quiet: Condvar,
    revoked: AtomicBool,
    /// Its log is gone: no further offset is opened. Set and read under the tracker's lock.
    left: AtomicBool,
    /// The end of a log that ends before the position; [`NOT_CUT`] as long as no such end is known.
    cut_to: AtomicI64,
    /// Runs that workers are sending now.
    in_flight: AtomicUsize,
    /// Open events that the sink fails for: nobody waits for their acks.
    aside: AtomicUsize,
    enqueuing: Mutex<()>,
    /// The end of the last whole batch that was read, whichever broker led then.
    read_to: Mutex<Option<ReadTo>>,
    /// From where on batches are of its epoch, as far as is known.
    epoch_since: AtomicI64,
    /// Before the log was cut: its events below the cut are still in the log, and perhaps not acked.
    before: Option<Arc<Assigned>>,
    /// Where it begins.
    start: i64,
    /// Whether it stands for events that the spill let go from the log: they are this process's, whoever the partition
    /// is assigned to.
    pub is_let_go: bool,
}

impl Assigned {
    /// A partition of the topic `topic_id` that is fetched from `start` on.
    pub fn new(topic_id: u128, partition: i32, start: i64) -> Self {
        Self {
            partition,
            topic_id,
            tracker: Mutex::new(Tracker::new(start)),
            high_watermark: AtomicI64::new(start),
            quiet: Condvar::new(),
            revoked: AtomicBool::new(false),
            left: AtomicBool::new(false),
            cut_to: AtomicI64::new(NOT_CUT),
            in_flight: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            enqueuing: Mutex::new(()),
            read_to: Mutex::new(None),
            epoch_since: AtomicI64::new(start),
            before: None,
            start,
            is_let_go: false,
        }
    }

    /// The same partition from where its log was cut, after `before`: nothing is committed above what of that is still open
    /// below the cut, and it is revoked with this.
    #[must_use]
    pub fn after(self, before: Arc<Assigned>) -> Self {
        Self { before: Some(before), ..self }
    }

    /// What stands for events that the spill let go from the log: open at these offsets, ascending, and never revoked.
    pub fn let_go(topic_id: u128, partition: i32, offsets: &[i64]) -> Self {
        let start = offsets.first().copied().unwrap_or(0);
        let assigned = Self { is_let_go: true, ..Self::new(topic_id, partition, start) };
        let _its_first = assigned.open(offsets);
        assigned
    }

    /// Offsets that are opened and not done.
    pub fn open_count(&self) -> usize {
        self.tracker.lock().open_count()
            + self.before.as_ref().map_or(0, |before| before.open_count())
    }

    /// The next offset to fetch.
    pub fn position(&self) -> i64 {
        self.tracker.lock().next()
    }

    /// The next offset to fetch, and the epoch of the batch before it; -1 unknown.
    pub fn place(&self) -> (i64, i32) {
        let position = self.position();
        let read_to = self.read_to.lock().filter(|read| read.offset == position);
        (position, read_to.map_or(-1, |read| read.epoch))
    }

    /// Notes how far batches were read to their end.
    pub fn was_read(&self, to: ReadTo) {
        let mut read_to = self.read_to.lock();
        if let Some(before) = read_to.filter(|before| before.epoch != to.epoch) {
            self.epoch_since.store(before.offset, Ordering::SeqCst);
        }
        *read_to = Some(to);
    }

    /// The epoch of the batch before `offset`, for a commit of it; -1 unknown. (Of several batches of one read it may be
    /// the last one's: a later epoch, which the log has as well.)
    pub fn epoch_before(&self, offset: i64) -> i32 {
        let read_to = *self.read_to.lock();
        let known = self.epoch_since.load(Ordering::SeqCst) + 1;
        read_to.filter(|read| (known..=read.offset).contains(&offset)).map_or(-1, |read| read.epoch)
    }

    /// Highest offset below which everything is done: what may be committed.
    pub fn committable(&self) -> i64 {
        let own = self.tracker.lock().committable();
        let before = self.before.as_ref().map(|before| before.committable());
        before.filter(|before| *before < self.start).unwrap_or(own)
    }

    /// Notes the high watermark.
    pub fn log_ends_at(&self, offset: i64) {
        self.high_watermark.store(offset, Ordering::Relaxed);
    }

    /// The high watermark as noted last.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::Relaxed)
    }

    /// Notes that the log ends before the position: at `end`, if the broker tells it.
    pub fn found_cut(&self, end: Option<i64>) {
        self.cut_to.store(end.map_or(CUT_SOMEWHERE, |end| end.max(0)), Ordering::SeqCst);
    }

    /// Whether the log ends before the position, and where, if that is known.
    pub fn cut(&self) -> Option<Option<i64>> {
        match self.cut_to.load(Ordering::SeqCst) {
            NOT_CUT => None,
            end => Some((end >= 0).then_some(end)),
        }
    }

    /// The log is gone: opened events are still delivered, and no further offset is opened, though
    /// a fetcher may have it already, so that the loss can be counted.
    pub fn leave(&self) -> LeftLog {
        let tracker = self.tracker.lock();
        self.left.store(true, Ordering::SeqCst);
        let end = self.high_watermark();
        LeftLog { partition: self.partition, position: tracker.next(), end }
    }

    /// Events between the acked prefix and the high watermark: in the log, the queue and in flight.
    pub fn backlog(&self) -> u64 {
        self.behind(None)
    }

    /// Events between the committed offset, or without one the acked prefix, and the high
    /// watermark.
    pub fn behind(&self, committed: Option<i64>) -> u64 {
        let from = committed.unwrap_or_else(|| self.committable());
        up_to(self.high_watermark(), from)
    }

    /// Runs `enqueue`, which opens fetched events and enqueues them in order, while no other thread
    /// does so: when the leader moves, the old leader's fetcher may still have some events, and
    /// would be overtaken at a full queue.
    pub fn one_at_a_time<T>(&self, enqueue: impl FnOnce() -> T) -> T {
        let _alone = self.enqueuing.lock();
        enqueue()
    }

    /// Opens fetched offsets, ascending; false when another fetcher already delivered the first, or
    /// the log is gone.
    pub fn open(&self, offsets: &[i64]) -> bool {
        let mut tracker = self.tracker.lock();
        !self.left.load(Ordering::SeqCst) && tracker.open(offsets)
    }

    /// Counts offsets below `offset` that hold no event as done.
    pub fn skip_to(&self, offset: i64) {
        let mut tracker = self.tracker.lock();
        if !self.left.load(Ordering::SeqCst) {
            tracker.skip_to(offset);
        }
    }

    /// The offsets, ascending, are acked, shed or invalid.
    pub fn done(&self, offsets: impl IntoIterator<Item = i64>) {
        let mut tracker = self.tracker.lock();
        tracker.done(offsets);
        if self.is_quiet(&tracker) {
            self.quiet.notify_all();
        }
    }

    fn is_quiet(&self, tracker: &Tracker) -> bool {
        tracker.open_count() <= self.aside.load(Ordering::SeqCst)
    }

    /// One of its open events is not waited for: the sink fails for it.
    pub fn set_aside(&self) {
        self.aside.fetch_add(1, Ordering::SeqCst);
        drop(self.tracker.lock());
        self.quiet.notify_all();
    }

    /// One that was set aside is tried again, or goes back to the log.
    pub fn take_back(&self) {
        self.aside.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the partition was revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::SeqCst)
    }

    /// Asks to send a run to the sink; false when the partition was revoked. After true the caller
    /// must call [`Assigned::release`] once, after the acks of the run.
    ///
    /// The count goes up before the flag is read and [`Assigned::revoke`] reads them in the other
    /// order, so either the sender sees the revocation or the revoker sees the sender.
    #[must_use]
    pub fn acquire(&self) -> bool {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.is_revoked() {
            self.release();
            return false;
        }
        true
    }

    /// The run is no longer in flight. Its delivered events were marked done before, so a revoker
    /// that waited for this commits them; the rest stays open, and in the log.
    pub fn release(&self) {
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The lock orders this after a waiter's own check, or the wake-up could be missed.
            drop(self.tracker.lock());
            self.quiet.notify_all();
        }
    }

    /// Revokes the partition: nothing of it is sent from now on.
    pub fn revoke(&self) {
        if let Some(before) = &self.before {
            before.revoke();
        }
        self.revoked.store(true, Ordering::SeqCst);
        drop(self.tracker.lock());
        self.quiet.notify_all();
    }

    /// Waits until no worker is sending one of its events; false when `deadline` came first.
    pub fn await_released(&self, deadline: Instant) -> bool {
        if self.before.as_ref().is_some_and(|before| !before.await_released(deadline)) {
            return false;
        }
        let mut tracker = self.tracker.lock();
        while self.in_flight.load(Ordering::SeqCst) > 0 {
            if self.quiet.wait_until(&mut tracker, deadline).timed_out() {
                return self.in_flight.load(Ordering::SeqCst) == 0;
            }
        }
        true
    }

    /// Waits at most `time` until every open offset is done, but for those set aside; true when it is, or when the
    /// partition was revoked.
    pub fn await_all_done(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut tracker = self.tracker.lock();
        while !self.is_quiet(&tracker) && !self.is_revoked() {
            if self.quiet.wait_until(&mut tracker, deadline).timed_out() {
                break;
            }
        }
        self.is_quiet(&tracker) || self.is_revoked()
    }
}

/// The partitions assigned now, shared by member, fetchers and metrics.
#[derive(Default, Clone)]
pub struct Assignment {
    partitions: Arc<Mutex<BTreeMap<i32, Arc<Assigned>>>>,
    /// How often a partition was added or its log left.
    changes: Arc<AtomicUsize>,
    /// One entry for each time that a partition's log went.
    left: Arc<Mutex<Vec<LeftLog>>>,
}

impl Assignment {
    /// Adds a newly assigned partition.
    pub fn add(&self, assigned: Assigned) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.partitions.lock().insert(assigned.partition, Arc::new(assigned));
    }

    /// Removes a revoked partition; `None` when it was not assigned.
    pub fn remove(&self, partition: i32) -> Option<Arc<Assigned>> {
        self.partitions.lock().remove(&partition)
    }

    /// Leaves the log of a partition that is or was assigned, and keeps how far it was fetched.
    pub fn leave(&self, assigned: &Assigned) -> LeftLog {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let left = assigned.leave();
        self.left.lock().push(left);
        left
    }

    /// How often a partition was added or its log left: where this differs, counts of events begin anew.
    pub fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }

    /// The logs that are gone.
    pub fn left(&self) -> Vec<LeftLog> {
        self.left.lock().clone()
    }

    /// The partitions assigned now.
    pub fn all(&self) -> Vec<Arc<Assigned>> {
        self.partitions.lock().values().cloned().collect()
    }

    /// Events between the acked prefixes and the high watermarks.
    pub fn backlog(&self) -> u64 {
        self.all().iter().map(|assigned| assigned.backlog()).sum()
    }

    /// Events between the positions and the high watermarks: what waits in the logs alone.
    pub fn unfetched(&self) -> u64 {
        let of = |assigned: Arc<Assigned>| up_to(assigned.high_watermark(), assigned.position());
        self.all().into_iter().map(of).sum()
    }

    /// Events between the positions and the high watermarks, and those that were fetched and are not done.
    pub fn unsettled(&self) -> u64 {
        self.unfetched()
            + self.all().iter().map(|assigned| assigned.open_count() as u64).sum::<u64>()
    }

    /// Those of `partitions` of the topic `topic_id` that are assigned now.
    pub fn among(
        &self,
        topic_id: u128,
        partitions: impl Iterator<Item = i32>,
    ) -> Vec<Arc<Assigned>> {
        let assigned = self.partitions.lock();
        let of_topic = |assigned: &Arc<Assigned>| assigned.topic_id == topic_id;
        partitions.filter_map(|p| assigned.get(&p).cloned()).filter(of_topic).collect()
    }
}
