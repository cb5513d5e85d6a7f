//! How far each partition has been sent, and which sender may send it now.
//!
//! Invariant: every event of a partition below its cursor is acknowledged, and a cursor is moved
//! only by the sender that holds it: one that was given up moves nothing, however late its answer
//! comes. So nothing is ever skipped; an event may be sent twice. It knows no broker and no time.

use parking_lot::Mutex;

/// One sender thread for its life; a replacement has another number.
pub type SenderId = u64;

/// The cursors of one topic, shared by its senders.
pub struct Cursors {
    table: Mutex<Vec<Cursor>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// Events below this position, counted from 0, are acknowledged or of other partitions.
    next: u64,
    /// Acknowledged so far.
    acked: u64,
    holder: Option<SenderId>,
}

/// A partition that a sender holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: u32,
    /// The first event that is not known to be acknowledged.
    pub next: u64,
}

impl Cursors {
    /// Cursors for partitions `0..partitions`, at the first event.
    pub fn new(partitions: u32) -> Self {
        Self { table: Mutex::new(vec![Cursor::default(); partitions as usize]) }
    }

    /// Takes those of `wanted` that nobody holds, the one furthest behind first.
    pub fn claim(&self, sender: SenderId, wanted: impl Iterator<Item = u32>) -> Vec<Claim> {
        let mut table = self.table.lock();
        let mut claims = Vec::new();
        for partition in wanted {
            if let Some(cursor) = table.get_mut(partition as usize)
                && cursor.holder.is_none()
            {
                cursor.holder = Some(sender);
                claims.push(Claim { partition, next: cursor.next });
            }
        }
        claims.sort_by_key(|claim| claim.next);
        claims
    }

    /// Moves a held cursor to `next` with `acked` more events acknowledged. False, and nothing is
    /// moved, when `sender` does not hold it any more.
    pub fn advance(&self, sender: SenderId, partition: u32, next: u64, acked: u64) -> bool {
        match self.table.lock().get_mut(partition as usize) {
            Some(cursor) if cursor.holder == Some(sender) => {
                cursor.next = cursor.next.max(next);
                cursor.acked += acked;
                true
            }
            _ => false,
        }
    }

    /// Gives back all that `sender` holds: at the end of its turn, or by whoever gives it up.
    pub fn release(&self, sender: SenderId) {
        for cursor in self.table.lock().iter_mut().filter(|c| c.holder == Some(sender)) {
            cursor.holder = None;
        }
    }

    /// The cursor furthest behind: no event below it will be sent again.
    pub fn slowest(&self) -> u64 {
        self.table.lock().iter().map(|cursor| cursor.next).min().unwrap_or(0)
    }

    /// Every event below it is acknowledged, of the `due` first ones.
    ///
    /// The slowest cursor, but when all are acknowledged: a partition that had none of the last
    /// events stands before them until its next turn, which does not come any more.
    pub fn acked_below(&self, due: u64) -> u64 {
        let acked: u64 = self.acked().iter().sum();
        if acked == due { due } else { self.slowest().min(due) }
    }

    /// Events acknowledged, by partition.
    pub fn acked(&self) -> Vec<u64> {
        self.table.lock().iter().map(|cursor| cursor.acked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_sender_at_a_time() {
        let cursors = Cursors::new(3);
        assert_eq!(cursors.claim(1, [0, 1].into_iter()).len(), 2);
        let second = cursors.claim(2, [1, 2].into_iter());
        assert_eq!(second, [Claim { partition: 2, next: 0 }]);
        cursors.release(1);
        assert_eq!(cursors.claim(2, [0, 1].into_iter()).len(), 2);
    }

    /// A sender stuck in a dead socket comes back after it was replaced: were its answer believed,
    /// the cursor could pass events that the new sender has yet to send.
    #[test]
    fn a_sender_that_was_given_up_moves_nothing() {
        let cursors = Cursors::new(1);
        cursors.claim(1, [0].into_iter());
        cursors.release(1);
        assert!(!cursors.advance(1, 0, 100, 100), "held by nobody");
        let taken = cursors.claim(2, [0].into_iter());
        assert_eq!(taken, [Claim { partition: 0, next: 0 }]);
        assert!(!cursors.advance(1, 0, 100, 100), "held by another");
        assert!(cursors.advance(2, 0, 10, 5));
        cursors.release(1);
        assert!(cursors.advance(2, 0, 20, 5), "the old one released what is not its own");
        assert_eq!((cursors.slowest(), cursors.acked()), (20, vec![10]));
    }

    /// Prevents: a summary that does not vouch for the last events because they were another
    /// partition's.
    #[test]
    fn when_all_is_acknowledged_no_cursor_holds_it_back() {
        let cursors = Cursors::new(2);
        cursors.claim(1, 0..2);
        cursors.advance(1, 0, 10, 8);
        cursors.advance(1, 1, 20, 11);
        assert_eq!(cursors.acked_below(20), 10, "one is missing");
        cursors.advance(1, 1, 20, 1);
        assert_eq!((cursors.slowest(), cursors.acked_below(20)), (10, 20));
    }

    #[test]
    fn the_partition_furthest_behind_comes_first() {
        let cursors = Cursors::new(3);
        cursors.claim(1, 0..3);
        cursors.advance(1, 0, 30, 0);
        cursors.advance(1, 2, 10, 0);
        cursors.release(1);
        let order: Vec<u32> = cursors.claim(1, 0..3).iter().map(|c| c.partition).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
