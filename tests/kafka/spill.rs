//! A queue that spills, on a real cluster: what its folder holds outlives the process, the partition's assignment and the
//! log's retention, or is thrown away because Kafka has it.

use std::path::Path;

use serde_json::Value;

use crate::common::lab::{Served, audit, delivered, figure, ledger, processor, produce, sink};
use crate::common::{PATIENCE, Topic};

/// A processor that spills behind 200 events in memory.
fn spilling(topic: &Topic, sink: &Served, dir: &Path, commit: &str, rest: &[&str]) -> Served {
    let dir = dir.to_str().expect("text");
    let own = ["--queue", "spill", "--queue-cap", "200", "--batch-size", "50", "--spill-dir", dir];
    let flags = [&own[..], &["--spill-commit", commit, "--sink-workers", "2"], rest].concat();
    processor(topic, sink, &flags)
}

fn summary(of: Served) -> Value {
    serde_json::from_str(&of.stop().stdout).expect("a summary")
}

/// Prevents: events that were let go from the log, and are gone with the process that held them.
#[test]
fn what_was_let_go_is_delivered_by_the_next_process_though_kafka_has_deleted_it() {
    let (topic, dir) = (Topic::create("spilled", 1), tempfile::tempdir().expect("dir"));
    // So slow that nearly all is on disk when the process is killed.
    let slow = sink(&["--rate-limit", "100"]);
    let first = spilling(&topic, &slow, dir.path(), "spilled", &["--session-timeout", "6s"]);
    first.until("it has its partition", |p| p.metric("processor_partitions", "") == 1.0);
    produce(&topic, &["--rate", "20000", "--count", "5000"]);
    first.until("all is fetched", |p| p.metric("processor_events_fetched_total", "") == 5000.0);
    first.until("all is let go", |p| p.metric("processor_lag_events", "") == 0.0);
    assert!(first.metric("processor_spill_events", "") > 2000.0, "most of it is on disk");
    first.process.signal(libc::SIGKILL);
    first.process.end(PATIENCE);
    topic.delete_before(5000);
    let before = figure(&ledger(&slow), "distinct");
    assert!(before < 4000, "{before} delivered before the kill");

    let faster = format!("{}/control", slow.url);
    let faster = backpressure_lab::http::client::agent(PATIENCE)
        .post(&faster)
        .send(r#"{"do":"rate","rate":20000}"#);
    assert_eq!(faster.expect("an answer").status(), 200);
    let second = spilling(&topic, &slow, dir.path(), "spilled", &["--session-timeout", "6s"]);
    delivered(&slow, 5000);
    second.until("its folder is empty", |p| p.metric("processor_spill_events", "") == 0.0);
    let ended = summary(second);
    assert_eq!((figure(&ended, "fetched"), figure(&ended, "lost")), (0, 0));
    let found = figure(&ended["spill"], "found");
    assert!((1000..=5000).contains(&found), "{found} found on disk");
    assert_eq!((figure(&ended["spill"], "left"), figure(&ended, "acked")), (0, found));
    assert_eq!(figure(&ledger(&slow), "corrupt"), 0);
}

/// Prevents: events that are delivered twice because an orderly end leaves them both on disk and in the log; a ledger
/// that does not add up; an audit that takes what is on disk for lost, or changes it.
#[test]
fn an_orderly_end_leaves_each_event_in_one_place() {
    for (commit, keeps) in [("acked", false), ("spilled", true)] {
        let (topic, dir) = (Topic::create(commit, 2), tempfile::tempdir().expect("dir"));
        let slow = sink(&["--rate-limit", "200"]);
        // A third of it is for what workers hold by then.
        let flags = ["--drain-timeout", "3s"];
        let first = spilling(&topic, &slow, dir.path(), commit, &flags);
        first.until("it has its partitions", |p| p.metric("processor_partitions", "") == 2.0);
        let produced = produce(&topic, &["--rate", "20000", "--count", "4000"]);
        first.until("all is fetched", |p| p.metric("processor_events_fetched_total", "") == 4000.0);
        let files = tempfile::tempdir().expect("dir");
        std::fs::write(files.path().join("producer.json"), produced.to_string()).expect("written");
        let spilled = ["--spill-dir", dir.path().to_str().expect("text")];
        let account = |flags: &[&str]| {
            let (ended, sums) = audit(&topic, &slow.url, files.path(), flags);
            (ended.status.code(), sums)
        };
        let ended = summary(first);
        let left = figure(&ended["spill"], "left");
        let of = |name| figure(&ended, name);
        assert_eq!(of("fetched"), of("acked") + of("returned") + left, "{ended}");
        assert_eq!(left > 0, keeps, "{commit}: {ended}");
        assert!(keeps || of("returned") > 2000, "{commit}: {ended}");
        let (code, sums) = account(&spilled);
        assert_eq!((code, sums.on_disk, sums.again), (Some(0), left, 0), "{commit}: {sums:?}");
        if keeps {
            let (code, sums) = account(&[]);
            assert_eq!((code, sums.unexplained), (Some(3), left), "without its folder: {sums:?}");
        }

        let faster = format!("{}/control", slow.url);
        let faster = backpressure_lab::http::client::agent(PATIENCE)
            .post(&faster)
            .send(r#"{"do":"rate","rate":20000}"#);
        assert_eq!(faster.expect("an answer").status(), 200);
        let second = spilling(&topic, &slow, dir.path(), commit, &flags);
        delivered(&slow, 4000);
        let again = summary(second);
        assert_eq!(figure(&again["spill"], "found"), left, "{commit}: {again}");
        let delivered = figure(&ledger(&slow), "duplicates");
        assert_eq!(delivered, 0, "{commit}: delivered twice");
    }
}

/// Prevents: order that is lost on the way through the disk; a full disk that loses or blocks; events of a revoked
/// partition that are delivered by both members.
#[test]
fn through_a_small_disk_every_key_keeps_its_order() {
    for commit in ["acked", "spilled"] {
        let (topic, dir) = (Topic::create("ordered", 6), tempfile::tempdir().expect("dir"));
        let sink = sink(&["--rate-limit", "4000"]);
        let flags = ["--worker-assignment", "key", "--spill-max", "32MiB"];
        let first = spilling(&topic, &sink, dir.path(), commit, &flags);
        first.until("it has its partitions", |p| p.metric("processor_partitions", "") == 6.0);
        // 45 MB: more than the disk may take.
        let load = ["--rate", "30000", "--count", "30000", "--msg-size", "1500", "--keys", "50"];
        produce(&topic, &load);
        delivered(&sink, 30_000);
        let (full, written) = (
            first.metric("processor_spill_full_total", ""),
            first.metric("processor_spill_written_events_total", ""),
        );
        assert!(full > 0.0 && written > 10_000.0, "{commit}: {full} times full, {written} spilled");
        let ended = summary(first);
        assert_eq!((figure(&ended, "fetched"), figure(&ended, "acked")), (30_000, 30_000));
        let ledger = ledger(&sink);
        for none in ["duplicates", "order_violations", "corrupt"] {
            assert_eq!(figure(&ledger, none), 0, "{commit}: {none}");
        }
    }
}

/// Prevents: two processors in one folder; a folder of another group whose events are delivered here; a folder that
/// cannot be written, found out at the first overload.
#[test]
fn a_folder_that_is_not_its_own_is_refused_at_the_start() {
    let (topic, dir) = (Topic::create("refused", 1), tempfile::tempdir().expect("dir"));
    let sink = sink(&[]);
    let first = spilling(&topic, &sink, dir.path(), "acked", &[]);
    first.until("it runs", |p| p.metric("processor_partitions", "") == 1.0);
    let path = dir.path().to_str().expect("text");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let file = file.join("below");
    for (at, why) in
        [(path, "another process uses it"), (file.to_str().expect("text"), "cannot be used")]
    {
        let flags = ["--queue", "spill", "--spill-dir", at, "--topic", &topic.name];
        let binary = env!("CARGO_BIN_EXE_processor");
        let rest = ["--listen", "127.0.0.1:0"];
        let ended =
            crate::common::Running::start(binary, [&flags[..], &rest].concat()).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("--spill-dir") && ended.stderr.contains(why),
            "{}",
            ended.stderr
        );
    }
    first.stop();
}
