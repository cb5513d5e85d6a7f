//! A permit that one answer at a time may hold, for a large copy of something: there must not be
//! one copy for each connection.
//!
//! Invariant: the turn of an answer is released when its client has the answer, or is gone, and not
//! before (`upstream` and `connection` pass it on).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module; clones are the same turn.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicBool>);

impl Turn {
    /// Takes the turn; `None` while an answer has it.
    pub fn take(&self) -> Option<Taken> {
        let was_taken = self.0.swap(true, Ordering::AcqRel);
        (!was_taken).then(|| Taken(Arc::clone(&self.0)))
    }
}

/// A turn that is taken until this is dropped.
#[derive(Debug)]
pub struct Taken(Arc<AtomicBool>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
