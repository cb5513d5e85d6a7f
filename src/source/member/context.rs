//! What the member and librdkafka's callbacks share: which partitions are assigned, what of them is
//! committed, and what a rebalance does to them.
//!
//! Callbacks run inside the member's poll, on its thread. Invariant: on revoke, what workers have in
//! flight is finished (bounded), what is queued is dropped, then the prefix is committed, then the
//! partition moves; after an eviction nothing is waited for, and the late commit is offered so that
//! its refusal is seen.

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
use crate::brokers::{Brokers, View};
use crate::source::{Assigned, Assignment};
use crate::telemetry::metrics::ProcessorMetrics;

/// What the callbacks, the member and `starts` know of the membership.
pub(super) struct Context {
    pub(super) brokers: Brokers,
    pub(super) topic: String,
    pub(super) revoke_wait: Duration,
    pub(super) assignment: Assignment,
    pub(super) metrics: ProcessorMetrics,
    pub(super) view: View,
    /// Assigned, their first offset not yet known.
    pub(super) newly: Mutex<BTreeMap<i32, Newly>>,
    /// Assignments so far: each has a number of its own.
    pub(super) assignments: AtomicU64,
    /// What the coordinator confirmed.
    pub(super) committed: Mutex<BTreeMap<i32, i64>>,
    /// An asynchronous commit is on its way.
    pub(super) committing: AtomicBool,
    /// Since when commits are refused for a reason that no waiting cures, and by which advice they would not be.
    pub(super) refused: Mutex<Option<Refused>>,
}

/// Commits that are not taken, however often they are offered.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) since: Instant,
    pub(super) error: KafkaError,
    pub(super) advice: &'static str,
}

impl Refused {
    /// `None` when the next commit may be taken.
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
    /// Starts anew where the log behind a partition is gone: the topic was deleted and made anew, or
    /// the log was cut back behind the position. What was fetched is still delivered; what was not
    /// is lost, and said so.
    pub(super) fn leave_logs_that_are_gone(&self) {
        let id = self.view.get().id;
        for assigned in self.assignment.all() {
            let (reason, start) = match (assigned.topic_id == id, assigned.cut()) {
                (false, _) => ("topic_deleted", Start::OfLog),
                (true, Some(Some(end))) => ("truncated", Start::At(end)),
                (true, Some(None)) => ("truncated", Start::OfLog),
                (true, None) => continue,
            };
            self.log_is_gone(&assigned, reason);
            self.assignment.remove(assigned.partition);
            newly(self, [(assigned.partition, start)]);
        }
    }

    /// Counts and says what is lost with a partition's log; what was fetched of it is in memory,
    /// and is delivered.
    fn log_is_gone(&self, assigned: &Assigned, reason: &str) {
        let left = self.assignment.leave(assigned);
        let (partition, lost) = (assigned.partition, left.unfetched());
        self.metrics.lost.with_label_values(&[reason]).inc_by(lost);
        self.committed.lock().remove(&partition);
        log::error!(
            topic = self.topic.as_str(), partition = partition, reason = reason,
            position = left.position, events_lost_at_least = lost;
            "the log is gone; what is there now is read instead"
        );
    }

    /// What of `assigned` is acked and not yet committed; `None` when there is nothing.
    pub(super) fn uncommitted(&self, assigned: &[Arc<Assigned>]) -> Option<TopicPartitionList> {
        let committed = self.committed.lock();
        let mut list = TopicPartitionList::new();
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
            }
        }
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
                    // An answer that comes late may be about a log that was left meanwhile.
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

    fn revoke(&self, consumer: &BaseConsumer<Callbacks>, partitions: &[i32]) {
        let lost = consumer.assignment_lost();
        if lost {
            // The group took them away; or the topic is gone, and nobody else will have them.
            self.view.refresh(&self.brokers, &self.topic, 0);
        }
        let (gone, id) = (self.view.is_gone(), self.view.get().id);
        let mut taken = Vec::new();
        for partition in partitions {
            self.newly.lock().remove(partition);
            if let Some(assigned) = self.assignment.remove(*partition) {
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
        // Late after an eviction: offered all the same, so that the refusal is seen and counted.
        self.commit_now(consumer, &taken);
        let mut committed = self.committed.lock();
        for partition in partitions {
            committed.remove(partition);
            // What another member exports now must not stay on this page, frozen.
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
        // Only here does librdkafka know the partitions; before the assignment each element would
        // fail while the call returned Ok.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a processor that delivers for hours, and begins at the start of it when it is started again.
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
