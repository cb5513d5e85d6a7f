//! Gives up a thread that is stuck in a dead socket to a broker.
//!
//! Crate `kafka` waits up to 120 s on a broker that is stopped or cut off. The thread's supervisor
//! gives it up sooner; its call then returns `None`, however late. Invariant: a call either returns
//! its answer or was given up, never both.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock;

/// Whether a thread is inside a network call, and since when.
#[derive(Default)]
pub struct Busy {
    /// 0 idle, above 0 busy since that µs, -1 given up.
    state: AtomicI64,
}

const IDLE: i64 = 0;
const GIVEN_UP: i64 = -1;

impl Busy {
    /// Runs a network call. `None` when the thread was given up before or during it: the answer
    /// must be dropped, because another thread has taken over.
    pub fn during<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        let since = clock::now_us().max(1);
        self.state.compare_exchange(IDLE, since, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        let answer = call();
        self.state.compare_exchange(since, IDLE, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        Some(answer)
    }

    /// Gives the thread up when it has been in one call for longer than `limit`; true when it did.
    pub fn give_up_after(&self, limit: Duration) -> bool {
        let since = self.state.load(Ordering::SeqCst);
        let stuck = since > IDLE && (clock::now_us() - since) as u128 > limit.as_micros();
        stuck
            && self
                .state
                .compare_exchange(since, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// Whether the thread was given up.
    pub fn is_given_up(&self) -> bool {
        self.state.load(Ordering::SeqCst) == GIVEN_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: an answer that comes after the replacement took over, and is used as well.
    #[test]
    fn an_answer_that_comes_too_late_is_dropped() {
        let busy = Busy::default();
        assert_eq!(busy.during(|| 1), Some(1));
        assert!(!busy.give_up_after(Duration::ZERO), "idle is not stuck");
        let late = busy.during(|| {
            assert!(!busy.give_up_after(Duration::from_secs(60)), "not yet");
            while !busy.give_up_after(Duration::ZERO) {}
            assert!(!busy.give_up_after(Duration::ZERO), "once");
            2
        });
        assert_eq!(late, None);
        assert!(busy.is_given_up() && busy.during(|| 3).is_none());
    }
}
