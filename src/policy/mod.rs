//! What happens when the queue is full: one enum, dispatched in one function; and what becomes of events
//! that will never be delivered.
//!
//! - here           `buffer`, and how a run is admitted to the queue
//! - `shed`         drops events: which, is one more choice
//! - `slow_source`  tells the producer what the sink can take
//! - `credit`       lets it send up to a position, as far as the sink's acks go
//! - `dead_letters` what is given up because it is no event, or one that the sink never takes
//!
//! Invariant: an event that is not admitted is counted with a reason, or still in the log.

pub mod credit;
pub mod dead_letters;
pub mod shed;
pub mod slow_source;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::queue::{self, Intake, Kind, Offer, Outlet};
use crate::source::spilled::Spill;
use crate::source::{Assigned, Downstream, Enqueued, Rejected, Run};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;
use crate::units;
use dead_letters::DeadLetters;
use shed::{Shedder, Who};

/// What to do about a full queue, and what that costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Wait until there is room. Costs time: the log keeps the difference, latency grows with it.
    #[default]
    Buffer,
    /// Drop events, count them and go on. Costs loss: latency stays, goodput is the sink's.
    Shed,
    /// Wait as `Buffer` does, and tell the producer to send no more than the sink takes. Costs the
    /// source: nothing is lost or late, less is produced.
    SlowSource,
    /// Wait as `Buffer` does, and let the producer send so many events more than the sink acked. Costs the
    /// source, and a message for each few acks: what waits anywhere is bounded by the window.
    Credit,
}

impl Policy {
    /// Its name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Shed => "shed",
            Self::SlowSource => "slow-source",
            Self::Credit => "credit",
        }
    }

    /// By its name in flags.
    ///
    /// # Errors
    /// Says which there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all = [Self::Buffer, Self::Shed, Self::SlowSource, Self::Credit];
        units::one_of(text, &all.map(|policy| (policy.name(), policy)))
    }

    /// Whether it controls the producer, which then sends no more than is served.
    pub fn holds_the_source(self) -> bool {
        match self {
            Self::SlowSource | Self::Credit => true,
            Self::Buffer | Self::Shed => false,
        }
    }

    /// Whether it goes with `queue`, and who is shed and the window of credit with it.
    ///
    /// # Errors
    /// Usage: names the flag, and says what it needs.
    pub fn check(
        self,
        queue: queue::Name,
        shed: Who,
        window: Option<NonZeroUsize>,
    ) -> Result<(), Failure> {
        if self == Self::Shed && !matches!(queue, queue::Name::Bounded | queue::Name::Spill) {
            let why = "--policy shed drops at a full queue: it needs --queue bounded or spill";
            return Err(Failure::Usage(why.into()));
        }
        if self == Self::Credit && queue == queue::Name::Spill {
            let why = "--policy credit counts what waits by its offsets, and --queue spill lets go of them: use another queue, \
                       or --policy slow-source";
            return Err(Failure::Usage(why.into()));
        }
        if queue == queue::Name::Spill && shed != Who::default() {
            let why = "with --queue spill expected newest: the others keep a queue short, and a disk makes it long";
            return Err(Failure::flag("--shed", shed.name(), why));
        }
        if self != Self::Shed && shed != Who::default() {
            let why = "says who is dropped: it needs --policy shed";
            return Err(Failure::flag("--shed", shed.name(), why));
        }
        match (self == Self::Credit, window) {
            (true, None) => Err(Failure::Usage(
                "--credit-window is missing: --policy credit needs twice the events that the sink takes in the \
                 longest round trip, such as --credit-window 160 at 2000/s and 40 ms"
                    .into(),
            )),
            (false, Some(events)) => {
                let why = "says how many events may wait: it needs --policy credit";
                Err(Failure::flag("--credit-window", events, why))
            }
            _ => Ok(()),
        }
    }
}

/// How long a blocked enqueue waits before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The door of the queue.
pub struct Admission {
    /// What a full queue means.
    pub policy: Policy,
    /// The queue's kind.
    pub kind: Kind,
    /// The queue, in memory.
    pub intake: Intake<Box<Run>>,
    /// The disk in front of it, where there is one: then a full queue is a full disk.
    pub spill: Option<Arc<Spill>>,
    /// Most events of a batch.
    pub batch_events_max: usize,
    /// Workers.
    pub workers: usize,
    /// What is counted.
    pub metrics: ProcessorMetrics,
    /// What drops events.
    pub shedder: Arc<Shedder>,
    /// Where the oldest run of each shard is taken out; empty unless the oldest are shed.
    pub heads: Vec<Outlet<Box<Run>>>,
    /// Where what will never be delivered is kept.
    pub dead_letters: Arc<DeadLetters>,
}

impl Admission {
    fn offer(&self, shard: usize, run: Box<Run>, wait: Duration) -> Offer<Box<Run>> {
        let events = run.len() as u64;
        let offer = match &self.spill {
            Some(spill) => spill.offer(shard, run, wait),
            None => self.intake.offer(shard, run, wait),
        };
        if matches!(offer, Offer::Queued) {
            self.metrics.enqueued.inc_by(events);
        }
        offer
    }

    /// Waits until there is room for the whole run.
    fn buffer(&self, shard: usize, run: Box<Run>) -> Enqueued {
        let mut run = run;
        loop {
            match self.offer(shard, run, LOOK) {
                Offer::Queued => return Enqueued::Yes,
                Offer::Closed(_) => return Enqueued::Unwanted,
                Offer::Full(back) if back.assigned.is_revoked() => return Enqueued::Unwanted,
                Offer::Full(back) => run = back,
            }
        }
    }

    /// The door of `shard`, as a shedder sees it.
    fn door(&self, shard: usize) -> Door<'_> {
        let shards = NonZeroUsize::new(self.shards()).unwrap_or(NonZeroUsize::MIN);
        let limit = self.kind.shard_capacity(shards).unwrap_or(usize::MAX);
        Door { admission: self, shard, limit, head: self.heads.get(shard) }
    }
}

/// The door of one shard.
pub struct Door<'a> {
    admission: &'a Admission,
    shard: usize,
    /// Events that the shard holds at most.
    limit: usize,
    /// Where its oldest run is taken out; none unless the oldest are shed.
    head: Option<&'a Outlet<Box<Run>>>,
}

impl Door<'_> {
    /// Enqueues a run, if there is room for the whole of it now.
    fn offer(&self, run: Box<Run>) -> Offer<Box<Run>> {
        self.admission.offer(self.shard, run, Duration::ZERO)
    }

    fn is_closed(&self) -> bool {
        self.admission.intake.is_closed()
    }

    /// Events that the shard has room for: none while others wait on disk, behind which they would have to go.
    fn room(&self) -> usize {
        if self.admission.spill.as_ref().is_some_and(|spill| spill.is_used()) {
            return 0;
        }
        self.admission.intake.room(self.shard).unwrap_or(usize::MAX)
    }

    /// Events in all shards.
    fn depth(&self) -> usize {
        let intake = &self.admission.intake;
        let free = (0..intake.shards()).filter_map(|shard| intake.room(shard));
        free.map(|free| self.limit.saturating_sub(free)).sum()
    }
}

impl Downstream for Admission {
    fn shards(&self) -> usize {
        self.intake.shards()
    }

    fn shard_of(&self, key: u64) -> usize {
        queue::shard(key, self.intake.shards())
    }

    /// A batch's worth, but no more than a shard has room for.
    fn run_events_max(&self) -> usize {
        let room = Some(self.door(0).limit).filter(|room| *room > 0);
        self.batch_events_max.min(room.unwrap_or(usize::MAX)).max(1)
    }

    fn enqueue(&self, shard: usize, run: Box<Run>) -> Enqueued {
        match self.policy {
            Policy::Buffer | Policy::SlowSource | Policy::Credit => self.buffer(shard, run),
            Policy::Shed => self.shedder.enter(&self.door(shard), run),
        }
    }

    fn reject(&self, rejected: &Rejected<'_>, stop: &Stop) -> bool {
        self.dead_letters.keep(rejected, stop)
    }

    /// What the workers can take at once.
    fn round_events_max(&self) -> Option<usize> {
        (self.kind == Kind::Pull).then(|| self.workers * self.batch_events_max)
    }

    fn await_acks(&self, assigned: &Assigned) {
        while !self.intake.is_closed() && !assigned.await_all_done(LOOK) {}
    }
}
