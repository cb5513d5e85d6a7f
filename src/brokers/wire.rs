//! One question to one broker: connect, ask, read the answer, close. Each step is bounded by
//! [`TIMEOUT`], so nothing here can hang on a host that is stopped or cut off.
//!
//! Messages are crate `kafka-protocol`'s. Versions are chosen to be served by Kafka 2.8 to 4.x.
//! This is the control plane; records travel through crate `kafka`.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, encode_request_header_into_buffer};

use super::{BrokerError, TopicView};

/// Bound of each connect, read and write.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Largest batch whose header can be read: its answer brings it whole. `message.max.bytes` is 1 MB
/// by default.
pub const BATCH_BYTES_MAX: i32 = 64 << 20;

/// Largest answer that is read: such a batch and its envelope.
const ANSWER_BYTES_MAX: usize = BATCH_BYTES_MAX as usize + (1 << 20);

/// Versions sent. Fetch 10 is the first that may carry zstd; Metadata 10 the first that tells the
/// topic's id (KIP-516, Kafka 2.8); ListOffsets 1 the lowest that 4.x serves.
const API_VERSIONS_VERSION: i16 = 0;
const METADATA_VERSION: i16 = 10;
const LIST_OFFSETS_VERSION: i16 = 1;
const FETCH_VERSION: i16 = 10;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Sends one request and reads its answer.
fn ask<Q: Encodable, A: Decodable>(
    host: &str,
    key: ApiKey,
    version: i16,
    question: &Q,
) -> io::Result<A> {
    let bad = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let mut header = RequestHeader::default();
    header.request_api_key = key as i16;
    header.request_api_version = version;
    header.correlation_id = 1;
    header.client_id = Some(StrBytes::from_static_str("backpressure-lab"));
    let mut out = BytesMut::new();
    encode_request_header_into_buffer(&mut out, &header).map_err(|e| bad(&e))?;
    question.encode(&mut out, version).map_err(|e| bad(&e))?;
    let size = u32::try_from(out.len()).map_err(|e| bad(&e))?;

    let mut stream = connect(host)?;
    stream.write_all(&size.to_be_bytes())?;
    stream.write_all(&out)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = u32::from_be_bytes(size) as usize;
    if !(4..=ANSWER_BYTES_MAX).contains(&size) {
        return Err(bad(&format!(
            "answered with a length of {size} bytes (4 to {ANSWER_BYTES_MAX} expected): not Kafka?"
        )));
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer)?;
    let mut answer = Bytes::from(answer);
    let answered = ResponseHeader::decode(&mut answer, key.response_header_version(version));
    if answered.map_err(|e| bad(&e))?.correlation_id != header.correlation_id {
        return Err(bad(&"answered another question: not Kafka?"));
    }
    A::decode(&mut answer, version).map_err(|e| bad(&e))
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Asks which versions the broker takes; the inner `Err` is a broker too new for crate `kafka`.
pub fn api_versions(host: &str) -> io::Result<Result<(), BrokerError>> {
    let question = ApiVersionsRequest::default();
    let answer: ApiVersionsResponse =
        ask(host, ApiKey::ApiVersions, API_VERSIONS_VERSION, &question)?;
    let fetch = answer.api_keys.iter().find(|api| api.api_key == ApiKey::Fetch as i16);
    Ok(match fetch {
        Some(api) if api.min_version > 0 => {
            Err(BrokerError::TooNew { host: host.to_owned(), fetch_min: api.min_version })
        }
        _ => Ok(()),
    })
}

/// The topic's partitions and their leaders; the inner `Err` is the broker's own verdict.
pub fn metadata(host: &str, topic: &str) -> io::Result<Result<TopicView, BrokerError>> {
    if let Err(e) = api_versions(host)? {
        return Ok(Err(e));
    }
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let mut question = MetadataRequest::default();
    question.topics = Some(vec![MetadataRequestTopic::default().with_name(Some(name))]);
    question.allow_auto_topic_creation = false;
    let answer: MetadataResponse = ask(host, ApiKey::Metadata, METADATA_VERSION, &question)?;
    let Some(found) = answer.topics.first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no topic in the answer"));
    };
    match found.error_code {
        0 => {}
        UNKNOWN_TOPIC_OR_PARTITION => {
            let (topic, host) = (topic.to_owned(), host.to_owned());
            return Ok(Err(BrokerError::MissingTopic { topic, host }));
        }
        code => return Err(refused("Metadata", code)),
    }
    let addresses =
        answer.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host, b.port))).collect();
    let leaders = found
        .partitions
        .iter()
        .map(|p| (p.partition_index, (p.leader_id.0 >= 0).then_some(p.leader_id.0)))
        .collect();
    Ok(Ok(TopicView { id: found.topic_id.as_u128(), leaders, addresses }))
}

fn refused(api: &str, code: i16) -> io::Error {
    let name = kafka_protocol::ResponseError::try_from_code(code)
        .map_or_else(|| "unknown".to_owned(), |e| e.to_string());
    io::Error::other(format!("{api} refused with error code {code}: {name}"))
}

/// The lowest offset that the partition's leader still holds.
pub fn earliest_offset(leader: &str, topic: &str, partition: i32) -> io::Result<i64> {
    const EARLIEST: i64 = -2;
    list_offset(leader, topic, partition, EARLIEST)
}

/// The log end offset (high watermark) of the partition.
pub fn latest_offset(leader: &str, topic: &str, partition: i32) -> io::Result<i64> {
    const LATEST: i64 = -1;
    list_offset(leader, topic, partition, LATEST)
}

fn list_offset(leader: &str, topic: &str, partition: i32, timestamp: i64) -> io::Result<i64> {
    let question = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
        ListOffsetsTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(vec![
                ListOffsetsPartition::default()
                    .with_partition_index(partition)
                    .with_timestamp(timestamp),
            ]),
    ]);
    let answer: ListOffsetsResponse =
        ask(leader, ApiKey::ListOffsets, LIST_OFFSETS_VERSION, &question)?;
    match answer.topics.first().and_then(|t| t.partitions.first()) {
        Some(p) if p.error_code == 0 => Ok(p.offset),
        Some(p) => Err(refused("ListOffsets", p.error_code)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "no partition in the answer")),
    }
}

/// What stands in the log at an offset, read from the batch's header alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// First offset of the batch; above the one asked for where the log has a gap.
    pub base_offset: i64,
    /// Last offset of the batch.
    pub last_offset: i64,
    /// Bytes of the whole batch in the log.
    pub size: usize,
    /// Compression codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub codec: u8,
    /// A transaction marker: it holds no record.
    pub is_control: bool,
    /// Records that are in it; compaction may leave fewer than it has offsets, or none.
    pub records: i32,
}

/// What stands at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// The batch that holds it, or the next one after a gap.
    Batch(BatchHeader),
    /// The log ends there.
    End,
    /// The log starts behind it, or ended before it.
    OutOfRange,
}

/// Reads the header of what stands at `offset`.
///
/// Record batch v2 layout (Kafka protocol guide, "Record Batch"): baseOffset i64, batchLength i32,
/// partitionLeaderEpoch i32, magic i8, crc u32, attributes i16, lastOffsetDelta i32, baseTimestamp
/// i64, maxTimestamp i64, producerId i64, producerEpoch i16, baseSequence i32, records i32.
pub fn peek_batch(leader: &str, topic: &str, partition: i32, offset: i64) -> io::Result<Peeked> {
    // max_bytes 1 still brings the first batch whole (KIP-74).
    let question = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_bytes(1)
        .with_session_epoch(-1)
        .with_topics(vec![
            FetchTopic::default()
                .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
                .with_partitions(vec![
                    FetchPartition::default()
                        .with_partition(partition)
                        .with_fetch_offset(offset)
                        .with_partition_max_bytes(1),
                ]),
        ]);
    let answer: FetchResponse = ask(leader, ApiKey::Fetch, FETCH_VERSION, &question)?;
    if answer.error_code != 0 {
        return Err(refused("Fetch", answer.error_code));
    }
    let Some(found) = answer.responses.first().and_then(|t| t.partitions.first()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no partition in the answer"));
    };
    match (found.error_code, &found.records) {
        (OFFSET_OUT_OF_RANGE, _) => Ok(Peeked::OutOfRange),
        (0, Some(records)) if !records.is_empty() => parse_header(records).map(Peeked::Batch),
        (0, _) => Ok(Peeked::End),
        (code, _) => Err(refused("Fetch", code)),
    }
}

/// Reads the header at the start of `records`, as [`peek_batch`] does.
///
/// # Errors
/// `InvalidData` when it is cut short, of an older format, or when its size and offsets cannot be
/// those of a batch: no position may be taken from such a header.
pub(crate) fn parse_header(records: &[u8]) -> io::Result<BatchHeader> {
    const LOG_OVERHEAD: usize = 12;
    const WHOLE_HEADER: usize = 61;
    const TIMES_AND_PRODUCER: usize = 30;
    const MAGIC_V2: i8 = 2;
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut header = records
        .get(..WHOLE_HEADER)
        .ok_or_else(|| bad("the batch header is cut short".to_owned()))?;
    let base_offset = header.get_i64();
    let length = header.get_i32();
    let _partition_leader_epoch = header.get_i32();
    let magic = header.get_i8();
    if magic != MAGIC_V2 {
        return Err(bad(format!("the batch has message format {magic}, expected {MAGIC_V2}")));
    }
    let _crc = header.get_u32();
    let attributes = header.get_i16();
    let last_offset_delta = header.get_i32();
    header.advance(TIMES_AND_PRODUCER);
    let records = header.get_i32();
    let size = usize::try_from(length).map_or(0, |length| LOG_OVERHEAD + length);
    let last_offset = base_offset.saturating_add(i64::from(last_offset_delta));
    // The offset behind the last one must be a number too: it is the next position.
    if size < WHOLE_HEADER
        || base_offset < 0
        || last_offset < base_offset
        || last_offset == i64::MAX
        || records < 0
    {
        return Err(bad(format!(
            "no batch has {records} records at offsets {base_offset} to {last_offset} in a length \
             of {length} bytes"
        )));
    }
    Ok(BatchHeader {
        base_offset,
        last_offset,
        size,
        codec: (attributes & 0x07) as u8,
        is_control: attributes & 0x20 != 0,
        records,
    })
}
