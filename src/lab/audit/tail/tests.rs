//! Logs of brokers that are not there: `brokers::fake`.

use std::path::PathBuf;

use kafka_protocol::messages::ApiKey;

use super::*;
use crate::brokers::fake::{Cluster, Model, Partition, TOPIC, batch};
use crate::event::Event;

fn settings() -> Settings {
    Settings {
        brokers: None,
        command_config: None,
        topic: TOPIC.into(),
        group: "g".into(),
        isolation: Isolation::ReadUncommitted,
        sink: "s".into(),
        producer: Vec::new(),
        processor: Vec::new(),
        shed_ids: Vec::new(),
        spill_dir: Vec::new(),
        dead_letter: Vec::new(),
        out: PathBuf::new(),
    }
}

fn event(id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Event { id, key: 1, ts_us: 2, payload: [0; 9].into() }.encode(&mut bytes);
    bytes
}

/// Offsets `base` to `base + 4` with events of those ids.
fn five(base: u64) -> (i64, Vec<u8>) {
    batch(base as i64, &(base..base + 5).map(event).collect::<Vec<_>>())
}

/// 0 to 20, of which compaction took 5 to 9, and 12 are committed.
fn partition(leader: i32) -> Partition {
    Partition {
        leader,
        high_watermark: 20,
        committed: 12,
        batches: vec![five(0), five(10), five(15)],
        ..Partition::default()
    }
}

fn cluster(partitions: impl IntoIterator<Item = Partition>) -> Cluster {
    let partitions = (0..).zip(partitions).collect();
    Cluster::start(2, Model { topic_id: 7, partitions, ..Model::default() })
}

#[test]
fn a_partition_whose_offsets_are_unknown_fails_the_audit_rather_than_counting_as_empty() {
    let reading = LogReading { unread: vec!["end of partition 3".into()], ..Default::default() };
    let why = tail_bounds(&Brokers::parse("b:1").expect("a list"), &settings(), &reading)
        .expect_err("unknown")
        .to_string();
    assert!(why.contains("partition 3"), "{why}");
}

/// Prevents: offsets that hold no record waited for or counted; a record that is no event, or behind
/// the end, taken for an id.
#[test]
fn the_tail_is_read_from_the_committed_offset_to_the_end() {
    let whole = Partition { committed: -1, ..partition(1) };
    let done = Partition { committed: 20, ..partition(0) };
    let odd = vec![event(100), b"short".to_vec(), event(101), event(102)];
    let odd = Partition {
        high_watermark: 3,
        committed: -1,
        batches: vec![batch(0, &odd)],
        ..partition(0)
    };
    let cluster = cluster([partition(0), whole, done, odd]);
    let tail = Tail::of(&cluster.brokers(), &settings()).expect("read");
    let ids: RoaringTreemap = (0..5).chain(10..20).chain([100, 101]).collect();
    assert_eq!((tail.records, tail.invalid, tail.ids), (8 + 15 + 3, 1, ids));
}

/// Prevents: an audit that fails because a leader moves, or retention comes, while it reads.
#[test]
fn a_leader_that_moves_is_followed_and_what_retention_took_is_not_waited_for() {
    let moved = Partition { start: 15, batches: vec![five(15)], ..partition(1) };
    let moving = Partition { becomes: Some(Box::new(moved)), ..partition(0) };
    let cluster = cluster([moving]);
    let tail = Tail::of(&cluster.brokers(), &settings()).expect("read");
    assert_eq!(tail.ids, (15..20).collect());
    assert!(cluster.asked(1, ApiKey::Fetch) > 0);
}

/// Prevents: what cannot be read counting as nothing: an audit that finds all of it missing, or, where
/// the processor counted it as invalid, all of it explained.
#[test]
fn a_batch_that_cannot_be_read_fails_the_audit_with_its_place() {
    let mut damaged = partition(0);
    let last = damaged.batches[2].1.last_mut().expect("bytes");
    *last ^= 1;
    let cluster = cluster([partition(0), damaged]);
    let why = Tail::of(&cluster.brokers(), &settings()).err().expect("unreadable");
    let why = why.to_string();
    assert!(why.contains("partition 1 offset 15: ") && why.contains("CRC"), "{why}");
}

/// Prevents: a batch behind the end, which came with the last answer, failing the audit.
#[test]
fn what_stands_behind_the_end_is_not_read() {
    let mut growing = partition(0);
    growing.high_watermark = 15;
    growing.batches[2].1.truncate(40);
    growing.batches[2].1.resize(200, 0);
    let cluster = cluster([growing]);
    let tail = Tail::of(&cluster.brokers(), &settings()).expect("read");
    assert_eq!((tail.records, tail.ids.max()), (3, Some(14)));
}
