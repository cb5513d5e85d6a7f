//! One broker's sender: on every linger tick it sends the due events of the partitions which that
//! broker leads.
//!
//! Invariant: a cursor advances only past what the broker confirmed, partition by partition, so a
//! failure is a wait, never a gap. Whatever goes wrong with the connection, the client is thrown
//! away and the events are made again from the cursors. It finds no new leader by itself: it asks
//! for newer metadata and rests what failed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kafka::client::{KafkaClient, ProduceConfirm, RequiredAcks};
use kafka::error::KafkaCode;
use parking_lot::Mutex;

use super::batch::{Batch, Recipe};
use super::cursors::{Claim, Cursors, SenderId};
use super::logs::Logs;
use super::schedule::{Curve, Pacer};
use crate::backoff::Backoff;
use crate::brokers::{self, Busy, View};
use crate::clock;
use crate::failure::Failure;
use crate::telemetry::{self, metrics::ProducerMetrics};
use crate::threads::Stop;
use crate::units;

/// Bytes of records in one request. Brokers take batches up to `message.max.bytes`, 1,048,588 by
/// default, and crate `kafka` sends a request with one `write`, which must not come back short.
pub const REQUEST_BYTES_MAX: usize = 900_000;

/// How long a broker may wait for its followers before it says so; below the time after which a
/// sender is given up.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a sender that leads nothing looks again.
const IDLE: Duration = Duration::from_millis(50);

/// What the senders of one run share.
pub struct Shared {
    /// The topic.
    pub topic: String,
    /// What makes events out of ids.
    pub recipe: Recipe,
    /// How many replicas must have an event before it counts as sent.
    pub acks: RequiredAcks,
    /// Time between two requests to a broker.
    pub linger: Duration,
    /// What is due when.
    pub pacer: Mutex<Pacer>,
    /// How far each partition is.
    pub cursors: Cursors,
    /// Who leads what.
    pub view: View,
    /// Latencies and the last acknowledgement.
    pub tally: Mutex<Tally>,
    /// What is counted.
    pub metrics: ProducerMetrics,
    /// Set when the senders are to end.
    pub done: Stop,
}

/// What the summary is made of, besides the cursors.
pub struct Tally {
    /// Due → acknowledged, µs.
    pub latency_us: Histogram<u64>,
    /// When the last event was acknowledged, µs since the epoch.
    pub last_ack_us: Option<i64>,
    /// How far each log was acknowledged.
    pub logs: Logs,
}

/// The state of one sender thread.
pub struct Sender {
    id: SenderId,
    broker: i32,
    shared: Arc<Shared>,
    busy: Arc<Busy>,
    link: Option<Link>,
    /// When the broker was lost, while it is.
    lost: Option<Instant>,
    request_bytes_max: usize,
    resting: HashMap<u32, Rest>,
}

/// A client of one broker and the partitions that this broker says it leads.
struct Link {
    client: KafkaClient,
    leads: Vec<u32>,
}

/// A partition that failed is left alone for a while, so that it does not hold up the others.
struct Rest {
    backoff: Backoff,
    until: Instant,
}

enum Trouble {
    /// The call took too long and another sender has taken over.
    GivenUp,
    /// The connection is of no use any more.
    Lost(String),
    /// No waiting cures it.
    Fatal(String),
}

impl Sender {
    /// A sender for `broker`. Its `id` must be its own.
    pub fn new(id: SenderId, broker: i32, shared: Arc<Shared>, busy: Arc<Busy>) -> Self {
        Self {
            id,
            broker,
            shared,
            busy,
            link: None,
            lost: None,
            request_bytes_max: REQUEST_BYTES_MAX,
            resting: HashMap::new(),
        }
    }

    /// Sends until the run is done or the sender was given up.
    ///
    /// # Errors
    /// When the brokers refuse the events for good.
    pub fn run(mut self) -> Result<(), Failure> {
        let mut backoff = Backoff::standard();
        let mut tick = Instant::now();
        telemetry::block_profiler_signal();
        while !self.shared.done.is_set() {
            match self.turn() {
                Ok(true) => {
                    backoff.reset();
                    tick = (tick + self.shared.linger).max(Instant::now());
                    self.shared.done.wait(tick.saturating_duration_since(Instant::now()));
                }
                Ok(false) => backoff.reset(),
                Err(Trouble::Lost(why)) => {
                    self.lose(&why);
                    self.shared.done.wait(backoff.wait());
                }
                Err(Trouble::GivenUp) => return Ok(()),
                Err(Trouble::Fatal(why)) => return Err(Failure::Failed(why)),
            }
        }
        Ok(())
    }

    /// Sends at most one request for each group of partitions that are equally far. True when
    /// everything due was sent, or rests.
    fn turn(&mut self) -> Result<bool, Trouble> {
        let view = self.shared.view.get();
        let now = Instant::now();
        let partitions = self.shared.recipe.partitions;
        let led = view.led_by(self.broker).filter_map(|p| u32::try_from(p).ok());
        let mut led: Vec<u32> = led.filter(|p| *p < partitions).collect();
        self.resting.retain(|partition, _| led.contains(partition));
        led.retain(|partition| self.resting.get(partition).is_none_or(|rest| rest.until <= now));
        if led.is_empty() {
            self.shared.done.wait(IDLE);
            return Ok(true);
        }
        let unknown = |link: &Link| led.iter().any(|p| !link.leads.contains(p));
        if self.link.as_ref().is_none_or(unknown) {
            let address = view.addresses.get(&self.broker);
            let address = address.ok_or_else(|| Trouble::Lost("it has no address".to_owned()))?;
            self.connect(address)?;
        }
        let Some(link) = &self.link else { return Ok(true) };
        let (known, news) = led.into_iter().partition(|p| link.leads.contains(p));
        led = known;
        for partition in news {
            self.rest(partition, "the broker has not heard that it leads it");
        }

        let (curve, due) = {
            let pacer = self.shared.pacer.lock();
            // The time is read under the lock, as by whoever changes the curve: nothing is sent as due
            // that a stop at an earlier time took away.
            let curve = pacer.curve();
            let due = curve.due_count(clock::now_us());
            (curve, due)
        };
        let claims = self.shared.cursors.claim(self.id, led.into_iter());
        let sent = self.send(&claims, due, &curve);
        self.shared.cursors.release(self.id);
        sent
    }

    fn send(&mut self, claims: &[Claim], due: u64, curve: &Curve) -> Result<bool, Trouble> {
        let mut all = true;
        for group in claims.chunk_by(|a, b| a.next == b.next) {
            let start = group.first().map_or(due, |claim| claim.next);
            let partitions: Vec<u32> = group.iter().map(|claim| claim.partition).collect();
            let batch =
                self.shared.recipe.batch(&partitions, start, due, curve, self.request_bytes_max);
            all &= batch.end >= due;
            self.send_batch(&partitions, &batch)?;
        }
        Ok(all)
    }

    fn send_batch(&mut self, partitions: &[u32], batch: &Batch) -> Result<(), Trouble> {
        let acks = self.shared.acks;
        let mut confirms = Vec::new();
        if !batch.is_empty() {
            let Some(link) = &mut self.link else { return Ok(()) };
            let messages = batch.messages(&self.shared.topic);
            confirms = self
                .busy
                .during(|| link.client.produce_messages(acks, ACK_TIMEOUT, messages))
                .ok_or(Trouble::GivenUp)?
                .map_err(|e| Trouble::Lost(e.to_string()))?;
            self.is_back();
        }
        let acked_us = clock::now_us();
        for &partition in partitions {
            let count = batch.count(partition);
            let verdict = match acks {
                _ if count == 0 => Ok(None),
                // Without acks there is no answer: written to the socket is sent.
                RequiredAcks::None => Ok(None),
                RequiredAcks::One | RequiredAcks::All => verdict(&confirms, partition).map(Some),
            };
            match verdict {
                Ok(first) => self.settle(partition, batch, (first, count), acked_us),
                Err(code) => self.refused(partition, code, batch)?,
            }
        }
        Ok(())
    }

    /// The partition's part of the batch is acknowledged: first offset, where it was told, and count.
    fn settle(
        &mut self,
        partition: u32,
        batch: &Batch,
        (first, count): (Option<i64>, u64),
        acked_us: i64,
    ) {
        let held = self.shared.cursors.advance(self.id, partition, batch.end, count);
        if !held || count == 0 {
            return;
        }
        if self.resting.remove(&partition).is_some() {
            log::info!(partition = partition, broker = self.broker; "partition is sent again");
        }
        self.shared.metrics.sent.inc_by(count);
        let mut tally = self.shared.tally.lock();
        tally.last_ack_us = tally.last_ack_us.max(Some(acked_us));
        if let Some(gone) = first.and_then(|at| tally.logs.acked(partition as i32, at, count)) {
            log::error!(
                topic = self.shared.topic.as_str(), partition = partition,
                acked_below = gone.acked_below, now_at = first;
                "the log began anew: what was acknowledged before may be gone"
            );
        }
        for due_us in batch.due_times(partition) {
            let latency_us = u64::try_from(acked_us - due_us).unwrap_or(0);
            tally.latency_us.saturating_record(latency_us);
            self.shared.metrics.latency.observe(latency_us as f64 / 1e6);
        }
    }

    fn refused(
        &mut self,
        partition: u32,
        code: Option<KafkaCode>,
        batch: &Batch,
    ) -> Result<(), Trouble> {
        let count = batch.count(partition);
        self.shared.metrics.retries.inc();
        let topic = &self.shared.topic;
        let named = |code: KafkaCode| format!("{topic}-{partition}: the broker answered {code:?}");
        match code {
            Some(KafkaCode::MessageSizeTooLarge | KafkaCode::RecordListTooLarge) if count > 1 => {
                // Several partitions of one request may say so: halve what it was, once.
                self.request_bytes_max = self.request_bytes_max.min(batch.request_bytes() / 2);
                let bytes_max = self.request_bytes_max;
                log::info!(partition = partition, bytes_max = bytes_max; "smaller requests");
            }
            Some(code @ (KafkaCode::MessageSizeTooLarge | KafkaCode::RecordListTooLarge)) => {
                let bytes = self.shared.recipe.record_bytes();
                return Err(Trouble::Fatal(format!(
                    "{} to a record of {bytes} bytes; lower --msg-size or raise the topic's \
                     max.message.bytes",
                    named(code)
                )));
            }
            Some(
                code @ (KafkaCode::InvalidTopic
                | KafkaCode::InvalidRequiredAcks
                | KafkaCode::TopicAuthorizationFailed
                | KafkaCode::ClusterAuthorizationFailed),
            ) => return Err(Trouble::Fatal(named(code))),
            passing => {
                let why = passing.map_or("no answer for it".to_owned(), |code| format!("{code:?}"));
                self.rest(partition, &why);
            }
        }
        Ok(())
    }

    /// Leaves a partition alone for a while and asks who leads it.
    fn rest(&mut self, partition: u32, why: &str) {
        let first = !self.resting.contains_key(&partition);
        let rest = self
            .resting
            .entry(partition)
            .or_insert_with(|| Rest { backoff: Backoff::standard(), until: Instant::now() });
        rest.until = Instant::now() + rest.backoff.wait();
        if first {
            log::warn!(partition = partition, broker = self.broker, why = why; "partition waits");
        }
        self.shared.view.renew();
    }

    fn connect(&mut self, address: &str) -> Result<(), Trouble> {
        self.link = None;
        let client = self.busy.during(|| brokers::data_client(address, &self.shared.topic));
        let client = client.ok_or(Trouble::GivenUp)?.map_err(|e| {
            if e.is_passing() {
                Trouble::Lost(e.to_string())
            } else {
                Trouble::Fatal(e.to_string())
            }
        })?;
        let mut leads = Vec::new();
        if let Some(partitions) = client.topics().partitions(&self.shared.topic) {
            for partition in &partitions {
                if partition.leader().is_some_and(|leader| leader.id() == self.broker) {
                    leads.extend(u32::try_from(partition.id()));
                }
            }
        }
        self.link = Some(Link { client, leads });
        Ok(())
    }

    fn lose(&mut self, why: &str) {
        self.link = None;
        self.shared.metrics.retries.inc();
        self.shared.view.renew();
        if self.lost.is_none() {
            self.lost = Some(Instant::now());
            log::warn!(broker = self.broker, why = why; "broker lost, its events wait");
        }
    }

    fn is_back(&mut self) {
        if let Some(lost) = self.lost.take() {
            let after = units::show(lost.elapsed());
            log::info!(broker = self.broker, after = after.as_str(); "broker is back");
        }
    }
}

/// The broker's word on `partition`: the offset of its first event; `Err(None)` when it has none.
fn verdict(confirms: &[ProduceConfirm], partition: u32) -> Result<i64, Option<KafkaCode>> {
    let mut confirms = confirms.iter().flat_map(|confirm| &confirm.partition_confirms);
    match confirms.find(|confirm| confirm.partition == partition as i32) {
        Some(confirm) => confirm.offset.map_err(Some),
        None => Err(None),
    }
}
