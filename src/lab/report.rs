//! `lab report`: from a run's folder to `report.md`, `verdict.json` and charts.
//!
//! Invariant: every file is written before the exit code says that a check fell short. It knows
//! no experiment by name: what is asked and drawn is declared in `experiments`.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::experiments::{Check, Experiment, Margin, named};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::telemetry::latency::Stage;

/// The host disturbs a run when more than this share of the machine's CPU goes to processes that
/// are not part of it, or this share is stolen by the hypervisor, over one phase of one arm. A
/// check that falls short in a disturbed run proves nothing: the run is void. Checks that hold
/// nonetheless hold: each compares with a model, and noise only leads away from it.
const OTHERS_MAX: f64 = 0.40;
const STEAL_MAX: f64 = 0.10;

/// `verdict.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which experiment.
    pub experiment: String,
    /// `quick` or `full`.
    pub form: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How the host disturbed the run.
    pub disturbances: Vec<String>,
    /// One by one.
    pub checks: Vec<Check>,
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
    fn of(checks: &[Check], disturbances: &[String]) -> Self {
        match (checks.iter().all(|check| check.pass), disturbances.is_empty()) {
            (true, _) => Self::Pass,
            (false, true) => Self::Fail,
            (false, false) => Self::Void,
        }
    }
}

/// Reads `dir`, writes the report into it.
///
/// # Errors
/// [`Failure::Verdict`] when a check falls short; [`Failure::Failed`] when the host disturbed the
/// run, or files cannot be read or written.
pub fn run(experiment: &str, dir: &Path) -> Result<(), Failure> {
    let experiment = named(experiment)?;
    let run = Run::read(experiment, dir)?;
    let mut checks = (experiment.checks)(&run);
    checks.extend(run.arms.iter().map(ledger_check));
    let disturbances: Vec<String> =
        run.arms.iter().flat_map(|arm| disturbances(&run, arm)).collect();
    let verdict = Verdict {
        experiment: experiment.name.into(),
        form: run.plan.setup.form.clone(),
        outcome: Outcome::of(&checks, &disturbances),
        disturbances,
        checks,
    };
    let charts = (experiment.charts)(&run);
    for chart in &charts {
        chart.write(dir)?;
    }
    super::write_json(&dir.join("verdict.json"), &verdict)?;
    let mut text = Text::default();
    text.head(experiment, &run, &verdict);
    text.checks(&verdict);
    for chart in &charts {
        text.0 += &format!("![{}]({}.svg)\n\n", chart.title, chart.name);
    }
    text.predictions(&run);
    text.numbers(&run);
    text.ledgers(&run);
    text.record(experiment, &run);
    let path = dir.join("report.md");
    std::fs::write(&path, text.0)
        .map_err(|e| Failure::Failed(format!("{}: cannot be written: {e}", path.display())))?;
    conclude(&verdict, &path)
}

fn conclude(verdict: &Verdict, path: &Path) -> Result<(), Failure> {
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
                "{said}, but the host disturbed the run: it is void, neither pass nor fail; \
                 run it again on a quiet machine"
            )));
        }
    }
    log::info!(report = path.to_string(), checks = verdict.checks.len(); "all checks hold");
    Ok(())
}

/// Common to all experiments: every id has its fate.
fn ledger_check(arm: &Arm) -> Check {
    Check::new(
        &format!("{}_ledger", arm.name),
        "Ids neither delivered, shed, invalid nor still in the log",
        (0.0, Margin::AtMost),
        arm.ledger.as_ref().map(|ledger| ledger.unexplained as f64),
        "ids",
    )
}

fn disturbances(run: &Run, arm: &Arm) -> Vec<String> {
    let mut why = Vec::new();
    for phase in run.plan.setup.phases() {
        let Some((others, steal)) = arm.disturbance(phase) else { continue };
        for (share, limit, who) in [
            (others, OTHERS_MAX, "processes outside the run"),
            (steal, STEAL_MAX, "the hypervisor"),
        ] {
            if share > limit {
                why.push(format!(
                    "arm {}, {}/s offered: {who} took {:.0} % of the machine's CPU, more than {:.0} %",
                    arm.name,
                    figure(phase.rate),
                    share * 100.0,
                    limit * 100.0
                ));
            }
        }
    }
    why
}

/// A whole number with its thousands apart: `360,000`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 && out != "0" { format!("-{out}") } else { out }
}

/// A figure as people read it: three or four significant digits, thousands apart.
pub fn figure(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "unknown".into(),
        v if v >= 100.0 || v == v.trunc() => thousands(value),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.2}"),
        v if v >= 0.0001 => format!("{value:.4}"),
        _ => "0".into(),
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    if unit.is_empty() { figure(value) } else { format!("{} {unit}", figure(value)) }
}

fn measured(check: &Check) -> String {
    check.measured.map_or("not measured".into(), |m| with_unit(m, &check.unit))
}

fn wanted(check: &Check) -> String {
    let value = with_unit(check.predicted, &check.unit);
    match check.margin {
        Margin::Share(share) => format!("{value} ± {:.0} %", share * 100.0),
        Margin::Absolute(by) => format!("{value} ± {}", figure(by)),
        Margin::AtMost => format!("at most {value}"),
        Margin::AtLeast => format!("at least {value}"),
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: impl std::fmt::Display) {
        let _a_string_takes_all = writeln!(self.0, "{line}");
    }

    fn head(&mut self, experiment: &Experiment, run: &Run, verdict: &Verdict) {
        let setup = &run.plan.setup;
        let held = verdict.checks.iter().filter(|c| c.pass).count();
        let outcome = match verdict.outcome {
            Outcome::Pass => "All checks hold",
            Outcome::Fail => "A check fell short",
            Outcome::Void => "Void: a check fell short, and the host disturbed the run",
        };
        let steps: Vec<String> = setup
            .phases()
            .map(|p| format!("{}/s for {} s", figure(p.rate), figure(p.to - p.from)))
            .collect();
        self.line(format_args!("# Experiment {}: {}\n", experiment.name, experiment.title));
        let all = verdict.checks.len();
        self.line(format_args!("**{outcome}** ({held} of {all}), {} run.\n", setup.form));
        for why in &verdict.disturbances {
            self.line(format_args!("- disturbed: {why}"));
        }
        if !verdict.disturbances.is_empty() {
            self.line("");
        }
        self.line(format_args!("**Question.** {}\n", experiment.question));
        self.line(format_args!(
            "**Held.** {}. Offered: {}; ceiling {}/s; {} B payload.\n",
            experiment.held,
            steps.join(", then "),
            figure(setup.ceiling),
            setup.payload_bytes
        ));
        self.line(format_args!("**Varied.** {}.\n", experiment.varied));
    }

    fn checks(&mut self, verdict: &Verdict) {
        self.line(
            "## Verdict\n\n| | check | question | wanted | measured |\n|---|---|---|---|---|",
        );
        for check in &verdict.checks {
            self.line(format_args!(
                "| {} | `{}` | {} | {} | {} |",
                if check.pass { "pass" } else { "**FAIL**" },
                check.name,
                check.question,
                wanted(check),
                measured(check)
            ));
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
        let names: Vec<&str> = run.arms.iter().map(|arm| arm.name.as_str()).collect();
        self.line(format_args!("## Numbers\n\n| | {} |", names.join(" | ")));
        self.line(format_args!("|---|{}", "---|".repeat(names.len())));
        for (label, of) in NUMBERS {
            let cells: Vec<String> = run
                .arms
                .iter()
                .map(|arm| of(run, arm).map_or("not measured".into(), figure))
                .collect();
            self.line(format_args!("| {label} | {} |", cells.join(" | ")));
        }
        self.line("\nRates are taken between the settled first and last second of the phase.\n");
    }

    fn ledgers(&mut self, run: &Run) {
        self.line(
            "## Ledger\n\nEvery id that the brokers acknowledged to the producer, after the \
             processor was stopped with SIGTERM. In the log: at or above the committed offset, \
             read record by record. Again: delivered, and in the log as well; a restart would \
             deliver it once more.\n\n\
             | arm | produced | delivered | in the log | again | shed | invalid | unaccounted | duplicates |\n\
             |---|---|---|---|---|---|---|---|---|",
        );
        for arm in &run.arms {
            match &arm.ledger {
                Some(l) => {
                    let cells = [
                        l.produced,
                        l.delivered,
                        l.in_log,
                        l.again,
                        l.shed,
                        l.invalid,
                        l.unexplained,
                        l.duplicates,
                    ]
                    .map(|n| thousands(n as f64));
                    self.line(format_args!("| {} | {} |", arm.name, cells.join(" | ")));
                }
                None => self.line(format_args!("| {} | no audit |", arm.name)),
            }
        }
        self.line("\nproduced = delivered + in the log − again + shed + invalid + unaccounted.\n");
    }

    fn record(&mut self, experiment: &Experiment, run: &Run) {
        let host = &run.host;
        let dirty = match host.dirty {
            Some(true) => " with uncommitted changes",
            Some(false) => "",
            None => " (not a git work tree)",
        };
        self.line(format_args!("## What these numbers cannot show\n\n{}\n", experiment.limits));
        self.line(format_args!(
            "## Record\n\n\
            - run again: `run/{}.sh{}`\n\
            - {}; {}, {} cores, {:.0} GB; Linux {}; load average before the run {:.2}\n\
            - Kafka {}; {}; revision {}{dirty}\n\
            - raw samples, ledgers and logs: `{}/` beside this file\n",
            experiment.name,
            if run.plan.setup.form == "quick" { " --quick" } else { "" },
            host.date,
            host.cpu,
            host.cores,
            host.memory_bytes as f64 / 1e9,
            host.kernel,
            host.load_1m,
            host.kafka,
            host.rustc,
            host.revision,
            experiment.arms.join("/`, `")
        ));
        for arm in &run.arms {
            self.line(format_args!(
                "Commands of arm {}:\n\n```sh\n{}\n```\n",
                arm.name,
                arm.commands.trim_end()
            ));
        }
    }
}

type Number = (&'static str, fn(&Run, &Arm) -> Option<f64>);

/// Seconds after a change of load that the table leaves out.
const SETTLE_S: f64 = 5.0;

fn overload_rate(run: &Run, arm: &Arm, source: &str, key: &str) -> Option<f64> {
    arm.rate_in(source, key, run.plan.setup.overload().settled(SETTLE_S))
}

fn quantile(run: &Run, arm: &Arm, q: f64, baseline: bool) -> Option<f64> {
    let setup = &run.plan.setup;
    let phase = if baseline { setup.baseline() } else { setup.overload() };
    arm.latency_in(Stage::EndToEnd, q, phase.settled(SETTLE_S))
}

fn median_in(run: &Run, arm: &Arm, stage: Stage) -> Option<f64> {
    arm.latency_in(stage, 0.5, run.plan.setup.overload().settled(SETTLE_S))
}

/// The table arm × numbers, the same for every experiment.
const NUMBERS: &[Number] = &[
    ("λ as produced in the overload, events/s", |r, a| {
        overload_rate(r, a, "producer", "producer_events_sent_total")
    }),
    ("λ as polled, events/s", |r, a| {
        overload_rate(r, a, "processor", "processor_events_fetched_total")
    }),
    ("fetch requests/s", |r, a| overload_rate(r, a, "processor", "processor_polls_total")),
    ("μ as acked by the sink, events/s", |r, a| overload_rate(r, a, "sink", "sink_events_total")),
    ("RSS slope from λ and μ as measured, MB/s", |r, a| {
        let polled = overload_rate(r, a, "processor", "processor_events_fetched_total")?;
        let acked = overload_rate(r, a, "sink", "sink_events_total")?;
        Some(r.plan.setup.event_bytes * (polled - acked) / 1e6)
    }),
    ("RSS of the processor at the end of the baseline, MB", |r, a| {
        let to = r.plan.setup.baseline().to;
        stats::between(&a.rss_bytes("processor"), 0.0, to).last().map(|p| p.1 / 1e6)
    }),
    ("largest RSS of the processor, MB", |_, a| {
        stats::max(&a.rss_bytes("processor")).map(|b| b / 1e6)
    }),
    ("largest queue depth, events", |_, a| {
        stats::max(&a.metric("processor", "processor_queue_depth"))
    }),
    ("largest lag, events", |_, a| stats::max(&a.lag())),
    ("end-to-end p50 in the baseline, s", |r, a| quantile(r, a, 0.5, true)),
    ("end-to-end p99 in the baseline, s", |r, a| quantile(r, a, 0.99, true)),
    ("end-to-end p50 in the overload, s", |r, a| quantile(r, a, 0.5, false)),
    ("end-to-end p99 in the overload, s", |r, a| quantile(r, a, 0.99, false)),
    ("end-to-end p99.9 in the overload, s", |r, a| quantile(r, a, 0.999, false)),
    ("of that p50, waited in the log, s", |r, a| median_in(r, a, Stage::Log)),
    ("of that p50, waited in the queue, s", |r, a| median_in(r, a, Stage::Queue)),
    ("largest gap between two polls of the group seat, s", |_, a| {
        stats::max(&a.metric("processor", "processor_poll_gap_seconds"))
    }),
    ("evictions", |_, a| stats::max(&a.metric("processor", "processor_evictions_total"))),
    ("CPU of other processes in the overload, % of the machine", |r, a| {
        a.disturbance(r.plan.setup.overload()).map(|(others, _)| others * 100.0)
    }),
];

#[cfg(test)]
mod tests;
