//! Never full. The sender never waits, so memory grows with the difference between what is
//! fetched and what is served, until the kernel ends it. This is the experiment, not an advice.

use crossbeam_channel::{Receiver, Sender};

/// crossbeam's list channel: blocks of 31 slots.
pub fn open<T>() -> (Sender<T>, Receiver<T>) {
    crossbeam_channel::unbounded()
}
