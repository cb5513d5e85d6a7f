//! What the seat and librdkafka's callbacks share: which partitions are held, what of them is
//! committed, and what a rebalance does to them.
//!
//! Callbacks run inside the seat's poll, on its thread. Invariant: on revoke, what workers have in
//! hand is finished (bounded), what is queued is dropped, then the prefix is committed, then the
//! partition moves; after an eviction nothing is waited for, and the late commit is offered so that
//! its refusal is seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::brokers::{Brokers, View};
use crate::source::{Holding, Holdings};
use crate::telemetry::metrics::ProcessorMetrics;

/// Where a partition that is new to this member starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Where the group left off, or where the settings say.
    Committed,
    /// Where the log starts: what the group had committed is of another log.
    OfLog,
}

/// What the callbacks and the seat know of the membership.
pub(super) struct Context {
    pub(super) brokers: Brokers,
    pub(super) topic: String,
    pub(super) revoke_wait: Duration,
    pub(super) holdings: Holdings,
    pub(super) metrics: ProcessorMetrics,
    pub(super) view: View,
    /// Assigned, their first offset not yet known.
    pub(super) newly: Mutex<BTreeMap<i32, Start>>,
    /// What the coordinator confirmed.
    pub(super) committed: Mutex<BTreeMap<i32, i64>>,
    /// An asynchronous commit is on its way.
    pub(super) committing: AtomicBool,
}

impl Context {
    /// Starts anew where the log behind a holding is gone: the topic was deleted and made anew, or
    /// the log was cut back behind the position. What was fetched is still delivered; what was not
    /// is lost, and said so.
    pub(super) fn leave_logs_that_are_gone(&self) {
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
        let left = self.holdings.leave(holding);
        let (partition, lost) = (holding.partition, left.unfetched());
        self.metrics.lost.with_label_values(&[reason]).inc_by(lost);
        self.committed.lock().remove(&partition);
        log::error!(
            topic = self.topic.as_str(), partition = partition, reason = reason,
            position = left.position, events_lost_at_least = lost;
            "the log is gone; what is there now is read from its start"
        );
    }

    /// What of `holdings` is acked and not yet committed; `None` when there is nothing.
    pub(super) fn uncommitted(&self, holdings: &[Arc<Holding>]) -> Option<TopicPartitionList> {
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
    pub(super) fn commit_now(&self, consumer: &BaseConsumer<Self>, holdings: &[Arc<Holding>]) {
        if let Some(list) = self.uncommitted(holdings) {
            let result = consumer.commit(&list, CommitMode::Sync);
            self.count_commit(&result, &list);
        }
    }

    pub(super) fn count_commit(&self, result: &KafkaResult<()>, list: &TopicPartitionList) {
        let held = self.holdings.all();
        let mut committed = self.committed.lock();
        let mut worst: Option<KafkaError> = result.as_ref().err().cloned();
        for element in list.elements() {
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) if result.is_ok() => {
                    // An answer that comes late may be about a log that was left meanwhile.
                    let partition = element.partition();
                    let of_held = |h: &Arc<Holding>| {
                        h.partition == partition && name(h.topic_id) == element.metadata()
                    };
                    if held.iter().any(of_held) {
                        committed.insert(partition, offset);
                    }
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

/// Sends a commit whose answer comes to `commit_callback` in a later poll.
///
/// `Consumer::commit` with `CommitMode::Async` asks for no answer (`rd_kafka_commit` gives it no
/// reply queue, and rdkafka sets no `offset_commit_cb`): the callback would never run.
pub(super) fn commit_in_background<C: ConsumerContext>(
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

fn numbers(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|e| e.partition()).collect()
}

/// A topic's id as commits carry it.
pub(super) fn name(topic_id: u128) -> String {
    format!("topic-id={topic_id:032x}")
}
