//! What is still in the log: from the committed offsets to its end, read record by record. It joins
//! no group and commits nothing.
//!
//! Invariant: each offset is read, or known to hold no record, or fails the audit by name; an
//! unreadable offset is never skipped. (Offsets that retention deletes meanwhile are passed over:
//! their ids are found nowhere, and so are missing.) One fetcher a leader, asked in turn; a leader
//! that moves is followed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use roaring::RoaringTreemap;

use super::Settings;
use crate::brokers::offsets::Mark;
use crate::brokers::{Brokers, View, wire};
use crate::event::Head;
use crate::failure::Failure;
use crate::lab::lag::LagReader;
use crate::lab::samples::LogReading;
use crate::planes::{
    Answers, Ask, Client, Entry, FetchSettings, Fetches, Isolation, Lost, Part, Refusal, fetches,
};

/// How long the reading may make no progress.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Wait before unread offsets are asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The offsets. It waits for a coordinator that moves, or that the cluster's first group has yet to
/// create; [`tail_bounds`] reports what is unread after that.
fn offsets(reader: &mut LagReader) -> LogReading {
    let end = Instant::now() + SILENCE_MAX;
    loop {
        let reading = reader.read();
        if reading.unread.is_empty() || Instant::now() > end {
            return reading;
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// Where the reading starts and ends, by partition; partitions with nothing left are not in it.
type Bounds = BTreeMap<i32, (i64, i64)>;

fn tail_bounds(
    brokers: &Brokers,
    settings: &Settings,
    reading: &LogReading,
) -> Result<Bounds, Failure> {
    if !reading.unread.is_empty() || reading.partitions.is_empty() {
        return Err(Failure::Failed(format!(
            "topic {} at {}: its offsets cannot be read: {}",
            settings.topic,
            brokers.list(),
            reading.unread.join("; ")
        )));
    }
    let bounds = reading.partitions.iter().filter_map(|(partition, row)| {
        let (end, lag) = (row.end?, row.lag?);
        (lag > 0).then_some((*partition, (end - lag, end)))
    });
    Ok(bounds.collect())
}

#[derive(Default)]
pub struct Tail {
    pub ids: RoaringTreemap,
    pub records: u64,
    pub invalid: u64,
    /// Whether the group has committed anything in this topic.
    pub is_committed: bool,
    /// Members of the group; none where the coordinator does not say.
    pub members: Option<usize>,
}

impl Tail {
    /// Reads it whole.
    pub fn of(brokers: &Brokers, settings: &Settings) -> Result<Self, Failure> {
        let (topic, isolation) = (settings.topic.as_str(), settings.isolation);
        let mut reader = LagReader::new(brokers, topic, &settings.group, isolation);
        let offsets = offsets(&mut reader);
        let open = tail_bounds(brokers, settings, &offsets)?;
        let topic_id = reader.view().id;
        let view = View::new(reader.view().clone());
        let fetchers = BTreeMap::new();
        let troubles = BTreeMap::new();
        let is_committed = offsets.partitions.values().any(|row| row.committed.is_some());
        let tail = Self { is_committed, members: offsets.members, ..Self::default() };
        let reading =
            Reading { brokers, topic, isolation, topic_id, view, fetchers, open, troubles, tail };
        reading.run()
    }

    fn count(&mut self, value: Option<&[u8]>) {
        self.records += 1;
        match Head::read(value.unwrap_or_default()) {
            Ok(head) => drop(self.ids.insert(head.id)),
            Err(_) => self.invalid += 1,
        }
    }

    /// Takes the next entry of a log of which `(next, end)` is open; breaks off at the end, and,
    /// with the reason, where the log cannot be read.
    fn entry(
        &mut self,
        (next, end): &mut (i64, i64),
        entry: Entry<'_>,
    ) -> ControlFlow<Option<String>> {
        match entry {
            Entry::Record { offset, value } => {
                if offset < *end {
                    self.count(value);
                }
                *next = offset + 1;
            }
            // Markers, aborted transactions and compacted offsets are no records.
            Entry::Passed { to, .. } => *next = to.max(*next),
            Entry::Unreadable { why, .. } => return ControlFlow::Break(Some(why)),
        }
        if *next >= *end { ControlFlow::Break(None) } else { ControlFlow::Continue(()) }
    }
}

/// What one leader answered.
#[derive(Default)]
struct Outcome {
    /// Records were read, or known to be none.
    moved: bool,
    /// The metadata must be asked for again.
    renew: bool,
    /// Time for which the broker asks for no further request.
    throttled: Duration,
}

struct Reading<'a> {
    brokers: &'a Brokers,
    topic: &'a str,
    isolation: Isolation,
    /// The topic whose offsets were read: the same name may mean another one soon.
    topic_id: u128,
    view: View,
    /// By the leader's address.
    fetchers: BTreeMap<String, Box<dyn Fetches>>,
    /// What is to be read: (next offset, end).
    open: Bounds,
    /// The last error of a partition.
    troubles: BTreeMap<i32, String>,
    tail: Tail,
}

impl Reading<'_> {
    fn run(mut self) -> Result<Tail, Failure> {
        let mut heard = Instant::now();
        for turn in 0.. {
            if self.open.is_empty() {
                break;
            }
            let mut all = Outcome { renew: self.leaderless(), ..Outcome::default() };
            let view = self.view.get();
            for (id, address) in &view.addresses {
                let ask = |partition: i32| {
                    let (offset, _) = *self.open.get(&partition)?;
                    let leader_epoch = view.epochs.get(&partition).copied().unwrap_or(-1);
                    Some(Ask {
                        partition,
                        topic_id: self.topic_id,
                        offset,
                        leader_epoch,
                        last_epoch: -1,
                    })
                };
                let asks: Vec<Ask> = view.led_by(*id).filter_map(ask).collect();
                if !asks.is_empty() {
                    let turn = self.turn(address, &asks)?;
                    all.moved |= turn.moved;
                    all.renew |= turn.renew;
                    all.throttled = all.throttled.max(turn.throttled);
                }
            }
            std::thread::sleep(all.throttled);
            if all.moved {
                heard = Instant::now();
            }
            if heard.elapsed() > SILENCE_MAX + all.throttled {
                return Err(self.silence());
            }
            if all.renew {
                std::thread::sleep(AGAIN_AFTER);
                self.renew(turn)?;
            }
        }
        Ok(self.tail)
    }

    /// Whether a partition has no leader to ask.
    fn leaderless(&self) -> bool {
        let view = self.view.get();
        self.open.keys().any(|partition| view.leader_address(*partition).is_none())
    }

    fn renew(&self, first: usize) -> Result<(), Failure> {
        self.view.refresh(self.brokers, self.topic, first);
        if self.view.get().id == self.topic_id {
            return Ok(());
        }
        let topic = self.topic;
        Err(Failure::Failed(format!("topic {topic} was made anew while its log was read")))
    }

    /// Asks one leader once.
    fn turn(&mut self, address: &str, asks: &[Ask]) -> Result<Outcome, Failure> {
        // The broker holds an answer back only while it has no records, and here it has some.
        let settings = FetchSettings {
            client: Client::Wire,
            bytes: 1 << 20,
            answer_bytes: 8 << 20,
            answers: Answers::Largest,
            bytes_max: 64 << 20,
            wait: Duration::from_millis(100),
            isolation: self.isolation,
            prefetch_bytes: 0,
            prefetch_events: 0,
            prefetch_pause: false,
        };
        let fetcher = (self.fetchers.entry(address.to_owned()))
            .or_insert_with(|| fetches(self.brokers, address, self.topic, settings));
        let fetched = match fetcher.fetch(asks) {
            Ok(fetched) => fetched,
            Err(Lost::Connection(why)) => {
                log::warn!(broker = address, why = why.as_str(); "reading the log, still trying");
                let why = format!("broker {address}: {why}");
                self.troubles.extend(asks.iter().map(|ask| (ask.partition, why.clone())));
                return Ok(Outcome { renew: true, ..Outcome::default() });
            }
            Err(Lost::Never(why)) => return Err(self.unreadable(asks.first(), &why)),
        };
        let mut turn = Outcome { throttled: fetched.throttled, ..Outcome::default() };
        for part in &fetched.parts {
            let Some(ask) = asks.iter().find(|ask| ask.partition == part.partition) else {
                continue;
            };
            match &part.answer {
                Ok(_) => turn.moved |= self.take(address, part, ask)?,
                Err(refusal) => turn.renew |= self.refused(address, ask, refusal)?,
            }
        }
        Ok(turn)
    }

    /// Reads a part of an answer. True when there was anything.
    fn take(&mut self, address: &str, part: &Part, ask: &Ask) -> Result<bool, Failure> {
        let Self { fetchers, open, tail, .. } = self;
        let (Some(fetcher), Some(bounds)) =
            (fetchers.get_mut(address), open.get_mut(&part.partition))
        else {
            return Ok(false);
        };
        let mut unreadable = None;
        fetcher.read(part, ask.offset, &mut |entry| match tail.entry(bounds, entry) {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(why) => {
                unreadable = why;
                ControlFlow::Break(())
            }
        });
        let (next, end) = *bounds;
        if let Some(why) = unreadable {
            return Err(self.unreadable(Some(&Ask { offset: next, ..*ask }), &why));
        }
        self.troubles.remove(&part.partition);
        if next >= end {
            self.open.remove(&part.partition);
        }
        Ok(next > ask.offset)
    }

    /// Handles a refusal. True when the metadata must be asked for again.
    fn refused(&mut self, address: &str, ask: &Ask, refusal: &Refusal) -> Result<bool, Failure> {
        let partition = ask.partition;
        let why = match refusal {
            Refusal::OutOfRange => {
                match wire::offset(self.brokers, address, self.topic, partition, Mark::LogStart) {
                    // Retention has deleted these offsets since: their ids are found nowhere, and
                    // so are missing.
                    Ok(start) if start > ask.offset => {
                        if let Some((next, end)) = self.open.remove(&partition)
                            && start < end
                        {
                            self.open.insert(partition, (start.max(next), end));
                        }
                        return Ok(false);
                    }
                    Ok(_) => "the log ends before it".to_owned(),
                    Err(e) => format!("its log start offset: {e}"),
                }
            }
            Refusal::Cut { end } => format!("the log was cut to {end}"),
            Refusal::Moved { why, leader } => {
                if let Some((leader, epoch)) = leader {
                    self.view.leader_moved(partition, *leader, *epoch);
                }
                why.clone()
            }
            Refusal::NotNow(why) => why.clone(),
            Refusal::Never(why) => return Err(self.unreadable(Some(ask), why)),
        };
        self.troubles.insert(partition, format!("offset {}: {why}", ask.offset));
        Ok(true)
    }

    fn unreadable(&self, at: Option<&Ask>, why: &str) -> Failure {
        let at = at.map(|ask| format!(" partition {} offset {}", ask.partition, ask.offset));
        let (topic, at) = (self.topic, at.unwrap_or_default());
        Failure::Failed(format!("topic {topic}{at}: the log cannot be read: {why}"))
    }

    fn silence(&self) -> Failure {
        Failure::Failed(format!(
            "topic {}: no record for {} s, partitions not read to their end: {:?} {:?}; \
             are all brokers up? (run/cluster.sh status)",
            self.topic,
            SILENCE_MAX.as_secs(),
            self.open.keys().collect::<Vec<_>>(),
            self.troubles
        ))
    }
}

#[cfg(test)]
mod tests;
