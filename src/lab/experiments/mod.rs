//! Experiments are declarations: question, what is held, what varies, the arms, the prediction made
//! before the run, the checks, the charts. One file each; a new one is added to `ALL`.
//!
//! Invariant: `predict` sees the setup alone, never a measurement; `checks` compares the prediction
//! with a run folder. `launch` says how a run is started, `lab::run` starts it, `report` writes it
//! up. None of them knows an experiment by name.

pub mod asking;
mod batch_law;
pub mod ceiling;
mod check;
mod credit_shards;
pub mod drawing;
pub mod exp1;
pub mod exp10;
pub mod exp11;
pub mod exp12;
pub mod exp12_retries;
pub mod exp13;
pub mod exp14;
pub mod exp15;
pub mod exp2;
pub mod exp3;
pub mod exp3_time;
pub mod exp4;
pub mod exp5;
pub mod exp6;
pub mod exp7;
pub mod exp8;
pub mod exp9;
pub mod faults;
pub mod launch;
pub mod longlife;
pub mod own;
#[cfg(test)]
pub(super) mod recorded;
mod retry_model;
mod setup;
mod worker_cases;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::charts::{Chart, Ink};
pub use crate::lab::model::Phase;
use crate::lab::run_folder::{Arm, Run};
pub use check::{Check, Margin, PROMISE, Wanted};
pub use launch::{Form, Launch};
pub use setup::{ArmSetup, Call, Load, Setup};

/// Every experiment that can be reported.
pub const ALL: &[Experiment] = &[
    ceiling::EXPERIMENT,
    exp1::EXPERIMENT,
    exp2::EXPERIMENT,
    exp3::EXPERIMENT,
    exp3_time::EXPERIMENT,
    exp4::EXPERIMENT,
    exp5::EXPERIMENT,
    exp6::EXPERIMENT,
    exp7::EXPERIMENT,
    exp8::EXPERIMENT,
    exp9::EXPERIMENT,
    exp10::EXPERIMENT,
    exp11::EXPERIMENT,
    exp12::EXPERIMENT,
    exp12_retries::EXPERIMENT,
    exp13::EXPERIMENT,
    exp14::EXPERIMENT,
    exp15::EXPERIMENT,
    faults::EXPERIMENT,
    longlife::EXPERIMENT,
];

/// The declaration.
pub struct Experiment {
    /// `exp2`: as in `run/exp2.sh`.
    pub name: &'static str,
    /// A few words.
    pub title: &'static str,
    /// The question that the run answers.
    pub question: &'static str,
    /// What is the same in every arm.
    pub held: &'static str,
    /// The difference between the arms.
    pub varied: &'static str,
    /// In the order of the report.
    pub arms: &'static [ArmSpec],
    /// What the processes of each arm are started with, in the same order.
    pub launches: fn(Form) -> Vec<Launch>,
    /// Whether brokers that just started are warmed up first: it measures milliseconds.
    pub warm_up: bool,
    /// What the model says before the run.
    pub predict: fn(&Setup) -> Vec<Prediction>,
    /// What must hold after it.
    pub checks: fn(&Run) -> Vec<Check>,
    /// What the report shows.
    pub charts: fn(&Run) -> Vec<Chart>,
    /// What the report lists beside the charts.
    pub tables: fn(&Run) -> Vec<Table>,
    /// What these numbers cannot show.
    pub limits: &'static str,
}

impl Experiment {
    /// The arm of that name.
    ///
    /// # Errors
    /// When it has no such arm; the message lists those it has.
    pub fn arm(&self, name: &str) -> Result<ArmSpec, Failure> {
        self.arms.iter().find(|arm| arm.name == name).copied().ok_or_else(|| {
            let names: Vec<&str> = self.arms.iter().map(|arm| arm.name).collect();
            let (own, names) = (self.name, names.join(", "));
            Failure::Failed(format!("{own} has no arm {name}: allowed: {names}"))
        })
    }
}

/// One arm's place in the report; its flags are a [`Launch`].
#[derive(Debug, Clone, Copy)]
pub struct ArmSpec {
    /// Whether it provokes an eviction: then members lose their partitions, and events come twice.
    pub evicts: bool,
    /// Whether clients send again what is not answered: then events come twice.
    pub resends: bool,
    /// Whether its log loses events: then those that are gone must be as many as were counted.
    pub loses: bool,
    /// Its folder, and the prefix of its checks.
    pub name: &'static str,
    /// Its name in charts.
    pub title: &'static str,
    /// Its lines in charts.
    pub ink: Ink,
}

impl ArmSpec {
    /// An arm in which no member is evicted, nothing comes twice and nothing is lost.
    pub const fn new(name: &'static str, title: &'static str, ink: Ink) -> Self {
        Self { evicts: false, resends: false, loses: false, name, title, ink }
    }
}

/// A finding that reads better as a table than as a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it says.
    pub title: String,
    /// Column heads.
    pub head: Vec<String>,
    /// Rows, each as long as the head.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Rows under their heads.
    pub fn new(title: &str, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        let head = head.iter().map(|name| (*name).to_owned()).collect();
        Self { title: title.into(), head, rows: rows.into_iter().collect() }
    }

    /// A column for each arm of `run`, beside those of the rows' names, which `corner` heads.
    pub fn by_arm<'a, F: Fn(&Arm) -> Option<String>>(
        title: &str,
        corner: &str,
        run: &Run,
        rows: impl IntoIterator<Item = (&'a str, F)>,
    ) -> Self {
        let titles = run.arms.iter().map(|arm| arm.spec.title);
        let head: Vec<&str> = std::iter::once(corner).chain(titles).collect();
        let rows = rows.into_iter().map(|(name, of)| {
            let cells = run.arms.iter().map(|arm| of(arm).unwrap_or_else(|| "not measured".into()));
            std::iter::once(name.to_owned()).chain(cells).collect()
        });
        Self::new(title, &head, rows)
    }
}

/// For experiments whose charts say it all.
pub fn no_tables(_: &Run) -> Vec<Table> {
    Vec::new()
}

/// Finds an experiment.
///
/// # Errors
/// When there is none of that name.
pub fn named(name: &str) -> Result<&'static Experiment, Failure> {
    ALL.iter().find(|e| e.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|e| e.name).collect();
        Failure::flag("--experiment", name, &format!("allowed: {}", names.join(", ")))
    })
}

/// One figure that the model gives before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Its name for checks and charts.
    pub name: String,
    /// The formula with its figures.
    pub because: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

impl Prediction {
    /// A figure with its formula.
    pub fn new(name: &str, value: f64, unit: &str, because: String) -> Self {
        Self { name: name.into(), because, value, unit: unit.into() }
    }
}

/// What is run before the arms of an experiment on brokers that just started; no check reads it.
pub const WARM_UP: &str = "warm-up";
