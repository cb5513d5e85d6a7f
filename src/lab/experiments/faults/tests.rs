use super::*;

mod seen;

#[test]
fn names_are_unique_and_bounds_are_what_they_say() {
    let names: std::collections::BTreeSet<_> = FAULTS.iter().map(|fault| fault.name).collect();
    assert_eq!(names.len(), FAULTS.len());
    assert_eq!(Duplicates::None.bound(2000.0, 8.0), 0.0);
    assert_eq!(Duplicates::Uncommitted.bound(2000.0, 8.0), 4800.0);
    assert_eq!(Duplicates::Unacked.bound(2000.0, 8.0), 16_800.0);
    assert_eq!(Duplicates::InFlight(3).bound(2000.0, 8.0), 2400.0);
}

/// Prevents: a row that is left out, or run under another case than its place in the table has.
#[test]
fn every_fault_has_its_rows_and_each_can_be_started() {
    let quick = rows(Form::Quick, &[], None);
    assert_eq!(quick.len(), FAULTS.len());
    assert_eq!(quick[1].1, case("pull", &BELOW));
    let alone = rows(Form::Quick, &["processor-frozen".to_owned()], None);
    assert_eq!(alone.len(), 1);
    assert_eq!(alone[0].1, quick[1].1, "the case of its place, whichever are run");
    let one = Case::parse("unbounded:1500").expect("a case");
    let counted = FAULTS.iter().filter(|fault| fault.lost == Lost::Counted).count();
    let under = rows(Form::Full, &[], Some(one));
    assert_eq!(under.iter().filter(|(_, case)| *case == one).count(), FAULTS.len() - counted);
    assert_eq!(rows(Form::Full, &[], None).len(), 6 * (FAULTS.len() - counted) + counted);
    let idle = rows(Form::Quick, &[], Some(Case::parse("bounded:idle").expect("a case")));
    assert_eq!(idle.len(), FAULTS.len() - UNFELT_IDLE.len());
    assert!(Case::parse("bounded:1").expect_err("none").contains("pull:1500"));
    for (fault, case) in rows(Form::Full, &[], None) {
        let launch = launch(fault, case);
        // A row ends when its fault has been seen; a plan is asked for a load that ends.
        let load = launch.producer.replace("8000 ", "8000:1s ").replace("1500 ", "1500:1s ");
        Setup::of(Form::Full, &[Launch { producer: load, ..launch }]).expect(fault.name);
    }
}

use crate::lab::audit::{self, Ledger};
use crate::lab::samples::{self, LogReading, PartitionReading, Sample};
use crate::lab::{plan, write_json};

/// A row's folder: the sink serves 2,000/s, nothing from second 10 to `back`, then 2,000/s again;
/// the fault is from 10 to 14, a broker's death to 35. `refused` is what the sink shows as answered 500.
fn folder(dir: &std::path::Path, fault: &str, back: i64, refused: f64, ledger: &Ledger) {
    folder_with(dir, fault, back, refused, ledger, &|second| vec![(second * 10) as f64]);
}

/// As [`folder`]; `positions` is where each processor is in the one partition, second by second.
fn folder_with(
    dir: &std::path::Path,
    fault: &str,
    back: i64,
    refused: f64,
    ledger: &Ledger,
    positions: &dyn Fn(i64) -> Vec<f64>,
) {
    let row = dir.join(format!("{fault}-bounded-8000"));
    std::fs::create_dir_all(&row).expect("made");
    let (mut lines, mut acked) = (String::new(), 0.0);
    for second in 0..40 {
        let of = |pairs: &[(&str, f64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let key = "processor_position_offset{partition=\"0\"}";
        let processors = matrix::PROCESSORS.iter().zip(positions(second));
        let processors = processors.map(|(name, at)| ((*name).to_owned(), of(&[(key, at)])));
        let sample = Sample {
            due_us: second * 1_000_000,
            metrics: [
                (
                    "producer".to_owned(),
                    of(&[
                        ("producer_events_due", (second + 1) as f64 * 8000.0),
                        ("producer_target_rate", 8000.0),
                    ]),
                ),
                (
                    "sink".to_owned(),
                    of(&[
                        ("sink_events_total", acked),
                        ("sink_order_violations_total", 0.0),
                        ("sink_rejected_total{status=\"500\"}", refused),
                    ]),
                ),
            ]
            .into_iter()
            .chain(processors)
            .collect(),
            log: Some(LogReading {
                partitions: [(0, PartitionReading { end: Some(1000), ..Default::default() })]
                    .into(),
                ..Default::default()
            }),
            ..Sample::default()
        };
        lines += &(serde_json::to_string(&sample).expect("json") + "\n");
        acked += if (10..back).contains(&second) { 0.0 } else { 2000.0 };
    }
    std::fs::write(row.join(samples::FILE), lines).expect("written");
    write_json(&row.join(audit::FILE), ledger).expect("written");
    let lasts = FAULTS.iter().any(|f| f.name == fault && f.goes_on_after_s.is_some());
    let ended_us = if lasts { 35_000_000 } else { 14_000_000 };
    let mark = serde_json::json!({"fault": fault, "queue": "bounded", "load": "8000", "offered": 8000,
        "began_us": 10_000_000, "ended_us": ended_us, "note": ""});
    std::fs::write(row.join(row::FILE), mark.to_string()).expect("written");
    let waits = "1970-01-01T00:00:12Z why=\"status 500\" wait=\"1s 500ms\" lines_suppressed=0\n";
    std::fs::write(row.join("processor.log"), waits).expect("written");
}

/// Writes other samples, second by second.
fn change(dir: &std::path::Path, row: &str, mut change: impl FnMut(i64, &mut Sample)) {
    let path = dir.join(row).join(samples::FILE);
    let mut all = samples::read(&path).expect("samples");
    for (second, sample) in (0..).zip(&mut all) {
        change(second, sample);
    }
    let line = |sample: &Sample| serde_json::to_string(sample).expect("json") + "\n";
    std::fs::write(path, all.iter().map(line).collect::<String>()).expect("written");
}

fn set(sample: &mut Sample, source: &str, key: &str, value: f64) {
    sample.metrics.entry(source.to_owned()).or_default().insert(key.to_owned(), value);
}

fn run_in(dir: &std::path::Path) -> Run {
    let plan = plan::Plan {
        experiment: "faults".into(),
        written_at: String::new(),
        setup: Setup::example(),
        predictions: Vec::new(),
        commands: Vec::new(),
    };
    std::fs::write(dir.join("rows"), "1\n").expect("written");
    let host = crate::lab::plan::Host::default();
    Run { plan, host, arms: Vec::new(), dir: dir.to_owned() }
}

fn red(run: &Run) -> Vec<String> {
    checks(run).into_iter().filter(|check| !check.pass).map(|check| check.name).collect()
}

/// Prevents: a matrix that is green whatever happened.
#[test]
fn each_check_of_a_row_can_turn_red() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    assert_eq!(red(&run), ["rows"], "no row is no pass");
    let fine = Ledger::default();
    let show = |back, refused, ledger: &Ledger| {
        folder(dir.path(), "answers-500", back, refused, ledger);
        red(&run)
    };
    assert_eq!(show(16, 1.0, &fine), [""; 0]);
    let names = ["lost", "committed", "duplicates", "recovery", "still", "shows"]
        .map(|name| format!("answers-500-bounded-8000_{name}"));
    let invalid = Ledger { missing: 1, invalid: 1, ..fine.clone() };
    assert_eq!(show(16, 1.0, &invalid), names[..1], "given up as invalid is lost");
    assert_eq!(show(16, 1.0, &Ledger { two_fates: 1, ..fine.clone() }), names[..1]);
    assert_eq!(show(16, 1.0, &Ledger { again: 1, ..fine.clone() }), names[1..2]);
    assert_eq!(show(16, 1.0, &Ledger { duplicates: 1, ..fine.clone() }), names[2..3]);
    assert_eq!(show(30, 1.0, &fine), names[3..4], "it takes longer than 8 s");
    assert_eq!(show(39, 1.0, &fine), names[3..5], "it never comes back");
    assert_eq!(show(16, 0.0, &fine), names[5..], "the fault does not show");
    let stuck = |second: i64| vec![second.min(10) as f64];
    folder_with(dir.path(), "answers-500", 16, 1.0, &fine, &stuck);
    assert_eq!(red(&run), names[4..5], "a partition stands still");
    folder_with(dir.path(), "answers-500", 16, 1.0, &fine, &|_| vec![1000.0]);
    assert_eq!(red(&run), [""; 0], "one whose end is reached may");
    let _whole = show(16, 1.0, &fine);
    std::fs::write(dir.path().join("rows"), "2\n").expect("written");
    assert_eq!(red(&run), ["rows"], "a row that was never begun is no pass");
    std::fs::create_dir(dir.path().join("sink-killed-pull-1500")).expect("made");
    assert_eq!(red(&run), ["rows"], "a row without an end is no pass");
}

/// Prevents: a dead broker's partitions that are not read until it is back, behind a sink that the
/// other partitions keep busy.
#[test]
fn a_partition_that_waits_for_its_broker_to_come_back_is_red() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    let goes_on = |position: &dyn Fn(i64) -> f64| {
        let positions = |second| vec![position(second)];
        folder_with(dir.path(), "broker-1-killed", 10, 0.0, &Ledger::default(), &positions);
        !red(&run).contains(&"broker-1-killed-bounded-8000_goes_on".to_owned())
    };
    let from = |start: i64| move |second: i64| (100 + 10 * (second - start).max(0)) as f64;
    assert!(goes_on(&from(0)));
    assert!(goes_on(&from(25)), "led again in time");
    assert!(!goes_on(&from(35)), "only when it was back");
    assert!(!goes_on(&|second| if second < 32 { 100.0 } else { 200.0 }), "shown elsewhere, once");
    assert!(!goes_on(&|second| second.min(29) as f64), "not to the end");
}

/// Prevents: a partition that is not checked because its broker is dead and its end cannot be read.
#[test]
fn a_partition_whose_end_is_unread_is_at_least_where_it_was() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    let red_with = |position: &dyn Fn(i64) -> f64, read: std::ops::Range<i64>| {
        let positions = |second| vec![position(second)];
        folder_with(dir.path(), "broker-1-killed", 10, 0.0, &Ledger::default(), &positions);
        change(dir.path(), "broker-1-killed-bounded-8000", |second, sample| {
            let log = sample.log.as_mut().expect("a reading");
            if !read.contains(&second) {
                log.partitions = [(0, PartitionReading::default())].into();
            }
        });
        let mut red = red(&run);
        red.retain(|name| name.ends_with("_goes_on") || name.ends_with("_still"));
        red
    };
    let both = ["still", "goes_on"].map(|name| format!("broker-1-killed-bounded-8000_{name}"));
    assert_eq!(red_with(&|_| 500.0, 0..12), both, "it holds more, as was seen before");
    assert_eq!(red_with(&|_| 1000.0, 0..12), [""; 0], "nothing more is known of");
    assert_eq!(red_with(&|second| second as f64, 0..0), both, "never read is not measured");
}

/// Prevents: a partition that moves to another member and counts as standing still, because the old
/// member shows a position that is ahead (its fetches were never committed), or is gone at the end;
/// and one that stands still and counts as moving, because it was assigned to another.
#[test]
fn a_partition_that_changed_hands_is_seen_where_it_is_now() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    let still = |positions: &dyn Fn(i64) -> Vec<f64>| {
        folder_with(dir.path(), "answers-500", 10, 1.0, &Ledger::default(), positions);
        red(&run).contains(&"answers-500-bounded-8000_still".to_owned())
    };
    assert!(!still(&|second| vec![500.0, (second * 10) as f64]), "the old position is ahead");
    let last = |second| if second < 38 { vec![500.0, (second * 10) as f64] } else { vec![500.0] };
    assert!(!still(&last), "who has it now ends first");
    assert!(still(&|second| vec![if second < 20 { 0.0 } else { 300.0 }, 200.0]), "nobody fetches");
    assert!(still(&|second| vec![(second * 10).min(250) as f64]), "nobody fetches any more");
}

/// Prevents: commits that stop for good, behind a processor that goes on.
#[test]
fn what_was_settled_must_be_committed() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    let red_with = |again| {
        let ledger = Ledger { again, ..Ledger::default() };
        folder(dir.path(), "broker-1-killed", 10, 0.0, &ledger);
        red(&run).contains(&"broker-1-killed-bounded-8000_committed".to_owned())
    };
    assert!(!red_with(0) && red_with(1));
}

/// Prevents: a member that takes a partition over and overtakes what another has in flight.
#[test]
fn one_event_that_was_overtaken_turns_its_row_red() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    folder(dir.path(), "processor-frozen", 10, 0.0, &Ledger::default());
    // Below the ceiling, where workers are by key.
    let mark = dir.path().join("processor-frozen-bounded-8000").join(row::FILE);
    let text = std::fs::read_to_string(&mark).expect("read");
    std::fs::write(&mark, text.replace("8000", "1500")).expect("written");
    let is_red = |run: &Run| red(run).contains(&"processor-frozen-bounded-8000_order".to_owned());
    assert!(!is_red(&run));
    change(dir.path(), "processor-frozen-bounded-8000", |second, sample| {
        set(sample, "sink", "sink_order_violations_total", f64::from(u8::from(second > 20)));
    });
    assert!(is_red(&run));
}

/// Prevents: a fault that says "0 s" because its cure is quick, though partitions stood still before it.
#[test]
fn the_outage_begins_with_the_fault() {
    let dir = tempfile::tempdir().expect("dir");
    // Stands still from second 12 to 25, and has fetched everything from 30 on.
    let position = |second: i64| match second {
        ..12 => second * 10,
        12..=25 => 120,
        26..30 => 120 + (second - 25) * 10,
        _ => 1000,
    };
    let ledger = Ledger::default();
    let one = |second| vec![position(second) as f64];
    folder_with(dir.path(), "broker-1-killed", 10, 0.0, &ledger, &one);
    let row = row::all(dir.path()).remove(0).expect("a row");
    // 12 is the last that rose: 13 s until 25, less the second between two looks.
    assert_eq!(row.outage_s(), Some(12.0));
}

/// Prevents: a load in bursts that counts as never served again, or one that stays away and counts as served.
#[test]
fn a_load_in_bursts_is_back_when_a_whole_turn_is_served() {
    let dir = tempfile::tempdir().expect("dir");
    let recovery = |back: i64| {
        folder(dir.path(), "answers-500", 10, 1.0, &Ledger::default());
        let mark = dir.path().join("answers-500-bounded-8000").join(row::FILE);
        let text = std::fs::read_to_string(&mark).expect("read");
        let text = text.replace("\"8000\"", "\"bursty\"").replace("8000", "800");
        std::fs::write(&mark, text).expect("written");
        let mut acked = 0.0;
        change(dir.path(), "answers-500-bounded-8000", |second, sample| {
            set(sample, "sink", "sink_events_total", acked);
            acked += match second {
                _ if (10..back).contains(&second) => 0.0,
                _ if second % 3 == 0 => 1900.0,
                _ => 250.0,
            };
        });
        row::all(dir.path()).remove(0).expect("a row").recovery_s()
    };
    // The fault ends at 14; samples are up to a second late.
    assert_eq!(recovery(14), Some(0.0));
    assert_eq!(recovery(20), Some(5.0));
    assert_eq!(recovery(40), None);
}

/// Prevents: a loss without a count, or with a wrong one.
#[test]
fn where_the_log_goes_as_many_must_be_counted_as_are_gone() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run_in(dir.path());
    let red = |missing, lost| {
        let ledger = Ledger { missing, lost, ..Ledger::default() };
        folder(dir.path(), "retention", 12, 0.0, &ledger);
        let mut red = red(&run);
        red.retain(|name| name.contains("_lo"));
        red
    };
    let (lost, said) = ("retention-bounded-8000_lost", "retention-bounded-8000_loss_said");
    assert_eq!(red(7, 7), [""; 0]);
    assert_eq!(red(7, 6), [lost]);
    assert_eq!(red(7, 8), [lost]);
    assert_eq!(red(0, 0), [said], "a fault that takes nothing shows nothing");
}

#[test]
fn recovery_is_from_the_end_of_the_fault_to_the_last_second_below_the_old_rate() {
    let dir = tempfile::tempdir().expect("dir");
    folder(dir.path(), "answers-500", 17, 1.0, &Ledger::default());
    let row = || row::all(dir.path()).into_iter().flatten().next().expect("a row");
    assert!((row().before().expect("measured") - 2000.0).abs() < 1.0);
    // Served again from 17 on, the fault's end is 14; one sample a second.
    let recovery_s = row().recovery_s().expect("back");
    assert!((2.0..=3.0).contains(&recovery_s), "{recovery_s}");
    // Served from a queue until 20, then not until 26.
    folder(dir.path(), "answers-500", 10, 1.0, &Ledger::default());
    change(dir.path(), "answers-500-bounded-8000", |second, sample| {
        let acked = 2000 * (second - (second - 20).clamp(0, 6));
        set(sample, "sink", "sink_events_total", acked as f64);
    });
    let recovery_s = row().recovery_s().expect("back");
    assert!((11.0..=12.0).contains(&recovery_s), "{recovery_s}");
}
