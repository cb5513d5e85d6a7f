//! The sums: each produced id, and where it was found. Nothing is read here.

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

/// How many of the wrong ids are written out.
const EXAMPLES: usize = 20;

/// Where every id went. `produced = delivered + shed + in_log + on_disk − again + missing`,
/// by id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Ids that were acknowledged to the producer.
    pub produced: u64,
    /// Of these, delivered to the sink.
    pub delivered: u64,
    /// Of these, in the log at or above the committed offset.
    pub in_log: u64,
    /// Of these, on the disk of a processor whose queue spilled, for the next one to deliver.
    pub on_disk: u64,
    /// Delivered or shed, and in the log or on disk, or in both of these: a restart would take them up
    /// again. Each of these places beyond the first counts.
    pub again: u64,
    /// Of these, shed by a processor and not delivered.
    pub shed: u64,
    /// Shed ids of high priority, by the share of them that the processors' summaries name.
    pub shed_high: u64,
    /// Both shed and delivered: an event that was taken up again after its shedding.
    pub shed_delivered: u64,
    /// Both, where no event can have been read again: must be 0.
    pub two_fates: u64,
    /// Counted as no event by the processor, or refused for good by the sink.
    pub invalid: u64,
    /// Events that the processor had read and neither delivered nor dropped when it ended. They
    /// were not committed: their ids are among `in_log`. Absent when it was killed and left no
    /// summary.
    pub held: Option<u64>,
    /// Lost with the log, by retention or with a topic that was deleted, as processors and producers
    /// counted it. Its ids are among `missing`.
    pub lost: u64,
    /// In none of these places.
    pub missing: u64,
    /// Of these, not among the ids that were given up as invalid: must be 0.
    pub unexplained: u64,
    /// The lowest ids that are missing, or have two fates.
    pub examples: Vec<u64>,
    /// Ids found without an acknowledgement to the producer (it was stopped before the
    /// acknowledgement came).
    pub beyond: u64,
    /// Deliveries of an id that was delivered before.
    pub duplicates: u64,
    /// Deliveries whose payload does not match its digest: must be 0.
    pub corrupt: u64,
    /// Records in that part of the log; more than its ids when the producer sent some again.
    pub log_records: u64,
    /// Records in that part of the log that are no event.
    pub log_invalid: u64,
}

/// Sets of ids, by what became of them.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub delivered: RoaringTreemap,
    pub shed: RoaringTreemap,
    pub in_log: RoaringTreemap,
    pub on_disk: RoaringTreemap,
    /// Ids that the processors' dead letters give up.
    pub invalid: RoaringTreemap,
    /// Whether an event may have been read again: a processor was killed, or the group had more
    /// than one, and what was not yet committed came a second time.
    pub taken_again: bool,
}

impl Ledger {
    /// Ids without a fate, or with two, and corrupt deliveries: must be 0.
    pub fn wrong(&self) -> u64 {
        self.unexplained + self.two_fates + self.corrupt
    }

    /// Compares the ids; the counts that are not about ids stay 0.
    pub(super) fn of(all: &RoaringTreemap, found: &Found) -> Self {
        let Found { delivered, shed, in_log, on_disk, invalid, taken_again } = found;
        let settled = delivered | shed;
        let (known, on_disk) = (&settled | in_log, on_disk & all);
        let anywhere = &known | &on_disk;
        let (missing, both) = (all - &anywhere, delivered & shed);
        let unexplained = &missing - invalid;
        let shed_delivered = both.len();
        let two_fates = if *taken_again { RoaringTreemap::new() } else { both };
        Self {
            produced: all.len(),
            delivered: (all & delivered).len(),
            in_log: (all & in_log).len(),
            on_disk: on_disk.len(),
            again: (settled & in_log & all).len() + (known & on_disk).len(),
            shed: ((all & shed) - delivered).len(),
            shed_delivered,
            two_fates: two_fates.len(),
            missing: missing.len(),
            unexplained: unexplained.len(),
            examples: (unexplained | two_fates).iter().take(EXAMPLES).collect(),
            beyond: (anywhere - all).len(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges is meant, also of one")]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = u64>) -> RoaringTreemap {
        ids.into_iter().collect()
    }

    fn ledger(
        delivered: impl IntoIterator<Item = u64>,
        shed: impl IntoIterator<Item = u64>,
        in_log: impl IntoIterator<Item = u64>,
        invalid: impl IntoIterator<Item = u64>,
    ) -> Ledger {
        let found = Found { invalid: ids(invalid), ..found(delivered, shed, in_log) };
        Ledger::of(&ids(0..100), &found)
    }

    fn found(
        delivered: impl IntoIterator<Item = u64>,
        shed: impl IntoIterator<Item = u64>,
        in_log: impl IntoIterator<Item = u64>,
    ) -> Found {
        Found {
            delivered: ids(delivered),
            shed: ids(shed),
            in_log: ids(in_log),
            ..Found::default()
        }
    }

    #[test]
    fn delivered_shed_and_in_the_log_make_all_and_what_is_in_two_is_counted_once() {
        let ledger = ledger(0..40, 40..60, 35..100, []);
        assert_eq!(ledger.wrong(), 0);
        assert_eq!((ledger.delivered, ledger.shed, ledger.in_log), (40, 20, 65));
        // 5 delivered and 20 shed ones are in the log as well.
        assert_eq!((ledger.again, ledger.missing, ledger.beyond), (25, 0, 0));
        assert_eq!(ledger.produced, 40 + 20 + 65 - 25);
    }

    /// Prevents: what a processor left on disk taken for lost, or counted twice.
    #[test]
    fn what_is_on_disk_is_not_missing_and_an_id_in_three_places_is_again_twice() {
        let found = Found { on_disk: ids(50..90), ..found(0..60, [], 55..70) };
        let ledger = Ledger::of(&ids(0..100), &found);
        assert_eq!(
            (ledger.on_disk, ledger.missing, ledger.examples),
            (40, 10, (90..100).collect())
        );
        assert_eq!(ledger.again, 5 + 20);
        let sum = ledger.delivered + ledger.in_log + ledger.on_disk - ledger.again + ledger.missing;
        assert_eq!(sum, ledger.produced);
    }

    #[test]
    fn one_missing_id_turns_the_ledger_red_and_is_named() {
        let ledger = ledger((0..60).filter(|id| *id != 42), [], 60..100, []);
        assert_eq!((ledger.wrong(), ledger.missing, ledger.unexplained), (1, 1, 1));
        assert_eq!(ledger.examples, [42]);
    }

    #[test]
    fn a_shed_id_explains_itself_and_no_other() {
        assert_eq!(ledger(0..90, 90..100, [], []).wrong(), 0);
        // As many shed as are missing, but another one.
        let other = ledger(0..90, (91..100).chain([200]), [], []);
        assert_eq!((other.wrong(), other.examples), (1, vec![90]));
    }

    #[test]
    fn an_id_that_was_shed_and_delivered_has_two_fates() {
        let both = ledger(0..100, [7], [], []);
        assert_eq!((both.wrong(), both.missing, both.examples), (1, 0, vec![7]));
    }

    /// Prevents: a processor that is killed while it sheds turning an honest ledger red.
    #[test]
    fn an_event_that_may_come_twice_may_be_shed_once_and_delivered_once() {
        let found = Found { taken_again: true, ..found(0..60, 55..80, 80..99) };
        let ledger = Ledger::of(&ids(0..100), &found);
        assert_eq!((ledger.delivered, ledger.shed, ledger.shed_delivered), (60, 20, 5));
        assert_eq!((ledger.wrong(), ledger.examples), (1, vec![99]));
        let sum = ledger.delivered + ledger.shed + ledger.in_log - ledger.again + ledger.missing;
        assert_eq!(sum, ledger.produced);
    }

    /// Prevents: lost ids that are balanced by as many invalid records.
    #[test]
    fn what_was_invalid_explains_itself_and_no_other() {
        assert_eq!(ledger(0..90, [], [], 90..100).wrong(), 0);
        let other = ledger(0..90, [], [], 91..101);
        assert_eq!((other.wrong(), other.missing, other.examples), (1, 10, vec![90]));
    }

    #[test]
    fn ids_that_nobody_vouches_for_do_not_fill_a_hole() {
        let ledger = ledger((0..99).chain(200..205), [], [], []);
        assert_eq!((ledger.unexplained, ledger.beyond), (1, 5));
    }
}
