//! The room of a shard, counted in events: runs differ in length, so a channel's slots alone would make
//! the capacity depend on how the events came.
//!
//! Invariant: the room taken and not yet released never exceeds the limit, except for a single run
//! that is larger and finds the shard empty. A wait ends when there is room, at its time limit, or
//! at a call of [`Room::wake`]. It misses no wake-up: a waiter is counted before it checks, and
//! room is released before the waiters are counted.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// Waiters are woken when this part of the limit is free, not for each run that leaves: a fetcher
/// that sleeps and wakes for 200 events costs more than it brings (a tenth of the processor's CPU).
const WAKE_SHARE: u64 = 8;

/// See the module.
pub struct Room {
    limit: Option<u64>,
    taken: AtomicU64,
    waiters: AtomicUsize,
    wait: Mutex<()>,
    freed: Condvar,
}

impl Room {
    /// Room for `limit` events; `None` is any number.
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            taken: AtomicU64::new(0),
            waiters: AtomicUsize::new(0),
            wait: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    /// Events that it has room for now; `None` is any number.
    pub fn free(&self) -> Option<usize> {
        let limit = self.limit?;
        Some(limit.saturating_sub(self.taken.load(Ordering::SeqCst)) as usize)
    }

    /// Takes room for `events`, waiting at most `time` for it; false when there is none by then, or
    /// when `is_over` returns true.
    pub fn take(&self, events: u64, time: Duration, is_over: impl Fn() -> bool) -> bool {
        let Some(limit) = self.limit else { return true };
        if self.try_take(events, limit) {
            return true;
        }
        if time.is_zero() {
            return false;
        }
        let deadline = Instant::now() + time;
        let mut wait = self.wait.lock();
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let taken = loop {
            if is_over() {
                break false;
            }
            if self.try_take(events, limit) {
                break true;
            }
            if self.freed.wait_until(&mut wait, deadline).timed_out() {
                break self.try_take(events, limit);
            }
        };
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        taken
    }

    fn try_take(&self, events: u64, limit: u64) -> bool {
        let mut taken = self.taken.load(Ordering::SeqCst);
        while taken + events <= limit || taken == 0 {
            let more = taken + events;
            match self.taken.compare_exchange(taken, more, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    /// Releases the room of `events`.
    pub fn give_back(&self, events: u64) {
        let Some(limit) = self.limit else { return };
        let taken = self.taken.fetch_sub(events, Ordering::SeqCst) - events;
        if taken <= limit - limit / WAKE_SHARE && self.waiters.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    /// Makes every waiter check again.
    pub fn wake(&self) {
        // The lock orders this after a waiter's own check, or the wake-up could be missed.
        drop(self.wait.lock());
        self.freed.notify_all();
    }
}
