//! Fetches by today's protocol.
//!
//! Invariant: an answer is in memory once, in a buffer that the next one uses again, and at most as
//! large as requested (up to `answer_bytes`, see [`Debloat`]; or one batch that is larger: KIP-74).
//! The partitions take turns at the head of the request, or such a batch would starve the
//! partitions after it. It makes no fetch session: each request is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::debloat::Debloat;
use super::{Link, throttled};
use crate::brokers::Brokers;
use crate::brokers::connection::{self, ANSWER_BYTES_MAX, Range};
use crate::brokers::fetch_answer::{self, Answered, FetchAnswer, TOPIC_ID_SINCE};
use crate::planes::{
    Answers, Ask, Entry, FetchSettings, Fetched, Fetches, Isolation, Lost, Part, Passed, ReadTo,
    Refusal,
};
use crate::records::{Batch, BatchHeader, Control, Scratch, Unreadable, announced, batches};

/// Versions of the requests.
const VERSIONS: Range = Range { min: fetch_answer::VERSION_MIN, max: fetch_answer::VERSION_MAX };

/// How much longer than [`FetchSettings::wait`] an answer may take: a broker that is alive answers in
/// milliseconds; one that collects garbage, in a few seconds.
const PATIENCE: Duration = Duration::from_secs(8);

/// See the module.
pub struct Fetcher {
    topic: String,
    settings: FetchSettings,
    link: Link,
    /// For answers as large as what is taken downstream.
    debloat: Option<Debloat>,
    /// The last answer, and where its parts are.
    answer: Vec<u8>,
    parsed: FetchAnswer,
    scratch: Scratch,
    /// How far the last part was read.
    read_to: Option<ReadTo>,
    /// How often in a row a partition's part held the beginning of a batch alone.
    cut: BTreeMap<i32, usize>,
    /// Which partition comes first in the request.
    turn: usize,
}

impl Fetcher {
    /// A fetcher of `topic` from the broker at `address`.
    pub fn new(brokers: &Brokers, address: &str, topic: &str, settings: FetchSettings) -> Self {
        Self {
            topic: topic.to_owned(),
            settings,
            link: Link::new(brokers, address, ApiKey::Fetch, VERSIONS),
            debloat: (settings.answers == Answers::AsTaken)
                .then(|| Debloat::new(settings.answer_bytes)),
            answer: Vec::new(),
            parsed: FetchAnswer::default(),
            scratch: Scratch::new(usize::try_from(settings.bytes_max).unwrap_or(0)),
            read_to: None,
            cut: BTreeMap::new(),
            turn: 0,
        }
    }

    fn ask(&mut self, asks: &[Ask]) -> io::Result<()> {
        let (connection, version) = self.link.open()?;
        let topic_id = asks.first().map_or(0, |ask| ask.topic_id);
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        self.turn = self.turn.wrapping_add(1);
        let (behind, ahead) = asks.split_at(self.turn % asks.len().max(1));
        let partition = |ask: &Ask| {
            let mut partition = FetchPartition::default()
                .with_partition(ask.partition)
                .with_fetch_offset(ask.offset)
                .with_partition_max_bytes(self.settings.bytes);
            if version >= 9 {
                partition.current_leader_epoch = ask.leader_epoch;
            }
            if version >= 12 {
                partition.last_fetched_epoch = ask.last_epoch;
            }
            partition
        };
        let mut topic = FetchTopic::default()
            .with_partitions(ahead.iter().chain(behind).map(partition).collect());
        if version >= TOPIC_ID_SINCE {
            topic.topic_id = Uuid::from_u128(topic_id);
        } else {
            topic.topic = TopicName(StrBytes::from_string(self.topic.clone()));
        }
        let sized = self.debloat.as_mut().map(|debloat| debloat.next(Instant::now()));
        let answer_bytes = sized.unwrap_or(self.settings.answer_bytes);
        let question = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(millis(self.settings.wait))
            .with_min_bytes(1)
            .with_max_bytes(answer_bytes)
            .with_isolation_level(i8::from(self.settings.isolation == Isolation::ReadCommitted))
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let patience = self.settings.wait + PATIENCE;
        connection.send(ApiKey::Fetch, version, &question, patience)?;
        if self.answer.capacity() > 2 * answer_bytes.unsigned_abs() as usize {
            self.answer = Vec::new();
        }
        connection.receive(&mut self.answer, ANSWER_BYTES_MAX).map_err(|e| match e.kind() {
            // No answer is larger than what was asked for, but for one batch that is larger (KIP-74).
            ErrorKind::FileTooLarge => {
                let at = |ask: &Ask| format!("{} at {}", ask.partition, ask.offset);
                let at = asks.iter().map(at).collect::<Vec<_>>().join(", ");
                let topic = &self.topic;
                let why = format!(
                    "{e}: topic {topic} has a record batch there that is larger than any that is read, in one \
                     of the partitions {at}; set the group's offset behind it"
                );
                io::Error::new(ErrorKind::Unsupported, why)
            }
            _ => e,
        })?;
        if let Some(debloat) = &mut self.debloat {
            debloat.came(self.answer.len(), Instant::now());
        }
        self.parsed = fetch_answer::read(&self.answer, version)
            .map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        Ok(())
    }
}

impl Fetches for Fetcher {
    fn fetch(&mut self, asks: &[Ask]) -> Result<Fetched, Lost> {
        if let Err(e) = self.ask(asks) {
            return Err(self.link.lose(&e));
        }
        let head = &self.parsed.head;
        if head.error_code != 0 {
            return Err(Lost::Connection(format!(
                "the fetch is refused with {}",
                connection::in_words(head.error_code)
            )));
        }
        let throttled = throttled(head.throttle_ms);
        let mut parts = Vec::new();
        for (at, answered) in self.parsed.partitions.iter().enumerate() {
            let partition = answered.partition;
            let Some(ask) = asks.iter().find(|ask| ask.partition == partition) else { continue };
            let answer = match &answered.diverging {
                Some((_, end)) if *end < ask.offset => Err(Refusal::Cut { end: *end }),
                Some(_) => Ok(answered.high_watermark),
                None => verdict(answered),
            };
            parts.push(Part { partition, answer, at });
        }
        // A throttled answer names no partition; any other names all.
        if throttled.is_zero() {
            let missing =
                asks.iter().filter(|ask| parts.iter().all(|p| p.partition != ask.partition));
            let unanswered = missing.map(|ask| Part {
                partition: ask.partition,
                answer: Err(Refusal::NotNow("the broker's answer leaves it out".into())),
                at: usize::MAX,
            });
            parts.extend(unanswered.collect::<Vec<_>>());
        }
        Ok(Fetched { parts, throttled })
    }

    fn read_to(&self) -> Option<ReadTo> {
        self.read_to
    }

    fn read(&mut self, part: &Part, from: i64, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>) {
        self.read_to = None;
        let Some(answered) = self.parsed.partitions.get(part.at) else { return };
        if answered.diverging.is_some() {
            // The last batch read is of an epoch that the log no longer has, and still in it.
            self.read_to = Some(ReadTo { offset: from, epoch: -1 });
            return;
        }
        let set = self.answer.get(answered.records.clone()).unwrap_or_default();
        let bytes_max = usize::try_from(self.settings.bytes_max).unwrap_or(0);
        let mut aborted = (self.settings.isolation == Isolation::ReadCommitted)
            .then(|| Aborted::new(&answered.aborted));
        let mut next = from;
        let mut any = false;
        for batch in batches(set) {
            any = true;
            let batch = match batch {
                Ok(batch) => batch,
                Err(why) => {
                    let why = why.to_string();
                    let _last = each(Entry::Unreadable { to: None, reason: "batch", why });
                    return;
                }
            };
            let header = batch.header;
            if header.last_offset < next {
                // What it ends was read before; the producer's next transaction is another.
                if let (true, Some(aborted)) = (header.is_control, &mut aborted) {
                    aborted.end(&header);
                }
                continue;
            }
            if header.base_offset > next {
                // What stood between was compacted away.
                let passed = Entry::Passed { to: header.base_offset, what: Passed::Gap };
                if each(passed).is_break() {
                    return;
                }
                next = header.base_offset;
            }
            let to = header.last_offset + 1;
            let shown = if header.size > bytes_max {
                let why = format!(
                    "a batch of {} bytes is larger than --fetch-bytes-max {bytes_max}; raise it",
                    header.size
                );
                each(Entry::Unreadable { to: Some(to), reason: "batch_too_large", why })
            } else {
                show(&batch, next, &mut aborted, &mut self.scratch, each)
            };
            if shown.is_break() {
                return;
            }
            next = to;
            self.read_to = Some(ReadTo { offset: to, epoch: header.leader_epoch });
        }
        let announced = if any { None } else { announced(set) };
        if let Some(size) = announced
            && (size > ANSWER_BYTES_MAX || self.is_cut_again(part.partition))
        {
            let why = format!(
                "its next batch says that it has {size} bytes, and the broker never sends it whole"
            );
            let _last = each(Entry::Unreadable { to: None, reason: "batch", why });
        } else if announced.is_none() {
            self.cut.remove(&part.partition);
        }
    }
}

impl Fetcher {
    /// A broker sends the first batch of the first partition that has records whole, however large
    /// (KIP-74). So a batch that is cut off each time, while the partitions take turns, is not a
    /// valid batch.
    fn is_cut_again(&mut self, partition: i32) -> bool {
        /// So many turns that each partition was first in some of them.
        const ROUNDS: usize = 4;
        let times = self.cut.entry(partition).or_default();
        *times += 1;
        *times > ROUNDS * self.parsed.partitions.len().max(1)
    }
}

/// Shows a batch from offset `next` on.
fn show(
    batch: &Batch<'_>,
    next: i64,
    aborted: &mut Option<Aborted>,
    scratch: &mut Scratch,
    each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let header = &batch.header;
    let to = header.last_offset + 1;
    let unreadable =
        |e: Unreadable| Entry::Unreadable { to: Some(to), reason: e.reason(), why: e.to_string() };
    if header.is_control {
        if let Some(aborted) = aborted {
            match batch.control(scratch) {
                Ok(Control::Abort) => aborted.end(header),
                Ok(_) => {}
                Err(e) => return each(unreadable(e)),
            }
        }
        return each(Entry::Passed { to, what: Passed::Control });
    }
    if aborted.as_mut().is_some_and(|aborted| aborted.holds(header)) {
        return each(Entry::Passed { to, what: Passed::Aborted });
    }
    match batch.records(scratch) {
        Ok(records) => {
            for record in records {
                match record {
                    Ok(record) if record.offset < next => {}
                    Ok(record) => {
                        each(Entry::Record { offset: record.offset, value: record.value })?;
                    }
                    Err(e) => return each(unreadable(e)),
                }
            }
            each(Entry::Passed { to, what: Passed::Gap })
        }
        Err(e) => each(unreadable(e)),
    }
}

/// The aborted transactions of an answer, as far as it is read (KIP-98): a producer's records
/// belong to an aborted one from its first offset up to the marker that ends it.
struct Aborted {
    /// (first offset, producer id), by offset. The broker has them by the offsets of their ends.
    ahead: Peekable<std::vec::IntoIter<(i64, i64)>>,
    /// Producers whose current transaction was aborted.
    producers: BTreeSet<i64>,
}

impl Aborted {
    /// Of (producer id, first offset).
    fn new(aborted: &[(i64, i64)]) -> Self {
        let mut ahead: Vec<_> =
            aborted.iter().map(|(producer, first)| (*first, *producer)).collect();
        ahead.sort_unstable();
        Self { ahead: ahead.into_iter().peekable(), producers: BTreeSet::new() }
    }

    fn read_up_to(&mut self, offset: i64) {
        while let Some((_, producer)) = self.ahead.next_if(|(first, _)| *first <= offset) {
            self.producers.insert(producer);
        }
    }

    fn holds(&mut self, header: &BatchHeader) -> bool {
        self.read_up_to(header.last_offset);
        header.is_transactional && self.producers.contains(&header.producer_id)
    }

    /// The marker of `header` ends its producer's transaction.
    fn end(&mut self, header: &BatchHeader) {
        self.read_up_to(header.last_offset);
        self.producers.remove(&header.producer_id);
    }
}

/// Kafka's error codes, as far as a fetch returns them.
mod code {
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    pub const FENCED_LEADER_EPOCH: i16 = 74;
    pub const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
    pub const INCONSISTENT_TOPIC_ID: i16 = 103;
}

/// The meaning of a partition's error code.
fn verdict(answered: &Answered) -> Result<i64, Refusal> {
    let why = || connection::in_words(answered.error_code);
    match answered.error_code {
        0 => Ok(answered.high_watermark),
        code::OFFSET_OUT_OF_RANGE => Err(Refusal::OutOfRange),
        code::UNKNOWN_TOPIC_OR_PARTITION
        | code::NOT_LEADER_OR_FOLLOWER
        | code::FENCED_LEADER_EPOCH
        | code::UNKNOWN_LEADER_EPOCH
        | code::UNKNOWN_TOPIC_ID
        | code::INCONSISTENT_TOPIC_ID => {
            Err(Refusal::Moved { why: why(), leader: answered.leader })
        }
        // Asked again, it reads the same bytes of its disk.
        code::CORRUPT_MESSAGE => {
            Err(Refusal::Never(format!("{}: its leader's log is damaged there", why())))
        }
        // Only brokers before 2.1 return it: they take no Fetch that may carry zstd.
        code::UNSUPPORTED_COMPRESSION_TYPE => Err(Refusal::Never(why())),
        code::TOPIC_AUTHORIZATION_FAILED => {
            Err(Refusal::Never(format!("{}; it needs the ACL operation Read on the topic", why())))
        }
        _ => Err(Refusal::NotNow(why())),
    }
}
