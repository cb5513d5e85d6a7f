//! At most `capacity` events. A full queue makes the sender wait, so memory is bounded by
//! `capacity × bytes of an event` and the difference stays in the log.

use crossbeam_channel::{Receiver, Sender};

/// crossbeam's array channel.
pub fn open<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    crossbeam_channel::bounded(capacity)
}
