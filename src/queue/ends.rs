//! Both ends of the queue: runs are enqueued, dequeued and counted by their events, and a gate
//! closes it early.
//!
//! Invariant: each run ends as dequeued, refused to its producer, or still inside when the last end
//! is dropped, exactly once. Runs that are inside when the gate closes are dequeued by workers that
//! go on until [`Dequeued::Closed`]. Occupancy is what entered less what left, never a third
//! counter. `tests/interleavings.rs` drives this file, and `room`, through its interleavings.

use std::sync::Arc;
use std::time::Duration;

use super::room::Room;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

/// An element of a queue: some events together.
pub trait Load: Sized {
    /// How many events; at least one.
    fn events(&self) -> usize;

    /// Cuts it in two after the first `at` events, which it keeps; returns the rest.
    fn split_off(&mut self, at: usize) -> Self;
}

/// The result of an enqueue.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// It is in the queue.
    Queued,
    /// The queue has no room for the run, which is returned.
    Full(T),
    /// The queue is closed; the run is returned.
    Closed(T),
}

/// The sending side. The queue closes when the last clone is dropped.
pub struct Intake<T> {
    shards: Vec<(Sender<T>, Arc<Room>)>,
    entered: Arc<AtomicU64>,
    gate: Gate,
}

/// The receiving side of one worker; a clone takes from the same shard.
pub struct Outlet<T> {
    shard: (Receiver<T>, Arc<Room>),
    left: Arc<AtomicU64>,
    gate: Gate,
}

/// Counts the events inside, for metrics.
#[derive(Clone, Default)]
pub struct Occupancy {
    entered: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

/// Closes the queue to new runs at once, without waiting for the last sender's end: a fetch thread
/// that is stuck in a dead socket keeps its sender for minutes.
#[derive(Clone)]
pub struct Gate {
    closed: Arc<AtomicBool>,
    rooms: Vec<Arc<Room>>,
}

impl Gate {
    /// From now on every enqueue is refused as closed; runs inside can still be dequeued.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.rooms.iter().for_each(|room| room.wake());
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Occupancy {
    /// Events that entered so far.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }

    /// Events inside now; off by at most one run a thread while they move.
    pub fn depth(&self) -> u64 {
        let left = self.left.load(Ordering::Acquire);
        self.entered().saturating_sub(left)
    }
}

/// One shard of a queue: its channel, and the events that it may hold at most.
pub struct Shard<T> {
    /// Its sending end.
    pub sender: Sender<T>,
    /// Its receiving ends, one for each of its workers.
    pub receivers: Vec<Receiver<T>>,
    /// Events; `None` is no limit of its own: only the channel's applies.
    pub limit: Option<u64>,
}

/// Both ends of `shards`; the outlets come in the order of the shards' receivers.
pub fn join<T: Load>(shards: Vec<Shard<T>>) -> (Intake<T>, Vec<Outlet<T>>, Occupancy) {
    let occupancy = Occupancy::default();
    let rooms: Vec<Arc<Room>> = shards.iter().map(|s| Arc::new(Room::new(s.limit))).collect();
    let gate = Gate { closed: Arc::default(), rooms: rooms.clone() };
    let (mut senders, mut outlets) = (Vec::new(), Vec::new());
    for (shard, room) in shards.into_iter().zip(rooms) {
        outlets.extend(shard.receivers.into_iter().map(|receiver| Outlet {
            shard: (receiver, Arc::clone(&room)),
            left: Arc::clone(&occupancy.left),
            gate: gate.clone(),
        }));
        senders.push((shard.sender, room));
    }
    let entered = Arc::clone(&occupancy.entered);
    (Intake { shards: senders, entered, gate }, outlets, occupancy)
}

impl<T> Clone for Intake<T> {
    fn clone(&self) -> Self {
        Self {
            shards: self.shards.clone(),
            entered: Arc::clone(&self.entered),
            gate: self.gate.clone(),
        }
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self { shard: self.shard.clone(), left: Arc::clone(&self.left), gate: self.gate.clone() }
    }
}

impl<T: Load> Intake<T> {
    /// The gate of this queue.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Whether the gate is closed.
    pub fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Events that `shard` has room for now; `None` is any number.
    pub fn room(&self, shard: usize) -> Option<usize> {
        self.shards.get(shard).and_then(|(_, room)| room.free())
    }

    /// Enqueues a run at `shard`; waits at most `time` for room for the whole of it.
    pub fn offer(&self, shard: usize, run: T, time: Duration) -> Offer<T> {
        let Some((sender, room)) = self.shards.get(shard) else { return Offer::Closed(run) };
        let events = run.events() as u64;
        if self.gate.is_closed() {
            return Offer::Closed(run);
        }
        if !room.take(events, time, || self.gate.is_closed()) {
            return if self.gate.is_closed() { Offer::Closed(run) } else { Offer::Full(run) };
        }
        let sent = match sender.try_send(run) {
            Ok(()) => Ok(()),
            Err(refused) => sender.send_timeout(refused.into_inner(), time),
        };
        match sent {
            Ok(()) => {
                self.entered.fetch_add(events, Ordering::Release);
                Offer::Queued
            }
            Err(refused) => {
                room.give_back(events);
                match refused {
                    SendTimeoutError::Timeout(run) => Offer::Full(run),
                    SendTimeoutError::Disconnected(run) => Offer::Closed(run),
                }
            }
        }
    }
}

/// Which of `shards` takes the events of `key`: always the same one.
pub fn shard(key: u64, shards: usize) -> usize {
    (spread(key) % shards.max(1) as u64) as usize
}

/// Spreads neighbouring keys over all of `u64` (finaliser of MurmurHash3, Appleby 2011).
pub fn spread(key: u64) -> u64 {
    let key = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ (key >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ (key >> 33)
}

/// The result of a dequeue.
#[derive(Debug, PartialEq, Eq)]
pub enum Dequeued<T> {
    /// A run.
    Run(T),
    /// Nothing within the time.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

impl<T: Load> Outlet<T> {
    /// Dequeues the next run, waiting at most `time` for one.
    pub fn dequeue(&self, time: Duration) -> Dequeued<T> {
        let (receiver, _) = &self.shard;
        match receiver.recv_timeout(time) {
            Ok(run) => self.took(run),
            // A run may have come in between the end of the wait and the closing of the gate.
            Err(RecvTimeoutError::Timeout) if self.gate.is_closed() => match receiver.try_recv() {
                Ok(run) => self.took(run),
                Err(_) => Dequeued::Closed,
            },
            Err(RecvTimeoutError::Timeout) => Dequeued::Nothing,
            Err(RecvTimeoutError::Disconnected) => Dequeued::Closed,
        }
    }

    fn took(&self, run: T) -> Dequeued<T> {
        let events = run.events() as u64;
        self.left.fetch_add(events, Ordering::Release);
        self.shard.1.give_back(events);
        Dequeued::Run(run)
    }
}
