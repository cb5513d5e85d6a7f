//! The plan of the watched run: the run's place in it, its model's figures, and the experiment's
//! own checks on the samples so far: the report's code on unfinished samples.
//!
//! Invariant: it holds at most [`SAMPLES_MAX`] samples. When they are full, every second one is
//! dropped, and later samples are kept at that lower rate, so the whole run stays in view, at half
//! the detail. The report, which has all samples, is final.

use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;
use crate::lab::experiments::{self, ArmSetup, Check, Experiment};
use crate::lab::model;
use crate::lab::plan::{self, Plan};
use crate::lab::read_json;
use crate::lab::run_folder::Run;
use crate::lab::samples::Sample;
use crate::lab::text::figure;
use crate::lab::verdict::{measured, wanted};
use crate::policy::Policy;

/// Some 20 kB each: 10 MB. How large a page of hostile metrics makes them is bounded in `scrape`.
const SAMPLES_MAX: usize = 512;

/// One arm under way.
pub struct Story {
    experiment: &'static Experiment,
    run: Run,
    seen: usize,
    /// One of so many samples is kept.
    every: usize,
}

/// What the model gives for one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Model {
    /// Consumer lag, events.
    pub lag: Option<f64>,
    /// Events in the queue.
    pub queue: Option<f64>,
    /// Wait of the events that are served now, s.
    pub wait: Option<f64>,
}

/// Where the run stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// `8,000/s phase`.
    pub phase: String,
    /// Seconds until the schedule ends; absent before it begins and after it.
    pub left_s: Option<f64>,
}

/// A check on what was seen so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SoFar {
    /// The check's name.
    pub name: String,
    /// What is asked.
    pub question: String,
    /// What was predicted or required, with its margin.
    pub wanted: String,
    /// What was measured.
    pub measured: Option<String>,
    /// How it stands.
    pub state: State,
}

/// How a check stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing measured yet.
    Open,
    /// Within its margin.
    Holds,
    /// Outside it.
    Off,
}

impl Story {
    /// The story by `plan` of the arm whose folder is `out`; without `plan`, by the `plan.json`
    /// beside that folder. `None` when there is none, or when the one beside the folder cannot be
    /// used, which is logged: a page without a model is better than no watch.
    ///
    /// # Errors
    /// When `plan` cannot be used.
    pub fn find(plan: Option<&Path>, out: &Path) -> Result<Option<Self>, Failure> {
        if let Some(path) = plan {
            return Self::open(path, out)
                .map_err(|why| Failure::flag("--plan", path.display(), &why.to_string()));
        }
        let beside = out.parent().unwrap_or(Path::new("")).join(plan::FILE);
        if !beside.exists() {
            return Ok(None);
        }
        Self::open(&beside, out).or_else(|why| {
            log::warn!(why = why.to_string(); "no prediction on the live page");
            Ok(None)
        })
    }

    /// The fault matrix has no arms whose course is predicted, nor has a warm-up.
    fn open(path: &Path, out: &Path) -> Result<Option<Self>, Failure> {
        let arm = out.file_name().unwrap_or_default().to_string_lossy();
        let plan: Plan = read_json(path)?;
        let experiment = plan.planned()?;
        if experiment.arms.is_empty() || arm == experiments::WARM_UP {
            return Ok(None);
        }
        let spec = plan
            .arm_in(&arm)
            .map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))?;
        log::info!(plan = path.display().to_string(), arm = spec.name; "the live page shows its prediction");
        let run = Run::under_way(plan, spec, out);
        Ok(Some(Self { experiment, run, seen: 0, every: 1 }))
    }

    /// `exp2/pull`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.experiment.name, self.arm())
    }

    fn arm(&self) -> &'static str {
        self.run.arms.first().map_or("", |arm| arm.spec.name)
    }

    /// Adds a sample.
    pub fn add(&mut self, sample: &Sample) {
        let Some(arm) = self.run.arms.first_mut() else { return };
        if self.seen.is_multiple_of(self.every) {
            arm.push(sample.clone());
        }
        self.seen += 1;
        if arm.samples.len() == SAMPLES_MAX {
            let mut at = 0;
            arm.samples.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.every *= 2;
        }
    }

    /// Seconds from the first event due to `us`; `None` before the producer has begun.
    fn at_s(&self, us: i64) -> Option<f64> {
        self.run.arms.first().map(|arm| arm.at(us)).filter(|at| at.is_finite())
    }

    /// The model's figures for the time `us`: lag in events, the part of it in a queue of at most
    /// `capacity` events, and the wait of the events served then in s. It is for an arm that keeps
    /// what it cannot deliver: one that sheds, or holds its source, has no such backlog, and
    /// what members are added serves is not known before.
    pub fn model(&self, us: i64, capacity: Option<f64>) -> Model {
        let setup = &self.run.plan.setup;
        let is_fixed = |arm: &&ArmSetup| arm.policy == Policy::Buffer && arm.scaled.is_none();
        let arm = setup.arm(self.arm()).filter(is_fixed);
        let at = self.at_s(us).filter(|at| *at >= 0.0);
        let (Some(arm), Some(at)) = (arm, at) else { return Model::default() };
        let (offered, ceiling) = (arm.offered(), setup.served(arm));
        let lag = model::backlog(&offered, &ceiling, at);
        Model {
            lag: Some(lag),
            queue: capacity.map(|most| model::queued(lag, most)),
            wait: model::wait_s(&offered, &ceiling, at),
        }
    }

    /// Where the run stands at `us`.
    pub fn standing(&self, us: i64) -> Standing {
        let Some(at) = self.at_s(us) else {
            return Standing { phase: "before the load".into(), left_s: None };
        };
        let phases = || self.run.plan.setup.load_of(self.arm()).phases();
        match phases().find(|phase| at < phase.to) {
            Some(phase) => Standing {
                phase: format!("{}/s phase", figure(phase.rate)),
                left_s: phases().last().map(|last| last.to - at),
            },
            None => Standing { phase: "load over".into(), left_s: None },
        }
    }

    /// The experiment's checks of this arm.
    pub fn checks(&self) -> Vec<SoFar> {
        let arm = self.arm();
        (self.experiment.checks)(&self.run)
            .iter()
            .filter(|check| check.measured.is_some() || check.name.starts_with(arm))
            .map(SoFar::of)
            .collect()
    }
}

impl SoFar {
    fn of(check: &Check) -> Self {
        let state = match (&check.measured, check.pass) {
            (None, _) => State::Open,
            (Some(_), true) => State::Holds,
            (Some(_), false) => State::Off,
        };
        Self {
            name: check.name.clone(),
            question: check.question.clone(),
            wanted: wanted(check),
            measured: check.measured.map(|_| measured(check)),
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{arm, look};
    use super::*;

    // Guards a watch whose memory grows with the run, and one that forgets the run's beginning.
    #[test]
    fn a_long_run_is_thinned_and_still_judged_from_its_start() {
        let (_dir, arm) = arm();
        let mut story = Story::find(None, &arm).expect("readable").expect("a plan");
        for t in 1..=5000 {
            story.add(&look(t));
            let held = story.run.arms[0].samples.len();
            assert!(held < SAMPLES_MAX && (t < 600 || held >= SAMPLES_MAX / 2), "{held} at {t}");
            if t == 700 {
                let checks = story.checks();
                let state = |name| checks.iter().find(|c| c.name == name).map(|c| c.state);
                for name in ["pull_lag_baseline", "pull_lag_overload", "pull_rss_max"] {
                    assert_eq!(state(name), Some(State::Holds), "{name}");
                }
            }
        }
        assert_eq!(story.standing(5_000_000_000).phase, "load over");
    }

    #[test]
    fn a_plan_that_does_not_fit_is_an_error_only_where_it_was_asked_for() {
        let (dir, _) = arm();
        let other = dir.path().join("other");
        assert!(Story::find(None, &other).expect("a page without a model").is_none());
        let why = Story::find(Some(&dir.path().join(plan::FILE)), &other).err().expect("refused");
        assert!(why.to_string().contains("exp2 has no arm other"), "{why}");
        assert!(Story::find(Some(Path::new("/nowhere/plan.json")), &other).is_err());
        assert!(Story::find(None, Path::new("/nowhere/arm")).expect("no plan").is_none());
    }
}
