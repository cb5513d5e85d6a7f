//! Which offsets of one partition are acked: the contiguous prefix is what may be committed.
//!
//! Invariant: everything below `committable` is done, and nothing at or above `next` was opened.
//! One bit an open offset; an offset that was never opened has none, so a jump (retention, a foreign
//! batch) costs nothing, however wide. It knows nothing of Kafka or threads.

use std::collections::VecDeque;

/// Offsets a word covers.
const WORD: i64 = u64::BITS as i64;

/// The acked prefix of one partition.
#[derive(Debug)]
pub struct Tracker {
    /// The next offset to be opened.
    next: i64,
    /// By offset; the first one has an open offset.
    words: VecDeque<Word>,
    /// Offsets opened and not done.
    open: usize,
}

/// Up to [`WORD`] offsets from `start` on: bit `i` is set while `start + i` is open.
#[derive(Debug)]
struct Word {
    start: i64,
    open: u64,
}

impl Word {
    /// `offset`'s bit; none where the word does not reach it.
    fn bit(&self, offset: i64) -> u64 {
        let at = offset.saturating_sub(self.start);
        if (0..WORD).contains(&at) { 1 << at } else { 0 }
    }
}

impl Tracker {
    /// A tracker whose first offset is `start`.
    pub fn new(start: i64) -> Self {
        Self { next: start, words: VecDeque::new(), open: 0 }
    }

    /// The next offset to fetch.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Highest offset below which everything is done: what may be committed.
    pub fn committable(&self) -> i64 {
        self.words
            .front()
            .map_or(self.next, |word| word.start + i64::from(word.open.trailing_zeros()))
    }

    /// Offsets opened and not yet done.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// Opens `offsets`, ascending, which will be done later. Skipped offsets hold no event and
    /// count as done. False, and nothing is opened, when the first was opened before: the caller
    /// must drop its copy.
    pub fn open(&mut self, offsets: &[i64]) -> bool {
        if offsets.first().is_some_and(|first| *first < self.next) {
            return false;
        }
        for &offset in offsets {
            debug_assert!(offset >= self.next, "offset {offset} is opened after {}", self.next);
            match self.words.back_mut().map(|last| (last.bit(offset), last)) {
                Some((bit, last)) if bit != 0 => last.open |= bit,
                _ => self.words.push_back(Word { start: offset, open: 1 }),
            }
            self.next = offset + 1;
        }
        self.open += offsets.len();
        true
    }

    /// Counts every offset below `offset` that was not opened as done.
    pub fn skip_to(&mut self, offset: i64) {
        self.next = self.next.max(offset);
    }

    /// `offsets`, ascending, are acked, shed or invalid: they will not be needed again.
    pub fn done(&mut self, offsets: impl IntoIterator<Item = i64>) {
        let mut at = None;
        for offset in offsets {
            // Neighbours mostly share a word.
            let near =
                at.filter(|at| self.words.get(*at).is_some_and(|word| word.bit(offset) != 0));
            let found = near
                .or_else(|| self.words.partition_point(|word| word.start <= offset).checked_sub(1));
            let word = found.and_then(|at| self.words.get_mut(at));
            let was_open = word.is_some_and(|word| {
                let bit = word.bit(offset);
                let was_open = word.open & bit != 0;
                word.open &= !bit;
                was_open
            });
            assert!(
                was_open,
                "offset {offset} is done twice or was never opened ({}..{})",
                self.committable(),
                self.next
            );
            self.open -= 1;
            at = found;
        }
        while self.words.front().is_some_and(|word| word.open == 0) {
            self.words.pop_front();
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
                        // A run: as many offsets as the kind says, some apart.
                        let gap = 1 + i64::from(kind == 1) * i64::from(pick % 90);
                        let first = model.next + gap - 1;
                        let run: Vec<i64> = (0..i64::from(kind)).map(|n| first + n * gap).collect();
                        prop_assert!(tracker.open(&run));
                        model.next = run[run.len() - 1] + 1;
                        model.open.extend(run);
                    }
                    _ => {
                        let nth = usize::from(pick) % model.open.len().max(1);
                        let run = model.open.iter().skip(nth).take(usize::from(pick % 7) + 1);
                        let run: Vec<i64> = run.copied().collect();
                        tracker.done(run.iter().copied());
                        model.open.retain(|offset| !run.contains(offset));
                    }
                }
                prop_assert_eq!(tracker.committable(), model.committable());
                prop_assert_eq!(tracker.next(), model.next);
                prop_assert_eq!(tracker.open_count(), model.open.len());
                // Words start at least a word apart, the first one where something is open.
                let words = tracker.words.len() as i64;
                prop_assert!(words * WORD <= model.next - model.committable() + 2 * WORD);
            }
        }
    }

    #[test]
    fn an_offset_opened_before_is_refused() {
        let mut tracker = Tracker::new(10);
        assert!(tracker.open(&[10]));
        assert!(!tracker.open(&[10]), "two fetchers must not both deliver it");
        assert!(!tracker.open(&[9, 20]));
    }

    /// Prevents: a corrupt batch header that keeps a fetcher busy for ever, or takes all memory.
    #[test]
    fn a_jump_costs_nothing_however_wide_and_whatever_is_open() {
        let mut tracker = Tracker::new(0);
        assert!(tracker.open(&[0]));
        tracker.skip_to(1 << 61);
        assert!(tracker.open(&[i64::MAX - 1]));
        assert_eq!((tracker.committable(), tracker.next(), tracker.words.len()), (0, i64::MAX, 2));
        tracker.done([0]);
        assert_eq!(tracker.committable(), i64::MAX - 1);
        tracker.done([i64::MAX - 1]);
        assert_eq!((tracker.committable(), tracker.open_count()), (i64::MAX, 0));
    }

    #[test]
    #[should_panic(expected = "done twice")]
    fn a_second_ack_of_one_offset_is_a_broken_invariant() {
        let mut tracker = Tracker::new(0);
        tracker.open(&[0]);
        tracker.open(&[1]);
        tracker.done([1]);
        tracker.done([1]);
    }
}
