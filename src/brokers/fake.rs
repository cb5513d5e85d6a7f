//! Brokers for tests without a cluster: real sockets, and answers from a model of one topic. They
//! count requests, refuse them or keep silent where a test says so, and keep no state of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FetchRequest, FetchResponse, FindCoordinatorResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataResponse, OffsetFetchRequest,
    OffsetFetchResponse, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, decode_request_header_from_buffer};
use parking_lot::Mutex;
use uuid::Uuid;

use super::Brokers;
use crate::records::{Builder, ProducerStamp};

/// The only topic.
pub(crate) const TOPIC: &str = "events";

/// One partition.
#[derive(Clone, Default)]
pub(crate) struct Partition {
    /// Index of the broker that leads it.
    pub leader: i32,
    pub start: i64,
    pub high_watermark: i64,
    pub last_stable: i64,
    /// Error code of its offsets and of its committed offset; 0 is none.
    pub error: i16,
    pub committed_error: i16,
    /// -1: nothing.
    pub committed: i64,
    pub metadata: String,
    /// Its record batches: (base offset, bytes).
    pub batches: Vec<(i64, Vec<u8>)>,
    /// Replaces it from its first fetch on.
    pub becomes: Option<Box<Partition>>,
}

#[derive(Default)]
pub(crate) struct Model {
    pub topic_id: u128,
    pub partitions: BTreeMap<i32, Partition>,
    /// Brokers that accept a request and do not answer.
    pub silent: BTreeSet<i32>,
    /// Brokers that close every connection.
    pub down: BTreeSet<i32>,
    /// What was asked: (broker, message).
    pub asked: Vec<(i32, ApiKey)>,
}

/// See the module. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub model: Arc<Mutex<Model>>,
    ports: Arc<Vec<u16>>,
}

impl Cluster {
    /// Starts so many brokers.
    pub fn start(brokers: i32, model: Model) -> Self {
        let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a port");
        let listeners: Vec<TcpListener> = (0..brokers).map(bind).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let ports = Arc::new(listeners.iter().map(port).collect());
        let cluster = Self { model: Arc::new(Mutex::new(model)), ports };
        for (id, listener) in (0..).zip(listeners) {
            let cluster = cluster.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let cluster = cluster.clone();
                    std::thread::spawn(move || while cluster.answer_one(id, &stream).is_some() {});
                }
            });
        }
        cluster
    }

    pub fn brokers(&self) -> Brokers {
        let hosts: Vec<String> =
            self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Brokers::parse(&hosts.join(",")).expect("a list")
    }

    /// How often broker `id` was asked by `key`.
    pub fn asked(&self, id: i32, key: ApiKey) -> usize {
        self.model.lock().asked.iter().filter(|asked| **asked == (id, key)).count()
    }

    fn answer_one(&self, id: i32, mut stream: &TcpStream) -> Option<()> {
        let mut size = [0; 4];
        stream.read_exact(&mut size).ok()?;
        let mut question = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut question).ok()?;
        let mut question = Bytes::from(question);
        let header = decode_request_header_from_buffer(&mut question).expect("a header");
        let key = ApiKey::try_from(header.request_api_key).expect("a known message");
        let mut answer = BytesMut::zeroed(4);
        let head = ResponseHeader::default().with_correlation_id(header.correlation_id);
        let version = header.request_api_version;
        head.encode(&mut answer, key.response_header_version(version)).expect("encodes");
        let mut model = self.model.lock();
        if model.down.contains(&id) {
            return None;
        }
        model.asked.push((id, key));
        if model.silent.contains(&id) {
            return Some(());
        }
        self.answer(&mut model, id, (key, version), question, &mut answer);
        drop(model);
        let size = (answer.len() - 4) as u32;
        answer[..4].copy_from_slice(&size.to_be_bytes());
        stream.write_all(&answer).ok()
    }

    fn answer(
        &self,
        model: &mut Model,
        id: i32,
        (key, version): (ApiKey, i16),
        question: Bytes,
        answer: &mut BytesMut,
    ) {
        let encoded = match key {
            ApiKey::ApiVersions => versions().encode(answer, version),
            ApiKey::Metadata => self.metadata(model).encode(answer, version),
            ApiKey::FindCoordinator => FindCoordinatorResponse::default()
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(self.ports[0].into())
                .encode(answer, version),
            ApiKey::OffsetFetch => {
                committed(model, &read(question, version)).encode(answer, version)
            }
            ApiKey::ListOffsets => {
                offsets(model, id, &read(question, version)).encode(answer, version)
            }
            ApiKey::Fetch => fetched(model, id, &read(question, version)).encode(answer, version),
            other => panic!("nobody asks {other:?}"),
        };
        encoded.expect("encodes");
    }

    fn metadata(&self, model: &Model) -> MetadataResponse {
        let broker = |(id, port): (i32, &u16)| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(id))
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port((*port).into())
        };
        let partition = |(number, partition): (&i32, &Partition)| {
            MetadataResponsePartition::default()
                .with_partition_index(*number)
                .with_leader_id(BrokerId(partition.leader))
                .with_leader_epoch(1)
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(name()))
            .with_topic_id(Uuid::from_u128(model.topic_id))
            .with_partitions(model.partitions.iter().map(partition).collect());
        MetadataResponse::default()
            .with_brokers((0..).zip(self.ports.iter()).map(broker).collect())
            .with_topics(vec![topic])
    }
}

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn read<T: Decodable>(mut question: Bytes, version: i16) -> T {
    T::decode(&mut question, version).expect("a question")
}

fn versions() -> ApiVersionsResponse {
    let versions = [
        (ApiKey::Metadata, 12),
        (ApiKey::FindCoordinator, 3),
        (ApiKey::OffsetFetch, 7),
        (ApiKey::ListOffsets, 5),
        (ApiKey::Fetch, 11),
    ];
    let version = |(key, max)| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(1).with_max_version(max)
    };
    ApiVersionsResponse::default().with_api_keys(versions.map(version).to_vec())
}

fn committed(model: &Model, question: &OffsetFetchRequest) -> OffsetFetchResponse {
    let asked = question.topics.iter().flatten().flat_map(|topic| &topic.partition_indexes);
    let partition = |number: &i32| {
        let partition = model.partitions.get(number).expect("there");
        OffsetFetchResponsePartition::default()
            .with_partition_index(*number)
            .with_committed_offset(partition.committed)
            .with_metadata(Some(StrBytes::from_string(partition.metadata.clone())))
            .with_error_code(partition.committed_error)
    };
    OffsetFetchResponse::default().with_topics(vec![
        OffsetFetchResponseTopic::default()
            .with_name(name())
            .with_partitions(asked.map(partition).collect()),
    ])
}

/// 6, NOT_LEADER_OR_FOLLOWER, where another broker leads.
fn error(partition: &Partition, id: i32) -> i16 {
    if partition.leader == id { partition.error } else { 6 }
}

fn offsets(model: &Model, id: i32, question: &ListOffsetsRequest) -> ListOffsetsResponse {
    let asked = question.topics.iter().flat_map(|topic| &topic.partitions);
    let partition = |ask: &kafka_protocol::messages::list_offsets_request::ListOffsetsPartition| {
        let partition = model.partitions.get(&ask.partition_index).expect("there");
        let offset = match (ask.timestamp, question.isolation_level) {
            (-2, _) => partition.start,
            (-1, 0) => partition.high_watermark,
            _ => partition.last_stable,
        };
        ListOffsetsPartitionResponse::default()
            .with_partition_index(ask.partition_index)
            .with_offset(offset)
            .with_error_code(error(partition, id))
    };
    ListOffsetsResponse::default().with_topics(vec![
        ListOffsetsTopicResponse::default()
            .with_name(name())
            .with_partitions(asked.map(partition).collect()),
    ])
}

/// All batches from the offset on, whatever was asked for.
fn fetched(model: &mut Model, id: i32, question: &FetchRequest) -> FetchResponse {
    let asked = question.topics.iter().flat_map(|topic| &topic.partitions);
    let partition = |ask: &kafka_protocol::messages::fetch_request::FetchPartition| {
        let partition = model.partitions.get_mut(&ask.partition).expect("there");
        if let Some(new) = partition.becomes.take() {
            *partition = *new;
        }
        // The batch that holds the offset, else the one after the gap.
        let next = partition.batches.iter().position(|(base, _)| *base > ask.fetch_offset);
        let at = next.unwrap_or(partition.batches.len()).saturating_sub(1);
        let records: Vec<u8> =
            partition.batches.iter().skip(at).flat_map(|(_, bytes)| bytes.clone()).collect();
        let out_of_range = ask.fetch_offset < partition.start;
        PartitionData::default()
            .with_partition_index(ask.partition)
            .with_error_code(if out_of_range { 1 } else { error(partition, id) })
            .with_high_watermark(partition.high_watermark)
            .with_records(Some(Bytes::from(if out_of_range { Vec::new() } else { records })))
    };
    FetchResponse::default().with_responses(vec![
        FetchableTopicResponse::default()
            .with_topic(name())
            .with_partitions(asked.map(partition).collect()),
    ])
}

/// A batch of `values` as a log has it from `base` on.
pub(crate) fn batch(base: i64, values: &[Vec<u8>]) -> (i64, Vec<u8>) {
    let mut builder = Builder::new();
    for value in values {
        builder.push(0, None, Some(value)).expect("room");
    }
    let bytes = builder.finish(crate::records::Codec::None, ProducerStamp::NONE).expect("packed");
    let mut bytes = bytes.to_vec();
    // The CRC does not cover the base offset, because the broker assigns it.
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    (base, bytes)
}
