//! The processor on a real cluster, against the real sink: its promises when nothing fails.

use std::time::{Duration, Instant};

use crate::common::lab::{
    Served, delivered, figure, ledger, processor, processor_to, produce, producer, sink,
};
use crate::common::{PATIENCE, Running, Topic, brokers};
use backpressure_lab::brokers::{Brokers, group};
use backpressure_lab::http::client;

const AMPLE: &[&str] = &["--rate-limit", "1000000"];

/// Prevents: an event delivered twice or never in a run without faults, whoever decides the size of a batch; a commit
/// that is not at the end of what was acked.
#[test]
fn every_event_is_delivered_once_and_committed_in_every_queue_kind() {
    for (kind, size) in [
        ("bounded", "200"),
        ("unbounded", "auto"),
        ("pull", "aimd"),
        ("bounded", "dql"),
        ("pull", "debloat"),
    ] {
        let (topic, sink) = (Topic::create("once", 12), sink(AMPLE));
        let first = processor(&topic, &sink, &["--queue", kind, "--batch-size", size]);
        let produced =
            figure(&produce(&topic, &["--rate", "10000", "--count", "20000"]), "produced");
        delivered(&sink, produced);
        let summary: serde_json::Value =
            serde_json::from_str(&first.stop().stdout).expect("a summary");
        assert_eq!((figure(&summary, "fetched"), figure(&summary, "acked")), (produced, produced));
        // A second run finds nothing to do: all acked events were committed.
        let second = processor(&topic, &sink, &["--queue", kind]);
        second.until("partitions are held", |p| p.metric("processor_partitions", "") == 12.0);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(second.metric("processor_events_fetched_total", ""), 0.0, "{kind}");
        second.stop();
        // With the epoch that a later start asks by.
        let list = Brokers::parse(&brokers()).expect("a list");
        let commits = group::committed(&list, &topic.name, &topic.name, 0..12).expect("a group");
        for (partition, commit) in commits {
            let commit = commit.expect("a commit");
            assert!(commit.offset.is_none() || commit.epoch == 0, "{partition}: {commit:?}");
        }
        let ledger = ledger(&sink);
        assert_eq!((figure(&ledger, "distinct"), figure(&ledger, "duplicates")), (produced, 0));
        assert_eq!(figure(&ledger, "max_id"), produced - 1);
    }
}

/// Prevents: a processor that starves a sink it should keep busy, or outruns it; a bounded queue
/// that holds more than it says. The margin is 2 %; the sink's own bucket is the
/// model.
#[test]
fn at_four_times_the_load_the_sink_is_busy_and_the_queue_keeps_its_bound() {
    for kind in ["bounded", "pull"] {
        let (topic, sink) = (Topic::create("overload", 12), sink(&[]));
        let processor = processor(&topic, &sink, &["--queue", kind, "--queue-cap", "5000"]);
        let mut producer = producer(&topic, &["--rate", "8000", "--duration", "14s"]);
        sink.until("the overload has begun", |s| figure(&ledger(s), "events") > 4000);
        let (begun, before) = (Instant::now(), figure(&ledger(&sink), "events"));
        let mut depth_max = 0.0_f64;
        while begun.elapsed() < Duration::from_secs(8) {
            depth_max = depth_max.max(processor.metric("processor_queue_depth", ""));
            std::thread::sleep(Duration::from_millis(250));
        }
        let (seconds, after) = (begun.elapsed().as_secs_f64(), figure(&ledger(&sink), "events"));
        let share = (after - before) as f64 / seconds / 2000.0;
        // Batches of 200 land in steps of 0.1 s of the sink's time: 200 / 16,000 more at each end.
        assert!((0.98 - 0.0125..1.02 + 0.0125).contains(&share), "{kind}: {share} of the ceiling");
        // Without a queue, one run of each of 3 fetchers may be counted while a worker takes it.
        let bound = if kind == "bounded" { 5000.0 } else { 3.0 * 200.0 };
        assert!(depth_max <= bound, "{kind}: {depth_max} queued, bound {bound}");
        assert!(kind == "pull" || depth_max > 4900.0, "{kind}: never full, {depth_max}");
        producer.process.signal(libc::SIGTERM);
        producer.process.await_log("schedule ended");
        processor.stop();
    }
}

/// Prevents: two workers that share a key (by key: no violation, whatever the load), and a counter
/// of violations that cannot count (round-robin, calls of 5 ms: some).
#[test]
fn workers_by_key_keep_each_keys_order_and_round_robin_does_not() {
    for (assignment, ordered) in [("key", true), ("round-robin", false)] {
        let (topic, sink) =
            (Topic::create("order", 12), sink(&["--rate-limit", "100000", "--latency", "5ms"]));
        let flags =
            ["--worker-assignment", assignment, "--sink-workers", "8", "--sink-mode", "single"];
        let processor = processor(&topic, &sink, &flags);
        let flags = ["--rate", "2000", "--count", "6000", "--keys", "20"];
        let produced = figure(&produce(&topic, &flags), "produced");
        delivered(&sink, produced);
        processor.stop();
        let violations = figure(&ledger(&sink), "order_violations");
        assert_eq!(violations == 0, ordered, "{assignment}: {violations} violations");
    }
}

/// Prevents: a sink that is away, or that rejects, costing events or stopping the group's clock.
#[test]
fn a_sink_that_is_away_or_rejects_is_waited_for() {
    // Only the journal has the events that the first sink acks until its last moment.
    let dir = tempfile::tempdir().expect("dir");
    let journal = dir.path().join("journal.jsonl").display().to_string();
    let flags = ["--rate-limit", "4000", "--journal", &journal];
    let (topic, first) = (Topic::create("away", 6), sink(&flags));
    let address = first.url.strip_prefix("http://").expect("a URL").to_owned();
    let processor = processor(&topic, &first, &["--batch-size", "50"]);
    let producer = producer(&topic, &["--rate", "2000", "--count", "12000"]);
    first.until("the flow has begun", |s| figure(&ledger(s), "events") > 2000);
    let rejecting = [&["--listen", &address, "--on-limit", "reject"][..], &flags].concat();
    drop(first); // SIGKILL
    processor
        .until("the sink is missed", |p| p.metric("processor_sink_calls_total", "retried") > 0.0);
    std::thread::sleep(Duration::from_secs(2));
    let second = Served::start(env!("CARGO_BIN_EXE_sink"), &rejecting);
    assert!(producer.process.end(PATIENCE).status.success());
    processor.until("all is acked", |p| p.metric("processor_events_acked_total", "") >= 12_000.0);
    assert!(processor.metric("processor_poll_gap_seconds", "") < 2.0, "the member kept polling");
    assert_eq!(processor.metric("processor_evictions_total", ""), 0.0);
    processor.stop();
    let all = ids(&second);
    assert_eq!(
        (all.len(), all.max()),
        (12_000, Some(11_999)),
        "a fact lost with the dead sink is not"
    );
}

fn ids(sink: &Served) -> roaring::RoaringTreemap {
    let agent = backpressure_lab::http::client::agent(PATIENCE);
    let mut answer = agent.get(format!("{}/ledger/ids", sink.url)).call().expect("ids");
    let bytes = answer.body_mut().read_to_vec().expect("a body");
    roaring::RoaringTreemap::deserialize_from(&bytes[..]).expect("a treemap")
}

/// Prevents: a batch of large events above the sink's body limit being refused for ever.
#[test]
fn a_batch_larger_than_a_body_is_split() {
    let (topic, sink) = (Topic::create("fat", 3), sink(AMPLE));
    let flags = ["--rate", "200", "--count", "300", "--msg-size", "90000", "--linger", "100ms"];
    let produced = figure(&produce(&topic, &flags), "produced");
    // Everything is in the log already: the workers find full batches, 200 x 90 kB = 18 MB.
    let processor = processor(&topic, &sink, &["--batch-linger", "500ms", "--sink-workers", "1"]);
    delivered(&sink, produced);
    assert_eq!(processor.metric("processor_sink_calls_total", "retried"), 0.0);
    assert_eq!(processor.metric("processor_sink_calls_total", "rejected"), 0.0);
    processor.stop();
}

/// Prevents: a call that outlasts its timeout being sent again whole for ever, while the sink serves
/// it each time. The sink's own rate is the model: 200 events/s for 20 s, margin one half.
#[test]
fn calls_that_outlast_their_timeout_shrink_until_they_are_answered() {
    let (topic, sink) = (Topic::create("slow-calls", 3), sink(&["--rate-limit", "1000"]));
    produce(&topic, &["--rate", "10000", "--count", "9000"]);
    let processor = processor(&topic, &sink, &["--sink-timeout", "3s", "--stuck-after", "10s"]);
    sink.until("the flow has begun", |s| figure(&ledger(s), "events") > 500);
    // 4 workers x 200 events at 200/s are 4 s.
    let slower = format!("{}/control", sink.url);
    let slower = client::agent(PATIENCE).post(&slower).send(r#"{"do":"rate","rate":200}"#);
    assert_eq!(slower.expect("an answer").status(), 200);
    std::thread::sleep(Duration::from_secs(10));
    let acked = || processor.metric("processor_events_acked_total", "");
    let before = acked();
    std::thread::sleep(Duration::from_secs(20));
    let flowed = acked() - before;
    assert!(flowed > 200.0 * 20.0 / 2.0, "{flowed} events acked in 20 s at 200/s");
    drop(processor);
}

/// Prevents: workers and batches that no timeout is long enough for, noticed only when the sink has
/// served them twice.
#[test]
fn what_the_sink_cannot_serve_in_time_is_refused_at_the_start() {
    let (topic, sink) = (Topic::create("too-much", 3), sink(&["--rate-limit", "200"]));
    let flags = ["--sink-timeout", "3s", "--stuck-after", "10s"];
    let (url, name, brokers) = (sink.url.as_str(), topic.name.as_str(), brokers());
    let fixed = ["--brokers", &brokers, "--topic", name, "--sink", url, "--listen", "127.0.0.1:0"];
    let ended = Running::start(env!("CARGO_BIN_EXE_processor"), [&fixed[..], &flags].concat())
        .end(PATIENCE);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    for word in ["--sink-workers 4", "batches of 200", "4.0 s", "200 tokens/s", "3.0 s"] {
        assert!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
    }
    // Each worker has a rate of its own here, and there nobody waits.
    for fine in [["--limit-per", "connection"], ["--on-limit", "reject"]] {
        let sink = crate::common::lab::sink(&[&["--rate-limit", "200"], &fine[..]].concat());
        let processor = processor(&topic, &sink, &flags);
        processor.until("it is ready", |it| it.ask("/readyz").0 == 200);
        processor.stop();
    }
}

/// Prevents: a hung sink that makes the end last longer than the platform waits for it.
#[test]
fn a_hung_sink_does_not_hold_up_the_end() {
    let topic = Topic::create("hung", 3);
    produce(&topic, &["--rate", "10000", "--count", "2000"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let processor = processor_to(&topic, &url, &["--drain-timeout", "2s"]);
    processor.until("it holds events", |p| p.metric("processor_events_fetched_total", "") > 0.0);
    let begun = Instant::now();
    processor.stop();
    // The drain and 5 s, however long a call may take (60 s).
    assert!(begun.elapsed() < Duration::from_secs(2 + 5), "{:?}", begun.elapsed());
}

/// Prevents: workers that get the same wait from a rate limit, so that some lose for minutes. A
/// round of four batches of 200 takes 0.4 s at 2,000/s; no batch is older than 2 s.
#[test]
fn no_batch_starves_before_a_sink_that_rejects() {
    let (topic, sink) = (Topic::create("fair", 12), sink(&["--on-limit", "reject"]));
    produce(&topic, &["--rate", "20000", "--count", "40000"]);
    let processor = processor(&topic, &sink, &[]);
    std::thread::sleep(Duration::from_secs(18));
    let oldest = processor.metric("latency_quantile_seconds", "quantile=\"1\",stage=\"batch\"");
    let acked = processor.metric("processor_events_acked_total", "");
    assert!(oldest > 0.0 && oldest < 2.0, "the oldest batch waited {oldest} s");
    assert!(acked > 0.9 * 2000.0 * 15.0, "{acked} events in 18 s at 2,000/s");
    drop(processor);
}

/// Prevents: a full queue that stops the group's clock though the member has a thread of its own;
/// and a naive consumer (one thread polls, fetches and pushes) whose eviction is not seen.
#[test]
fn a_slow_sink_evicts_only_the_consumer_that_polls_between_fetches() {
    let flags = |keepalive| {
        let fixed = ["--max-poll-interval", "6s", "--session-timeout", "6s", "--queue-cap", "10"];
        [&fixed[..], &["--batch-size", "10", "--keepalive", keepalive]].concat()
    };
    let arms = ["off", "on"].map(|keepalive| {
        let (topic, sink) = (Topic::create("naive", 3), sink(&["--rate-limit", "20"]));
        produce(&topic, &["--rate", "2000", "--count", "500"]);
        let processor = processor(&topic, &sink, &flags(keepalive));
        (topic, sink, processor)
    });
    let [(_, _, naive), (_, _, decoupled)] = &arms;
    // A fetch brings all of the 500 events: 25 s at 20/s, four times the
    // interval.
    naive.until("the naive consumer is evicted", |p| {
        p.metric("processor_evictions_total", "") >= 1.0
    });
    assert!(naive.metric("processor_poll_gap_seconds", "") > 6.0);
    assert!(decoupled.metric("processor_events_acked_total", "") > 0.0);
    assert_eq!(decoupled.metric("processor_evictions_total", ""), 0.0);
    assert!(decoupled.metric("processor_poll_gap_seconds", "") < 2.0);
}

/// Prevents: a missing topic that looks like an empty one.
#[test]
fn a_missing_topic_is_an_error_that_names_it() {
    let flags = ["--brokers", &brokers(), "--topic", "no-such-topic", "--listen", "127.0.0.1:0"];
    let ended = Running::start(env!("CARGO_BIN_EXE_processor"), flags).end(PATIENCE);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("no-such-topic does not exist"), "{}", ended.stderr);
}

/// Prevents: a processor that gives up before a broker is there, or fills its log.
#[test]
fn brokers_that_are_not_there_are_waited_for() {
    let flags = ["--brokers", "127.0.0.1:1", "--listen", "127.0.0.1:0"];
    let mut processor = Running::start(env!("CARGO_BIN_EXE_processor"), flags);
    processor.await_log("waiting for the brokers");
    std::thread::sleep(Duration::from_secs(9));
    let said = processor.log().matches("waiting for the brokers").count();
    assert_eq!(said, 2, "one line in 5 s");
    processor.signal(libc::SIGTERM);
    assert!(processor.end(PATIENCE).status.success());
}

/// Prevents: a file that cannot be opened and is noticed when threads run already, which then are
/// not ended.
#[test]
fn a_file_that_cannot_be_opened_ends_the_run_before_it_begins() {
    for flag in ["--hlog", "--shed-ids", "--dead-letter"] {
        let flags = [flag, "/no/such/folder/file", "--listen", "127.0.0.1:0"];
        let ended = Running::start(env!("CARGO_BIN_EXE_processor"), flags).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("/no/such/folder/file"), "{}", ended.stderr);
    }
}

/// Prevents: a flag that is misread, or refused without saying which, what and why.
#[test]
fn wrong_flags_end_with_2_and_name_flag_value_and_range() {
    for (flags, words) in [
        (&["--queue", "big"][..], &["--queue", "big", "bounded, unbounded, pull"][..]),
        (&["-queue-cap=0"], &["--queue-cap", "0", "at least 1"]),
        (&["--queue-cap", "1000000000000"], &["--queue-cap", "at most 100000000"]),
        (&["--fetch-bytes-max", "1GiB"], &["--fetch-bytes-max", "1GiB", "1KiB to 64MiB"]),
        (&["--batch-size=1000000"], &["--batch-size", "1000000", "1 to 100000"]),
        (&["--batch-size", "vegas"], &["--batch-size", "vegas", "auto, aimd, dql, debloat"]),
        (&["--credit-window", "9"], &["--credit-window", "9", "--policy credit"]),
        (&["--policy", "credit"], &["--credit-window is missing", "160"]),
        (&["--p99-target", "500ms"], &["--p99-target", "500ms", "--batch-size aimd"]),
        (
            &["--policy", "shed", "--shed", "pid", "--batch-size", "auto"],
            &["--shed pid", "number in --batch-size"],
        ),
        (&["--sink", "ftp://x"], &["--sink", "ftp://x", "http://"]),
        (&["--policy", "shed", "--queue", "pull"], &["--policy shed", "--queue bounded"]),
        (&["--session-timeout", "400s"], &["--session-timeout", "6m 40s", "--max-poll-interval"]),
        (
            &["--group-protocol", "consumer", "--assignor", "eager"],
            &["--assignor", "--group-protocol consumer", "group.consumer.assignors"],
        ),
        (
            &["--group-protocol", "consumer", "--session-timeout", "9s"],
            &["--session-timeout", "group.consumer.session.timeout.ms"],
        ),
        (&["--group-protocol", "new"], &["--group-protocol", "new", "classic, consumer"]),
        (&["--assignor", "range"], &["--assignor", "range", "cooperative, eager"]),
        (&["--revoke-wait", "300s"], &["--revoke-wait", "5m", "--max-poll-interval"]),
        (&["--stuck-after", "30s"], &["--stuck-after", "30s", "--sink-timeout"]),
        (&["--brokers", "nowhere"], &["--brokers", "nowhere", "host:port"]),
        (&["--brokers", "PLAINTEXT://a:9092"], &["--brokers", "PLAINTEXT://a:9092", "no protocol"]),
        (&["--topic", "my events"], &["--topic", "my events", "249"]),
        (&["--topic", ".."], &["--topic", "..", "letters"]),
        (&["--client", "java"], &["--client", "java", "wire, kafka"]),
        (&["--isolation", "none"], &["--isolation", "read-uncommitted, read-committed"]),
        (&["--isolation", "read-committed", "--client", "kafka"], &["--client wire"]),
        (&["--transform", "rot13"], &["--transform", "rot13", "none, digest"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ] {
        let ended = Running::start(env!("CARGO_BIN_EXE_processor"), flags).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(2), "{flags:?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{flags:?}: no {word:?} in {}", ended.stderr);
        }
    }
}
