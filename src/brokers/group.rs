//! Asks a group's coordinator for a topic's committed offsets and their metadata.
//!
//! It uses connections of its own, so that the member's poll never waits for a broker. An error of
//! one partition concerns only that partition: an open transactional commit (KIP-447) hides only
//! its own offset.

use std::collections::BTreeMap;
use std::io;

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    ApiKey, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribeGroupsRequest,
    DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::Brokers;
use super::connection::{Connection, Range, TIMEOUT, in_words, refused};

/// FindCoordinator up to the version that still asks for one group.
const FIND_COORDINATOR: Range = Range { min: 1, max: 3 };
/// OffsetFetch up to the version that still asks for one group; 7 is the first that can require
/// stable offsets: no open transaction can change those.
const OFFSET_FETCH: Range = Range { min: 1, max: 7 };
const REQUIRE_STABLE_SINCE: i16 = 7;
/// DescribeGroups, for groups whose members join by JoinGroup.
const DESCRIBE_GROUPS: Range = Range { min: 0, max: 5 };
/// ConsumerGroupDescribe, for those of KIP-848.
const CONSUMER_GROUP_DESCRIBE: Range = Range { min: 0, max: 1 };
/// What DescribeGroups says of a group that is not there, or is one of KIP-848.
const DEAD: &str = "Dead";
const GROUP_ID_NOT_FOUND: i16 = 69;

/// The committed offset of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset; `None` when nothing is committed.
    pub offset: Option<i64>,
    /// The epoch of the batch before it (KIP-320); -1 unknown.
    pub epoch: i32,
    /// Metadata that the client committed with it.
    pub metadata: String,
}

impl Committed {
    /// The offset, unless it belongs to another topic than `topic_id`: a coordinator may keep the
    /// offsets of a deleted topic for the topic that replaced it. Only metadata of the lab can
    /// tell: other clients write text of their own, or none, and mean the topic that exists.
    pub fn offset_in(&self, topic_id: u128) -> Option<i64> {
        self.offset.filter(|_| !self.is_of_another(topic_id))
    }

    fn is_of_another(&self, topic_id: u128) -> bool {
        let is_id = |hex: &&str| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let named = self.metadata.strip_prefix(TOPIC_ID).filter(is_id);
        let named = named.and_then(|hex| u128::from_str_radix(hex, 16).ok());
        named.is_some_and(|named| named != topic_id)
    }
}

const TOPIC_ID: &str = "topic-id=";

/// A topic's id as commits carry it; nothing where brokers know no ids (before 2.8).
pub fn commit_metadata(topic_id: u128) -> String {
    if topic_id == 0 { String::new() } else { format!("{TOPIC_ID}{topic_id:032x}") }
}

/// By partition; an `Err` concerns only that partition.
pub type Commits = BTreeMap<i32, Result<Committed, String>>;

/// What `group` has committed of `partitions` of `topic`.
///
/// # Errors
/// When no broker of the list answers, or the coordinator does not.
pub fn committed(
    brokers: &Brokers,
    group: &str,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
) -> io::Result<Commits> {
    commits(&mut to_coordinator(brokers, group)?, group, topic, partitions.into_iter().collect())
}

/// The same, and how many members the group has: `None` where the coordinator does not say.
///
/// # Errors
/// As [`committed`].
pub fn standing(
    brokers: &Brokers,
    group: &str,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
) -> io::Result<(Commits, Option<usize>)> {
    let mut connection = to_coordinator(brokers, group)?;
    let commits = commits(&mut connection, group, topic, partitions.into_iter().collect())?;
    Ok((commits, members(&mut connection, group)))
}

fn to_coordinator(brokers: &Brokers, group: &str) -> io::Result<Connection> {
    brokers.connect(&coordinator(brokers, group)?.1)
}

/// What kind of group one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Of KIP-848: it is, once a member that joins by that protocol was taken.
    Kip848,
    /// Of members that join by JoinGroup, with their protocol type: `consumer`, `connect`.
    Classic(String),
    /// Of neither, or not there.
    Unknown,
}

/// The kind of `group`.
///
/// # Errors
/// When its coordinator does not answer, or cannot say.
pub fn kind(brokers: &Brokers, group: &str) -> io::Result<Kind> {
    described(&mut to_coordinator(brokers, group)?, group).map(|(kind, _)| kind)
}

fn members(connection: &mut Connection, group: &str) -> Option<usize> {
    match described(connection, group) {
        Ok((_, members)) => Some(members),
        // A broker without KIP-848 has no groups of it.
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Some(0),
        Err(_) => None,
    }
}

/// What kind of group it is, and how many members it has.
fn described(connection: &mut Connection, group: &str) -> io::Result<(Kind, usize)> {
    let named = || vec![GroupId(StrBytes::from_string(group.to_owned()))];
    let left_out = |api| io::Error::other(format!("{api}: the answer leaves the group out"));
    let version = connection.version(ApiKey::DescribeGroups, DESCRIBE_GROUPS)?;
    let question = DescribeGroupsRequest::default().with_groups(named());
    let answer: DescribeGroupsResponse =
        connection.ask(ApiKey::DescribeGroups, version, &question, TIMEOUT)?;
    match answer.groups.first().ok_or_else(|| left_out("DescribeGroups"))? {
        found if found.error_code != 0 => return Err(refused("DescribeGroups", found.error_code)),
        found if found.group_state.as_str() != DEAD => {
            let kind = Kind::Classic(found.protocol_type.to_string());
            return Ok((kind, found.members.len()));
        }
        _dead => {}
    }
    let version = connection.version(ApiKey::ConsumerGroupDescribe, CONSUMER_GROUP_DESCRIBE)?;
    let question = ConsumerGroupDescribeRequest::default().with_group_ids(named());
    let answer: ConsumerGroupDescribeResponse =
        connection.ask(ApiKey::ConsumerGroupDescribe, version, &question, TIMEOUT)?;
    let found = answer.groups.first().ok_or_else(|| left_out("ConsumerGroupDescribe"))?;
    match found.error_code {
        0 => Ok((Kind::Kip848, found.members.len())),
        GROUP_ID_NOT_FOUND => Ok((Kind::Unknown, 0)),
        code => Err(refused("ConsumerGroupDescribe", code)),
    }
}

fn commits(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    partitions: Vec<i32>,
) -> io::Result<Commits> {
    let version = connection.version(ApiKey::OffsetFetch, OFFSET_FETCH)?;
    let asked = OffsetFetchRequestTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_indexes(partitions.clone());
    let question = OffsetFetchRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_topics(Some(vec![asked]))
        .with_require_stable(version >= REQUIRE_STABLE_SINCE);
    let answer: OffsetFetchResponse =
        connection.ask(ApiKey::OffsetFetch, version, &question, TIMEOUT)?;
    if answer.error_code != 0 {
        return Err(refused("OffsetFetch", answer.error_code));
    }
    // A partition that the answer leaves out may still have a commit.
    let left_out = || Err("committed offset: the answer leaves it out".to_owned());
    let mut all: BTreeMap<_, _> = partitions.into_iter().map(|p| (p, left_out())).collect();
    let told = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let read =
        |p: &kafka_protocol::messages::offset_fetch_response::OffsetFetchResponsePartition| {
            let committed = match p.error_code {
                0 => Ok(Committed {
                    offset: (p.committed_offset >= 0).then_some(p.committed_offset),
                    epoch: p.committed_leader_epoch,
                    metadata: p.metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
                }),
                code => Err(format!("committed offset: {}", in_words(code))),
            };
            (p.partition_index, committed)
        };
    all.extend(told.map(read));
    Ok(all)
}

/// The id of the broker that coordinates `group`, and its `host:port`.
///
/// # Errors
/// When no broker of the list names it: the first request for any group creates the topic of
/// commits.
pub fn coordinator(brokers: &Brokers, group: &str) -> io::Result<(i32, String)> {
    brokers.any_of(|host| ask(brokers, host, group))
}

fn ask(brokers: &Brokers, host: &str, group: &str) -> io::Result<(i32, String)> {
    let mut connection = brokers.connect(host)?;
    let version = connection.version(ApiKey::FindCoordinator, FIND_COORDINATOR)?;
    let question =
        FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
    let answer: FindCoordinatorResponse =
        connection.ask(ApiKey::FindCoordinator, version, &question, TIMEOUT)?;
    match answer.error_code {
        0 => Ok((answer.node_id.0, format!("{}:{}", answer.host, answer.port))),
        code => Err(refused("FindCoordinator", code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a group that another client has used is read from its start; an offset of a
    /// deleted topic is taken for one of the topic that replaced it.
    #[test]
    fn only_a_well_formed_id_of_another_topic_is_of_another() {
        let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        let offset_in = |metadata: &str| {
            Committed { offset: Some(7), epoch: 0, metadata: metadata.to_owned() }.offset_in(id)
        };
        let ours = commit_metadata(id);
        let upper = ours.to_uppercase().replace("TOPIC-ID", "topic-id");
        let long = "x".repeat(4096);
        let other = commit_metadata(id + 1);
        for fine in ["", "v=3;host=a", "AAEC", "topic-id=", "topic-id=zz", &ours, &upper, &long] {
            assert_eq!(offset_in(fine), Some(7), "{fine:?}");
        }
        assert_eq!(offset_in(&format!("{other}0")), Some(7), "33 digits are no id");
        let signed = other.replace("=0", "=+");
        assert_eq!(
            (signed.len(), offset_in(&signed)),
            (other.len(), Some(7)),
            "a sign is no digit"
        );
        assert_eq!((offset_in(&other), offset_in(&commit_metadata(1))), (None, None));
    }
}
