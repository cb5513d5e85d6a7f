//! What happens when the queue is full: one enum, dispatched in one function.
//!
//! - here          `buffer`, `shed`, and how an event is admitted to the queue
//! - `slow_source` tells the producer what the sink can take
//! - `shed_ids`    which ids were shed, in a file
//!
//! Invariant: an event that is not admitted is counted with a reason, or still in the log.

pub mod shed_ids;
pub mod slow_source;

use std::time::Duration;

use crate::queue::{Intake, Kind, Offer};
use crate::source::{HandOver, Handed, Holding, Item};
use crate::telemetry::metrics::ProcessorMetrics;
use shed_ids::ShedIds;

/// What to do about a full queue, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Wait until there is room. Costs time: the log keeps the difference, latency grows with it.
    Buffer,
    /// Drop the newest event, count it and go on. Costs loss: latency stays, goodput is the sink's.
    Shed,
    /// Wait as `Buffer` does, and tell the producer to send no more than the sink takes. Costs the
    /// source: nothing is lost or late, less is produced.
    SlowSource,
}

/// How long a blocked hand-over waits before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The door of the queue.
pub struct Admission {
    policy: Policy,
    is_pull: bool,
    intake: Intake<Item>,
    metrics: ProcessorMetrics,
    shed_ids: Option<ShedIds>,
}

impl Admission {
    /// A door that follows `policy` into `intake`, a queue of `kind`; what it sheds is written down
    /// in `shed_ids`.
    pub fn new(
        policy: Policy,
        kind: Kind,
        intake: Intake<Item>,
        metrics: ProcessorMetrics,
        shed_ids: Option<ShedIds>,
    ) -> Self {
        Self { policy, is_pull: kind == Kind::Pull, intake, metrics, shed_ids }
    }

    fn queued(&self) -> Handed {
        self.metrics.enqueued.inc();
        Handed::Taken
    }

    fn shed(&self, item: &Item) -> Handed {
        self.metrics.shed.with_label_values(&["queue_full", "newest"]).inc();
        if let Some(ids) = &self.shed_ids {
            ids.keep(item.event.id);
        }
        item.holding.done(item.offset);
        Handed::Taken
    }

    /// The event goes back: it stays open at its offset, so it is not committed and still in the
    /// log.
    fn unwanted(&self) -> Handed {
        self.metrics.returned.inc();
        Handed::Unwanted
    }
}

impl HandOver for Admission {
    fn offer(&self, item: Item) -> Handed {
        let key = item.event.key;
        let mut item = item;
        loop {
            let wait = match self.policy {
                Policy::Buffer | Policy::SlowSource => LOOK,
                Policy::Shed => Duration::ZERO,
            };
            match self.intake.offer(key, item, wait) {
                Offer::Queued => return self.queued(),
                Offer::Closed(_) => return self.unwanted(),
                Offer::Full(back) => match self.policy {
                    _ if back.holding.is_revoked() => return self.unwanted(),
                    Policy::Shed => return self.shed(&back),
                    Policy::Buffer | Policy::SlowSource => item = back,
                },
            }
        }
    }

    fn fetched(&self, holding: &Holding) {
        if self.is_pull {
            while !self.intake.is_closed() && !holding.await_all_done(LOOK) {}
        }
    }
}
