//! Reads where a topic's logs start and end and what a group has committed, without joining the group.
//!
//! ```text
//! kafka thread: every interval  leaders ─► committed ─► one short-lived thread a leader: starts, ends
//! ```
//! Invariant: a slow or dead broker leaves a gap only in its own partitions, and every wait for it
//! is bounded (`connection::TIMEOUT` a step); an error of one partition concerns only that
//! partition. A round asks each leader twice, however many partitions it has, over a kept
//! connection. It deliberately smooths nothing and keeps no old offset.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::brokers::connection::{Connection, TIMEOUT};
use crate::brokers::group;
use crate::brokers::offsets::{self, Mark};
use crate::brokers::{Brokers, TopicView};
use crate::clock;
use crate::lab::samples::{LogReading, PartitionReading};
use crate::planes::Isolation;
use crate::threads::Stop;

/// Reads offsets round after round.
pub struct LagReader {
    brokers: Brokers,
    topic: String,
    group: String,
    isolation: Isolation,
    /// The topic as last described.
    view: TopicView,
    /// Connections to leaders, by address.
    kept: BTreeMap<String, Connection>,
    /// Which of the brokers is asked first for the leaders.
    first: usize,
}

/// The coordinator's answer, or why there is none.
type Commits = Result<group::Commits, String>;
/// Start and end of each partition's log; why they are not known.
type Ends = BTreeMap<i32, Result<Bounds, String>>;

/// An offset of a log, or why it is not known.
type Told = Result<i64, String>;

/// Of one log.
struct Bounds {
    start: i64,
    /// The end for the reader's isolation.
    end: i64,
    high_watermark: i64,
}

impl LagReader {
    /// A reader of the lag of `group` on `topic`. Its isolation says which end counts: a reader of
    /// uncommitted records reads past an open transaction.
    pub fn new(brokers: &Brokers, topic: &str, group: &str, isolation: Isolation) -> Self {
        Self {
            brokers: brokers.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            isolation,
            view: TopicView::default(),
            kept: BTreeMap::new(),
            first: 0,
        }
    }

    /// The topic as the brokers described it in the last answered round.
    pub fn view(&self) -> &TopicView {
        &self.view
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
        let mut reading = LogReading::default();
        let begun = Instant::now();
        match self.known_brokers().describe(&self.topic, 0) {
            Ok(mut view) => {
                if view.id == self.view.id {
                    // A lagging broker does not replace newer leaders.
                    view.keep_newer_leaders(&self.view);
                }
                self.view = view;
            }
            Err(why) => reading.unread.push(format!("topic {}: {why}", self.topic)),
        }
        if begun.elapsed() >= TIMEOUT {
            // A frozen broker at the head of the list costs one wait, and then is the last.
            self.first += 1;
        }
        let partitions = self.view.leaders.keys().copied();
        let brokers = self.known_brokers();
        let standing = group::standing(&brokers, &self.group, &self.topic, partitions);
        let (commits, members) = match standing {
            Ok((commits, members)) => (Ok(commits), members),
            Err(e) => (Err(e), None),
        };
        let ends = self.ends();
        reading.read_us = clock::now_us();
        self.put_together(&mut reading, &commits.map_err(|e| e.to_string()), ends);
        reading.members = members;
        reading.notes.extend(self.odd(&reading));
        reading
    }

    /// The bootstrap list, followed by the brokers learned of since, from the one that answered last.
    fn known_brokers(&self) -> Brokers {
        let known = self.brokers.and(&self.view);
        let mut hosts: Vec<String> = known.hosts().map(str::to_owned).collect();
        let first = self.first % hosts.len().max(1);
        hosts.rotate_left(first);
        known.at(hosts)
    }

    /// Each leader is asked on a thread of its own.
    fn ends(&mut self) -> Ends {
        let mut ends = Ends::new();
        let mut by_leader: BTreeMap<&str, Vec<(i32, i32)>> = BTreeMap::new();
        for partition in self.view.leaders.keys() {
            let epoch = self.view.epochs.get(partition).copied().unwrap_or(-1);
            match self.view.leader_address(*partition) {
                Some(leader) => by_leader.entry(leader).or_default().push((*partition, epoch)),
                None => drop(ends.insert(*partition, Err("it has no leader".to_owned()))),
            }
        }
        // Drops connections to brokers that lead nothing any more.
        let mut kept = std::mem::take(&mut self.kept);
        let (brokers, topic) = (&self.brokers, self.topic.as_str());
        let mark = match self.isolation {
            Isolation::ReadUncommitted => Mark::HighWatermark,
            Isolation::ReadCommitted => Mark::LastStable,
        };
        std::thread::scope(|scope| {
            let ask = |(leader, partitions): (&'_ str, Vec<(i32, i32)>)| {
                let (address, kept) = (leader.to_owned(), kept.remove(leader));
                let asked = partitions.clone();
                let thread =
                    scope.spawn(move || ask_leader(brokers, &address, kept, topic, &asked, mark));
                (leader.to_owned(), partitions, thread)
            };
            let asked: Vec<_> = by_leader.into_iter().map(ask).collect();
            for (leader, partitions, thread) in asked {
                let answer = thread.join();
                let why = match answer {
                    Ok(Ok((connection, read))) => {
                        self.kept.insert(leader, connection);
                        ends.extend(read);
                        continue;
                    }
                    Ok(Err(why)) if is_timeout(&why) => {
                        format!("no answer within {} s", TIMEOUT.as_secs())
                    }
                    Ok(Err(why)) => why.to_string(),
                    Err(_) => "its thread panicked".to_owned(),
                };
                let failed = |(partition, _)| (partition, Err(format!("broker {leader}: {why}")));
                ends.extend(partitions.into_iter().map(failed));
            }
        });
        ends
    }

    /// Makes a row of each partition, and reports each reason for unknown ones once.
    fn put_together(&self, reading: &mut LogReading, commits: &Commits, ends: Ends) {
        let mut missing: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let mut miss = |partition, why: String| missing.entry(why).or_default().push(partition);
        if let Err(why) = commits {
            let why = format!("committed offsets of group {}: {why}", self.group);
            reading.unread.push(why);
        }
        for (partition, bounds) in ends {
            let committed = match commits.as_ref().map(|all| all.get(&partition)) {
                Ok(Some(Ok(committed))) => Some(committed.offset_in(self.view.id)),
                Ok(Some(Err(why))) => {
                    miss(partition, why.clone());
                    None
                }
                Ok(None) => Some(None),
                Err(_) => None,
            };
            let row = match bounds {
                Ok(bounds) => Self::row(committed, &bounds),
                Err(why) => {
                    miss(partition, format!("end of the log: {why}"));
                    PartitionReading { committed: committed.flatten(), ..Default::default() }
                }
            };
            reading.partitions.insert(partition, row);
        }
        let said = |(why, partitions)| format!("partitions {partitions:?}: {why}");
        reading.unread.extend(missing.into_iter().map(said));
        if !reading.partitions.is_empty() {
            reading.lag = reading.partitions.values().map(|row| row.lag).sum();
        }
    }

    /// A note if the user probably means another group.
    fn odd(&self, reading: &LogReading) -> Option<String> {
        let rows = &reading.partitions;
        if reading.members != Some(0) || rows.is_empty() || !reading.unread.is_empty() {
            return None;
        }
        let (group, topic) = (&self.group, &self.topic);
        Some(match rows.values().any(|row| row.committed.is_some()) {
            true => format!("group {group} has no members: {topic} is not read"),
            false => format!(
                "there is no group {group} that reads {topic}: no members, nothing committed; lag is the whole log"
            ),
        })
    }

    /// `committed`: `None` when it is not known, `Some(None)` when there is none. Records that
    /// retention deleted are no lag: they will not be read.
    fn row(committed: Option<Option<i64>>, bounds: &Bounds) -> PartitionReading {
        let Bounds { start, end, high_watermark } = *bounds;
        // An offset above the high watermark belongs to a log that is gone or was cut: a reader
        // gets "out of range" there, and starts anew.
        let committed = committed.map(|at| at.filter(|at| *at <= high_watermark));
        PartitionReading {
            end: Some(end),
            committed: committed.flatten(),
            lag: committed.map(|at| (end - at.unwrap_or(start).max(start)).max(0)),
        }
    }
}

/// Asks one leader for the starts and the ends of its logs; returns the connection for the next
/// round.
fn ask_leader(
    brokers: &Brokers,
    address: &str,
    kept: Option<Connection>,
    topic: &str,
    partitions: &[(i32, i32)],
    mark: Mark,
) -> io::Result<(Connection, Ends)> {
    let ask = |mut connection: Connection| -> io::Result<(Connection, Ends)> {
        let starts = offsets::list(&mut connection, topic, partitions, Mark::LogStart)?;
        let ends = offsets::list(&mut connection, topic, partitions, mark)?;
        let highest = match mark {
            Mark::HighWatermark => ends.clone(),
            _ => offsets::list(&mut connection, topic, partitions, Mark::HighWatermark)?,
        };
        // Each answer has every partition that was asked for, in the same order.
        let bounds = |(((partition, start), end), highest): (((i32, Told), Told), Told)| {
            let of = || Ok(Bounds { start: start?, end: end?, high_watermark: highest? });
            (partition, of())
        };
        let all = starts.into_iter().zip(ends.into_values()).zip(highest.into_values());
        Ok((connection, all.map(bounds).collect()))
    };
    if let Some(connection) = kept {
        match ask(connection) {
            Err(e) if !is_timeout(&e) => {
                // A broker closes idle connections, and it may have been restarted.
            }
            answer => return answer,
        }
    }
    ask(brokers.connect(address)?)
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == ErrorKind::TimedOut
}

#[cfg(test)]
mod tests;
