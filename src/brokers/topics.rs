//! Creates, grows, lists and deletes topics. Any broker can be asked: it forwards the request to
//! the controller (KIP-590).

use std::io::{self, ErrorKind};

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    ApiKey, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Range, TIMEOUT, in_words, invalid};
use super::{Brokers, wire};

/// Kafka 4 speaks CreateTopics from 2 on. DeleteTopics up to 5 names topics, later ids.
const CREATE: Range = Range { min: 2, max: 5 };
const DELETE: Range = Range { min: 1, max: 5 };
const GROW: Range = Range { min: 0, max: 3 };

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Not all brokers have registered yet.
const INVALID_REPLICATION_FACTOR: i16 = 38;

/// A topic to create.
#[derive(Debug, Clone)]
pub struct NewTopic<'a> {
    /// Its name.
    pub name: &'a str,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each.
    pub replication: i16,
    /// `key=value`, as Kafka's own tool takes them.
    pub settings: &'a [String],
}

impl Brokers {
    /// Creates a topic unless it exists. The caller repeats it with another `attempt` until it
    /// succeeds: a cluster that just started needs time.
    ///
    /// # Errors
    /// Until every broker shows all of its replicas in sync; `AlreadyExists` where one shows
    /// another number of partitions, which passes if it has not heard of this topic yet;
    /// `InvalidInput` where waiting does not help.
    pub fn make_topic(&self, new: &NewTopic<'_>, attempt: usize) -> io::Result<()> {
        self.try_to_create(new, attempt)?;
        self.hosts().try_for_each(|host| self.is_whole(host, new))
    }

    /// The host of the list at `attempt`; the list is never empty.
    fn at_attempt(&self, attempt: usize) -> &str {
        self.hosts().nth(attempt % self.hosts().count().max(1)).unwrap_or_default()
    }

    fn try_to_create(&self, new: &NewTopic<'_>, attempt: usize) -> io::Result<()> {
        let mut connection = self.connect(self.at_attempt(attempt))?;
        let version = connection.version(ApiKey::CreateTopics, CREATE)?;
        let setting = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            CreatableTopicConfig::default().with_name(words(key)).with_value(Some(words(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(wire::name(new.name))
            .with_num_partitions(new.partitions)
            .with_replication_factor(new.replication)
            .with_configs(new.settings.iter().map(setting).collect());
        let question = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX));
        let answer: CreateTopicsResponse =
            connection.ask(ApiKey::CreateTopics, version, &question, 2 * TIMEOUT)?;
        let made = answer.topics.first().ok_or_else(|| invalid("no topic in the answer"))?;
        match made.error_code {
            TOPIC_ALREADY_EXISTS => Ok(()),
            code => refusal(new.name, code, made.error_message.as_deref()),
        }
    }

    /// Whether the broker at `host` shows every partition with all of its replicas in sync.
    fn is_whole(&self, host: &str, new: &NewTopic<'_>) -> io::Result<()> {
        let (_, answer) = wire::described(self, host, new.name)?;
        let found = answer.topics.first().ok_or_else(|| invalid("no topic in the answer"))?;
        let in_sync = found.partitions.iter().filter(|partition| {
            partition.leader_id.0 >= 0 && partition.isr_nodes.len() == new.replication as usize
        });
        match (found.error_code, in_sync.count()) {
            (0, _) if found.partitions.len() != new.partitions as usize => {
                let (name, has, wanted) = (new.name, found.partitions.len(), new.partitions);
                let why = format!("topic {name} exists with {has} partitions, not {wanted}");
                Err(io::Error::new(ErrorKind::AlreadyExists, why))
            }
            (0, whole) if whole == new.partitions as usize => Ok(()),
            (0, whole) => Err(io::Error::other(format!(
                "topic {}: {whole} of {} partitions are whole by broker {host}",
                new.name, new.partitions
            ))),
            (code, _) => Err(io::Error::other(format!("topic {}: {}", new.name, in_words(code)))),
        }
    }

    /// Deletes a topic and its data on disk; a topic that does not exist is no error.
    ///
    /// # Errors
    /// The error of the last broker of the list, when none of them deletes it.
    pub fn delete_topic(&self, name: &str) -> io::Result<()> {
        self.any_of(|host| self.try_to_delete(host, name))
    }

    /// Adds partitions to a topic, up to `partitions`.
    ///
    /// # Errors
    /// `InvalidInput` when the brokers refuse: it has as many, or does not exist; else as
    /// [`Self::delete_topic`].
    pub fn grow_topic(&self, name: &str, partitions: i32) -> io::Result<()> {
        self.any_of(|host| self.try_to_grow(host, name, partitions))
    }

    fn try_to_grow(&self, host: &str, name: &str, partitions: i32) -> io::Result<()> {
        let mut connection = self.connect(host)?;
        let version = connection.version(ApiKey::CreatePartitions, GROW)?;
        let topic = CreatePartitionsTopic::default()
            .with_name(wire::name(name))
            .with_count(partitions)
            .with_assignments(None);
        let question = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX));
        let answer: CreatePartitionsResponse =
            connection.ask(ApiKey::CreatePartitions, version, &question, 2 * TIMEOUT)?;
        let grown = answer.results.first().ok_or_else(|| invalid("no topic in the answer"))?;
        refusal(name, grown.error_code, grown.error_message.as_deref())
    }

    /// Names of all topics but Kafka's own.
    ///
    /// # Errors
    /// As [`Self::delete_topic`].
    pub fn topics(&self) -> io::Result<Vec<String>> {
        self.any_of(|host| wire::topics(self, host))
    }

    fn try_to_delete(&self, host: &str, name: &str) -> io::Result<()> {
        let mut connection = self.connect(host)?;
        let version = connection.version(ApiKey::DeleteTopics, DELETE)?;
        let question = DeleteTopicsRequest::default()
            .with_topic_names(vec![wire::name(name)])
            .with_timeout_ms(i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX));
        let answer: DeleteTopicsResponse =
            connection.ask(ApiKey::DeleteTopics, version, &question, 2 * TIMEOUT)?;
        match answer.responses.first().map(|topic| topic.error_code) {
            Some(0 | UNKNOWN_TOPIC_OR_PARTITION) => Ok(()),
            Some(code) => Err(io::Error::other(format!("topic {name}: {}", in_words(code)))),
            None => Err(invalid("no topic in the answer")),
        }
    }
}

fn words(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A broker's error for a topic: `InvalidInput` where waiting does not help.
fn refusal(name: &str, code: i16, words: Option<&str>) -> io::Result<()> {
    if code == 0 {
        return Ok(());
    }
    let known = kafka_protocol::ResponseError::try_from_code(code);
    let retriable = known.is_some_and(|error| error.is_retriable());
    // Kafka calls UNKNOWN_TOPIC_OR_PARTITION retriable, but here it comes from the controller.
    let passes =
        code == INVALID_REPLICATION_FACTOR || retriable && code != UNKNOWN_TOPIC_OR_PARTITION;
    let kind = if passes { ErrorKind::Other } else { ErrorKind::InvalidInput };
    let why = format!("topic {name}: {} {}", in_words(code), words.unwrap_or_default());
    Err(io::Error::new(kind, why))
}
