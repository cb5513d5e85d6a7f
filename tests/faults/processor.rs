//! The processor during failures: it is killed, it is stopped past the poll interval, its broker is
//! killed. The sink's ledger judges. These tests stop brokers of the shared cluster, so
//! `run/test.sh` runs this file by itself.

use std::time::Duration;

use crate::common::cluster::{Healed, alone, cluster, signal_broker};
use crate::common::lab::{Served, audit, figure, ledger, processor, produce, producer, sink};
use crate::common::{PATIENCE, Topic, list, until};

/// Waits until the sink has every id below `ids`, and returns how many came more than once.
fn all_delivered(sink: &Served, ids: u64) -> u64 {
    sink.until("every id is delivered", |s| figure(&ledger(s), "distinct") >= ids);
    let ledger = ledger(sink);
    assert_eq!((figure(&ledger, "distinct"), figure(&ledger, "max_id")), (ids, ids - 1));
    figure(&ledger, "duplicates")
}

/// Prevents: a commit ahead of the acks (loss), or so far behind them that a restart repeats more
/// than the commit interval's worth.
#[test]
fn a_processor_killed_with_9_and_restarted_loses_nothing() {
    let _alone = alone();
    std::thread::scope(|scope| {
        for kind in ["bounded", "unbounded", "pull"] {
            scope.spawn(move || killed_and_restarted(kind));
        }
    });
}

fn killed_and_restarted(kind: &str) {
    let (topic, sink) = (Topic::create("kill9", 12), sink(&["--rate-limit", "4000"]));
    let flags = ["--queue", kind, "--session-timeout", "6s"];
    let first = processor(&topic, &sink, &flags);
    let producer = producer(&topic, &["--rate", "6000", "--count", "30000"]);
    // Far more than the bound below, so that a member that stopped committing is found out.
    sink.until("the flow is well under way", |s| figure(&ledger(s), "events") > 16_000);
    first.process.signal(libc::SIGKILL);
    drop(first);
    let second = processor(&topic, &sink, &flags);
    assert!(producer.process.end(PATIENCE).status.success());
    let duplicates = all_delivered(&sink, 30_000);
    second.stop();
    // The bound of at-least-once: events served since the last commit (interval 1 s, and the
    // commit's own time), and the four workers' events in flight.
    let bound = 4000 * 3 / 2 + 4 * 200;
    assert!(duplicates <= bound, "{kind}: {duplicates} duplicates, bound {bound}");
}

/// Prevents: shed ids that are gone with the processor, so that the ledger cannot tell them from
/// lost ones.
#[test]
fn a_shedding_processor_killed_with_9_leaves_a_fate_to_every_id() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("shed9", 12), sink(&[]));
    let dir = tempfile::tempdir().expect("dir");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let names = ["processor", "processor-2"].map(|name| (path(name), path(&format!("{name}.ids"))));
    let start = |ids| {
        let flags = ["--policy", "shed", "--queue-cap", "500", "--session-timeout", "6s"];
        processor(&topic, &sink, &[&flags[..], &["--shed-ids", ids]].concat())
    };
    let [(killed, first_ids), (ended, second_ids)] = &names;
    let first = start(first_ids);
    first.until("partitions are held", |p| p.metric("processor_partitions", "") == 12.0);
    let producer = producer(&topic, &["--rate", "8000", "--count", "80000"]);
    first.until("it sheds", |p| p.metric("processor_events_shed_total", "") > 20_000.0);
    first.process.signal(libc::SIGKILL);
    std::fs::write(killed, "").expect("what it printed");
    drop(first);
    let second = start(second_ids);
    let produced = producer.process.end(PATIENCE).stdout;
    std::fs::write(path("producer.json"), produced).expect("written");
    second.until("it goes on", |p| p.metric("processor_events_shed_total", "") > 10_000.0);
    std::fs::write(ended, second.stop().stdout).expect("written");
    let files = [
        "--processor",
        killed,
        "--processor",
        ended,
        "--shed-ids",
        second_ids,
        "--shed-ids",
        first_ids,
    ];
    let (end, ledger) = audit(&topic, &sink.url, dir.path(), &files);
    assert_eq!((end.status.code(), ledger.wrong()), (Some(0), 0), "{end:?}");
    assert!(ledger.shed > 20_000 && ledger.delivered > 5_000, "{ledger:?}");
    // Without the file of the killed one the ledger must be red.
    let without_its_ids = &files[..files.len() - 2];
    let (end, without) = audit(&topic, &sink.url, dir.path(), without_its_ids);
    assert_eq!(end.status.code(), Some(3), "{end:?}");
    assert!(without.unexplained > 10_000, "{without:?}");
}

/// Prevents: an eviction that goes unseen, a member that keeps partitions which are no longer its
/// own, or one that never comes back.
#[test]
fn a_member_stopped_past_the_interval_is_evicted_and_comes_back() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("evicted", 12), sink(&["--rate-limit", "4000"]));
    let flags = ["--max-poll-interval", "6s", "--session-timeout", "6s", "--batch-size", "20"];
    let (a, b) = (processor(&topic, &sink, &flags), processor(&topic, &sink, &flags));
    let held = |p: &Served| p.metric("processor_partitions", "");
    a.until("both share the topic", |a| (held(a), held(&b)) == (6.0, 6.0));
    let producer = producer(&topic, &["--rate", "1000", "--count", "30000"]);
    a.until("both work", |a| {
        a.metric("processor_events_acked_total", "") > 500.0
            && b.metric("processor_events_acked_total", "") > 500.0
    });
    a.process.signal(libc::SIGSTOP);
    b.until("the other takes over", |b| held(b) == 12.0);
    std::thread::sleep(Duration::from_secs(2));
    a.process.signal(libc::SIGCONT);
    a.until("the eviction is counted", |a| a.metric("processor_evictions_total", "") == 1.0);
    a.until("it comes back", |a| (held(a), held(&b)) == (6.0, 6.0));
    let refused = a.metric("processor_commits_total", "result=\"refused\"");
    assert!(refused >= 1.0, "its late commit was taken:\n{}", a.process.log());
    assert!(a.metric("processor_poll_gap_seconds", "") > 6.0, "the gap is shown");
    assert_eq!(b.metric("processor_evictions_total", ""), 0.0);
    assert!(producer.process.end(PATIENCE).status.success());
    all_delivered(&sink, 30_000);
    a.stop();
    b.stop();
}

/// Prevents: a fetcher that retries a dead broker's partitions without a pause, or forgets them.
#[test]
fn a_broker_killed_with_9_and_started_again_costs_no_event() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("broker", 12), sink(&["--rate-limit", "4000"]));
    let processor = processor(&topic, &sink, &[]);
    let producer = producer(&topic, &["--rate", "2000", "--count", "80000"]);
    sink.until("the flow has begun", |s| figure(&ledger(s), "events") > 4000);
    let _healed = Healed(2);
    cluster(&["kill", "2"]);
    std::thread::sleep(Duration::from_secs(5));
    cluster(&["start", "2"]);
    assert!(producer.process.end(PATIENCE * 2).status.success());
    all_delivered(&sink, 80_000);
    assert_eq!(processor.metric("processor_evictions_total", ""), 0.0);
    assert_eq!(processor.metric("processor_events_lost_total", ""), 0.0);
    processor.stop();
}

/// Prevents: a log that is taken for cut, and counted as lost, because its leader led it before and another did in between.
#[test]
fn a_leader_that_leads_again_has_the_same_log() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("again", 1), sink(&["--rate-limit", "100000"]));
    let processor = processor(&topic, &sink, &[]);
    let more = |from: u64| {
        let (first, count) = (from.to_string(), "1000");
        produce(&topic, &["--rate", "5000", "--count", count, "--first-id", &first]);
        all_delivered(&sink, from + 1000);
    };
    let leader = || {
        list()
            .describe(&topic.name, 0)
            .ok()
            .and_then(|view| view.leaders.get(&0).copied().flatten())
    };
    more(0);
    let preferred = leader().expect("a leader");
    let number = preferred.to_string();
    let _healed = Healed(preferred as u32);
    cluster(&["kill", &number]);
    until("another leads", || leader().is_some_and(|now| now != preferred));
    let other = leader();
    more(1000);
    cluster(&["start", &number]);
    until("it leads again", || {
        topic.elect_preferred();
        leader() == Some(preferred)
    });
    more(2000);
    cluster(&["kill", &number]);
    until("the other leads again", || leader().is_some_and(|now| now != preferred));
    assert_eq!(leader(), other, "the same as before");
    more(3000);
    cluster(&["start", &number]);
    assert_eq!(processor.metric("processor_events_lost_total", "reason=\"truncated\""), 0.0);
    assert!(!processor.process.log().contains("the log is gone"), "{}", processor.process.log());
    assert_eq!(figure(&ledger(&sink), "duplicates"), 0);
    processor.stop();
}

/// Prevents: partitions that stand still, and a rebalance that starts none, because the one broker that `--brokers`
/// names is dead.
#[test]
fn the_only_broker_that_was_named_may_die() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("named", 12), sink(&["--rate-limit", "4000"]));
    let view = list().describe(&topic.name, 0).expect("the topic");
    let common =
        ["--brokers", &view.addresses[&2], "--topic", &topic.name, "--listen", "127.0.0.1:0"];
    let of_group = ["--group", &topic.name, "--sink", &sink.url];
    let first = Served::start(env!("CARGO_BIN_EXE_processor"), &[&common[..], &of_group].concat());
    let load = ["--rate", "1500", "--count", "45000"];
    let producer = Served::start(env!("CARGO_BIN_EXE_producer"), &[&common[..], &load].concat());
    sink.until("the flow has begun", |s| figure(&ledger(s), "events") > 4000);
    let _healed = Healed(2);
    cluster(&["kill", "2"]);
    assert!(producer.process.end(PATIENCE * 2).status.success());
    all_delivered(&sink, 45_000);
    let second = processor(&topic, &sink, &[]);
    second.until("it has its half", |p| p.metric("processor_partitions", "") == 6.0);
    second.stop();
    first.until("all partitions start again", |p| p.metric("processor_partitions", "") == 12.0);
    cluster(&["start", "2"]);
    first.stop();
}

/// Prevents: partitions without a leader keeping a processor, or a producer, from starting: all the
/// others go on, and those are named.
#[test]
fn partitions_without_a_leader_hold_up_no_other() {
    let _alone = alone();
    let (topic, sink) = (Topic::create_alone("leaderless", 12), sink(&["--rate-limit", "100000"]));
    produce(&topic, &["--rate", "20000", "--count", "12000"]);
    let view = list().describe(&topic.name, 0).expect("the topic");
    let held: Vec<i32> = view.led_by(2).collect();
    assert!((1..12).contains(&held.len()), "broker 2 leads none, or all: {held:?}");
    let elsewhere = topic.records().iter().filter(|r| !held.contains(&r.partition)).count() as u64;
    let _healed = Healed(2);
    cluster(&["kill", "2"]);
    let mut processor = processor(&topic, &sink, &[]);
    sink.until("what has a leader is delivered", |s| figure(&ledger(s), "distinct") >= elsewhere);
    processor.process.await_log(&format!("partitions {held:?}: it has no leader yet"));
    let more =
        ["--rate", "4000", "--first-id", "12000", "--count", "12000", "--drain-timeout", "2s"];
    let mut producer = producer(&topic, &more);
    producer.process.await_log("partitions without a leader wait");
    sink.until("new events too", |s| figure(&ledger(s), "distinct") > elsewhere + 1000);
    assert_eq!(processor.metric("processor_partitions", ""), (12 - held.len()) as f64);
    drop(producer);
    cluster(&["start", "2"]);
    sink.until("the rest", |s| figure(&ledger(s), "distinct") >= 12_000);
    processor.stop();
}

/// Prevents: a broker that hangs (crate `kafka` waits 120 s) holding up the other brokers'
/// partitions, or its own for longer than the supervisor's patience.
#[test]
fn a_broker_that_hangs_is_given_up_and_nothing_is_lost() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("hang", 12), sink(&["--rate-limit", "1500"]));
    // All of it is in the log before the broker hangs: with acks=all and three replicas nothing
    // new would be acknowledged until the brokers notice.
    let produced = figure(&produce(&topic, &["--rate", "8000", "--count", "40000"]), "produced");
    let processor = processor(&topic, &sink, &["--queue-cap", "500"]);
    sink.until("the flow has begun", |s| figure(&ledger(s), "events") > 3000);
    let _healed = Healed(3);
    signal_broker(3, libc::SIGSTOP);
    let before = figure(&ledger(&sink), "events");
    std::thread::sleep(Duration::from_secs(5));
    let flowed = figure(&ledger(&sink), "events") - before;
    // The sink's own rate is the model, 7,500 in 5 s; the queue alone holds 500. Half is ample
    // proof that the other two brokers' partitions go on.
    assert!(flowed > 3750, "{flowed} events in 5 s while one of three brokers hangs");
    std::thread::sleep(Duration::from_secs(10));
    signal_broker(3, libc::SIGCONT);
    all_delivered(&sink, produced);
    processor.stop();
}
