//! The queue between the fetch threads and the workers: one component, several capacities.
//!
//! - `bounded`    a full queue makes the fetch thread wait: the log keeps the difference
//! - `unbounded`  never full: the heap keeps the difference, until the kernel ends it
//! - `pull`       no queue: an event is handed from hand to hand, and the next fetch waits for the
//!   acks
//!
//! What both ends do is `ends`. Invariant: the only difference between the kinds is the channel's
//! constructor.

mod bounded;
mod ends;
mod pull;
mod unbounded;

pub use ends::{Gate, Intake, Occupancy, Offer, Outlet, Taken, lane};

use std::num::NonZeroUsize;

use crossbeam_channel::{Receiver, Sender};

use crate::units;

/// What a full queue means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// At most so many events; a full queue makes the sender wait.
    Bounded(NonZeroUsize),
    /// No limit: the experiment's only unbounded channel.
    Unbounded,
    /// No queue: the sender waits for a worker to take the event from its hand.
    Pull,
}

/// A [`Kind`] as flags name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// [`Kind::Bounded`], its limit being a flag of its own.
    Bounded,
    /// [`Kind::Unbounded`].
    Unbounded,
    /// [`Kind::Pull`].
    Pull,
}

impl Name {
    /// Reads `bounded`, `unbounded` or `pull`.
    ///
    /// # Errors
    /// The names that are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names =
            [("bounded", Self::Bounded), ("unbounded", Self::Unbounded), ("pull", Self::Pull)];
        units::one_of(text, &names)
    }

    /// The kind; `capacity` is a bounded one's.
    pub fn with_capacity(self, capacity: NonZeroUsize) -> Kind {
        match self {
            Self::Bounded => Kind::Bounded(capacity),
            Self::Unbounded => Kind::Unbounded,
            Self::Pull => Kind::Pull,
        }
    }
}

impl Kind {
    /// The limit in events; `None` when there is none.
    pub fn capacity(self) -> Option<usize> {
        match self {
            Self::Bounded(capacity) => Some(capacity.get()),
            Self::Unbounded => None,
            Self::Pull => Some(0),
        }
    }

    fn open<T>(self, lanes: NonZeroUsize) -> (Sender<T>, Receiver<T>) {
        match self {
            // Rounded up, so that lanes together hold at least the capacity.
            Self::Bounded(capacity) => bounded::open(capacity.get().div_ceil(lanes.get())),
            Self::Unbounded => unbounded::open(),
            Self::Pull => pull::open(),
        }
    }
}

/// One shared lane: whichever worker is free takes the next event (round-robin among waiters).
pub fn shared<T>(kind: Kind, workers: NonZeroUsize) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    let (sender, receiver) = kind.open(NonZeroUsize::MIN);
    let receivers = vec![receiver; workers.get()];
    ends::join(vec![sender], receivers)
}

/// One lane a worker, the capacity divided among them: what goes to a lane keeps its order.
pub fn by_lane<T>(kind: Kind, workers: NonZeroUsize) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    let (senders, receivers) = (0..workers.get()).map(|_| kind.open(workers)).unzip();
    ends::join(senders, receivers)
}

#[cfg(test)]
mod tests;
