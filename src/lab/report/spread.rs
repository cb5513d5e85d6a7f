//! Several runs of one experiment as one verdict: of each check the worst, beside how far apart the runs were.
//! A difference between arms that is smaller than that is none.

use std::path::{Path, PathBuf};

use super::conclude;
use crate::failure::Failure;
use crate::lab::experiments::{Check, Table};
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
fn joined<'a>(runs: &[(&'a PathBuf, Verdict)]) -> Option<(&'a Path, Verdict)> {
    let (folder, worst) = runs.iter().min_by_key(|(_, run)| run.held())?;
    let mut joined = worst.clone();
    joined.checks = worst.checks.iter().map(|check| worst_of(&check.name, runs, check)).collect();
    joined.disturbances = runs.iter().flat_map(|(_, run)| run.disturbances.clone()).collect();
    // A failure outweighs a run that says nothing.
    let any = |outcome| runs.iter().any(|(_, run)| run.outcome == outcome);
    joined.outcome = match (any(Outcome::Fail), any(Outcome::Void)) {
        (true, _) => Outcome::Fail,
        (false, true) => Outcome::Void,
        (false, false) => Outcome::Pass,
    };
    joined.tables.insert(0, spread(runs));
    Some((folder.as_path(), joined))
}

fn of_all<'a>(name: &'a str, runs: &'a [(&PathBuf, Verdict)]) -> impl Iterator<Item = &'a Check> {
    runs.iter().filter_map(move |(_, run)| run.checks.iter().find(|check| check.name == name))
}

/// One that fell short, if there is one; else the one that is furthest from what was predicted.
fn worst_of(name: &str, runs: &[(&PathBuf, Verdict)], otherwise: &Check) -> Check {
    let off = |check: &Check| check.measured.map_or(f64::INFINITY, |m| (m - check.predicted).abs());
    let worst =
        of_all(name, runs).max_by(|a, b| (!a.pass).cmp(&!b.pass).then(off(a).total_cmp(&off(b))));
    worst.unwrap_or(otherwise).clone()
}

fn spread(runs: &[(&PathBuf, Verdict)]) -> Table {
    let checks = runs.first().map(|(_, run)| &run.checks[..]).unwrap_or_default();
    let row = |check: &Check| {
        let mut found: Vec<f64> =
            of_all(&check.name, runs).filter_map(|check| check.measured).collect();
        found.sort_by(f64::total_cmp);
        vec![
            format!("`{}`", check.name),
            figure(check.predicted),
            or_not_measured(found.first().copied()),
            or_not_measured(stats::median(found.iter().copied())),
            or_not_measured(found.last().copied()),
            check.unit.clone(),
            of_all(&check.name, runs).filter(|check| check.pass).count().to_string(),
        ]
    };
    let head = ["check", "wanted", "least", "median", "most", "unit", "held"];
    let title = format!("{} runs: how far apart they are", runs.len());
    Table::new(&title, &head, checks.iter().map(row))
}

fn text(runs: &[(&PathBuf, Verdict)], joined: &Verdict) -> String {
    let mut text = super::Text::default();
    text.line(format_args!("# Experiment {}: {} runs\n", joined.experiment, runs.len()));
    text.line(format_args!(
        "**{}** ({} of {} checks hold in every run), {} runs. Of each check the worst is shown; a difference \
         that is smaller than the spread is none.\n",
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
    if let Some(spread) = joined.tables.first() {
        text.table(spread);
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

        let void = [run(Outcome::Pass, [Some(1.0); 2]), run(Outcome::Void, [None; 2])];
        let runs: Vec<_> = folders.iter().zip(void).collect();
        let outcome = |runs: &[(&PathBuf, Verdict)]| joined(runs).map(|(_, run)| run.outcome);
        assert_eq!(outcome(&runs), Some(Outcome::Void));
        assert_eq!(outcome(&[]), None);
    }
}
