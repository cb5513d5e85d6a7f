//! When a thread last moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock;

/// Shows when a thread last moved, so that a deadlock differs from a slow peer. A new one has just
/// moved.
#[derive(Clone)]
pub struct Pulse(Arc<AtomicI64>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(clock::now_us())))
    }
}

impl Pulse {
    /// The thread moves.
    pub fn beat(&self) {
        self.0.store(clock::now_us(), Ordering::Relaxed);
    }

    /// The thread has ended: it is not stuck, however long the others take.
    pub fn end(&self) {
        self.0.store(i64::MAX, Ordering::Relaxed);
    }

    /// Time since the thread last moved.
    pub fn age(&self) -> Duration {
        let age_us = clock::now_us().saturating_sub(self.0.load(Ordering::Relaxed));
        Duration::from_micros(age_us.max(0).unsigned_abs())
    }
}
