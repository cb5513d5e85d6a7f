//! The stop signal: a channel that closes, and the reason when something failed.
//!
//! Invariant: once set it stays set, every waiter wakes, and a waiter that a failure woke finds
//! its reason. `tests/interleavings.rs` drives this file through its interleavings.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::sync::Mutex;
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// A stop signal shared by clone: once set it stays set, and every waiter wakes.
#[derive(Clone)]
pub struct Stop {
    closes: Receiver<()>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Dropped to close the channel.
    open: Option<Sender<()>>,
    failure: Option<String>,
}

impl Default for Stop {
    fn default() -> Self {
        let (open, closes) = bounded(0);
        let state = State { open: Some(open), failure: None };
        Self { closes, state: Arc::new(Mutex::new(state)) }
    }
}

impl Stop {
    /// Asks every thread with a clone to end its work in order.
    pub fn set(&self) {
        self.state.lock().open = None;
    }

    /// As [`Stop::set`], and the run ends with `why` and exit code 1. The first reason is kept.
    pub fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        log::error!(why = why.as_str(); "stopping");
        let mut state = self.state.lock();
        state.failure.get_or_insert(why);
        state.open = None;
    }

    /// Whether the signal is set.
    pub fn is_set(&self) -> bool {
        self.state.lock().open.is_none()
    }

    /// Waits at most `time`; true when the signal is set.
    pub fn wait(&self, time: Duration) -> bool {
        matches!(self.closes.recv_timeout(time), Err(RecvTimeoutError::Disconnected))
    }

    /// `Err` when a thread failed.
    pub fn outcome(&self) -> Result<(), Failure> {
        match &self.state.lock().failure {
            Some(why) => Err(Failure::Failed(why.clone())),
            None => Ok(()),
        }
    }
}
