//! The processor before a sink that refuses: everything, one event, or what comes by one connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::lab::{Served, delivered, figure, processor, processor_to, produce, sink};
use crate::common::{PATIENCE, Topic};
use backpressure_lab::http::{Limits, Request, Response, Server, client};
use backpressure_lab::sink::wire;

const AMPLE: &[&str] = &["--rate-limit", "1000000"];

/// Prevents: a topic that is used up by a sink that refuses everything, whatever its status: a
/// wrong address, a proxy, another server's page; and a refusal that fills the processor's log.
#[test]
fn a_sink_that_refuses_everything_ends_the_run_and_costs_nothing() {
    for (status, mode) in [(400, "single"), (404, "batch"), (200, "batch"), (301, "single")] {
        let topic = Topic::create("refused", 3);
        let answer = move |_: Request| {
            Response::text(status, format!("no\nlevel=error {}", "x".repeat(100_000)))
        };
        let server = before(answer);
        produce(&topic, &["--rate", "10000", "--count", "2000"]);
        let url = format!("http://{}", server.addr());
        let ended = processor_to(&topic, &url, &["--sink-mode", mode]).process.end(PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{status}: {}", ended.stderr);
        for words in ["refuses 50 of the last 100", &format!("status {status}"), "--sink"] {
            assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
        }
        let lines = ended.stderr.lines().filter(|line| line.contains("sink rejects the event"));
        // Four workers, five lines a second each, in a second or two.
        assert!((1..=4 * 5 * 3).contains(&lines.count()), "{}", ended.stderr);
        assert!(ended.stderr.lines().all(|line| line.len() < 1500), "{}", ended.stderr);
        // Nothing was given up: a sink that accepts events gets all of them.
        let sink = sink(AMPLE);
        let second = processor(&topic, &sink, &[]);
        delivered(&sink, 2000);
        assert_eq!(second.metric("processor_events_acked_total", ""), 2000.0, "{status}");
        second.stop();
    }
}

/// Prevents: one event that the sink never takes holding up its neighbours, or costing more than
/// itself, whatever the status that no waiting cures.
#[test]
fn a_poison_event_is_given_up_alone_and_kept() {
    for status in [400, 401, 409, 413, 422] {
        let (topic, sink) = (Topic::create("poison", 3), sink(AMPLE));
        produce(&topic, &["--rate", "10000", "--count", "3000"]);
        let server = poisoned(&sink, 777, status);
        let dir = tempfile::tempdir().expect("dir");
        let letters = dir.path().join("dead.jsonl");
        let flags = ["--dead-letter", letters.to_str().expect("text")];
        let url = format!("http://{}", server.addr());
        let processor = processor_to(&topic, &url, &flags);
        delivered(&sink, 2999);
        let invalid = format!("reason=\"sink_{status}\"");
        processor.until("it is given up", |p| {
            p.metric("processor_events_invalid_total", &invalid) == 1.0
        });
        let summary: serde_json::Value =
            serde_json::from_str(&processor.stop().stdout).expect("a summary");
        assert_eq!((figure(&summary, "acked"), figure(&summary, "invalid")), (2999, 1));
        let letter = std::fs::read_to_string(&letters).expect("read");
        let letter: serde_json::Value = serde_json::from_str(&letter).expect("one line");
        assert_eq!(
            (figure(&letter, "id"), &letter["reason"]),
            (777, &format!("sink_{status}").into())
        );
        // All is committed: a second run finds nothing.
        let second = processor_to(&topic, &url, &flags);
        second.until("partitions are held", |p| p.metric("processor_partitions", "") == 3.0);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(second.metric("processor_events_fetched_total", ""), 0.0);
        second.stop();
    }
}

/// Prevents: an event for which the sink fails over and over, so that what comes after it waits as long, whoever waits
/// for its ack; one that is lost for it, or not delivered once the sink takes it.
#[test]
fn an_event_that_the_sink_fails_for_holds_up_no_other() {
    for queue in ["bounded", "pull"] {
        let (topic, sink) = (Topic::create("failing", 3), sink(AMPLE));
        produce(&topic, &["--rate", "10000", "--count", "3000"]);
        let is_cured = Arc::new(AtomicBool::new(false));
        let server = poisoned_until(Arc::clone(&is_cured), &sink, 777, 500);
        let url = format!("http://{}", server.addr());
        let processor = processor_to(&topic, &url, &["--queue", queue]);
        delivered(&sink, 2999);
        processor.until("it is aside", |p| p.metric("processor_events_aside", "") == 1.0);
        processor.until("all others are acked", |p| {
            p.metric("processor_events_acked_total", "") == 2999.0
        });
        // Nobody waits for it: more comes through.
        produce(&topic, &["--rate", "10000", "--count", "500", "--first-id", "3000"]);
        delivered(&sink, 3499);
        is_cured.store(true, Ordering::Relaxed);
        delivered(&sink, 3500);
        let summary: serde_json::Value =
            serde_json::from_str(&processor.stop().stdout).expect("a summary");
        let sums = ["acked", "invalid", "returned"].map(|sum| figure(&summary, sum));
        assert_eq!(sums, [3500, 0, 0], "{queue}");
    }
}

/// Prevents: a place for dead letters that takes none whatever is done, and a partition that waits for it for ever.
#[test]
fn a_dead_letter_topic_that_refuses_for_good_ends_the_run() {
    let (topic, sink) = (Topic::create("undeliverable", 1), sink(AMPLE));
    // What has no key has no place in it.
    let dead = Topic::create_with("compacted", 1, &[("cleanup.policy", "compact")]);
    produce(&topic, &["--rate", "10000", "--count", "1000"]);
    let server = poisoned(&sink, 777, 422);
    let url = format!("http://{}", server.addr());
    let letters = format!("topic:{}", dead.name);
    let ended = processor_to(&topic, &url, &["--dead-letter", &letters]).process.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("never will"), "{}", ended.stderr);
}

/// Prevents: events that are given up because one bad server behind a balancer refuses whatever its connection brings,
/// while the others take the rest.
#[test]
fn one_bad_connection_among_good_ones_costs_nothing() {
    for (status, mode) in [(401, "batch"), (404, "single")] {
        let (topic, sink) = (Topic::create("balancer", 3), sink(AMPLE));
        produce(&topic, &["--rate", "10000", "--count", "3000"]);
        let (agent, to, bad) = (client::agent(PATIENCE), sink.url.clone(), Mutex::new(None));
        let refused = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&refused);
        let handler = move |request: Request| {
            let (peer, is_call) = (request.peer.expect("who calls"), request.method == "POST");
            if is_call && *bad.lock().expect("no panic").get_or_insert(peer) == peer {
                counted.fetch_add(1, Ordering::Relaxed);
                return Response::text(status, "not here");
            }
            forwarded(&agent, &to, &request)
        };
        let server = before(handler);
        let url = format!("http://{}", server.addr());
        let processor = processor_to(&topic, &url, &["--sink-mode", mode]);
        delivered(&sink, 3000);
        processor.until("all is acked", |p| p.metric("processor_events_acked_total", "") >= 3000.0);
        let summary: serde_json::Value =
            serde_json::from_str(&processor.stop().stdout).expect("a summary");
        assert_eq!((figure(&summary, "acked"), figure(&summary, "invalid")), (3000, 0), "{status}");
        assert!(refused.load(Ordering::Relaxed) > 0, "nobody met the bad one");
    }
}

/// Prevents: a dead letter that is lost where letters go to a topic; one that is too large for the
/// topic and delays its partition.
#[test]
fn letters_go_to_a_topic_without_their_value_where_that_is_too_large() {
    for (limit, has_value) in [("1000000", true), ("600", false)] {
        let (topic, sink) = (Topic::create("letters", 1), sink(AMPLE));
        let dead = Topic::create_with("dead", 3, &[("max.message.bytes", limit)]);
        produce(&topic, &["--rate", "10000", "--count", "1000"]);
        let server = poisoned(&sink, 777, 422);
        let url = format!("http://{}", server.addr());
        let processor =
            processor_to(&topic, &url, &["--dead-letter", &format!("topic:{}", dead.name)]);
        processor.until("it is given up", |p| {
            p.metric("processor_events_invalid_total", "reason=\"sink_422\"") == 1.0
        });
        processor.stop();
        let letters = dead.records();
        assert_eq!(letters.len(), 1, "{letters:?}");
        let letter = letters[0].value.as_deref().expect("a value");
        let letter: serde_json::Value = serde_json::from_slice(letter).expect("JSON");
        assert_eq!((figure(&letter, "id"), letter["value"].is_string()), (777, has_value));
    }
}

/// A sink in front of `sink` that answers `status` to every request that holds event `id`.
fn poisoned(sink: &Served, id: u64, status: u16) -> Server {
    poisoned_until(Arc::default(), sink, id, status)
}

/// The same until `is_cured`.
fn poisoned_until(is_cured: Arc<AtomicBool>, sink: &Served, id: u64, status: u16) -> Server {
    let (agent, to) = (client::agent(PATIENCE), sink.url.clone());
    let handler = move |request: Request| {
        let transform = wire::transform_of(&request.query).expect("a transform");
        let events = wire::unframe(&request.body, transform).expect("a batch");
        if events.iter().any(|event| event.id == id) && !is_cured.load(Ordering::Relaxed) {
            return Response::text(status, "not this one");
        }
        forwarded(&agent, &to, &request)
    };
    before(handler)
}

/// What stands before a sink.
fn before(handler: impl Fn(Request) -> Response + Send + Sync + 'static) -> Server {
    let listen = ([127, 0, 0, 1], 0).into();
    Server::start(listen, Limits::default(), Arc::new(handler)).expect("a sink")
}

/// The answer of the sink at `to`, which must take the request.
fn forwarded(agent: &ureq::Agent, to: &str, request: &Request) -> Response {
    let url = format!("{to}{}?{}", request.path, request.query);
    let mut answer = agent.post(&url).send(&request.body[..]).expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.body_mut().read_to_vec().expect("a body");
    Response::bytes(200, "application/json", body)
}
