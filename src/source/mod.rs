//! Where events come from: a seat in the consumer group and the threads that fetch.
//!
//! - `tracker`  which offsets of a partition are acked: what may be committed
//! - `holding`  one partition while this member holds it; revoked once, never revived
//! - `seat`     the group membership (librdkafka, every partition paused): polls, commits
//! - `fetcher`  moves one broker's records (crate `kafka`): ask, check for gaps, hand over
//! - `stepper`  one batch at a time, where a plain fetch cannot go on
//! - `crew`     one fetcher a broker: starts them, renews the metadata, gives up on stuck ones
//!
//! Two clients, one seam: librdkafka holds the seat and fetches nothing; crate `kafka` fetches and
//! knows nothing of the group. Records of aborted transactions are delivered like any other:
//! Fetch v0 has no isolation level.

pub mod crew;
pub mod fetcher;
pub mod holding;
pub mod seat;
mod stepper;
pub mod tracker;

pub use holding::{Holding, Holdings, LeftLog};

use std::sync::Arc;

use crate::event::Event;

/// An event on its way from the log to the sink.
///
/// 64 bytes beside the payload: `event` 40, `offset` 8, `fetched_us` 8, `holding` 8. The model
/// computes a resident event's cost from this layout.
pub struct Item {
    /// The event.
    pub event: Event,
    /// Its offset in the partition.
    pub offset: i64,
    /// When it was decoded, µs since the epoch.
    pub fetched_us: i64,
    /// The partition as this member held it when the event was fetched.
    pub holding: Arc<Holding>,
}

/// What became of an event that was handed over.
pub enum Handed {
    /// It is the receiver's now.
    Taken,
    /// The run stops or the partition was revoked: nothing more is wanted.
    Unwanted,
}

/// Takes fetched events one by one; blocking is how it says "not so fast".
pub trait HandOver: Send + Sync {
    /// Hands one event over, waiting as long as the policy asks for.
    fn offer(&self, item: Item) -> Handed;

    /// Called after all of one fetch was handed over; a pull source waits for the acks here.
    fn fetched(&self, holding: &Holding);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_revoked_partition_sends_nothing_more_and_waits_for_what_is_in_hand() {
        let holding = Arc::new(Holding::new(0, 3, 100));
        assert!(holding.open(100) && holding.open(101));
        assert!(holding.take_in_hand());
        holding.revoke();
        assert!(!holding.take_in_hand(), "queued events of a revoked partition are not sent");
        assert!(!holding.await_hands_empty(Instant::now() + Duration::from_millis(5)));
        let sender = Arc::clone(&holding);
        let sender = std::thread::spawn(move || {
            sender.done(100);
            sender.put_down();
        });
        assert!(holding.await_hands_empty(Instant::now() + Duration::from_secs(30)));
        assert_eq!(holding.committable(), 101, "what was in hand is acked before the commit");
        sender.join().expect("no panic");
    }

    /// A broker's answer may hold any number; wrapped round, a backlog of 2^63 events would stop
    /// the producer (slow-source) or hide a real one.
    #[test]
    fn an_impossible_end_of_the_log_is_no_backlog() {
        let holding = Holding::new(0, 3, 100);
        for (end, backlog) in [(i64::MIN, 0), (-1, 0), (99, 0), (107, 7)] {
            holding.log_ends_at(end);
            assert_eq!(holding.backlog(), backlog, "{end}");
            assert_eq!(holding.leave().unfetched(), backlog, "{end}");
        }
    }

    /// Prevents: a fetcher that goes on handing over what it has of a log that was counted as lost.
    #[test]
    fn of_a_log_that_was_left_what_is_open_is_done_and_nothing_more_is_opened() {
        let (holdings, holding) = (Holdings::default(), Holding::new(0, 3, 100));
        assert!(holding.open(100));
        holding.log_ends_at(110);
        let left = holdings.leave(&holding);
        assert_eq!(
            (left, left.unfetched()),
            (LeftLog { partition: 3, position: 101, end: 110 }, 9)
        );
        assert!(!holding.open(101));
        holding.skip_to(105);
        holding.done(100);
        assert_eq!((holding.position(), holdings.left()), (101, vec![left]));
    }
}
