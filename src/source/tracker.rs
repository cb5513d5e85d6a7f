//! Which offsets of one partition are acked: the contiguous prefix is what may be committed.
//!
//! Invariant: everything below `committable` is done, and nothing at or above `next` was opened.
//! One bit an open offset. It knows nothing of Kafka or threads.

use std::collections::VecDeque;

const WORD: i64 = 64;

/// The acked prefix of one partition.
#[derive(Debug)]
pub struct Tracker {
    /// All offsets below it are done.
    base: i64,
    /// The next offset to be opened.
    next: i64,
    /// Bit `i` of the window is offset `origin + i`; set when done.
    window: VecDeque<u64>,
    /// Offset of the window's first bit; at most 63 below `base`.
    origin: i64,
    /// Offsets opened and not done.
    open: usize,
}

impl Tracker {
    /// A tracker whose first offset is `start`.
    pub fn new(start: i64) -> Self {
        Self { base: start, next: start, window: VecDeque::new(), origin: start, open: 0 }
    }

    /// The next offset to fetch.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Highest offset below which everything is done: what may be committed.
    pub fn committable(&self) -> i64 {
        self.base
    }

    /// Offsets opened and not yet done.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// Opens `offset`, which will be done later. Offsets that were jumped over hold no event and
    /// count as done. False when it was opened before: the caller must drop its copy.
    pub fn open(&mut self, offset: i64) -> bool {
        if offset < self.next {
            return false;
        }
        self.skip_to(offset);
        self.next = offset + 1;
        self.open += 1;
        self.cover(offset);
        true
    }

    /// Counts every offset below `offset` that was not opened as done.
    pub fn skip_to(&mut self, offset: i64) {
        while self.next < offset {
            let nothing_is_open = self.open == 0;
            if nothing_is_open {
                // A jump (retention, a foreign batch) may be millions wide; no bits for it.
                self.window.clear();
                (self.base, self.next, self.origin) = (offset, offset, offset);
            } else {
                let empty = self.next;
                self.next += 1;
                self.cover(empty);
                self.mark(empty);
            }
        }
    }

    /// `offset` is acked, shed or invalid: it will not be needed again.
    pub fn done(&mut self, offset: i64) {
        assert!(
            (self.base..self.next).contains(&offset) && !self.is_marked(offset),
            "offset {offset} is done twice or was never opened ({}..{})",
            self.base,
            self.next
        );
        self.open -= 1;
        self.mark(offset);
    }

    /// Where offset's bit is. Callers pass offsets at or above `origin`.
    fn place(&self, offset: i64) -> (usize, u64) {
        let bit = offset - self.origin;
        ((bit / WORD) as usize, 1 << (bit % WORD))
    }

    fn cover(&mut self, offset: i64) {
        let (word, _) = self.place(offset);
        while self.window.len() <= word {
            self.window.push_back(0);
        }
    }

    fn is_marked(&self, offset: i64) -> bool {
        let (word, bit) = self.place(offset);
        self.window.get(word).is_some_and(|w| w & bit != 0)
    }

    fn mark(&mut self, offset: i64) {
        let (word, bit) = self.place(offset);
        if let Some(w) = self.window.get_mut(word) {
            *w |= bit;
        }
        while self.base < self.next && self.is_marked(self.base) {
            self.base += 1;
            if self.base - self.origin == WORD {
                self.window.pop_front();
                self.origin = self.base;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The plain model: a set of offsets that are open.
    #[derive(Default)]
    struct Model {
        open: BTreeSet<i64>,
        next: i64,
    }

    impl Model {
        fn committable(&self) -> i64 {
            self.open.first().copied().unwrap_or(self.next)
        }
    }

    proptest! {
        /// Defect prevented: a commit ahead of an ack, which loses events after a crash.
        #[test]
        fn committable_is_the_models_prefix(
            start in 0i64..1000,
            steps in proptest::collection::vec((0u8..10, any::<u16>()), 1..800),
        ) {
            let mut tracker = Tracker::new(start);
            let mut model = Model { next: start, ..Model::default() };
            for (kind, pick) in steps {
                match kind {
                    0 => {
                        let to = model.next + i64::from(pick % 200);
                        tracker.skip_to(to);
                        model.next = model.next.max(to);
                    }
                    1..=5 => {
                        let offset = model.next + i64::from(kind == 1) * i64::from(pick % 3);
                        prop_assert!(tracker.open(offset));
                        model.open.insert(offset);
                        model.next = offset + 1;
                    }
                    _ => {
                        let nth = usize::from(pick) % model.open.len().max(1);
                        if let Some(offset) = model.open.iter().nth(nth).copied() {
                            tracker.done(offset);
                            model.open.remove(&offset);
                        }
                    }
                }
                prop_assert_eq!(tracker.committable(), model.committable());
                prop_assert_eq!(tracker.next(), model.next);
                prop_assert_eq!(tracker.open_count(), model.open.len());
                let window = tracker.window.len() as i64 * WORD;
                prop_assert!(window <= model.next - model.committable() + 2 * WORD);
            }
        }
    }

    #[test]
    fn an_offset_opened_before_is_refused() {
        let mut tracker = Tracker::new(10);
        assert!(tracker.open(10));
        assert!(!tracker.open(10), "two fetchers must not both deliver it");
        assert!(!tracker.open(9));
    }

    #[test]
    #[should_panic(expected = "done twice")]
    fn a_second_ack_of_one_offset_is_a_broken_invariant() {
        let mut tracker = Tracker::new(0);
        tracker.open(0);
        tracker.open(1);
        tracker.done(1);
        tracker.done(1);
    }
}
