//! How far each partition has been sent, and which sender may send it now.
//!
//! Invariant: every event of a partition below its cursor is acknowledged, and only the sender that
//! holds a cursor moves it: a sender that was given up moves nothing, however late its answer
//! comes. So nothing is ever skipped; an event may be sent twice. It knows no broker and no time.

use parking_lot::Mutex;

/// Number of a sender thread; a replacement has another one.
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
    /// End of the last batch that was sent and whose result is not known.
    sent_to: Option<u64>,
    stamp: Option<Stamp>,
    holder: Option<SenderId>,
}

/// The mark by which brokers recognise a partition's batches (KIP-98). Each partition has a
/// producer id of its own, so a loss of one id concerns no other partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Events that had been acknowledged when it was given: sequence numbers count from there.
    since: u64,
}

/// A partition that a sender holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: u32,
    /// The first event that is not known to be acknowledged.
    pub next: u64,
    /// End of the batch that was sent from there and whose result is not known: a resend must be
    /// the same batch, so that the broker recognises it.
    pub sent_to: Option<u64>,
    /// The partition's stamp, and the sequence number of its next event.
    pub stamp: Option<(Stamp, i32)>,
}

impl Stamp {
    /// Sequence number of the event that follows `acked` ones: after `i32::MAX` they start again at
    /// 0.
    fn sequence(&self, acked: u64) -> i32 {
        ((acked - self.since) & i32::MAX as u64) as i32
    }
}

impl Cursors {
    /// Cursors for partitions `0..partitions`, at the first event.
    pub fn new(partitions: u32) -> Self {
        Self { table: Mutex::new(vec![Cursor::default(); partitions as usize]) }
    }

    /// Claims those of `wanted` that are free, the one furthest behind first.
    pub fn claim(&self, sender: SenderId, wanted: impl Iterator<Item = u32>) -> Vec<Claim> {
        let mut table = self.table.lock();
        let mut claims = Vec::new();
        for partition in wanted {
            if let Some(cursor) = table.get_mut(partition as usize)
                && cursor.holder.is_none()
            {
                cursor.holder = Some(sender);
                let stamp = cursor.stamp.map(|stamp| (stamp, stamp.sequence(cursor.acked)));
                let Cursor { next, sent_to, .. } = *cursor;
                claims.push(Claim { partition, next, sent_to, stamp });
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
                cursor.sent_to = None;
                true
            }
            _ => false,
        }
    }

    /// Notes that a held cursor's events up to `to` are about to be sent; `None`, that they are known not
    /// to be in the log.
    pub fn sending(&self, sender: SenderId, partition: u32, to: Option<u64>) {
        if let Some(cursor) = self.table.lock().get_mut(partition as usize)
            && cursor.holder == Some(sender)
        {
            cursor.sent_to = to;
        }
    }

    /// Gives a held cursor a producer id: from now on its sequence numbers count from here.
    pub fn stamp(&self, sender: SenderId, partition: u32, producer_id: i64, epoch: i16) {
        if let Some(cursor) = self.table.lock().get_mut(partition as usize)
            && cursor.holder == Some(sender)
        {
            cursor.stamp = Some(Stamp { producer_id, epoch, since: cursor.acked });
        }
    }

    /// Removes a held cursor's producer id, which its broker no longer knows.
    pub fn unstamp(&self, sender: SenderId, partition: u32) {
        if let Some(cursor) = self.table.lock().get_mut(partition as usize)
            && cursor.holder == Some(sender)
        {
            cursor.stamp = None;
        }
    }

    /// Releases all cursors of `sender`: at the end of its turn, or when it is given up.
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
    /// This is the slowest cursor, except when all events are acknowledged: the cursor of a
    /// partition that had none of the last events stays below them until its next turn, which never
    /// comes.
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

    fn unsent(partition: u32) -> Claim {
        Claim { partition, next: 0, sent_to: None, stamp: None }
    }

    /// Prevents: a batch that is sent again with other bounds or another number, which a broker that has
    /// it takes for a new one.
    #[test]
    fn a_batch_of_unknown_fate_is_claimed_as_it_was() {
        let cursors = Cursors::new(1);
        let claim = |sender| cursors.claim(sender, 0..1)[0];
        claim(1);
        cursors.stamp(1, 0, 70, 0);
        cursors.sending(1, 0, Some(10));
        assert!(cursors.advance(1, 0, 10, 4));
        cursors.sending(1, 0, Some(25));
        cursors.release(1);
        let again = claim(2);
        assert_eq!((again.next, again.sent_to), (10, Some(25)));
        assert_eq!(
            again.stamp.map(|(stamp, sequence)| (stamp.producer_id, sequence)),
            Some((70, 4))
        );
        // Another id counts from 0 again.
        cursors.stamp(2, 0, 71, 0);
        cursors.sending(2, 0, None);
        cursors.release(2);
        let anew = claim(3);
        assert_eq!(anew.sent_to, None);
        assert_eq!(
            anew.stamp.map(|(stamp, sequence)| (stamp.producer_id, sequence)),
            Some((71, 0))
        );
        let stamp = Stamp { producer_id: 1, epoch: 0, since: 5 };
        assert_eq!(stamp.sequence(5 + i32::MAX as u64), i32::MAX);
        assert_eq!(stamp.sequence(6 + i32::MAX as u64), 0);
    }

    #[test]
    fn a_partition_has_one_sender_at_a_time() {
        let cursors = Cursors::new(3);
        assert_eq!(cursors.claim(1, [0, 1].into_iter()).len(), 2);
        let second = cursors.claim(2, [1, 2].into_iter());
        assert_eq!(second, [unsent(2)]);
        cursors.release(1);
        assert_eq!(cursors.claim(2, [0, 1].into_iter()).len(), 2);
    }

    /// A sender stuck in a dead socket comes back after it was replaced: if its answer counted, the
    /// cursor could pass events that the new sender has yet to send.
    #[test]
    fn a_sender_that_was_given_up_moves_nothing() {
        let cursors = Cursors::new(1);
        cursors.claim(1, [0].into_iter());
        cursors.release(1);
        assert!(!cursors.advance(1, 0, 100, 100), "held by nobody");
        let taken = cursors.claim(2, [0].into_iter());
        assert_eq!(taken, [unsent(0)]);
        assert!(!cursors.advance(1, 0, 100, 100), "held by another");
        assert!(cursors.advance(2, 0, 10, 5));
        cursors.release(1);
        assert!(cursors.advance(2, 0, 20, 5), "the old one released what is not its own");
        assert_eq!((cursors.slowest(), cursors.acked()), (20, vec![10]));
    }

    /// Prevents: a summary without the last events because they were another partition's.
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
