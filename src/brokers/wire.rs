//! Requests to one broker, each over its own connection: connect, send, read the answer, close.
//! Each step is bounded by [`TIMEOUT`], so nothing here hangs on a host that is stopped or cut off.
//!
//! Messages are crate `kafka-protocol`'s, in the highest version that both sides speak.

use std::io;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, BrokerId, FetchRequest, FetchResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Range, TIMEOUT, in_words, invalid, refused};
use super::offsets::{self, Mark};
use super::{BrokerError, Brokers, TopicView};
use crate::records::{BatchHeader, parse_header};

/// Metadata from version 10 on tells the topic's id (KIP-516, Kafka 2.8), from 7 on leader epochs.
const METADATA: Range = Range { min: 4, max: 12 };
const METADATA_WITH_ID: i16 = 10;
/// The highest Fetch that still names the topic.
const FETCH: Range = Range { min: 4, max: 12 };

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// How the broker at `host` describes the topic, and in which version.
pub(super) fn described(
    brokers: &Brokers,
    host: &str,
    topic: &str,
) -> io::Result<(i16, MetadataResponse)> {
    ask(brokers, host, Some(vec![MetadataRequestTopic::default().with_name(Some(name(topic)))]))
}

/// Names of all topics but Kafka's own, as the broker at `host` knows them.
pub(super) fn topics(brokers: &Brokers, host: &str) -> io::Result<Vec<String>> {
    let (_, answer) = ask(brokers, host, None)?;
    let theirs = answer.topics.into_iter().filter(|topic| !topic.is_internal);
    let mut names: Vec<String> =
        theirs.filter_map(|topic| topic.name).map(|name| name.to_string()).collect();
    names.sort_unstable();
    Ok(names)
}

fn ask(
    brokers: &Brokers,
    host: &str,
    topics: Option<Vec<MetadataRequestTopic>>,
) -> io::Result<(i16, MetadataResponse)> {
    let mut connection = brokers.connect(host)?;
    let version = connection.version(ApiKey::Metadata, METADATA)?;
    let mut question = MetadataRequest::default();
    question.topics = topics;
    question.allow_auto_topic_creation = false;
    Ok((version, connection.ask(ApiKey::Metadata, version, &question, TIMEOUT)?))
}

/// The topic's partitions and their leaders; the inner `Err` is the broker's own error.
pub fn metadata(
    brokers: &Brokers,
    host: &str,
    topic: &str,
) -> io::Result<Result<TopicView, BrokerError>> {
    let (version, answer) = described(brokers, host, topic)?;
    let found = answer.topics.first().ok_or_else(|| invalid("no topic in the answer"))?;
    match found.error_code {
        0 => {}
        UNKNOWN_TOPIC_OR_PARTITION => {
            let (topic, host) = (topic.to_owned(), host.to_owned());
            return Ok(Err(BrokerError::MissingTopic { topic, host }));
        }
        TOPIC_AUTHORIZATION_FAILED => {
            let why = format!("topic {topic}: {}", in_words(found.error_code));
            return Ok(Err(BrokerError::Denied { host: host.to_owned(), why }));
        }
        code => return Err(refused("Metadata", code)),
    }
    let addresses =
        answer.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host, b.port))).collect();
    let parts = || found.partitions.iter();
    let led = |id: i32| (id >= 0).then_some(id);
    Ok(Ok(TopicView {
        id: if version >= METADATA_WITH_ID { found.topic_id.as_u128() } else { 0 },
        leaders: parts().map(|p| (p.partition_index, led(p.leader_id.0))).collect(),
        epochs: parts().map(|p| (p.partition_index, p.leader_epoch)).collect(),
        addresses,
    }))
}

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// The offset of `mark` in the partition's log, from its leader.
pub fn offset(
    brokers: &Brokers,
    leader: &str,
    topic: &str,
    partition: i32,
    mark: Mark,
) -> io::Result<i64> {
    let mut connection = brokers.connect(leader)?;
    let offsets = offsets::list(&mut connection, topic, &[(partition, -1)], mark)?;
    let offset =
        offsets.into_values().next().ok_or_else(|| invalid("no partition in the answer"))?;
    offset.map_err(|why| io::Error::other(format!("ListOffsets refused with {why}")))
}

/// What a log has at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// The batch that holds it, or the next one after a gap.
    Batch(BatchHeader),
    /// The log ends there.
    End,
    /// The log starts after it, or ended before it.
    OutOfRange,
}

/// Reads the header of the batch at `offset`.
pub fn peek_batch(
    brokers: &Brokers,
    leader: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> io::Result<Peeked> {
    let mut connection = brokers.connect(leader)?;
    let version = connection.version(ApiKey::Fetch, FETCH)?;
    // max_bytes 1 still brings the first batch whole (KIP-74).
    let question = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_bytes(1)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![
            FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(1),
        ])]);
    let answer: FetchResponse = connection.ask(ApiKey::Fetch, version, &question, TIMEOUT)?;
    if answer.error_code != 0 {
        return Err(refused("Fetch", answer.error_code));
    }
    let found = answer.responses.first().and_then(|t| t.partitions.first());
    let found = found.ok_or_else(|| invalid("no partition in the answer"))?;
    match (found.error_code, &found.records) {
        (OFFSET_OUT_OF_RANGE, _) => Ok(Peeked::OutOfRange),
        (0, Some(records)) if !records.is_empty() => {
            parse_header(records).map(Peeked::Batch).map_err(invalid)
        }
        (0, _) => Ok(Peeked::End),
        (code, _) => Err(refused("Fetch", code)),
    }
}
