//! Where a newly assigned partition starts: at the group's committed offset, or where the settings say.
//!
//! A thread of its own asks the brokers, so that the member's poll waits for none of them.
//! Invariant: a partition starts at most once for each assignment, and only while it is still
//! assigned. If its start is not known yet, it is asked for again with backoff, and delays no other
//! partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::REFUSED_MAX;
use super::context::Context;
use crate::backoff::Backoff;
use crate::brokers::group::{self, Committed, Kind};
use crate::brokers::offsets::Mark;
use crate::brokers::wire;
use crate::failure::Failure;
use crate::planes::ReadTo;
use crate::source::Assigned;
use crate::threads::Stop;

/// How often it checks for partitions to start.
const LOOK: Duration = Duration::from_millis(20);

/// Where a partition without a committed offset is read from (Kafka's `auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The first offset that still exists.
    Earliest,
    /// Only events from now on.
    Latest,
}

/// Where a partition that is new to this member starts.
#[derive(Clone)]
pub(super) enum Start {
    /// Where the group left off, or where the settings say.
    Committed,
    /// At the log start offset: the group's commit belongs to another log.
    OfLog,
    /// Where its log was cut, after what it was before: events of that are in the queue still.
    Cut { end: i64, before: Arc<Assigned> },
}

/// A partition that waits for its start. `nth` distinguishes two assignments of one partition.
#[derive(Clone)]
pub(super) struct Newly {
    pub start: Start,
    pub nth: u64,
}

impl Newly {
    /// It as it would have started, if its log was cut and it waits for that: what it still has in the queue is of it.
    pub(super) fn cut(self) -> Option<Assigned> {
        let Start::Cut { end, before } = self.start else { return None };
        Some(Assigned::new(before.topic_id, before.partition, end).after(before))
    }
}

/// A member that joins by KIP-848 and has no partition yet. A group of another kind refuses it, and librdkafka keeps that
/// to itself.
pub(super) struct Joining {
    since: Instant,
    next: Instant,
}

impl Default for Joining {
    fn default() -> Self {
        let now = Instant::now();
        Self { since: now, next: now + ASK_EVERY }
    }
}

impl Joining {
    /// Whether there is nothing more to ask.
    ///
    /// # Errors
    /// The group is of another kind for too long.
    fn is_over(&mut self, context: &Context, group: &str) -> Result<bool, Failure> {
        if context.assignments.load(Ordering::Relaxed) > 0 {
            return Ok(true);
        }
        if Instant::now() < self.next {
            return Ok(false);
        }
        let kind = group::kind(&context.brokers.and(&context.view.get()), group);
        self.next = Instant::now() + ASK_EVERY;
        let (what, most) = match kind {
            Ok(Kind::Kip848) => return Ok(true),
            Ok(Kind::Classic(of)) if !of.is_empty() && of != "consumer" => {
                (format!("of protocol type {of:?}"), REFUSED_MAX)
            }
            // The member may not have reached the brokers yet.
            Ok(Kind::Classic(_)) => {
                ("classic; see group.consumer.migration.policy".into(), JOINED_WITHIN)
            }
            Ok(Kind::Unknown) => ("not there, or a share group".into(), JOINED_WITHIN),
            Err(_unknown) => {
                self.since = Instant::now();
                return Ok(false);
            }
        };
        if self.since.elapsed() < most {
            return Ok(false);
        }
        Err(Failure::Failed(format!(
            "group {group} takes no member by --group-protocol consumer: it is of another kind ({what}); choose another \
             --group or --group-protocol"
        )))
    }
}

/// How often the coordinator is asked for the group's kind.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// A member has joined by then, whichever brokers of the list are cut off: librdkafka gives a connection 30 s.
const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// Starts newly assigned partitions until `stop` is set.
///
/// # Errors
/// The group does not take the member that is `joining`.
pub(super) fn run(
    context: &Context,
    group: &str,
    reset: Reset,
    mut joining: Option<Joining>,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut backoff = Backoff::standard();
    let mut not_before = Instant::now();
    // The topic's id, and how many partitions it had.
    let mut at_first = None;
    while !stop.wait(LOOK) {
        let view = context.view.get();
        if at_first.is_none() {
            at_first = view.leaders.keys().next_back().map(|last| (view.id, last + 1));
        }
        if let Some(asked) = &mut joining
            && asked.is_over(context, group)?
        {
            joining = None;
        }
        let newly = context.newly.lock().clone();
        if newly.is_empty() || Instant::now() < not_before {
            continue;
        }
        // `latest` skips earlier events. All events of a partition that was added since are new, and of a topic that was
        // made anew.
        let reset = |partition| match at_first {
            Some((id, count)) if partition >= count || view.id != id => Reset::Earliest,
            _ => reset,
        };
        let failed = start_all(context, group, reset, &newly);
        context.metrics.partitions.set(context.assignment.all().len() as i64);
        match failed {
            Some(why) => {
                log::warn!(why = why.as_str(); "no first offset yet, trying again");
                context.view.renew();
                not_before = Instant::now() + backoff.wait();
            }
            None => backoff.reset(),
        }
    }
    Ok(())
}

/// Starts those whose first offset is known; returns why the others' are not.
fn start_all(
    context: &Context,
    group: &str,
    reset: impl Fn(i32) -> Reset,
    newly: &BTreeMap<i32, Newly>,
) -> Option<String> {
    let partitions = newly.keys().copied();
    let brokers = context.brokers.and(&context.view.get());
    let committed = match group::committed(&brokers, group, &context.topic, partitions) {
        Ok(committed) => committed,
        Err(e) => return Some(format!("committed offsets: {e}")),
    };
    let mut ids = BTreeMap::new();
    let mut failed: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for (partition, new) in newly {
        let known = match committed.get(partition) {
            Some(Ok(committed)) => committed,
            Some(Err(why)) => {
                failed.entry(why.clone()).or_default().push(*partition);
                continue;
            }
            None => &Committed { offset: None, epoch: -1, metadata: String::new() },
        };
        match first(context, *partition, &new.start, known, reset(*partition), &mut ids) {
            Ok(assigned) => start(context, assigned, new),
            Err(why) => failed.entry(why).or_default().push(*partition),
        }
    }
    let said = |(why, partitions)| format!("partitions {partitions:?}: {why}");
    let all: Vec<String> = failed.into_iter().map(said).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The partition from its first offset on. `ids` keeps the topic's id by each leader: the view may
/// be of a topic that was deleted since, whose committed offsets mean nothing in the current log.
fn first(
    context: &Context,
    partition: i32,
    start: &Start,
    committed: &Committed,
    reset: Reset,
    ids: &mut BTreeMap<String, Result<u128, String>>,
) -> Result<Assigned, String> {
    let (view, topic) = (context.view.get(), context.topic.as_str());
    let leader = view.leader_address(partition).ok_or("it has no leader yet")?;
    let ask = || match wire::metadata(&context.brokers, leader, topic) {
        Ok(Ok(topic)) => Ok(topic.id),
        Ok(Err(e)) => Err(e.to_string()),
        Err(e) => Err(format!("{leader}: {e}")),
    };
    if ids.entry(leader.to_owned()).or_insert_with(ask).clone()? != view.id {
        return Err("its topic was made anew".into());
    }
    let at = |offset| Assigned::new(view.id, partition, offset);
    let of_log = |mark| {
        let offset = wire::offset(&context.brokers, leader, topic, partition, mark);
        offset.map(at).map_err(|e| format!("{leader}: {e}"))
    };
    match start {
        Start::Cut { end, before } if before.topic_id == view.id => {
            Ok(at(*end).after(Arc::clone(before)))
        }
        Start::Cut { .. } | Start::OfLog => of_log(Mark::LogStart),
        Start::Committed => match (committed.offset, committed.offset_in(view.id)) {
            (_, Some(offset)) => {
                context.committed.lock().insert(partition, offset);
                let assigned = at(offset);
                // So a log that was cut while nobody read it is noticed.
                assigned.was_read(ReadTo { offset, epoch: committed.epoch });
                Ok(assigned)
            }
            (Some(offset), None) => {
                log::error!(
                    partition = partition, committed = offset;
                    "the committed offset is of a log that is gone, reading this one from its start"
                );
                of_log(Mark::LogStart)
            }
            (None, _) if reset == Reset::Latest => of_log(Mark::HighWatermark),
            (None, _) => of_log(Mark::LogStart),
        },
    }
}

fn start(context: &Context, assigned: Assigned, new: &Newly) {
    // Under the lock: a revocation meanwhile removes the partition from one or the other.
    let mut newly = context.newly.lock();
    let partition = assigned.partition;
    if newly.get(&partition).is_some_and(|waits| waits.nth == new.nth) {
        newly.remove(&partition);
        log::info!(partition = partition, from = assigned.position(); "partition starts");
        context.assignment.add(assigned);
    }
}

/// Notes partitions to start.
pub(super) fn newly(context: &Context, partitions: impl IntoIterator<Item = (i32, Start)>) {
    let mut newly = context.newly.lock();
    for (partition, start) in partitions {
        let nth = context.assignments.fetch_add(1, Ordering::Relaxed);
        newly.insert(partition, Newly { start, nth });
    }
}
