//! The line before a sink that refuses by its rate limit: the batch that waits longest is next.
//!
//! A limit gives the same time to all refused workers, and only one of them succeeds; without a line the others may
//! fail again for minutes. While the line is not empty, only its head calls the sink; later workers queue after it.
//! A worker that waits for something else leaves the line. Costs: one call at a time, whatever a call takes.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Again, Call, Ended, Knob, Outcome, Verdict};

/// Workers in line; nearly always none.
#[derive(Default)]
pub struct Line(VecDeque<usize>);

impl Line {
    fn join(&mut self, worker: usize) {
        if !self.0.contains(&worker) {
            self.0.push_back(worker);
        }
    }
}

impl Knob for Line {
    fn begin(&mut self, call: &Call) -> Verdict {
        if !self.0.is_empty() {
            self.join(call.worker);
        }
        let is_next = self.0.front().is_none_or(|first| *first == call.worker);
        if is_next { Verdict::Go } else { Verdict::Later }
    }

    fn ended(&mut self, call: &Call, outcome: &Outcome, _: Instant, _: f64) -> Again {
        match outcome.ended {
            // It keeps its place when it has one.
            Ended::Limited => self.join(call.worker),
            _ => self.left(call.worker, call.retries),
        }
        // The limit's own time is obeyed exactly.
        Again::AsTold
    }

    fn left(&mut self, worker: usize, _: u32) {
        self.0.retain(|other| *other != worker);
    }

    fn is_in_order(&self, _: &Call) -> bool {
        false
    }

    fn front(&self) -> Option<usize> {
        self.0.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::pace::{Order, Pace};

    /// Prevents: a worker that is refused again and again while fresh ones pass it.
    #[test]
    fn who_waits_longest_is_next() {
        let now = Instant::now();
        let mut order = Order::new(Pace::Line, 3, now);
        let is_next = |order: &mut Order, worker| order.may_begin(worker, 1, now) == Verdict::Go;
        let end =
            |order: &mut Order, worker, ended| order.ended(worker, &Outcome::bare(ended), now, 0.5);
        assert!(is_next(&mut order, 0) && is_next(&mut order, 1), "no limit, no line");
        end(&mut order, 1, Ended::Limited);
        end(&mut order, 0, Ended::Limited);
        assert!(!is_next(&mut order, 0) && is_next(&mut order, 1));
        assert!(!is_next(&mut order, 2), "a fresh one stands behind them");
        end(&mut order, 1, Ended::Acked);
        assert!(!is_next(&mut order, 1), "served, it stands behind them");
        assert!(is_next(&mut order, 0));
        end(&mut order, 0, Ended::Failed);
        assert!(is_next(&mut order, 2));
        order.leave(2);
        assert!(is_next(&mut order, 1));
    }
}
