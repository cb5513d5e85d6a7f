//! Produces by today's protocol.
//!
//! Invariant: one batch a partition and request, stamped by its caller, so that a batch that is
//! sent again is the same one, and a broker that already has it answers with its offset (KIP-98).
//! The result of a request without an answer is unknown: the caller sends it again.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{Link, throttled};
use crate::brokers::Brokers;
use crate::brokers::connection::{self, Range, TIMEOUT};
use crate::planes::{Acks, Lost, Parcel, ProduceSettings, Produced, Produces, Unsent};
use crate::records::Builder;

/// Produce up to the version that still names the topic. (A 4.x broker lists 0 to 2 as well and serves 3
/// and above: KAFKA-18659.)
const PRODUCE: Range = Range { min: 3, max: 12 };
const INIT_PRODUCER_ID: Range = Range { min: 0, max: 4 };

/// How much longer than the followers' time an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// See the module.
pub struct Sender {
    topic: String,
    settings: ProduceSettings,
    link: Link,
    builder: Builder,
}

impl Sender {
    /// A sender to `topic` by the broker at `address`.
    pub fn new(brokers: &Brokers, address: &str, topic: &str, settings: ProduceSettings) -> Self {
        Self {
            topic: topic.to_owned(),
            settings,
            link: Link::new(brokers, address, ApiKey::Produce, PRODUCE),
            builder: Builder::new(),
        }
    }

    fn question(&mut self, parcels: &[Parcel<'_>]) -> io::Result<ProduceRequest> {
        let mut data = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            self.builder.clear();
            for event in &parcel.events {
                let (key, value) =
                    ((!event.key.is_empty()).then_some(event.key), Some(event.value));
                self.builder.push(event.timestamp_ms, key, value).map_err(io::Error::other)?;
            }
            let batch = self.builder.finish(self.settings.codec, parcel.stamp);
            let batch = Bytes::copy_from_slice(batch.map_err(io::Error::other)?);
            data.push(
                PartitionProduceData::default()
                    .with_index(parcel.partition)
                    .with_records(Some(batch)),
            );
        }
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(self.topic.clone())))
            .with_partition_data(data);
        let acks = match self.settings.acks {
            Acks::All => -1,
            Acks::One => 1,
            Acks::None => 0,
        };
        let timeout_ms = i32::try_from(self.settings.timeout.as_millis()).unwrap_or(i32::MAX);
        Ok(ProduceRequest::default()
            .with_acks(acks)
            .with_timeout_ms(timeout_ms)
            .with_topic_data(vec![topic]))
    }

    fn ask(&mut self, parcels: &[Parcel<'_>]) -> io::Result<Option<ProduceResponse>> {
        let question = self.question(parcels)?;
        let (connection, version) = self.link.open()?;
        let patience = self.settings.timeout + PATIENCE;
        if self.settings.acks == Acks::None {
            // There is no answer to wait for.
            connection.send(ApiKey::Produce, version, &question, patience)?;
            return Ok(None);
        }
        connection.ask(ApiKey::Produce, version, &question, patience).map(Some)
    }
}

impl Produces for Sender {
    fn produce(&mut self, parcels: &[Parcel<'_>]) -> Result<Produced, Lost> {
        let answer = self.ask(parcels).map_err(|e| self.link.lose(&e))?;
        let Some(answer) = answer else {
            let verdicts = parcels.iter().map(|parcel| (parcel.partition, Ok(None))).collect();
            return Ok(Produced { verdicts, throttled: Duration::ZERO });
        };
        let all = || answer.responses.iter().flat_map(|topic| &topic.partition_responses);
        let verdict = |parcel: &Parcel<'_>| {
            let found = all().find(|response| response.index == parcel.partition);
            let missing = || Err(Unsent::NotNow("the broker's answer leaves it out".into()));
            (parcel.partition, found.map_or_else(missing, verdict))
        };
        Ok(Produced {
            verdicts: parcels.iter().map(verdict).collect(),
            throttled: throttled(answer.throttle_time_ms),
        })
    }
}

/// Kafka's error codes, as far as a producer gets them.
mod code {
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const INVALID_TOPIC: i16 = 17;
    pub const RECORD_LIST_TOO_LARGE: i16 = 18;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    pub const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const UNKNOWN_PRODUCER_ID: i16 = 59;
    pub const INVALID_TIMESTAMP: i16 = 32;
    pub const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
    pub const POLICY_VIOLATION: i16 = 44;
    pub const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub const INVALID_RECORD: i16 = 87;
}

/// The meaning of a partition's error code.
fn verdict(answered: &PartitionProduceResponse) -> Result<Option<i64>, Unsent> {
    let said = answered.error_message.as_ref().map(|words| format!(": {words}"));
    let why = format!("{}{}", connection::in_words(answered.error_code), said.unwrap_or_default());
    match answered.error_code {
        0 => Ok((answered.base_offset >= 0).then_some(answered.base_offset)),
        // It has them: sent again long after they were answered.
        code::DUPLICATE_SEQUENCE_NUMBER => Ok(None),
        code::MESSAGE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE => Err(Unsent::TooLarge(why)),
        code::OUT_OF_ORDER_SEQUENCE_NUMBER
        | code::INVALID_PRODUCER_EPOCH
        | code::UNKNOWN_PRODUCER_ID => Err(Unsent::Sequence(why)),
        code::UNKNOWN_TOPIC_OR_PARTITION | code::NOT_LEADER_OR_FOLLOWER => {
            let leader = &answered.current_leader;
            let leader = (leader.leader_id.0, leader.leader_epoch);
            let known = leader.0 >= 0 && leader.1 >= 0;
            Err(Unsent::Moved { why, leader: known.then_some(leader) })
        }
        code::INVALID_TOPIC
        | code::INVALID_REQUIRED_ACKS
        | code::TOPIC_AUTHORIZATION_FAILED
        | code::CLUSTER_AUTHORIZATION_FAILED
        | code::UNSUPPORTED_FOR_MESSAGE_FORMAT
        | code::POLICY_VIOLATION
        | code::UNSUPPORTED_COMPRESSION_TYPE
        | code::INVALID_RECORD => Err(Unsent::Never(why)),
        code::INVALID_TIMESTAMP => Err(Unsent::Never(format!(
            "{why}: an event's time, when it was due, is further from the broker's clock than the topic's \
             message.timestamp.before.max.ms or message.timestamp.after.max.ms allows"
        ))),
        _ => Err(Unsent::NotNow(why)),
    }
}

/// A new producer id with its epoch, from the broker at `address`.
///
/// # Errors
/// When the broker does not answer, or gives no id; the inner one where ACLs forbid it.
pub fn producer_id(brokers: &Brokers, address: &str) -> io::Result<Result<(i64, i16), String>> {
    let mut connection = brokers.connect(address)?;
    let version = connection.version(ApiKey::InitProducerId, INIT_PRODUCER_ID)?;
    let question = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(i32::MAX);
    let answer: InitProducerIdResponse =
        connection.ask(ApiKey::InitProducerId, version, &question, TIMEOUT)?;
    match answer.error_code {
        0 => Ok(Ok((answer.producer_id.0, answer.producer_epoch))),
        code @ (code::TOPIC_AUTHORIZATION_FAILED | code::CLUSTER_AUTHORIZATION_FAILED) => {
            Ok(Err(format!(
                "{}; it needs the ACL operation IdempotentWrite on the cluster, or Write on the topic",
                connection::refused("InitProducerId", code)
            )))
        }
        code => Err(connection::refused("InitProducerId", code)),
    }
}
