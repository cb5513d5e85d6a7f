//! The verdict of a run: `verdict.json`, as `lab report` writes it and the targets and the page
//! read it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::experiments::{Check, Form, Margin, PROMISE, Table};
use crate::lab::text::{figure, with_unit};

/// File name inside a run's folder.
pub const FILE: &str = "verdict.json";

/// `verdict.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which experiment.
    pub experiment: String,
    /// Which of its two lengths.
    pub form: Form,
    /// The result of the run.
    pub outcome: Outcome,
    /// How the host disturbed the run.
    pub disturbances: Vec<String>,
    /// One by one.
    pub checks: Vec<Check>,
    /// The charts of the run.
    #[serde(default)]
    pub charts: Vec<Picture>,
    /// The tables of the run.
    #[serde(default)]
    pub tables: Vec<Table>,
}

/// A chart beside the verdict: `NAME.svg`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// File name without extension.
    pub name: String,
    /// The finding.
    pub title: String,
    /// What is drawn, how it was measured.
    pub subtitle: String,
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every check holds.
    Pass,
    /// One falls short.
    Fail,
    /// One falls short, and the host took more than its margin bears: neither pass nor fail.
    Void,
}

/// CPU time that the host took from an arm in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Disturbance {
    /// Which arm.
    pub arm: String,
    /// Of the machine's CPU, 0 to 1.
    pub share: f64,
    /// For people.
    pub why: String,
}

/// Disturbance on any machine, as a share of its CPU: the kernel's own threads, the watch.
pub const PASSING: f64 = 0.05;

impl Disturbance {
    /// Whether it may be why `check` fell short: it took a larger share than the check's margin
    /// bears. It never explains a broken promise, because a slow machine may lose no event either.
    /// A check that belongs to no arm of `arms` belongs to all.
    pub fn explains(&self, check: &Check, arms: &[String]) -> bool {
        let is_of = |arm: &String| check.name.strip_prefix(arm).is_some_and(|s| s.starts_with('_'));
        let concerned = is_of(&self.arm) || !arms.iter().any(is_of);
        let bears = match check.margin {
            Margin::Share(share) => share,
            Margin::Absolute(by) if check.predicted != 0.0 => by / check.predicted.abs(),
            Margin::Absolute(_) | Margin::AtMost | Margin::AtLeast => 0.0,
        };
        concerned && !check.because.starts_with(PROMISE) && self.share > bears.max(PASSING)
    }
}

impl Outcome {
    /// The outcome of a run of `arms` with these checks: void where the host may explain each check
    /// that fell short.
    pub fn of(checks: &[Check], disturbances: &[Disturbance], arms: &[String]) -> Self {
        let explained =
            |check: &Check| disturbances.iter().any(|found| found.explains(check, arms));
        let short: Vec<&Check> = checks.iter().filter(|check| !check.pass).collect();
        match short.is_empty() {
            true => Self::Pass,
            false if short.into_iter().all(explained) => Self::Void,
            false => Self::Fail,
        }
    }

    /// For people.
    pub fn says(self) -> &'static str {
        match self {
            Self::Pass => "All checks hold",
            Self::Fail => "A check fell short",
            Self::Void => "Void: a check fell short, and the host disturbed the run",
        }
    }
}

impl Verdict {
    /// How many checks hold.
    pub fn held(&self) -> usize {
        self.checks.iter().filter(|check| check.pass).count()
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let quick = if self.form == Form::Quick { " --quick" } else { "" };
        format!("run/{}.sh{quick}", self.experiment)
    }
}

/// Every verdict in the folders of `dir`, with the folder's name, by name.
///
/// # Errors
/// When the folder or a verdict cannot be read.
pub fn all(dir: &Path) -> Result<Vec<(String, Verdict)>, Failure> {
    let failed = |e: std::io::Error| {
        Failure::Failed(format!(
            "{}: cannot be read: {e}; run/all.sh makes it, or give another folder",
            dir.display()
        ))
    };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let (file, name) = (path.join(FILE), path.file_name());
        if let (true, Some(name)) = (file.is_file(), name) {
            all.push((name.to_string_lossy().into_owned(), super::read_json(&file)?));
        }
    }
    all.sort_by(|a: &(String, Verdict), b| a.0.cmp(&b.0));
    Ok(all)
}

/// A check's measured value, with its unit.
pub fn measured(check: &Check) -> String {
    check.measured.map_or("not measured".into(), |m| with_unit(m, &check.unit))
}

/// A check's wanted value, with its margin.
pub fn wanted(check: &Check) -> String {
    let value = with_unit(check.predicted, &check.unit);
    match check.margin {
        Margin::Share(share) => format!("{value} ± {:.0} %", share * 100.0),
        Margin::Absolute(by) => format!("{value} ± {}", figure(by)),
        Margin::AtMost => format!("at most {value}"),
        Margin::AtLeast => format!("at least {value}"),
    }
}

/// How much of its margin a check used, 2 and more when it falls short; for the worst of several.
pub fn margin_used(check: &Check) -> f64 {
    let Some(measured) = check.measured else { return f64::INFINITY };
    let (wanted, off) = (check.predicted, (measured - check.predicted).abs());
    let used = match check.margin {
        Margin::Share(share) => off / (share * wanted.abs()),
        Margin::Absolute(by) => off / by,
        Margin::AtMost => measured / wanted,
        Margin::AtLeast => wanted / measured,
    };
    // 0 of at most 0 is not a number; a check that falls short is worse than any that holds.
    let used = if used.is_nan() { 0.0 } else { used };
    if check.pass { used.clamp(0.0, 1.0) } else { used.max(2.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a lost event that is excused by the host; a check called void though its margin
    /// could bear what the host took; one arm's disturbance that excuses another's check.
    #[test]
    fn the_host_excuses_only_what_its_share_can_explain() {
        let check = |name: &str, margin, because| {
            let wanted = (100.0, margin, because);
            Check::new(name, "q", wanted, Some(50.0), "u")
        };
        let arms = ["pull".to_owned(), "shed".to_owned()];
        let of = |check: Check, share| {
            let found = Disturbance { arm: "pull".into(), share, why: String::new() };
            Outcome::of(&[check], &[found], &arms)
        };
        let rate = || check("pull_rate", Margin::Share(0.10), "two rates");
        assert_eq!((of(rate(), 0.2), of(rate(), 0.09)), (Outcome::Void, Outcome::Fail));
        assert_eq!(of(check("shed_rate", Margin::Share(0.10), "two rates"), 0.2), Outcome::Fail);
        assert_eq!(of(check("knee", Margin::Absolute(20.0), "a fit"), 0.3), Outcome::Void);
        assert_eq!(of(check("knee", Margin::Absolute(20.0), "a fit"), 0.1), Outcome::Fail);
        assert_eq!(of(check("pull_busy", Margin::AtLeast, "98 %"), 0.06), Outcome::Void);
        assert_eq!(of(check("pull_busy", Margin::AtLeast, "98 %"), 0.04), Outcome::Fail);
        assert_eq!(of(check("pull_ledger", Margin::AtLeast, PROMISE), 0.9), Outcome::Fail);
        let one_of_each = [rate(), check("pull_ledger", Margin::AtLeast, PROMISE)];
        let found = Disturbance { arm: "pull".into(), share: 0.9, why: String::new() };
        assert_eq!(Outcome::of(&one_of_each, &[found], &arms), Outcome::Fail);
        assert_eq!(Outcome::of(&[], &[], &arms), Outcome::Pass);
    }
}
