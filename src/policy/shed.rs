//! Who is dropped where more comes than the sink takes: one enum, dispatched in two functions, at the queue's door
//! and at its end.
//!
//! - `newest`    what finds the queue full
//! - `oldest`    what has waited longest, for what finds the queue full
//! - `priority`  as `newest`, with a part of the queue that only events of high priority may fill
//! - `sojourn`   what has waited too long when a worker takes it (CoDel)
//! - `pid`       a share of what comes, by a controller that holds the queue's wait; high priority last
//! - `class`     which events are of high priority
//! - `ids`       which ids were shed, in a file
//!
//! Invariant: what is shed is counted and in the file of ids before its offset is done; the rest keeps its order.

pub mod class;
pub mod ids;
mod newest;
mod oldest;
mod pid;
pub mod priority;
mod sojourn;

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Door;
use crate::clock;
use crate::failure::Failure;
use crate::source::{Enqueued, Run};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::units;
use class::Classes;
use ids::ShedIds;
use pid::Pid;
use sojourn::Sojourn;

/// Who is shed; see the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// What finds the queue full.
    #[default]
    Newest,
    /// What has waited longest.
    Oldest,
    /// What finds its class's part of the queue full.
    Priority,
    /// What has waited too long.
    Sojourn,
    /// A share of what comes.
    Pid,
}

impl Who {
    const ALL: [Self; 5] = [Self::Newest, Self::Oldest, Self::Priority, Self::Sojourn, Self::Pid];

    /// Its name in flags, and in the label `by` of `processor_events_shed_total`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
            Self::Priority => "priority",
            Self::Sojourn => "sojourn",
            Self::Pid => "pid",
        }
    }

    /// By its name in flags.
    ///
    /// # Errors
    /// Says which there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        units::one_of(text, &Self::ALL.map(|who| (who.name(), who)))
    }

    /// Whether an event that comes again goes again, while the same share goes: its id decides.
    pub fn is_by_event(self) -> bool {
        self == Self::Pid
    }

    /// Events in a queue of `capacity` while more comes than is served, where workers hold `held`. None for the oldest:
    /// the queue is full, and what stays goes through it faster than it is served.
    pub fn standing_depth(self, capacity: f64, held: f64) -> Option<f64> {
        match self {
            Self::Newest => Some(capacity),
            Self::Oldest => None,
            Self::Priority => Some((1.0 - priority::RESERVE) * capacity),
            // Both hold a wait of 2 held / μ.
            Self::Sojourn | Self::Pid => Some(capacity.min(2.0 * held)),
        }
    }
}

/// Drops events, and says so.
pub struct Shedder {
    who: Who,
    /// Which events are of high priority.
    pub classes: Classes,
    ids: Option<ShedIds>,
    metrics: ProcessorMetrics,
    sojourn: Mutex<Sojourn>,
    pid: Mutex<Pid>,
}

impl Shedder {
    /// Sheds `who`; workers hold `held` events at most. The ids go to the file `ids`, which is opened here.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn new(
        who: Who,
        classes: Classes,
        held: usize,
        ids: Option<&Path>,
        metrics: ProcessorMetrics,
    ) -> Result<Self, Failure> {
        Ok(Self {
            who,
            classes,
            ids: ids.map(ShedIds::open).transpose()?,
            metrics,
            sojourn: Mutex::new(Sojourn::new(held)),
            pid: Mutex::new(Pid::new(held)),
        })
    }

    /// A run comes to the queue's door: as much of it goes in as may.
    pub fn enter(&self, door: &Door<'_>, mut run: Box<Run>) -> Enqueued {
        if door.is_closed() || run.assigned.is_revoked() {
            return Enqueued::Unwanted;
        }
        match self.who {
            Who::Newest | Who::Sojourn => {}
            Who::Oldest => oldest::make_room(self, door, run.len()),
            Who::Priority => {
                let kept = priority::kept(&run, self.classes, door);
                self.thin(&mut run, &kept);
            }
            Who::Pid => {
                let shares = self.pid.lock().shares(Instant::now(), run.len(), door.depth());
                let kept = pid::kept(&run, self.classes, shares);
                self.thin(&mut run, &kept);
            }
        }
        if run.is_empty() { Enqueued::Yes } else { newest::enter(self, door, run) }
    }

    /// Sheds all of a run, of an acquired partition, that has waited too long; says whether it did.
    pub fn shed_if_too_late(&self, run: &Run) -> bool {
        if self.who != Who::Sojourn {
            return false;
        }
        let waited_us = clock::now_us().saturating_sub(run.fetched_us);
        let waited = Duration::from_micros(u64::try_from(waited_us).unwrap_or(0));
        let too_late = self.sojourn.lock().is_too_late(Instant::now(), waited);
        if too_late {
            self.shed(run, 0..run.len());
        }
        too_late
    }

    /// The sink acked so many events.
    pub fn acked(&self, events: usize) {
        if self.who == Who::Sojourn {
            self.sojourn.lock().acked(Instant::now(), events);
        }
    }

    /// Sheds what is not kept.
    fn thin(&self, run: &mut Box<Run>, kept: &[bool]) {
        let goes = |n: &usize| !kept.get(*n).copied().unwrap_or(true);
        self.shed(run, (0..run.len()).filter(goes));
        run.retain(|n| !goes(&n));
    }

    /// Counts these events of the run, keeps their ids, and then their offsets are done.
    fn shed(&self, run: &Run, events: impl Iterator<Item = usize> + Clone) {
        let ids = || events.clone().map(|n| run.head(n).id);
        let high = ids().filter(|id| self.classes.is_high(*id)).count() as u64;
        let all = events.clone().count() as u64;
        if all == 0 {
            return;
        }
        let by = |class| self.metrics.shed.with_label_values(&[self.who.name(), class]);
        by("high").inc_by(high);
        by("normal").inc_by(all - high);
        if let Some(file) = &self.ids {
            file.keep(ids());
        }
        run.assigned.done(events.flat_map(|n| run.offsets(n..n + 1)));
    }
}
