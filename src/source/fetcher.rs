//! Moves one broker's records: asks for the next ones, checks that none is missing, hands them
//! over one by one.
//!
//! Invariant: a position advances only past an offset that was handed over, or counted: as invalid, or
//! as not there. A client that failed is thrown away, never reused. It deliberately knows
//! nothing of the group, and finds no new leader by itself: it says that it needs one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka::client::fetch::{Data, Message};
use kafka::client::{FetchPartition, KafkaClient};
use kafka::error::{Error, KafkaCode};

use super::stepper::{Step, Stepper};
use super::{HandOver, Handed, Holding, Item};
use crate::brokers::wire::{self, BatchHeader};
use crate::brokers::{self, Busy};
use crate::clock;
use crate::event::Event;
use crate::logging::Limiter;
use crate::telemetry::metrics::ProcessorMetrics;

/// How much a fetch asks for.
#[derive(Debug, Clone, Copy)]
pub struct FetchSettings {
    /// Bytes asked for, each partition.
    pub bytes: i32,
    /// Largest batch that is fetched whole; a larger one ends the run with its name.
    pub bytes_max: i32,
    /// How long the broker may hold an answer back while there is nothing to send.
    pub wait: Duration,
}

/// What one turn came to.
pub enum Turn {
    /// Records were handed over.
    Progress,
    /// There was nothing to fetch.
    Idle,
    /// The broker failed or leads no more: back off and renew the metadata.
    Failed(String),
    /// The run stops, or this fetcher was given up.
    Unwanted,
    /// No waiting cures it: the run must end with this message.
    Fatal(String),
}

/// The fetcher of one broker.
pub struct Fetcher {
    address: String,
    topic: Arc<str>,
    settings: FetchSettings,
    hand_over: Arc<dyn HandOver>,
    metrics: ProcessorMetrics,
    busy: Arc<Busy>,
    client: Option<KafkaClient>,
    /// Partitions whose last plain fetch could not be trusted.
    stepping: BTreeSet<i32>,
    /// Lines about offsets that are passed over.
    lines: Limiter,
}

impl Fetcher {
    /// A fetcher of `topic` from the broker at `address`; it connects on its first turn.
    pub fn new(
        address: &str,
        topic: &str,
        settings: FetchSettings,
        hand_over: Arc<dyn HandOver>,
        metrics: ProcessorMetrics,
        busy: Arc<Busy>,
    ) -> Self {
        Self {
            address: address.to_owned(),
            topic: topic.into(),
            settings,
            hand_over,
            metrics,
            busy,
            client: None,
            stepping: BTreeSet::new(),
            lines: Limiter::per_second(5),
        }
    }

    /// Fetches once for each of `holdings`, all led by this broker, and hands the records over.
    pub fn turn(&mut self, holdings: &[Arc<Holding>]) -> Turn {
        let mut progress = false;
        let (stepping, plain): (Vec<_>, Vec<_>) =
            holdings.iter().cloned().partition(|h| self.stepping.contains(&h.partition));
        // A partition that fails must not hold up the broker's others.
        let mut failed = None;
        let steps = stepping.iter().map(|holding| self.step(holding));
        let steps: Vec<Result<bool, Turn>> = steps.collect();
        let fetch = (!plain.is_empty()).then(|| self.fetch(&plain, self.settings.bytes, None));
        for moved in steps.into_iter().chain(fetch) {
            match moved {
                Ok(moved) => progress |= moved,
                Err(Turn::Failed(why)) => failed = Some(why),
                Err(turn) => return turn,
            }
        }
        if progress {
            for holding in holdings {
                self.hand_over.fetched(holding);
            }
        }
        match failed {
            Some(why) => Turn::Failed(why),
            None if progress => Turn::Progress,
            None => Turn::Idle,
        }
    }

    /// One fetch of up to `bytes` a partition; or of one partition's `batch` alone. True when records
    /// were handed over.
    fn fetch(
        &mut self,
        holdings: &[Arc<Holding>],
        bytes: i32,
        batch: Option<&BatchHeader>,
    ) -> Result<bool, Turn> {
        let busy = Arc::clone(&self.busy);
        let answer = busy.during(|| self.request(holdings, bytes)).ok_or(Turn::Unwanted)?;
        let responses = match answer {
            Ok(responses) => responses,
            Err(Error::UnsupportedCompression | Error::CodecError | Error::InvalidSnappy(_)) => {
                // The crate fails the whole call and does not say for which partition.
                self.client = None;
                return match (batch, holdings.first()) {
                    (Some(batch), Some(holding)) => Err(self.corrupt(holding, batch)),
                    _ => {
                        self.stepping.extend(holdings.iter().map(|h| h.partition));
                        Ok(false)
                    }
                };
            }
            Err(e) => {
                self.client = None;
                return Err(Turn::Failed(e.to_string()));
            }
        };
        self.metrics.polls.inc();
        let (mut progress, mut failed) = (false, None);
        let mut answered = BTreeSet::new();
        for partition in responses.iter().flat_map(|r| r.topics()).flat_map(|t| t.partitions()) {
            let Some(holding) = holdings.iter().find(|h| h.partition == partition.partition())
            else {
                continue;
            };
            answered.insert(holding.partition);
            match partition.data() {
                Ok(data) => progress |= self.answered(holding, data, batch)?,
                Err(e) => match self.refused(holding, &e, batch.is_some()) {
                    Err(Turn::Failed(why)) => failed = Some(why),
                    settled => settled?,
                },
            }
        }
        if let Some(why) = failed {
            self.client = None;
            return Err(Turn::Failed(why));
        }
        match holdings.iter().find(|h| !answered.contains(&h.partition)) {
            Some(left_out) => {
                self.client = None;
                Err(Turn::Failed(format!("partition {} has no leader here", left_out.partition)))
            }
            None => Ok(progress),
        }
    }

    fn request(
        &mut self,
        holdings: &[Arc<Holding>],
        bytes: i32,
    ) -> Result<Vec<kafka::client::fetch::Response>, Error> {
        let client = match &mut self.client {
            Some(client) => client,
            empty => {
                let mut client = brokers::data_client(&self.address, &self.topic)
                    .map_err(|e| Error::Io(std::io::Error::other(e.to_string())))?;
                client.set_fetch_max_wait_time(self.settings.wait)?;
                client.set_fetch_min_bytes(1);
                empty.insert(client)
            }
        };
        let questions: Vec<FetchPartition<'_>> = holdings
            .iter()
            .map(|h| {
                FetchPartition::new(&self.topic, h.partition, h.position()).with_max_bytes(bytes)
            })
            .collect();
        client.fetch_messages(&questions)
    }

    /// One partition's part of an answer. True when records were handed over; where none were although
    /// there is more, says so to the next turn.
    fn answered(
        &mut self,
        holding: &Arc<Holding>,
        data: &Data<'_>,
        batch: Option<&BatchHeader>,
    ) -> Result<bool, Turn> {
        holding.log_ends_at(data.highwatermark_offset());
        let moved = holding.one_at_a_time(|| self.accept(holding, data.messages(), batch))?;
        let position = holding.position();
        if moved || data.highwatermark_offset() <= position {
            return Ok(moved);
        }
        let last = data.messages().last();
        match batch {
            Some(batch) if last.is_none_or(|last| last.offset < position) => {
                self.nothing_left(holding, batch)?;
            }
            Some(_) => {} // the log was left
            None => drop(self.stepping.insert(holding.partition)),
        }
        Ok(false)
    }

    /// Hands over the records that follow the position; without a gap, but for one in `batch`. True
    /// when there was one.
    fn accept(
        &mut self,
        holding: &Arc<Holding>,
        messages: &[Message<'_>],
        batch: Option<&BatchHeader>,
    ) -> Result<bool, Turn> {
        let mut progress = false;
        for message in messages {
            let expected = holding.position();
            let is_gap = message.offset > expected;
            if is_gap && batch.is_none_or(|batch| message.offset > batch.last_offset) {
                // Crate kafka drops what stands before a compressed batch. Never step over a gap in
                // silence: go on from `expected`, one batch at a time.
                self.stepping.insert(holding.partition);
                break;
            }
            if message.offset < expected {
                continue;
            }
            if !self.deliver(holding, message)? {
                break;
            }
            progress = true;
            if is_gap {
                self.not_there(holding.partition, expected, message.offset);
            }
        }
        Ok(progress)
    }

    /// False when the log was left: nothing more of it is opened.
    fn deliver(&mut self, holding: &Arc<Holding>, message: &Message<'_>) -> Result<bool, Turn> {
        if !holding.open(message.offset) {
            return Ok(false);
        }
        self.metrics.fetched.inc();
        let event = match Event::decode(message.value) {
            Ok(event) => event,
            Err(why) => {
                self.invalid(holding.partition, message.offset, why.reason(), 1);
                holding.done(message.offset);
                return Ok(true);
            }
        };
        let item = Item {
            event,
            offset: message.offset,
            fetched_us: clock::now_us(),
            holding: Arc::clone(holding),
        };
        match self.hand_over.offer(item) {
            Handed::Taken => Ok(true),
            Handed::Unwanted => Err(Turn::Unwanted),
        }
    }

    fn invalid(&mut self, partition: i32, offset: i64, reason: &str, records: u64) {
        self.metrics.invalid.with_label_values(&[reason]).inc_by(records);
        if let Some(suppressed) = self.lines.allow() {
            log::warn!(
                partition = partition, offset = offset, reason = reason, records = records,
                lines_suppressed = suppressed; "record is no event, counted and passed over"
            );
        }
    }

    /// Offsets that hold no record: compaction or a deletion took them.
    fn not_there(&mut self, partition: i32, from: i64, to: i64) {
        let offsets = (to - from).unsigned_abs();
        self.metrics.lost.with_label_values(&["gap"]).inc_by(offsets);
        if let Some(suppressed) = self.lines.allow() {
            log::warn!(
                partition = partition, from = from, to = to, offsets = offsets,
                lines_suppressed = suppressed;
                "the log has no records here (compacted or deleted), going on behind them"
            );
        }
    }

    /// The broker answered with no record of `batch` from the position on.
    fn nothing_left(&mut self, holding: &Holding, batch: &BatchHeader) -> Result<(), Turn> {
        let (position, to) = (holding.position(), batch.last_offset + 1);
        // Of a batch that has records, some stand before the position, or it cannot be read.
        if position <= batch.base_offset && batch.records > 0 {
            return Err(self.corrupt(holding, batch));
        }
        if position < to {
            self.not_there(holding.partition, position, to);
            holding.skip_to(to);
        }
        Ok(())
    }

    fn corrupt(&self, holding: &Holding, batch: &BatchHeader) -> Turn {
        Turn::Fatal(format!(
            "topic {} partition {} offset {}: a batch of {} bytes up to offset {} cannot be read: \
             it is corrupt; set the group's offset behind it to go on without it",
            self.topic,
            holding.partition,
            holding.position(),
            batch.size,
            batch.last_offset
        ))
    }

    fn refused(&mut self, holding: &Holding, error: &Error, steps: bool) -> Result<(), Turn> {
        match error {
            Error::Kafka(KafkaCode::OffsetOutOfRange) => self.out_of_range(holding),
            // Codes the crate does not know; 76 among them, a zstd batch asked for by an old Fetch.
            // The batch's header tells; what it does not explain is the broker's own trouble.
            Error::Kafka(KafkaCode::Unknown) if !steps => {
                self.stepping.insert(holding.partition);
                Ok(())
            }
            _ => Err(Turn::Failed(format!("partition {}: {error}", holding.partition))),
        }
    }

    /// Retention overtook the position: go on at the log's start. Or the log ends before the
    /// position: the seat decides where to go on.
    fn out_of_range(&mut self, holding: &Holding) -> Result<(), Turn> {
        let busy = Arc::clone(&self.busy);
        let (partition, position) = (holding.partition, holding.position());
        let earliest = busy
            .during(|| wire::earliest_offset(&self.address, &self.topic, partition))
            .ok_or(Turn::Unwanted)?
            .map_err(|e| Turn::Failed(format!("partition {partition}: earliest offset: {e}")))?;
        if earliest <= position {
            // Its own log was cut back, or it is another's: of the topic that was made in its place.
            let topic = busy
                .during(|| wire::metadata(&self.address, &self.topic))
                .ok_or(Turn::Unwanted)?
                .map_err(|e| Turn::Failed(format!("partition {partition}: topic id: {e}")))?;
            if topic.is_ok_and(|topic| topic.id == holding.topic_id) {
                holding.found_beyond_the_end();
            }
            return Err(Turn::Failed(format!(
                "partition {partition}: offset {position} is beyond the end of the log, which \
                 starts at {earliest}"
            )));
        }
        let lost = (earliest - position).unsigned_abs();
        self.metrics.lost.with_label_values(&["retention"]).inc_by(lost);
        log::error!(
            topic = self.topic.as_ref(), partition = partition, from = position, to = earliest,
            events_lost = lost; "retention deleted events before they were fetched"
        );
        holding.skip_to(earliest);
        Ok(())
    }

    /// One batch at a time, its header read first, until a plain fetch can be trusted again.
    fn step(&mut self, holding: &Arc<Holding>) -> Result<bool, Turn> {
        let busy = Arc::clone(&self.busy);
        let stepper = Stepper { address: &self.address, topic: &self.topic };
        let (partition, position) = (holding.partition, holding.position());
        let step = busy
            .during(|| stepper.next(partition, position, self.settings.bytes_max))
            .ok_or(Turn::Unwanted)?;
        match step {
            Step::End => {
                self.stepping.remove(&partition);
                Ok(false)
            }
            Step::OutOfRange => self.out_of_range(holding).map(|()| true),
            Step::Gap { to } => {
                self.not_there(partition, position, to);
                holding.skip_to(to);
                Ok(true)
            }
            Step::Control { to } => {
                holding.skip_to(to);
                Ok(true)
            }
            Step::Unreadable { codec, to } => {
                let records = (to - position).unsigned_abs();
                self.invalid(partition, position, codec, records);
                holding.skip_to(to);
                Ok(true)
            }
            Step::Batch { bytes, header } => {
                self.stepping.remove(&partition);
                self.fetch(std::slice::from_ref(holding), bytes, Some(&header))?;
                // What is left of it, if anything, the next step tells.
                if holding.position() <= header.last_offset {
                    self.stepping.insert(partition);
                }
                Ok(holding.position() != position)
            }
            Step::TooLarge { bytes } => Err(Turn::Fatal(format!(
                "topic {} partition {partition} offset {position}: a batch of {bytes} bytes is \
                 larger than --fetch-bytes-max {}; raise it",
                self.topic, self.settings.bytes_max
            ))),
            Step::Failed(why) => Err(Turn::Failed(why)),
        }
    }
}
