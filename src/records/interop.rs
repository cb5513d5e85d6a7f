//! We read batches that others write, and others read batches built here: Kafka's Java client, by
//! bytes that it wrote (tests/records/JavaBatches.java), and crate `kafka-protocol`.

use std::io::{Read as _, Write as _};

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

use super::*;

const FIRST_OFFSET: i64 = 1_000;
const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;
const LIMIT: usize = 1 << 20;

/// An offset, a timestamp, a key and a value.
type Plain = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn plain(record: Record<'_>) -> Plain {
    let field = |field: Option<&[u8]>| field.map(<[u8]>::to_vec);
    (record.offset, record.timestamp_ms, field(record.key), field(record.value))
}

fn read(batch: &Batch<'_>) -> Vec<Plain> {
    let mut scratch = Scratch::new(LIMIT);
    let records = batch.records(&mut scratch).expect("a good batch");
    records.map(|record| plain(record.expect("a good record"))).collect()
}

/// Record `n` by the rules of JavaBatches.java.
fn expected(n: i64) -> Plain {
    let key = (n % 3 != 0).then(|| format!("key-{n}").into_bytes());
    let value = match n % 5 {
        0 => None,
        1 => Some(Vec::new()),
        _ => Some(format!("value-{n} ").repeat(n as usize).into_bytes()),
    };
    (FIRST_OFFSET + n, FIRST_TIMESTAMP + 10 * n, key, value)
}

fn java(name: &str) -> Vec<u8> {
    let corpus = "tests/fuzz/__fuzz__/record_batches/corpus/java_";
    std::fs::read(format!("{}/{corpus}{name}", env!("CARGO_MANIFEST_DIR"))).expect("a seed")
}

/// Prevents: events of a Java producer refused, or read otherwise than Java reads them.
#[test]
fn javas_batches_of_every_codec() {
    for codec in Codec::ALL {
        let set = java(codec.name());
        let all: Vec<_> = batches(&set).collect::<Result<_, _>>().expect("good headers");
        let [batch] = &all[..] else { panic!("{} batches", all.len()) };
        let header = BatchHeader {
            base_offset: FIRST_OFFSET,
            last_offset: FIRST_OFFSET + 19,
            size: set.len(),
            leader_epoch: 9,
            codec: codec.bits(),
            is_control: false,
            is_transactional: true,
            producer_id: 77,
            producer_epoch: 3,
            base_sequence: 500,
            records: 20,
            base_timestamp_ms: FIRST_TIMESTAMP,
            max_timestamp_ms: FIRST_TIMESTAMP + 190,
            log_append_time: false,
        };
        assert_eq!(batch.header, header);
        assert_eq!(read(batch), (0..20).map(expected).collect::<Vec<_>>(), "{codec:?}");
    }
}

#[test]
fn javas_log_append_time() {
    let set = java("log_append_time");
    let batch = batches(&set).next().expect("a batch").expect("a good header");
    assert!(batch.header.log_append_time);
    assert!(read(&batch).iter().all(|record| record.1 == FIRST_TIMESTAMP + 7));
}

/// Prevents: compacted batches taken for a loss: gaps, and batches without a record.
#[test]
fn javas_gaps_and_compaction() {
    let set = java("gaps");
    let batch = batches(&set).next().expect("a batch").expect("a good header");
    let left: Vec<_> = (0..20).step_by(3).map(expected).collect();
    assert_eq!((read(&batch), batch.header.last_offset), (left, FIRST_OFFSET + 18));

    let set = java("compacted");
    let all: Vec<_> = batches(&set).collect::<Result<_, _>>().expect("good headers");
    let [data, marker] = &all[..] else { panic!("{} batches", all.len()) };
    let left: Vec<_> = (3..20).step_by(4).map(expected).collect();
    assert_eq!((read(data), data.header.last_offset), (left, FIRST_OFFSET + 19));
    assert_eq!((marker.header.records, marker.header.last_offset), (0, FIRST_OFFSET + 20));
    assert_eq!(marker.control(&mut Scratch::new(LIMIT)), Ok(Control::Removed));
}

#[test]
fn javas_transaction_markers() {
    let set = java("transaction");
    let all: Vec<_> = batches(&set).collect::<Result<_, _>>().expect("good headers");
    let mut scratch = Scratch::new(LIMIT);
    let controls: Vec<_> = all.iter().map(|batch| batch.control(&mut scratch)).collect();
    let none = Err(Malformed::NoControl.into());
    assert_eq!(controls, [none, Ok(Control::Commit), Ok(Control::Abort)]);
    assert!(
        all.iter().all(|batch| batch.header.is_transactional && batch.header.producer_id == 77)
    );
}

fn theirs(n: i64) -> TheirRecord {
    let (_, timestamp, key, value) = expected(n);
    TheirRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: 77,
        producer_epoch: 3,
        timestamp_type: TimestampType::Creation,
        offset: n,
        sequence: 500 + n as i32,
        timestamp,
        key: key.map(Bytes::from),
        value: value.map(Bytes::from),
        headers: Default::default(),
    }
}

fn their_batch(records: &[TheirRecord], compression: Compression) -> Vec<u8> {
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    // Its own gzip is a feature of the crate that nothing else needs.
    let gzip = |plain: &mut BytesMut, out: &mut BytesMut, compression| {
        match compression {
            Compression::None => out.extend_from_slice(plain),
            _ => {
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                packed.write_all(plain)?;
                out.extend_from_slice(&packed.finish()?);
            }
        }
        Ok(())
    };
    RecordBatchEncoder::encode_with_custom_compression(&mut out, records, &options, Some(gzip))
        .expect("it encodes");
    out.to_vec()
}

fn our_batch(codec: Codec) -> Vec<u8> {
    let mut builder = Builder::new();
    for n in 0..20 {
        let (_, timestamp, key, value) = expected(n);
        builder.push(timestamp, key.as_deref(), value.as_deref()).expect("room");
    }
    let stamp = ProducerStamp { producer_id: 77, producer_epoch: 3, base_sequence: 500 };
    builder.finish(codec, stamp).expect("memory").to_vec()
}

/// Prevents: two ways to write the same records, of which one is wrong.
#[test]
fn a_plain_batch_is_the_one_of_crate_kafka_protocol() {
    let theirs: Vec<_> = (0..20).map(theirs).collect();
    assert_eq!(our_batch(Codec::None), their_batch(&theirs, Compression::None));
}

#[test]
fn crate_kafka_protocol_reads_ours() {
    for codec in [Codec::None, Codec::Gzip] {
        let mut bytes = Bytes::from(our_batch(codec));
        let gunzip = |packed: &mut Bytes, compression| {
            let mut plain = Vec::new();
            match compression {
                Compression::None => plain.extend_from_slice(packed),
                _ => drop(flate2::bufread::GzDecoder::new(&packed[..]).read_to_end(&mut plain)?),
            }
            Ok(Bytes::from(plain))
        };
        let read = RecordBatchDecoder::decode_with_custom_compression(&mut bytes, Some(gunzip));
        let read = read.expect("it decodes");
        assert_eq!(read.compression as u8, codec.bits());
        assert_eq!(read.records, (0..20).map(theirs).collect::<Vec<_>>(), "{codec:?}");
    }
}

/// With record headers, which nothing here writes.
#[test]
fn ours_reads_crate_kafka_protocol() {
    let mut records: Vec<_> = (0..20).map(theirs).collect();
    for record in &mut records {
        record.headers.insert("trace".into(), Some(Bytes::from_static(b"id")));
        record.headers.insert("".into(), None);
    }
    for compression in [Compression::None, Compression::Gzip] {
        let set = their_batch(&records, compression);
        let batch = batches(&set).next().expect("a batch").expect("a good header");
        let all = read(&batch);
        let expected = (0..20).map(|n| (n, expected(n).1, expected(n).2, expected(n).3));
        assert_eq!(all, expected.collect::<Vec<_>>(), "{compression:?}");
    }
}
