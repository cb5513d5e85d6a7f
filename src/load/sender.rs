//! One broker's sender: on every linger tick it sends the due events of the partitions that this
//! broker leads.
//!
//! Invariant: a cursor advances only past events that the broker confirmed, partition by partition,
//! so a failure is a wait, never a gap. A batch that may have arrived is sent again unchanged,
//! under the same sequence numbers, so that a broker that has it does not take it twice (KIP-98; if
//! all replicas must ack, and the plane supports it). It finds no new leader by itself: it asks for
//! a metadata refresh and lets failed partitions rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::batch::{Batch, Limits, Recipe};
use super::cursors::{Claim, Cursors, SenderId};
use super::logs::Logs;
use super::resends::Resends;
use super::schedule::{Curve, Pacer};
use crate::backoff::{Backoff, Resting};
use crate::brokers::{Brokers, Busy, View};
use crate::clock;
use crate::failure::Failure;
use crate::planes::wire::producer_id;
use crate::planes::{Acks, Client, Lost, Parcel, ProduceSettings, Produces, Unsent, produces};
use crate::records::ProducerStamp;
use crate::telemetry::{self, metrics::ProducerMetrics};
use crate::threads::Stop;
use crate::units;

/// How long a broker may wait for its followers before it says so; below the time after which a
/// sender is given up.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a sender that leads nothing checks again.
const IDLE: Duration = Duration::from_millis(50);

/// What the senders of one run share.
pub struct Shared {
    /// The bootstrap list.
    pub brokers: Brokers,
    /// The topic.
    pub topic: String,
    /// Makes events out of ids.
    pub recipe: Recipe,
    /// How events are sent.
    pub settings: ProduceSettings,
    /// Time between two requests to a broker.
    pub linger: Duration,
    /// The due times.
    pub pacer: Mutex<Pacer>,
    /// How far each partition has been sent.
    pub cursors: Cursors,
    /// The leaders of the partitions.
    pub view: View,
    /// Latencies and the last acknowledgement.
    pub tally: Mutex<Tally>,
    /// What is sent again because the sink does not have it.
    pub resends: Option<Resends>,
    /// The counters.
    pub metrics: ProducerMetrics,
    /// Set when the senders are to end.
    pub done: Stop,
}

impl Shared {
    /// What sends to the broker at `address`.
    pub fn plane(&self, address: &str) -> Box<dyn Produces> {
        produces(&self.brokers, address, &self.topic, self.settings)
    }

    /// Events due by `at_us`.
    pub fn due_by(&self, at_us: i64) -> u64 {
        self.pacer.lock().curve().due_count(at_us)
    }

    /// No event below it will be sent any more, neither for the first time nor again: its due time may be
    /// forgotten.
    pub fn done_below(&self) -> u64 {
        let again = self.resends.as_ref().map_or(u64::MAX, Resends::done_below);
        self.cursors.slowest().min(again)
    }
}

/// Why a run ends whose events are larger than the topic takes.
pub fn too_large(shared: &Shared, partition: u32, why: &str) -> String {
    format!(
        "{}-{partition}: the broker answered {why} to a record of {} bytes; lower --msg-size or raise the \
         topic's max.message.bytes",
        shared.topic,
        shared.recipe.record_bytes()
    )
}

/// The summary's data besides the cursors.
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
    /// The plane that sends the events, and the address it was made for.
    link: Option<(Box<dyn Produces>, String)>,
    /// When the broker was lost, while it is.
    lost: Option<Instant>,
    limits: Limits,
    resting: Resting,
    /// Until then the broker wants to hear nothing (KIP-219).
    throttled_until: Option<Instant>,
}

enum Trouble {
    /// The call took too long and another sender has taken over.
    GivenUp,
    /// The connection cannot be used any more.
    Lost(String),
    /// Waiting does not help.
    Fatal(String),
}

impl Sender {
    /// A sender for `broker`. Its `id` must be its own.
    pub fn new(id: SenderId, broker: i32, shared: Arc<Shared>, busy: Arc<Busy>) -> Self {
        let limits = Limits::of(shared.settings.client);
        let resting = Resting::default();
        Self {
            id,
            broker,
            shared,
            busy,
            link: None,
            lost: None,
            limits,
            resting,
            throttled_until: None,
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
        if let Some(left) = self.throttled() {
            // Without a claim: another broker may lead its partitions meanwhile.
            self.shared.done.wait(left);
            return Ok(false);
        }
        let view = self.shared.view.get();
        let now = Instant::now();
        let partitions = self.shared.recipe.partitions;
        let led = view.led_by(self.broker).filter_map(|p| u32::try_from(p).ok());
        let mut led: Vec<u32> = led.filter(|p| *p < partitions).collect();
        self.resting.keep(|partition| led.contains(&(partition as u32)));
        led.retain(|partition| self.resting.is_awake(*partition as i32, now));
        if led.is_empty() {
            self.shared.done.wait(IDLE);
            return Ok(true);
        }
        let address = view.addresses.get(&self.broker);
        let address = address.ok_or_else(|| Trouble::Lost("it has no address".to_owned()))?;
        if self.link.as_ref().is_none_or(|(_, at)| at != address) {
            self.link = Some((self.shared.plane(address), address.clone()));
        }
        let (curve, due) = {
            let pacer = self.shared.pacer.lock();
            // The time is read under the lock, as the threads that change the curve do: an event
            // that a stop at an earlier time removed is not sent as due.
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
        for group in claims.chunk_by(|a, b| (a.next, a.sent_to) == (b.next, b.sent_to)) {
            let Some(first) = group.first() else { continue };
            let partitions: Vec<u32> = group.iter().map(|claim| claim.partition).collect();
            let recipe = &self.shared.recipe;
            // A batch that was sent before without an answer is sent unchanged.
            let batch = match first.sent_to {
                Some(to) => recipe.batch(&partitions, first.next, to, curve, Limits::NONE),
                None => recipe.batch(&partitions, first.next, due, curve, self.limits),
            };
            all &= batch.end >= due;
            self.send_batch(group, &batch)?;
            if self.throttled().is_some() {
                return Ok(false);
            }
        }
        Ok(all)
    }

    fn send_batch(&mut self, claims: &[Claim], batch: &Batch) -> Result<(), Trouble> {
        let mut parcels = Vec::new();
        for claim in claims {
            let events = batch.of(claim.partition);
            if events.is_empty() {
                self.acked(claim.partition, batch, None, clock::now_us());
            } else {
                let stamp = self.stamp(claim)?;
                let partition = claim.partition as i32;
                parcels.push(Parcel { partition, stamp, events });
            }
        }
        if parcels.is_empty() {
            return Ok(());
        }
        for parcel in &parcels {
            let (cursors, partition) = (&self.shared.cursors, parcel.partition as u32);
            cursors.sending(self.id, partition, Some(batch.end));
        }
        let Some((plane, _)) = &mut self.link else { return Ok(()) };
        let produced = self.busy.during(|| plane.produce(&parcels)).ok_or(Trouble::GivenUp)?;
        let produced = produced.map_err(|lost| match lost {
            Lost::Connection(why) => Trouble::Lost(why),
            Lost::Never(why) => Trouble::Fatal(why),
        })?;
        self.is_back();
        let acked_us = clock::now_us();
        for (partition, verdict) in produced.verdicts {
            let partition = partition as u32;
            match verdict {
                Ok(first) => self.acked(partition, batch, first, acked_us),
                Err(unsent) => self.refused(partition, unsent, batch)?,
            }
        }
        if !produced.throttled.is_zero() {
            log::debug!(
                broker = self.broker, wait = units::show(produced.throttled).as_str(); "throttled"
            );
            self.throttled_until = Some(Instant::now() + produced.throttled);
        }
        Ok(())
    }

    /// How long the broker still wants to hear nothing.
    fn throttled(&self) -> Option<Duration> {
        let left = self.throttled_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The mark by which brokers recognise the claim's batch; a partition without a producer id
    /// gets one.
    fn stamp(&mut self, claim: &Claim) -> Result<ProducerStamp, Trouble> {
        let ProduceSettings { client, acks, .. } = self.shared.settings;
        if client != Client::Wire || acks != Acks::All {
            return Ok(ProducerStamp::NONE);
        }
        if let Some((stamp, base_sequence)) = claim.stamp {
            let (producer_id, producer_epoch) = (stamp.producer_id, stamp.epoch);
            return Ok(ProducerStamp { producer_id, producer_epoch, base_sequence });
        }
        let Some((_, address)) = &self.link else { return Ok(ProducerStamp::NONE) };
        let asked = self
            .busy
            .during(|| producer_id(&self.shared.brokers, address))
            .ok_or(Trouble::GivenUp)?;
        let why = |why: &dyn std::fmt::Display| format!("no producer id: {why}");
        let (producer_id, producer_epoch) = asked
            .map_err(|e| Trouble::Lost(why(&e)))?
            .map_err(|refused| Trouble::Fatal(why(&refused)))?;
        self.shared.cursors.stamp(self.id, claim.partition, producer_id, producer_epoch);
        Ok(ProducerStamp { producer_id, producer_epoch, base_sequence: 0 })
    }

    /// The partition's part of the batch is acknowledged, its first event at `first`, if the broker
    /// told it.
    fn acked(&mut self, partition: u32, batch: &Batch, first: Option<i64>, acked_us: i64) {
        let count = batch.count(partition);
        let held = self.shared.cursors.advance(self.id, partition, batch.end, count);
        if !held || count == 0 {
            return;
        }
        if self.resting.works(partition as i32) {
            log::info!(partition = partition, broker = self.broker; "partition is sent again");
        }
        self.shared.metrics.sent.inc_by(count);
        let mut tally = self.shared.tally.lock();
        tally.last_ack_us = tally.last_ack_us.max(Some(acked_us));
        if let Some(gone) = first.and_then(|at| tally.logs.acked(partition as i32, at, count)) {
            log::error!(
                topic = self.shared.topic.as_str(), partition = partition,
                acked_below = gone.acked_below, now_at = first;
                "the log began anew: events acknowledged before may be gone"
            );
        }
        for due_us in batch.due_times(partition) {
            let latency_us = u64::try_from(acked_us - due_us).unwrap_or(0);
            tally.latency_us.saturating_record(latency_us);
            self.shared.metrics.latency.observe(latency_us as f64 / 1e6);
        }
    }

    fn refused(&mut self, partition: u32, unsent: Unsent, batch: &Batch) -> Result<(), Trouble> {
        self.shared.metrics.retries.inc();
        let named =
            |why: &str| format!("{}-{partition}: the broker answered {why}", self.shared.topic);
        match unsent {
            Unsent::TooLarge(_) if batch.count(partition) > 1 => {
                self.shared.cursors.sending(self.id, partition, None);
                let half = batch.batch_bytes(partition) / 2;
                self.limits.batch_bytes = self.limits.batch_bytes.min(half);
                let bytes_max = self.limits.batch_bytes;
                log::info!(partition = partition, bytes_max = bytes_max; "smaller batches");
            }
            Unsent::TooLarge(why) => {
                return Err(Trouble::Fatal(too_large(&self.shared, partition, &why)));
            }
            Unsent::Never(why) => return Err(Trouble::Fatal(named(&why))),
            Unsent::Sequence(why) => {
                // The broker's state for this producer is gone, or never existed. The next try has
                // a new producer id.
                log::warn!(
                    partition = partition, why = why.as_str();
                    "the broker lost count, going on under another producer id: the last batch may be \
                     in the log twice"
                );
                self.shared.cursors.unstamp(self.id, partition);
                self.rest(partition, &why);
            }
            Unsent::Moved { why, leader } => {
                if let Some((leader, epoch)) = leader {
                    self.shared.view.leader_moved(partition as i32, leader, epoch);
                }
                self.rest(partition, &why);
            }
            Unsent::NotNow(why) => self.rest(partition, &why),
        }
        Ok(())
    }

    /// Lets a partition rest for a while and asks for its leader.
    fn rest(&mut self, partition: u32, why: &str) {
        if self.resting.rest(partition as i32) {
            log::warn!(partition = partition, broker = self.broker, why = why; "partition waits");
        }
        self.shared.view.renew();
    }

    fn lose(&mut self, why: &str) {
        self.link = None;
        self.shared.metrics.retries.inc();
        self.shared.view.renew();
        if self.lost.is_none() {
            self.lost = Some(Instant::now());
            log::warn!(broker = self.broker, why = why; "the broker takes no events, they wait");
        }
    }

    fn is_back(&mut self) {
        if let Some(lost) = self.lost.take() {
            let after = units::show(lost.elapsed());
            log::info!(broker = self.broker, after = after.as_str(); "the broker takes events again");
        }
    }
}
