//! A verdict that cannot turn red proves nothing: deliberately broken processors, and the check
//! that must catch each.
//!
//! They are real processors, broken from the outside: by a middleman that answers for the sink, by
//! a flag that lifts the bound, by a commit without an ack.

use std::path::Path;
use std::sync::Arc;

use crate::common::lab::{
    self, Served, commit, figure, ledger, outsider, processor, processor_to, produce, producer,
    sink, watch,
};
use crate::common::{Ended, PATIENCE, Running, Topic};
use backpressure_lab::event::Event;
use backpressure_lab::http::{Limits, Request, Response, Server, client};
use backpressure_lab::lab::audit::Ledger;
use backpressure_lab::lab::experiments::{self, Form};
use backpressure_lab::lab::plan::{Host, Plan};
use backpressure_lab::lab::verdict::Verdict;
use backpressure_lab::sink::wire::{self, Acked};
use rdkafka::consumer::Consumer as _;

const LAB: &str = env!("CARGO_BIN_EXE_lab");
const EVENTS: u64 = 3000;

/// A server between processor and sink: it passes on each batch as `bend` changes it, and answers
/// that all of it was acked.
fn middleman(sink: &Served, bend: fn(Vec<Event>) -> Vec<Event>) -> Server {
    let (agent, to) = (client::agent(PATIENCE), format!("{}{}", sink.url, wire::BATCH));
    let handler = move |request: Request| {
        let transform = wire::transform_of(&request.query).expect("a transform");
        let views = wire::unframe(&request.body, transform).expect("a batch");
        let all = Acked { acked: views.len() as u64 };
        // The middleman passes events on as they are in the log, without their digests.
        let whole = |view: &wire::View<'_>| {
            let wire::View { id, key, ts_us, payload, .. } = *view;
            Event { id, key, ts_us, payload: payload.into() }
        };
        let events = views.iter().map(whole).collect();
        let mut body = Vec::new();
        bend(events).iter().for_each(|event| wire::frame(event, &mut body));
        if !body.is_empty() {
            let request = agent.post(&to).content_type("application/octet-stream");
            assert_eq!(request.send(&body[..]).expect("the sink").status(), 200);
        }
        Response::json(200, &all)
    };
    let listen = ([127, 0, 0, 1], 0).into();
    Server::start(listen, Limits::default(), Arc::new(handler)).expect("a middleman")
}

fn url(server: &Server) -> String {
    format!("http://{}", server.addr())
}

/// The audit after a processor that printed `summary`.
fn audit(topic: &Topic, sink: &Served, dir: &Path, summary: &str) -> (Ended, Ledger) {
    let path = dir.join("processor.json");
    std::fs::write(&path, summary).expect("written");
    lab::audit(topic, &sink.url, dir, &["--processor", &path.display().to_string()])
}

/// Produces [`EVENTS`] and has them consumed through a middleman; returns the folder, the topic,
/// the sink, and the processor's output.
fn run(
    name: &str,
    bend: fn(Vec<Event>) -> Vec<Event>,
    flags: &[&str],
) -> (tempfile::TempDir, Topic, Served, String) {
    let (topic, sink) = (Topic::create(name, 12), sink(&["--rate-limit", "1000000"]));
    let dir = tempfile::tempdir().expect("dir");
    let middleman = middleman(&sink, bend);
    let count = EVENTS.to_string();
    let produced = produce(&topic, &["--rate", "3000", "--count", &count, "--keys", "50"]);
    std::fs::write(dir.path().join("producer.json"), produced.to_string()).expect("written");
    let processor = processor_to(&topic, &url(&middleman), flags);
    processor.until("all is acked, as it thinks", |p| {
        p.metric("processor_events_acked_total", "") == EVENTS as f64
    });
    let summary = processor.stop().stdout;
    (dir, topic, sink, summary)
}

/// Prevents: a ledger that trusts the processor about deliveries.
#[test]
fn acked_events_that_were_dropped_turn_the_ledger_red() {
    let dropped = |id: u64| id % 500 == 250;
    let (dir, topic, sink, summary) = run(
        "dropped",
        |mut events| {
            events.retain(|event| event.id % 500 != 250);
            events
        },
        &[],
    );
    let (ended, found) = audit(&topic, &sink, dir.path(), &summary);
    let expected: Vec<u64> = (0..EVENTS).filter(|id| dropped(*id)).collect();
    assert_eq!((ended.status.code(), found.examples), (Some(3), expected), "{ended:?}");
}

/// Prevents: an ordering tax that is never seen because violations are not counted; and a count
/// that is not 0 when keys keep their order (the control).
#[test]
fn a_batch_that_was_reordered_is_counted_as_violations() {
    let by_key = ["--worker-assignment", "key"];
    let (.., sink, _) = run("ordered", |events| events, &by_key);
    assert_eq!(figure(&ledger(&sink), "order_violations"), 0);
    let (.., sink, _) = run("reordered", |events| events.into_iter().rev().collect(), &by_key);
    assert!(figure(&ledger(&sink), "order_violations") > EVENTS / 10, "{}", ledger(&sink));
}

/// Prevents: an audit that accepts a commit without an ack.
#[test]
fn a_commit_ahead_of_the_ack_turns_the_ledger_red() {
    let (topic, sink) = (Topic::create("ahead", 3), sink(&["--rate-limit", "500"]));
    let dir = tempfile::tempdir().expect("dir");
    let produced = produce(&topic, &["--rate", "3000", "--count", &EVENTS.to_string()]);
    std::fs::write(dir.path().join("producer.json"), produced.to_string()).expect("written");
    let processor = processor(&topic, &sink, &["--batch-size", "20", "--drain-timeout", "1s"]);
    sink.until("some is delivered", |s| figure(&ledger(s), "events") > 200);
    // It releases the rest to the log, and leaves.
    processor.process.signal(libc::SIGTERM);
    let summary = processor.process.end(PATIENCE).stdout;
    let (ended, honest) = audit(&topic, &sink, dir.path(), &summary);
    assert_eq!((ended.status.code(), honest.wrong()), (Some(0), 0), "{ended:?}");
    let end = |partition| {
        let ends = outsider(&topic.name).fetch_watermarks(&topic.name, partition, PATIENCE);
        (partition, ends.expect("the end").1)
    };
    commit(&topic, &[0, 1, 2].map(end));
    let (ended, found) = audit(&topic, &sink, dir.path(), &summary);
    let lost = EVENTS - figure(&ledger(&sink), "distinct");
    assert!(lost > 0, "all was delivered: nothing to lose");
    assert_eq!((ended.status.code(), found.missing), (Some(3), lost), "{ended:?}");
}

/// Prevents: a bounded queue that is not bounded and is not noticed. The same recording stands for
/// both arms: as `unbounded` its memory may grow, as `pull` it must not.
#[test]
fn a_queue_that_ignores_its_bound_turns_memory_and_poll_rate_red() {
    const SCHEDULE: &str = "1500:7s,8000:13s";
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path().display().to_string();
    let experiment = experiments::named("exp2").expect("declared");
    let mut plan = Plan::of(experiment, Form::Quick).expect("a plan");
    (plan.setup.schedule, plan.setup.stall) = (vec![(1500.0, 7.0), (8000.0, 13.0)], None);
    plan.predictions = (experiment.predict)(&plan.setup);
    plan.write(&Host::default(), dir.path()).expect("written");

    let arm = dir.path().join("pull");
    std::fs::create_dir(&arm).expect("made");
    let (topic, sink) = (Topic::create("unbound", 12), sink(&[]));
    let processor = processor(&topic, &sink, &["--queue", "unbounded", "--drain-timeout", "1s"]);
    processor.until("partitions are held", |p| p.metric("processor_partitions", "") == 12.0);
    let mut producer = producer(&topic, &["--schedule", SCHEDULE]);
    let served = [("sink", &sink), ("processor", &processor), ("producer", &producer)];
    let watch = watch(&topic, &served, &arm, &[]);
    producer.process.await_log("schedule ended");
    let produced = producer.process.end(PATIENCE).stdout;
    std::fs::write(arm.join("producer.json"), produced).expect("written");
    let summary = processor.stop().stdout;
    watch.stop();
    let (ended, _) = audit(&topic, &sink, &arm, &summary);
    assert!(ended.status.success(), "{ended:?}");
    let other = dir.path().join("unbounded");
    std::fs::create_dir(&other).expect("made");
    for file in ["samples.jsonl", "ledger.json"] {
        std::fs::copy(arm.join(file), other.join(file)).expect("copied");
    }

    let reported = format!("report --experiment exp2 {root}");
    let ended = Running::start(LAB, reported.split(' ')).end(PATIENCE);
    let bytes = std::fs::read(dir.path().join("verdict.json")).expect("a verdict");
    let verdict: Verdict = serde_json::from_slice(&bytes).expect("JSON");
    let passes = |name: &str| {
        let check = verdict.checks.iter().find(|check| check.name == name);
        check.unwrap_or_else(|| panic!("no check {name}: {ended:?}")).pass
    };
    for red in ["pull_rss_slope", "pull_poll_ratio"] {
        assert!(!passes(red), "{red} holds: {ended:?}");
    }
    // The checks that no busy machine can spoil.
    for green in ["unbounded_ledger", "pull_ledger"] {
        assert!(passes(green), "{green} fell short: {ended:?}");
    }
    // 3, or 1 when a busy machine disturbed the recording.
    assert!(matches!(ended.status.code(), Some(1 | 3)), "{ended:?}");
}
