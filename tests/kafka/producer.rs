//! The producer against the real cluster: its promises with every broker up. `faults/producer.rs`
//! has dying brokers.

use std::collections::HashMap;
use std::io::copy;
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::common::{Ended, PATIENCE, Record, Running, Topic, brokers};
use crate::sinks::{self, Sink};
use backpressure_lab::event::Event;
use backpressure_lab::http::client::agent;
use backpressure_lab::load::keys;
use backpressure_lab::load::rate::RateState;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");

/// One test at a time: they measure rates on a machine that they share with the brokers.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(topic: &str, flags: &str) -> Running {
    let fixed =
        ["--topic", topic, "--brokers", &brokers(), "--listen", "127.0.0.1:0"].map(str::to_owned);
    Running::start(PRODUCER, fixed.into_iter().chain(flags.split(' ').map(str::to_owned)))
}

/// Runs it to its end, which must be exit code 0; returns its summary.
fn run(topic: &Topic, flags: &str) -> Value {
    summary(&start(&topic.name, flags).end(PATIENCE), 0)
}

/// The one line of stdout.
fn summary(ended: &Ended, code: i32) -> Value {
    assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1, "stdout is not one line: {:?}", ended.stdout);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn number(summary: &Value, field: &str) -> u64 {
    summary[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {summary}"))
}

fn rate(summary: &Value, field: &str) -> f64 {
    summary[field].as_f64().unwrap_or_else(|| panic!("no rate {field} in {summary}"))
}

fn event(record: &Record) -> Event {
    Event::decode(record.value.as_deref().expect("a value")).expect("an event")
}

/// With no fault the log holds ids `0..count` once each, in order within each partition, and each
/// is keyed and placed as documented.
fn assert_dense(topic: &Topic, count: u64) {
    let records = topic.records();
    let mut seen = vec![false; count as usize];
    let mut last: HashMap<i32, u64> = HashMap::new();
    for record in &records {
        let event = event(record);
        assert_eq!(record.key.as_deref(), Some(&event.key.to_be_bytes()[..]));
        assert_eq!(record.partition as u32, keys::partition(event.key, topic.partitions as u32));
        assert!(
            !std::mem::replace(&mut seen[event.id as usize], true),
            "{} is there twice",
            event.id
        );
        let before = last.insert(record.partition, event.id);
        assert!(
            before < Some(event.id),
            "partition {}: {} after {before:?}",
            record.partition,
            event.id
        );
    }
    assert_eq!(records.len() as u64, count, "ids are missing");
}

/// A run that cannot be repeated byte for byte cannot be compared with another.
#[test]
fn the_same_seed_gives_the_same_log() {
    let _alone = alone();
    let log = |seed: u64| {
        let topic = Topic::create("same-seed", 3);
        run(
            &topic,
            &format!("--rate 20000 --count 5000 --seed {seed} --key-skew 0.9 --first-id 40"),
        );
        let records = topic.records();
        let stable =
            |r: &Record| (r.partition, r.offset, r.key.clone(), Event { ts_us: 0, ..event(r) });
        records.iter().map(stable).collect::<Vec<_>>()
    };
    let (first, again, other) = (log(7), log(7), log(8));
    assert_eq!(first.len(), 5000);
    assert!(first.iter().all(|(.., event)| (40..5040).contains(&event.id)));
    assert!(first == again, "the same seed gave another log");
    assert!(first != other, "another seed gave the same log");
}

/// The open model at the lab's load: every event that was due is in the log, in order, on time.
#[test]
fn eight_thousand_a_second_follows_its_schedule() {
    let _alone = alone();
    let topic = Topic::create("schedule", 12);
    let summary = run(&topic, "--rate 8000 --duration 10s");
    assert_eq!((number(&summary, "due"), number(&summary, "produced")), (80_000, 80_000));
    assert_eq!(rate(&summary, "target_rate"), 8000.0);
    // In 10 s an acknowledgement that is 0.5 s late is 5 %: what a busy machine may cost here. A
    // producer that cannot keep up falls behind by far more.
    assert!(rate(&summary, "achieved_rate") >= 0.95 * 8000.0, "{summary}");
    let sum: u64 =
        summary["partitions"].as_array().expect("a list").iter().filter_map(Value::as_u64).sum();
    assert_eq!(sum, 80_000);
    assert_dense(&topic, 80_000);
}

/// Due times are the schedule's, also across steps: every latency is measured from ts.
#[test]
fn stamps_are_the_schedules() {
    let _alone = alone();
    let topic = Topic::create("stamps", 3);
    run(&topic, "--schedule 100:1s,0:1s,1000:1s");
    let mut events: Vec<Event> = topic.records().iter().map(event).collect();
    events.sort_by_key(|event| event.id);
    assert_eq!(events.len(), 1100);
    let start = events[0].ts_us;
    for event in &events {
        let due_us = match event.id {
            id @ 0..100 => id * 10_000,
            id => 2_000_000 + (id - 100) * 1000,
        };
        assert_eq!(event.ts_us - start, due_us as i64, "event {}", event.id);
    }
}

/// Other clients must find a key where the Java client would have put it.
#[test]
fn keys_go_where_librdkafkas_murmur2_puts_them() {
    let _alone = alone();
    let topic = Topic::create("murmur2", 7);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("partitioner", "murmur2")
        .create()
        .expect("a producer");
    for key in 0..300u64 {
        let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        producer
            .send(BaseRecord::to(&topic.name).key(&key).payload(&key))
            .map_err(|(e, _)| e)
            .expect("queued");
    }
    producer.flush(PATIENCE).expect("sent");
    let records = topic.records();
    assert_eq!(records.len(), 300);
    for record in records {
        let key = u64::from_be_bytes(record.key.expect("a key").try_into().expect("8 bytes"));
        assert_eq!(keys::partition(key, 7) as i32, record.partition, "key {key:#x}");
    }
}

/// SIGTERM ends the schedule, not the sending: due events are in the log before the exit.
#[test]
fn sigterm_sends_what_is_due() {
    let _alone = alone();
    let topic = Topic::create("sigterm", 3);
    let mut producer = start(&topic.name, "--rate 5000 --linger 200ms");
    producer.await_log("schedule begins");
    std::thread::sleep(Duration::from_millis(1500));
    producer.signal(libc::SIGTERM);
    let summary = summary(&producer.end(PATIENCE), 0);
    let due = number(&summary, "due");
    assert!(due > 5000, "{summary}");
    assert_eq!((number(&summary, "produced"), number(&summary, "acked_below")), (due, due));
    assert_dense(&topic, due);
}

/// Requests are bounded and repeated until caught up: a backlog must not wait for the next tick.
#[test]
fn a_backlog_is_sent_in_many_requests_at_once() {
    let _alone = alone();
    let topic = Topic::create("backlog", 3);
    let summary = run(&topic, "--rate 1000000 --count 50000 --linger 2s");
    assert_eq!(number(&summary, "produced"), 50_000);
    // 50,000 records of 582 B are 33 requests of 900 kB: 22 s and more, were it one a tick.
    assert!(rate(&summary, "duration_seconds") < 10.0, "{summary}");
    assert_dense(&topic, 50_000);
}

#[test]
fn every_kind_of_acks_delivers() {
    let _alone = alone();
    for acks in ["all", "1", "0"] {
        let topic = Topic::create("acks", 3);
        let summary = run(&topic, &format!("--rate 5000 --count 2000 --acks {acks}"));
        assert_eq!(number(&summary, "produced"), 2000, "acks {acks}");
        // With fewer acks the run may end before the followers, and so a reader, have it all.
        let end = Instant::now() + PATIENCE;
        while topic.records().len() < 2000 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_dense(&topic, 2000);
    }
}

/// Prevents: an event that was delivered and is sent again; one that was not and is not, at each age; a resend that is
/// another event.
#[test]
fn what_the_sink_does_not_have_is_sent_again_at_each_age() {
    let _alone = alone();
    let (topic, sink) = (Topic::create("resend", 4), Sink::start(&["--rate-limit", "1000000"]));
    let even: Vec<Event> = (0..400).step_by(2).map(|id| sinks::event(id, id)).collect();
    assert_eq!(sink.caller().batch(&even).status, 200);
    let flags = format!("--rate 2000 --count 400 --resend-after 300ms,600ms --sink {}", sink.url);
    let summary = run(&topic, &flags);
    // Of the odd ones each age sends all.
    assert_eq!((number(&summary, "produced"), number(&summary, "resent")), (400, 2 * 200));
    let mut by_id: HashMap<u64, Vec<Event>> = HashMap::new();
    for record in topic.records() {
        let event = event(&record);
        assert_eq!(record.partition as u32, keys::partition(event.key, topic.partitions as u32));
        by_id.entry(event.id).or_default().push(event);
    }
    assert_eq!(by_id.len(), 400);
    for (id, events) in by_id {
        assert_eq!(events.len(), if id % 2 == 0 { 1 } else { 3 }, "{id}");
        assert!(events.iter().all(|event| *event == events[0]), "{id}: {events:?}");
    }
}

/// A topic may allow less than Kafka's default: requests shrink instead of failing for ever.
#[test]
fn a_topic_with_a_small_limit_gets_smaller_batches() {
    let _alone = alone();
    let topic = Topic::create_with("small-batches", 2, &[("max.message.bytes", "10000")]);
    let summary = run(&topic, "--rate 10000 --count 2000 --linger 100ms");
    assert!(number(&summary, "retries") > 0, "the limit was never met: {summary}");
    assert_dense(&topic, 2000);

    let ended = start(&topic.name, "--rate 100 --count 10 --msg-size 20KiB").end(PATIENCE);
    summary_of_failure(&ended, &["max.message.bytes", "--msg-size", &topic.name]);
}

fn summary_of_failure(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let error = ended.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    for word in words {
        assert!(error.contains(word), "{error:?} lacks {word:?}");
    }
}

#[test]
fn a_missing_topic_is_named() {
    let _alone = alone();
    let ended = start("no-such-topic", "--rate 100 --count 10").end(PATIENCE);
    summary_of_failure(&ended, &["no-such-topic", "does not exist", "--topic"]);
    assert_eq!(ended.stdout, "", "no summary of a run that never began");
}

/// Prevents: events of partitions that are no more and wait for ever, and the brokers that are blamed for it.
#[test]
fn a_topic_made_anew_with_fewer_partitions_is_named() {
    let _alone = alone();
    let mut topic = Topic::create("fewer", 6);
    let mut running = start(&topic.name, "--rate 200 --count 100000");
    running.await_log("schedule begins");
    topic.partitions = 2;
    topic.make_anew();
    summary_of_failure(&running.end(PATIENCE), &["made anew with 2 partitions, and had 6"]);
}

/// Each value is refused before anything is opened, with exit code 2.
#[test]
fn bad_flags_end_with_exit_code_2() {
    for (flags, word) in [
        ("--rate fast", "--rate"),
        ("--rate 10 --schedule 5:1s", "--schedule"),
        ("--rate 10 --acks 3", "--acks"),
        ("--rate 10 --token-file /nonexistent/token", "/nonexistent/token"),
        ("--rate 10 --listen 0.0.0.0:0", "--token-file"),
        ("--rate 10 --burst 5", "--burst"),
        ("", "--rate"),
    ] {
        let args: Vec<&str> = flags.split_whitespace().collect();
        let ended = Running::start(PRODUCER, args).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(2), "{flags}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{flags}: {}", ended.stderr);
    }
}

/// A user may start the lab's parts in any order.
#[test]
fn brokers_that_come_late_are_waited_for() {
    let _alone = alone();
    let topic = Topic::create("late", 3);
    let port =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let late = format!("127.0.0.1:{port}");
    let flags =
        ["--topic", &topic.name, "--listen", "127.0.0.1:0", "--rate", "2000", "--count", "1000"];
    let mut producer = Running::start(PRODUCER, flags.into_iter().chain(["--brokers", &late]));
    producer.await_log("waiting for the brokers");
    let wait = Duration::from_secs(4);
    std::thread::sleep(wait);
    forward(&late, brokers().split(',').next().expect("a broker").to_owned());
    producer.await_log("schedule begins");
    let summary = summary(&producer.end(PATIENCE), 0);
    assert_eq!(number(&summary, "produced"), 1000);
    // The schedule starts when the topic is found: a busy machine may be slow then, not that slow.
    let half_ms = wait.as_secs_f64() * 500.0;
    assert!(rate(&summary, "latency_p50_ms") < half_ms, "the wait counts as latency: {summary}");
    assert_dense(&topic, 1000);
}

/// Forwards connections at `listen` to `to`, until the test's process ends.
fn forward(listen: &str, to: String) {
    let listener = TcpListener::bind(listen).expect("the port is still free");
    std::thread::spawn(move || {
        for inbound in listener.incoming() {
            let (Ok(inbound), Ok(outbound)) = (inbound, TcpStream::connect(&to)) else { continue };
            for (mut from, mut to) in [
                (inbound.try_clone().expect("a socket"), outbound.try_clone().expect("a socket")),
                (outbound, inbound),
            ] {
                std::thread::spawn(move || {
                    let _either_side_closed = copy(&mut from, &mut to);
                    let _closed = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

/// Slow-source: the lease slows the source at once, expires by itself, and nothing is lost.
#[test]
fn a_lease_slows_the_rate_and_expires() {
    let _alone = alone();
    let topic = Topic::create("lease", 3);
    let mut producer = start(&topic.name, "--rate 2000 --duration 6s");
    producer.await_log("schedule begins");
    let log = producer.log();
    let listen =
        log.split("addr=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    let url = format!("http://{listen}/rate");
    let agent = agent(Duration::from_secs(5));
    let get = || -> RateState {
        let mut answer = agent.get(&url).call().expect("an answer");
        serde_json::from_str(&answer.body_mut().read_to_string().expect("text")).expect("a state")
    };
    let post = |body: &str| agent.post(&url).send(body).expect("an answer").status().as_u16();

    assert_eq!((get().effective_rate, get().lease), (2000.0, None));
    for bad in ["", "{}", "nonsense", r#"{"rate":-1,"lease_ms":5}"#, r#"{"rate":1,"lease_ms":0}"#] {
        assert_eq!(post(bad), 400, "{bad}");
    }
    assert_eq!(post(r#"{"rate": 200, "lease_ms": 60000}"#), 200);
    assert_eq!((get().schedule_rate, get().effective_rate), (2000.0, 200.0));
    // Another holder's lease adds to it, and each ends its own.
    assert_eq!(post(r#"{"rate": 500, "lease_ms": 60000, "holder": "two"}"#), 200);
    assert_eq!(get().effective_rate, 700.0);
    let end = |query: &str| {
        let answer = agent.delete(format!("{url}{query}")).call().expect("an answer");
        answer.status().as_u16()
    };
    assert_eq!((end("?holder=a%20b"), end("?whose=two")), (400, 400));
    assert_eq!(end(""), 200);
    assert_eq!(get().effective_rate, 500.0);
    assert_eq!(end("?holder=two"), 200);
    assert_eq!((get().effective_rate, get().lease), (2000.0, None));

    assert_eq!(post(r#"{"rate": 200, "lease_ms": 2000}"#), 200);
    producer.await_log("lease ended");
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(get().effective_rate, 2000.0, "the lease outlived its time");
    let summary = summary(&producer.end(PATIENCE), 0);
    let (due, held_back) = (number(&summary, "due"), number(&summary, "held_back"));
    assert_eq!(number(&summary, "produced"), due);
    assert_dense(&topic, due);
    // 1,800/s less for 2 s, and for the few ms of the leases that were ended; each of the six
    // changes of rate may cost a fraction of an event.
    assert!((3595..4500).contains(&held_back), "{summary}");
    assert!((due + held_back).abs_diff(12_000) <= 6, "{summary}");
}
