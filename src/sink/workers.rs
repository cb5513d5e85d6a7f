//! The threads that take events from the queue, batch them, post them and wait for the ack.
//!
//! Invariant: an event that a worker took ends as acked, invalid, or returned to the log; a worker
//! gives up an event only when its partition was revoked or the drain time is over. Retries never
//! touch the group's poll clock: that is the seat's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::client::{Client, Posted};
use crate::backoff::Backoff;
use crate::clock;
use crate::logging::Limiter;
use crate::queue::{Outlet, Taken};
use crate::sink::wire;
use crate::source::Item;
use crate::telemetry::latency::{Recorder, StageTimes};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;

/// How events travel to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One event a call.
    Single,
    /// Up to `size` events a call; the first waits at most `linger` for company.
    Batch {
        /// Events.
        size: usize,
        /// Longest wait of the first event.
        linger: Duration,
    },
}

/// What a worker says at most so often a second, however often it happens.
struct Complaints {
    not_now: Limiter,
    rejected: Limiter,
}

/// How long an idle worker waits before it shows that it is alive.
const IDLE: Duration = Duration::from_millis(100);

/// When workers must give back what they still hold.
#[derive(Clone, Default)]
pub struct Drain {
    deadline: Arc<Mutex<Option<Instant>>>,
}

impl Drain {
    /// The run stops: what is queued may be delivered for `time` more.
    pub fn start(&self, time: Duration) {
        *self.deadline.lock() = Some(Instant::now() + time);
    }

    fn is_over(&self) -> bool {
        self.deadline.lock().is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Shows when a worker last moved, so that a deadlock can be told from a slow sink.
#[derive(Clone)]
pub struct Pulse(Arc<AtomicI64>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(clock::now_us())))
    }
}

impl Pulse {
    fn beat(&self) {
        self.0.store(clock::now_us(), Ordering::Relaxed);
    }

    /// The worker has ended: it is not stuck, however long the others take.
    fn end(&self) {
        self.0.store(i64::MAX, Ordering::Relaxed);
    }

    /// Time since the worker last moved.
    pub fn age(&self) -> Duration {
        let age_us = clock::now_us().saturating_sub(self.0.load(Ordering::Relaxed));
        Duration::from_micros(age_us.max(0).unsigned_abs())
    }
}

/// One worker.
pub struct Worker {
    /// Where events come from.
    pub outlet: Outlet<Item>,
    /// Where they go.
    pub client: Client,
    /// How they travel.
    pub mode: Mode,
    /// The run's stop signal.
    pub stop: Stop,
    /// When to give up on stop.
    pub drain: Drain,
    /// This worker's sign of life.
    pub pulse: Pulse,
    /// What is counted.
    pub metrics: ProcessorMetrics,
    /// Where latencies go.
    pub latency: Recorder,
}

/// How many of the batch's first events one request may carry; at least one, where there is one.
fn fits_a_body(batch: &[InHand]) -> usize {
    let mut bytes = 0;
    let fits = batch.iter().take_while(|b| {
        bytes += wire::FRAME_HEADER_BYTES + b.item.event.encoded_len();
        bytes <= wire::BODY_BYTES_MAX
    });
    fits.count().max(1).min(batch.len())
}

/// An event that the worker is sending, and when it took it.
struct InHand {
    item: Item,
    taken_us: i64,
}

impl Worker {
    /// Works until the queue is closed and empty, or the drain time is over.
    pub fn run(mut self) {
        let mut complaints =
            Complaints { not_now: Limiter::per_second(1), rejected: Limiter::per_second(5) };
        while let Some(batch) = self.collect() {
            self.deliver(batch, &mut complaints);
        }
        self.pulse.end();
    }

    /// The next batch; `None` when there will be none. Events of revoked partitions are dropped
    /// here, before anything of them is sent.
    fn collect(&mut self) -> Option<Vec<InHand>> {
        let (size, linger) = match self.mode {
            Mode::Single => (1, Duration::ZERO),
            Mode::Batch { size, linger } => (size, linger),
        };
        let mut batch = Vec::new();
        let mut full_at: Option<Instant> = None;
        while batch.len() < size {
            self.pulse.beat();
            let linger_left = |at: Instant| at.saturating_duration_since(Instant::now());
            match self.outlet.take(full_at.map_or(IDLE, linger_left).min(IDLE)) {
                Taken::Event(item) => {
                    if self.drain.is_over() || !item.holding.take_in_hand() {
                        self.metrics.returned.inc();
                        continue;
                    }
                    full_at.get_or_insert_with(|| Instant::now() + linger);
                    batch.push(InHand { item, taken_us: clock::now_us() });
                }
                Taken::Nothing if full_at.is_some_and(|at| at <= Instant::now()) => break,
                Taken::Nothing => {}
                Taken::Closed if batch.is_empty() => return None,
                Taken::Closed => break,
            }
        }
        Some(batch)
    }

    /// Sends a batch until each of its events is acked, invalid or given back.
    fn deliver(&mut self, mut batch: Vec<InHand>, complaints: &mut Complaints) {
        let mut backoff = Backoff::standard();
        let mut try_at_most = usize::MAX;
        while !batch.is_empty() {
            self.pulse.beat();
            batch.retain(|b| {
                let keep = !b.item.holding.is_revoked();
                if !keep {
                    self.metrics.returned.inc();
                    b.item.holding.put_down();
                }
                keep
            });
            let n = fits_a_body(&batch).min(try_at_most);
            if n == 0 {
                break;
            }
            let posted_us = clock::now_us();
            match self.post(batch.get(..n).unwrap_or(&batch)) {
                Posted::Acked(acked) => {
                    let acked_us = clock::now_us();
                    for done in batch.drain(..acked.min(n)) {
                        self.acked(&done, posted_us, acked_us);
                    }
                    let result = if acked >= n { "ok" } else { "partial" };
                    self.metrics.sink_calls.with_label_values(&[result]).inc();
                    try_at_most = usize::MAX;
                    if acked > 0 {
                        // A part is progress: the rest goes at once.
                        backoff.reset();
                    } else {
                        self.wait(&mut batch, backoff.wait());
                    }
                }
                Posted::Rejected { status, why } => {
                    self.metrics.sink_calls.with_label_values(&["rejected"]).inc();
                    if n > 1 {
                        // One bad event must not hold up the rest: halve until it stands alone.
                        try_at_most = n / 2;
                    } else {
                        try_at_most = usize::MAX;
                        self.rejected(&mut batch, status, &why, &mut complaints.rejected);
                    }
                }
                Posted::NotNow { after, why } => {
                    self.metrics.sink_calls.with_label_values(&["retried"]).inc();
                    let wait = after.unwrap_or_default().max(backoff.wait());
                    if let Some(suppressed) = complaints.not_now.allow() {
                        log::warn!(
                            why = why.as_str(), events = n, wait = crate::units::show(wait).as_str(),
                            lines_suppressed = suppressed; "sink does not take events, trying again"
                        );
                    }
                    self.wait(&mut batch, wait);
                }
            }
        }
    }

    fn post(&mut self, batch: &[InHand]) -> Posted {
        match (self.mode, batch) {
            (Mode::Single, [one]) => self.client.write(&one.item),
            _ => self.client.batch(batch.iter().map(|b| &b.item)),
        }
    }

    fn acked(&self, done: &InHand, posted_us: i64, acked_us: i64) {
        let item = &done.item;
        item.holding.settle(item.offset);
        self.metrics.acked.inc();
        let latency_us = acked_us.saturating_sub(item.event.ts_us).max(0);
        self.metrics.end_to_end.observe(latency_us as f64 / 1e6);
        self.latency.record(&StageTimes {
            due_us: item.event.ts_us,
            fetched_us: item.fetched_us,
            taken_us: done.taken_us,
            posted_us,
            acked_us,
        });
    }

    /// The first event is one that the sink will never take: counted, and out of the way.
    fn rejected(&self, batch: &mut Vec<InHand>, status: u16, why: &str, lines: &mut Limiter) {
        let InHand { item, .. } = batch.remove(0);
        let reason = if status == 413 { "sink_413" } else { "sink_400" };
        self.metrics.invalid.with_label_values(&[reason]).inc();
        if let Some(suppressed) = lines.allow() {
            log::error!(
                partition = item.holding.partition, offset = item.offset, id = item.event.id,
                status = status, why = why, lines_suppressed = suppressed;
                "sink rejects the event, counted as invalid"
            );
        }
        item.holding.settle(item.offset);
    }

    /// Waits before the next try. When the run stops and the drain time is over, the batch goes
    /// back to the log.
    fn wait(&self, batch: &mut Vec<InHand>, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.pulse.beat();
            if self.drain.is_over() {
                for given_up in batch.drain(..) {
                    self.metrics.returned.inc();
                    given_up.item.holding.put_down();
                }
                return;
            }
            if batch.iter().any(|b| b.item.holding.is_revoked()) {
                return;
            }
            let rest = until.saturating_duration_since(Instant::now()).min(IDLE);
            // A set stop signal would end the wait at once; while draining, the backoff still holds.
            if self.stop.is_set() {
                std::thread::sleep(rest);
            } else {
                self.stop.wait(rest);
            }
        }
    }
}
