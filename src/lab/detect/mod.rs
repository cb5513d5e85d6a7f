//! `lab detect`: scores rules that notice trouble, over recorded samples. When did each fire first, how long after
//! the trouble began, and how often while there was none?
//!
//! - here        flags; from folders to an answer
//! - `recording` the samples of an arm as looks: what a rule would have seen, and when
//! - `trouble`   when a run was given more than it could do, by its plan
//! - `rules`     the rules, one file each, and the file of their parameters
//! - `score`     one rule over one recording
//! - `time_lag`  estimators of the lag in seconds, held against what our events say
//! - `table`     the answer for a terminal
//!
//! Invariant: a rule sees the looks up to now and nothing later, and never the plan. What the samples do not hold
//! is said; it is never a 0.

mod recording;
mod rules;
mod score;
mod table;
#[cfg(test)]
mod tests;
mod time_lag;
mod trouble;

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use serde::Serialize;

use crate::cli;
use crate::failure::Failure;
use crate::lab::experiments::asking::SETTLE_S;
use crate::lab::experiments::{ArmSetup, Setup};
use crate::lab::run_folder::Arm;
use crate::units;

use recording::{Recording, arms_in};
pub use rules::falling_behind::FallingBehind;
use rules::{Detector as _, Rule};
pub use score::Score;
use time_lag::TimeLag;
use trouble::Trouble;

/// Score rules that notice trouble, over recorded samples: when each fired, how late, how often for nothing.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "detect",
    example = "{command_name} results/full/exp1 results/full/ceiling\n\
               {command_name} --trouble 40s..90s watched"
)]
pub struct Settings {
    /// file of rules and their parameters, as --print-rules shows them (all rules, with their defaults)
    #[argh(option)]
    rules: Option<PathBuf>,
    /// print the rules as JSON, and score nothing
    #[argh(switch)]
    print_rules: bool,
    /// when there was trouble, and its backlog, such as 15s..30s from the first event due: in place of the plan; may
    /// be given more than once
    #[argh(option, from_str_fn(Trouble::parse))]
    trouble: Vec<Trouble>,
    /// time at the start of a recording that is not quiet, because processes start (5s)
    #[argh(option, default = "Duration::from_secs_f64(SETTLE_S)", from_str_fn(units::duration))]
    beginning: Duration,
    /// print JSON instead of tables
    #[argh(switch)]
    json: bool,
    /// folders of arms, such as results/exp5/bounded, or of runs: all their arms
    #[argh(positional)]
    dirs: Vec<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Answer {
    /// In the order of the scores.
    rules: Vec<Rule>,
    arms: Vec<Scored>,
    /// What could not be read, and why.
    unread: Vec<String>,
}

/// One arm.
#[derive(Debug, Serialize)]
pub struct Scored {
    /// `exp5/bounded`.
    arm: String,
    troubles: Vec<Trouble>,
    /// Why no trouble is known, so that all of it counts as quiet.
    note: Option<String>,
    /// Recorded time in which every alarm is false, s.
    pub quiet_s: f64,
    /// One for each rule.
    pub scores: Vec<Score>,
    time_lag: TimeLag,
}

impl Scored {
    fn of(recording: &Recording, rules: &[Rule], beginning_s: f64) -> Self {
        Self {
            arm: recording.name.clone(),
            troubles: recording.troubles.clone(),
            note: recording.note.clone(),
            quiet_s: recording.quiet_s(beginning_s),
            scores: rules.iter().map(|rule| Score::of(rule, recording, beginning_s)).collect(),
            time_lag: TimeLag::of(recording),
        }
    }

    /// The score of the rule that we recommend, where the samples hold what it needs.
    pub fn recommended(&self) -> Option<&Score> {
        let recommended = FallingBehind::default();
        self.of_rule(recommended.name()).filter(|score| score.needs.is_none())
    }

    /// The score of the rule `name`.
    pub fn of_rule(&self, name: &str) -> Option<&Score> {
        self.scores.iter().find(|score| score.name == name)
    }
}

/// How every rule does, with its defaults, over an arm of a run.
pub fn of_arm(setup: &Setup, of: &ArmSetup, arm: &Arm) -> Scored {
    let recording = Recording::of_arm(arm, trouble::of_arm(setup, of));
    Scored::of(&recording, &rules::defaults(), SETTLE_S)
}

/// Scores the rules; prints to stdout.
///
/// # Errors
/// [`Failure::Usage`] for a file of rules that cannot be used, and when no folder is given; [`Failure::Failed`] when
/// none of the folders can be read.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let rules = match &settings.rules {
        Some(path) => rules::read(path)?,
        None => rules::defaults(),
    };
    if settings.print_rules {
        return cli::say(serde_json::to_string_pretty(&rules).map_err(Failure::failed)?);
    }
    if settings.dirs.is_empty() {
        let why =
            "expected folders of arms or of runs, such as results/exp5/bounded or results/exp5";
        return Err(Failure::Usage(why.into()));
    }
    let beginning_s = settings.beginning.as_secs_f64();
    let (mut arms, mut unread) = (Vec::new(), Vec::new());
    for folder in settings.dirs.iter().flat_map(|dir| arms_in(dir)) {
        match Recording::read(&folder, &settings.trouble) {
            Ok(recording) => arms.push(Scored::of(&recording, &rules, beginning_s)),
            Err(why) => unread.push(why.to_string()),
        }
    }
    if arms.is_empty() {
        return Err(Failure::Failed(unread.join("; ")));
    }
    let answer = Answer { rules, arms, unread };
    if settings.json {
        return cli::say(serde_json::to_string_pretty(&answer).map_err(Failure::failed)?);
    }
    cli::say(table::text(&answer).trim_end())
}
