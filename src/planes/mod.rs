//! The data planes: they read records from the log, and write them. One file each behind one trait.
//!
//! - `wire`    today's protocol over one kept connection a broker (crate `kafka-protocol`)
//! - `kafka`   crate `kafka`, which speaks the oldest one: brokers up to 3.9, with the traps it has
//! - `rdkafka` librdkafka, which fetches ahead of what it is asked for: for what that costs
//! - `stepper` one batch at a time, where a fetch of crate `kafka` cannot go on
//!
//! What the seam promises: one blocking question a broker at a time; nothing is fetched that was not asked
//! for; nothing is stepped over in silence: what is no record is passed over by name. (`rdkafka` fetches ahead, and does not
//! say what it steps over.) A plane knows nothing of the group, finds no leader by itself, and after an error begins anew.

pub mod kafka;
mod rdkafka;
mod stepper;
pub mod wire;

pub use rdkafka::WAITING_BYTES_MAX;

use std::ops::ControlFlow;
use std::time::Duration;

use crate::brokers::Brokers;
use crate::failure::Failure;
use crate::records::{Codec, ProducerStamp};
use crate::units;

/// Which plane moves the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Today's protocol, Kafka 2.1 to 4.x.
    Wire,
    /// Crate `kafka`, Kafka up to 3.9.
    Kafka,
    /// librdkafka with its prefetch; a consumer's alone.
    Rdkafka,
}

impl Client {
    /// Reads a producer's: `wire` or `kafka`.
    ///
    /// # Errors
    /// The names that are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        units::one_of(text, &[("wire", Self::Wire), ("kafka", Self::Kafka)])
    }

    /// Reads a consumer's: `wire`, `kafka` or `rdkafka`.
    ///
    /// # Errors
    /// The names that are allowed.
    pub fn parse_consumer(text: &str) -> Result<Self, String> {
        let all = [("wire", Self::Wire), ("kafka", Self::Kafka), ("rdkafka", Self::Rdkafka)];
        units::one_of(text, &all)
    }

    /// Whether the plane can speak with `brokers` as their properties file says.
    ///
    /// # Errors
    /// Usage: crate `kafka` has no TLS and no SASL here.
    pub fn check(self, brokers: &Brokers) -> Result<(), Failure> {
        if self == Self::Kafka && brokers.have_security() {
            let allowed = "crate kafka speaks no TLS and no SASL: use --client wire";
            return Err(Failure::flag("--client", "kafka", allowed));
        }
        Ok(())
    }
}

/// Which records of transactions are delivered (Kafka's `isolation.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// All, those of open and aborted transactions too.
    ReadUncommitted,
    /// Those of committed transactions, and none after an open one (KIP-98).
    ReadCommitted,
}

impl Isolation {
    /// Reads `read-uncommitted` or `read-committed`; Kafka's spelling with `_` too.
    ///
    /// # Errors
    /// The names that are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let levels =
            [("read-uncommitted", Self::ReadUncommitted), ("read-committed", Self::ReadCommitted)];
        units::one_of(&text.replace('_', "-"), &levels)
    }
}

/// How large an answer is requested, within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Always as large as it may be.
    Largest,
    /// As large as what is taken in a quarter of a second ([`wire::debloat`]).
    AsTaken,
}

/// How much a fetch asks for, and how.
#[derive(Debug, Clone, Copy)]
pub struct FetchSettings {
    /// Which plane asks.
    pub client: Client,
    /// Bytes asked for, each partition (`max.partition.fetch.bytes`).
    pub bytes: i32,
    /// Bytes of a whole answer (`fetch.max.bytes`); crate `kafka` cannot ask for that.
    pub answer_bytes: i32,
    /// How much of that is requested.
    pub answers: Answers,
    /// Largest batch that is fetched, and largest size that one may unpack to; a larger one ends
    /// the run with an error that names it.
    pub bytes_max: i32,
    /// How long the broker may delay an answer while there is nothing to send
    /// (`fetch.max.wait.ms`).
    pub wait: Duration,
    /// Which records of transactions are delivered.
    pub isolation: Isolation,
    /// Bytes that librdkafka fetches ahead, at most and an answer of each broker more (`queued.max.messages.kbytes`).
    pub prefetch_bytes: u64,
    /// Events in its queue above which it fetches no more ahead (`queued.min.messages`).
    pub prefetch_events: u32,
    /// Whether librdkafka is paused while what it gave is worked on.
    pub prefetch_pause: bool,
}

/// What a client holds that nobody asked it for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// Records.
    pub events: u64,
    /// Their bytes, as the client counts them.
    pub bytes: u64,
    /// Bytes that brokers sent it so far, those that it threw away included.
    pub received_bytes: u64,
}

/// A request for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The partition.
    pub partition: i32,
    /// The topic's id, 0 where brokers have none (before 2.8).
    pub topic_id: u128,
    /// The next offset.
    pub offset: i64,
    /// The leader's epoch as the metadata tells it; -1 unknown (KIP-320).
    pub leader_epoch: i32,
    /// Epoch of the batch that was read before `offset`, from whichever broker: where its log has another there, it was
    /// cut (KIP-320, KIP-595); -1 unknown.
    pub last_epoch: i32,
}

/// The end of the last whole batch that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadTo {
    /// The offset behind it.
    pub offset: i64,
    /// Its epoch; -1 unknown.
    pub epoch: i32,
}

/// A broker's answer.
#[derive(Debug, Default)]
pub struct Fetched {
    /// One for each partition of the answer.
    pub parts: Vec<Part>,
    /// Time for which the client must send nothing (KIP-219).
    pub throttled: Duration,
}

/// A broker's answer for one partition.
#[derive(Debug)]
pub struct Part {
    /// The partition.
    pub partition: i32,
    /// Its high watermark; [`Fetches::read`] shows the records below it.
    pub answer: Result<i64, Refusal>,
    /// Where the plane keeps its records.
    at: usize,
}

/// Why a partition's answer has no records. It concerns that partition alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The offset is not in the log: retention deleted it, or the log ends before it.
    OutOfRange,
    /// The log was cut: it ends at `end`, below the offset (KIP-320).
    Cut {
        /// The first offset at which the log differs from what was read.
        end: i64,
    },
    /// Another broker leads it now, or will: which one, if the broker says so.
    Moved {
        /// The broker's message.
        why: String,
        /// The new leader and its epoch.
        leader: Option<(i32, i32)>,
    },
    /// A temporary error of the broker: try again later.
    NotNow(String),
    /// Waiting does not help.
    Never(String),
}

/// Why a broker did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Its connection cannot be used any more.
    Connection(String),
    /// Waiting does not help.
    Never(String),
}

/// An entry of the log, as a plane shows it.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A record.
    Record {
        /// Its offset.
        offset: i64,
        /// Its value; `None` is a tombstone.
        value: Option<&'a [u8]>,
    },
    /// There is no record below `to`.
    Passed {
        /// The next offset that may hold one.
        to: i64,
        /// What is there instead.
        what: Passed,
    },
    /// The entry cannot be read.
    Unreadable {
        /// First offset after it; `None` where that is unknown too.
        to: Option<i64>,
        /// A short label for it.
        reason: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// An offset that holds no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The marker of a transaction's end.
    Control,
    /// Records of a transaction that was aborted.
    Aborted,
    /// Nothing: compaction or a deletion removed it.
    Gap,
}

/// Moves one broker's records out of its logs; one a thread.
pub trait Fetches: Send {
    /// Sends one request, and waits for the answer.
    ///
    /// # Errors
    /// [`Lost`]: the request has no answer.
    fn fetch(&mut self, asks: &[Ask]) -> Result<Fetched, Lost>;

    /// Shows the entries of `part` of the last answer from offset `from` on, until `each` breaks
    /// off.
    fn read(&mut self, part: &Part, from: i64, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>);

    /// How far the last `read` read batches to their end, for [`Ask::last_epoch`]; `None` where it read none, or the client
    /// sees to that itself.
    fn read_to(&self) -> Option<ReadTo> {
        None
    }

    /// Nothing is asked for now: what was asked for is not wanted any more.
    fn let_go(&mut self) {}

    /// What it holds that was not asked for; `None` where it fetches nothing ahead.
    fn prefetched(&self) -> Option<Prefetched> {
        None
    }
}

/// A fetcher of `topic` from the broker at `address`; it connects at its first request.
pub fn fetches(
    brokers: &Brokers,
    address: &str,
    topic: &str,
    settings: FetchSettings,
) -> Box<dyn Fetches> {
    match settings.client {
        Client::Wire => Box::new(wire::Fetcher::new(brokers, address, topic, settings)),
        Client::Kafka => Box::new(kafka::Fetcher::new(brokers, address, topic, settings)),
        Client::Rdkafka => Box::new(rdkafka::Fetcher::new(brokers, topic, settings)),
    }
}

/// How many replicas must have an event before it counts as sent (Kafka's `acks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// All that are in sync.
    All,
    /// The leader.
    One,
    /// None: an event is sent once it is written to the socket.
    None,
}

impl Acks {
    /// Reads `all` (or `-1`), `1` or `0`.
    ///
    /// # Errors
    /// The words that are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" | "-1" => Ok(Self::All),
            "1" => Ok(Self::One),
            "0" => Ok(Self::None),
            _ => Err("expected all (or -1), 1 or 0".into()),
        }
    }
}

/// How events are sent.
#[derive(Debug, Clone, Copy)]
pub struct ProduceSettings {
    /// Which plane sends.
    pub client: Client,
    /// How many replicas must have an event.
    pub acks: Acks,
    /// How batches are packed; crate `kafka` sends them as they are.
    pub codec: Codec,
    /// How long a broker may wait for its followers before it says so.
    pub timeout: Duration,
}

/// One event as a record.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Its create time: when it was due, ms since the epoch.
    pub timestamp_ms: i64,
    /// The record's key; empty for none.
    pub key: &'a [u8],
    /// The record's value.
    pub value: &'a [u8],
}

/// What goes to one partition in a request.
pub struct Parcel<'a> {
    /// The partition.
    pub partition: i32,
    /// The mark by which a broker recognises a resend (KIP-98).
    pub stamp: ProducerStamp,
    /// Its events, in order.
    pub events: Vec<Outgoing<'a>>,
}

/// The result of a request.
#[derive(Debug, Default)]
pub struct Produced {
    /// By partition: the offset of its first event, if the broker tells it; or the error.
    pub verdicts: Vec<(i32, Result<Option<i64>, Unsent>)>,
    /// Time for which the client must send nothing (KIP-219).
    pub throttled: Duration,
}

/// Why a partition's events were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsent {
    /// They are larger than the topic allows for one batch.
    TooLarge(String),
    /// The broker expects another sequence number: it may have them or not.
    Sequence(String),
    /// Another broker leads the partition now, or will: which one, if the broker says so.
    Moved {
        /// The broker's message.
        why: String,
        /// The new leader and its epoch.
        leader: Option<(i32, i32)>,
    },
    /// A temporary error of the broker: send them again later.
    NotNow(String),
    /// Waiting does not help.
    Never(String),
}

/// Moves events into the logs that one broker leads; one a thread.
pub trait Produces: Send {
    /// Sends one batch for each parcel, and waits for the answer.
    ///
    /// # Errors
    /// [`Lost`]: it is not known whether they arrived.
    fn produce(&mut self, parcels: &[Parcel<'_>]) -> Result<Produced, Lost>;
}

/// A sender to `topic` by the broker at `address`; it connects at its first request.
pub fn produces(
    brokers: &Brokers,
    address: &str,
    topic: &str,
    settings: ProduceSettings,
) -> Box<dyn Produces> {
    match settings.client {
        // No producer takes `rdkafka` (`Client::parse`).
        Client::Wire | Client::Rdkafka => {
            Box::new(wire::Sender::new(brokers, address, topic, settings))
        }
        Client::Kafka => Box::new(kafka::Sender::new(brokers, address, topic, settings)),
    }
}
