//! The data plane of librdkafka, as most consumers have it: it fetches ahead of what it is asked for, into a queue of
//! its own that `--queue-cap` does not limit. It is here to be looked at (experiment 15).
//!
//! The process has one such consumer, as an application has one. The fetchers ask it in turn, and each takes what is of
//! its partitions. Partitions are assigned by hand and nothing is committed: the membership is another client's
//! ([`crate::source::member`]). librdkafka does not show markers and aborted records, and what compaction took looks
//! the same: offsets without a record are passed over uncounted. It checks no topic id, and no CRC (`check.crcs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::{
    Ask, Entry, FetchSettings, Fetched, Fetches, Isolation, Lost, Part, Passed, Prefetched, Refusal,
};
use crate::brokers::{Brokers, librdkafka};

/// How long one thread asks librdkafka, and another waits for its turn.
const SLICE: Duration = Duration::from_millis(20);
/// What a thread that can do nothing waits.
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes that wait between librdkafka's queue and the fetchers, at most, and one record more.
pub const WAITING_BYTES_MAX: usize = 256 << 10;
/// librdkafka takes no `fetch.max.bytes` below its `message.max.bytes`.
const ANSWER_BYTES_MIN: i32 = 1_000_000;
/// How often librdkafka says what it holds.
const STATISTICS_MS: &str = "200";

/// The fetcher of one broker's partitions.
pub struct Fetcher {
    ahead: Result<Arc<Ahead>, String>,
    wait: Duration,
    own: u64,
    /// By partition, the next offset that comes.
    next: BTreeMap<i32, i64>,
    /// What was answered, for [`Fetches::read`].
    kept: Vec<Vec<Record>>,
}

/// A record, out of librdkafka's hands.
struct Record {
    offset: i64,
    value: Option<Vec<u8>>,
}

/// The one consumer of the process; gone with its last fetcher.
static AHEAD: Mutex<Weak<Ahead>> = Mutex::new(Weak::new());
/// Tells fetchers apart.
static FETCHERS: AtomicU64 = AtomicU64::new(0);

impl Fetcher {
    /// A fetcher of `topic`; librdkafka finds the leaders by itself.
    pub fn new(brokers: &Brokers, topic: &str, settings: FetchSettings) -> Self {
        let mut shared = AHEAD.lock();
        let ahead = match shared.upgrade().filter(|ahead| ahead.topic == topic) {
            Some(ahead) => Ok(ahead),
            None => Ahead::new(brokers, topic, settings).map(Arc::new),
        };
        *shared = ahead.as_ref().map_or_else(|_| Weak::new(), Arc::downgrade);
        Self {
            ahead,
            wait: settings.wait,
            own: FETCHERS.fetch_add(1, Ordering::Relaxed),
            next: BTreeMap::new(),
            kept: Vec::new(),
        }
    }
}

impl Fetches for Fetcher {
    fn fetch(&mut self, asks: &[Ask]) -> Result<Fetched, Lost> {
        self.kept.clear();
        let ahead = self.ahead.as_ref().map_err(|why| Lost::Never(why.clone()))?;
        let asked: BTreeSet<i32> = asks.iter().map(|ask| ask.partition).collect();
        self.next.retain(|partition, _| {
            let stays = asked.contains(partition);
            if !stays {
                ahead.leave(*partition, self.own);
            }
            stays
        });
        for ask in asks {
            let follows = self.next.get(&ask.partition) == Some(&ask.offset);
            if !follows || !ahead.is_owned(ask.partition, self.own) {
                ahead.start(ask.partition, ask.offset, self.own).map_err(lost)?;
                self.next.insert(ask.partition, ask.offset);
            }
        }
        let mut fetched = Fetched::default();
        let mut taken = ahead.take(&asked, self.own, self.wait).map_err(lost)?;
        for partition in asked {
            if ahead.refused.lock().remove(&partition) {
                ahead.leave(partition, self.own);
                self.next.remove(&partition);
                let answer = Err(Refusal::OutOfRange);
                fetched.parts.push(Part { partition, answer, at: usize::MAX });
                continue;
            }
            let records: Vec<Record> = taken.remove(&partition).unwrap_or_default().into();
            let next = self.next.entry(partition).or_default();
            if let Some(last) = records.last() {
                *next = last.offset + 1;
            }
            let answer = Ok(ahead.high_watermark(partition).max(*next));
            fetched.parts.push(Part { partition, answer, at: self.kept.len() });
            self.kept.push(records);
        }
        Ok(fetched)
    }

    fn read(&mut self, part: &Part, from: i64, each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>) {
        let mut next = from;
        for Record { offset, value } in self.kept.get(part.at).into_iter().flatten() {
            if *offset > next {
                // A marker, an aborted record, or nothing: librdkafka does not say.
                let passed = Entry::Passed { to: *offset, what: Passed::Control };
                if each(passed).is_break() {
                    return;
                }
            }
            if *offset >= next {
                next = *offset + 1;
                let record = Entry::Record { offset: *offset, value: value.as_deref() };
                if each(record).is_break() {
                    return;
                }
            }
        }
    }

    fn let_go(&mut self) {
        if let Ok(ahead) = &self.ahead {
            let left = std::mem::take(&mut self.next);
            left.into_keys().for_each(|partition| ahead.leave(partition, self.own));
        }
    }

    fn prefetched(&self) -> Option<Prefetched> {
        self.ahead.as_ref().ok().map(|ahead| ahead.consumer.context().now.lock().prefetched)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
    matches!(error, KafkaError::MessageConsumption(AutoOffsetReset | OffsetOutOfRange))
}

fn lost(error: KafkaError) -> Lost {
    use RDKafkaErrorCode::{BadCompression, BadMessage, NotImplemented, TopicAuthorizationFailed};
    match &error {
        KafkaError::MessageConsumptionFatal(_)
        | KafkaError::MessageConsumption(
            BadCompression | BadMessage | NotImplemented | TopicAuthorizationFailed,
        ) => Lost::Never(error.to_string()),
        _ => Lost::Connection(error.to_string()),
    }
}

/// librdkafka's consumer, and what came out of it for whom.
struct Ahead {
    topic: String,
    consumer: BaseConsumer<Seen>,
    /// Who takes what comes of a partition.
    owners: Mutex<BTreeMap<i32, u64>>,
    waiting: Mutex<Waiting>,
    /// Partitions of which one was asked for out of range: rdkafka does not say which. Those that are in range find out
    /// that they are.
    refused: Mutex<BTreeSet<i32>>,
    /// Whether all are paused between two answers.
    pauses: bool,
    /// Held by the thread that asks librdkafka, or changes what it fetches: a record that was on its way when a
    /// partition was started anew would pass for one that follows, and what is between them for a gap.
    asking: Mutex<()>,
}

/// What came and was not taken yet.
#[derive(Default)]
struct Waiting {
    bytes: usize,
    records: BTreeMap<i32, VecDeque<Record>>,
}

impl Waiting {
    fn push(&mut self, partition: i32, record: Record) {
        self.bytes += record.value.as_ref().map_or(0, Vec::len);
        self.records.entry(partition).or_default().push_back(record);
    }

    fn take(&mut self, partition: i32) -> Option<VecDeque<Record>> {
        let records = self.records.remove(&partition)?;
        let bytes = records.iter().filter_map(|record| record.value.as_ref()).map(Vec::len);
        self.bytes -= bytes.sum::<usize>();
        Some(records)
    }
}

impl Ahead {
    fn new(brokers: &Brokers, topic: &str, settings: FetchSettings) -> Result<Self, String> {
        let mut config = brokers.librdkafka();
        let isolation = match settings.isolation {
            Isolation::ReadUncommitted => "read_uncommitted",
            Isolation::ReadCommitted => "read_committed",
        };
        config
            .set("client.id", "backpressure-lab-prefetch")
            // It never joins: partitions are assigned by hand.
            .set("group.id", "backpressure-lab-prefetch")
            .set("auto.offset.reset", "error")
            .set("isolation.level", isolation)
            .set("fetch.wait.max.ms", settings.wait.as_millis().to_string())
            .set("fetch.message.max.bytes", settings.bytes.to_string())
            .set(
                "fetch.max.bytes",
                settings.answer_bytes.max(settings.bytes).max(ANSWER_BYTES_MIN).to_string(),
            )
            .set("queued.max.messages.kbytes", (settings.prefetch_bytes >> 10).max(1).to_string())
            .set("queued.min.messages", settings.prefetch_events.to_string())
            .set("statistics.interval.ms", STATISTICS_MS);
        let seen = Seen { topic: topic.to_owned(), now: Mutex::default() };
        let consumer = config
            .create_with_context(seen)
            .map_err(|e| format!("librdkafka cannot be started: {e}"))?;
        Ok(Self {
            topic: topic.to_owned(),
            consumer,
            owners: Mutex::default(),
            waiting: Mutex::default(),
            refused: Mutex::default(),
            pauses: settings.prefetch_pause,
            asking: Mutex::default(),
        })
    }

    fn list(&self, partition: i32, offset: i64) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        Ok(list)
    }

    /// What comes of `partition` from `offset` on is for `owner`.
    fn start(&self, partition: i32, offset: i64, owner: u64) -> KafkaResult<()> {
        let list = self.list(partition, offset)?;
        let (_quiet, mut owners) = (self.asking.lock(), self.owners.lock());
        if owners.contains_key(&partition) {
            self.consumer.incremental_unassign(&list)?;
            owners.remove(&partition);
        }
        self.waiting.lock().take(partition);
        self.consumer.incremental_assign(&list)?;
        self.refused.lock().remove(&partition);
        owners.insert(partition, owner);
        Ok(())
    }

    /// Nothing more is wanted of `partition`, unless it is another's by now.
    fn leave(&self, partition: i32, owner: u64) {
        let (_quiet, mut owners) = (self.asking.lock(), self.owners.lock());
        if owners.get(&partition) != Some(&owner) {
            return;
        }
        owners.remove(&partition);
        self.waiting.lock().take(partition);
        let left =
            self.list(partition, 0).and_then(|list| self.consumer.incremental_unassign(&list));
        if let Err(e) = left {
            log::debug!(partition = partition, why = e.to_string().as_str(); "was not assigned");
        }
    }

    fn is_owned(&self, partition: i32, owner: u64) -> bool {
        self.owners.lock().get(&partition) == Some(&owner)
    }

    /// What came of those of `partitions` that are `owner`'s, waiting at most `wait` for the first of it.
    fn take(
        &self,
        partitions: &BTreeSet<i32>,
        owner: u64,
        wait: Duration,
    ) -> KafkaResult<BTreeMap<i32, VecDeque<Record>>> {
        let end = Instant::now() + wait;
        self.pause(false)?;
        loop {
            let (owners, mut waiting) = (self.owners.lock(), self.waiting.lock());
            let taken: BTreeMap<_, _> = partitions
                .iter()
                .filter(|partition| owners.get(*partition) == Some(&owner))
                .filter_map(|partition| Some((*partition, waiting.take(*partition)?)))
                .collect();
            drop((owners, waiting));
            if !taken.is_empty() || Instant::now() >= end {
                self.pause(true)?;
                return Ok(taken);
            }
            let asking = self.asking.try_lock_for(SLICE);
            if asking.is_some() && !self.ask()? {
                drop(asking);
                // What waits is others', who are held up: as one queue of one consumer holds up all.
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Pauses all partitions, or resumes them, where that is asked for: as an application that works on what it
    /// took and polls meanwhile, only to stay in its group. librdkafka throws away what it fetched ahead of a
    /// partition that is paused, and fetches it again from the next offset.
    fn pause(&self, pause: bool) -> KafkaResult<()> {
        if !self.pauses {
            return Ok(());
        }
        let (_quiet, owners) = (self.asking.lock(), self.owners.lock());
        let mut list = TopicPartitionList::with_capacity(owners.len());
        for partition in owners.keys() {
            list.add_partition(&self.topic, *partition);
        }
        if pause { self.consumer.pause(&list) } else { self.consumer.resume(&list) }
    }

    /// Takes out of librdkafka's queue what may wait; false when nothing more may.
    fn ask(&self) -> KafkaResult<bool> {
        let mut wait = SLICE;
        while self.waiting.lock().bytes < WAITING_BYTES_MAX {
            let Some(message) = self.consumer.poll(wait) else { return Ok(true) };
            let message = match message {
                Err(error) if is_out_of_range(&error) => {
                    self.refused.lock().extend(self.owners.lock().keys());
                    return Ok(true);
                }
                message => message?,
            };
            let value = message.payload().map(<[u8]>::to_vec);
            let (partition, offset) = (message.partition(), message.offset());
            if self.owners.lock().contains_key(&partition) {
                self.waiting.lock().push(partition, Record { offset, value });
            }
            wait = Duration::ZERO;
        }
        Ok(wait.is_zero())
    }

    fn high_watermark(&self, partition: i32) -> i64 {
        self.consumer.context().now.lock().ends.get(&partition).copied().unwrap_or(0)
    }
}

/// What librdkafka says of itself, as of its last statistics.
struct Seen {
    topic: String,
    now: Mutex<Holds>,
}

#[derive(Default)]
struct Holds {
    prefetched: Prefetched,
    /// High watermarks by partition.
    ends: BTreeMap<i32, i64>,
}

impl ClientContext for Seen {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let mut holds = Holds::default();
        holds.prefetched.received_bytes =
            statistics.brokers.values().map(|broker| broker.rxbytes).sum();
        for (number, partition) in topic.partitions.iter().filter(|(number, _)| **number >= 0) {
            // Every partition's queue is forwarded to the consumer's one queue, and each tells that one's length.
            let events = u64::try_from(partition.fetchq_cnt).unwrap_or(0);
            holds.prefetched.events = holds.prefetched.events.max(events);
            holds.prefetched.bytes = holds.prefetched.bytes.max(partition.fetchq_size);
            holds.ends.insert(*number, partition.hi_offset);
        }
        *self.now.lock() = holds;
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        librdkafka::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        librdkafka::log_error(&error, reason);
    }
}

impl ConsumerContext for Seen {}
