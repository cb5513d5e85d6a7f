//! The seat in the consumer group: librdkafka joins, beats, rebalances and commits; every partition
//! is paused, so it fetches nothing.
//!
//! Invariant: only the contiguous acked prefix of a partition is committed, on a period, on revoke
//! and at the end. A commit names the topic's own id (KIP-516) in its metadata: an offset of a topic
//! that was deleted is never taken for one of the topic that was made in its place. The seat's poll
//! is the `max.poll.interval.ms` clock (KIP-62): its thread does nothing besides but ask where a
//! partition starts, with limits far below the interval.

mod context;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::Message as _;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use self::context::{Context, Start, commit_in_background, name};
use super::{Holding, Holdings};
use crate::backoff::Backoff;
use crate::brokers::{Brokers, View, wire};
use crate::failure::Failure;
use crate::telemetry::metrics::ProcessorMetrics;

/// Kafka's default `heartbeat.interval.ms`: a rebalance is noticed within it. At most a third of
/// the session, so that two beats may be lost.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Longest wait for the coordinator to tell the committed offsets.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the seat looks whether there is something to hear, and how often it wakes librdkafka.
const LOOK: Duration = Duration::from_millis(10);
const WAKE: Duration = Duration::from_secs(1);

/// Where a partition without a committed offset is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The first offset that is still there.
    Earliest,
    /// Only what comes from now on.
    Latest,
}

/// How the seat is held.
#[derive(Debug, Clone)]
pub struct SeatSettings {
    /// The bootstrap list.
    pub brokers: Brokers,
    /// The topic.
    pub topic: String,
    /// Kafka's `group.id`.
    pub group: String,
    /// Kafka's `max.poll.interval.ms`.
    pub max_poll_interval: Duration,
    /// Kafka's `session.timeout.ms`. It should outlast the failover of a coordinator that died
    /// (`broker.session.timeout.ms`, 9 s, and the election), or each such death is an eviction.
    pub session_timeout: Duration,
    /// How often the acked prefix is committed.
    pub commit_interval: Duration,
    /// How long a revocation waits for what workers have in hand.
    pub revoke_wait: Duration,
    /// Where a partition without a committed offset starts.
    pub from: From,
}

/// The seat itself; used by one thread.
pub struct Seat {
    consumer: BaseConsumer<Context>,
    settings: SeatSettings,
    last_poll: Option<Instant>,
    /// When librdkafka's main thread was last woken.
    woken: Option<Instant>,
    next_commit: Instant,
    starts: Starts,
}

/// When newly assigned partitions are asked for again.
struct Starts {
    not_before: Instant,
    backoff: Backoff,
    /// Tries so far that failed.
    failed: usize,
}

impl Seat {
    /// Joins the group.
    pub fn take(
        settings: SeatSettings,
        holdings: Holdings,
        view: View,
        metrics: ProcessorMetrics,
    ) -> Result<Self, Failure> {
        let context = Context {
            brokers: settings.brokers.clone(),
            topic: settings.topic.clone(),
            revoke_wait: settings.revoke_wait,
            holdings,
            metrics,
            view,
            newly: Mutex::default(),
            committed: Mutex::default(),
            committing: AtomicBool::new(false),
        };
        let ms = |time: Duration| time.as_millis().to_string();
        let consumer: BaseConsumer<Context> = ClientConfig::new()
            .set("bootstrap.servers", settings.brokers.list())
            .set("client.id", "backpressure-lab-seat")
            .set("group.id", &settings.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("max.poll.interval.ms", ms(settings.max_poll_interval))
            .set("session.timeout.ms", ms(settings.session_timeout))
            .set("heartbeat.interval.ms", ms(HEARTBEAT.min(settings.session_timeout / 3)))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // Between assignment and pause a fetch may slip through; keep it to one small one.
            .set("queued.max.messages.kbytes", "1")
            .set("fetch.message.max.bytes", "1024")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Notice)
            .create_with_context(context)
            .map_err(|e| Failure::Failed(format!("cannot make the group seat: {e}")))?;
        consumer
            .subscribe(&[&settings.topic])
            .map_err(|e| Failure::Failed(format!("cannot subscribe to {}: {e}", settings.topic)))?;
        log::info!(group = settings.group.as_str(), topic = settings.topic.as_str(); "joining the group");
        let now = Instant::now();
        let starts = Starts { not_before: now, backoff: Backoff::standard(), failed: 0 };
        let next_commit = now + settings.commit_interval;
        Ok(Self { consumer, settings, last_poll: None, woken: None, next_commit, starts })
    }

    /// One turn: commit when due, poll for at most `time`, start newly assigned partitions.
    ///
    /// The commit comes first: a member that was away for longer than the interval offers it late,
    /// and hears that it was refused, before it learns of its eviction.
    pub fn turn(&mut self, time: Duration) {
        let now = Instant::now();
        if now >= self.next_commit {
            self.commit_acked();
            self.next_commit = now + self.settings.commit_interval;
        }
        let context = self.consumer.context();
        if let Some(before) = self.last_poll.replace(now) {
            let gap = now.duration_since(before).as_secs_f64();
            if gap > context.metrics.poll_gap.get() {
                context.metrics.poll_gap.set(gap);
            }
        }
        self.hear(time);
        self.consumer.context().leave_logs_that_are_gone();
        self.start_newly_assigned();
    }

    /// Polls until there was something to hear, at most for `time`.
    ///
    /// librdkafka waits until a time of the wall clock (`cnd_timedwait`, its issue 2145): a thread of
    /// its that waits while the clock is stepped back by an hour waits for an hour, and with it go
    /// the heartbeats. So it never waits here, and its main thread is woken every second.
    fn hear(&mut self, time: Duration) {
        let end = Instant::now() + time;
        if self.woken.is_none_or(|before| before.elapsed() >= WAKE) {
            self.woken = Some(Instant::now());
            // The question is the knock; its answer is of no use.
            let _answer = self.consumer.assignment();
        }
        loop {
            let mut heard = false;
            // An eviction arrives as an error first and as a revocation next: one turn's both.
            while let Some(event) = self.consumer.poll(Duration::ZERO) {
                heard = true;
                self.note(event);
            }
            let rest = end.saturating_duration_since(Instant::now());
            if heard || rest.is_zero() {
                return;
            }
            std::thread::sleep(rest.min(LOOK));
        }
    }

    /// Says what the seat heard; with every partition paused, no record is expected.
    fn note(&self, event: KafkaResult<BorrowedMessage<'_>>) {
        match event {
            // The small window between assignment and pause; the fetcher brings it as well.
            Ok(message) => log::debug!(
                partition = message.partition(), offset = message.offset(); "seat fetched"
            ),
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded)) => log::warn!(
                interval = crate::units::show(self.settings.max_poll_interval).as_str();
                "max.poll.interval exceeded, the group took the partitions away"
            ),
            Err(e) => log::warn!(why = e.to_string().as_str(); "group seat"),
        }
    }

    /// Commits a last time and leaves the group.
    pub fn leave(self) {
        let held = self.consumer.context().holdings.all();
        for holding in &held {
            holding.revoke();
        }
        self.consumer.context().commit_now(&self.consumer, &held);
        log::info!(group = self.settings.group.as_str(); "leaving the group");
        // Dropping the consumer sends LeaveGroup.
    }

    fn commit_acked(&self) {
        let context = self.consumer.context();
        let Some(list) = context.uncommitted(&context.holdings.all()) else { return };
        if context.committing.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Err(e) = commit_in_background(&self.consumer, &list) {
            context.committing.store(false, Ordering::SeqCst);
            context.count_commit(&Err(e), &list);
        }
    }

    /// Starts the newly assigned partitions whose first offset can be had; asks for the rest again.
    fn start_newly_assigned(&mut self) {
        let context = self.consumer.context();
        let newly = context.newly.lock().clone();
        if newly.is_empty() || Instant::now() < self.starts.not_before {
            return;
        }
        let (mut ids, mut failed) = (BTreeMap::new(), None);
        match self.committed(&newly) {
            Ok(committed) => {
                for element in committed.elements() {
                    match self.first_holding(&newly, &element, &mut ids) {
                        Ok(holding) => start(context, holding),
                        Err(why) => {
                            failed = Some(format!("partition {}: {why}", element.partition()))
                        }
                    }
                }
            }
            Err(why) => failed = Some(format!("committed offsets: {why}")),
        }
        let starts = &mut self.starts;
        match failed {
            Some(why) => {
                log::warn!(why = why.as_str(); "no first offset yet, trying again");
                starts.failed += 1;
                context.view.refresh(&context.brokers, &context.topic, starts.failed);
                starts.not_before = Instant::now() + starts.backoff.wait();
            }
            None => starts.backoff.reset(),
        }
        context.metrics.partitions.set(context.holdings.all().len() as i64);
    }

    /// What the coordinator knows of the partitions.
    fn committed(&self, partitions: &BTreeMap<i32, Start>) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in partitions.keys() {
            list.add_partition(&self.settings.topic, *partition);
        }
        self.consumer.committed_offsets(list, COMMITTED_TIMEOUT)
    }

    /// The partition from its committed offset on, or from the log's start or end where there is none.
    /// `ids` keeps what each leader says the topic's id is: the view may be of one that was deleted since,
    /// whose committed offsets mean nothing in the log that is there.
    fn first_holding(
        &self,
        partitions: &BTreeMap<i32, Start>,
        committed: &TopicPartitionListElem<'_>,
        ids: &mut BTreeMap<String, Result<u128, String>>,
    ) -> Result<Holding, String> {
        let (context, partition) = (self.consumer.context(), committed.partition());
        committed.error().map_err(|e| e.to_string())?;
        let (view, topic) = (context.view.get(), &self.settings.topic);
        let leader = view.leader_address(partition).ok_or("it has no leader yet")?;
        let ask = || match wire::metadata(leader, topic) {
            Ok(Ok(topic)) => Ok(topic.id),
            Ok(Err(e)) => Err(e.to_string()),
            Err(e) => Err(format!("{leader}: {e}")),
        };
        if ids.entry(leader.to_owned()).or_insert_with(ask).clone()? != view.id {
            return Err("its topic was made anew".into());
        }
        // Whoever names no topic (Kafka's own tools) means the one that is there.
        let named = committed.metadata();
        let of_this_log = (named.is_empty() || named == name(view.id))
            && partitions.get(&partition) != Some(&Start::OfLog);
        match committed.offset() {
            Offset::Offset(offset) if of_this_log => {
                context.committed.lock().insert(partition, offset);
                return Ok(Holding::new(view.id, partition, offset));
            }
            Offset::Offset(offset) => log::error!(
                partition = partition, committed = offset;
                "the committed offset is of a log that is gone, reading this one from its start"
            ),
            _ => {}
        }
        let first = match self.settings.from {
            From::Latest if of_this_log => wire::latest_offset(leader, topic, partition),
            From::Earliest | From::Latest => wire::earliest_offset(leader, topic, partition),
        };
        Ok(Holding::new(view.id, partition, first.map_err(|e| e.to_string())?))
    }
}

fn start(context: &Context, holding: Holding) {
    // Gone again while the coordinator was asked?
    if context.newly.lock().remove(&holding.partition).is_some() {
        let (partition, from) = (holding.partition, holding.position());
        log::info!(partition = partition, from = from; "partition starts");
        context.holdings.add(holding);
    }
}
