//! A run folder made from the model itself, then bent in one place at a time: each bend must turn
//! its own check red, or the verdict proves nothing.

use std::collections::BTreeMap;

use scraper::{ElementRef, Html, Selector};

use super::*;
use crate::lab::audit::{self, Ledger};
use crate::lab::experiments::{Phase, Setup, exp2};
use crate::lab::model::backlog;
use crate::lab::plan::{self, Host, Plan};
use crate::lab::samples::{self, HostReading, LogReading, ProcessReading, Sample};

/// The changes.
#[derive(Clone, Copy)]
struct Bend {
    /// The factor on the growth that the model predicts.
    growth: f64,
    /// Ids missing in the unbounded arm.
    missing: u64,
    /// Records of the unbounded arm that were taken for no event, and events that came twice.
    invalid: u64,
    duplicates: u64,
    /// Evictions of the unbounded arm's member.
    evictions: f64,
    /// The most that the pull arm's processor serves in the first phase, events/s.
    held_at: f64,
    /// Cores that other processes keep busy, of 2.
    others: f64,
}

const HONEST: Bend = Bend {
    growth: 1.0,
    missing: 0,
    invalid: 0,
    duplicates: 0,
    evictions: 0.0,
    held_at: f64::INFINITY,
    others: 0.1,
};

fn setup() -> Setup {
    Setup { stall: Some(Phase { rate: 500.0, from: 60.0, to: 75.0 }), ..Setup::example() }
}

fn folder(bend: Bend) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("dir");
    let plan = Plan {
        experiment: "exp2".into(),
        written_at: "then".into(),
        predictions: (exp2::EXPERIMENT.predict)(&setup()),
        setup: setup(),
        commands: Vec::new(),
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
        let bend = if arm == "unbounded" { bend } else { HONEST };
        let Bend { missing, invalid, duplicates, .. } = bend;
        let ledger = Ledger {
            produced: 510_000,
            missing,
            unexplained: missing,
            invalid,
            duplicates,
            ..Ledger::default()
        };
        super::super::write_json(&at.join(audit::FILE), &ledger).expect("ledger");
    }
    dir
}

/// The second `t` of an arm, as the model has it, with a little noise that sums to nothing.
fn sample(arm: &str, t: f64, bend: Bend) -> Sample {
    let (offered, ceiling) = (setup().offered(), setup().ceilings());
    let load = t.clamp(0.0, 80.0);
    let mut held = backlog(&offered, &ceiling, load);
    if arm == "pull" {
        held += (offered.at(0.0) - bend.held_at).max(0.0) * load.min(20.0);
    }
    let (sent, acked) = (offered.total(load), offered.total(load) - held);
    // An unbounded queue's poll rate has its own noise, not the sink's.
    let noise = 50.0 * (t * 2.3).sin();
    let (queue, fetched) = if arm == "pull" { (0.0, acked) } else { (held, sent + noise) };
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
                    ("processor_events_acked_total", acked),
                    (
                        "processor_evictions_total",
                        if arm == "unbounded" { bend.evictions } else { 0.0 },
                    ),
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
    experiment(&exp2::EXPERIMENT, dir.path())
}

fn verdict(dir: &Path) -> Verdict {
    let bytes = std::fs::read(dir.join("verdict.json")).expect("verdict.json");
    serde_json::from_slice(&bytes).expect("json")
}

fn failed(dir: &tempfile::TempDir) -> Vec<String> {
    verdict(dir.path()).checks.into_iter().filter(|c| !c.pass).map(|c| c.name).collect()
}

#[test]
fn a_run_that_does_what_the_model_says_passes_and_leaves_every_file() {
    let dir = folder(HONEST);
    report(&dir).expect("all checks hold");
    assert_eq!(verdict(dir.path()).outcome, Outcome::Pass);
    assert!(failed(&dir).is_empty());
    let text = std::fs::read_to_string(dir.path().join("report.md")).expect("report");
    assert!(text.contains("quick run") && text.contains("510,000"), "{text}");
    for chart in ["rss", "rates", "lag", "latency"] {
        let file = dir.path().join(format!("{chart}.svg"));
        assert!(file.metadata().is_ok_and(|m| m.len() > 1000), "{}", file.display());
    }
}

#[test]
fn growth_that_is_off_by_a_fifth_turns_red_with_every_file_written() {
    for growth in [0.8, 1.2] {
        let dir = folder(Bend { growth, ..HONEST });
        assert!(matches!(report(&dir), Err(Failure::Verdict(_))));
        assert_eq!(failed(&dir), ["unbounded_rss_slope"]);
        assert!(dir.path().join("report.md").exists() && dir.path().join("rss.svg").exists());
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
    assert_eq!(failed(&dir), ["pull_ledger", "pull_invalid", "pull_duplicates"]);
}

/// Prevents: checks that every run passes.
#[test]
fn each_thing_that_is_wrong_turns_its_own_check_red() {
    for (bend, red) in [
        (Bend { invalid: 1, ..HONEST }, "unbounded_invalid"),
        (Bend { duplicates: 1, ..HONEST }, "unbounded_duplicates"),
        (Bend { evictions: 1.0, ..HONEST }, "unbounded_evictions"),
        (Bend { held_at: 1400.0, ..HONEST }, "pull_served_baseline"),
        (Bend { held_at: 1100.0, ..HONEST }, "pull_lag_baseline"),
    ] {
        let dir = folder(bend);
        assert!(matches!(report(&dir), Err(Failure::Verdict(_))), "{red}");
        let failed = failed(&dir);
        assert!(failed.iter().any(|name| name == red), "{red}: {failed:?}");
    }
}

#[test]
fn a_check_that_falls_short_on_a_busy_host_is_void_and_not_a_failure_of_the_code() {
    let dir = folder(Bend { others: 1.5, growth: 1.2, ..HONEST });
    let why = report(&dir).expect_err("void");
    assert!(matches!(why, Failure::Failed(_)) && why.to_string().contains("void"), "{why}");
    assert_eq!(verdict(dir.path()).outcome, Outcome::Void);
    assert_eq!(verdict(dir.path()).disturbances.len(), 4, "two arms, two phases");
}

/// Prevents: a void arm that is not run again; one that is run again though the host explains nothing.
#[test]
fn only_an_arm_that_the_host_makes_void_is_run_again() {
    let arms = |bend| -> Vec<String> {
        let dir = folder(bend);
        let excused = excused(&exp2::EXPERIMENT, dir.path()).expect("read");
        excused.into_iter().map(|found| found.arm).collect()
    };
    let short = Bend { growth: 1.2, ..HONEST };
    assert_eq!(arms(Bend { others: 1.5, ..short }), ["unbounded"; 2], "two phases");
    for kept in [Bend { others: 1.5, ..HONEST }, short, Bend { missing: 1, others: 1.5, ..short }] {
        assert!(arms(kept).is_empty());
    }
}

#[test]
fn a_busy_host_is_told_even_where_every_check_holds() {
    let dir = folder(Bend { others: 1.5, ..HONEST });
    report(&dir).expect("holds");
    let text = std::fs::read_to_string(dir.path().join("report.md")).expect("report");
    assert!(text.contains("disturbed: arm pull"), "{text}");
}

/// A results folder with two runs in it, one of them bent.
fn results() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("dir");
    for (name, bend) in [("exp2", HONEST), ("exp2-bent", Bend { missing: 1, ..HONEST })] {
        let run = folder(bend);
        let _the_bent_one_falls_short = report(&run);
        std::fs::rename(run.keep(), dir.path().join(name)).expect("moved");
    }
    dir
}

fn index_of(dir: &Path) -> Settings {
    Settings { experiment: None, slo: false, index: true, json: false, dir: Some(dir.into()) }
}

/// Prevents: a page that needs the network or a script; one in which a file's text becomes markup;
/// a chart without a description; a table that a keyboard cannot scroll; a target that is not in
/// it.
#[test]
fn the_page_joins_all_runs_and_needs_nothing_but_itself() {
    let dir = results();
    let path = dir.path().join("exp2-bent/verdict.json");
    let mut bent = verdict(&dir.path().join("exp2-bent"));
    bent.checks[0].question = "<script>alert(1)</script> & more".into();
    crate::lab::write_json(&path, &bent).expect("written");

    let asked = index_of(dir.path());
    let why = run(&asked).expect_err("targets that nobody measured");
    assert!(matches!(&why, Failure::Verdict(_)) && why.to_string().contains("recovery"), "{why}");
    let text = std::fs::read_to_string(dir.path().join("index.html")).expect("the page");
    let page = Html::parse_document(&text);
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    let select =
        |what: &str| page.select(&Selector::parse(what).expect("a selector")).collect::<Vec<_>>();

    assert_eq!(select("script, link, iframe, object").len(), 0, "text became markup");
    assert!(text.contains("&lt;script&gt;"), "it is there, as text");
    for element in select("[src], [href]") {
        for name in ["src", "href"] {
            let target = element.value().attr(name).unwrap_or("#");
            assert!(target.starts_with('#') || target.starts_with("data:"), "{target}");
        }
    }
    assert!(!text.contains("url(") && !text.contains("@import"));

    assert_eq!(select("main > section").len(), 4, "conclusions, targets and two runs");
    let short = select("#conclusions tbody tr").len();
    let bent_short =
        verdict(&dir.path().join("exp2-bent")).checks.iter().filter(|c| !c.pass).count();
    assert!(short == bent_short && short > 0, "what fell short comes first: {short}");
    for link in select("nav a") {
        assert_eq!(select(link.value().attr("href").expect("a place")).len(), 1);
    }
    assert_eq!(select("#targets tbody tr").len(), crate::lab::slo::rows(&[]).len());
    assert!(select("#targets").iter().any(|s| s.text().any(|t| t == "exp2-bent/verdict.json")));
    let charts = select("figure img");
    assert_eq!(charts.len(), 2 * verdict(&dir.path().join("exp2")).charts.len());
    assert!(charts.iter().all(|c| c.value().attr("alt").is_some_and(|alt| alt.len() > 20)));
    for table in select("table") {
        let around = table.parent().and_then(ElementRef::wrap).expect("an element");
        assert_eq!(around.value().attr("tabindex"), Some("0"));
    }
    assert!(select("#exp2 p code").iter().any(|c| c.text().eq(["unbounded"])), "`code` is code");
    let of = |id: &str| select(id)[0].text().collect::<String>();
    assert!(of("#exp2").contains("All checks hold") && of("#exp2").contains("run/exp2.sh --quick"));
    assert!(of("#exp2-bent").contains("A check fell short") && of("#exp2").contains("510,000"));
}

#[test]
fn flags_that_do_not_go_together_and_an_empty_folder_say_what_to_do() {
    let dir = tempfile::tempdir().expect("dir");
    let ask = |experiment: Option<&str>, slo, index| {
        let experiment = experiment.map(str::to_owned);
        run(&Settings { experiment, slo, index, json: false, dir: Some(dir.path().into()) })
            .expect_err("refused")
    };
    for flags in [(None, false, false), (Some("exp2"), true, false), (None, true, true)] {
        assert!(matches!(ask(flags.0, flags.1, flags.2), Failure::Usage(_)), "{flags:?}");
    }
    assert!(ask(None, false, true).to_string().contains("run/all.sh"));
    assert!(matches!(ask(None, true, false), Failure::Verdict(_)), "nothing is measured");
}

/// Puts the fixture's charts and page into a folder for a human to look at:
/// `LOOK=/tmp/x cargo test look`.
#[test]
#[ignore = "for eyes"]
fn look() {
    let dir = results();
    let all = index_of(dir.path());
    let _targets_are_missing = run(&all);
    let to = std::env::var("LOOK").expect("LOOK names a folder");
    std::fs::create_dir_all(&to).expect("made");
    for from in [dir.path().to_owned(), dir.path().join("exp2")] {
        for file in std::fs::read_dir(from).expect("dir").flatten() {
            if file.path().is_file() {
                std::fs::copy(file.path(), Path::new(&to).join(file.file_name())).expect("copied");
            }
        }
    }
}
