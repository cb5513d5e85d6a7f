//! A run folder made from the model itself, then bent in one place at a time: each bend must turn
//! its own check red, or the verdict proves nothing.

use std::collections::BTreeMap;

use super::*;
use crate::lab::audit::{self, Ledger};
use crate::lab::experiments::{Setup, exp2};
use crate::lab::model::{Rates, backlog};
use crate::lab::plan::{self, Host, Plan};
use crate::lab::samples::{self, HostReading, LogReading, ProcessReading, Sample};

/// What is bent.
#[derive(Clone, Copy)]
struct Bend {
    /// Times the growth that the model predicts.
    growth: f64,
    /// Ids missing in the unbounded arm.
    missing: u64,
    /// Cores kept busy by somebody else, of 2.
    others: f64,
}

const HONEST: Bend = Bend { growth: 1.0, missing: 0, others: 0.1 };

fn setup() -> Setup {
    Setup {
        form: "quick".into(),
        schedule: vec![(1500.0, 20.0), (8000.0, 60.0)],
        ceiling: 2000.0,
        payload_bytes: 512,
        event_bytes: 600.0,
        queue_cap: 10_000.0,
        memory_limit: None,
        stall: None,
    }
}

fn folder(bend: Bend) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("dir");
    let plan = Plan {
        experiment: "exp2".into(),
        written_at: "then".into(),
        predictions: (exp2::EXPERIMENT.predict)(&setup()),
        setup: setup(),
    };
    super::super::write_json(&dir.path().join(plan::FILE), &plan).expect("plan");
    super::super::write_json(&dir.path().join(plan::HOST_FILE), &Host::default()).expect("host");
    for arm in exp2::EXPERIMENT.arms.iter().map(|arm| arm.name) {
        let at = dir.path().join(arm);
        std::fs::create_dir(&at).expect("arm");
        let lines: Vec<String> = (-5..85)
            .map(|t| serde_json::to_string(&sample(arm, f64::from(t), bend)).expect("json"))
            .collect();
        std::fs::write(at.join(samples::FILE), lines.join("\n")).expect("samples");
        let missing = if arm == "unbounded" { bend.missing } else { 0 };
        let ledger =
            Ledger { produced: 510_000, missing, unexplained: missing, ..Ledger::default() };
        super::super::write_json(&at.join(audit::FILE), &ledger).expect("ledger");
    }
    dir
}

/// The second `t` of an arm, as the model has it, with a little noise that sums to nothing.
fn sample(arm: &str, t: f64, bend: Bend) -> Sample {
    let (offered, ceiling) = (setup().offered(), Rates::constant(2000.0));
    let load = t.clamp(0.0, 80.0);
    let held = backlog(&offered, &ceiling, load);
    let (sent, acked) = (offered.total(load), offered.total(load) - held);
    let (queue, fetched) = if arm == "pull" { (0.0, acked) } else { (held, sent) };
    let rss = 15e6 + 600.0 * queue * bend.growth + (t * 1.7).sin() * 2e5;
    let metric = |pairs: &[(&str, f64)]| -> BTreeMap<String, f64> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
    };
    let due_us = ((1000.0 + t) * 1e6) as i64;
    Sample {
        due_us,
        log: Some(LogReading { read_us: due_us, lag: Some(held as i64), ..LogReading::default() }),
        processes: [(
            "processor".to_owned(),
            ProcessReading::Alive {
                pid: 1,
                rss_bytes: rss as u64,
                threads: 9,
                fds: None,
                cpu_s: (t + 5.0) * 0.2,
            },
        )]
        .into(),
        metrics: [
            (
                "producer".to_owned(),
                metric(&[
                    ("producer_events_due", sent),
                    ("producer_target_rate", offered.at(t.max(0.0))),
                    ("producer_events_sent_total", sent),
                ]),
            ),
            (
                "processor".to_owned(),
                metric(&[
                    ("processor_events_fetched_total", fetched),
                    ("processor_queue_depth", queue),
                    ("heap_inuse_bytes", 10e6 + 600.0 * queue),
                ]),
            ),
            ("sink".to_owned(), metric(&[("sink_events_total", acked)])),
        ]
        .into(),
        host: Some(HostReading {
            busy_s: (t + 5.0) * (0.2 + bend.others),
            steal_s: 0.0,
            total_s: (t + 5.0) * 2.0,
            available_bytes: None,
        }),
        ..Sample::default()
    }
}

fn report(dir: &tempfile::TempDir) -> Result<(), Failure> {
    run(&Settings { experiment: "exp2".into(), dir: dir.path().to_owned() })
}

fn verdict(dir: &tempfile::TempDir) -> Verdict {
    let bytes = std::fs::read(dir.path().join("verdict.json")).expect("verdict.json");
    serde_json::from_slice(&bytes).expect("json")
}

fn failed(dir: &tempfile::TempDir) -> Vec<String> {
    verdict(dir).checks.into_iter().filter(|c| !c.pass).map(|c| c.name).collect()
}

#[test]
fn a_run_that_does_what_the_model_says_passes_and_leaves_every_file() {
    let dir = folder(HONEST);
    report(&dir).expect("all checks hold");
    assert_eq!(verdict(&dir).outcome, Outcome::Pass);
    assert!(failed(&dir).is_empty());
    let text = std::fs::read_to_string(dir.path().join("report.md")).expect("report");
    assert!(text.contains("quick run") && text.contains("510,000"), "{text}");
    for chart in ["rss", "rates", "lag", "latency"] {
        for extension in ["svg", "png"] {
            let file = dir.path().join(format!("{chart}.{extension}"));
            assert!(file.metadata().is_ok_and(|m| m.len() > 1000), "{}", file.display());
        }
    }
}

#[test]
fn growth_that_is_off_by_a_fifth_turns_red_with_every_file_written() {
    for growth in [0.8, 1.2] {
        let dir = folder(Bend { growth, ..HONEST });
        assert!(matches!(report(&dir), Err(Failure::Verdict(_))));
        assert_eq!(failed(&dir), ["unbounded_rss_slope"]);
        assert!(dir.path().join("report.md").exists() && dir.path().join("rss.png").exists());
    }
}

#[test]
fn one_missing_id_turns_red_and_so_does_a_ledger_that_was_never_made() {
    let dir = folder(Bend { missing: 1, ..HONEST });
    assert!(matches!(report(&dir), Err(Failure::Verdict(_))));
    assert_eq!(failed(&dir), ["unbounded_ledger"]);

    let dir = folder(HONEST);
    std::fs::remove_file(dir.path().join("pull").join(audit::FILE)).expect("there");
    assert!(matches!(report(&dir), Err(Failure::Verdict(_))));
    assert_eq!(failed(&dir), ["pull_ledger"]);
}

#[test]
fn a_check_that_falls_short_on_a_busy_host_is_void_and_not_a_failure_of_the_code() {
    let dir = folder(Bend { others: 1.5, growth: 1.2, ..HONEST });
    let why = report(&dir).expect_err("void");
    assert!(matches!(why, Failure::Failed(_)) && why.to_string().contains("void"), "{why}");
    assert_eq!(verdict(&dir).outcome, Outcome::Void);
    assert_eq!(verdict(&dir).disturbances.len(), 4, "two arms, two phases");
}

#[test]
fn a_busy_host_is_told_even_where_every_check_holds() {
    let dir = folder(Bend { others: 1.5, ..HONEST });
    report(&dir).expect("holds");
    let text = std::fs::read_to_string(dir.path().join("report.md")).expect("report");
    assert!(text.contains("disturbed: arm pull"), "{text}");
}

/// Draws the fixture's charts into a folder to be looked at: `LOOK=/tmp/x cargo test look`.
#[test]
#[ignore = "for eyes"]
fn look() {
    let dir = folder(HONEST);
    report(&dir).expect("holds");
    let to = std::env::var("LOOK").expect("LOOK names a folder");
    std::fs::create_dir_all(&to).expect("made");
    for file in std::fs::read_dir(dir.path()).expect("dir").flatten() {
        if file.path().is_file() {
            std::fs::copy(file.path(), Path::new(&to).join(file.file_name())).expect("copied");
        }
    }
}
