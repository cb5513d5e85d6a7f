//! At most `capacity` events. A full queue makes the sender wait, so memory is bounded by
//! `capacity × bytes of an event` and the difference stays in the log.

use crossbeam_channel::{Receiver, Sender};

/// crossbeam's array channel, with a slot for each event: a run takes one, however long it is, so the
/// slots are never short where the events are not.
pub fn open<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    crossbeam_channel::bounded(capacity)
}
