//! Experiments are declarations: question, what is held, what varies, the arms, the prediction
//! made before the run, the checks, the charts. One file each; `ALL` is where one is added.
//!
//! Invariant: `predict` sees the setup alone, never a measurement; `checks` compares what it said
//! with what a run folder holds. How a run is started is `launch`; who starts it is `lab::run`, who writes
//! it up is `report`. Neither knows an experiment by name.

pub mod asking;
mod batch_law;
pub mod ceiling;
pub mod drawing;
pub mod exp1;
pub mod exp2;
pub mod exp3;
pub mod exp3_time;
pub mod exp4;
pub mod exp5;
pub mod exp6;
pub mod exp7;
pub mod faults;
pub mod launch;
pub mod longlife;
pub mod own;
#[cfg(test)]
mod recorded;
mod worker_cases;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::charts::{Chart, Ink};
pub use crate::lab::model::Phase;
use crate::lab::model::Rates;
use crate::lab::run_folder::Run;
use crate::policy::Policy;
pub use launch::{Form, Launch};

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
    faults::EXPERIMENT,
    longlife::EXPERIMENT,
];

/// The declaration.
pub struct Experiment {
    /// `exp2`: as in `run/exp2.sh`.
    pub name: &'static str,
    /// A few words.
    pub title: &'static str,
    /// What the run is to answer.
    pub question: &'static str,
    /// What is the same in every arm.
    pub held: &'static str,
    /// What the arms differ in.
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

/// The experiment of a plan, which may be of a load of one's own.
///
/// # Errors
/// As [`named`].
pub fn planned(name: &str) -> Result<&'static Experiment, Failure> {
    if name == own::EXPERIMENT.name { Ok(&own::EXPERIMENT) } else { named(name) }
}

impl Experiment {
    /// The arm whose folder is called so; a load of one's own has one arm, whatever its folder is called.
    ///
    /// # Errors
    /// As [`Experiment::arm`].
    pub fn arm_in(&self, folder: &str) -> Result<ArmSpec, Failure> {
        let own = own::EXPERIMENT.name;
        self.arm(if self.name == own { own } else { folder })
    }

    /// The arm of that name.
    ///
    /// # Errors
    /// When it has none: says which it has.
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
    /// Whether it is about an eviction: then members lose their partitions, and events come twice.
    pub evicts: bool,
    /// Its folder, and the prefix of its checks.
    pub name: &'static str,
    /// Its name in charts.
    pub title: &'static str,
    /// Its lines in charts.
    pub ink: Ink,
}

impl ArmSpec {
    /// An arm in which no member is evicted and nothing comes twice.
    pub const fn new(name: &'static str, title: &'static str, ink: Ink) -> Self {
        Self { evicts: false, name, title, ink }
    }
}

/// A finding that is better read than seen.
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

/// What a run is given: all that a prediction may know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Which of its two lengths.
    pub form: Form,
    /// (events/s, s) steps of the offered load.
    pub schedule: Vec<(f64, f64)>,
    /// The sink's ceiling, events/s; tokens/s where a token is not an event.
    pub ceiling: f64,
    /// What a call of the sink costs.
    #[serde(default)]
    pub call: Call,
    /// Payload bytes of an event.
    pub payload_bytes: usize,
    /// Heap bytes of one queued event, from the layout.
    pub event_bytes: f64,
    /// What resident memory grows by with each: the allocator's own records as well.
    pub resident_bytes: f64,
    /// Events that the bounded queue holds.
    #[serde(default)]
    pub queue_cap: f64,
    /// Memory that the unbounded arm may take, bytes.
    #[serde(default)]
    pub memory_limit: Option<f64>,
    /// What befalls the sink.
    #[serde(default)]
    pub stall: Option<Phase>,
    /// Each arm by itself.
    #[serde(default)]
    pub arms: Vec<ArmSetup>,
}

/// What an arm is given: its flags as its programs understand them. Where members of a group differ, the
/// first is meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSetup {
    /// Its name.
    pub name: String,
    /// (events/s, s) steps of its load.
    pub schedule: Vec<(f64, f64)>,
    /// Payload bytes of an event.
    pub payload_bytes: usize,
    /// How long the producer lets events wait for others, s.
    pub producer_linger_s: f64,
    /// Number of keys.
    pub keys: u64,
    /// Zipf exponent of their frequencies; 0 is uniform.
    pub key_skew: f64,
    /// Seed of keys and payloads.
    pub seed: u64,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Events that the queue holds; 0 in pull, absent without limit.
    pub queue_cap: Option<f64>,
    /// Threads that call the sink.
    pub workers: u32,
    /// Whether a key has its worker.
    pub by_key: bool,
    /// At a full queue.
    #[serde(default)]
    pub policy: Policy,
    /// Events in a call at most.
    pub batch: f64,
    /// How long a call waits for more, s.
    pub linger_s: f64,
    /// Time between two commits, s.
    pub commit_interval_s: f64,
    /// `max.poll.interval.ms` of each member, s.
    pub poll_intervals_s: Vec<f64>,
    /// `session.timeout.ms`, s.
    pub session_timeout_s: f64,
}

impl ArmSetup {
    /// Events that workers hold at most.
    pub fn in_flight(&self) -> f64 {
        f64::from(self.workers) * self.batch
    }

    /// Events that are offered.
    pub fn events(&self) -> f64 {
        self.schedule.iter().map(|(rate, seconds)| rate * seconds).sum()
    }
}

/// A call of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Tokens of the call, whatever is in it.
    pub cost: f64,
    /// Tokens of each event in it.
    pub event_cost: f64,
    /// What it takes besides its wait for tokens, s.
    pub latency_s: f64,
}

impl Default for Call {
    /// A token is an event.
    fn default() -> Self {
        Self { cost: 0.0, event_cost: 1.0, latency_s: 0.0 }
    }
}

/// Brokers of the lab's cluster.
const BROKERS: f64 = 3.0;

impl Setup {
    /// How long the producer lets events wait for others, s; every arm's the same.
    fn producer_linger_s(&self) -> f64 {
        self.arms.first().map_or(f64::NAN, |arm| arm.producer_linger_s)
    }

    /// Events come in puffs, one every so many s: the producer sends to each broker once in its linger.
    fn puff_s(&self) -> f64 {
        self.producer_linger_s() / BROKERS
    }

    /// The arm `name`; `None` for one that the plan does not have.
    pub fn arm(&self, name: &str) -> Option<&ArmSetup> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// λ(t).
    pub fn offered(&self) -> Rates {
        Rates::schedule(
            self.schedule.iter().map(|&(rate, s)| (rate, std::time::Duration::from_secs_f64(s))),
        )
    }

    /// μ(t).
    pub fn ceilings(&self) -> Rates {
        let steady = Rates::constant(self.ceiling);
        match self.stall {
            Some(stall) => steady.but(stall.rate, stall.from, stall.to),
            None => steady,
        }
    }

    /// When the schedule ends, s.
    pub fn end_s(&self) -> f64 {
        self.phases().map(|phase| phase.to).fold(0.0, f64::max)
    }

    /// From when to when the step of highest rate lasts, s from the start, and its rate.
    pub fn overload(&self) -> Phase {
        self.phases().max_by(|a, b| a.rate.total_cmp(&b.rate)).unwrap_or(Phase::NONE)
    }

    /// The first step.
    pub fn baseline(&self) -> Phase {
        self.phases().next().unwrap_or(Phase::NONE)
    }

    /// Every step of the schedule.
    pub fn phases(&self) -> impl Iterator<Item = Phase> + '_ {
        self.schedule.iter().scan(0.0, |at, &(rate, seconds)| {
            let from = *at;
            *at += seconds;
            Some(Phase { rate, from, to: *at })
        })
    }
}

/// One figure that the model gives before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// By which checks and charts find it.
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

/// How far the measured figure may be from the predicted one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// Off by at most this share of the prediction.
    Share(f64),
    /// Off by at most so much, in the figure's unit.
    Absolute(f64),
    /// At most the prediction.
    AtMost,
    /// At least the prediction.
    AtLeast,
}

/// What is run before the arms of an experiment on brokers that just started; it is judged by nobody.
pub const WARM_UP: &str = "warm-up";

/// Where a margin of nothing comes from: it was promised. A broken promise is a failure on any machine.
pub const PROMISE: &str = "a promise";

/// What a check asks for: the figure, how far off it may be, and where that margin comes from.
pub type Wanted = (f64, Margin, &'static str);

/// One verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Short, unique.
    pub name: String,
    /// What is asked.
    pub question: String,
    /// What was predicted or required.
    pub predicted: f64,
    /// What was measured; absent when the run does not show it, which is a failure.
    pub measured: Option<f64>,
    /// Unit of both.
    pub unit: String,
    /// How far they may be apart.
    pub margin: Margin,
    /// Where that comes from.
    #[serde(default)]
    pub because: String,
    /// Whether it holds.
    pub pass: bool,
}

impl Check {
    /// Compares; what was not measured does not pass.
    pub fn new(
        name: &str,
        question: &str,
        (predicted, margin, because): Wanted,
        measured: Option<f64>,
        unit: &str,
    ) -> Self {
        let measured = measured.filter(|m| m.is_finite());
        let pass = measured.is_some_and(|measured| match margin {
            Margin::Share(share) => (measured - predicted).abs() <= share * predicted.abs(),
            Margin::Absolute(by) => (measured - predicted).abs() <= by,
            Margin::AtMost => measured <= predicted,
            Margin::AtLeast => measured >= predicted,
        });
        Self {
            name: name.into(),
            question: question.into(),
            predicted,
            measured,
            unit: unit.into(),
            margin,
            because: because.into(),
            pass,
        }
    }
}

#[cfg(test)]
impl Setup {
    /// Experiment 2's in quick form, without its stall, and with round figures.
    pub fn example() -> Self {
        Self {
            schedule: vec![(1500.0, 20.0), (8000.0, 60.0)],
            event_bytes: 600.0,
            resident_bytes: 600.0,
            queue_cap: 10_000.0,
            stall: None,
            ..Self::quick(&exp2::EXPERIMENT)
        }
    }

    /// That of an experiment's quick form.
    pub fn quick(experiment: &Experiment) -> Self {
        Self::of(Form::Quick, &(experiment.launches)(Form::Quick)).expect(experiment.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_hold_at_their_edge_and_not_beyond_and_no_measurement_is_no_pass() {
        let check = |predicted, margin, measured| {
            Check::new("n", "q", (predicted, margin, "w"), measured, "u").pass
        };
        assert!(check(100.0, Margin::Share(0.1), Some(110.0)));
        assert!(!check(100.0, Margin::Share(0.1), Some(111.0)));
        assert!(!check(100.0, Margin::Share(0.1), Some(80.0)));
        assert!(check(0.0, Margin::Absolute(1.0), Some(-1.0)));
        assert!(
            check(64.0, Margin::AtMost, Some(64.0)) && !check(64.0, Margin::AtMost, Some(64.1))
        );
        assert!(check(9.0, Margin::AtLeast, Some(9.0)) && !check(9.0, Margin::AtLeast, Some(8.9)));
        assert!(!check(100.0, Margin::AtMost, None));
        assert!(!check(100.0, Margin::AtMost, Some(f64::NAN)));
    }

    #[test]
    fn phases_follow_the_schedule() {
        let setup = Setup::example();
        assert_eq!(setup.overload(), Phase { rate: 8000.0, from: 20.0, to: 80.0 });
        assert_eq!(setup.baseline().settled(5.0), Phase { rate: 1500.0, from: 5.0, to: 19.0 });
    }
}
