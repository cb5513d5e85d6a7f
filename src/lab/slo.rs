//! `lab report --slo`: the targets in one table, each from the checks that measured it.
//!
//! Invariant: a target without a verdict is "not measured" and falls short; a target that several
//! checks measure shows the worst. This module measures and judges nothing itself.

use std::path::Path;

use serde::Serialize;

use crate::cli;
use crate::failure::Failure;
use crate::lab::experiments::Form;
use crate::lab::text::aligned;
use crate::lab::verdict::{self, Outcome, Verdict, measured, wanted};

/// A target of the lab.
struct Target {
    /// In a few words.
    says: &'static str,
    /// The experiment whose checks measure it; `*`: any.
    experiment: &'static str,
    /// Which checks: a name, with at most one `*`. One must be found, and all that are must hold.
    check: &'static str,
    /// Whether it is stated for half an hour: a quick run can break it, and never meet it.
    takes_half_an_hour: bool,
}

const fn target(says: &'static str, experiment: &'static str, check: &'static str) -> Target {
    Target { says, experiment, check, takes_half_an_hour: false }
}

const fn for_half_an_hour(target: Target) -> Target {
    Target { takes_half_an_hour: true, ..target }
}

/// All of them.
const TARGETS: &[Target] = &[
    target("below the ceiling all is served", "*", "*_served_baseline"),
    target("lag is flat below the ceiling", "*", "*_lag_baseline"),
    target("lag slope under overload is λ − μ", "*", "*_lag_overload"),
    for_half_an_hour(target("RSS under its limit, bounded", "exp1", "bounded_rss_max")),
    for_half_an_hour(target("RSS flat, bounded", "exp1", "bounded_rss_slope")),
    for_half_an_hour(target("RSS under its limit, pull", "exp2", "pull_rss_max")),
    for_half_an_hour(target("RSS flat, pull", "exp2", "pull_rss_slope")),
    for_half_an_hour(target("unbounded climbs to the kill", "exp1", "unbounded_killed")),
    target("the kill comes when predicted", "exp1", "unbounded_kill_time"),
    target("p99 at 80 % of the ceiling", "exp7", "*_p99_80"),
    target("recovery after a stall", "exp5", "*_recovery"),
    for_half_an_hour(target("no evictions in the steady run", "exp6", "steady*_evictions")),
    target("no evictions where none is meant", "*", "*_evictions"),
];

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The target in words.
    pub target: &'static str,
    /// The worst check that measured it, or the pattern that no check fits.
    pub check: String,
    /// The check's wanted value; empty when there is no check.
    pub wanted: String,
    /// The check's measured value.
    pub measured: String,
    /// Where, from the results' folder; empty when nowhere.
    pub file: String,
    /// Its result.
    pub standing: Standing,
}

/// The result of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Every check holds.
    Met,
    /// Every check holds, but in a short run, and the target is stated for half an hour.
    Quick,
    /// One falls short.
    Short,
    /// One falls short in a run that the host disturbed.
    Void,
    /// No check measured it.
    NotMeasured,
}

impl Standing {
    /// For people.
    pub fn says(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Quick => "quick: not met, not broken",
            Self::Short => "FALLS SHORT",
            Self::Void => "VOID",
            Self::NotMeasured => "NOT MEASURED",
        }
    }
}

/// Prints the table of the results in `dir`, or its rows as JSON.
///
/// # Errors
/// [`Failure::Verdict`] when a target falls short; [`Failure::Failed`] when results cannot be read.
pub fn run(dir: &Path, json: bool) -> Result<(), Failure> {
    let rows = rows(&verdict::all(dir)?);
    if json {
        cli::say_json(&rows)?;
        return conclude(&rows);
    }
    let head = ["target", "check", "wanted", "measured", "file", "verdict"].map(str::to_owned);
    let cells = |row: &Row| {
        let Row { target, check, wanted, measured, file, standing } = row.clone();
        vec![target.into(), check, wanted, measured, file, standing.says().into()]
    };
    let lines = std::iter::once(head.to_vec()).chain(rows.iter().map(cells)).collect();
    cli::say(aligned(lines, false).trim_end())?;
    conclude(&rows)
}

/// Exit 3 when one falls short, or is not measured.
pub fn conclude(rows: &[Row]) -> Result<(), Failure> {
    let stands = |row: &&Row| !matches!(row.standing, Standing::Met | Standing::Quick);
    let short: Vec<&str> = rows.iter().filter(stands).map(|r| r.target).collect();
    if short.is_empty() {
        return Ok(());
    }
    let (fell, all) = (short.len(), rows.len());
    Err(Failure::Verdict(format!("{fell} of {all} targets fall short: {}", short.join("; "))))
}

/// The table of all targets.
pub fn rows(results: &[(String, Verdict)]) -> Vec<Row> {
    TARGETS.iter().map(|target| row(target, results)).collect()
}

fn row(target: &Target, results: &[(String, Verdict)]) -> Row {
    let asked = |verdict: &Verdict| fits(target.experiment, &verdict.experiment);
    let found =
        results.iter().filter(|(_, verdict)| asked(verdict)).flat_map(|(folder, verdict)| {
            let fitting = verdict.checks.iter().filter(|check| fits(target.check, &check.name));
            fitting.map(move |check| (folder, verdict, check))
        });
    let worst =
        found.max_by(|a, b| verdict::margin_used(a.2).total_cmp(&verdict::margin_used(b.2)));
    let Some((folder, verdict, check)) = worst else {
        return Row {
            target: target.says,
            check: target.check.into(),
            wanted: String::new(),
            measured: "not measured".into(),
            file: String::new(),
            standing: Standing::NotMeasured,
        };
    };
    Row {
        target: target.says,
        check: check.name.clone(),
        wanted: wanted(check),
        measured: measured(check),
        file: format!("{folder}/{}", verdict::FILE),
        standing: match (check.pass, verdict.outcome) {
            (true, _) if target.takes_half_an_hour && verdict.form == Form::Quick => {
                Standing::Quick
            }
            (true, _) => Standing::Met,
            (false, Outcome::Void) => Standing::Void,
            (false, _) => Standing::Short,
        },
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| rest.ends_with(tail)),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::experiments::{Check, Margin};

    fn check(name: &str, measured: f64) -> Check {
        Check::new(name, "?", (10.0, Margin::AtMost, "w"), Some(measured), "s")
    }

    fn result(experiment: &str, checks: Vec<Check>, outcome: Outcome) -> (String, Verdict) {
        let verdict = Verdict {
            experiment: experiment.into(),
            form: Form::Full,
            outcome,
            disturbances: Vec::new(),
            checks,
            charts: Vec::new(),
            tables: Vec::new(),
        };
        (experiment.into(), verdict)
    }

    fn standing(rows: &[Row], target: &str) -> Vec<(String, Standing)> {
        let of = rows.iter().filter(|row| row.target.contains(target));
        of.map(|row| (row.check.clone(), row.standing)).collect()
    }

    #[test]
    fn the_worst_of_several_is_shown_and_a_near_name_is_not_taken() {
        let near = check("bounded_recovery_time", 99.0);
        let checks = vec![check("bounded_recovery", 9.0), check("unbounded_recovery", 3.0), near];
        let rows = rows(&[
            result("exp5", checks, Outcome::Pass),
            result(
                "exp7",
                vec![check("shed_p99_80", 1.0), check("buffer_p99_80", 11.0)],
                Outcome::Fail,
            ),
            result("exp9", vec![check("bounded_recovery", 99.0)], Outcome::Fail),
        ]);
        assert_eq!(standing(&rows, "recovery"), [("bounded_recovery".into(), Standing::Met)]);
        assert_eq!(standing(&rows, "p99"), [("buffer_p99_80".into(), Standing::Short)]);
        let p99 = rows.iter().find(|row| row.target.contains("p99")).expect("there");
        assert_eq!((p99.wanted.as_str(), p99.measured.as_str()), ("at most 10 s", "11 s"));
        assert_eq!(p99.file, "exp7/verdict.json");
    }

    #[test]
    fn a_target_that_nothing_measured_falls_short() {
        let one = [result("exp1", vec![check("bounded_rss_max", 1.0)], Outcome::Pass)];
        let rows = rows(&one);
        let met = standing(&rows, "limit, bounded");
        assert_eq!(met, [("bounded_rss_max".into(), Standing::Met)]);
        let absent = standing(&rows, "flat, bounded");
        assert_eq!(absent, [("bounded_rss_slope".into(), Standing::NotMeasured)]);
        assert!(matches!(conclude(&rows), Err(Failure::Verdict(_))));
        let only: Vec<Row> = rows.into_iter().filter(|r| r.standing == Standing::Met).collect();
        assert!(conclude(&only).is_ok(), "{only:?}");
    }

    /// Prevents: twelve seconds that "meet" a target of half an hour.
    #[test]
    fn a_quick_run_meets_no_target_of_half_an_hour_and_can_break_it() {
        let quick = |max: f64| {
            let checks = vec![check("bounded_rss_max", max), check("bounded_lag_baseline", 1.0)];
            let (folder, full) = result("exp1", checks, Outcome::Pass);
            rows(&[(folder, Verdict { form: Form::Quick, ..full })])
        };
        let of = |rows: &[Row], target| standing(rows, target)[0].1;
        assert_eq!(of(&quick(1.0), "limit, bounded"), Standing::Quick);
        assert_eq!(of(&quick(11.0), "limit, bounded"), Standing::Short);
        assert_eq!(of(&quick(1.0), "lag is flat"), Standing::Met);
    }

    #[test]
    fn a_check_that_falls_short_in_a_void_run_proves_nothing_either_way() {
        let void = [result("exp5", vec![check("pull_recovery", 11.0)], Outcome::Void)];
        assert_eq!(standing(&rows(&void), "recovery")[0].1, Standing::Void);
    }

    #[test]
    fn none_of_0_allowed_is_met_and_a_missing_measurement_is_the_worst() {
        let zero = |name: &str, n| Check::new(name, "?", (0.0, Margin::AtMost, "w"), n, "");
        let steady = |second| {
            let checks =
                vec![zero("steady_evictions", Some(0.0)), zero("steady-2_evictions", second)];
            standing(&rows(&[result("exp6", checks, Outcome::Fail)]), "evictions in the steady run")
        };
        assert_eq!(steady(Some(0.0))[0].1, Standing::Met);
        assert_eq!(steady(None), [("steady-2_evictions".into(), Standing::Short)]);
    }
}
