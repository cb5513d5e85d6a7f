//! Counts events that were lost with the log itself: those of retention and gaps from the
//! processor, those of a deleted topic from producer and processor together.
//!
//! For a deleted log, the processor knows how far it fetched, and the high watermark only as of its last
//! fetch; the producer knows how far it was acknowledged. A partition's logs are matched in their
//! order.

use std::collections::HashMap;

use super::summaries::{Produced, Taken};

/// Events lost.
pub(super) fn count(produced: &[Produced], taken: &[Option<Taken>]) -> u64 {
    let mut ends: HashMap<(i32, usize), i64> = HashMap::new();
    for producer in produced {
        let mut nth = HashMap::new();
        for gone in &producer.logs_gone {
            let turn = turn(&mut nth, gone.partition);
            let end = ends.entry((gone.partition, turn)).or_insert(gone.acked_below);
            *end = gone.acked_below.max(*end);
        }
    }
    let (mut lost, mut nth) = (0, HashMap::new());
    for processor in taken.iter().flatten() {
        lost += processor.lost;
        for left in &processor.logs_left {
            let known = left.unfetched();
            let mut left = *left;
            let turn = turn(&mut nth, left.partition);
            if let Some(end) = ends.get(&(left.partition, turn)) {
                left.end = left.end.max(*end);
            }
            // The processor's own count has what it knew of.
            lost += left.unfetched() - known;
        }
    }
    lost
}

/// How many logs of the partition came before.
fn turn(nth: &mut HashMap<i32, usize>, partition: i32) -> usize {
    let next = nth.entry(partition).or_insert(0);
    let turn = *next;
    *next += 1;
    turn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::logs::GoneLog;
    use crate::source::LeftLog;

    fn produced(gone: &[(i32, i64)]) -> Produced {
        let gone = gone.iter().map(|(partition, acked_below)| GoneLog {
            partition: *partition,
            acked_below: *acked_below,
        });
        Produced { logs_gone: gone.collect(), ..Produced::default() }
    }

    fn taken(lost: u64, left: &[(i32, i64, i64)]) -> Option<Taken> {
        let left = left.iter().map(|(partition, position, end)| LeftLog {
            partition: *partition,
            position: *position,
            end: *end,
        });
        Some(Taken { lost, logs_left: left.collect(), ..Taken::default() })
    }

    #[test]
    fn the_producers_word_counts_where_it_knows_of_more() {
        // 5 by retention; of partition 3's log the processor knew of 20 and the producer of 30 more.
        let alone = [taken(5 + 20, &[(3, 100, 120)])];
        assert_eq!(count(&[], &alone), 25);
        assert_eq!(count(&[produced(&[(3, 150)])], &alone), 55);
        assert_eq!(count(&[produced(&[(3, 110), (4, 1000)])], &alone), 25, "nobody left 4");
        assert_eq!(count(&[produced(&[(3, 130)]), produced(&[(3, 150)])], &alone), 55);
        assert_eq!(count(&[produced(&[(3, 150)])], &[None]), 0, "killed: nobody knows");
    }

    #[test]
    fn a_log_that_went_twice_is_matched_in_its_order() {
        let producer = produced(&[(3, 150), (3, 40)]);
        let processors = [taken(0, &[(3, 100, 100)]), taken(0, &[(3, 10, 10)])];
        assert_eq!(count(&[producer], &processors), 50 + 30);
    }
}
