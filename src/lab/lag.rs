//! Reads a topic's end offsets and a group's committed offsets, without joining the group.
//!
//! ```text
//! kafka thread: every interval  committed (coordinator)  ─► one short-lived thread a leader: ends
//! ```
//! Invariant: a slow or dead broker costs a round at most a timeout for each of three questions
//! (who leads, what is committed, where the logs end) and leaves a hole only in its own
//! partitions. The consumer has a group id but never subscribes, so the group does not see it. It
//! deliberately smooths nothing and keeps no old value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::clock;
use crate::failure::Failure;
use crate::lab::samples::{LogReading, PartitionReading};
use crate::threads::Stop;

/// A consumer that can ask about `group` and never joins it.
///
/// # Errors
/// When librdkafka refuses the settings, such as a malformed broker list.
pub fn outsider(brokers: &str, group: &str) -> Result<BaseConsumer, Failure> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("client.id", "backpressure-lab-watch")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A stopped broker answers nothing: notice it in seconds, not in the default 60.
        .set("socket.timeout.ms", "3000")
        .set("socket.connection.setup.timeout.ms", "3000")
        .set("reconnect.backoff.max.ms", "1000")
        .create()
        .map_err(|e| Failure::Usage(format!("--brokers {brokers}, --group {group}: {e}")))
}

/// Reads offsets round after round.
pub struct LagReader {
    consumer: BaseConsumer,
    group: String,
    topic: String,
    /// Leader by partition, as last heard.
    leaders: BTreeMap<i32, i32>,
    timeout: Duration,
}

/// Start and end of a partition's log.
type Ends = BTreeMap<i32, Result<(i64, i64), String>>;

impl LagReader {
    /// A reader whose every question waits at most `timeout` for its answer.
    ///
    /// # Errors
    /// As [`outsider`].
    pub fn new(
        brokers: &str,
        topic: &str,
        group: &str,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        Ok(Self {
            consumer: outsider(brokers, group)?,
            group: group.to_owned(),
            topic: topic.to_owned(),
            leaders: BTreeMap::new(),
            timeout,
        })
    }

    /// Reads every `interval` until `stop`, leaving each reading in `latest`.
    pub fn run(mut self, interval: Duration, latest: &Mutex<Option<Arc<LogReading>>>, stop: &Stop) {
        loop {
            let next = Instant::now() + interval;
            let reading = self.read();
            *latest.lock() = Some(Arc::new(reading));
            if stop.wait(next.saturating_duration_since(Instant::now())) {
                return;
            }
        }
    }

    /// One round. The committed offsets are asked first and the ends after them, so a lag is
    /// never below 0; it may be high by what arrived in between.
    pub fn read(&mut self) -> LogReading {
        // Serves librdkafka's own queue of errors, which would grow without a poll.
        let _not_subscribed = self.consumer.poll(Duration::ZERO);
        let mut reading = LogReading::default();
        if let Err(why) = self.refresh_leaders() {
            reading.unread.push(format!("topic {}: {why}", self.topic));
        }
        let committed = self.committed();
        let ends = self.ends();
        reading.read_us = clock::now_us();
        if let Err(why) = &committed {
            reading.unread.push(format!("committed offsets of group {}: {why}", self.group));
        }
        for (partition, bounds) in ends {
            let mut row = PartitionReading::default();
            // Outer: could it be asked? Inner: has the group committed here?
            let committed = committed.as_ref().ok().map(|all| all.get(&partition).copied());
            row.committed = committed.flatten();
            match bounds {
                Ok((start, end)) => {
                    row.end = Some(end);
                    row.lag = committed.map(|at| (end - at.unwrap_or(start)).max(0));
                }
                Err(why) => reading.unread.push(format!("end of partition {partition}: {why}")),
            }
            reading.partitions.insert(partition, row);
        }
        if !reading.partitions.is_empty() {
            reading.lag = reading.partitions.values().map(|row| row.lag).sum();
        }
        reading
    }

    fn refresh_leaders(&mut self) -> Result<(), String> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), self.timeout)
            .map_err(|e| e.to_string())?;
        let topic = metadata.topics().first().ok_or("the brokers do not name it")?;
        if let Some(error) = topic.error() {
            return Err(rdkafka::types::RDKafkaErrorCode::from(error).to_string());
        }
        self.leaders = topic.partitions().iter().map(|p| (p.id(), p.leader())).collect();
        Ok(())
    }

    fn committed(&self) -> Result<BTreeMap<i32, i64>, String> {
        let mut wanted = TopicPartitionList::new();
        for partition in self.leaders.keys() {
            wanted.add_partition(&self.topic, *partition);
        }
        let answer =
            self.consumer.committed_offsets(wanted, self.timeout).map_err(|e| e.to_string())?;
        let mut committed = BTreeMap::new();
        for row in answer.elements() {
            row.error().map_err(|e| format!("partition {}: {e}", row.partition()))?;
            if let Offset::Offset(at) = row.offset() {
                committed.insert(row.partition(), at);
            }
        }
        Ok(committed)
    }

    /// Each leader is asked on a thread of its own; the first partition that it does not answer
    /// for in time spares the round its others.
    fn ends(&self) -> Ends {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (partition, leader) in &self.leaders {
            by_leader.entry(*leader).or_default().push(*partition);
        }
        std::thread::scope(|scope| {
            let asked: Vec<_> = by_leader
                .into_values()
                .map(|partitions| {
                    let all = partitions.clone();
                    (all, scope.spawn(move || self.ends_at_one_leader(partitions)))
                })
                .collect();
            let mut ends = Ends::new();
            for (partitions, thread) in asked {
                match thread.join() {
                    Ok(read) => ends.extend(read),
                    Err(_) => ends.extend(
                        partitions.into_iter().map(|p| (p, Err("its thread panicked".to_owned()))),
                    ),
                }
            }
            ends
        })
    }

    fn ends_at_one_leader(&self, partitions: Vec<i32>) -> Ends {
        let mut ends = Ends::new();
        let mut silent = None;
        for partition in partitions {
            let end = match &silent {
                Some(why) => Err(String::clone(why)),
                None => self
                    .consumer
                    .fetch_watermarks(&self.topic, partition, self.timeout)
                    .map_err(|e| e.to_string()),
            };
            silent = end.as_ref().err().cloned();
            ends.insert(partition, end);
        }
        ends
    }
}
