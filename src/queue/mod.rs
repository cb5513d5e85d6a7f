//! The queue between the fetch threads and the workers: one component, several capacities.
//!
//! - `bounded`    a full queue makes the fetch thread wait: the log keeps the difference
//! - `unbounded`  never full: the heap keeps the difference, until the kernel ends it
//! - `pull`       no queue: an event is handed from hand to hand, and the next fetch waits for the
//!   acks
//!
//! Invariant: the only difference between the kinds is the channel's constructor. Occupancy is
//! what entered less what left, never a third counter.

mod bounded;
mod pull;
mod unbounded;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError};

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

/// What became of an event that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// It is in the queue.
    Queued,
    /// The queue is full; here is the event again.
    Full(T),
    /// The queue is closed; here is the event again.
    Closed(T),
}

/// The sending side. The queue closes when the last clone is dropped.
pub struct Intake<T> {
    lanes: Vec<Sender<T>>,
    entered: Arc<AtomicU64>,
    gate: Gate,
}

/// The receiving side of one worker.
pub struct Outlet<T> {
    lane: Receiver<T>,
    left: Arc<AtomicU64>,
    gate: Gate,
}

/// Counts what is inside, for metrics.
#[derive(Clone, Default)]
pub struct Occupancy {
    entered: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

/// Closes the queue to new events at once, ahead of the last sender's end: a fetch thread that is
/// stuck in a dead socket keeps its sender for minutes.
#[derive(Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// From now on every offer is refused as closed; what is inside can still be taken.
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_closed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Occupancy {
    /// Events that entered so far.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }

    /// Events inside now; off by at most one a thread while they move.
    pub fn depth(&self) -> u64 {
        let left = self.left.load(Ordering::Acquire);
        self.entered().saturating_sub(left)
    }
}

/// One shared lane: whichever worker is free takes the next event (round-robin among waiters).
pub fn shared<T>(kind: Kind, workers: NonZeroUsize) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    let (sender, receiver) = kind.open(NonZeroUsize::MIN);
    let receivers = vec![receiver; workers.get()];
    join(vec![sender], receivers)
}

/// One lane a worker, the capacity divided among them: what goes to a lane keeps its order.
pub fn by_lane<T>(kind: Kind, workers: NonZeroUsize) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    let (senders, receivers) = (0..workers.get()).map(|_| kind.open(workers)).unzip();
    join(senders, receivers)
}

fn join<T>(
    lanes: Vec<Sender<T>>,
    receivers: Vec<Receiver<T>>,
) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    let occupancy = Occupancy::default();
    let gate = Gate::default();
    let outlets = receivers
        .into_iter()
        .map(|lane| Outlet { lane, left: Arc::clone(&occupancy.left), gate: gate.clone() })
        .collect();
    let entered = Arc::clone(&occupancy.entered);
    (Intake { lanes, entered, gate }, outlets, occupancy)
}

impl<T> Clone for Intake<T> {
    fn clone(&self) -> Self {
        Self {
            lanes: self.lanes.clone(),
            entered: Arc::clone(&self.entered),
            gate: self.gate.clone(),
        }
    }
}

impl<T> Intake<T> {
    /// The gate of this queue.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Whether the gate is closed.
    pub fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }

    /// Offers an event to the lane that `key` belongs to, waiting at most `time` while it is full.
    pub fn offer(&self, key: u64, event: T, time: Duration) -> Offer<T> {
        if self.gate.is_closed() {
            return Offer::Closed(event);
        }
        let Some(lane) = self.lanes.get(lane(key, self.lanes.len())) else {
            return Offer::Closed(event);
        };
        let offer = match lane.try_send(event) {
            Ok(()) => Offer::Queued,
            Err(TrySendError::Full(event)) if time.is_zero() => Offer::Full(event),
            Err(TrySendError::Full(event)) => match lane.send_timeout(event, time) {
                Ok(()) => Offer::Queued,
                Err(SendTimeoutError::Timeout(event)) => Offer::Full(event),
                Err(SendTimeoutError::Disconnected(event)) => Offer::Closed(event),
            },
            Err(TrySendError::Disconnected(event)) => Offer::Closed(event),
        };
        if matches!(offer, Offer::Queued) {
            self.entered.fetch_add(1, Ordering::Release);
        }
        offer
    }
}

/// Which of `lanes` takes the events of `key`: always the same one.
pub fn lane(key: u64, lanes: usize) -> usize {
    (spread(key) % lanes.max(1) as u64) as usize
}

/// Spreads neighbouring keys over the lanes (finaliser of MurmurHash3, Appleby 2011).
fn spread(key: u64) -> u64 {
    let key = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ (key >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ (key >> 33)
}

/// What a worker found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// An event.
    Event(T),
    /// Nothing within the time.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

impl<T> Outlet<T> {
    /// Takes the next event, waiting at most `time` for one.
    pub fn take(&self, time: Duration) -> Taken<T> {
        match self.lane.recv_timeout(time) {
            Ok(event) => {
                self.left.fetch_add(1, Ordering::Release);
                Taken::Event(event)
            }
            Err(RecvTimeoutError::Timeout) if self.gate.is_closed() => Taken::Closed,
            Err(RecvTimeoutError::Timeout) => Taken::Nothing,
            Err(RecvTimeoutError::Disconnected) => Taken::Closed,
        }
    }
}

#[cfg(test)]
mod tests;
