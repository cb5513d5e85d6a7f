//! The points that a page can ask for.

use std::collections::VecDeque;

use super::point::Point;

/// Ten minutes of samples a second apart, some 250 B each: 150 kB, whatever the length of the run.
pub const POINTS_MAX: usize = 600;

/// The last [`POINTS_MAX`] points, numbered from 1.
#[derive(Default)]
pub struct History {
    points: VecDeque<Point>,
    last: u64,
}

impl History {
    /// Numbers and keeps a point; the oldest makes room.
    pub fn push(&mut self, mut point: Point) {
        self.last += 1;
        point.seq = self.last;
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The points after number `seq` that are still here; 0 asks for all.
    pub fn since(&self, seq: u64) -> Vec<&Point> {
        self.points.iter().filter(|point| point.seq > seq).collect()
    }

    /// Number of the newest point; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Guards a page that is left open for days, and one that asks for what it does not have yet.
    #[test]
    fn a_long_run_keeps_its_last_points_and_a_page_gets_each_once() {
        let mut history = History::default();
        for at in 0..100_000 {
            history.push(Point { at: f64::from(at), ..Point::default() });
        }
        assert!(history.points.capacity() < 2 * POINTS_MAX, "{}", history.points.capacity());
        let all = history.since(0);
        assert_eq!((all.len(), all[0].seq, history.last()), (POINTS_MAX, 99_401, 100_000));
        assert_eq!(
            history.since(99_998).iter().map(|p| p.at).collect::<Vec<_>>(),
            [99_998.0, 99_999.0]
        );
        assert!(history.since(100_000).is_empty());
    }
}
