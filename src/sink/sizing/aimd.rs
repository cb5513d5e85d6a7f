//! Up by one event a call, down by a tenth when a call outlasts the target: Clipper's adaptive batching (Crankshaw and
//! others, NSDI 2017, §4.3.1).

use std::time::Duration;

use super::SIZE_MAX;

/// What is left of the size after a call that took too long.
const BACKOFF: f64 = 0.9;

/// The state.
#[derive(Debug)]
pub struct Aimd {
    target: Duration,
    size: f64,
}

impl Aimd {
    /// Calls should take no longer than `target`.
    pub fn new(target: Duration) -> Self {
        Self { target, size: 1.0 }
    }

    /// Most events of a call.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// A call took `took`.
    pub fn answered(&mut self, took: Duration) {
        let size = if took > self.target { self.size * BACKOFF } else { self.size + 1.0 };
        self.size = size.clamp(1.0, SIZE_MAX as f64);
    }
}
