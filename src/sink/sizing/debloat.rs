//! What the sink takes within the target at the rate of late, shared among the workers: Flink's buffer debloating
//! (`BufferDebloater.java`, `BufferSizeEMA.java`; FLIP-183), whose buffers in use are the workers' batches here.

use std::time::{Duration, Instant};

use super::SIZE_MAX;

/// Flink's defaults: how often the size is set, over how many of them it is smoothed, and the change below which it is
/// left (`taskmanager.network.memory.buffer-debloat.*`).
const PERIOD: Duration = Duration::from_millis(200);
const SAMPLES: f64 = 20.0;
const THRESHOLD: f64 = 0.25;

/// The state.
#[derive(Debug)]
pub struct Debloat {
    target_s: f64,
    workers: f64,
    began: Instant,
    /// Events acked since then.
    acked: usize,
    /// Smoothed; and what is in force.
    smoothed: f64,
    size: f64,
}

impl Debloat {
    /// What is in flight should be served within `target`.
    pub fn new(target: Duration, workers: usize, now: Instant) -> Self {
        let size = SIZE_MAX as f64;
        Self {
            target_s: target.as_secs_f64(),
            workers: workers.max(1) as f64,
            began: now,
            acked: 0,
            smoothed: size,
            size,
        }
    }

    /// Most events of a call.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// The sink acked `acked` events.
    pub fn answered(&mut self, acked: usize, now: Instant) {
        self.acked += acked;
        let time = now.saturating_duration_since(self.began);
        if time < PERIOD {
            return;
        }
        let rate = self.acked as f64 / time.as_secs_f64();
        (self.began, self.acked) = (now, 0);
        let most = SIZE_MAX as f64;
        let desired = (rate * self.target_s / self.workers).min(most);
        self.smoothed += 2.0 / (SAMPLES + 1.0) * (desired - self.smoothed);
        let new = self.smoothed.clamp(1.0, most);
        let is_at_bound = new <= 1.0 || new >= most;
        if is_at_bound || (new - self.size).abs() >= THRESHOLD * self.size {
            self.size = new;
        }
    }
}
