//! Moves one broker's records: requests the next ones, checks them, enqueues them in runs.
//!
//! Invariant: a position advances only past an offset that was enqueued, or counted: as invalid, or
//! as holding no record. A refused partition backs off alone; the broker's others go on. It knows
//! nothing of the group, and finds no new leader by itself: it reports that it needs one.

mod reading;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::reading::{Halt, Reading, Round};
use super::run::Builder;
use super::{Assigned, Downstream};
use crate::backoff::Resting;
use crate::brokers::offsets::Mark;
use crate::brokers::{Brokers, Busy, View, wire};
use crate::clock;
use crate::logging::Limiter;
use crate::planes::{Ask, FetchSettings, Fetches, Lost, Part, Refusal, fetches};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;
use crate::transform::Transform;

/// The result of one turn.
#[derive(Debug)]
pub enum Turn {
    /// Records were enqueued.
    Progress,
    /// There was nothing to fetch.
    Idle,
    /// Time for which the broker asks for no further request.
    Throttled(Duration),
    /// The broker does not answer: back off and refresh the metadata.
    Failed(String),
    /// The run stops, or this fetcher was given up.
    Unwanted,
    /// Waiting does not help: the run must end with this message.
    Fatal(String),
}

/// What every fetcher shares.
#[derive(Clone)]
pub struct Context {
    /// The bootstrap list.
    pub brokers: Brokers,
    /// The topic.
    pub topic: Arc<str>,
    /// How much a fetch asks for.
    pub settings: FetchSettings,
    /// What the workers do to each event.
    pub transform: Transform,
    /// Whether unreadable records are counted and skipped, instead of ending the run.
    pub skip_unreadable: bool,
    /// Where runs are enqueued.
    pub downstream: Arc<dyn Downstream>,
    /// The counters.
    pub metrics: ProcessorMetrics,
    /// The run's stop signal.
    pub stop: Stop,
    /// The topic's last known leaders.
    pub view: View,
}

/// The fetcher of one broker.
pub struct Fetcher {
    address: String,
    context: Context,
    plane: Box<dyn Fetches>,
    busy: Arc<Busy>,
    builder: Builder,
    /// Partitions that were refused, and rest for a while.
    resting: Resting,
    /// Events enqueued since the last wait for acks.
    round: Round,
    /// Limit of log lines about skipped offsets.
    lines: Limiter,
}

impl Fetcher {
    /// A fetcher from the broker at `address`; it connects on its first turn.
    pub fn new(address: &str, context: Context, busy: Arc<Busy>) -> Self {
        let plane = fetches(&context.brokers, address, &context.topic, context.settings);
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
            round: Round::default(),
            lines: Limiter::per_second(5),
        }
    }

    /// Fetches once for each of `assigned`, all led by this broker, and enqueues the records.
    pub fn turn(&mut self, assigned: &[Arc<Assigned>]) -> Turn {
        let now = Instant::now();
        self.resting.keep(|partition| assigned.iter().any(|a| a.partition == partition));
        let awake = assigned.iter().filter(|a| self.resting.is_awake(a.partition, now));
        let view = self.context.view.get();
        let ask = |a: &Arc<Assigned>| {
            let (offset, last_epoch) = a.place();
            Ask {
                partition: a.partition,
                topic_id: a.topic_id,
                offset,
                leader_epoch: view.epochs.get(&a.partition).copied().unwrap_or(-1),
                last_epoch,
            }
        };
        let asks: Vec<Ask> = awake.map(ask).collect();
        if asks.is_empty() {
            self.plane.let_go();
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
        if let Some(prefetched) = self.plane.prefetched() {
            let metrics = &self.context.metrics;
            metrics.prefetched_events.set(prefetched.events as i64);
            metrics.prefetched_bytes.set(prefetched.bytes as i64);
            metrics.client_received_bytes.set(prefetched.received_bytes as i64);
        }
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
        self.round.await_acks(self.context.downstream.as_ref());
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
                gaps: 0,
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
                // The entries before it count; the rest waits for the next fetch.
                Some(Halt::Fatal(why)) => reading.flush().and(Err(Halt::Fatal(why))),
                Some(halt) => Err(halt),
            };
            if let Some(read_to) = plane.read_to() {
                assigned.was_read(read_to);
            }
            ended.map(|()| assigned.position() > from)
        })
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

    /// Lets a partition rest for a while.
    fn rest(&mut self, partition: i32, why: &str) {
        self.context.metrics.fetch_retries.inc();
        if self.resting.rest(partition) {
            log::warn!(
                partition = partition, broker = self.address.as_str(), why = why;
                "partition waits, its broker's others go on"
            );
        }
    }

    /// Retention deleted the position: go on at the log start offset. Or the log ends before the
    /// position: the member decides where to go on. `Err` is why it waits; `None` if it was given
    /// up.
    fn out_of_range(&mut self, assigned: &Assigned) -> Result<(), Option<String>> {
        let (partition, position) = (assigned.partition, assigned.position());
        let Context { brokers, topic, .. } = &self.context;
        let earliest = self
            .busy
            .during(|| wire::offset(brokers, &self.address, topic, partition, Mark::LogStart))
            .ok_or(None)?
            .map_err(|e| Some(format!("log start offset: {e}")))?;
        if earliest <= position {
            let ends = self
                .busy
                .during(|| {
                    wire::offset(brokers, &self.address, topic, partition, Mark::HighWatermark)
                })
                .ok_or(None)?
                .map_err(|e| Some(format!("high watermark: {e}")))?;
            if position <= ends {
                // A new leader may not know the offset yet.
                self.context.view.renew();
                return Err(Some(format!(
                    "offset {position} is refused, though the log goes from {earliest} to {ends}"
                )));
            }
            // Its own log was cut back, or this is the log of the topic that replaced its own.
            let view = self
                .busy
                .during(|| wire::metadata(brokers, &self.address, topic))
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
