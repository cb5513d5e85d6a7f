//! A recorded arm beside its prediction: the flags that stand for what it was given, and what it measured, in
//! the figures of the live page.

use std::collections::BTreeSet;
use std::path::Path;

use super::words::Words;
use crate::failure::Failure;
use crate::lab::experiments::{self, Setup};
use crate::lab::live::{Point, Sources};
use crate::lab::plan::{self, Plan};
use crate::lab::read_json;
use crate::lab::run_folder::Arm;
use crate::policy::Policy;

/// One arm of a run that has ended.
pub struct Recorded {
    /// `exp1/bounded`.
    pub name: String,
    /// Each at its time since the first event was due, s.
    pub points: Vec<Point>,
    /// What it was given.
    pub words: Words,
}

impl Recorded {
    /// Reads the arm's folder, `results/exp1/bounded`; the run's plan lies beside it.
    ///
    /// # Errors
    /// When that is no arm of a run, or its files are damaged.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::flag("--beside", dir.display(), why);
        let whole = dir.canonicalize().map_err(|e| wrong(&format!("cannot be read: {e}")))?;
        let (Some(run), Some(arm)) = (whole.parent(), whole.file_name()) else {
            return Err(wrong("expected the folder of an arm, such as results/exp1/bounded"));
        };
        if !run.join(plan::FILE).exists() {
            return Err(wrong(
                "expected the folder of an arm, such as results/exp1/bounded: there is no plan beside it",
            ));
        }
        let plan: Plan = read_json(&run.join(plan::FILE))?;
        let experiment = experiments::planned(&plan.experiment)?;
        let folder = arm.to_string_lossy();
        let spec = experiment.arm_in(&folder).map_err(|e| wrong(&e.to_string()))?;
        let words = words(&plan.setup, spec.name)
            .ok_or_else(|| wrong("its plan is older than the arms' setups: run it again"))?;
        let name = format!("{}/{}", experiment.name, spec.name);
        Ok(Self { name, points: points(&Arm::read(&whole, spec)?), words })
    }
}

/// The flags of the prediction for what arm `name` was given. A token of the sink is charged as it was there.
pub fn words(setup: &Setup, name: &str) -> Option<Words> {
    let arm = setup.arm(name)?;
    let time = |s: f64| match s.fract() {
        0.0 => format!("{s}s"),
        _ => format!("{}us", (s * 1e6).round()),
    };
    let steps: Vec<String> =
        arm.schedule.iter().map(|(rate, s)| format!("{rate}:{}", time(*s))).collect();
    // A call's own time is a ceiling, too: infinite without any.
    let calls = f64::from(arm.workers) / setup.call.latency_s;
    let tokens = calls * (setup.call.cost + setup.call.event_cost * arm.batch);
    let mut words = Words::default()
        .with("schedule", steps.join(","))
        .with("rate-limit", setup.ceiling.min(tokens))
        .with("call-cost", setup.call.cost)
        .with("event-cost", setup.call.event_cost)
        .with("batch-size", arm.batch)
        .with("sink-workers", arm.workers)
        .with("msg-size", arm.payload_bytes)
        .with("linger", time(arm.producer_linger_s))
        .with("partitions", arm.partitions);
    words = match arm.queue_cap {
        None => words.with("queue", "unbounded"),
        Some(0.0) => words.with("queue", "pull"),
        Some(cap) => words.with("queue", "bounded").with("queue-cap", cap),
    };
    if arm.policy != Policy::Buffer {
        words = words.with("policy", arm.policy.name());
    }
    // The limit is that of the arm which may reach it.
    if let (Some(limit), None) = (setup.memory_limit, arm.queue_cap) {
        words = words.with("memory-limit", format!("{limit}B"));
    }
    Some(match setup.stall {
        Some(stall) => {
            let when = format!("{}:{}", time(stall.from), time(stall.length()));
            words.with("stall", format!("{}@{when}", stall.rate))
        }
        None => words,
    })
}

fn points(arm: &Arm) -> Vec<Point> {
    let processes: BTreeSet<&String> =
        arm.samples.iter().flat_map(|s| s.processes.keys()).collect();
    let pages: BTreeSet<&String> = arm.samples.iter().flat_map(|s| s.metrics.keys()).collect();
    let all = |names: BTreeSet<&String>| names.into_iter().cloned().collect();
    let sources = Sources::new(all(processes), all(pages));
    let before = std::iter::once(None).chain(arm.samples.iter().map(Some));
    let read = arm.samples.iter().zip(before).map(|(now, before)| {
        let at = arm.at(now.due_us) + now.late_s;
        Point { at, ..sources.read(now, before) }
    });
    read.filter(|point| point.at >= 0.0).collect()
}
