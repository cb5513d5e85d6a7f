//! Start and end of the logs that one broker leads: one request for all its partitions.
//!
//! The caller owns the connection. An error code concerns only its own partition.

use std::collections::BTreeMap;
use std::io;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    ApiKey, BrokerId, ListOffsetsRequest, ListOffsetsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Connection, Range, TIMEOUT, in_words};

/// ListOffsets 1 is the lowest that answers with one offset; from 4 on a leader that was replaced
/// refuses by its epoch (KIP-320).
const VERSIONS: Range = Range { min: 1, max: 5 };

/// An offset of a log that its leader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The first offset that is still there.
    LogStart,
    /// After the last record that all replicas have.
    HighWatermark,
    /// After the last record that no open transaction holds back (KIP-98).
    LastStable,
}

/// Asks for `mark` of each of `partitions`, which are (number, leader's epoch; -1 unknown). The
/// result has each of them; an inner `Err` concerns only its own partition.
///
/// # Errors
/// When the broker does not answer. The connection must be dropped.
pub fn list(
    connection: &mut Connection,
    topic: &str,
    partitions: &[(i32, i32)],
    mark: Mark,
) -> io::Result<BTreeMap<i32, Result<i64, String>>> {
    let (timestamp, isolation_level) = match mark {
        Mark::LogStart => (-2, 0),
        Mark::HighWatermark => (-1, 0),
        Mark::LastStable => (-1, 1),
    };
    let version = connection.version(ApiKey::ListOffsets, VERSIONS)?;
    let ask = |(partition, epoch): &(i32, i32)| {
        ListOffsetsPartition::default()
            .with_partition_index(*partition)
            .with_current_leader_epoch(*epoch)
            .with_timestamp(timestamp)
    };
    let asked = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(partitions.iter().map(ask).collect());
    let question = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation_level)
        .with_topics(vec![asked]);
    let answer: ListOffsetsResponse =
        connection.ask(ApiKey::ListOffsets, version, &question, TIMEOUT)?;
    let left_out = || Err("the leader's answer leaves it out".to_owned());
    let mut offsets: BTreeMap<i32, Result<i64, String>> =
        partitions.iter().map(|(partition, _)| (*partition, left_out())).collect();
    for told in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        if let Some(offset) = offsets.get_mut(&told.partition_index) {
            *offset = match told.error_code {
                0 if told.offset >= 0 => Ok(told.offset),
                0 => Err("its leader knows no offset".to_owned()),
                code => Err(in_words(code)),
            };
        }
    }
    Ok(offsets)
}
