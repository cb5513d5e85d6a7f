//! The rules: what each watches, its parameters with defaults, and the file that holds them.
//!
//! - `lag_events`     lag above so many events
//! - `lag_seconds`    lag above so many seconds of what is committed
//! - `burrow`         Burrow's five rules over the last commits
//! - `lag_slope`      lag above a floor, and rising
//! - `sojourn`        how long events wait, by the processor's own clock
//! - `poll_gap`       how long the member did not poll
//! - `falling_behind` the one that we recommend
//!
//! Invariant: one `match` knows them all ([`Rule::detector`]). A file is refused as a whole, with the field, its
//! value and what is allowed.

mod burrow;
pub mod falling_behind;
mod lag_events;
mod lag_seconds;
mod lag_slope;
mod poll_gap;
mod sojourn;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::recording::Look;
use crate::failure::Failure;
use crate::logging::said;

/// Longest time that a parameter may name, s: a day.
const SECONDS_MAX: f64 = 86_400.0;
/// Largest number of events, and of events/s, that a parameter may name.
const EVENTS_MAX: f64 = 1e12;

/// A rule and its parameters, in a file `{"lag_events": {"above": 10000.0}}`. What is left out has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Costs: a threshold for each topic.
    LagEvents(lag_events::LagEvents),
    /// Costs: a rate, which is not there when it is needed most.
    LagSeconds(lag_seconds::LagSeconds),
    /// Costs: nothing to set, and lag that climbs in a saw is never seen.
    Burrow(burrow::Burrow),
    /// Costs: a floor, and alarms above it when the lag wanders.
    LagSlope(lag_slope::LagSlope),
    /// Costs: a processor that measures; it knows nothing of what it has not fetched.
    Sojourn(sojourn::Sojourn),
    /// Costs: a processor that measures; it sees the member's thread, not the sink.
    PollGap(poll_gap::PollGap),
    /// Costs: that the commit interval is known.
    FallingBehind(falling_behind::FallingBehind),
}

/// What a rule says at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The look does not hold what the rule needs: what it said before still holds.
    Unknown,
    /// No trouble.
    Quiet,
    /// Trouble.
    Firing,
}

impl State {
    /// Firing, or quiet.
    fn of(firing: bool) -> Self {
        if firing { Self::Firing } else { Self::Quiet }
    }

    /// The same of what may not be known.
    fn if_known(firing: Option<bool>) -> Self {
        firing.map_or(Self::Unknown, Self::of)
    }
}

/// What every rule can do.
pub trait Detector {
    /// Its name in a file.
    fn name(&self) -> &'static str;

    /// In a table: what it watches, with its parameters.
    fn label(&self) -> String;

    /// What the samples must hold.
    fn needs(&self) -> &'static str;

    /// Whether its parameters can be used.
    ///
    /// # Errors
    /// The parameter, its value and what is allowed.
    fn check(&self) -> Result<(), String>;

    /// What it says at each look, from that look and those before.
    fn states(&self, looks: &[Look]) -> Vec<State>;
}

impl Rule {
    /// The rule itself.
    pub fn detector(&self) -> &dyn Detector {
        match self {
            Self::LagEvents(rule) => rule,
            Self::LagSeconds(rule) => rule,
            Self::Burrow(rule) => rule,
            Self::LagSlope(rule) => rule,
            Self::Sojourn(rule) => rule,
            Self::PollGap(rule) => rule,
            Self::FallingBehind(rule) => rule,
        }
    }
}

/// Every rule with its defaults.
pub fn defaults() -> Vec<Rule> {
    vec![
        Rule::LagEvents(lag_events::LagEvents::default()),
        Rule::LagSeconds(lag_seconds::LagSeconds::default()),
        Rule::Burrow(burrow::Burrow::default()),
        Rule::LagSlope(lag_slope::LagSlope::default()),
        Rule::Sojourn(sojourn::Sojourn::default()),
        Rule::PollGap(poll_gap::PollGap::default()),
        Rule::FallingBehind(falling_behind::FallingBehind::default()),
    ]
}

/// Reads a file of rules: an array as `--print-rules` shows it. A rule may be there more than once.
///
/// # Errors
/// `Usage`: the file, the line or the field, its value and what is allowed.
pub fn read(path: &Path) -> Result<Vec<Rule>, Failure> {
    let wrong = |why: &str| Failure::flag("--rules", path.display(), why);
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    let rules: Vec<Rule> = serde_json::from_str(&text).map_err(|e| {
        let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or_default();
        let line = said(line.as_bytes());
        wrong(&format!("{e}: {line}; expected a list of rules, as --print-rules shows them"))
    })?;
    if rules.is_empty() {
        return Err(wrong("expected at least one rule, as --print-rules shows them"));
    }
    for rule in &rules {
        let detector = rule.detector();
        detector.check().map_err(|why| wrong(&format!("{}: {why}", detector.name())))?;
    }
    Ok(rules)
}

/// What a rule that needs no memory of its own says at each look: `of` sees the looks up to it.
fn each(looks: &[Look], of: impl Fn(&[Look]) -> State) -> Vec<State> {
    (1..=looks.len()).map(|seen| of(looks.get(..seen).unwrap_or_default())).collect()
}

/// Refuses a parameter that is not `allowed`.
fn within(name: &str, value: f64, allowed: RangeInclusive<f64>) -> Result<(), String> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(format!("{name} {value}: allowed: {} to {}", allowed.start(), allowed.end()))
}
