//! What came of a run: `verdict.json`, as `lab report` writes it and the targets and the page read
//! it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::experiments::{Check, Form, Margin, Table};
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
    /// What came of it.
    pub outcome: Outcome,
    /// How the host disturbed the run.
    pub disturbances: Vec<String>,
    /// One by one.
    pub checks: Vec<Check>,
    /// What was drawn.
    #[serde(default)]
    pub charts: Vec<Picture>,
    /// What was listed.
    #[serde(default)]
    pub tables: Vec<Table>,
}

/// A chart beside the verdict: `NAME.svg` and `NAME.png`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// File name without extension.
    pub name: String,
    /// The finding.
    pub title: String,
    /// What is drawn, how it was measured.
    pub subtitle: String,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every check holds.
    Pass,
    /// One falls short.
    Fail,
    /// One falls short, and the host disturbed the run: neither pass nor fail.
    Void,
}

impl Outcome {
    /// Of a run with these checks.
    pub fn of(checks: &[Check], disturbances: &[String]) -> Self {
        match (checks.iter().all(|check| check.pass), disturbances.is_empty()) {
            (true, _) => Self::Pass,
            (false, true) => Self::Fail,
            (false, false) => Self::Void,
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

    /// What runs it again.
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

/// What a check measured, with its unit.
pub fn measured(check: &Check) -> String {
    check.measured.map_or("not measured".into(), |m| with_unit(m, &check.unit))
}

/// What it asks for, with its margin.
pub fn wanted(check: &Check) -> String {
    let value = with_unit(check.predicted, &check.unit);
    match check.margin {
        Margin::Share(share) => format!("{value} ± {:.0} %", share * 100.0),
        Margin::Absolute(by) => format!("{value} ± {}", figure(by)),
        Margin::AtMost => format!("at most {value}"),
        Margin::AtLeast => format!("at least {value}"),
    }
}
