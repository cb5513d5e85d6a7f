//! Moves one broker's records: asks for the next ones, checks them, enqueues them in runs.
//!
//! Invariant: a position advances only past an offset that was enqueued, or counted: as invalid, or as
//! holding no record. A partition that is refused backs off alone; the broker's others go on. It knows
//! nothing of the group, and finds no new leader by itself: it says that it needs one.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run::{self, Builder};
use super::{Assigned, Downstream, Enqueued, Rejected};
use crate::backoff::Resting;
use crate::brokers::{Busy, View, wire};
use crate::clock;
use crate::logging::Limiter;
use crate::planes::{Ask, Entry, FetchSettings, Fetches, Lost, Part, Passed, Refusal, fetches};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;
use crate::transform::Transform;

/// What one turn came to.
#[derive(Debug)]
pub enum Turn {
    /// Records were enqueued.
    Progress,
    /// There was nothing to fetch.
    Idle,
    /// The broker asks to stay away for so long.
    Throttled(Duration),
    /// The broker does not answer: back off and renew the metadata.
    Failed(String),
    /// The run stops, or this fetcher was given up.
    Unwanted,
    /// No waiting cures it: the run must end with this message.
    Fatal(String),
}

/// What every fetcher shares.
#[derive(Clone)]
pub struct Context {
    /// The topic.
    pub topic: Arc<str>,
    /// How much a fetch asks for.
    pub settings: FetchSettings,
    /// What the workers do to each event.
    pub transform: Transform,
    /// Whether what cannot be read is counted and passed over, instead of ending the run.
    pub skip_unreadable: bool,
    /// Where runs go.
    pub downstream: Arc<dyn Downstream>,
    /// What is counted.
    pub metrics: ProcessorMetrics,
    /// The run's stop signal.
    pub stop: Stop,
    /// The topic's leaders as last heard.
    pub view: View,
}

/// The fetcher of one broker.
pub struct Fetcher {
    address: String,
    context: Context,
    plane: Box<dyn Fetches>,
    busy: Arc<Busy>,
    builder: Builder,
    /// Partitions that were refused, left alone for a while.
    resting: Resting,
    /// Partitions of which runs were enqueued since the last wait for acks, and how many events.
    round: (Vec<Arc<Assigned>>, usize),
    /// Lines about offsets that are passed over.
    lines: Limiter,
}

/// Why a part of an answer is not read on.
enum Halt {
    Unwanted,
    /// The log was left; nothing more of it is opened.
    Left,
    Fatal(String),
}

impl Fetcher {
    /// A fetcher from the broker at `address`; it connects on its first turn.
    pub fn new(address: &str, context: Context, busy: Arc<Busy>) -> Self {
        let plane = fetches(address, &context.topic, context.settings);
        let downstream = &context.downstream;
        let builder =
            Builder::new(downstream.shards(), downstream.run_events_max(), context.transform);
        Self {
            address: address.to_owned(),
            context,
            plane,
            busy,
            builder,
            resting: Resting::default(),
            round: (Vec::new(), 0),
            lines: Limiter::per_second(5),
        }
    }

    /// Fetches once for each of `assigned`, all led by this broker, and enqueues the records.
    pub fn turn(&mut self, assigned: &[Arc<Assigned>]) -> Turn {
        let now = Instant::now();
        self.resting.keep(|partition| assigned.iter().any(|a| a.partition == partition));
        let awake = assigned.iter().filter(|a| self.resting.is_awake(a.partition, now));
        let view = self.context.view.get();
        let ask = |a: &Arc<Assigned>| Ask {
            partition: a.partition,
            topic_id: a.topic_id,
            offset: a.position(),
            leader_epoch: view.epochs.get(&a.partition).copied().unwrap_or(-1),
        };
        let asks: Vec<Ask> = awake.map(ask).collect();
        if asks.is_empty() {
            return Turn::Idle;
        }
        let Some(answer) = self.busy.during(|| self.plane.fetch(&asks)) else {
            return Turn::Unwanted;
        };
        let fetched = match answer {
            Ok(fetched) => fetched,
            Err(Lost::Connection(why)) => return Turn::Failed(why),
            Err(Lost::Never(why)) => return Turn::Fatal(why),
        };
        self.context.metrics.polls.inc();
        let mut progress = false;
        for part in &fetched.parts {
            let Some(assigned) = assigned.iter().find(|a| a.partition == part.partition) else {
                continue;
            };
            let read = match &part.answer {
                Ok(high_watermark) => self.read(assigned, part, *high_watermark),
                Err(refusal) => self.refused(assigned, refusal).map(|()| false),
            };
            match read {
                Ok(moved) => progress |= moved,
                Err(Halt::Left) => {}
                Err(Halt::Unwanted) => return Turn::Unwanted,
                Err(Halt::Fatal(why)) => return Turn::Fatal(why),
            }
        }
        self.await_round();
        match (fetched.throttled, progress) {
            (Duration::ZERO, true) => Turn::Progress,
            (Duration::ZERO, false) => Turn::Idle,
            (throttled, _) => Turn::Throttled(throttled),
        }
    }

    /// One partition's part of an answer. True when the position moved.
    fn read(
        &mut self,
        assigned: &Arc<Assigned>,
        part: &Part,
        high_watermark: i64,
    ) -> Result<bool, Halt> {
        if self.resting.works(part.partition) {
            log::info!(partition = part.partition; "partition is fetched again");
        }
        assigned.log_ends_at(high_watermark);
        let fetched_us = clock::now_us();
        // Borrowed apart from `self`: the plane shows its entries while they are enqueued.
        let Self { context, plane, builder, round, lines, .. } = self;
        assigned.one_at_a_time(|| {
            let from = assigned.position();
            let mut reading = Reading {
                assigned,
                fetched_us,
                context,
                builder,
                round,
                lines,
                next: from,
                holes: 0,
            };
            let mut halt = None;
            plane.read(part, from, &mut |entry| match reading.entry(entry) {
                Ok(()) => ControlFlow::Continue(()),
                Err(why) => {
                    halt = Some(why);
                    ControlFlow::Break(())
                }
            });
            let ended = match halt {
                None => reading.flush(),
                // What was read before it counts; what follows waits for the next fetch.
                Some(Halt::Fatal(why)) => reading.flush().and(Err(Halt::Fatal(why))),
                Some(halt) => Err(halt),
            };
            ended.map(|()| assigned.position() > from)
        })
    }

    fn await_round(&mut self) {
        let (touched, events) = &mut self.round;
        for assigned in touched.drain(..) {
            self.context.downstream.await_acks(&assigned);
        }
        *events = 0;
    }

    fn refused(&mut self, assigned: &Assigned, refusal: &Refusal) -> Result<(), Halt> {
        let partition = assigned.partition;
        match refusal {
            Refusal::OutOfRange => match self.out_of_range(assigned) {
                Ok(()) => {}
                Err(Some(why)) => self.rest(partition, &why),
                Err(None) => return Err(Halt::Unwanted),
            },
            Refusal::Cut { end } => {
                assigned.found_cut(Some(*end));
                let position = assigned.position();
                self.rest(partition, &format!("its log was cut to {end}, below {position}"));
            }
            Refusal::Moved { why, leader } => {
                if let Some((leader, epoch)) = leader {
                    self.context.view.leader_moved(partition, *leader, *epoch);
                }
                self.context.view.renew();
                self.rest(partition, why);
            }
            Refusal::NotNow(why) => {
                self.context.view.renew();
                self.rest(partition, why);
            }
            Refusal::Never(why) => {
                let topic = &self.context.topic;
                let at = assigned.position();
                return Err(Halt::Fatal(format!(
                    "topic {topic} partition {partition} offset {at}: {why}"
                )));
            }
        }
        Ok(())
    }

    /// Leaves a partition alone for a while.
    fn rest(&mut self, partition: i32, why: &str) {
        self.context.metrics.fetch_retries.inc();
        if self.resting.rest(partition) {
            log::warn!(
                partition = partition, broker = self.address.as_str(), why = why;
                "partition waits, its broker's others go on"
            );
        }
    }

    /// Retention overtook the position: go on at the log's start. Or the log ends before the
    /// position: the member decides where to go on. `Err` is why it waits; `None`, that it was given up.
    fn out_of_range(&mut self, assigned: &Assigned) -> Result<(), Option<String>> {
        let (partition, position) = (assigned.partition, assigned.position());
        let topic = &self.context.topic;
        let earliest = self
            .busy
            .during(|| wire::earliest_offset(&self.address, topic, partition))
            .ok_or(None)?
            .map_err(|e| Some(format!("log start offset: {e}")))?;
        if earliest <= position {
            // Its own log was cut back, or it is another's: of the topic that was made in its place.
            let view = self
                .busy
                .during(|| wire::metadata(&self.address, topic))
                .ok_or(None)?
                .map_err(|e| Some(format!("topic id: {e}")))?;
            if view.is_ok_and(|topic| topic.id == assigned.topic_id) {
                assigned.found_cut(None);
            }
            self.context.view.renew();
            return Err(Some(format!(
                "offset {position} is beyond the end of the log, which starts at {earliest}"
            )));
        }
        let lost = (earliest - position).unsigned_abs();
        self.context.metrics.lost.with_label_values(&["retention"]).inc_by(lost);
        log::error!(
            topic = topic.as_ref(), partition = partition, from = position, to = earliest,
            events_lost = lost; "retention deleted events before they were fetched"
        );
        assigned.skip_to(earliest);
        Ok(())
    }
}

/// One partition's part of an answer while it is read.
struct Reading<'a> {
    assigned: &'a Arc<Assigned>,
    fetched_us: i64,
    context: &'a Context,
    builder: &'a mut Builder,
    round: &'a mut (Vec<Arc<Assigned>>, usize),
    lines: &'a mut Limiter,
    /// The next offset: all before it is in the builder, enqueued or passed over.
    next: i64,
    /// Offsets without a record that the position has not moved past yet.
    holes: u64,
}

impl Reading<'_> {
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Halt> {
        match entry {
            Entry::Record { offset, value } => {
                if offset > self.next {
                    self.hole(offset);
                }
                match run::check(value) {
                    Ok((value, head)) => self.event(offset, head.key, value)?,
                    Err(why) => self.rejected(&Rejected {
                        partition: self.assigned.partition,
                        offset,
                        last_offset: offset,
                        id: None,
                        reason: why.reason(),
                        why: &why.to_string(),
                        value,
                    })?,
                }
                self.next = offset + 1;
            }
            Entry::Passed { to, what } => {
                if to > self.next && what == Passed::Hole {
                    self.hole(to);
                }
                self.next = self.next.max(to);
            }
            Entry::Unreadable { to, reason, why } => self.unreadable(to, reason, &why)?,
        }
        Ok(())
    }

    fn event(&mut self, offset: i64, key: u64, value: &[u8]) -> Result<(), Halt> {
        let shard = self.context.downstream.shard_of(key);
        let of = (self.assigned, self.fetched_us);
        if !self.builder.push(shard, offset, value, of) {
            self.flush()?;
            if !self.builder.push(shard, offset, value, of) {
                // An empty run takes any event, unless there is no such shard.
                return Err(Halt::Fatal(format!("shard {shard} of the queue takes no event")));
            }
        }
        Ok(())
    }

    /// Opens what is in the builder, enqueues it, and moves the position past it and past what was
    /// passed over behind it.
    fn flush(&mut self) -> Result<(), Halt> {
        let opened = self.builder.offsets().len();
        if !self.assigned.open(self.builder.offsets()) {
            self.builder.finish().for_each(drop);
            return Err(Halt::Left);
        }
        self.context.metrics.fetched.inc_by(opened as u64);
        let mut unwanted = false;
        for (shard, run) in self.builder.finish() {
            let events = run.len();
            unwanted =
                unwanted || self.context.downstream.enqueue(shard, run) == Enqueued::Unwanted;
            if unwanted {
                // It stays open at its offsets, so it is not committed and still in the log.
                self.context.metrics.returned.inc_by(events as u64);
            }
        }
        if unwanted {
            return Err(Halt::Unwanted);
        }
        self.assigned.skip_to(self.next);
        let holes = std::mem::take(&mut self.holes);
        self.context.metrics.lost.with_label_values(&["gap"]).inc_by(holes);
        self.count_round(opened);
        Ok(())
    }

    /// A pull source waits for the acks of what the workers can take at once.
    fn count_round(&mut self, events: usize) {
        let Some(most) = self.context.downstream.round_events_max() else { return };
        let (touched, so_far) = &mut *self.round;
        if !touched.iter().any(|a| Arc::ptr_eq(a, self.assigned)) {
            touched.push(Arc::clone(self.assigned));
        }
        *so_far += events;
        if *so_far >= most {
            for assigned in touched.drain(..) {
                self.context.downstream.await_acks(&assigned);
            }
            *so_far = 0;
        }
    }

    /// What will not be delivered is kept and counted before its offsets are done.
    fn rejected(&mut self, rejected: &Rejected<'_>) -> Result<(), Halt> {
        self.flush()?;
        if !self.assigned.open(&[rejected.offset]) {
            return Err(Halt::Left);
        }
        let offsets = rejected.offsets();
        self.context.metrics.fetched.inc_by(offsets);
        if let Some(suppressed) = self.lines.allow() {
            log::warn!(
                partition = rejected.partition, offset = rejected.offset, reason = rejected.reason,
                why = rejected.why, offsets = offsets, lines_suppressed = suppressed; "record is no event, counted and passed over"
            );
        }
        if !self.context.downstream.reject(rejected, &self.context.stop) {
            return Err(Halt::Unwanted);
        }
        self.assigned.done([rejected.offset]);
        Ok(())
    }

    fn unreadable(&mut self, to: Option<i64>, reason: &str, why: &str) -> Result<(), Halt> {
        let (partition, offset) = (self.assigned.partition, self.next);
        let topic = &self.context.topic;
        let at = format!("topic {topic} partition {partition} offset {offset}: {why}");
        let Some(to) = to.filter(|_| self.context.skip_unreadable) else {
            return Err(Halt::Fatal(format!(
                "{at}; --skip-unreadable goes on behind it and counts what is lost, or set the \
                 group's offset behind it"
            )));
        };
        self.rejected(&Rejected {
            partition,
            offset,
            last_offset: to - 1,
            id: None,
            reason,
            why,
            value: None,
        })?;
        self.next = to;
        Ok(())
    }

    /// Offsets up to `to` hold no record: compaction or a deletion took them.
    fn hole(&mut self, to: i64) {
        let offsets = (to - self.next).unsigned_abs();
        self.holes += offsets;
        if let Some(suppressed) = self.lines.allow() {
            log::warn!(
                partition = self.assigned.partition, from = self.next, to = to, offsets = offsets,
                lines_suppressed = suppressed;
                "the log has no records here (compacted or deleted), going on behind them"
            );
        }
    }
}
