//! Trouble: a run was offered more than it could do. No rule can move it. It follows from the plan: the offered rate
//! above the ceiling, a stall of the sink among it. For a row of the fault matrix it follows from what the sink counted: a
//! fault is trouble from its begin until the sink is served as before, and none where the sink always was.
//!
//! What follows is neither trouble nor quiet until the backlog is gone: whoever says then that the group is behind
//! is right.

use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;
use crate::lab::experiments::faults::row::{self, Row};
use crate::lab::experiments::{ArmSetup, Setup};
use crate::lab::model::{Course, Rates};
use crate::lab::plan::{self, Plan};
use crate::lab::read_json;
use crate::policy::Policy;
use crate::units;

/// How long a page of metrics still shows what is over, s: its latency quantiles are those of the last 10 s.
const SHOWN_S: f64 = 10.0;
/// How far ahead a backlog's end is looked for, s: a year.
const DRAIN_MAX_S: f64 = 365.0 * 86_400.0;

/// A time of trouble, s from the first event due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trouble {
    /// When it begins.
    #[serde(rename = "from_s")]
    pub from: f64,
    /// When it ends; infinite, `null` in JSON, where it goes on.
    #[serde(rename = "to_s")]
    pub to: f64,
    /// When its backlog is gone, by the model.
    #[serde(rename = "clear_s")]
    pub clear: f64,
}

impl Trouble {
    /// `15s..30s`, by hand; its backlog is part of it.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = "expected FROM..TO such as 15s..30s";
        let (from, to) = text.split_once("..").ok_or(shape)?;
        let seconds = |text: &str| match units::duration(text) {
            Ok(time) => Ok(time.as_secs_f64()),
            Err(why) => Err(format!("{shape} ({why})")),
        };
        let (from, to) = (seconds(from)?, seconds(to)?);
        if from >= to {
            return Err(format!("{shape}, FROM before TO"));
        }
        Ok(Self { from, to, clear: to })
    }
}

/// What befell the arm in `dir`, by the plan there or in the folder above.
///
/// # Errors
/// When there is no plan, or none that knows this arm: then nothing is known.
pub fn of_folder(dir: &Path) -> Result<Vec<Trouble>, Failure> {
    let unknown = |why: &str| Failure::Failed(format!("{}: {why}", dir.display()));
    let whole = dir.canonicalize().map_err(|e| unknown(&e.to_string()))?;
    let mut near = [Some(whole.as_path()), whole.parent()].into_iter().flatten();
    let path = near.find_map(|near| Some(near.join(plan::FILE)).filter(|path| path.exists()));
    let path = path.ok_or_else(|| unknown("no plan.json there or above it"))?;
    let plan: Plan = read_json(&path)?;
    let fault = whole.join(row::FILE);
    if fault.exists() {
        let (_, row) = Row::read(&whole.to_string_lossy(), &whole).map_err(|why| unknown(&why))?;
        return Ok(of_row(&plan.setup, &row));
    }
    let folder = whole.file_name().unwrap_or_default().to_string_lossy();
    let spec = plan.arm_in(&folder)?;
    let arm = plan.setup.arm(spec.name);
    let arm = arm.ok_or_else(|| unknown("its plan is older than the arms' setups"))?;
    Ok(of_arm(&plan.setup, arm))
}

/// What befalls an arm. One whose source obeys has no trouble: no more is offered than the sink takes.
pub fn of_arm(setup: &Setup, arm: &ArmSetup) -> Vec<Trouble> {
    if arm.policy.holds_the_source() {
        return Vec::new();
    }
    let (offered, served) = (arm.offered(), setup.served(arm));
    // What was shed is gone when the load is.
    let kept = if arm.policy == Policy::Shed {
        offered.admitted(&served, arm.room())
    } else {
        offered.clone()
    };
    above(&offered, &kept, &served)
}

fn of_row(setup: &Setup, row: &Row) -> Vec<Trouble> {
    let ceiling = Rates::constant(setup.ceiling);
    let ceiling = match row.unserved() {
        Some(phase) => ceiling.but(0.0, phase.from, phase.to),
        None => ceiling,
    };
    let offered = Rates::constant(row.offered);
    above(&offered, &offered, &ceiling)
}

/// Where `offered` is above `ceiling`, until the backlog of what was `kept` is gone. A trouble that begins before that is
/// part of the last one.
fn above(offered: &Rates, kept: &Rates, ceiling: &Rates) -> Vec<Trouble> {
    let mut edges: Vec<f64> = offered.edges().chain(ceiling.edges()).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    let until = edges.last().map_or(0.0, |last| last + DRAIN_MAX_S);
    let course = Course::of(kept, ceiling, until);
    let ends = edges.iter().skip(1).copied().chain([f64::INFINITY]);
    let mut found: Vec<Trouble> = Vec::new();
    for (from, to) in edges.iter().copied().zip(ends) {
        if offered.at(from) <= ceiling.at(from) {
            continue;
        }
        let clear = course.falls_to(0.0, to).map_or(f64::INFINITY, |at| at + SHOWN_S);
        match found.last_mut() {
            Some(before) if before.clear >= from => (before.to, before.clear) = (to, clear),
            _ => found.push(Trouble { from, to, clear }),
        }
    }
    found
}
