//! crossbeam's channel as far as the included files use it, over shuttle's primitives.
//!
//! A wait shorter than [`NEVER`] may end at any moment, before or after the event that it waits
//! for; a longer one never ends, so that a missed wake-up shows as a deadlock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, TryRecvError, TrySendError};
use shuttle::sync::{Condvar, Mutex};

/// A time that never passes in a model.
pub const NEVER: Duration = Duration::from_secs(3600);

struct State<T> {
    inside: VecDeque<T>,
    /// Waiting receivers: as many events a channel without room may still take.
    waiting: usize,
    senders: usize,
    receivers: usize,
}

struct Shared<T> {
    capacity: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    /// Changes the state and wakes those who wait for it.
    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let changed = change(&mut self.state.lock().expect("not poisoned"));
        self.changed.notify_all();
        changed
    }
}

pub struct Sender<T>(Arc<Shared<T>>);

pub struct Receiver<T>(Arc<Shared<T>>);

/// A channel of `capacity` events; with 0, an event goes directly to a waiting receiver.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { inside: VecDeque::new(), waiting: 0, senders: 1, receivers: 1 };
    let shared = Arc::new(Shared { capacity, state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    pub fn try_send(&self, event: T) -> Result<(), TrySendError<T>> {
        self.0.change(|state| {
            let room = self.0.capacity.max(state.waiting);
            if state.receivers == 0 {
                return Err(TrySendError::Disconnected(event));
            }
            if state.inside.len() >= room {
                return Err(TrySendError::Full(event));
            }
            state.inside.push_back(event);
            Ok(())
        })
    }

    /// No model waits for ever to send: whatever the time, it ends at any moment.
    pub fn send_timeout(&self, event: T, _time: Duration) -> Result<(), SendTimeoutError<T>> {
        shuttle::thread::yield_now();
        self.try_send(event).map_err(|refused| match refused {
            TrySendError::Full(event) => SendTimeoutError::Timeout(event),
            TrySendError::Disconnected(event) => SendTimeoutError::Disconnected(event),
        })
    }
}

impl<T> Receiver<T> {
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.change(|state| match state.inside.pop_front() {
            Some(event) => Ok(event),
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        })
    }

    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(event) => return Ok(event),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        self.0.change(|state| state.waiting += 1);
        if time < NEVER {
            shuttle::thread::yield_now();
        } else {
            let state = self.0.state.lock().expect("not poisoned");
            let nothing = |state: &mut State<T>| state.inside.is_empty() && state.senders > 0;
            drop(self.0.changed.wait_while(state, nothing).expect("not poisoned"));
        }
        self.0.change(|state| {
            state.waiting -= 1;
            match state.inside.pop_front() {
                Some(event) => Ok(event),
                None if state.senders == 0 => Err(RecvTimeoutError::Disconnected),
                None => Err(RecvTimeoutError::Timeout),
            }
        })
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.change(|state| state.senders += 1);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.change(|state| state.receivers += 1);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.change(|state| state.senders -= 1);
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.change(|state| state.receivers -= 1);
        }
    }
}
