//! `lab report`: from a run's folder to `report.md`, `verdict.json` and charts; from all of them to
//! the targets and the page.
//!
//! Invariant: every file is written before the exit code says that a check fell short. It knows no
//! experiment by name: `experiments` declares the checks and the charts.

#[cfg(test)]
mod evidence;
pub mod ledger;
mod numbers;
pub mod spread;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use crate::failure::Failure;
use crate::lab::audit::Ledger;
use crate::lab::charts::Chart;
use crate::lab::experiments::{ArmSetup, Check, Experiment, Margin, PROMISE, Setup, Table, named};
use crate::lab::plan::Host;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::text::{figure, or_not_measured, with_unit};
use crate::lab::verdict::{
    self, Disturbance, Outcome, PASSING, Picture, Verdict, measured, wanted,
};
use crate::lab::{index, slo};

/// File name inside a run's folder.
pub const FILE: &str = "report.md";

/// Where all experiments' folders are.
const RESULTS: &str = "results";

/// Write a run's report, or join those of all: give one of --experiment, --slo, --index. Exit 3
/// when a check or a target falls short.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "report")]
pub struct Settings {
    /// report.md, verdict.json and charts of one: ceiling, exp1 to exp12, exp12-retries, exp13 to exp15, faults, longlife
    #[argh(option)]
    pub experiment: Option<String>,
    /// the targets in one table, from every verdict in the folder
    #[argh(switch)]
    pub slo: bool,
    /// all experiments in one page, index.html in the folder
    #[argh(switch)]
    pub index: bool,
    /// the targets as JSON instead
    #[argh(switch)]
    pub json: bool,
    /// the run's folder (results/EXPERIMENT), or the one of all (results)
    #[argh(positional)]
    pub dir: Option<PathBuf>,
}

/// Reports, as the flags ask for.
///
/// # Errors
/// [`Failure::Verdict`] when a check or a target falls short; [`Failure::Failed`] when the host
/// disturbed the run, or files cannot be read or written; [`Failure::Usage`] for flags that do not
/// go together.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let dir = |default: PathBuf| settings.dir.clone().unwrap_or(default);
    let results = Path::new(RESULTS);
    if settings.json && !settings.slo {
        return Err(Failure::Usage("report: --json is the form of --slo".into()));
    }
    match (&settings.experiment, settings.slo, settings.index) {
        (Some(name), false, false) => experiment(named(name)?, &dir(results.join(name))),
        (None, true, false) => slo::run(&dir(results.into()), settings.json),
        (None, false, true) => index::run(&dir(results.into())),
        _ => Err(Failure::Usage("report: give one of --experiment NAME, --slo, --index".into())),
    }
}

/// Reads the run's folder, writes the report into it.
///
/// # Errors
/// As [`run`].
pub fn experiment(experiment: &Experiment, dir: &Path) -> Result<(), Failure> {
    let run = Run::read(experiment, dir)?;
    let Judged { checks, disturbances, outcome, .. } = Judged::of(experiment, &run);
    let charts = (experiment.charts)(&run);
    for chart in &charts {
        chart.write(dir)?;
    }
    let picture = |chart: &Chart| Picture {
        name: chart.name.into(),
        title: chart.title.clone(),
        subtitle: chart.subtitle.clone(),
    };
    let verdict = Verdict {
        experiment: experiment.name.into(),
        form: run.plan.setup.form,
        outcome,
        disturbances: disturbances.into_iter().map(|found| found.why).collect(),
        checks,
        charts: charts.iter().map(picture).collect(),
        tables: (experiment.tables)(&run),
    };
    super::write_json(&dir.join(verdict::FILE), &verdict)?;
    let mut text = Text::default();
    text.head(experiment, &run, &verdict);
    text.checks(&verdict);
    for chart in &verdict.charts {
        text.0 += &format!("![{}]({}.svg)\n\n", chart.title, chart.name);
    }
    for table in &verdict.tables {
        text.table(table);
    }
    text.predictions(&run);
    if !run.arms.is_empty() {
        text.numbers(&run);
        text.ledgers(&run);
    }
    text.record(experiment, &run, &verdict);
    let path = dir.join(FILE);
    std::fs::write(&path, text.0)
        .map_err(|e| Failure::Failed(format!("{}: cannot be written: {e}", path.display())))?;
    conclude(&verdict, &path)
}

/// What the judge says of a run.
struct Judged {
    arms: Vec<String>,
    checks: Vec<Check>,
    disturbances: Vec<Disturbance>,
    outcome: Outcome,
}

impl Judged {
    fn of(experiment: &Experiment, run: &Run) -> Self {
        let (setup, arms) = (&run.plan.setup, run.arms.iter());
        let checks = checks(experiment, run);
        let disturbances: Vec<_> = arms.flat_map(|arm| disturbances(setup, arm)).collect();
        let arms: Vec<String> = run.arms.iter().map(|arm| arm.spec.name.into()).collect();
        let outcome = Outcome::of(&checks, &disturbances, &arms);
        Self { arms, checks, disturbances, outcome }
    }
}

/// Where the host makes a run void: what it took from the arms whose checks fell short by it. Empty of any other run.
///
/// # Errors
/// When the run's folder cannot be read.
pub fn excused(experiment: &Experiment, dir: &Path) -> Result<Vec<Disturbance>, Failure> {
    let Judged { arms, checks, mut disturbances, outcome } =
        Judged::of(experiment, &Run::read(experiment, dir)?);
    let is_why = |found: &Disturbance| {
        checks.iter().any(|check| !check.pass && found.explains(check, &arms))
    };
    disturbances.retain(|found| outcome == Outcome::Void && is_why(found));
    Ok(disturbances)
}

pub(super) fn conclude(verdict: &Verdict, path: &Path) -> Result<(), Failure> {
    let path = path.display();
    for check in &verdict.checks {
        let (says, wanted) = (measured(check), wanted(check));
        let (name, pass) = (check.name.as_str(), check.pass);
        log::info!(pass = pass, check = name, measured = says, wanted = wanted; "verdict");
    }
    let short: Vec<&str> =
        verdict.checks.iter().filter(|c| !c.pass).map(|c| c.name.as_str()).collect();
    for why in &verdict.disturbances {
        log::warn!(why = why.as_str(); "the host disturbed the run");
    }
    let (all, fell) = (verdict.checks.len(), short.len());
    let said = format!("{fell} of {all} checks fell short: {} (see {path})", short.join(", "));
    match verdict.outcome {
        Outcome::Pass => {}
        Outcome::Fail => return Err(Failure::Verdict(said)),
        Outcome::Void => {
            return Err(Failure::Failed(format!(
                "{said}, but the host took more than their margins bear: the run is void, neither pass nor \
                 fail; run it again on a quiet machine"
            )));
        }
    }
    log::info!(report = path.to_string(), checks = verdict.checks.len(); "all checks hold");
    Ok(())
}

/// The checks of a run: the experiment's own, and those of every arm.
pub(super) fn checks(experiment: &Experiment, run: &Run) -> Vec<Check> {
    let mut checks = (experiment.checks)(run);
    checks.extend(run.arms.iter().flat_map(|arm| common_checks(&run.plan.setup, arm)));
    checks
}

/// So long the watch may read not everything, s.
const BLIND_MAX_S: f64 = 5.0;

/// Common to all arms of all experiments: every id has its fate, and no event was taken for another
/// record. Where retention is the subject of the arm, as many ids have none as were counted as lost. Except where an eviction is the subject of the arm, no member was evicted and nothing
/// came twice. And the watch saw all of it.
fn common_checks(setup: &Setup, arm: &Arm) -> Vec<Check> {
    let ask = |name: &str, question: &str, measured: Option<f64>, unit: &str| {
        let name = format!("{}_{name}", arm.spec.name);
        let none = (0.0, Margin::AtMost, PROMISE);
        Check::new(&name, question, none, measured, unit)
    };
    let count = |of: fn(&Ledger) -> u64| arm.ledger.as_ref().map(|ledger| of(ledger) as f64);
    let question = "Ids without a fate (delivered, shed, given up, still in the log), or with two";
    // Where the log loses some: beside those that were counted as they were found gone.
    let wrong = |ledger: &Ledger| {
        let lost = if arm.spec.loses { ledger.lost } else { 0 };
        ledger.unexplained.abs_diff(lost) + ledger.two_fates + ledger.corrupt
    };
    // A processor that was killed leaves no summary, but its page.
    let of_page = arm.invalid().unwrap_or(0.0);
    let invalid = count(|l| l.invalid).map(|invalid| invalid.max(of_page));
    let own = setup.arm(arm.spec.name);
    let vary = own.is_some_and(|own| own.scaled.is_some());
    let mut checks = vec![
        ask("ledger", question, arm.ledger.as_ref().map(|l| wrong(l) as f64), "ids"),
        ask("invalid", "Records that were taken for no event", invalid, "events"),
        Check::new(
            &format!("{}_blind", arm.spec.name),
            "The longest time in which the watch did not read lag and pages",
            (
                BLIND_MAX_S,
                Margin::AtMost,
                "four looks in a row, one a second: no phase that is judged is so short",
            ),
            Some(arm.blind_s(setup.load_of(arm.spec.name).end_s(), vary)),
            "s",
        ),
    ];
    if !arm.spec.evicts && !arm.spec.resends {
        let question = "Deliveries of an id that was delivered before";
        checks.push(ask("duplicates", question, count(|l| l.duplicates), "events"));
    }
    if !arm.spec.evicts {
        let members = own.map_or(1, ArmSetup::members);
        checks.push(ask("evictions", "Evictions of any member", arm.evictions(members), ""));
    }
    checks
}

/// The CPU time that the host took from an arm, phase by phase, where that is more than any machine
/// shows: the time of other processes while less than that was left over, and the time that the
/// hypervisor took.
fn disturbances(setup: &Setup, arm: &Arm) -> Vec<Disturbance> {
    let mut found = Vec::new();
    for phase in setup.load_of(arm.spec.name).phases() {
        let Some(host) = arm.host_in(phase) else { continue };
        let others = if host.idle < host.others { host.others } else { 0.0 };
        for (share, who) in [(others, "processes outside the run"), (host.steal, "the hypervisor")]
        {
            if share > PASSING {
                let why = format!(
                    "arm {}, {}/s offered: {who} took {:.0} % of the machine's CPU",
                    arm.spec.name,
                    figure(phase.rate),
                    share * 100.0
                );
                found.push(Disturbance { arm: arm.spec.name.into(), share, why });
            }
        }
    }
    found
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: impl std::fmt::Display) {
        let _a_string_takes_all = writeln!(self.0, "{line}");
    }

    fn head(&mut self, experiment: &Experiment, run: &Run, verdict: &Verdict) {
        let setup = &run.plan.setup;
        let (held, outcome) = (verdict.held(), verdict.outcome.says());
        let steps: Vec<String> = setup
            .phases()
            .map(|p| format!("{}/s for {} s", figure(p.rate), figure(p.to - p.from)))
            .collect();
        let ceiling = match setup.shares_load() {
            true => format!("Offered: {}; ceiling", steps.join(", then ")),
            false => "Ceiling".to_owned(),
        };
        self.line(format_args!("# Experiment {}: {}\n", experiment.name, experiment.title));
        let all = verdict.checks.len();
        self.line(format_args!("**{outcome}** ({held} of {all}), {} run.\n", setup.form));
        for why in &verdict.disturbances {
            self.line(format_args!("- disturbed: {why}"));
        }
        let again = || run.arms.iter().flat_map(|arm| &arm.repeated);
        for why in again() {
            self.line(format_args!("- run again, as it was disturbed: {why}"));
        }
        if !verdict.disturbances.is_empty() || again().next().is_some() {
            self.line("");
        }
        self.line(format_args!("**Question.** {}\n", experiment.question));
        self.line(format_args!(
            "**Held.** {}. {ceiling} {}/s; {} B payload.\n",
            experiment.held,
            figure(setup.ceiling),
            setup.payload_bytes
        ));
        self.line(format_args!("**Varied.** {}.\n", experiment.varied));
    }

    fn checks(&mut self, verdict: &Verdict) {
        self.line(
            "## Verdict\n\n| | check | question | wanted | because | measured |\n|---|---|---|---|---|---|",
        );
        for check in &verdict.checks {
            self.line(format_args!(
                "| {} | `{}` | {} | {} | {} | {} |",
                if check.pass { "pass" } else { "**FAIL**" },
                check.name,
                check.question,
                wanted(check),
                check.because,
                measured(check)
            ));
        }
        self.line("");
    }

    fn table(&mut self, table: &Table) {
        self.line(format_args!("## {}\n\n| {} |", table.title, table.head.join(" | ")));
        self.line(format_args!("|{}", "---|".repeat(table.head.len())));
        for row in &table.rows {
            self.line(format_args!("| {} |", row.join(" | ")));
        }
        self.line("");
    }

    fn predictions(&mut self, run: &Run) {
        self.line(format_args!(
            "## Prediction\n\nWritten to `plan.json` at {}, before the first arm started. λ: \
             offered, μ: the sink's ceiling, b: bytes of one queued event.\n\n\
             | figure | value | because |\n|---|---|---|",
            run.plan.written_at
        ));
        for p in &run.plan.predictions {
            let value = with_unit(p.value, &p.unit);
            self.line(format_args!("| `{}` | {value} | {} |", p.name, p.because));
        }
        self.line("");
    }

    fn numbers(&mut self, run: &Run) {
        let names: Vec<&str> = run.arms.iter().map(|arm| arm.spec.name).collect();
        self.line(format_args!("## Numbers\n\n| | {} |", names.join(" | ")));
        self.line(format_args!("|---|{}", "---|".repeat(names.len())));
        for (label, of) in numbers::NUMBERS {
            let cells: Vec<String> =
                run.arms.iter().map(|arm| or_not_measured(of(run, arm))).collect();
            self.line(format_args!("| {label} | {} |", cells.join(" | ")));
        }
        self.line("\nRates are taken between the settled first and last second of the phase, a stall included.\n");
    }

    fn ledgers(&mut self, run: &Run) {
        self.line(format_args!("## Ledger\n\n{}\n", ledger::EXPLAINED));
        self.line(format_args!("| arm | {} |", ledger::COLUMNS.map(|(name, _)| name).join(" | ")));
        self.line(format_args!("|---|{}", "---|".repeat(ledger::COLUMNS.len())));
        for arm in &run.arms {
            let cells = match &arm.ledger {
                Some(ledger) => ledger::COLUMNS.map(|(_, of)| of(ledger)).join(" | "),
                None => "no audit".into(),
            };
            self.line(format_args!("| {} | {cells} |", arm.spec.name));
        }
        self.line("");
    }

    fn record(&mut self, experiment: &Experiment, run: &Run, verdict: &Verdict) {
        let host = &run.host;
        let arms: Vec<String> =
            run.arms.iter().map(|arm| format!("`{}/`", arm.spec.name)).collect();
        let folders = if arms.is_empty() { "the folders".into() } else { arms.join(", ") };
        let dirty = match host.dirty {
            Some(true) => " with uncommitted changes",
            Some(false) => "",
            None => " (not a git work tree)",
        };
        self.line(format_args!("## What these numbers cannot show\n\n{}\n", experiment.limits));
        self.line(format_args!(
            "## Record\n\n\
            - run again: `{}`\n\
            - {}; {}, {} cores, {:.0} GB; Linux {}; load average before the run {:.2}\n\
            - Kafka {}; {}; revision {}{dirty}\n\
            - raw samples, ledgers and logs: {} beside this file\n",
            verdict.command(),
            host.date,
            host.cpu,
            host.cores,
            host.memory_bytes as f64 / 1e9,
            host.kernel,
            host.load_1m,
            host.kafka,
            host.rustc,
            host.revision,
            folders
        ));
        for arm in &run.arms {
            let other = arm.host.as_ref().filter(|own| {
                (&own.revision, own.dirty, &own.kafka) != (&host.revision, host.dirty, &host.kafka)
            });
            if let Some(Host { date, kafka, revision, .. }) = other {
                self.line(format_args!(
                    "Arm {} is of an earlier sitting: {date}, Kafka {kafka}, revision {revision}.\n",
                    arm.spec.name
                ));
            }
            self.line(format_args!(
                "Commands of arm {}:\n\n```sh\n{}\n```\n",
                arm.spec.name,
                arm.commands.trim_end()
            ));
        }
    }
}

#[cfg(test)]
mod tests;
