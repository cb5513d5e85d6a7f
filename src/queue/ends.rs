//! Both ends of the queue: events are offered, taken and counted, and a gate closes it early.
//!
//! Invariant: an offered event ends as taken, given back to its producer, or still inside when the
//! last end is dropped, exactly once; what was inside when the gate closed is taken by a worker
//! that goes on until [`Taken::Closed`]. Occupancy is what entered less what left, never a third
//! counter. `tests/interleavings.rs` drives this file through its interleavings.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError};

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

/// Both ends of `lanes`, the receivers one a worker.
pub fn join<T>(
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
    /// The queue is closed, and what was in it by then is taken.
    Closed,
}

impl<T> Outlet<T> {
    /// Takes the next event, waiting at most `time` for one.
    pub fn take(&self, time: Duration) -> Taken<T> {
        match self.lane.recv_timeout(time) {
            Ok(event) => self.took(event),
            // Between the end of the wait and the closing of the gate an event may have come in.
            Err(RecvTimeoutError::Timeout) if self.gate.is_closed() => match self.lane.try_recv() {
                Ok(event) => self.took(event),
                Err(_) => Taken::Closed,
            },
            Err(RecvTimeoutError::Timeout) => Taken::Nothing,
            Err(RecvTimeoutError::Disconnected) => Taken::Closed,
        }
    }

    fn took(&self, event: T) -> Taken<T> {
        self.left.fetch_add(1, Ordering::Release);
        Taken::Event(event)
    }
}
