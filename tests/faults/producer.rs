//! The producer while brokers die and hang. These tests stop brokers of the shared cluster, so
//! `run/test.sh` runs this file by itself; `LAB_CLUSTER_DATA` says which cluster it is.
//!
//! A batch that is sent again is in the log once (KIP-98): an id that is missing, twice there, or after a
//! later one of its partition, is a failure.

use std::time::Duration;

use crate::common::cluster::{Healed, alone, cluster, signal_broker};
use crate::common::{PATIENCE, Running, Topic, brokers};
use backpressure_lab::event::Event;
use backpressure_lab::load::keys;
use serde_json::Value;

fn start(topic: &Topic, flags: &str) -> Running {
    let fixed = ["--topic", &topic.name, "--brokers", &brokers(), "--listen", "127.0.0.1:0"];
    let fixed = fixed.map(str::to_owned);
    let flags = flags.split(' ').map(str::to_owned);
    Running::start(env!("CARGO_BIN_EXE_producer"), fixed.into_iter().chain(flags))
}

/// Every id below `due` is in the log, in the right partition, and first seen in order there.
/// Gives the number of duplicates.
fn assert_complete(topic: &Topic, due: u64) -> u64 {
    let records = topic.records();
    let mut seen = vec![false; due as usize];
    let mut last = vec![None; topic.partitions as usize];
    let mut duplicates = 0;
    for record in &records {
        let event = Event::decode(record.value.as_deref().expect("a value")).expect("an event");
        assert_eq!(record.partition as u32, keys::partition(event.key, topic.partitions as u32));
        if std::mem::replace(&mut seen[event.id as usize], true) {
            duplicates += 1;
            continue;
        }
        let before = last[record.partition as usize].replace(event.id);
        assert!(before < Some(event.id), "{} first appears after {before:?}", event.id);
    }
    let missing: Vec<usize> = (0..seen.len()).filter(|id| !seen[*id]).collect();
    assert!(missing.is_empty(), "{} ids are missing, first {:?}", missing.len(), missing.first());
    duplicates
}

fn assert_whole(topic: &Topic, stdout: &str, due: u64) {
    let summary: Value = serde_json::from_str(stdout).expect("one line of JSON");
    assert_eq!((summary["due"].as_u64(), summary["produced"].as_u64()), (Some(due), Some(due)));
    assert_eq!(assert_complete(topic, due), 0, "duplicates of {stdout}");
}

/// kill -9 and restart under load: the backlog is sent in the end and nothing is skipped.
#[test]
fn a_broker_killed_and_restarted_costs_no_event() {
    let _alone = alone();
    let topic = Topic::create("killed", 12);
    let _healed = Healed(2);
    let mut producer = start(&topic, "--rate 4000 --duration 30s");
    producer.await_log("schedule begins");
    std::thread::sleep(Duration::from_secs(5));
    cluster(&["kill", "2"]);
    producer.await_log("the broker takes no events");
    std::thread::sleep(Duration::from_secs(8));
    cluster(&["start", "2"]);
    let ended = producer.end(2 * PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_whole(&topic, &ended.stdout, 120_000);
}

/// A stopped process keeps its sockets open. The others must go on
/// meanwhile, and its partitions move to their new leaders long before.
#[test]
fn a_broker_that_hangs_holds_up_only_its_own_partitions_and_not_for_long() {
    let _alone = alone();
    let topic = Topic::create("hangs", 12);
    let _healed = Healed(3);
    let mut producer = start(&topic, "--rate 3000 --duration 40s");
    producer.await_log("schedule begins");
    std::thread::sleep(Duration::from_secs(4));
    signal_broker(3, libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(25));
    let hung = producer.log();
    signal_broker(3, libc::SIGCONT);
    assert!(hung.contains("the broker takes no events"), "{hung}");
    let ended = producer.end(2 * PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let summary: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    // Its partitions waited for the watchdog (10 s) and a leader (9 s), not for the socket (120 s)
    // nor for the broker (25 s); the median event did not wait at all.
    let latency_ms = |field: &str| summary[field].as_f64().expect("a number");
    assert!(latency_ms("latency_max_ms") < 20_000.0, "{summary}");
    assert!(latency_ms("latency_p50_ms") < 500.0, "{summary}");
    assert_whole(&topic, &ended.stdout, 120_000);
}

/// When no broker is left the drain gives up, reports how much is unsent, and fails.
#[test]
fn a_drain_that_cannot_end_says_what_is_unsent() {
    let _alone = alone();
    let topic = Topic::create("drain", 12);
    let healed = [Healed(1), Healed(2)];
    let mut producer = start(&topic, "--rate 1000 --drain-timeout 3s");
    producer.await_log("schedule begins");
    std::thread::sleep(Duration::from_secs(2));
    // With one replica of three left no partition takes acks=all.
    cluster(&["kill", "1"]);
    cluster(&["kill", "2"]);
    std::thread::sleep(Duration::from_secs(2));
    producer.signal(libc::SIGTERM);
    let ended = producer.end(Duration::from_secs(15));
    cluster(&["start", "1"]);
    cluster(&["start", "2"]);
    drop(healed);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let summary: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let unsent =
        summary["due"].as_u64().expect("due") - summary["produced"].as_u64().expect("sent");
    let said = format!("error: {unsent} of ");
    assert!(unsent > 500 && ended.stderr.contains(&said), "{unsent}: {}", ended.stderr);
}
