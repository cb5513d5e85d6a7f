//! Several runs of one experiment as one verdict: the worst of each check, beside the spread of the
//! runs. A difference between arms that is smaller than the spread counts as none.

use std::path::{Path, PathBuf};

use super::conclude;
use crate::failure::Failure;
use crate::lab::experiments::{self, Check, Table};
use crate::lab::plan;
use crate::lab::text::{figure, or_not_measured};
use crate::lab::verdict::{self, Outcome, Verdict};
use crate::lab::{read_json, stats, write_json};

/// Joins the verdicts in `folders`: `verdict.json`, `report.md` and the charts of the worst run, in `out`.
///
/// # Errors
/// [`Failure::Verdict`] when a check fell short in one of them; [`Failure::Failed`] when a run was void, or a file
/// cannot be read or written.
pub fn report(folders: &[PathBuf], out: &Path) -> Result<(), Failure> {
    let mut runs = Vec::new();
    for folder in folders {
        runs.push((folder, read_json::<Verdict>(&folder.join(verdict::FILE))?));
    }
    let Some((folder, joined)) = joined(&runs) else {
        return Err(Failure::Failed(format!("{}: no run to join", out.display())));
    };
    let mut files = vec![plan::FILE.to_owned(), plan::HOST_FILE.to_owned()];
    files.extend(joined.charts.iter().map(|chart| format!("{}.svg", chart.name)));
    for file in files {
        let (from, to) = (folder.join(&file), out.join(&file));
        std::fs::copy(&from, &to)
            .map_err(|e| Failure::Failed(format!("{}: cannot be copied: {e}", from.display())))?;
    }
    write_json(&out.join(verdict::FILE), &joined)?;
    let path = out.join(super::FILE);
    std::fs::write(&path, text(&runs, &joined))
        .map_err(|e| Failure::Failed(format!("{}: cannot be written: {e}", path.display())))?;
    conclude(&joined, &path)
}

/// The verdict over all runs, and the folder of the worst; `None` of none.
pub(super) fn joined<'a>(runs: &[(&'a PathBuf, Verdict)]) -> Option<(&'a Path, Verdict)> {
    let (folder, worst) = runs.iter().min_by_key(|(_, run)| run.held())?;
    let mut joined = worst.clone();
    joined.checks = worst.checks.iter().map(|check| worst_of(&check.name, runs, check)).collect();
    joined.disturbances = runs.iter().flat_map(|(_, run)| run.disturbances.clone()).collect();
    // A failure outweighs a void run.
    let any = |outcome| runs.iter().any(|(_, run)| run.outcome == outcome);
    joined.outcome = match (any(Outcome::Fail), any(Outcome::Void)) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Void,
        (false, false) => Outcome::Pass,
    };
    joined.tables.insert(0, spread(runs));
    let arms = experiments::named(&joined.experiment).map(|known| known.arms).unwrap_or_default();
    let arms: Vec<&str> = arms.iter().map(|arm| arm.name).collect();
    joined.tables.insert(1, differences(runs, &arms));
    Some((folder.as_path(), joined))
}

fn of_all<'a>(name: &'a str, runs: &'a [(&PathBuf, Verdict)]) -> impl Iterator<Item = &'a Check> {
    runs.iter().filter_map(move |(_, run)| run.checks.iter().find(|check| check.name == name))
}

/// Of the run that used the most of the check's margin.
fn worst_of(name: &str, runs: &[(&PathBuf, Verdict)], otherwise: &Check) -> Check {
    let used = verdict::margin_used;
    let worst = of_all(name, runs).max_by(|a, b| used(a).total_cmp(&used(b)));
    worst.unwrap_or(otherwise).clone()
}

/// The values that several runs measured for one check.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    least: f64,
    median: f64,
    most: f64,
}

impl Range {
    /// `None` where no run measured it.
    fn of(name: &str, runs: &[(&PathBuf, Verdict)]) -> Option<Self> {
        let found: Vec<f64> = of_all(name, runs).filter_map(|check| check.measured).collect();
        Some(Self {
            least: found.iter().copied().min_by(f64::total_cmp)?,
            median: stats::median(found.iter().copied())?,
            most: found.iter().copied().max_by(f64::total_cmp)?,
        })
    }

    fn spread(self) -> f64 {
        self.most - self.least
    }
}

fn spread(runs: &[(&PathBuf, Verdict)]) -> Table {
    let checks = runs.first().map(|(_, run)| &run.checks[..]).unwrap_or_default();
    let row = |check: &Check| {
        let range = Range::of(&check.name, runs);
        vec![
            format!("`{}`", check.name),
            figure(check.predicted),
            or_not_measured(range.map(|range| range.least)),
            or_not_measured(range.map(|range| range.median)),
            or_not_measured(range.map(|range| range.most)),
            check.unit.clone(),
            of_all(&check.name, runs).filter(|check| check.pass).count().to_string(),
        ]
    };
    let head = ["check", "wanted", "least", "median", "most", "unit", "held"];
    let title = format!("{} runs: how far apart they are", runs.len());
    Table::new(&title, &head, checks.iter().map(row))
}

/// For every question that several `arms` share: each arm against the first one.
fn differences(runs: &[(&PathBuf, Verdict)], arms: &[&str]) -> Table {
    let checks = runs.first().map(|(_, run)| &run.checks[..]).unwrap_or_default();
    let asked = |check: &Check| {
        let of = |arm: &&&str| check.name.strip_prefix(**arm)?.strip_prefix('_').map(str::to_owned);
        // The longest name that fits: one arm's name may begin with another's.
        let arm = arms.iter().filter(|arm| of(arm).is_some()).max_by_key(|arm| arm.len())?;
        Some((of(&arm)?, *arm, Range::of(&check.name, runs)?, check.unit.clone()))
    };
    let asked: Vec<_> = checks.iter().filter_map(asked).collect();
    let row = |(n, (question, arm, range, unit)): (usize, &(String, &str, Range, String))| {
        let (_, first, than, _) = asked.iter().take(n).find(|(other, ..)| other == question)?;
        let difference = range.median - than.median;
        let spread = range.spread().max(than.spread());
        let says = if difference.abs() > spread { "yes" } else { "none" };
        Some(vec![
            question.clone(),
            format!("{arm} − {first}"),
            figure(difference),
            figure(spread),
            unit.clone(),
            says.to_owned(),
        ])
    };
    let head =
        ["question", "arms", "difference of medians", "largest spread", "unit", "a difference?"];
    let title = "Differences between arms: none, where the runs of one arm lie further apart";
    Table::new(title, &head, asked.iter().enumerate().filter_map(row))
}

fn text(runs: &[(&PathBuf, Verdict)], joined: &Verdict) -> String {
    let mut text = super::Text::default();
    text.line(format_args!("# Experiment {}: {} runs\n", joined.experiment, runs.len()));
    text.line(format_args!(
        "**{}** ({} of {} checks hold in every run), {} runs. Of each check the worst is shown; a difference \
         that is smaller than the spread counts as none.\n",
        joined.outcome.says(),
        joined.held(),
        joined.checks.len(),
        joined.form
    ));
    for (folder, run) in runs {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        text.line(format_args!("- [{name}]({name}/report.md): {}", run.outcome.says()));
    }
    text.line("");
    text.checks(joined);
    for table in joined.tables.iter().take(2) {
        text.table(table);
    }
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::experiments::{Form, Margin};

    fn run(outcome: Outcome, measured: [Option<f64>; 2]) -> Verdict {
        let check = |name: &str, measured| {
            Check::new(name, "q", (100.0, Margin::Share(0.1), "two rates"), measured, "MB")
        };
        let [a, b] = measured;
        Verdict {
            experiment: "exp2".into(),
            form: Form::Quick,
            outcome,
            disturbances: Vec::new(),
            checks: vec![check("a", a), check("b", b)],
            charts: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// Prevents: a run that fell short and is lost among those that held; a spread that hides its ends.
    #[test]
    fn the_worst_run_is_the_verdict_and_the_spread_is_shown() {
        let dir = tempfile::tempdir().expect("dir");
        let runs = [
            run(Outcome::Pass, [Some(101.0), Some(95.0)]),
            run(Outcome::Fail, [Some(108.0), Some(120.0)]),
            run(Outcome::Pass, [Some(97.0), Some(100.0)]),
        ];
        let folders: Vec<PathBuf> = (1..=3).map(|n| dir.path().join(format!("run-{n}"))).collect();
        for (folder, run) in folders.iter().zip(&runs) {
            std::fs::create_dir(folder).expect("made");
            write_json(&folder.join(verdict::FILE), run).expect("written");
            for file in [plan::FILE, plan::HOST_FILE] {
                std::fs::write(folder.join(file), "{}").expect("written");
            }
        }
        let ended = report(&folders, dir.path());
        assert!(matches!(ended, Err(Failure::Verdict(_))), "{ended:?}");
        let found: Verdict = read_json(&dir.path().join(verdict::FILE)).expect("a verdict");
        assert_eq!(found.outcome, Outcome::Fail);
        let measured: Vec<_> = found.checks.iter().map(|check| check.measured).collect();
        assert_eq!(measured, [Some(108.0), Some(120.0)]);
        let rows = &found.tables[0].rows;
        assert_eq!(rows[0][2..5], ["97", "101", "108"]);
        assert_eq!((rows[0][6].as_str(), rows[1][6].as_str()), ("3", "2"));
        let text = std::fs::read_to_string(dir.path().join("report.md")).expect("a report");
        assert!(text.contains("(1 of 2 checks hold in every run)"), "{text}");

        let runs: Vec<_> = folders.iter().zip(runs).collect();
        // Of `a` the runs measured 97 to 108, of `b` 95 to 120; their medians are 101 and 100.
        let named = |mut run: Verdict, names: [&str; 2]| {
            for (check, name) in run.checks.iter_mut().zip(names) {
                check.name = name.into();
            }
            run
        };
        let names = ["push_lag", "push-2_lag"];
        let two: Vec<_> = runs.iter().map(|(at, run)| (*at, named(run.clone(), names))).collect();
        let rows = differences(&two, &["push", "push-2"]).rows;
        assert_eq!(rows, [["lag", "push-2 − push", "-1", "25", "MB", "none"]]);
        let apart =
            [[100.0, 150.0], [101.0, 149.0]].map(|[a, b]| run(Outcome::Pass, [Some(a), Some(b)]));
        let two: Vec<_> =
            folders.iter().zip(apart).map(|(at, run)| (at, named(run, names))).collect();
        assert_eq!(differences(&two, &["push", "push-2"]).rows[0][5], "yes");

        // Of a bound the worst is the one nearest to it, not the one furthest away.
        let bounded = |measured| {
            let mut run = run(Outcome::Pass, [None; 2]);
            let wanted = (512.0, Margin::AtMost, "the target");
            run.checks = vec![Check::new("rss_max", "q", wanted, Some(measured), "MB")];
            run
        };
        let three = folders.iter().zip([30.0, 480.0, 31.0].map(bounded)).collect::<Vec<_>>();
        let worst = joined(&three).expect("one").1.checks.remove(0);
        assert_eq!(worst.measured, Some(480.0));

        let void = [run(Outcome::Pass, [Some(1.0); 2]), run(Outcome::Void, [None; 2])];
        let runs: Vec<_> = folders.iter().zip(void).collect();
        let outcome = |runs: &[(&PathBuf, Verdict)]| joined(runs).map(|(_, run)| run.outcome);
        assert_eq!(outcome(&runs), Some(Outcome::Void));
        assert_eq!(outcome(&[]), None);
    }
}
