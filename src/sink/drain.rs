//! The end of a run, as its workers see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock;

/// Longest time that is left for events in flight after the last dequeue.
const HELD: Duration = Duration::from_secs(2);

/// The end of a run: until when workers dequeue, and when they release their events in flight.
///
/// The first comes before the second, because events that one worker releases may precede, in the
/// log, events that another has delivered: those are not committed, and come again. (By key each
/// worker has a queue of its own, and events left in one may have the same effect.)
#[derive(Clone)]
pub struct Drain {
    /// µs since the epoch.
    last_take_us: Arc<AtomicI64>,
    deadline_us: Arc<AtomicI64>,
}

impl Default for Drain {
    fn default() -> Self {
        let never = || Arc::new(AtomicI64::new(i64::MAX));
        Self { last_take_us: never(), deadline_us: never() }
    }
}

impl Drain {
    /// The run stops: queued events may be delivered for `time` more; the last third of it, and at
    /// most [`HELD`], is for events in flight by then.
    pub fn start(&self, time: Duration) {
        let in_us = |time: Duration| {
            clock::now_us().saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
        };
        self.last_take_us.store(in_us(time - (time / 3).min(HELD)), Ordering::SeqCst);
        self.deadline_us.store(in_us(time), Ordering::SeqCst);
    }

    /// Whether events that are still queued stay in the log.
    pub fn takes_no_more(&self) -> bool {
        is_past(&self.last_take_us)
    }

    /// Whether events in flight go back to the log.
    pub fn is_over(&self) -> bool {
        is_past(&self.deadline_us)
    }
}

fn is_past(us: &AtomicI64) -> bool {
    match us.load(Ordering::SeqCst) {
        i64::MAX => false,
        time => clock::now_us() >= time,
    }
}
