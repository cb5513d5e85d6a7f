//! The group, as its other members and its coordinator see it: which clients share it with us, and
//! the state of a member that is killed and restarted.

use std::time::{Duration, Instant};

use crate::common::lab::{commit_with, figure, ledger, processor, produce, sink};
use crate::common::{PATIENCE, Topic, ask, config, list, until};
use backpressure_lab::brokers::group;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::{ApiKey, JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// Prevents: a group that another client has used being read from the start, because that client wrote
/// text of its own beside its offsets.
#[test]
fn what_another_client_committed_is_gone_on_from() {
    for (name, metadata) in
        [("text", "v=3;host=a"), ("base64", "AAEC"), ("none", "topic-id="), ("odd", "topic-id=zz")]
    {
        let (topic, sink) = (Topic::create(name, 1), sink(&["--rate-limit", "1000000"]));
        produce(&topic, &["--rate", "20000", "--count", "1000"]);
        commit_with(&topic, &[(0, 900)], metadata);
        let processor = processor(&topic, &sink, &[]);
        sink.until("the rest is delivered", |s| figure(&ledger(s), "events") >= 100);
        processor.stop();
        assert_eq!(figure(&ledger(&sink), "events"), 100, "{metadata}");
    }
}

/// Prevents: a group whose members assign partitions by another strategy looking like a healthy run that
/// has nothing to do.
#[test]
fn a_member_that_knows_only_another_strategy_ends_the_run_by_name() {
    let (topic, sink) = (Topic::create("range", 2), sink(&[]));
    let strategy = ("partition.assignment.strategy", "range");
    let other: BaseConsumer =
        config().set("group.id", &topic.name).set(strategy.0, strategy.1).create().expect("made");
    other.subscribe(&[&topic.name]).expect("subscribed");
    let end = Instant::now() + PATIENCE;
    while other.assignment().expect("known").count() < 2 {
        assert!(Instant::now() < end, "the other member has no partitions");
        let _nothing = other.poll(Duration::from_millis(100));
    }
    let ours = processor(&topic, &sink, &[]);
    let polling = std::thread::scope(|scope| {
        let ended = scope.spawn(move || ours.process.end(PATIENCE));
        while !ended.is_finished() {
            let _nothing = other.poll(Duration::from_millis(100));
        }
        ended.join().expect("no panic")
    });
    assert_eq!(polling.status.code(), Some(1), "{}", polling.stderr);
    let line = polling.stderr.lines().last().expect("an error");
    for word in [topic.name.as_str(), "cooperative-sticky", "--group"] {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
}

/// Prevents: a member that a group of another kind refuses, and that looks like a healthy one with nothing to do: librdkafka
/// says nothing of it.
#[test]
fn a_group_of_another_kind_ends_the_run_by_name() {
    let host = list().hosts().next().expect("a broker").to_owned();
    let speaks = list().connect(&host).expect("it answers").speaks(ApiKey::Fetch);
    if speaks.is_some_and(|range| range.min == 0) {
        return; // before Kafka 4 the protocol is not there by default
    }
    let (topic, sink) = (Topic::create("connect", 2), sink(&[]));
    let protocol = JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("v1"));
    let question = JoinGroupRequest::default()
        .with_group_id(StrBytes::from_string(topic.name.clone()).into())
        .with_session_timeout_ms(120_000)
        .with_rebalance_timeout_ms(120_000)
        .with_protocol_type(StrBytes::from_static_str("connect"))
        .with_protocols(vec![protocol]);
    // The first question for any group makes the topic of commits, and its coordinators load it.
    until("the group has a member", || {
        let Ok((_, coordinator)) = group::coordinator(&list(), &topic.name) else { return false };
        let joined: JoinGroupResponse = ask(&coordinator, ApiKey::JoinGroup, 3, &question);
        joined.error_code == 0
    });
    let ended = processor(&topic, &sink, &["--group-protocol", "consumer"]).process.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let line = ended.stderr.lines().last().expect("an error");
    for word in [topic.name.as_str(), "--group-protocol consumer", "another kind", "--group"] {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
}

/// Prevents: a static member that waits for its own session to end when it comes back (KIP-345).
#[test]
fn a_static_member_that_is_killed_and_restarted_has_its_partitions_at_once() {
    const SESSION: Duration = Duration::from_secs(40);
    let (topic, sink) = (Topic::create("static", 6), sink(&["--rate-limit", "1000000"]));
    produce(&topic, &["--rate", "20000", "--count", "6000"]);
    let flags = ["--instance-id", "one", "--session-timeout", "40s"];
    let first = processor(&topic, &sink, &flags);
    sink.until("all is delivered", |s| figure(&ledger(s), "distinct") >= 6000);
    first.process.signal(libc::SIGKILL);
    drop(first);
    let killed = Instant::now();
    let second = processor(&topic, &sink, &flags);
    second.until("it has its partitions", |p| p.metric("processor_partitions", "") == 6.0);
    // A member without a name waits for the session of the killed one.
    assert!(killed.elapsed() < SESSION / 2, "{:?} of {SESSION:?}", killed.elapsed());
    second.stop();
}

/// Prevents: two members of one name that both go on, so that every event is delivered twice (KIP-345 fences
/// the older one).
#[test]
fn a_static_member_that_is_replaced_ends_by_name() {
    let (topic, sink) = (Topic::create("fenced", 2), sink(&["--rate-limit", "1000000"]));
    let flags = ["--instance-id", "one"];
    let older = processor(&topic, &sink, &flags);
    older.until("it has its partitions", |p| p.metric("processor_partitions", "") == 2.0);
    let newer = processor(&topic, &sink, &flags);
    let ended = older.process.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let line = ended.stderr.lines().last().expect("an error");
    assert!(line.contains("--instance-id") && line.contains(&topic.name), "{line}");
    newer.until("it has its partitions", |p| p.metric("processor_partitions", "") == 2.0);
    produce(&topic, &["--rate", "20000", "--count", "2000"]);
    sink.until("all is delivered", |s| figure(&ledger(s), "distinct") >= 2000);
    newer.stop();
    assert_eq!(figure(&ledger(&sink), "duplicates"), 0);
}
