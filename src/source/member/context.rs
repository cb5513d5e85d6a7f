//! State shared by the member and librdkafka's callbacks: the assigned partitions, their committed
//! offsets, and the handling of a rebalance.
//!
//! Callbacks run inside the member's poll, on its thread. Invariant: on revoke, the workers' events
//! in flight are finished (bounded), queued events are dropped, then the prefix is committed, then
//! the partition moves. After an eviction it waits for nothing, and still sends the late commit so
//! that its refusal is seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::starts::{Newly, Start, newly};
use crate::brokers::group::commit_metadata;
use crate::brokers::{Brokers, View, librdkafka};
use crate::source::{Assigned, Assignment};
use crate::telemetry::metrics::ProcessorMetrics;

/// State shared by the callbacks, the member and `starts`.
pub(super) struct Context {
    pub(super) brokers: Brokers,
    pub(super) topic: String,
    pub(super) revoke_wait: Duration,
    pub(super) assignment: Assignment,
    pub(super) metrics: ProcessorMetrics,
    pub(super) view: View,
    /// Assigned partitions whose first offset is not yet known.
    pub(super) newly: Mutex<BTreeMap<i32, Newly>>,
    /// Assignments so far: each has its own number.
    pub(super) assignments: AtomicU64,
    /// Offsets that the coordinator confirmed.
    pub(super) committed: Mutex<BTreeMap<i32, i64>>,
    /// An asynchronous commit is in progress.
    pub(super) committing: AtomicBool,
    /// Since when commits are refused for a reason that waiting does not cure, and the advice
    /// against it.
    pub(super) refused: Mutex<Option<Refused>>,
}

/// Commits that are refused, however often they are sent.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) since: Instant,
    pub(super) error: KafkaError,
    pub(super) advice: &'static str,
}

impl Refused {
    /// `None` when the next commit may succeed.
    fn by(error: &KafkaError) -> Option<Self> {
        use RDKafkaErrorCode as Code;
        let advice = match error.rdkafka_error_code()? {
            Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed => {
                "a commit needs the ACL operation Read on the group and on the topic"
            }
            Code::OffsetMetadataTooLarge => {
                "a commit carries the topic's id: set the brokers' offset.metadata.max.bytes to 64 or more"
            }
            _ => return None,
        };
        Some(Self { since: Instant::now(), error: error.clone(), advice })
    }
}

impl Context {
    /// Starts anew where a partition's log is gone: the topic was deleted and created again, or the
    /// log was cut back below the position. Fetched events are still delivered; the rest is lost,
    /// and the loss is logged.
    pub(super) fn leave_logs_that_are_gone(&self) {
        let id = self.view.get().id;
        for assigned in self.assignment.all() {
            let (reason, start) = match (assigned.topic_id == id, assigned.cut()) {
                (false, _) => ("topic_deleted", Start::OfLog),
                (true, Some(Some(end))) => {
                    ("truncated", Start::Cut { end, before: Arc::clone(&assigned) })
                }
                (true, Some(None)) => ("truncated", Start::OfLog),
                (true, None) => continue,
            };
            self.log_is_gone(&assigned, reason);
            self.assignment.remove(assigned.partition);
            newly(self, [(assigned.partition, start)]);
        }
    }

    /// Counts and logs the loss of a partition's log; its fetched events are in memory, and are
    /// delivered.
    fn log_is_gone(&self, assigned: &Assigned, reason: &str) {
        let left = self.assignment.leave(assigned);
        let (partition, lost) = (assigned.partition, left.unfetched());
        self.metrics.lost.with_label_values(&[reason]).inc_by(lost);
        self.committed.lock().remove(&partition);
        log::error!(
            topic = self.topic.as_str(), partition = partition, reason = reason,
            position = left.position, events_lost_at_least = lost;
            "the log is gone; the new one is read instead"
        );
    }

    /// The member leaves: nothing more of its partitions is sent. Returns them, and those whose cut log was to start anew.
    pub(super) fn revoke_all(&self) -> Vec<Arc<Assigned>> {
        let waited = std::mem::take(&mut *self.newly.lock()).into_values();
        let waited = waited.filter_map(Newly::cut).map(Arc::new);
        let all: Vec<Arc<Assigned>> = self.assignment.all().into_iter().chain(waited).collect();
        all.iter().for_each(|assigned| assigned.revoke());
        all
    }

    /// Offsets of `assigned` that are acked and not yet committed; `None` when there are none.
    pub(super) fn uncommitted(&self, assigned: &[Arc<Assigned>]) -> Option<TopicPartitionList> {
        let committed = self.committed.lock();
        let (mut list, mut epochs) = (TopicPartitionList::new(), Vec::new());
        for assigned in assigned {
            let offset = assigned.committable();
            let partition = assigned.partition.to_string();
            self.metrics.committable.with_label_values(&[&partition]).set(offset);
            self.metrics.position.with_label_values(&[&partition]).set(assigned.position());
            let end = assigned.high_watermark();
            self.metrics.high_watermark.with_label_values(&[&partition]).set(end);
            let behind = assigned.behind(committed.get(&assigned.partition).copied());
            self.metrics.lag.with_label_values(&[&partition]).set(behind as i64);
            if committed.get(&assigned.partition).is_none_or(|before| *before < offset) {
                let mut element = list.add_partition(&self.topic, assigned.partition);
                // The only error is an offset below the logical ones; ours are never negative.
                let _valid = element.set_offset(Offset::Offset(offset));
                element.set_metadata(commit_metadata(assigned.topic_id));
                epochs.push(assigned.epoch_before(offset));
            }
        }
        set_epochs(&list, &epochs);
        (list.count() > 0).then_some(list)
    }

    /// Commits and waits for the coordinator's answer.
    pub(super) fn commit_now(
        &self,
        consumer: &BaseConsumer<Callbacks>,
        assigned: &[Arc<Assigned>],
    ) {
        if let Some(list) = self.uncommitted(assigned) {
            let result = consumer.commit(&list, CommitMode::Sync);
            self.count_commit(&result, &list);
        }
    }

    pub(super) fn count_commit(&self, result: &KafkaResult<()>, list: &TopicPartitionList) {
        let all = self.assignment.all();
        let mut committed = self.committed.lock();
        let mut worst: Option<KafkaError> = result.as_ref().err().cloned();
        for element in list.elements() {
            match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) if result.is_ok() => {
                    // A late answer may be about a log that is gone by now.
                    let partition = element.partition();
                    let of_ours = |a: &Arc<Assigned>| {
                        a.partition == partition
                            && commit_metadata(a.topic_id) == element.metadata()
                    };
                    if all.iter().any(of_ours) {
                        committed.insert(partition, offset);
                    }
                }
                (Err(e), _) => worst = Some(e),
                _ => {}
            }
        }
        let Some(error) = worst else {
            self.metrics.commits.with_label_values(&["ok"]).inc();
            *self.refused.lock() = None;
            return;
        };
        let mut hopeless = self.refused.lock();
        *hopeless = Refused::by(&error).map(|refused| hopeless.take().unwrap_or(refused));
        drop(hopeless);
        // The group answers that we are no member, or not of this generation: another member may
        // have the partitions, and reads them again from the last commit.
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

    fn revoke(&self, consumer: &BaseConsumer<Callbacks>, partitions: &[i32]) {
        let lost = consumer.assignment_lost();
        if lost {
            // The group took them away; or the topic is gone, and no other member will get them.
            self.view.refresh(&self.brokers, &self.topic, 0);
        }
        let (gone, id) = (self.view.is_gone(), self.view.get().id);
        let mut taken = Vec::new();
        for partition in partitions {
            let waited = self.newly.lock().remove(partition).and_then(Newly::cut).map(Arc::new);
            if let Some(assigned) = self.assignment.remove(*partition).or(waited) {
                if gone || assigned.topic_id != id {
                    self.log_is_gone(&assigned, "topic_deleted");
                } else {
                    assigned.revoke();
                    taken.push(assigned);
                }
            }
        }
        let (evicted, mut finished) = (lost && !gone, true);
        if evicted {
            self.metrics.evictions.inc();
        } else {
            let deadline = Instant::now() + self.revoke_wait;
            finished = taken.iter().all(|assigned| assigned.await_released(deadline));
        }
        log::info!(
            partitions = format!("{partitions:?}").as_str(), evicted = evicted,
            in_flight_finished = finished; "partitions revoked"
        );
        // Late after an eviction: sent all the same, so that the refusal is seen and counted.
        self.commit_now(consumer, &taken);
        let mut committed = self.committed.lock();
        for partition in partitions {
            committed.remove(partition);
            // Remove the gauges: another member exports them now, and they would stay frozen on
            // this page.
            let label = partition.to_string();
            let of = &self.metrics;
            for gauge in [&of.committable, &of.position, &of.high_watermark, &of.lag] {
                let _never_set = gauge.remove_label_values(&[&label]);
            }
        }
    }
}

/// The context as librdkafka has it; `starts` has it too.
pub(super) struct Callbacks(pub(super) Arc<Context>);

impl std::ops::Deref for Callbacks {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        librdkafka::log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        librdkafka::log_error(&error, reason);
    }
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        self.metrics.rebalances.inc();
        match rebalance {
            Rebalance::Revoke(list) => self.revoke(consumer, &numbers(list)),
            Rebalance::Assign(_) => {}
            Rebalance::Error(e) => log::warn!(why = e.to_string().as_str(); "rebalance failed"),
        }
        self.metrics.partitions.set(self.assignment.all().len() as i64);
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        // librdkafka knows the partitions only here; before the assignment each element would fail
        // while the call returned Ok.
        let paused = consumer.pause(list);
        let failed = list.elements().iter().find_map(|e| e.error().err());
        if let Some(e) = paused.err().or(failed) {
            log::warn!(why = e.to_string().as_str(); "could not pause, the member may fetch a little");
        }
        let partitions = numbers(list);
        log::info!(partitions = format!("{partitions:?}").as_str(); "partitions assigned");
        newly(self, partitions.into_iter().map(|p| (p, Start::Committed)));
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        self.committing.store(false, Ordering::SeqCst);
        self.count_commit(&result, offsets);
    }
}

/// Sends a commit; its result comes to `commit_callback` in a later poll.
///
/// `Consumer::commit` with `CommitMode::Async` requests no result (`rd_kafka_commit` gives it no
/// reply queue, and rdkafka sets no `offset_commit_cb`): the callback would never run.
pub(super) fn commit_in_background<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
) -> KafkaResult<()> {
    use rdkafka::bindings as native;
    let client = consumer.client().native_ptr();
    // SAFETY: both pointers are valid while borrowed here; librdkafka copies the offsets. The queue
    // is a counted reference to the one that the consumer polls, released at once.
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

/// Sets the leader epochs of `list`, in its order (KIP-320); rdkafka has no call for it.
fn set_epochs(list: &TopicPartitionList, epochs: &[i32]) {
    use rdkafka::bindings::rd_kafka_topic_partition_set_leader_epoch as set;
    // SAFETY: the list owns as many elements as it counts, and only this thread has it.
    unsafe {
        let native = &*list.ptr();
        let count = usize::try_from(native.cnt).unwrap_or(0);
        for (n, epoch) in epochs.iter().take(count).enumerate() {
            set(native.elems.add(n), *epoch);
        }
    }
}

fn numbers(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|e| e.partition()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a processor that delivers for hours without a commit, and delivers all of it again
    /// after a restart.
    #[test]
    fn only_what_waiting_cannot_cure_counts_as_refused() {
        use RDKafkaErrorCode as Code;
        let refused = |code| Refused::by(&KafkaError::ConsumerCommit(code));
        for code in [
            Code::GroupAuthorizationFailed,
            Code::TopicAuthorizationFailed,
            Code::OffsetMetadataTooLarge,
        ] {
            assert!(refused(code).is_some(), "{code}");
        }
        for code in [
            Code::NotCoordinator,
            Code::RequestTimedOut,
            Code::IllegalGeneration,
            Code::RebalanceInProgress,
        ] {
            assert!(refused(code).is_none(), "{code}");
        }
    }
}
