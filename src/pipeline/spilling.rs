//! The disk in front of a queue that spills: opened before anything is fetched, ended after the workers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::failure::Failure;
use crate::queue::Intake;
use crate::queue::spill::disk::Folder;
use crate::queue::spill::{Commit, Spill};
use crate::source::Run;
use crate::source::spilled::{self, Keeper};
use crate::telemetry::metrics::{Metrics, ProcessorMetrics, SpillMetrics};
use crate::threads::{Stop, ThreadGroup};

/// Events on disk that are not in the log any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spilled {
    /// That an earlier processor left: delivered before anything else.
    pub found: u64,
    /// That are left for the next one.
    pub left: u64,
}

/// The spill of a run; none where the queue does not spill.
pub(super) struct Spilling(Option<Opened>);

struct Opened {
    spill: Arc<spilled::Spill>,
    commit: Commit,
    found: u64,
}

impl Spilling {
    /// Opens the folder of `settings`.
    ///
    /// # Errors
    /// When it cannot be made or written to, another process uses it, or what it holds is damaged or another group's.
    pub fn open(
        settings: &Settings,
        intake: &Intake<Box<Run>>,
        (registry, metrics): (&Metrics, &ProcessorMetrics),
        stop: &Stop,
    ) -> Result<Self, Failure> {
        let Some(asked) = &settings.spill else { return Ok(Self(None)) };
        let dir = asked.dir.display();
        let folder = Folder::open(&asked.dir)
            .map_err(|e| Failure::Failed(format!("--spill-dir {dir}: cannot be used: {e}")))?;
        let owner = spilled::owner(&settings.member.topic, &settings.member.group);
        let keeper = Keeper::new(
            asked.commit,
            settings.transform,
            settings.shards(),
            settings.mode.events_max(),
            metrics.clone(),
        );
        let opened = Spill::open(
            Box::new(folder),
            (asked.limits(), asked.commit, &owner),
            intake.clone(),
            keeper,
            (SpillMetrics::register(registry)?, stop.clone()),
        );
        let (spill, found) = opened.map_err(Failure::failed)?;
        if found > 0 {
            log::info!(dir = dir.to_string().as_str(), events = found; "events of an earlier processor on disk, delivered first");
        }
        Ok(Self(Some(Opened { spill: Arc::new(spill), commit: asked.commit, found })))
    }

    pub fn spill(&self) -> Option<Arc<spilled::Spill>> {
        self.0.as_ref().map(|opened| Arc::clone(&opened.spill))
    }

    /// Starts the thread that reads.
    pub fn start(&self, threads: &mut ThreadGroup) -> Result<(), Failure> {
        let Some(spill) = self.spill() else { return Ok(()) };
        threads.spawn("spill", move || spill.run())
    }

    /// Ends it, after its thread and the workers. What the log still has is counted as returned.
    pub fn finish(&self, metrics: &ProcessorMetrics, stop: &Stop) -> Option<Spilled> {
        let Opened { spill, commit, found } = self.0.as_ref()?;
        let left = match spill.finish() {
            Ok(left) => left.events,
            Err(why) => {
                stop.fail(why.to_string());
                return None;
            }
        };
        match commit {
            Commit::Acked => {
                metrics.returned.inc_by(left);
                Some(Spilled { found: *found, left: 0 })
            }
            Commit::Spilled => Some(Spilled { found: *found, left }),
        }
    }
}
