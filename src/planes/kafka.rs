//! The data plane of crate `kafka` 0.10, with its traps: the only file that names the crate.
//!
//! It speaks Fetch v0 and Produce v0, which Kafka 4.0 removed (KIP-896) and which earlier brokers
//! convert down to. Its faults, and the remedies:
//! - it waits up to 120 s on a dead socket, which stays in its pool: one client a broker, thrown
//!   away after any error; its caller gives the thread up sooner ([`crate::brokers::Busy`])
//! - it reports nothing of a batch that is larger than a fetch, of plain batches before a
//!   compressed one in the same answer, of lz4 and zstd: after a suspect answer the partition is
//!   read one batch at a time, each after its own header (`stepper`)
//! - it cannot tell a tombstone from an empty value, and knows no transactions: it delivers their
//!   records

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use kafka::client::fetch::{Data, Response};
use kafka::client::{FetchPartition, KafkaClient, ProduceMessage, RequiredAcks};
use kafka::error::{Error, KafkaCode};

use super::stepper::{Step, Stepper};
use super::{
    Acks, Ask, Entry, FetchSettings, Fetched, Fetches, Lost, Parcel, Part, Passed, ProduceSettings,
    Produced, Produces, Refusal, Unsent,
};
use crate::brokers::connection;
use crate::brokers::{BrokerError, Brokers};
use crate::records::BatchHeader;
use kafka_protocol::messages::ApiKey;

/// The wait of a client above its quota: Fetch v0 does not say how long it is muted.
const THROTTLED: Duration = Duration::from_secs(1);

/// See the module.
pub struct Fetcher {
    brokers: Brokers,
    address: String,
    topic: String,
    settings: FetchSettings,
    client: Option<KafkaClient>,
    /// Partitions whose last plain fetch was suspect, and whether the broker refused it with a code that the crate does
    /// not know.
    stepping: BTreeMap<i32, bool>,
    /// The answers, for [`Fetches::read`].
    kept: Vec<Kept>,
}

/// An answer, or the result of a step.
enum Kept {
    /// Answers of one request; parts of them are found by partition.
    Plain(Vec<Response>),
    /// A batch that was requested alone.
    Batch(Vec<Response>, BatchHeader),
    /// No record up to `to`.
    Passed { to: i64, what: Passed },
    /// A batch that crate `kafka` cannot read.
    Unreadable { to: i64, reason: &'static str, why: String },
    /// The log ends here.
    End,
}

impl Fetcher {
    /// A fetcher of `topic` from the broker at `address`.
    pub fn new(brokers: &Brokers, address: &str, topic: &str, settings: FetchSettings) -> Self {
        Self {
            brokers: brokers.clone(),
            address: address.to_owned(),
            topic: topic.to_owned(),
            settings,
            client: None,
            stepping: BTreeMap::new(),
            kept: Vec::new(),
        }
    }

    fn request(&mut self, asks: &[Ask], bytes: i32) -> Result<Vec<Response>, Error> {
        let client = match &mut self.client {
            Some(client) => client,
            empty => {
                let mut client = client(&self.brokers, &self.address, &self.topic)
                    .map_err(|e| Error::Io(std::io::Error::other(e.to_string())))?;
                client.set_fetch_max_wait_time(self.settings.wait)?;
                client.set_fetch_min_bytes(1);
                empty.insert(client)
            }
        };
        let question = |ask: &Ask| {
            FetchPartition::new(&self.topic, ask.partition, ask.offset).with_max_bytes(bytes)
        };
        client.fetch_messages(asks.iter().map(question).collect::<Vec<_>>())
    }

    /// One fetch of all of `asks` together.
    fn plain(&mut self, asks: &[Ask], fetched: &mut Fetched) -> Result<(), Lost> {
        let responses = match self.request(asks, self.settings.bytes) {
            Ok(responses) => responses,
            // The crate fails the whole call and does not say for which partition.
            Err(Error::UnsupportedCompression | Error::CodecError | Error::InvalidSnappy(_)) => {
                self.client = None;
                self.stepping.extend(asks.iter().map(|ask| (ask.partition, false)));
                return Ok(());
            }
            Err(e) => {
                self.client = None;
                return Err(Lost::Connection(e.to_string()));
            }
        };
        if is_throttled(&responses) {
            fetched.throttled = THROTTLED;
            return Ok(());
        }
        let (at, parts) = (self.kept.len(), &mut fetched.parts);
        for ask in asks {
            let partition = ask.partition;
            let answer = match data(&responses, partition) {
                Some(Ok(data)) => Ok(data.highwatermark_offset()),
                // Codes that the crate does not know: the batch's header tells.
                Some(Err(e)) if matches!(*e, Error::Kafka(KafkaCode::Unknown)) => {
                    self.stepping.insert(partition, true);
                    continue;
                }
                Some(Err(e)) => Err(refusal(&self.topic, &e)),
                None => Err(moved("it has no leader here")),
            };
            parts.push(Part { partition, answer, at });
        }
        if parts.iter().any(|part| matches!(part.answer, Err(Refusal::Moved { .. }))) {
            self.client = None; // its metadata of the leaders is old
        }
        self.kept.push(Kept::Plain(responses));
        Ok(())
    }

    /// The entry at one partition's offset, by its batch's header.
    fn step(&mut self, ask: &Ask, fetched: &mut Fetched) {
        let stepper =
            Stepper { brokers: &self.brokers, address: &self.address, topic: &self.topic };
        let (partition, from) = (ask.partition, ask.offset);
        let mut high_watermark = i64::MAX;
        let kept = match stepper.next(partition, from, self.settings.bytes_max) {
            Step::End => {
                // There is no record yet whose batch would tell.
                if self.stepping.remove(&partition) == Some(true) {
                    Err(Refusal::NotNow(
                        "the broker refuses Fetch v0 with an error that crate `kafka` does not know, as it does where the \
                         topic's compression.type is zstd: use --client wire then"
                            .into(),
                    ))
                } else {
                    Ok(Kept::End)
                }
            }
            Step::OutOfRange => Err(Refusal::OutOfRange),
            Step::Gap { to } => Ok(Kept::Passed { to, what: Passed::Gap }),
            Step::Control { to } => Ok(Kept::Passed { to, what: Passed::Control }),
            Step::Unreadable { codec, to } => Ok(Kept::Unreadable {
                to,
                reason: codec,
                why: format!("crate `kafka` does not read {codec}; --client wire does"),
            }),
            Step::TooLarge { bytes, to } => Ok(Kept::Unreadable {
                to,
                reason: "batch_too_large",
                why: format!(
                    "a batch of {bytes} bytes is larger than --fetch-bytes-max {}; raise it",
                    self.settings.bytes_max
                ),
            }),
            Step::Failed(why) => Err(Refusal::NotNow(why)),
            Step::Batch { bytes, header } => {
                let to = header.last_offset + 1;
                match self.request(std::slice::from_ref(ask), bytes) {
                    Ok(responses) if is_throttled(&responses) => {
                        fetched.throttled = THROTTLED;
                        return;
                    }
                    Ok(responses) => match data(&responses, partition) {
                        Some(Ok(data)) => {
                            high_watermark = data.highwatermark_offset();
                            self.stepping.remove(&partition);
                            Ok(Kept::Batch(responses, header))
                        }
                        // Its header could be read, by a newer Fetch.
                        Some(Err(e)) if matches!(*e, Error::Kafka(KafkaCode::Unknown)) => {
                            Err(Refusal::Never(format!(
                                "the broker refuses Fetch v0 of topic {}, as it does where the \
                                 topic's compression.type is zstd: use --client wire",
                                self.topic
                            )))
                        }
                        Some(Err(e)) => Err(refusal(&self.topic, &e)),
                        None => Err(moved("it has no leader here")),
                    },
                    Err(Error::UnsupportedCompression | Error::CodecError) => {
                        self.client = None;
                        let why = "the batch cannot be unpacked: it is corrupt".to_owned();
                        Ok(Kept::Unreadable { to, reason: "corrupt", why })
                    }
                    Err(e) => {
                        self.client = None;
                        Err(Refusal::NotNow(e.to_string()))
                    }
                }
            }
        };
        let at = self.kept.len();
        let answer = match kept {
            Ok(kept) => {
                if let Kept::Passed { to, .. } | Kept::Unreadable { to, .. } = &kept {
                    high_watermark = *to;
                } else if matches!(kept, Kept::End) {
                    high_watermark = from;
                }
                self.kept.push(kept);
                Ok(high_watermark)
            }
            Err(refusal) => Err(refusal),
        };
        fetched.parts.push(Part { partition, answer, at });
    }
}

impl Fetches for Fetcher {
    fn fetch(&mut self, asks: &[Ask]) -> Result<Fetched, Lost> {
        self.kept.clear();
        let mut fetched = Fetched::default();
        let (stepping, plain): (Vec<_>, Vec<_>) =
            asks.iter().copied().partition(|ask| self.stepping.contains_key(&ask.partition));
        for ask in &stepping {
            self.step(ask, &mut fetched);
        }
        if !plain.is_empty() {
            self.plain(&plain, &mut fetched)?;
        }
        Ok(fetched)
    }

    fn read(&mut self, part: &Part, from: i64, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>) {
        let Some(kept) = self.kept.get(part.at) else { return };
        let _ended = match kept {
            Kept::End => ControlFlow::Continue(()),
            Kept::Passed { to, what } => each(Entry::Passed { to: *to, what: *what }),
            Kept::Unreadable { to, reason, why } => {
                each(Entry::Unreadable { to: Some(*to), reason, why: why.clone() })
            }
            Kept::Plain(responses) => {
                let Some(Ok(data)) = data(responses, part.partition) else { return };
                let next = match records(data, from, None, each) {
                    ControlFlow::Continue(next) => next,
                    ControlFlow::Break(()) => return,
                };
                // Crate kafka drops the records before a compressed batch, and reports nothing of
                // one that is larger than the fetch. Go on from there one batch at a time.
                let last = data.messages().last().map_or(-1, |m| m.offset);
                if last >= next || (next == from && data.highwatermark_offset() > from) {
                    self.stepping.insert(part.partition, false);
                }
                ControlFlow::Continue(())
            }
            Kept::Batch(responses, header) => {
                let Some(Ok(data)) = data(responses, part.partition) else { return };
                let next = match records(data, from, Some(header), each) {
                    ControlFlow::Continue(next) => next,
                    ControlFlow::Break(()) => return,
                };
                let to = header.last_offset + 1;
                match next {
                    // It has records, and the crate returned none of them.
                    next if next <= header.base_offset && header.records > 0 => {
                        let why = "the batch cannot be read: it is corrupt".to_owned();
                        each(Entry::Unreadable { to: Some(to), reason: "corrupt", why })
                    }
                    next if next < to => each(Entry::Passed { to, what: Passed::Gap }),
                    _ => ControlFlow::Continue(()),
                }
            }
        };
    }
}

/// Shows the records from `from` on, without a gap except inside `batch`. Returns the next offset.
fn records(
    data: &Data<'_>,
    from: i64,
    batch: Option<&BatchHeader>,
    each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> ControlFlow<(), i64> {
    let mut next = from;
    for message in data.messages() {
        let is_hole = batch.is_some_and(|batch| message.offset <= batch.last_offset);
        if message.offset > next && !is_hole {
            break;
        }
        if message.offset >= next {
            let value = (!message.value.is_empty()).then_some(message.value);
            each(Entry::Record { offset: message.offset, value })?;
            next = message.offset + 1;
        }
    }
    ControlFlow::Continue(next)
}

/// Whether the answers name no topic, as they do for a client above its quota (KIP-219).
fn is_throttled(responses: &[Response]) -> bool {
    !responses.is_empty() && responses.iter().all(|response| response.topics().is_empty())
}

/// One partition's part of the answers.
fn data<'a>(
    responses: &'a [Response],
    partition: i32,
) -> Option<Result<&'a Data<'a>, std::sync::Arc<Error>>> {
    let parts = responses.iter().flat_map(|r| r.topics()).flat_map(|t| t.partitions());
    parts.into_iter().find(|p| p.partition() == partition).map(|p| p.data())
}

fn moved(why: &str) -> Refusal {
    Refusal::Moved { why: why.to_owned(), leader: None }
}

fn refusal(topic: &str, error: &Error) -> Refusal {
    match error {
        Error::Kafka(KafkaCode::OffsetOutOfRange) => Refusal::OutOfRange,
        Error::Kafka(
            code @ (KafkaCode::NotLeaderForPartition | KafkaCode::UnknownTopicOrPartition),
        ) => moved(&format!("{code:?}")),
        Error::Kafka(KafkaCode::UnsupportedVersion) => Refusal::Never(format!(
            "topic {topic} is not converted down for old clients \
             (message.downconversion.enable=false), and crate `kafka` is one: use --client wire"
        )),
        other => Refusal::NotNow(other.to_string()),
    }
}

/// Asks whether the broker still takes what crate `kafka` sends.
///
/// # Errors
/// [`BrokerError::TooNew`] when it does not; [`BrokerError::Client`] when it does not answer.
pub fn check(brokers: &Brokers, address: &str) -> Result<(), BrokerError> {
    let failed = |what: String| BrokerError::Client { host: address.to_owned(), what };
    let connection = brokers.connect(address).map_err(|e| failed(e.to_string()))?;
    match connection.speaks(ApiKey::Fetch) {
        Some(connection::Range { min: fetch_min @ 1.., .. }) => {
            Err(BrokerError::TooNew { host: address.to_owned(), fetch_min })
        }
        _ => Ok(()),
    }
}

/// A fresh client that talks to one broker.
///
/// It loads the topic's metadata from that broker, so a later fetch or produce goes to the
/// partitions' leaders as this broker knows them: pass only partitions that it leads.
///
/// # Errors
/// As [`check`]; and when the crate fails.
pub fn client(brokers: &Brokers, address: &str, topic: &str) -> Result<KafkaClient, BrokerError> {
    // A connection of crate `kafka` waits without limit for a host that is cut off; ours does not.
    check(brokers, address)?;
    let mut client = KafkaClient::new(vec![address.to_owned()]);
    client.set_client_id(connection::CLIENT_ID.to_owned());
    client
        .load_metadata(&[topic])
        .map_err(|e| BrokerError::Client { host: address.to_owned(), what: e.to_string() })?;
    Ok(client)
}

/// Moves events into the logs by Produce v0: without a time, and not idempotent.
pub struct Sender {
    brokers: Brokers,
    address: String,
    topic: String,
    settings: ProduceSettings,
    client: Option<KafkaClient>,
}

impl Sender {
    /// A sender to `topic` by the broker at `address`.
    pub fn new(brokers: &Brokers, address: &str, topic: &str, settings: ProduceSettings) -> Self {
        Self {
            brokers: brokers.clone(),
            address: address.to_owned(),
            topic: topic.to_owned(),
            settings,
            client: None,
        }
    }
}

impl Produces for Sender {
    fn produce(&mut self, parcels: &[Parcel<'_>]) -> Result<Produced, Lost> {
        let link = match &mut self.client {
            Some(client) => client,
            empty => match client(&self.brokers, &self.address, &self.topic) {
                Ok(client) => empty.insert(client),
                Err(e) if e.is_passing() => return Err(Lost::Connection(e.to_string())),
                Err(e) => return Err(Lost::Never(e.to_string())),
            },
        };
        let messages = parcels.iter().flat_map(|parcel| {
            parcel.events.iter().map(|event| ProduceMessage {
                key: Some(event.key),
                value: Some(event.value),
                topic: &self.topic,
                partition: parcel.partition,
            })
        });
        let acks = match self.settings.acks {
            Acks::All => RequiredAcks::All,
            Acks::One => RequiredAcks::One,
            Acks::None => RequiredAcks::None,
        };
        let confirms = match link.produce_messages(acks, self.settings.timeout, messages) {
            Ok(confirms) => confirms,
            Err(e) => {
                self.client = None;
                return Err(Lost::Connection(e.to_string()));
            }
        };
        let verdict = |parcel: &Parcel<'_>| {
            let mut all = confirms.iter().flat_map(|confirm| &confirm.partition_confirms);
            let verdict = match all.find(|confirm| confirm.partition == parcel.partition) {
                _ if self.settings.acks == Acks::None => Ok(None),
                Some(confirm) => confirm.offset.map(Some).map_err(unsent),
                None => Err(Unsent::Moved { why: "no answer for it".into(), leader: None }),
            };
            (parcel.partition, verdict)
        };
        let verdicts: Vec<_> = parcels.iter().map(verdict).collect();
        if verdicts.iter().any(|(_, verdict)| matches!(verdict, Err(Unsent::Moved { .. }))) {
            self.client = None; // its metadata of the leaders is old
        }
        Ok(Produced { verdicts, throttled: Duration::ZERO })
    }
}

fn unsent(code: KafkaCode) -> Unsent {
    let why = format!("{code:?}");
    match code {
        KafkaCode::MessageSizeTooLarge | KafkaCode::RecordListTooLarge => Unsent::TooLarge(why),
        KafkaCode::NotLeaderForPartition | KafkaCode::UnknownTopicOrPartition => {
            Unsent::Moved { why, leader: None }
        }
        KafkaCode::InvalidTopic
        | KafkaCode::InvalidRequiredAcks
        | KafkaCode::TopicAuthorizationFailed
        | KafkaCode::ClusterAuthorizationFailed => Unsent::Never(why),
        _ => Unsent::NotNow(why),
    }
}
