//! The seat in the consumer group: librdkafka joins, beats, rebalances and commits; every partition
//! is paused, so it fetches nothing.
//!
//! Invariant: only the contiguous acked prefix of a partition is committed, on a period, on revoke
//! and at the end. On revoke, what workers have in hand is finished (bounded), what is queued is
//! dropped, then the prefix is committed, then the partition moves. A commit names the topic's own
//! id (KIP-516) in its metadata: an offset of a topic that was deleted is never taken for one of the
//! topic that was made in its place. The seat's poll is the `max.poll.interval.ms` clock (KIP-62), so
//! its thread does nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::Message as _;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Holding, Holdings};
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
}

/// Where a partition that is new to this member starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Where the group left off, or where the settings say.
    Committed,
    /// Where the log starts: what the group had committed is of another log.
    OfLog,
}

struct Context {
    brokers: Brokers,
    topic: String,
    revoke_wait: Duration,
    holdings: Holdings,
    metrics: ProcessorMetrics,
    view: View,
    /// Assigned, their first offset not yet known.
    newly: Mutex<BTreeMap<i32, Start>>,
    /// What the coordinator confirmed.
    committed: Mutex<BTreeMap<i32, i64>>,
    /// An asynchronous commit is on its way.
    committing: AtomicBool,
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
        let next_commit = Instant::now() + settings.commit_interval;
        Ok(Self { consumer, settings, last_poll: None, woken: None, next_commit })
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

    fn start_newly_assigned(&self) {
        let context = self.consumer.context();
        let newly = context.newly.lock().clone();
        if newly.is_empty() {
            return;
        }
        match self.first_offsets(&newly) {
            Ok(holdings) => {
                for holding in holdings {
                    // Gone again while the coordinator was asked?
                    if context.newly.lock().remove(&holding.partition).is_some() {
                        let (partition, from) = (holding.partition, holding.position());
                        log::info!(partition = partition, from = from; "partition starts");
                        context.holdings.add(holding);
                    }
                }
            }
            Err(why) => {
                log::warn!(why = why.as_str(); "no first offsets yet, trying again");
                context.view.renew();
            }
        }
        context.metrics.partitions.set(context.holdings.all().len() as i64);
    }

    /// Each partition from its committed offset on, or from the log's start or end where there is
    /// none.
    fn first_offsets(&self, partitions: &BTreeMap<i32, Start>) -> Result<Vec<Holding>, String> {
        let context = self.consumer.context();
        let mut list = TopicPartitionList::new();
        for partition in partitions.keys() {
            list.add_partition(&context.topic, *partition);
        }
        let committed = self
            .consumer
            .committed_offsets(list, COMMITTED_TIMEOUT)
            .map_err(|e| format!("committed offsets: {e}"))?;
        let view = context.view.get();
        let mut starts = Vec::new();
        for element in committed.elements() {
            let partition = element.partition();
            element.error().map_err(|e| format!("partition {partition}: {e}"))?;
            // Whoever names no topic (Kafka's own tools) means the one that is there.
            let named = element.metadata();
            let of_this_log = (named.is_empty() || named == name(view.id))
                && partitions.get(&partition) != Some(&Start::OfLog);
            match element.offset() {
                Offset::Offset(offset) if of_this_log => {
                    context.committed.lock().insert(partition, offset);
                    starts.push(Holding::new(view.id, partition, offset));
                    continue;
                }
                Offset::Offset(offset) => log::error!(
                    partition = partition, committed = offset;
                    "the committed offset is of a log that is gone, reading this one from its start"
                ),
                _ => {}
            }
            let leader = view
                .leader_address(partition)
                .ok_or_else(|| format!("partition {partition} has no leader yet"))?;
            let start = match self.settings.from {
                From::Latest if of_this_log => {
                    wire::latest_offset(leader, &context.topic, partition)
                }
                From::Earliest | From::Latest => {
                    wire::earliest_offset(leader, &context.topic, partition)
                }
            };
            let start = start.map_err(|e| format!("partition {partition}: {e}"))?;
            starts.push(Holding::new(view.id, partition, start));
        }
        Ok(starts)
    }
}

/// A topic's id as commits carry it.
fn name(topic_id: u128) -> String {
    format!("topic-id={topic_id:032x}")
}

impl Context {
    /// Starts anew where the log behind a holding is gone: the topic was deleted and made anew, or
    /// the log was cut back behind the position. What was fetched is still delivered; what was not
    /// is lost, and said so.
    fn leave_logs_that_are_gone(&self) {
        let id = self.view.get().id;
        for holding in self.holdings.all() {
            let reason = match holding.topic_id == id {
                false => "topic_deleted",
                true if holding.is_beyond_the_end() => "truncated",
                true => continue,
            };
            self.mourn(&holding, reason);
            self.holdings.remove(holding.partition);
            self.newly.lock().insert(holding.partition, Start::OfLog);
        }
    }

    /// Counts and says what is lost with the log of `holding`; what was fetched of it is in memory,
    /// and is delivered.
    fn mourn(&self, holding: &Holding, reason: &str) {
        let (partition, lost) = (holding.partition, holding.unfetched());
        self.metrics.lost.with_label_values(&[reason]).inc_by(lost);
        self.committed.lock().remove(&partition);
        log::error!(
            topic = self.topic.as_str(), partition = partition, reason = reason,
            position = holding.position(), events_lost_at_least = lost;
            "the log is gone; what is there now is read from its start"
        );
    }

    /// What of `holdings` is acked and not yet committed; `None` when there is nothing.
    fn uncommitted(&self, holdings: &[std::sync::Arc<Holding>]) -> Option<TopicPartitionList> {
        let committed = self.committed.lock();
        let mut list = TopicPartitionList::new();
        for holding in holdings {
            let offset = holding.committable();
            let partition = holding.partition.to_string();
            self.metrics.committable.with_label_values(&[&partition]).set(offset);
            self.metrics.position.with_label_values(&[&partition]).set(holding.position());
            if committed.get(&holding.partition).is_none_or(|before| *before < offset) {
                let mut element = list.add_partition(&self.topic, holding.partition);
                // The only error is an offset below the logical ones; ours are never negative.
                let _valid = element.set_offset(Offset::Offset(offset));
                element.set_metadata(name(holding.topic_id));
            }
        }
        (list.count() > 0).then_some(list)
    }

    /// Commits and waits for the coordinator's answer.
    fn commit_now(&self, consumer: &BaseConsumer<Self>, holdings: &[std::sync::Arc<Holding>]) {
        if let Some(list) = self.uncommitted(holdings) {
            let result = consumer.commit(&list, CommitMode::Sync);
            self.count_commit(&result, &list);
        }
    }

    fn count_commit(&self, result: &KafkaResult<()>, list: &TopicPartitionList) {
        let mut committed = self.committed.lock();
        let mut worst: Option<KafkaError> = result.as_ref().err().cloned();
        for element in list.elements() {
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) if result.is_ok() => {
                    committed.insert(element.partition(), offset);
                }
                (Err(e), _) => worst = Some(e),
                _ => {}
            }
        }
        let Some(error) = worst else {
            self.metrics.commits.with_label_values(&["ok"]).inc();
            return;
        };
        // The group says that we are no member, or not of this generation: somebody else may own
        // the partitions, and reads them again from the last commit.
        let refused = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::RebalanceInProgress
                    | RDKafkaErrorCode::FencedInstanceId
            )
        );
        let kind = if refused { "refused" } else { "failed" };
        self.metrics.commits.with_label_values(&[kind]).inc();
        log::warn!(result = kind, why = error.to_string().as_str(); "commit not taken");
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) {
        let lost = consumer.assignment_lost();
        if lost {
            // The group took them away; or the topic is gone, and nobody else will have them.
            self.view.refresh(&self.brokers, &self.topic, 0);
        }
        let (gone, id) = (self.view.is_gone(), self.view.get().id);
        let mut taken = Vec::new();
        for partition in partitions {
            self.newly.lock().remove(partition);
            if let Some(holding) = self.holdings.remove(*partition) {
                if gone || holding.topic_id != id {
                    self.mourn(&holding, "topic_deleted");
                } else {
                    holding.revoke();
                    taken.push(holding);
                }
            }
        }
        let (evicted, mut finished) = (lost && !gone, true);
        if evicted {
            self.metrics.evictions.inc();
        } else {
            let deadline = Instant::now() + self.revoke_wait;
            finished = taken.iter().all(|h| h.await_hands_empty(deadline));
        }
        log::info!(
            partitions = format!("{partitions:?}").as_str(), evicted = evicted,
            in_hand_finished = finished; "partitions revoked"
        );
        // Late after an eviction: offered all the same, so that the refusal is seen and counted.
        self.commit_now(consumer, &taken);
        let mut committed = self.committed.lock();
        for partition in partitions {
            committed.remove(partition);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "MAXPOLL" || (level as i32) <= RDKafkaLogLevel::Error as i32 {
            log::warn!(facility = facility; "librdkafka: {message}");
        } else {
            log::debug!(facility = facility; "librdkafka: {message}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!(why = error.to_string().as_str(); "librdkafka: {reason}");
    }
}

/// Sends a commit whose answer comes to `commit_callback` in a later poll.
///
/// `Consumer::commit` with `CommitMode::Async` asks for no answer (`rd_kafka_commit` gives it no
/// reply queue, and rdkafka sets no `offset_commit_cb`): the callback would never run.
fn commit_in_background<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
) -> KafkaResult<()> {
    use rdkafka::bindings as native;
    let client = consumer.client().native_ptr();
    // SAFETY: both pointers are valid while borrowed here; librdkafka copies the offsets. The
    // queue is a counted reference to the one that the consumer polls, given back at once.
    let error = unsafe {
        let queue = native::rd_kafka_queue_get_consumer(client);
        let none = std::ptr::null_mut();
        let error = native::rd_kafka_commit_queue(client, offsets.ptr(), queue, None, none);
        native::rd_kafka_queue_destroy(queue);
        error
    };
    match RDKafkaErrorCode::from(error) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::ConsumerCommit(code)),
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.metrics.rebalances.inc();
        match rebalance {
            Rebalance::Revoke(list) => self.revoke(consumer, &numbers(list)),
            Rebalance::Assign(_) => {}
            Rebalance::Error(e) => log::warn!(why = e.to_string().as_str(); "rebalance failed"),
        }
        self.metrics.partitions.set(self.holdings.all().len() as i64);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        // Only here does librdkafka know the partitions; before the assignment each element would
        // fail while the call returned Ok.
        let paused = consumer.pause(list);
        let failed = list.elements().iter().find_map(|e| e.error().err());
        if let Some(e) = paused.err().or(failed) {
            log::warn!(why = e.to_string().as_str(); "seat could not pause, it may fetch a little");
        }
        let partitions = numbers(list);
        log::info!(partitions = format!("{partitions:?}").as_str(); "partitions assigned");
        self.newly.lock().extend(partitions.into_iter().map(|p| (p, Start::Committed)));
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        self.committing.store(false, Ordering::SeqCst);
        self.count_commit(&result, offsets);
    }
}

fn numbers(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|e| e.partition()).collect()
}
