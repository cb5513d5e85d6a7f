//! A recorded arm beside its prediction: its input, and its measurements in the figures of the live
//! page.

use std::collections::BTreeSet;
use std::path::Path;

use super::words::Words;
use crate::failure::Failure;
use crate::lab::live::{Point, Sources};
use crate::lab::plan::{self, Plan};
use crate::lab::read_json;
use crate::lab::run_folder::Arm;

/// One arm of a run that has ended.
pub struct Recorded {
    /// `exp1/bounded`.
    pub name: String,
    /// Each at its time since the first event was due, s.
    pub points: Vec<Point>,
    /// Its input, as flags.
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
        let spec = plan.arm_in(&arm.to_string_lossy()).map_err(|e| wrong(&e.to_string()))?;
        let words = Words::of_arm(&plan.setup, spec.name)
            .ok_or_else(|| wrong("its plan is older than the arms' setups: run it again"))?;
        let name = format!("{}/{}", plan.experiment, spec.name);
        let mut points = points(&Arm::read(&whole, spec)?);
        // The forecast's memory is that of a member; how many there were is not known where they were scaled.
        let fixed = plan.setup.arm(spec.name).filter(|arm| arm.scaled.is_none());
        let members = fixed.map(|arm| arm.members().max(1) as f64);
        for point in &mut points {
            point.rss = point.rss.zip(members).map(|(all, members)| all / members);
        }
        Ok(Self { name, points, words })
    }
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
