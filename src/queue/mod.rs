//! The queue between the fetch threads and the workers: one component, several capacities.
//!
//! - `bounded`    a full queue makes the fetch thread wait: the excess stays in the log
//! - `unbounded`  never full: the excess stays in the heap, until the kernel kills the process
//! - `pull`       no queue: a worker takes a run from the fetcher, and the next fetch waits for the acks
//! - `spill`      bounded in memory; the excess goes to disk, in order, before a full queue is full
//!
//! `ends` has both ends; `room` counts a limit in events. Invariant: the only difference between
//! the kinds is the channel's constructor, with its limit. `spill` is bounded, with a disk in front of it.

mod bounded;
mod ends;
mod pull;
mod room;
pub mod spill;
mod unbounded;

use ends::Shard;
pub use ends::{Dequeued, Gate, Intake, Load, Occupancy, Offer, Outlet, shard, spread};

use std::num::NonZeroUsize;

use crate::units;

/// The kind of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// At most so many events; a full queue makes the sender wait.
    Bounded(NonZeroUsize),
    /// No limit: the experiment's only unbounded channel.
    Unbounded,
    /// No queue: the sender waits until a worker takes its run.
    Pull,
    /// At most so many events in memory; the rest on disk.
    Spill(NonZeroUsize),
}

/// A [`Kind`] as flags name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// [`Kind::Bounded`]; another flag has its limit.
    Bounded,
    /// [`Kind::Unbounded`].
    Unbounded,
    /// [`Kind::Pull`].
    Pull,
    /// [`Kind::Spill`]; another flag has its limit in memory.
    Spill,
}

impl Name {
    /// Reads `bounded`, `unbounded`, `pull` or `spill`.
    ///
    /// # Errors
    /// The names that are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names = [
            ("bounded", Self::Bounded),
            ("unbounded", Self::Unbounded),
            ("pull", Self::Pull),
            ("spill", Self::Spill),
        ];
        units::one_of(text, &names)
    }

    /// The kind; `capacity` is for one with a limit in memory.
    pub fn with_capacity(self, capacity: NonZeroUsize) -> Kind {
        match self {
            Self::Bounded => Kind::Bounded(capacity),
            Self::Unbounded => Kind::Unbounded,
            Self::Pull => Kind::Pull,
            Self::Spill => Kind::Spill(capacity),
        }
    }
}

impl Kind {
    /// The limit in events, in memory; `None` when there is none.
    pub fn capacity(self) -> Option<usize> {
        match self {
            Self::Bounded(capacity) | Self::Spill(capacity) => Some(capacity.get()),
            Self::Unbounded => None,
            Self::Pull => Some(0),
        }
    }

    /// One of `shards` equal parts of the queue, with `workers` that dequeue from it.
    fn open<T>(self, shards: NonZeroUsize, workers: usize) -> Shard<T> {
        let limit = self.shard_capacity(shards);
        let (sender, receiver) = match (self, limit) {
            (Self::Bounded(_) | Self::Spill(_), Some(limit)) => bounded::open(limit),
            (Self::Pull, _) => pull::open(),
            (Self::Bounded(_) | Self::Spill(_) | Self::Unbounded, _) => unbounded::open(),
        };
        // A rendezvous has no room, and needs none: its channel makes the sender wait.
        let limit = limit.filter(|limit| *limit > 0).map(|limit| limit as u64);
        Shard { sender, receivers: vec![receiver; workers], limit }
    }

    /// Events that one of `shards` holds: rounded up, so that together they hold at least the capacity.
    pub fn shard_capacity(self, shards: NonZeroUsize) -> Option<usize> {
        self.capacity().map(|capacity| capacity.div_ceil(shards.get()))
    }
}

/// One shared shard: the next free worker takes the next run (work sharing).
pub fn shared<T: Load>(
    kind: Kind,
    workers: NonZeroUsize,
) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    ends::join(vec![kind.open(NonZeroUsize::MIN, workers.get())])
}

/// One shard for each worker, the capacity divided among them: the runs of a shard keep their
/// order.
pub fn by_shard<T: Load>(
    kind: Kind,
    workers: NonZeroUsize,
) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    ends::join((0..workers.get()).map(|_| kind.open(workers, 1)).collect())
}

#[cfg(test)]
mod tests;
