//! `lab report --index`: all experiments in one page, `index.html`.
//!
//! Invariant: the page requests nothing from the network (its own policy forbids it, too), and all
//! that it holds is escaped: text by the templates, charts as images in data URIs, which run
//! nothing. It judges nothing: verdicts are those of `verdict.json`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::failure::Failure;
use crate::lab::audit::{self, Ledger};
use crate::lab::experiments::{self, Experiment, Prediction, Table};
use crate::lab::plan::{self, Host, Plan};
use crate::lab::read_json;
use crate::lab::report::ledger;
use crate::lab::slo::{self, Row, Standing};
use crate::lab::text::{figure, with_unit};
use crate::lab::verdict::{self, Outcome, Verdict, measured, wanted};

/// File name inside the results' folder.
const FILE: &str = "index.html";
const STYLE: &str = include_str!("index.css");

/// One experiment's folder.
struct Result {
    /// Its name, which is also its place in the page.
    folder: String,
    verdict: Verdict,
    plan: Plan,
    host: Host,
    /// By arm.
    ledgers: Vec<(String, Ledger)>,
    /// As data URIs, in the verdict's order.
    pictures: Vec<String>,
}

/// Writes the page of the results in `dir` into it.
///
/// # Errors
/// [`Failure::Verdict`] when a target falls short, with the page written; [`Failure::Failed`] when
/// there is no result, or a file cannot be read or written.
pub fn run(dir: &Path) -> std::result::Result<(), Failure> {
    let verdicts = verdict::all(dir)?;
    if verdicts.is_empty() {
        let dir = dir.display();
        return Err(Failure::Failed(format!(
            "{dir}: no folder in it holds a {}; run/all.sh makes them",
            verdict::FILE
        )));
    }
    let rows = slo::rows(&verdicts);
    let results = verdicts.into_iter().map(|(folder, verdict)| Result::read(dir, folder, verdict));
    let results = results.collect::<std::result::Result<Vec<_>, _>>()?;
    let path = dir.join(FILE);
    std::fs::write(&path, page(&rows, &results).into_string())
        .map_err(|e| Failure::Failed(format!("{}: cannot be written: {e}", path.display())))?;
    log::info!(page = path.display().to_string(), experiments = results.len(); "page written");
    slo::conclude(&rows)
}

impl Result {
    fn read(dir: &Path, folder: String, verdict: Verdict) -> std::result::Result<Self, Failure> {
        let at = dir.join(&folder);
        let unread = |path: &Path, e: std::io::Error| {
            Failure::Failed(format!("{}: cannot be read: {e}", path.display()))
        };
        let mut pictures = Vec::new();
        for chart in &verdict.charts {
            let path = at.join(format!("{}.svg", chart.name));
            let svg = std::fs::read(&path).map_err(|e| unread(&path, e))?;
            pictures.push(format!("data:image/svg+xml;base64,{}", STANDARD.encode(svg)));
        }
        let mut ledgers = Vec::new();
        for entry in std::fs::read_dir(&at).map_err(|e| unread(&at, e))? {
            let arm = entry.map_err(|e| unread(&at, e))?;
            let path = arm.path().join(audit::FILE);
            if path.is_file() {
                ledgers.push((arm.file_name().to_string_lossy().into_owned(), read_json(&path)?));
            }
        }
        ledgers.sort_by(|a: &(String, Ledger), b| a.0.cmp(&b.0));
        Ok(Self {
            plan: read_json(&at.join(plan::FILE))?,
            host: read_json(&at.join(plan::HOST_FILE))?,
            folder,
            verdict,
            ledgers,
            pictures,
        })
    }
}

fn page(rows: &[Row], results: &[Result]) -> Markup {
    let checks: usize = results.iter().map(|r| r.verdict.checks.len()).sum();
    let held: usize = results.iter().map(|r| r.verdict.held()).sum();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Tells the browser to enforce what is true anyway: nothing is loaded, nothing
                // runs.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                title { "Backpressure lab: results" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Backpressure lab: results" }
                    p {
                        "A source faster than its sink: where does the difference go? "
                        (results.len()) " experiments, " (held) " of " (checks) " checks hold."
                    }
                    nav aria-label="Experiments" {
                        ul {
                            li { a href="#conclusions" { "What came of it" } }
                            li { a href="#targets" { "Targets" } }
                            @for result in results {
                                li { a href={ "#" (result.folder) } { (result.folder) } }
                            }
                        }
                    }
                }
                main {
                    (conclusions(results))
                    (targets(rows))
                    @for result in results { (experiment(result)) }
                }
            }
        }
    }
}

/// What fell short, what is void, and the consequence for the choice of a policy.
fn conclusions(results: &[Result]) -> Markup {
    let of = |outcome: Outcome| results.iter().filter(move |it| it.verdict.outcome == outcome);
    let failed = html! {
        @for result in of(Outcome::Fail).chain(of(Outcome::Void)) {
            @for check in result.verdict.checks.iter().filter(|check| !check.pass) {
                tr {
                    td { a href={ "#" (result.folder) } { (result.folder) } }
                    td { (mark(false, result.verdict.outcome.says())) }
                    td.prose { (check.question) }
                    td.figure { (wanted(check)) }
                    td.figure { (measured(check)) }
                }
            }
        }
    };
    let promises =
        results.iter().filter(|it| ["exp7", "exp12"].contains(&it.verdict.experiment.as_str()));
    let promises = promises.filter_map(|it| it.verdict.tables.first());
    html! {
        section id="conclusions" aria-labelledby="conclusions-title" {
            h2 id="conclusions-title" { "What came of it" }
            @if results.iter().all(|it| it.verdict.outcome == Outcome::Pass) {
                p { "No check fell short." }
            } @else {
                (wide("What fell short", &["experiment", "", "question", "wanted", "measured"], &failed))
            }
            @for table in promises {
                p { "For the choice of an overload policy: " (table.title.to_lowercase()) "." }
                (listed(table))
            }
        }
    }
}

fn targets(rows: &[Row]) -> Markup {
    let body = html! {
        @for row in rows {
            tr {
                td.prose { (row.target) }
                td.figure { (mark(row.standing == Standing::Met, row.standing.says())) }
                td.figure { (row.measured) }
                td.figure { (row.wanted) }
                td { code { (row.check) } }
                td { @if row.file.is_empty() { "—" } @else { code { (row.file) } } }
            }
        }
    };
    html! {
        section id="targets" aria-labelledby="targets-title" {
            h2 id="targets-title" { "Targets" }
            (wide("Targets", &["target", "verdict", "measured", "wanted", "check", "file"], &body))
        }
    }
}

fn experiment(result: &Result) -> Markup {
    let Result { folder, verdict, plan, host, .. } = result;
    let declared = experiments::ALL.iter().find(|e| e.name == verdict.experiment);
    html! {
        section id=(folder) aria-labelledby={ (folder) "-title" } {
            h2 id={ (folder) "-title" } {
                (verdict.experiment) @if let Some(it) = declared { ": " (it.title) }
            }
            p {
                (mark(verdict.outcome == Outcome::Pass, verdict.outcome.says()))
                " (" (verdict.held()) " of " (verdict.checks.len()) "), " (verdict.form) " run. "
                "Again: " code { (verdict.command()) }
            }
            @if let Some(it) = declared { (question(it)) }
            @for why in &verdict.disturbances { p { "Disturbed: " (why) } }
            h3 { "Verdict" }
            (checks(folder, verdict))
            @for (chart, picture) in verdict.charts.iter().zip(&result.pictures) {
                figure {
                    // Focusable, so that a keyboard can scroll it where it is wider than the page.
                    div.wide tabindex="0" role="group" aria-label={ "Chart: " (chart.title) } {
                        // The picture holds its own title; this text is for readers who do not see
                        // it.
                        img src=(picture) alt={ (chart.title) ". " (chart.subtitle) } width="900" height="520";
                    }
                }
            }
            @for table in &verdict.tables {
                h3 { (table.title) }
                (listed(table))
            }
            @if !result.ledgers.is_empty() {
                h3 { "Ledger" }
                (ledgers(folder, &result.ledgers))
            }
            details {
                summary { "Predictions, written down before the run" }
                (predictions(folder, &plan.predictions))
            }
            @if let Some(it) = declared {
                details { summary { "What these numbers cannot show" } p { (prose(it.limits)) } }
            }
            p.facts {
                (plan.written_at) "; " (host.cpu) ", " (host.cores) " cores, "
                (figure((host.memory_bytes as f64 / 1e9).round())) " GB; Linux " (host.kernel)
                "; Kafka " (host.kafka) "; " (host.rustc) "; revision " (host.revision)
                @if host.dirty == Some(true) { " with uncommitted changes" }
            }
        }
    }
}

fn question(experiment: &Experiment) -> Markup {
    html! {
        p { strong { "Question. " } (prose(experiment.question)) }
        p { strong { "Held. " } (prose(experiment.held)) "." }
        p { strong { "Varied. " } (prose(experiment.varied)) "." }
    }
}

fn checks(folder: &str, verdict: &Verdict) -> Markup {
    let body = html! {
        @for check in &verdict.checks {
            tr {
                td { (mark(check.pass, if check.pass { "pass" } else { "FAIL" })) }
                td { code { (check.name) } }
                td.prose { (check.question) }
                td.figure { (wanted(check)) }
                td.prose { (check.because) }
                td.figure { (measured(check)) }
            }
        }
    };
    wide(
        &format!("Verdict of {folder}"),
        &["", "check", "question", "wanted", "because", "measured"],
        &body,
    )
}

fn predictions(folder: &str, predictions: &[Prediction]) -> Markup {
    let body = html! {
        @for p in predictions {
            tr {
                td { code { (p.name) } }
                td.figure { (with_unit(p.value, &p.unit)) }
                td.prose { (p.because) }
            }
        }
    };
    wide(&format!("Predictions of {folder}"), &["figure", "value", "because"], &body)
}

fn ledgers(folder: &str, ledgers: &[(String, Ledger)]) -> Markup {
    let body = html! {
        @for (arm, found) in ledgers {
            tr {
                td { (arm) }
                @for (_, of) in ledger::COLUMNS { td.figure { (of(found)) } }
            }
        }
    };
    let names = ledger::COLUMNS.map(|(name, _)| name);
    let head: Vec<&str> = std::iter::once("arm").chain(names).collect();
    html! {
        p.facts { (ledger::EXPLAINED) }
        (wide(&format!("Ledger of {folder}"), &head, &body))
    }
}

fn listed(table: &Table) -> Markup {
    let head: Vec<&str> = table.head.iter().map(String::as_str).collect();
    let body = html! {
        @for row in &table.rows { tr { @for cell in row { td { (cell) } } } }
    };
    wide(&table.title, &head, &body)
}

/// A table that scrolls by itself where it is wider than the page, also by keyboard.
fn wide(label: &str, head: &[&str], body: &Markup) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(label) {
            table {
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody { (body) }
            }
        }
    }
}

/// Text with `code` in it, as the declarations write it.
fn prose(text: &str) -> Markup {
    html! {
        @for (at, part) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// A verdict in words, which a colour only repeats.
fn mark(good: bool, says: &str) -> Markup {
    html! { span class=(if good { "met" } else { "short" }) { (says) } }
}
