//! Properties of the whole room, and batches made by hand for the tests beside the code.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::build::{Header, put_record};
use super::*;

/// Enough for every batch here but the bombs.
const LIMIT: usize = 4 << 20;

/// A batch that our builder does not make.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) base_offset: i64,
    /// The highest delta of a record, where there is none here.
    pub(super) last_delta: Option<i32>,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) log_append_time: bool,
    pub(super) control: bool,
    pub(super) codec_bits: u8,
    /// Count in the header; that of the records where there is none here.
    pub(super) announced: Option<i32>,
    pub(super) records: i32,
    pub(super) highest_delta: i32,
    pub(super) body: Vec<u8>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            base_offset: 0,
            last_delta: None,
            base_timestamp: 1_000,
            max_timestamp: 2_000,
            log_append_time: false,
            control: false,
            codec_bits: 0,
            announced: None,
            records: 0,
            highest_delta: 0,
            body: Vec::new(),
        }
    }
}

impl Raw {
    /// With one more record, `delta` offsets and as many ms after the first.
    pub(super) fn record(mut self, delta: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        put_record(&mut self.body, i64::from(delta), delta, key, value);
        self.highest_delta = self.highest_delta.max(delta);
        self.records += 1;
        self
    }

    /// With bytes that count as `records` records.
    pub(super) fn bytes(mut self, records: i32, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self.records += records;
        self
    }

    pub(super) fn batch(&self) -> Vec<u8> {
        let mut batch = [&[0; BATCH_HEADER_BYTES][..], &self.body].concat();
        let bits = [(self.log_append_time, 8), (self.control, 32)];
        let bits = bits.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum::<i16>();
        let header = Header {
            attributes: bits | i16::from(self.codec_bits),
            base_offset: self.base_offset,
            last_offset_delta: self.last_delta.unwrap_or(self.highest_delta),
            base_timestamp_ms: self.base_timestamp,
            max_timestamp_ms: self.max_timestamp,
            stamp: ProducerStamp::NONE,
            records: self.announced.unwrap_or(self.records),
        };
        header.seal(&mut batch);
        batch
    }
}

/// A batch of `records` small records that each codec makes smaller.
pub(super) fn built(codec: Codec, records: i64) -> Vec<u8> {
    let mut builder = Builder::new();
    for n in 0..records {
        builder.push(1_000 + n, Some(b"key"), Some(&[b'v'; 40])).expect("room");
    }
    builder.finish(codec, ProducerStamp::NONE).expect("memory").to_vec()
}

fn only(set: &[u8]) -> Batch<'_> {
    let mut all = batches(set);
    let batch = all.next().expect("a batch").expect("a good header");
    assert!(all.next().is_none());
    batch
}

/// A record's timestamp, key and value.
type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn records() -> impl Strategy<Value = Vec<Plain>> {
    let bytes = || {
        let repeated = (any::<u8>(), 0_usize..2_000).prop_map(|(byte, len)| vec![byte; len]);
        option::of(prop_oneof![vec(any::<u8>(), 0..20), repeated])
    };
    let timestamp = prop_oneof![4 => 1_700_000_000_000_i64..1_700_000_100_000, 1 => any::<i64>()];
    vec((timestamp, bytes(), bytes()), 1..60)
}

fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[..])
}

fn filled(records: &[Plain]) -> Builder {
    let mut builder = Builder::new();
    for (timestamp, key, value) in records {
        builder.push(*timestamp, key.as_deref(), value.as_deref()).expect("room");
    }
    builder
}

proptest! {
    /// Prevents: an event that changes between the producer and the processor.
    #[test]
    fn what_is_built_is_read(
        records in records(),
        codec in any_codec(),
        producer_id in any::<i64>(),
        producer_epoch in any::<i16>(),
        base_sequence in any::<i32>(),
    ) {
        let mut builder = filled(&records);
        prop_assert_eq!(builder.len(), records.len());
        let bytes_max = builder.bytes();
        let announced: usize = records.iter().map(|(_, key, value)| {
            let len = |field: &Option<Vec<u8>>| field.as_ref().map_or(0, Vec::len);
            record_bytes(len(key), len(value))
        }).sum();
        prop_assert!(bytes_max <= BATCH_HEADER_BYTES + announced);
        let stamp = ProducerStamp { producer_id, producer_epoch, base_sequence };
        let set = builder.finish(codec, stamp).expect("memory").to_vec();
        prop_assert!(set.len() <= bytes_max);

        let batch = only(&set);
        let header = batch.header;
        prop_assert!(header.codec == codec.bits() || (header.codec == 0 && set.len() == bytes_max));
        let count = records.len() as i64;
        prop_assert_eq!(header, BatchHeader {
            base_offset: 0,
            last_offset: count - 1,
            size: set.len(),
            leader_epoch: -1,
            codec: header.codec,
            is_control: false,
            is_transactional: false,
            producer_id,
            producer_epoch,
            base_sequence,
            records: count as i32,
            base_timestamp_ms: records[0].0,
            max_timestamp_ms: records.iter().map(|r| r.0).max().expect("one at least"),
            log_append_time: false,
        });
        let mut scratch = Scratch::new(LIMIT);
        let read: Result<Vec<_>, _> = batch.records(&mut scratch).expect("good").collect();
        for (offset, (record, plain)) in read.expect("good records").iter().zip(&records).enumerate() {
            prop_assert_eq!(record.offset, offset as i64);
            prop_assert_eq!(record.timestamp_ms, plain.0);
            prop_assert_eq!((record.key, record.value), (plain.1.as_deref(), plain.2.as_deref()));
        }
        prop_assert_eq!(batch.records(&mut scratch).expect("again").count(), records.len());
    }

    /// Prevents: a resend that differs from the first try, records that stay in a kept buffer.
    #[test]
    fn a_builder_is_kept(first in records(), second in records(), codec in any_codec()) {
        let fresh = filled(&second).finish(codec, ProducerStamp::NONE).expect("memory").to_vec();
        let mut kept = filled(&first);
        let sent = kept.finish(codec, ProducerStamp::NONE).expect("memory").to_vec();
        kept.finish(Codec::None, ProducerStamp { producer_id: 7, ..ProducerStamp::NONE }).expect("memory");
        prop_assert_eq!(kept.finish(codec, ProducerStamp::NONE).expect("memory"), &sent[..]);
        kept.clear();
        prop_assert!(kept.is_empty());
        for (timestamp, key, value) in &second {
            kept.push(*timestamp, key.as_deref(), value.as_deref()).expect("room");
        }
        prop_assert_eq!(kept.finish(codec, ProducerStamp::NONE).expect("memory"), &fresh[..]);
    }

    /// Prevents: one scratch that gives a batch the bytes of the one before.
    #[test]
    fn a_scratch_is_kept(sets in vec((records(), any_codec()), 1..5)) {
        let mut scratch = Scratch::new(LIMIT);
        for (records, codec) in sets {
            let set = filled(&records).finish(codec, ProducerStamp::NONE).expect("memory").to_vec();
            let batch = only(&set);
            let read = batch.records(&mut scratch).expect("good");
            let values: Vec<_> = read.map(|r| r.expect("a record").value.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(values, records.into_iter().map(|r| r.2).collect::<Vec<_>>());
        }
    }

    /// Prevents: packed bytes that are broken though their sum is right, from a faulty producer,
    /// ending the process or giving more records than there are.
    #[test]
    fn broken_bytes_behind_a_good_sum(
        records in records(),
        codec in any_codec(),
        at in any::<prop::sample::Index>(),
        xor in 1_u8..,
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut set = filled(&records).finish(codec, ProducerStamp::NONE).expect("memory").to_vec();
        let mut body = set.split_off(BATCH_HEADER_BYTES);
        let at = at.index(body.len());
        body[at] ^= xor;
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        let header = parse_header(&set).expect("a good header");
        let raw = Raw {
            codec_bits: header.codec,
            last_delta: Some((records.len() - 1) as i32),
            ..Raw::default()
        };
        let raw = raw.bytes(records.len() as i32, &body).batch();
        let mut scratch = Scratch::new(LIMIT);
        let batch = only(&raw);
        let Ok(read) = batch.records(&mut scratch) else { return Ok(()) };
        let read: Vec<_> = read.collect();
        prop_assert!(read.len() <= records.len() + 1);
        prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
    }
}

/// Prevents: a batch that packing makes larger than its builder said.
#[test]
fn what_packing_does_not_make_smaller_goes_plain() {
    for codec in Codec::ALL {
        let mut builder = Builder::new();
        builder.push(0, None, Some(&[7])).expect("room");
        let bytes = builder.bytes();
        let batch = builder.finish(codec, ProducerStamp::NONE).expect("memory");
        assert_eq!((only(batch).header.codec, batch.len()), (0, bytes), "{codec:?}");
    }
}

#[test]
fn nothing_pushed_is_nothing_to_send() {
    let mut builder = Builder::new();
    assert!(builder.finish(Codec::Gzip, ProducerStamp::NONE).expect("memory").is_empty());
    assert_eq!((builder.len(), builder.bytes()), (0, BATCH_HEADER_BYTES));
}
