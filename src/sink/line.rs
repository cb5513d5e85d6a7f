//! The workers' line before a sink that refuses by its rate limit: the one that waits longest is
//! next.
//!
//! A limit gives the same time to all refused workers, and only one of them succeeds; without a
//! line the others may fail again for minutes. Invariant: while the line is not empty, only its
//! head calls the sink; later workers queue after it. A worker that waits for something else leaves
//! the line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The line, shared by all workers of one sink.
#[derive(Default)]
pub struct Line {
    waiting: Mutex<VecDeque<usize>>,
    /// Its length, which is nearly always 0.
    length: AtomicUsize,
    moved: Condvar,
}

/// One worker's place; dropping it leaves the line.
pub struct Place {
    line: Arc<Line>,
    worker: usize,
    is_in: bool,
}

impl Place {
    /// Worker `worker`, not in line yet; its number must be its own.
    pub fn new(line: Arc<Line>, worker: usize) -> Self {
        Self { line, worker, is_in: false }
    }

    /// Joins the end of the line; keeps its place when it has one.
    pub fn join(&mut self) {
        if !self.is_in {
            self.is_in = true;
            self.change(|waiting, worker| waiting.push_back(worker));
        }
    }

    /// Leaves the line, so that the next worker may call.
    pub fn leave(&mut self) {
        if self.is_in {
            self.is_in = false;
            self.change(|waiting, worker| waiting.retain(|w| *w != worker));
            self.line.moved.notify_all();
        }
    }

    fn change(&self, change: impl FnOnce(&mut VecDeque<usize>, usize)) {
        let mut waiting = self.line.waiting.lock();
        change(&mut waiting, self.worker);
        self.line.length.store(waiting.len(), Ordering::SeqCst);
    }

    /// Waits at most `time` for its turn; true when it may call the sink: at once, if the line is
    /// empty.
    pub fn is_next(&mut self, time: Duration) -> bool {
        if self.line.length.load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.join();
        let mut waiting = self.line.waiting.lock();
        if waiting.front() != Some(&self.worker) {
            self.line.moved.wait_for(&mut waiting, time);
        }
        waiting.front() == Some(&self.worker)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a worker that is refused again and again while fresh ones pass it.
    #[test]
    fn who_waits_longest_is_next() {
        let line = Arc::<Line>::default();
        let [mut first, mut second, mut third] = [0, 1, 2].map(|n| Place::new(line.clone(), n));
        let now = Duration::ZERO;
        assert!(first.is_next(now) && second.is_next(now), "no limit, no line");
        second.join();
        first.join();
        assert!(second.is_next(now) && !first.is_next(now));
        assert!(!third.is_next(now), "a fresh one stands behind them");
        second.leave();
        assert!(!second.is_next(now), "served, it stands behind them");
        assert!(first.is_next(now));
        drop(first);
        assert!(third.is_next(now));
        third.leave();
        second.leave();
        assert!(second.is_next(now));
    }

    #[test]
    fn a_place_that_is_left_wakes_the_next() {
        let line = Arc::<Line>::default();
        let (mut first, mut second) = (Place::new(line.clone(), 0), Place::new(line, 1));
        first.join();
        second.join();
        let waiter = std::thread::spawn(move || second.is_next(Duration::from_secs(60)));
        first.leave();
        assert!(waiter.join().expect("no panic"));
    }
}
