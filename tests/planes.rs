//! One table, each cell a test: each kind of log entry and fault, against each data plane, on the
//! brokers that the tests run on. `run/test.sh` runs it on the newest Kafka and once more on 3.9,
//! where both planes work. A plane that cannot read an entry ends by name; it never skips and
//! commits.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use std::time::{Duration, Instant};

use backpressure_lab::brokers::Brokers;
use backpressure_lab::event::{self, Event};
use backpressure_lab::planes::kafka;
use common::lab::{Served, figure, ledger, processor, produce, sink};
use common::{PATIENCE, Topic, brokers};
use kafka_protocol::messages::ApiKey;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

const AMPLE: &[&str] = &["--rate-limit", "1000000"];

/// The planes that work with these brokers.
fn planes() -> Vec<&'static str> {
    let broker = brokers().split(',').next().expect("a broker").to_owned();
    let list = Brokers::parse(&broker).expect("a list");
    if kafka::check(&list, &broker).is_ok() { vec!["wire", "kafka"] } else { vec!["wire"] }
}

/// Which Kafka the brokers are: 3.9 is the last that takes Fetch v0.
fn takes_old_fetches() -> bool {
    planes().len() == 2
}

fn start(topic: &Topic, sink: &Served, plane: &str, flags: &[&str]) -> Served {
    processor(topic, sink, &[&["--client", plane], flags].concat())
}

/// librdkafka's producer, with its own settings.
fn producer(settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("acks", "all");
    let own = [("linger.ms", "200"), ("message.max.bytes", "4000000")];
    for (name, value) in own.iter().chain(settings) {
        config.set(*name, *value);
    }
    config.create().expect("a producer")
}

/// An event whose payload does not compress.
fn bytes(id: u64, payload: usize) -> Vec<u8> {
    let payload = event::payload(&mut event::stream(1, id), payload);
    let mut bytes = Vec::new();
    let ts_us = backpressure_lab::clock::now_us();
    Event { id, key: id % 7, ts_us, payload }.encode(&mut bytes);
    bytes
}

/// Sends events of these ids to partition 0, in one batch.
fn send(producer: &BaseProducer, topic: &Topic, ids: std::ops::Range<u64>, payload: usize) {
    send_to(1, producer, topic, ids, payload);
}

/// Sends events of these ids to the first `partitions` in turn, one batch each.
fn send_to(
    partitions: i32,
    producer: &BaseProducer,
    topic: &Topic,
    ids: std::ops::Range<u64>,
    payload: usize,
) {
    for (id, partition) in ids.zip((0..partitions).cycle()) {
        let value = bytes(id, payload);
        let record = BaseRecord::<[u8], [u8]>::to(&topic.name).partition(partition).payload(&value);
        producer.send(record).map_err(|(e, _)| e).expect("queued");
    }
    producer.flush(PATIENCE).expect("flushed");
}

fn delivered(sink: &Served, ids: u64) {
    sink.until("every id is delivered", |s| figure(&ledger(s), "distinct") >= ids);
    let ledger = ledger(sink);
    assert_eq!((figure(&ledger, "distinct"), figure(&ledger, "duplicates")), (ids, 0));
    assert_eq!(figure(&ledger, "corrupt"), 0, "{ledger}");
}

/// Crate kafka cannot read it: its run ends, and its message has `word`. The wire plane delivers
/// all `ids`.
fn is_read_or_named(plane: &str, processor: Served, sink: &Served, ids: u64, word: &str) {
    if plane == "wire" {
        delivered(sink, ids);
        clean(processor);
    } else {
        let ended = processor.process.end(PATIENCE);
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
    }
}

fn clean(processor: Served) {
    for name in ["processor_events_invalid_total", "processor_events_lost_total"] {
        assert_eq!(processor.metric(name, ""), 0.0, "{name}");
    }
    processor.stop();
}

#[test]
fn each_codec_is_read_or_ends_the_run_by_name() {
    for plane in planes() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            let (topic, sink) = (Topic::create("codec", 1), sink(AMPLE));
            // librdkafka was built here without zstd; the brokers check what our producer packs.
            let flags = ["--rate", "100000", "--count", "50", "--compression", codec];
            if codec == "zstd" {
                produce(&topic, &flags);
            } else {
                send(&producer(&[("compression.codec", codec)]), &topic, 0..50, 300);
            }
            let processor = start(&topic, &sink, plane, &[]);
            if plane == "kafka" && ["lz4", "zstd"].contains(&codec) {
                let ended = processor.process.end(PATIENCE);
                assert_eq!(ended.status.code(), Some(1), "{codec}");
                for words in ["partition 0 offset 0", codec, "--client wire", "--skip-unreadable"] {
                    assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
                }
                continue;
            }
            delivered(&sink, 50);
            clean(processor);
        }
    }
}

/// Prevents: plain batches that stand before a compressed one in the same answer being dropped (as crate `kafka` does).
#[test]
fn batches_of_several_codecs_in_one_log_are_delivered_whole() {
    for plane in planes() {
        let (topic, sink) = (Topic::create("several", 1), sink(AMPLE));
        let codecs = ["none", "gzip", "none", "none", "snappy", "gzip", "none", "snappy", "none"];
        for (first, codec) in (0..).step_by(7).zip(codecs) {
            send(&producer(&[("compression.codec", codec)]), &topic, first..first + 7, 200);
        }
        let processor = start(&topic, &sink, plane, &["--worker-assignment", "key"]);
        delivered(&sink, 63);
        assert_eq!(figure(&ledger(&sink), "order_violations"), 0, "{plane}");
        clean(processor);
    }
}

/// Prevents: a gap that compaction left inside a batch ending the run as a corrupt batch, or the rest
/// of the batch passed over with it.
#[test]
fn gaps_that_compaction_left_are_counted_and_what_is_there_is_delivered() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("segment.ms", "1000"),
    ];
    let topics: Vec<_> = planes()
        .into_iter()
        .map(|plane| (plane, Topic::create_with("compacted", 1, &settings)))
        .collect();
    let each = |codec: &str, first: u64, keys: &[u64], payload: usize| {
        let producer = producer(&[("compression.codec", codec)]);
        for (_, topic) in &topics {
            for (id, key) in (first..).zip(keys) {
                let (key, value) = (key.to_string(), bytes(id, payload));
                let record = BaseRecord::to(&topic.name).partition(0).key(&key).payload(&value);
                producer.send(record).map_err(|(e, _)| e).expect("queued");
            }
        }
        producer.flush(PATIENCE).expect("flushed");
    };
    let ten = |first: u64| (first..first + 10).collect::<Vec<u64>>();
    each("none", 0, &ten(0), 200);
    each("gzip", 10, &ten(40), 200);
    // The first, the last and three in the middle of each.
    each("none", 20, &[0, 2, 3, 4, 9, 40, 42, 43, 44, 49], 200);
    // A whole batch.
    each("none", 30, &[60, 61], 200);
    each("none", 32, &[60, 61], 200);
    // The cleaner leaves the last segment alone, so a record that comes a second later begins a new
    // one; and the cleaner runs every 15 s.
    for id in 34..37 {
        std::thread::sleep(Duration::from_millis(1200));
        each("none", id, &[id + 100], 3000);
    }
    for (plane, topic) in &topics {
        let end = Instant::now() + PATIENCE;
        while records_in(topic) > 25 {
            assert!(Instant::now() < end, "{}: not compacted", records_in(topic));
            std::thread::sleep(Duration::from_secs(1));
        }
        let sink = sink(AMPLE);
        let processor = start(topic, &sink, plane, &[]);
        processor.until("the high watermark is committable", |p| {
            p.metric("processor_committable_offset", "partition=\"0\"") == 37.0
        });
        let ledger = ledger(&sink);
        assert_eq!((figure(&ledger, "distinct"), figure(&ledger, "duplicates")), (25, 0));
        let lost = processor.metric("processor_events_lost_total", "reason=\"gap\"");
        assert_eq!(lost, 12.0, "{plane}");
        processor.stop();
    }
}

/// How many records another client finds in partition 0.
fn records_in(topic: &Topic) -> usize {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", "counts-records")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic.name, 0, Offset::Beginning).expect("valid");
    consumer.assign(&list).expect("assigned");
    let records = std::iter::from_fn(|| consumer.poll(PATIENCE));
    records.take_while(Result::is_ok).count()
}

/// Unreadable records are skipped on request: counted, kept, committed, and no more.
#[test]
fn what_a_plane_cannot_read_is_skipped_when_told_so() {
    if !takes_old_fetches() {
        return; // crate kafka is the one that cannot read lz4
    }
    let (topic, sink) = (Topic::create("skips", 1), sink(AMPLE));
    send(&producer(&[]), &topic, 0..5, 300);
    send(&producer(&[("compression.codec", "lz4")]), &topic, 5..16, 300);
    send(&producer(&[]), &topic, 16..21, 300);
    let processor = start(&topic, &sink, "kafka", &["--skip-unreadable"]);
    delivered(&sink, 10);
    processor.until("its offsets are counted", |p| {
        p.metric("processor_events_invalid_total", "reason=\"lz4\"") == 11.0
    });
    processor.stop();
}

#[test]
fn transactions_are_read_by_the_isolation_that_is_asked_for() {
    for plane in planes() {
        for isolation in ["read-uncommitted", "read-committed"] {
            if plane == "kafka" && isolation == "read-committed" {
                continue; // refused as usage, in tests/kafka/processor.rs
            }
            let (topic, sink) = (Topic::create("txn", 1), sink(AMPLE));
            let id = format!("{}-{plane}-{isolation}", topic.name);
            let producer = producer(&[("transactional.id", &id)]);
            producer.init_transactions(PATIENCE).expect("transactions");
            for (ids, commits) in [(0..10, true), (10..20, false), (20..30, true)] {
                producer.begin_transaction().expect("begun");
                send(&producer, &topic, ids, 300);
                if commits {
                    producer.commit_transaction(PATIENCE).expect("committed");
                } else {
                    producer.abort_transaction(PATIENCE).expect("aborted");
                }
            }
            let processor = start(&topic, &sink, plane, &["--isolation", isolation]);
            let committed = isolation == "read-committed";
            delivered(&sink, if committed { 20 } else { 30 });
            // Markers and aborted records are skipped, and the end is committed: 30 records and 3
            // markers.
            processor.until("the high watermark is committable", |p| {
                p.metric("processor_committable_offset", "partition=\"0\"") == 33.0
            });
            clean(processor);
        }
    }
}

/// Prevents: records of an aborted transaction that are delivered because another one began later and was aborted first.
#[test]
fn transactions_that_overlap_are_aborted_each_by_itself() {
    let (topic, sink) = (Topic::create("overlap", 1), sink(AMPLE));
    let named = |name| producer(&[("transactional.id", &format!("{}-{name}", topic.name))]);
    let (first, second) = (named("first"), named("second"));
    for producer in [&first, &second] {
        producer.init_transactions(PATIENCE).expect("transactions");
        producer.begin_transaction().expect("begun");
    }
    send(&first, &topic, 0..5, 300);
    send(&second, &topic, 5..10, 300);
    second.abort_transaction(PATIENCE).expect("aborted");
    first.abort_transaction(PATIENCE).expect("aborted");
    second.begin_transaction().expect("begun");
    send(&second, &topic, 10..15, 300);
    second.commit_transaction(PATIENCE).expect("committed");
    let processor = start(&topic, &sink, "wire", &["--isolation", "read-committed"]);
    processor.until("the high watermark is committable", |p| {
        p.metric("processor_committable_offset", "partition=\"0\"") == 18.0
    });
    delivered(&sink, 5);
    clean(processor);
}

#[test]
fn tombstones_and_empty_values_are_counted_and_passed_over() {
    for plane in planes() {
        let (topic, sink) = (Topic::create("tombs", 1), sink(AMPLE));
        let producer = producer(&[]);
        send(&producer, &topic, 0..3, 100);
        let record = BaseRecord::<str, [u8]>::to(&topic.name).partition(0).key("gone");
        producer.send(record).map_err(|(e, _)| e).expect("queued");
        send(&producer, &topic, 3..6, 100);
        let processor = start(&topic, &sink, plane, &[]);
        delivered(&sink, 6);
        processor.until("it is counted", |p| {
            p.metric("processor_events_invalid_total", "reason=\"tombstone\"") == 1.0
        });
        processor.stop();
    }
}

#[test]
fn records_of_a_mebibyte_are_delivered() {
    for plane in planes() {
        let topic = Topic::create_with("large", 1, &[("max.message.bytes", "3000000")]);
        let sink = sink(AMPLE);
        send(&producer(&[]), &topic, 0..6, 999_000);
        let processor = start(&topic, &sink, plane, &[]);
        delivered(&sink, 6);
        clean(processor);
    }
}

#[test]
fn a_topic_made_anew_is_read_from_its_start() {
    for plane in planes() {
        let (topic, sink) = (Topic::create("anew", 1), sink(AMPLE));
        send(&producer(&[]), &topic, 0..40, 100);
        let processor = start(&topic, &sink, plane, &[]);
        sink.until("the first log", |s| figure(&ledger(s), "distinct") >= 40);
        topic.make_anew();
        send(&producer(&[]), &topic, 100..120, 100);
        sink.until("the second log", |s| figure(&ledger(s), "distinct") >= 60);
        processor.stop();
    }
}

#[test]
fn partitions_that_are_added_are_read() {
    for plane in planes() {
        let (topic, sink) = (Topic::create("grows", 1), sink(AMPLE));
        let processor = start(&topic, &sink, plane, &[]);
        processor.until("it has one", |p| p.metric("processor_partitions", "") == 1.0);
        common::list().grow_topic(&topic.name, 3).expect("grown");
        processor.until("it has three", |p| p.metric("processor_partitions", "") == 3.0);
        send_to(3, &producer(&[]), &topic, 0..30, 100);
        delivered(&sink, 30);
        clean(processor);
    }
}

/// A quota makes the broker answer at once without the topic (KIP-219): the fetcher waits, and does
/// not take it for a lost leader.
#[test]
fn a_throttled_fetch_is_waited_out() {
    let producer = producer(&[]);
    let _quota = Quota::set(100_000);
    for plane in planes() {
        let (topic, sink) = (Topic::create("quota", 3), sink(AMPLE));
        send_to(3, &producer, &topic, 0..900, 1000);
        let processor = start(&topic, &sink, plane, &["--answer-bytes", "64KiB"]);
        delivered(&sink, 900);
        assert_eq!(processor.metric("processor_fetch_retries_total", ""), 0.0, "{plane}");
        assert!(!processor.process.log().contains("leader"), "{}", processor.process.log());
        clean(processor);
    }
}

/// A quota of bytes/s for consumers of the lab's client id, while it lives.
struct Quota;

impl Quota {
    fn set(bytes_per_s: u32) -> Self {
        Self::alter(Some(f64::from(bytes_per_s)));
        Self
    }

    fn alter(rate: Option<f64>) {
        use kafka_protocol::messages::alter_client_quotas_request::{
            EntityData, EntryData, OpData,
        };
        use kafka_protocol::messages::{AlterClientQuotasRequest, AlterClientQuotasResponse};
        use kafka_protocol::protocol::StrBytes;
        let entity = EntityData::default()
            .with_entity_type(StrBytes::from_static_str("client-id"))
            .with_entity_name(Some(StrBytes::from_static_str("backpressure-lab")));
        let operation = OpData::default()
            .with_key(StrBytes::from_static_str("consumer_byte_rate"))
            .with_value(rate.unwrap_or_default())
            .with_remove(rate.is_none());
        let entry = EntryData::default().with_entity(vec![entity]).with_ops(vec![operation]);
        let question = AlterClientQuotasRequest::default().with_entries(vec![entry]);
        let broker = common::list().hosts().next().expect("a broker").to_owned();
        let answer: AlterClientQuotasResponse =
            common::ask(&broker, ApiKey::AlterClientQuotas, 1, &question);
        assert!(answer.entries.iter().all(|entry| entry.error_code == 0), "{answer:?}");
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        Self::alter(None);
    }
}

/// A topic that refuses to convert down is no trouble for today's protocol; an old client ends by the
/// setting's name.
#[test]
fn a_topic_that_is_not_converted_down_is_read_or_named() {
    if !takes_old_fetches() {
        return; // Kafka 4 knows no such setting
    }
    for plane in planes() {
        let settings = [("message.downconversion.enable", "false")];
        let (topic, sink) = (Topic::create_with("nodown", 1, &settings), sink(AMPLE));
        send(&producer(&[]), &topic, 0..20, 100);
        let processor = start(&topic, &sink, plane, &[]);
        is_read_or_named(plane, processor, &sink, 20, "message.downconversion.enable");
    }
}

/// A topic that is switched to zstd keeps its plain records, which an old Fetch is refused.
#[test]
fn plain_records_of_a_topic_switched_to_zstd_are_read_or_named() {
    for plane in planes() {
        let (topic, sink) = (Topic::create("tozstd", 1), sink(AMPLE));
        send(&producer(&[]), &topic, 0..20, 100);
        topic.alter("compression.type", "zstd");
        // Brokers learn of it one after the other.
        std::thread::sleep(Duration::from_secs(3));
        let processor = start(&topic, &sink, plane, &[]);
        is_read_or_named(plane, processor, &sink, 20, "--client wire");
    }
}

/// Prevents: an old Fetch that is refused over and over in silence, as no batch tells why.
#[test]
fn an_empty_topic_of_zstd_is_named_to_an_old_client() {
    if !takes_old_fetches() {
        return;
    }
    let (topic, sink) = (Topic::create("zstd-empty", 1), sink(AMPLE));
    topic.alter("compression.type", "zstd");
    std::thread::sleep(Duration::from_secs(3));
    let processor = start(&topic, &sink, "kafka", &[]);
    processor.until("it says why", |it| it.process.log().contains("use --client wire"));
    std::thread::sleep(Duration::from_secs(5));
    // From 50 ms on, each wait twice as long.
    assert!(processor.metric("processor_fetch_retries_total", "") < 15.0);
    clean(processor);
}

/// A corrupt batch ends the run with its offset; nothing after it is skipped silently. (A client
/// cannot change a log's bytes through a broker: `records` and `fetch_answer` have tests with
/// changed bytes. Here, a record that only claims to be an event.)
#[test]
fn foreign_text_is_counted_by_its_offset() {
    for plane in planes() {
        let (topic, sink) = (Topic::create("text", 1), sink(AMPLE));
        let producer = producer(&[]);
        let record = BaseRecord::<[u8], str>::to(&topic.name).partition(0).payload("hello");
        producer.send(record).map_err(|(e, _)| e).expect("queued");
        send(&producer, &topic, 0..2, 100);
        let processor = start(&topic, &sink, plane, &[]);
        delivered(&sink, 2);
        assert!(processor.process.log().contains("partition=0 offset=0 reason=too_short"));
        processor.stop();
    }
}

/// Prevents: a hidden queue that nobody sees; events that are lost or come twice out of it, also when a second member
/// takes half of the partitions over while it is full.
#[test]
fn what_librdkafka_fetches_ahead_is_shown_and_delivered_once() {
    if takes_old_fetches() {
        return; // it is the same there, and takes half a minute
    }
    let (topic, sink) = (Topic::create("ahead", 4), sink(&["--rate-limit", "2000"]));
    produce(&topic, &["--rate", "100000", "--count", "40000"]);
    let flags = ["--queue-cap", "500", "--batch-size", "100"];
    let processor = start(&topic, &sink, "rdkafka", &flags);
    processor.until("it holds most of the log", |p| {
        p.metric("processor_prefetched_events", "") > 10_000.0
            && p.metric("processor_prefetched_bytes", "") > 5e6
    });
    let second = start(&topic, &sink, "rdkafka", &flags);
    second.until("it has its share", |p| p.metric("processor_partitions", "") == 2.0);
    let held = processor.metric("processor_prefetched_events", "");
    assert!(held > 1_000.0, "{held}: it ran empty before the rebalance");
    sink.until("every id is delivered", |s| figure(&ledger(s), "distinct") >= 40_000);
    // What the first had in flight when its partitions went is delivered, and may come again.
    let again = figure(&ledger(&sink), "duplicates");
    assert!(again <= 2 * (500 + 4 * 100), "{again} came twice");
    for one in [processor, second] {
        clean(one);
    }
}

/// Prevents: a replay by time that jumps to the end, because records have no time.
#[test]
fn records_carry_the_time_when_they_were_due() {
    let topic = Topic::create("times", 1);
    let begun = Instant::now();
    let before_ms = backpressure_lab::clock::now_us() / 1000;
    produce(&topic, &["--rate", "1000", "--count", "500"]);
    let after_ms = before_ms + begun.elapsed().as_millis() as i64;
    for timestamp in topic.timestamps() {
        let timestamp = timestamp.expect("a create time");
        assert!((before_ms - 1..=after_ms + 1).contains(&timestamp), "{timestamp}");
    }
}
