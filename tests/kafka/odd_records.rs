//! Records that a foreign producer may leave in the topic: batches of mixed codecs, records that
//! are no event, batches larger than a fetch, a log that retention cut. Each is delivered whole, or
//! counted by reason and skipped, or ends the run by name; nothing loops, nothing is skipped
//! silently.

use crate::common::lab::{Served, commit_with, figure, ledger, processor, produce, sink};
use crate::common::{PATIENCE, Topic, brokers};
use backpressure_lab::event::Event;
use backpressure_lab::http::client;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const AMPLE: &[&str] = &["--rate-limit", "1000000"];

/// Another client: librdkafka's producer, one batch a call of `batch`.
struct Foreign<'a> {
    topic: &'a Topic,
    next_id: u64,
}

impl<'a> Foreign<'a> {
    fn new(topic: &'a Topic) -> Self {
        Self { topic, next_id: 0 }
    }

    /// Writes `events` events of `payload` bytes to partition 0 as one batch.
    fn batch(&mut self, codec: &str, events: u64, payload: usize) {
        if codec == "zstd" {
            // librdkafka was built without it for these tests.
            return self.ours(codec, events, payload);
        }
        let event = |_| (None, Some(self.event(payload)));
        let records = (0..events).map(event).collect();
        self.records(codec, records);
    }

    /// As [`Foreign::batch`], by the lab's own producer; the topic has one partition.
    fn ours(&mut self, codec: &str, events: u64, payload: usize) {
        let [events, first, size] = [events, self.next_id, payload as u64].map(|n| n.to_string());
        let flags = ["--rate", "100000", "--linger", "500ms", "--count", &events];
        let flags = [&flags[..], &["--first-id", &first, "--msg-size", &size]].concat();
        produce(self.topic, &[&flags[..], &["--compression", codec]].concat());
        self.next_id += events.parse::<u64>().expect("a number");
    }

    fn event(&mut self, payload: usize) -> Vec<u8> {
        let id = self.next_id;
        self.next_id += 1;
        let mut bytes = Vec::new();
        // Payloads that do not compress, so that a batch's size is as requested.
        let random = &mut backpressure_lab::event::stream(1, id);
        let payload = backpressure_lab::event::payload(random, payload);
        let ts_us = backpressure_lab::clock::now_us();
        Event { id, key: 1, ts_us, payload }.encode(&mut bytes);
        bytes
    }

    /// Writes records of (key, value) as one batch.
    fn records(&self, codec: &str, records: Vec<(Option<String>, Option<Vec<u8>>)>) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("compression.codec", codec)
            .set("linger.ms", "500")
            .set("batch.size", "4000000")
            .set("message.max.bytes", "4000000")
            .set("acks", "all")
            .create()
            .expect("a producer");
        for (key, value) in &records {
            let mut record = BaseRecord::<str, [u8]>::to(&self.topic.name).partition(0);
            record.key = key.as_deref();
            record.payload = value.as_deref();
            producer.send(record).map_err(|(e, _)| e).expect("queued");
        }
        producer.flush(PATIENCE).expect("flushed");
    }
}

fn all_is_passed(processor: &Served, records: u64) {
    processor.until("the high watermark is committable", |p| {
        p.metric("processor_committable_offset", "partition=\"0\"") as u64 == records
    });
}

/// Prevents: a codec that is skipped and committed; plain batches that stand before a compressed one
/// in the same answer being dropped (as crate `kafka` does).
#[test]
fn batches_of_all_codecs_in_one_log_are_delivered_whole() {
    let (topic, sink) = (Topic::create("mixed", 1), sink(AMPLE));
    let mut foreign = Foreign::new(&topic);
    for codec in [
        "none", "gzip", "lz4", "none", "snappy", "zstd", "none", "gzip", "zstd", "lz4", "snappy",
        "none",
    ] {
        foreign.batch(codec, 7, 200);
    }
    let processor = processor(&topic, &sink, &["--worker-assignment", "key"]);
    all_is_passed(&processor, foreign.next_id);
    let ledger = ledger(&sink);
    assert_eq!(figure(&ledger, "distinct"), foreign.next_id);
    assert_eq!((figure(&ledger, "duplicates"), figure(&ledger, "order_violations")), (0, 0));
    assert_eq!(figure(&ledger, "corrupt"), 0);
    assert_eq!(processor.metric("processor_events_lost_total", ""), 0.0);
    assert_eq!(processor.metric("processor_events_invalid_total", ""), 0.0);
    processor.stop();
}

/// Prevents: a record that is no event being fatal, or silent.
#[test]
fn tombstones_and_short_records_are_counted_by_reason() {
    let (topic, sink) = (Topic::create("short", 1), sink(AMPLE));
    let mut foreign = Foreign::new(&topic);
    foreign.batch("none", 3, 100);
    let tombstone = || (Some("key".to_owned()), None);
    let short = |bytes| (None, Some(vec![1; bytes]));
    foreign.records("none", vec![tombstone(), short(23), short(5), tombstone()]);
    foreign.batch("gzip", 3, 100);
    let dir = tempfile::tempdir().expect("dir");
    let letters = dir.path().join("dead.jsonl");
    let flags = ["--dead-letter", letters.to_str().expect("text")];
    let processor = processor(&topic, &sink, &flags);
    all_is_passed(&processor, 10);
    let invalid = |reason: &str| {
        processor.metric("processor_events_invalid_total", &format!("reason=\"{reason}\""))
    };
    assert_eq!((invalid("tombstone"), invalid("too_short")), (2.0, 2.0));
    assert_eq!(figure(&ledger(&sink), "distinct"), 6);
    assert!(processor.process.log().contains("partition=0 offset=3 reason=tombstone"));
    processor.stop();
    // Each is in the file, with its offset and the reason.
    let text = std::fs::read_to_string(letters).expect("read");
    let line = |line: &str| {
        let letter: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (figure(&letter, "offset"), letter["reason"].as_str().expect("a reason").to_owned())
    };
    let expected = [(3, "tombstone"), (4, "too_short"), (5, "too_short"), (6, "tombstone")];
    let expected = expected.map(|(offset, reason)| (offset, reason.to_owned()));
    assert_eq!(text.lines().map(line).collect::<Vec<_>>(), expected);
}

/// Prevents: crate `kafka`'s silent stall on a batch larger than the fetch size.
#[test]
fn a_batch_larger_than_the_fetch_is_fetched_all_the_same() {
    let topic = Topic::create_with("large", 1, &[("max.message.bytes", "3000000")]);
    let sink = sink(AMPLE);
    let mut foreign = Foreign::new(&topic);
    foreign.batch("none", 10, 100);
    foreign.batch("none", 2000, 1000); // 2 MB in one batch
    foreign.batch("gzip", 500, 1000);
    foreign.batch("none", 10, 100);
    let processor = processor(&topic, &sink, &["--fetch-bytes", "4KiB"]);
    all_is_passed(&processor, foreign.next_id);
    assert_eq!(figure(&ledger(&sink), "distinct"), foreign.next_id);
    processor.stop();
}

/// Prevents: a batch above the limit stalling without a word.
#[test]
fn a_batch_above_the_limit_ends_the_run_with_its_name() {
    let (topic, sink) = (Topic::create("toolarge", 1), sink(AMPLE));
    let mut foreign = Foreign::new(&topic);
    foreign.batch("none", 4, 100);
    foreign.batch("none", 100, 1000);
    let flags = ["--fetch-bytes", "2KiB", "--fetch-bytes-max", "32KiB"];
    let ended = processor(&topic, &sink, &flags).process.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(1));
    for word in [topic.name.as_str(), "partition 0", "offset 4", "--fetch-bytes-max 32768"] {
        assert!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
    }
    assert_eq!(figure(&ledger(&sink), "distinct"), 4, "what stood before it was delivered");
}

/// Prevents: retention overtaking the lag without being counted.
#[test]
fn events_deleted_before_they_were_fetched_are_counted_as_lost() {
    let (topic, sink) = (Topic::create("retention", 1), sink(AMPLE));
    let mut foreign = Foreign::new(&topic);
    foreign.batch("none", 100, 100);
    let first = processor(&topic, &sink, &[]);
    all_is_passed(&first, 100);
    first.stop();
    foreign.batch("none", 900, 100);
    topic.delete_before(600);
    let second = processor(&topic, &sink, &[]);
    all_is_passed(&second, 1000);
    assert_eq!(second.metric("processor_events_lost_total", "reason=\"retention\""), 500.0);
    assert!(second.process.log().contains("from=100 to=600 events_lost=500"));
    assert_eq!(figure(&ledger(&sink), "distinct"), 500);
    second.stop();
}

/// Prevents: positions and commits of a deleted topic taken for those of the topic that replaced
/// it, which would skip its first events; and the end of the run.
#[test]
fn a_topic_made_anew_is_read_from_its_start_and_the_loss_is_said() {
    let (topic, sink) = (Topic::create("anew", 1), sink(&["--rate-limit", "100"]));
    let mut foreign = Foreign::new(&topic);
    // A fetch of this size brings one of them, which takes four seconds to deliver.
    (0..4).for_each(|_| foreign.batch("none", 400, 100));
    let flags = "--queue-cap 50 --batch-size 10 --sink-workers 1 --fetch-bytes 64KiB";
    let flags: Vec<&str> = flags.split(' ').collect();
    let mut first = processor(&topic, &sink, &flags);
    sink.until("some is delivered", |s| figure(&ledger(s), "distinct") > 50);
    topic.make_anew();
    let faster = format!("{}/control", sink.url);
    let faster = client::agent(PATIENCE).post(&faster).send(r#"{"do":"rate","rate":1000}"#);
    assert_eq!(faster.expect("an answer").status(), 200);
    foreign.batch("none", 500, 100);
    first.process.await_log("reason=topic_deleted");
    let all = |ids: u64| move |s: &Served| figure(&ledger(s), "max_id") == ids - 1;
    sink.until("the new topic's are delivered", all(2100));
    let counted = first.metric("processor_events_lost_total", "reason=\"topic_deleted\"");
    let missing = 2100 - figure(&ledger(&sink), "distinct");
    assert!(missing > 0 && counted as u64 == missing, "{missing} missing, {counted} counted");
    first.stop();
    // A late commit of the deleted topic; and one of Kafka's own tools.
    let metadata = format!("topic-id={:032x}", 7);
    commit_with(&topic, &[(0, 300)], &metadata);
    let second = processor(&topic, &sink, &flags);
    sink.until("all is delivered again", |s| figure(&ledger(s), "duplicates") >= 500);
    second.stop();
    commit_with(&topic, &[(0, 450)], "");
    let third = processor(&topic, &sink, &flags);
    all_is_passed(&third, 500);
    assert_eq!(figure(&ledger(&sink), "duplicates"), 550, "from the offset that the tool set");
    third.stop();
}

/// Prevents: a broker that no longer speaks crate `kafka`'s versions looking like a dead one.
#[test]
fn a_broker_that_is_too_new_for_crate_kafka_is_named() {
    let (topic, sink) = (Topic::create("toonew", 1), sink(AMPLE));
    let ended = processor(&topic, &sink, &["--client", "kafka"]).process.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(1));
    for word in ["127.0.0.1:", "too new", "Fetch from version 4", "KIP-896", "--client wire"] {
        assert!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
    }
}
