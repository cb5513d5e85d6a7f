//! The source of events: a member of the consumer group and the threads that fetch.
//!
//! - `tracker`    which offsets of a partition are acked: what may be committed
//! - `assigned`   one partition while it is assigned; revoked once, never revived
//! - `member`     the group membership (librdkafka, every partition paused): polls, commits
//! - `run`        events of one partition that came in one fetch, on their way to the sink
//! - `spilled`    what becomes of runs and offsets where the queue spills to disk
//! - `fetcher`    moves one broker's records: request, read (`fetcher/reading`), enqueue
//! - `supervisor` one fetcher a broker: starts them, refreshes the metadata, gives up stuck ones
//!
//! Membership and data transfer are separate: librdkafka has the membership and fetches nothing; a
//! data plane ([`crate::planes`]) fetches and knows nothing of the group.

pub mod assigned;
pub mod fetcher;
pub mod member;
pub mod run;
pub mod spilled;
pub mod supervisor;
pub mod tracker;

pub use assigned::{Assigned, Assignment, LeftLog};
pub use run::Run;

use crate::threads::Stop;

/// The result of an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It is in the queue, or was shed and counted.
    Yes,
    /// The run stops or the partition was revoked: no further run is wanted.
    Unwanted,
}

/// A record, or a range of offsets, that will not be delivered.
#[derive(Debug, Clone, Copy)]
pub struct Rejected<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its first offset.
    pub offset: i64,
    /// Its last offset.
    pub last_offset: i64,
    /// The event's id, where it has one.
    pub id: Option<u64>,
    /// The value of the `reason` label in `processor_events_invalid_total`.
    pub reason: &'a str,
    /// What is wrong with it, in words.
    pub why: &'a str,
    /// Its value, where it could be read.
    pub value: Option<&'a [u8]>,
}

impl Rejected<'_> {
    /// How many offsets it takes.
    pub fn offsets(&self) -> u64 {
        (self.last_offset - self.offset + 1).unsigned_abs()
    }
}

/// Takes fetched runs; it blocks to slow the fetcher down.
pub trait Downstream: Send + Sync {
    /// How many shards the queue has.
    fn shards(&self) -> usize;

    /// Which shard takes the events of `key`.
    fn shard_of(&self, key: u64) -> usize;

    /// Most events of one run.
    fn run_events_max(&self) -> usize;

    /// Enqueues a run, waiting as long as the policy asks for.
    fn enqueue(&self, shard: usize, run: Box<Run>) -> Enqueued;

    /// Keeps and counts a record that will not be delivered. False when the run stops first: then
    /// its offsets are not done.
    fn reject(&self, rejected: &Rejected<'_>, stop: &Stop) -> bool;

    /// How many events a fetcher may have enqueued before it waits for their acks; `None` is any number
    /// (only a pull source waits).
    fn round_events_max(&self) -> Option<usize>;

    /// Waits until all opened offsets of the partition are done, or the wait is of no use any more.
    fn await_acks(&self, assigned: &Assigned);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::planes::ReadTo;

    #[test]
    fn a_revoked_partition_sends_nothing_more_and_waits_for_what_is_in_flight() {
        let assigned = Arc::new(Assigned::new(0, 3, 100));
        assert!(assigned.open(&[100, 101]));
        assert!(assigned.acquire());
        assigned.revoke();
        assert!(!assigned.acquire(), "queued events of a revoked partition are not sent");
        assert!(!assigned.await_released(Instant::now() + Duration::from_millis(5)));
        let sender = Arc::clone(&assigned);
        let sender = std::thread::spawn(move || {
            sender.done([100]);
            sender.release();
        });
        assert!(assigned.await_released(Instant::now() + Duration::from_secs(30)));
        assert_eq!(assigned.committable(), 101, "what was in flight is acked before the commit");
        sender.join().expect("no panic");
    }

    /// A broker's answer may have any number; if it wrapped, a backlog of 2^63 events would stop
    /// the producer (slow-source) or hide a real one.
    #[test]
    fn an_impossible_high_watermark_is_no_backlog() {
        let assigned = Assigned::new(0, 3, 100);
        for (end, backlog) in [(i64::MIN, 0), (-1, 0), (99, 0), (107, 7)] {
            assigned.log_ends_at(end);
            assert_eq!(assigned.backlog(), backlog, "{end}");
            assert_eq!(assigned.leave().unfetched(), backlog, "{end}");
        }
    }

    /// Prevents: an epoch that is told of another offset than it was read at, such as that of a broker that led before
    /// another did: the log is then taken for cut, or a cut is not seen.
    #[test]
    fn the_epoch_of_the_last_batch_goes_with_the_position() {
        let assigned = Assigned::new(0, 3, 100);
        assert_eq!(assigned.place(), (100, -1));
        assert!(assigned.open(&[100, 101]));
        assigned.was_read(ReadTo { offset: 102, epoch: 5 });
        assert_eq!(assigned.place(), (102, 5));
        assert!(assigned.open(&[102]), "a part of a batch");
        assert_eq!(assigned.place(), (103, -1));
        assigned.was_read(ReadTo { offset: 103, epoch: 6 });
        assigned.skip_to(200);
        assert_eq!(assigned.place(), (200, -1));
    }

    /// Prevents: the end of a cut log that is committed while events below it are in the queue; events that are sent after
    /// the partition moved, because they were fetched before the cut.
    #[test]
    fn what_was_open_before_a_cut_holds_up_the_commit_and_is_revoked_too() {
        let before = Arc::new(Assigned::new(0, 3, 300));
        assert!(before.open(&[300, 301, 499, 500, 501]));
        let after = Assigned::new(0, 3, 500).after(Arc::clone(&before));
        assert!(after.open(&[500]));
        assert_eq!((after.committable(), after.position(), after.open_count()), (300, 501, 6));
        before.done([300, 301]);
        assert_eq!(after.committable(), 499);
        before.done([499]);
        assert_eq!(after.committable(), 500, "what was above the cut is in no log");
        after.done([500]);
        assert_eq!(after.committable(), 501);
        assert!(before.acquire());
        after.revoke();
        assert!(!before.acquire() && !after.await_released(Instant::now()));
        before.release();
        assert!(after.await_released(Instant::now()));
    }

    /// Prevents: a fetcher that goes on enqueuing events of a log that was counted as lost.
    #[test]
    fn of_a_log_that_was_left_what_is_open_is_done_and_nothing_more_is_opened() {
        let (assignment, assigned) = (Assignment::default(), Assigned::new(0, 3, 100));
        assert!(assigned.open(&[100]));
        assigned.log_ends_at(110);
        let left = assignment.leave(&assigned);
        assert_eq!(
            (left, left.unfetched()),
            (LeftLog { partition: 3, position: 101, end: 110 }, 9)
        );
        assert!(!assigned.open(&[101]));
        assigned.skip_to(105);
        assigned.done([100]);
        assert_eq!((assigned.position(), assignment.left()), (101, vec![left]));
    }
}
