//! A pipeline of real binaries: sink, producer and processors on a topic of their own.
#![allow(dead_code, reason = "every test program compiles this module and uses a part of it")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::path::Path;
use std::time::Duration;

use backpressure_lab::http::client;
use backpressure_lab::lab::audit::Ledger;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use super::{Ended, PATIENCE, Running, Topic, brokers, config, until};

/// A server binary on a port that it picked.
pub struct Served {
    /// The process.
    pub process: Running,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
}

impl Served {
    /// Starts `binary` with `flags` and waits until it logs its address.
    pub fn start(binary: &str, flags: &[&str]) -> Self {
        let mut process = Running::start(binary, flags);
        process.await_log("addr=127.0.0.1:");
        let log = process.log();
        let address = log.split("addr=").nth(1).and_then(|rest| rest.split([' ', '\n']).next());
        Self { url: format!("http://{}", address.expect("an address")), process }
    }

    /// The answer to `GET` of `path`: status and body.
    pub fn ask(&self, path: &str) -> (u16, String) {
        let agent = client::agent(Duration::from_secs(10));
        let answer = agent.get(format!("{}{path}", self.url)).call();
        let mut answer = answer.unwrap_or_else(|e| panic!("{path}: {e}"));
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a body"))
    }

    /// The body of `path`, which must exist.
    pub fn get(&self, path: &str) -> String {
        let (status, body) = self.ask(path);
        assert_eq!(status, 200, "{path}");
        body
    }

    /// A metric's value, summed over the label sets that contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.get("/metrics");
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains(labels))
            .filter(|line| matches!(line.as_bytes().get(name.len()), Some(b' ' | b'{')))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until `ready` holds; fails with `what`.
    pub fn until(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        until(what, || ready(self));
    }

    /// SIGTERM, then its end, which must be exit code 0.
    pub fn stop(self) -> Ended {
        self.process.signal(libc::SIGTERM);
        let ended = self.process.end(PATIENCE);
        assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.stderr);
        ended
    }
}

/// The sink on a free port.
pub fn sink(flags: &[&str]) -> Served {
    Served::start(env!("CARGO_BIN_EXE_sink"), &[&["--listen", "127.0.0.1:0"], flags].concat())
}

/// A processor of `topic` on a free port; its group is the topic's name.
pub fn processor(topic: &Topic, sink: &Served, flags: &[&str]) -> Served {
    processor_to(topic, &sink.url, flags)
}

/// A processor whose sink is at `url`.
pub fn processor_to(topic: &Topic, url: &str, flags: &[&str]) -> Served {
    let brokers = brokers();
    let fixed = [
        "--brokers",
        &brokers,
        "--topic",
        &topic.name,
        "--group",
        &topic.name,
        "--sink",
        url,
        "--listen",
        "127.0.0.1:0",
    ];
    Served::start(env!("CARGO_BIN_EXE_processor"), &[&fixed, flags].concat())
}

/// A producer to `topic` on a free port.
pub fn producer(topic: &Topic, flags: &[&str]) -> Served {
    let brokers = brokers();
    let fixed = ["--brokers", &brokers, "--topic", &topic.name, "--listen", "127.0.0.1:0"];
    Served::start(env!("CARGO_BIN_EXE_producer"), &[&fixed, flags].concat())
}

/// Runs a producer to its end; returns its summary.
pub fn produce(topic: &Topic, flags: &[&str]) -> Value {
    let ended = producer(topic, flags).process.end(PATIENCE * 2);
    assert!(ended.status.success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("a summary")
}

/// Waits until so many ids are delivered.
pub fn delivered(sink: &Served, ids: u64) {
    sink.until("every id is delivered", |s| figure(&ledger(s), "distinct") >= ids);
}

/// The sink's ground truth.
pub fn ledger(sink: &Served) -> Value {
    serde_json::from_str(&sink.get("/ledger")).expect("JSON")
}

/// One figure of a ledger or a summary.
pub fn figure(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("no {name} in {of}"))
}

/// `lab watch` of the pipeline made of `served`, by name, into the folder `out`.
pub fn watch(topic: &Topic, served: &[(&str, &Served)], out: &Path, flags: &[&str]) -> Served {
    let list = |of: &dyn Fn(&Served) -> String| {
        served.iter().map(|(name, one)| format!("{name}={}", of(one))).collect::<Vec<_>>().join(",")
    };
    let (pids, pages) =
        (list(&|s| s.process.pid().to_string()), list(&|s| format!("{}/metrics", s.url)));
    let (brokers, out) = (brokers(), out.display().to_string());
    let fixed = [
        "watch",
        "--brokers",
        &brokers,
        "--topic",
        &topic.name,
        "--group",
        &topic.name,
        "--process",
        &pids,
        "--metrics",
        &pages,
        "--out",
        &out,
        "--listen",
        "127.0.0.1:0",
    ];
    Served::start(env!("CARGO_BIN_EXE_lab"), &[&fixed, flags].concat())
}

/// `lab audit` of a topic whose group has its name: how it ended, and the ledger that it wrote into
/// `dir`, where the producer's summary is.
pub fn audit(topic: &Topic, sink: &str, dir: &Path, flags: &[&str]) -> (Ended, Ledger) {
    audit_of(&topic.name, topic, sink, dir, flags)
}

/// The same, of another group.
pub fn audit_of(
    group: &str,
    topic: &Topic,
    sink: &str,
    dir: &Path,
    flags: &[&str],
) -> (Ended, Ledger) {
    let path = |name: &str| dir.join(name).display().to_string();
    let (producer, out) = (path("producer.json"), path("ledger.json"));
    let fixed = ["audit", "--topic", &topic.name, "--group", group, "--sink", sink];
    let files = ["--producer", &producer, "--out", &out];
    let binary = env!("CARGO_BIN_EXE_lab");
    let ended = Running::start(binary, [&fixed[..], &files, flags].concat()).end(PATIENCE);
    let bytes = std::fs::read(&out).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    (ended, serde_json::from_slice(&bytes).expect("a ledger"))
}

/// Commits offsets, by partition, for a group without members that has the topic's name.
pub fn commit(topic: &Topic, offsets: &[(i32, i64)]) {
    commit_with(topic, offsets, "");
}

/// As [`commit`], with Kafka's commit metadata.
pub fn commit_with(topic: &Topic, offsets: &[(i32, i64)], metadata: &str) {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        let mut element = list.add_partition(&topic.name, *partition);
        element.set_offset(Offset::Offset(*offset)).expect("valid");
        element.set_metadata(metadata);
    }
    outsider(&topic.name).commit(&list, CommitMode::Sync).expect("committed");
}

/// A consumer of `group` that does not join it.
pub fn outsider(group: &str) -> BaseConsumer {
    config().set("group.id", group).create().expect("a consumer")
}
