//! Shared by the tests on the real cluster: its address, topics of their own, the records of a log,
//! and binaries that do not outlive their test.
//!
//! Without `LAB_BROKERS` a test fails with what to do; it never skips itself.
#![allow(dead_code, reason = "every test program compiles this module and uses a part of it")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

pub mod cluster;
pub mod lab;

use std::io::ErrorKind;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backpressure_lab::brokers::topics::NewTopic;
use backpressure_lab::brokers::{BrokerError, Brokers};
use backpressure_lab::clock;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    ApiKey, DeleteRecordsRequest, DeleteRecordsResponse, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};

/// How long anything on the cluster may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`; fails with `what`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The cluster's bootstrap list.
pub fn brokers() -> String {
    std::env::var("LAB_BROKERS").unwrap_or_else(|_| {
        panic!("LAB_BROKERS is not set: these tests need a cluster, run them through run/test.sh")
    })
}

/// The list, with the security settings of its brokers (`LAB_COMMAND_CONFIG`).
pub fn list() -> Brokers {
    Brokers::of_flags(Some(brokers()), None).expect("a broker list")
}

/// librdkafka's settings for the cluster.
pub fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in list().properties() {
        config.set(name, value);
    }
    config
}

/// A topic of the test's own; deleted when dropped.
pub struct Topic {
    /// Its name: the test's, made unique.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

/// One record as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Key bytes, if any.
    pub key: Option<Vec<u8>>,
    /// Value bytes, if any.
    pub value: Option<Vec<u8>>,
}

impl Topic {
    /// Makes a topic with replication 3 and waits until every partition has a leader.
    pub fn create(test: &str, partitions: i32) -> Self {
        Self::create_with(test, partitions, &[])
    }

    /// As [`Topic::create`], with settings such as `("max.message.bytes", "10000")`.
    pub fn create_with(test: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let name = format!("{test}-{}-{}", std::process::id(), clock::now_us());
        let topic = Self { name, partitions };
        topic.make(3, settings);
        topic
    }

    /// A topic without replicas: a broker's partitions have no leader while it is down.
    pub fn create_alone(test: &str, partitions: i32) -> Self {
        let name = format!("{test}-{}-{}", std::process::id(), clock::now_us());
        let topic = Self { name, partitions };
        topic.make(1, &[]);
        topic
    }

    fn make(&self, replicas: i16, settings: &[(&str, &str)]) {
        let mut all = vec![format!("min.insync.replicas={}", replicas.min(2))];
        all.extend(settings.iter().map(|(key, value)| format!("{key}={value}")));
        let (name, partitions) = (self.name.as_str(), self.partitions);
        let new = NewTopic { name, partitions, replication: replicas, settings: &all };
        let (brokers, end) = (list(), Instant::now() + PATIENCE);
        for attempt in 0.. {
            let Err(why) = brokers.make_topic(&new, attempt) else { return };
            let may_pass = why.kind() != ErrorKind::InvalidInput && Instant::now() < end;
            assert!(may_pass, "topic {name} is not made: {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Deletes it and, once every broker has forgotten it, makes another of the same name.
    pub fn make_anew(&self) {
        let list = list();
        list.delete_topic(&self.name).expect("deleted");
        let end = Instant::now() + PATIENCE;
        let missing = |first| {
            matches!(list.describe(&self.name, first), Err(BrokerError::MissingTopic { .. }))
        };
        while !(0..3).all(missing) {
            assert!(Instant::now() < end, "topic {} does not go", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        self.make(3, &[]);
    }

    /// Deletes the records below `offset` of partition 0, as retention does.
    pub fn delete_before(&self, offset: i64) {
        let part = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
        let topic = DeleteRecordsTopic::default()
            .with_name(StrBytes::from_string(self.name.clone()).into())
            .with_partitions(vec![part]);
        let question =
            DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
        let view = list().describe(&self.name, 0).expect("described");
        let leader = view.leader_address(0).expect("a leader");
        let answer: DeleteRecordsResponse = ask(leader, ApiKey::DeleteRecords, 1, &question);
        let parts = answer.topics.iter().flat_map(|topic| &topic.partitions);
        assert_eq!(parts.map(|part| part.error_code).collect::<Vec<_>>(), [0], "{answer:?}");
    }

    /// Asks that partition 0 be led by its first replica again, if that is in sync.
    pub fn elect_preferred(&self) {
        let topic = TopicPartitions::default()
            .with_topic(StrBytes::from_string(self.name.clone()).into())
            .with_partitions(vec![0]);
        let question = ElectLeadersRequest::default()
            .with_topic_partitions(Some(vec![topic]))
            .with_timeout_ms(10_000);
        let broker = list().hosts().next().expect("a broker").to_owned();
        let _it_may_lead_already: ElectLeadersResponse =
            ask(&broker, ApiKey::ElectLeaders, 1, &question);
    }

    /// Changes a setting of the topic.
    pub fn alter(&self, key: &'static str, value: &'static str) {
        let setting = AlterableConfig::default()
            .with_name(StrBytes::from_static_str(key))
            .with_value(Some(StrBytes::from_static_str(value)));
        let topic = AlterConfigsResource::default()
            .with_resource_type(2) // a topic
            .with_resource_name(StrBytes::from_string(self.name.clone()))
            .with_configs(vec![setting]);
        let question = IncrementalAlterConfigsRequest::default().with_resources(vec![topic]);
        let broker = list().hosts().next().expect("a broker").to_owned();
        let answer: IncrementalAlterConfigsResponse =
            ask(&broker, ApiKey::IncrementalAlterConfigs, 0, &question);
        let codes: Vec<i16> = answer.responses.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [0], "{answer:?}");
    }

    /// When each record was created, ms since the epoch, as the log holds it.
    pub fn timestamps(&self) -> Vec<Option<i64>> {
        let mut times = Vec::new();
        self.each_message(|message| match message.timestamp() {
            rdkafka::Timestamp::CreateTime(ms) if ms >= 0 => times.push(Some(ms)),
            _ => times.push(None),
        });
        times
    }

    /// Every record that the log holds now, partition after partition, in order.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        self.each_message(|message| {
            records.push(Record {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            });
        });
        records
    }

    fn each_message(&self, mut each: impl FnMut(&rdkafka::message::BorrowedMessage<'_>)) {
        let consumer: BaseConsumer = config()
            .set("group.id", "unused")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        for partition in 0..self.partitions {
            let end = Instant::now() + PATIENCE;
            // A broker that came back leads again, and the client learns of it by this error.
            let (low, high) = loop {
                match consumer.fetch_watermarks(&self.name, partition, PATIENCE) {
                    Ok(offsets) => break offsets,
                    Err(e) if Instant::now() < end => eprintln!("asked again: {e}"),
                    Err(e) => panic!("the log's first and last offset: {e}"),
                }
                std::thread::sleep(Duration::from_millis(200));
            };
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&self.name, partition, Offset::Offset(low)).expect("valid");
            consumer.assign(&list).expect("an assignment");
            let end = Instant::now() + PATIENCE;
            let mut next = low;
            while next < high {
                assert!(Instant::now() < end, "{}-{partition} stops at {next}", self.name);
                let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
                let message = message.expect("a record");
                if message.partition() != partition {
                    continue; // fetched ahead for the assignment before
                }
                next = message.offset() + 1;
                each(&message);
            }
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if let Err(why) = list().delete_topic(&self.name) {
            eprintln!("topic {} is not deleted: {why}", self.name);
        }
    }
}

/// The answer of one broker, by its address.
pub fn ask<Q: Encodable, A: Decodable>(broker: &str, key: ApiKey, version: i16, question: &Q) -> A {
    let mut connection = list().connect(broker).expect("connected");
    connection.ask(key, version, question, PATIENCE).expect("an answer")
}

/// A binary of the lab under test, killed when dropped. Its stdout and stderr are gathered; a test
/// that fails prints the log of each that it still runs.
pub struct Running {
    name: String,
    child: Child,
    stdout: Gathered,
    stderr: Gathered,
}

/// The output of a binary that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

type Text = Arc<std::sync::Mutex<String>>;

struct Gathered {
    text: Text,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Gathered {
    fn from(mut pipe: impl std::io::Read + Send + 'static) -> Self {
        let text = Text::default();
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut bytes) {
                into.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.so_far()
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }
}

impl Running {
    /// Starts a binary, such as `env!("CARGO_BIN_EXE_producer")`, with the cluster's brokers and
    /// no other `LAB_*` of the caller's.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        binary: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = Command::new(binary);
        for name in ["LAB_SINK", "LAB_TOKEN"] {
            command.env_remove(name);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{binary}: {e}"));
        let stdout = Gathered::from(child.stdout.take().expect("piped"));
        let stderr = Gathered::from(child.stderr.take().expect("piped"));
        let name = binary.rsplit('/').next().unwrap_or(binary).to_owned();
        Self { name, child, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until its log holds `text`; fails when it ends or takes too long.
    pub fn await_log(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            let ended = self.child.try_wait().expect("a status");
            assert!(ended.is_none() && Instant::now() < end, "no {text:?} in the log ({ended:?})");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes any pid; ours is a child that was not waited for, so it is not reused.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "cannot signal {pid}");
    }

    /// Waits for its end; fails when it takes longer than `within`.
    pub fn end(mut self, within: Duration) -> Ended {
        let end = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                break status;
            }
            assert!(Instant::now() < end, "still running after {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        Ended { status, stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} (pid {}):\n{}", self.name, self.pid(), self.log());
        }
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
