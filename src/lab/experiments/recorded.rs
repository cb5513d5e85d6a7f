//! Recorded runs with one thing changed: they show that every check of every experiment can fail.
//!
//! `tests/recorded/EXP.json.gz` is a quick run of real brokers, thinned to what its checks read.
//! Unchanged, all of its checks hold. For each check there is a change that turns it red, such as a
//! slower sink or a lost id. A check that no change turns red proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::{ALL, Check, faults, named};
use crate::lab::audit::Ledger;
use crate::lab::plan;
use crate::lab::report::checks;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::samples::{self, ProcessReading, Sample};

/// Every experiment that is recorded: all but the fault matrix, whose rows have tests of their own.
pub fn recorded() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|experiment| experiment.name).filter(|name| *name != faults::EXPERIMENT.name)
}

/// The experiments that ask for latencies; the stages that they ask for, as the log tags them.
const TIMED: [&str; 8] =
    ["ceiling", "exp3", "exp3-time", "exp7", "exp8", "exp9", "exp12", "exp12-retries"];
const STAGES: [&str; 4] = ["Tag=end_to_end", "Tag=batch", "Tag=queue", "Tag=processor"];
/// The metrics that checks read, by the beginning of their names.
const METRICS: [&str; 19] = [
    "producer_events_",
    "producer_target_rate",
    "processor_events_fetched",
    "processor_events_acked",
    "processor_events_shed",
    "processor_events_lost",
    "processor_spill",
    "processor_evictions",
    "processor_queue_depth",
    "processor_prefetched",
    "processor_client_received",
    "processor_poll_gap",
    "processor_oldest_batch",
    "processor_partitions",
    "processor_commits",
    "heap_inuse_bytes",
    "sink_events",
    "lab_autoscale_members_wanted",
    "sink_",
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/{name}.json.gz"))
}

/// Keeps a run folder: `LAB_RECORD=DIR cargo test --release --lib record_a_run -- --ignored`, where DIR holds
/// the folders of quick runs that passed.
#[test]
#[ignore = "it writes the records that the other test reads"]
fn record_a_run() {
    let from = PathBuf::from(std::env::var("LAB_RECORD").expect("LAB_RECORD names a folder"));
    for name in recorded().filter(|name| from.join(name).is_dir()) {
        let experiment = named(name).expect(name);
        let mut files = BTreeMap::new();
        let mut keep = |path: String, text: String| files.insert(path, text);
        for kept in [plan::FILE, plan::HOST_FILE] {
            keep(kept.into(), std::fs::read_to_string(from.join(name).join(kept)).expect(kept));
        }
        for arm in experiment.arms {
            let dir = from.join(name).join(arm.name);
            let at = |file: &str| format!("{}/{file}", arm.name);
            let lines = samples::read(&dir.join(samples::FILE)).expect("samples");
            let thin = |sample| thin(sample, name == "exp14");
            let lines = lines.into_iter().map(|s| serde_json::to_string(&thin(s)).expect("JSON"));
            keep(at(samples::FILE), lines.map(|line| line + "\n").collect());
            for entry in std::fs::read_dir(&dir).expect("an arm") {
                let path = entry.expect("a file").path();
                let file = path.file_name().expect("a name").to_string_lossy().into_owned();
                let is_log = ["sink.log", "autoscaler.log"].contains(&file.as_str())
                    || file.starts_with("processor") && file.ends_with(".log");
                let is_timed = file == "latency.hlog" && TIMED.contains(&name);
                if ["ledger.json", "killed.json", "autopsy.json"].contains(&file.as_str()) || is_log
                {
                    keep(at(&file), std::fs::read_to_string(&path).expect("text"));
                } else if is_timed {
                    let text = std::fs::read_to_string(&path).expect("text");
                    let is_kept = |line: &&str| {
                        !line.starts_with("Tag=") || STAGES.iter().any(|tag| line.starts_with(tag))
                    };
                    let lines = text.lines().filter(is_kept).map(|line| format!("{line}\n"));
                    keep(at(&file), lines.collect());
                }
            }
        }
        let to = std::fs::File::create(file(name)).expect("created");
        let mut to = GzEncoder::new(to, Compression::best());
        to.write_all(&serde_json::to_vec(&files).expect("JSON")).expect("written");
        to.finish().expect("written");
    }
}

/// Only the rules of `lab detect` read partitions.
fn thin(mut sample: Sample, with_partitions: bool) -> Sample {
    if let Some(log) = sample.log.as_mut().filter(|_| !with_partitions) {
        log.partitions.clear();
    }
    sample.processes.retain(|name, _| !name.starts_with("broker"));
    for page in sample.metrics.values_mut() {
        page.retain(|key, _| METRICS.iter().any(|metric| key.starts_with(metric)));
    }
    sample.unread.clear();
    sample
}

/// The recorded run, in a folder of its own.
pub fn unpacked(name: &str) -> TempDir {
    let packed = std::fs::File::open(file(name)).expect(name);
    let mut text = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut text).expect("gzip");
    let files: BTreeMap<String, String> = serde_json::from_slice(&text).expect("JSON");
    let dir = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    dir
}

fn red(checks: &[Check]) -> BTreeSet<String> {
    checks.iter().filter(|check| !check.pass).map(|check| check.name.clone()).collect()
}

type Change = (&'static str, fn(&mut Arm));

/// What may go wrong in a run, each by itself.
const CHANGES: &[Change] = &[
    ("the sink takes a tenth less", |arm| scale(arm, "sink", "sink_events_total", 0.9)),
    ("the sink takes half", |arm| scale(arm, "sink", "sink_events_total", 0.5)),
    ("the sink takes half as much again", |arm| scale(arm, "sink", "sink_events_total", 1.5)),
    ("a tenth less is produced", |arm| {
        scale(arm, "producer", "producer_events_sent_total", 0.9);
    }),
    ("half as much again is produced", |arm| {
        scale(arm, "producer", "producer_events_sent_total", 1.5);
    }),
    ("a tenth is not acked", |arm| scale(arm, "processor", "processor_events_acked_total", 0.9)),
    ("a fifth more is polled", |arm| {
        scale(arm, "processor", "processor_events_fetched_total", 1.2);
    }),
    ("a tenth less is shed", |arm| {
        scale(arm, "processor", "processor_events_shed_total", 0.9);
    }),
    ("what is shed swings from second to second", |arm| {
        each_sample(arm, |t, sample| {
            let Some(page) = sample.metrics.get_mut("processor") else { return };
            let swing = if t as i64 % 2 == 0 { 1000.0 } else { 0.0 };
            for (_, value) in
                page.iter_mut().filter(|(key, _)| key.starts_with("processor_events_shed"))
            {
                *value += swing;
            }
        });
    }),
    ("a tenth of high priority is shed", |arm| {
        ledger(arm, |ledger| ledger.shed_high += ledger.produced / 100);
    }),
    ("the client holds 5,000 events unasked", |arm| {
        set(arm, "processor", "processor_prefetched_events", 5e3);
        set(arm, "processor", "processor_prefetched_bytes", 5e3 * 536.0);
    }),
    ("a tenth less is queued", |arm| scale(arm, "processor", "processor_queue_depth", 0.85)),
    ("retention takes 5,000 events more", |arm| ledger(arm, |ledger| ledger.lost += 5000)),
    ("two fifths less wait on disk", |arm| scale(arm, "processor", "processor_spill_", 0.6)),
    ("what was on disk stays there", |arm| {
        let mut most = BTreeMap::new();
        each_sample(arm, |_, sample| {
            let Some(page) = sample.metrics.get_mut("processor") else { return };
            for (key, value) in
                page.iter_mut().filter(|(key, _)| key.starts_with("processor_spill_"))
            {
                let most: &mut f64 = most.entry(key.clone()).or_default();
                *most = most.max(*value);
                *value = *most;
            }
        });
    }),
    ("the lag is a fifth larger", |arm| lag(arm, |_, lag| lag * 6 / 5 + 6_000)),
    ("the lag is half", |arm| lag(arm, |_, lag| lag / 2)),
    ("nobody reads the lag", |arm| each_sample(arm, |_, sample| sample.log = None)),
    ("the lag climbs by 1,000/s more", |arm| lag(arm, |t, lag| lag + (1_000.0 * t) as i64)),
    ("the lag never comes back", |arm| {
        let mut most = 0;
        lag(arm, |_, lag| {
            most = lag.max(most);
            most
        });
    }),
    ("memory grows by 1 MB/s", |arm| memory(arm, |t, bytes| bytes + 1e6 * t.max(0.0))),
    ("memory grows at half its rate", |arm| memory(arm, |_, bytes| bytes * 0.5)),
    ("memory is 600 MB more", |arm| memory(arm, |_, bytes| bytes + 6e8)),
    ("a thread a minute stays", |arm| each_process(arm, |t, threads, _| *threads += t as i64 / 60)),
    ("a descriptor a second stays", |arm| {
        each_process(arm, |t, _, fds| *fds = fds.map(|fds| fds + t as usize));
    }),
    ("the poll rate is steady", |arm| polls(arm, |t, _| 2_000.0 * t)),
    ("the poll rate is the sink's", |arm| polls(arm, |_, delivered| delivered)),
    ("every stage takes ten times as long", |arm| arm.change_latencies(|us| us * 10.0)),
    ("brokers send three times as much", |arm| {
        scale(arm, "processor", "processor_client_received_bytes", 3.0);
    }),
    ("brokers send nothing twice", |arm| {
        scale(arm, "processor", "processor_client_received_bytes", 0.05);
    }),
    ("every stage takes a tenth of its time", |arm| arm.change_latencies(|us| us * 0.1)),
    ("every stage takes half as long", |arm| arm.change_latencies(|us| us * 0.5)),
    ("every stage takes 3 s more", |arm| arm.change_latencies(|us| us + 3e6)),
    ("a key's events overtake each other", |arm| {
        set(arm, "sink", "sink_order_violations_total", 7.0);
    }),
    ("no key's events overtake each other", |arm| {
        set(arm, "sink", "sink_order_violations_total", 0.0);
    }),
    ("every sixth call is refused besides", |arm| {
        calls_refused(arm, |refused, taken| refused + taken * 0.2)
    }),
    ("each call is refused ten times first", |arm| {
        calls_refused(arm, |refused, taken| refused + taken * 10.0);
    }),
    ("no call is refused", |arm| calls_refused(arm, |_, _| 0.0)),
    ("a batch waits for ten seconds", |arm| {
        every_member(arm, "processor_oldest_batch_seconds", 10.0);
    }),
    ("every member is evicted", |arm| every_member(arm, "processor_evictions_total", 1.0)),
    ("no member is evicted", |arm| every_member(arm, "processor_evictions_total", 0.0)),
    ("no member holds a partition", |arm| every_member(arm, "processor_partitions", 0.0)),
    ("members poll once in 20 s", |arm| every_member(arm, "processor_poll_gap_seconds", 20.0)),
    ("members poll all the time", |arm| every_member(arm, "processor_poll_gap_seconds", 0.1)),
    ("no commit is refused", |arm| {
        every_member(arm, "processor_commits_total{result=\"refused\"}", 0.0);
    }),
    ("the kernel kills nobody", |arm| arm.killed = None),
    ("the kernel kills ten seconds later", |arm| {
        if let Some(killed) = &mut arm.killed {
            killed.at_us += 10_000_000;
        }
    }),
    ("the heap holds something else", |arm| {
        if let Some(autopsy) = &mut arm.autopsy {
            autopsy.payload_share *= 0.5;
        }
    }),
    ("the watch ends half-way", |arm| arm.samples.truncate(arm.samples.len() / 2)),
    ("an id is lost", |arm| ledger(arm, |ledger| ledger.unexplained += 1)),
    ("an event is taken for none", |arm| ledger(arm, |ledger| ledger.invalid += 1)),
    ("the sink takes less for nothing", |arm| scale(arm, "sink", "sink_duplicates_total", 0.5)),
    ("an event comes twice", |arm| ledger(arm, |ledger| ledger.duplicates += 1)),
    ("nothing comes twice", |arm| ledger(arm, |ledger| ledger.duplicates = 0)),
    ("a member more is wanted", |arm| {
        each_sample(arm, |_, sample| {
            let page = sample.metrics.get_mut("autoscaler");
            page.and_then(|page| page.get_mut("lab_autoscale_members_wanted"))
                .into_iter()
                .for_each(|n| *n += 1.0);
        });
    }),
    ("nobody says who takes over", Arm::forget_logs),
];

/// From the first sample on.
fn scale(arm: &mut Arm, source: &str, key: &str, by: f64) {
    for sample in &mut arm.samples {
        for (of, page) in &mut sample.metrics {
            if !of.starts_with(source) {
                continue;
            }
            for (_, value) in page.iter_mut().filter(|(name, _)| name.starts_with(key)) {
                *value *= by;
            }
        }
    }
}

fn set(arm: &mut Arm, source: &str, key: &str, to: f64) {
    for sample in &mut arm.samples {
        if let Some(page) = sample.metrics.get_mut(source) {
            page.insert(key.to_owned(), to);
        }
    }
}

/// Calls that the sink refused by its limit, by their number and that of the calls it took.
fn calls_refused(arm: &mut Arm, to: impl Fn(f64, f64) -> f64) {
    each_sample(arm, |_, sample| {
        let Some(page) = sample.metrics.get_mut("sink") else { return };
        let of = |key: &str| page.get(key).copied().unwrap_or(0.0);
        let refused = of("sink_rejected_total{status=\"429\"}");
        let changed = to(refused, of("sink_writes_total"));
        page.insert("sink_rejected_total{status=\"429\"}".into(), changed);
    });
}

fn every_member(arm: &mut Arm, key: &str, to: f64) {
    for sample in &mut arm.samples {
        for (of, page) in &mut sample.metrics {
            if of.starts_with("processor") {
                page.insert(key.to_owned(), to);
            }
        }
    }
}

/// Changes each sample, by its time.
fn each_sample(arm: &mut Arm, mut change: impl FnMut(f64, &mut Sample)) {
    let times: Vec<f64> = arm.samples.iter().map(|sample| arm.at(sample.due_us)).collect();
    for (sample, t) in arm.samples.iter_mut().zip(times) {
        change(t, sample);
    }
}

fn lag(arm: &mut Arm, mut to: impl FnMut(f64, i64) -> i64) {
    each_sample(arm, |t, sample| {
        if let Some(log) = &mut sample.log {
            log.lag = log.lag.map(|lag| to(t.max(0.0), lag));
        }
    });
}

/// Resident, and in the heap.
fn memory(arm: &mut Arm, to: impl Fn(f64, f64) -> f64) {
    each_sample(arm, |t, sample| {
        for reading in sample.processes.values_mut() {
            if let ProcessReading::Alive { rss_bytes, .. } = reading {
                *rss_bytes = to(t, *rss_bytes as f64) as u64;
            }
        }
        for page in sample.metrics.values_mut() {
            if let Some(bytes) = page.get_mut("heap_inuse_bytes") {
                *bytes = to(t, *bytes);
            }
        }
    });
}

/// Threads and file descriptors, by the time.
fn each_process(arm: &mut Arm, change: impl Fn(f64, &mut i64, &mut Option<usize>)) {
    each_sample(arm, |t, sample| {
        for reading in sample.processes.values_mut() {
            if let ProcessReading::Alive { threads, fds, .. } = reading {
                change(t.max(0.0), threads, fds);
            }
        }
    });
}

/// What was polled, by the time and by what the sink took.
fn polls(arm: &mut Arm, of: impl Fn(f64, f64) -> f64) {
    each_sample(arm, |t, sample| {
        let delivered = sample.delivered().unwrap_or(0.0);
        if let Some(page) = sample.metrics.get_mut("processor") {
            page.insert("processor_events_fetched_total".into(), of(t.max(0.0), delivered));
        }
    });
}

fn ledger(arm: &mut Arm, change: impl Fn(&mut Ledger)) {
    arm.ledger.iter_mut().for_each(change);
}

/// Prevents: a check that holds whatever a run does.
#[test]
fn every_check_of_a_recorded_run_is_turned_red_by_some_change() {
    let mut bad = Vec::new();
    for name in recorded() {
        let (experiment, dir) = (named(name).expect(name), unpacked(name));
        let unharmed = Run::read(experiment, dir.path()).expect(name);
        let unchanged = checks(experiment, &unharmed);
        bad.extend(
            red(&unchanged).into_iter().map(|check| format!("{name}: {check} is red unchanged")),
        );
        let mut never: BTreeSet<String> = unchanged.into_iter().map(|check| check.name).collect();
        for (_, change) in CHANGES {
            // In one arm at a time: what is compared between arms moves too.
            for arm in experiment.arms {
                let mut run = unharmed.clone();
                run.arms.iter_mut().filter(|it| it.spec.name == arm.name).for_each(change);
                for check in red(&checks(experiment, &run)) {
                    never.remove(&check);
                }
            }
        }
        bad.extend(never.into_iter().map(|check| format!("{name}: nothing turns {check} red")));
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
