//! `lab report --slo`: the targets in one table, each from the checks that measured it.
//!
//! Invariant: what no verdict holds is "not measured" and falls short; a target with several checks
//! shows the worst. It measures and judges nothing itself.

use std::path::Path;

use crate::failure::Failure;
use crate::lab::experiments::{Check, Margin};
use crate::lab::text::aligned;
use crate::lab::verdict::{self, Outcome, Verdict, measured, wanted};

/// What the lab is to show.
pub struct Target {
    /// In a few words.
    pub says: &'static str,
    /// The checks that measure it. Each must be found and hold.
    asks: &'static [Ask],
}

/// Checks of an experiment; `*` stands for any.
struct Ask {
    experiment: &'static str,
    /// At most one `*`.
    check: &'static str,
}

const fn ask(experiment: &'static str, check: &'static str) -> Ask {
    Ask { experiment, check }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { says: "lag is flat below the ceiling", asks: &[ask("*", "*_lag_baseline")] },
    Target {
        says: "lag slope under overload is explained by λ − μ",
        asks: &[ask("*", "*_lag_overload")],
    },
    Target {
        says: "RSS under its limit and flat, bounded",
        asks: &[ask("exp1", "bounded_rss_max"), ask("exp1", "bounded_rss_slope")],
    },
    Target {
        says: "RSS under its limit and flat, pull",
        asks: &[ask("exp2", "pull_rss_max"), ask("exp2", "pull_rss_slope")],
    },
    Target {
        says: "unbounded climbs to the kill, when predicted",
        asks: &[ask("exp1", "unbounded_killed"), ask("exp1", "unbounded_kill_time")],
    },
    Target { says: "p99 at 80 % of the ceiling", asks: &[ask("exp7", "*_p99_80")] },
    Target { says: "recovery after a stall", asks: &[ask("exp5", "*_recovery")] },
    Target { says: "no evictions in the steady run", asks: &[ask("exp6", "steady*_evictions")] },
];

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What the lab is to show.
    pub target: &'static str,
    /// The worst check that measured it, or the pattern that none fits.
    pub check: String,
    /// What it asks for; empty when there is none.
    pub wanted: String,
    /// What it measured.
    pub measured: String,
    /// Where, from the results' folder; empty when nowhere.
    pub file: String,
    /// What came of it.
    pub standing: Standing,
}

/// What came of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Every check holds.
    Met,
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
            Self::Short => "FALLS SHORT",
            Self::Void => "VOID",
            Self::NotMeasured => "NOT MEASURED",
        }
    }
}

/// Prints the table of the results in `dir`.
///
/// # Errors
/// [`Failure::Verdict`] when a target falls short; [`Failure::Failed`] when results cannot be read.
pub fn run(dir: &Path) -> Result<(), Failure> {
    let rows = rows(&verdict::all(dir)?);
    let head = ["target", "check", "wanted", "measured", "file", "verdict"].map(str::to_owned);
    let cells = |row: &Row| {
        let Row { target, check, wanted, measured, file, standing } = row.clone();
        vec![target.into(), check, wanted, measured, file, standing.says().into()]
    };
    let lines = std::iter::once(head.to_vec()).chain(rows.iter().map(cells)).collect();
    print!("{}", aligned(lines, false));
    conclude(&rows)
}

/// Exit 3 when one falls short.
pub fn conclude(rows: &[Row]) -> Result<(), Failure> {
    let short: Vec<&str> =
        rows.iter().filter(|r| r.standing != Standing::Met).map(|r| r.target).collect();
    if short.is_empty() {
        return Ok(());
    }
    let (fell, all) = (short.len(), rows.len());
    Err(Failure::Verdict(format!("{fell} of {all} targets fall short: {}", short.join("; "))))
}

/// The table of all targets.
pub fn rows(results: &[(String, Verdict)]) -> Vec<Row> {
    let lines = TARGETS.iter().flat_map(|target| target.asks.iter().map(move |ask| (target, ask)));
    lines.map(|(target, ask)| row(target, ask, results)).collect()
}

fn row(target: &Target, ask: &Ask, results: &[(String, Verdict)]) -> Row {
    let asked =
        |verdict: &Verdict| matches!(ask.experiment, "*") || ask.experiment == verdict.experiment;
    let found =
        results.iter().filter(|(_, verdict)| asked(verdict)).flat_map(|(folder, verdict)| {
            let fitting = verdict.checks.iter().filter(|check| fits(ask.check, &check.name));
            fitting.map(move |check| (folder, verdict, check))
        });
    let worst = found.max_by(|a, b| badness(a.2).total_cmp(&badness(b.2)));
    let Some((folder, verdict, check)) = worst else {
        return Row {
            target: target.says,
            check: ask.check.into(),
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
            (true, _) => Standing::Met,
            (false, Outcome::Void) => Standing::Void,
            (false, _) => Standing::Short,
        },
    }
}

/// How much of its margin a check used, above 1 when it falls short; for the worst of several.
fn badness(check: &Check) -> f64 {
    let Some(measured) = check.measured else { return f64::INFINITY };
    let (wanted, off) = (check.predicted, (measured - check.predicted).abs());
    let used = match check.margin {
        Margin::Share(share) => off / (share * wanted.abs()),
        Margin::Absolute(by) => off / by,
        Margin::AtMost => measured / wanted,
        Margin::AtLeast => wanted / measured,
    };
    // 0 of at most 0 is no number; a check that falls short is worse than any that holds.
    let used = if used.is_nan() { 0.0 } else { used };
    if check.pass { used.clamp(0.0, 1.0) } else { used.max(2.0) }
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

    fn check(name: &str, measured: f64) -> Check {
        Check::new(name, "?", (10.0, Margin::AtMost), Some(measured), "s")
    }

    fn result(experiment: &str, checks: Vec<Check>, outcome: Outcome) -> (String, Verdict) {
        let verdict = Verdict {
            experiment: experiment.into(),
            form: "quick".into(),
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
    fn every_check_of_a_target_is_needed_and_one_that_is_absent_falls_short() {
        let half = [result("exp1", vec![check("bounded_rss_max", 1.0)], Outcome::Pass)];
        let rows = rows(&half);
        let bounded = standing(&rows, "flat, bounded");
        assert_eq!(bounded[0], ("bounded_rss_max".into(), Standing::Met));
        assert_eq!(bounded[1], ("bounded_rss_slope".into(), Standing::NotMeasured));
        assert!(matches!(conclude(&rows), Err(Failure::Verdict(_))));
        assert!(conclude(&rows[2..3]).is_ok(), "{rows:?}");
    }

    #[test]
    fn a_check_that_falls_short_in_a_void_run_proves_nothing_either_way() {
        let void = [result("exp5", vec![check("pull_recovery", 11.0)], Outcome::Void)];
        assert_eq!(standing(&rows(&void), "recovery")[0].1, Standing::Void);
    }

    #[test]
    fn none_of_0_allowed_is_met_and_a_missing_measurement_is_the_worst() {
        let zero = |name: &str, n| Check::new(name, "?", (0.0, Margin::AtMost), n, "");
        let steady = |second| {
            let checks =
                vec![zero("steady_evictions", Some(0.0)), zero("steady-2_evictions", second)];
            standing(&rows(&[result("exp6", checks, Outcome::Fail)]), "evictions")
        };
        assert_eq!(steady(Some(0.0))[0].1, Standing::Met);
        assert_eq!(steady(None), [("steady-2_evictions".into(), Standing::Short)]);
    }
}
