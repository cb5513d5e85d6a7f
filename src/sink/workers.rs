//! The threads that dequeue runs, batch their events, post them and wait for the ack.
//!
//! Invariant: an event that a worker took ends as acked, invalid, shed, or returned to the log; a worker
//! gives up an event only when its partition was revoked or the drain time is over. Retries never
//! touch the group's poll clock: that is the member's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::local::LocalHistogram;

use super::aside::{ALONE, Aside, Posting};
use super::client::Client;
use super::drain::Drain;
use super::fate::{NotNow, Posted, TOO_LARGE, Trouble};
use super::pace::Place;
use super::refusals::{CONNECTIONS, Refusals, Suspects};
use super::sizing::{Sizer, Sizing};
use super::timely::Timely;
use super::window::Window;
use crate::clock;
use crate::logging::Limiter;
use crate::policy::credit::Settled;
use crate::policy::shed::Shedder;
use crate::queue::{Dequeued, Outlet};
use crate::source::Run;
use crate::telemetry::latency::{Passed, Recorder};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::{Pulse, Stop};

/// How events travel to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One event a call.
    Single,
    /// Several events a call; the first waits at most `linger` for company.
    Batch {
        /// How many.
        sizing: Sizing,
        /// Longest wait of the first event.
        linger: Duration,
    },
}

impl Mode {
    /// How many events a call may carry.
    pub fn sizing(self) -> Sizing {
        match self {
            Self::Single => Sizing::Fixed(1),
            Self::Batch { sizing, .. } => sizing,
        }
    }

    /// Most events of a call.
    pub fn events_max(self) -> usize {
        self.sizing().events_max()
    }

    fn linger(self) -> Duration {
        match self {
            Self::Single => Duration::ZERO,
            Self::Batch { linger, .. } => linger,
        }
    }
}

/// How long an idle worker waits before its next sign of life.
const IDLE: Duration = Duration::from_millis(100);

/// So many times in a row a batch is sent again whole, though the sink fails.
const NOT_TAKEN_MAX: u32 = 3;

/// The parts of a worker.
pub struct Parts {
    /// Its end of the queue.
    pub outlet: Outlet<Box<Run>>,
    /// Its client of the sink.
    pub client: Client,
    /// How they travel.
    pub mode: Mode,
    /// How many of them share a call, shared by all workers.
    pub sizer: Arc<Sizer>,
    /// Longest call.
    pub timeout: Duration,
    /// The run's stop signal.
    pub stop: Stop,
    /// When to give up after a stop.
    pub drain: Drain,
    /// This worker's sign of life.
    pub pulse: Pulse,
    /// This worker's place in the order in which calls begin.
    pub place: Place,
    /// The refused events of this worker.
    pub suspects: Suspects,
    /// The sink's refusals, shared by all workers.
    pub refusals: Arc<Refusals>,
    /// Whether an event that the sink fails for may be overtaken.
    pub sets_aside: bool,
    /// Which events come too late, and of which class they are.
    pub shedder: Arc<Shedder>,
    /// Where acked events are counted for the producer's credit.
    pub settled: Settled,
    /// What is counted.
    pub metrics: ProcessorMetrics,
    /// Where latencies go.
    pub latency: Recorder,
}

/// One worker.
pub struct Worker {
    parts: Parts,
    posting: Posting,
    aside: Aside,
    /// Events with which the batch in the making is full, and the most that are posted of it.
    full: usize,
    posted_max: usize,
    timely: Timely,
    end_to_end: LocalHistogram,
    complaints: Limiter,
}

impl Worker {
    /// A worker without events.
    pub fn new(parts: Parts) -> Self {
        let end_to_end = parts.metrics.end_to_end.local();
        Self {
            posting: Posting::default(),
            aside: Aside::new(parts.metrics.clone()),
            full: 1,
            posted_max: 1,
            timely: Timely::default(),
            end_to_end,
            complaints: Limiter::per_second(1),
            parts,
        }
    }

    /// Works until the queue is closed and empty, or the drain time is over.
    pub fn run(mut self) {
        while self.fill() {
            self.post();
            self.try_aside();
            self.parts.suspects.resolve();
        }
        self.aside.release();
        self.parts.suspects.release();
        self.parts.pulse.end();
    }

    /// Dequeues runs until a batch is full, or its first event has waited for its linger. False
    /// when there will be none. Events of revoked partitions are released here, before any of them
    /// is sent.
    fn fill(&mut self) -> bool {
        let linger = self.parts.mode.linger();
        (self.full, self.posted_max) = self.parts.sizer.full();
        self.parts.metrics.batch_limit.set(self.full as i64);
        loop {
            self.parts.pulse.beat();
            if self.is_over() {
                self.returned(Window::release_all);
            }
            let held = self.posting.window.events();
            let hurries = self.parts.drain.takes_no_more() || self.posting.window.is_revoked();
            if held >= self.full || (held > 0 && hurries) {
                return true;
            }
            if self.parts.suspects.are_many() && !hurries && !self.is_over() {
                if held > 0 {
                    return true;
                }
                self.wait(IDLE);
                continue;
            }
            let left = self
                .posting
                .window
                .oldest()
                .map(|at| (at + linger).saturating_duration_since(Instant::now()));
            match self.parts.outlet.dequeue(left.unwrap_or(IDLE).min(IDLE)) {
                Dequeued::Run(run) => self.take(run),
                Dequeued::Nothing if left.is_some_and(|left| left <= IDLE) => return true,
                Dequeued::Nothing => {
                    self.try_aside();
                    self.parts.suspects.resolve();
                }
                Dequeued::Closed => return self.posting.window.events() > 0,
            }
        }
    }

    /// Whether the remaining events go back to the log.
    fn is_over(&self) -> bool {
        self.parts.drain.is_over() || self.parts.refusals.are_too_many()
    }

    fn take(&mut self, mut run: Box<Run>) {
        let is_late = self.is_over() || self.parts.drain.takes_no_more();
        if is_late || !run.assigned.acquire() {
            self.parts.metrics.returned.inc_by(run.returns(0..run.len()) as u64);
            return;
        }
        if self.parts.shedder.shed_if_too_late(&run) {
            run.assigned.release();
            return;
        }
        run.transform();
        self.posting.window.push(run, Instant::now());
    }

    fn returned(&mut self, release: impl FnOnce(&mut Window) -> usize) -> usize {
        let events = release(&mut self.posting.window);
        self.parts.metrics.returned.inc_by(events as u64);
        events
    }

    /// Makes one call of the sink, and handles its answer.
    fn post(&mut self) {
        self.parts.pulse.beat();
        if self.returned(Window::release_revoked) > 0 {
            (self.posting.connections, self.posting.alone) = (0, 0);
        }
        let most = self.posted_max.min(self.posting.refused_max).min(self.timely.most());
        let events = self.posting.window.fits_a_body(most.max(1));
        if events == 0 {
            self.parts.place.leave();
            return;
        }
        if !self.parts.place.may_call(events, IDLE) {
            return;
        }
        let begun = Instant::now();
        let is_aside = self.posting.is_aside();
        if !is_aside {
            self.parts.sizer.posted(events);
        }
        let answer = match self.parts.mode {
            Mode::Single => self.parts.client.write(self.posting.window.value()),
            Mode::Batch { .. } => {
                self.parts.client.batch(self.posting.window.frames(events), events)
            }
        };
        let told = self.parts.place.ended(&answer.outcome());
        let posted = answer.posted;
        let is_up = match &posted {
            Posted::Acked(acked) => *acked > 0,
            Posted::Refused { .. } => true,
            Posted::NotNow(why) => matches!(why.trouble, Trouble::Limit | Trouble::Closed),
        };
        self.parts.metrics.sink_up.set(i64::from(is_up));
        let acked = if let Posted::Acked(acked) = &posted { *acked } else { 0 };
        if !is_aside {
            self.parts.sizer.answered(events, acked, begun);
        }
        match posted {
            Posted::Acked(acked) => self.acked(acked, events, begun),
            Posted::Refused { status, why } => self.refused(events, status, why),
            Posted::NotNow(not_now) => self.not_now(&not_now, events, begun, told),
        }
    }

    /// Tries an event that was set aside, if it is time.
    fn try_aside(&mut self) {
        if self.is_over() || self.parts.drain.takes_no_more() {
            return;
        }
        let Some(aside) = self.aside.due() else { return };
        let own = std::mem::replace(&mut self.posting, aside);
        self.post();
        let tried = std::mem::replace(&mut self.posting, own);
        if self.aside.back(tried) {
            self.parts.place.leave();
        }
    }

    /// The sink failed for one event alone. True when it is set aside.
    fn failed_alone(&mut self) -> bool {
        self.posting.alone += 1;
        let sets = self.parts.sets_aside
            && self.posting.alone >= ALONE
            && !self.posting.is_aside()
            && self.aside.takes_another(self.parts.refusals.last_taken());
        if sets {
            self.aside.set(&mut self.posting);
            // The next batch is another.
            self.parts.place.leave();
        }
        sets
    }

    fn acked(&mut self, acked: usize, events: usize, posted: Instant) {
        let now = Instant::now();
        let (posted_us, acked_us) = (clock::at_us(posted), clock::at_us(now));
        let (latency, end_to_end) = (&self.parts.latency, &self.end_to_end);
        let (metrics, classes) = (&self.parts.metrics, self.parts.shedder.classes);
        let mut book = self.parts.settled.lock();
        self.posting.window.ack(acked, |run, some, taken| {
            if let Some(book) = &mut book {
                let heads = some.clone().map(|n| run.head(n));
                heads.for_each(|head| book.settle(head.id, head.ts_us));
            }
            let passed = Passed {
                fetched_us: run.fetched_us,
                taken_us: clock::at_us(taken),
                posted_us,
                acked_us,
            };
            let due = some.map(|n| {
                let head = run.head(n);
                (head.ts_us, classes.is_high(head.id))
            });
            let skewed = latency.record(&passed, due, |end_to_end_us| {
                end_to_end.observe(end_to_end_us as f64 / 1e6);
            });
            metrics.clock_ahead.inc_by(skewed.ahead);
            metrics.latency_beyond.inc_by(skewed.beyond);
        });
        drop(book);
        self.end_to_end.flush();
        self.parts.metrics.acked.inc_by(acked as u64);
        let result = if acked >= events { "ok" } else { "partial" };
        self.parts.metrics.sink_calls.with_label_values(&[result]).inc();
        self.parts.shedder.acked(acked);
        self.parts.refusals.taken(acked, posted);
        self.posting.cut = 0;
        let is_fast = now.duration_since(posted) < self.parts.timeout / 4;
        if !self.posting.is_aside() {
            self.timely.went_through(events, is_fast, self.parts.mode.events_max(), now);
        }
        if acked > 0 {
            (self.posting.refused_max, self.posting.not_taken) = (usize::MAX, 0);
            (self.posting.connections, self.posting.endless, self.posting.alone) = (0, 0, 0);
            // A partial ack is progress: the rest is sent at once.
            self.posting.backoff.reset();
        } else {
            self.not_taken(events);
            if events == 1 && self.failed_alone() {
                return;
            }
            let wait = self.posting.wait(posted, self.parts.refusals.last_taken());
            if let Some(suppressed) = self.complaints.allow() {
                log::warn!(
                    events = events, wait = crate::units::show(wait).as_str(), lines_suppressed = suppressed;
                    "the sink acks nothing of a call, trying again"
                );
            }
            self.pause(wait);
        }
    }

    fn refused(&mut self, events: usize, status: u16, why: String) {
        self.parts.metrics.sink_calls.with_label_values(&["rejected"]).inc();
        if events > 1 {
            // One bad event must not delay the rest: halve until it is alone.
            self.posting.refused_max = events / 2;
            if status == TOO_LARGE {
                // The next batch would be as well.
                self.timely.failed(events, Instant::now());
            }
            if let Some(suppressed) = self.complaints.allow() {
                log::warn!(
                    status = status, events = events, why = why.as_str(), lines_suppressed = suppressed;
                    "sink refuses the batch, halving it"
                );
            }
            return;
        }
        if self.posting.connections + 1 < CONNECTIONS {
            // Perhaps it is this connection's server alone.
            (self.posting.refused_max, self.posting.connections) =
                (1, self.posting.connections + 1);
            self.parts.client.reconnect();
            return;
        }
        (self.posting.refused_max, self.posting.connections) = (usize::MAX, 0);
        self.posting.alone = 0;
        if let Some(single) = self.posting.window.take_first() {
            self.parts.suspects.refused(single, status, why);
        }
    }

    /// A sink that fails over and over for one event of a batch must not fail for those before it: halve until it is alone.
    fn not_taken(&mut self, events: usize) {
        self.posting.not_taken += 1;
        if self.posting.not_taken >= NOT_TAKEN_MAX {
            self.posting.refused_max = (events / 2).max(1);
        }
    }

    /// The events are sent again, `told` when; else when the sink says, or after the worker's own backoff.
    fn not_now(
        &mut self,
        not_now: &NotNow,
        events: usize,
        posted: Instant,
        told: Option<Duration>,
    ) {
        let NotNow { trouble, after, why } = not_now;
        self.parts.metrics.sink_calls.with_label_values(&["retried"]).inc();
        self.posting.cut = if *trouble == Trouble::Cut { self.posting.cut + 1 } else { 0 };
        // A batch that outlasts its time is not sent again whole; nor is one that is cut off twice:
        // some balancers silently drop what is too large.
        let is_aside = self.posting.is_aside();
        if !is_aside && (*trouble == Trouble::Slow || self.posting.cut > 1) {
            self.timely.failed(events, Instant::now());
        }
        if *trouble == Trouble::Other {
            self.not_taken(events);
        }
        self.posting.endless =
            if *trouble == Trouble::Endless { self.posting.endless + 1 } else { 0 };
        if self.posting.endless >= CONNECTIONS {
            // However often it is asked: this is how it answers.
            self.parts.suspects.give_up_the_sink(why);
            return;
        }
        let is_perhaps_its_own =
            matches!(trouble, Trouble::Other | Trouble::Slow | Trouble::Cut) && events == 1;
        let said = told.or(*after);
        if is_perhaps_its_own && self.failed_alone() {
            self.wait(said.unwrap_or_default());
            return;
        }
        // A limit's own time is obeyed exactly: a worker that waits longer loses its turn.
        let taken = self.parts.refusals.last_taken();
        let wait = said.unwrap_or_else(|| self.posting.wait(posted, taken));
        if let Some(suppressed) = self.complaints.allow() {
            log::warn!(
                why = why.as_str(), events = events, wait = crate::units::show(wait).as_str(),
                lines_suppressed = suppressed; "sink does not take events, trying again"
            );
        }
        self.pause(wait);
    }

    /// Lets `time` pass before the next try. Nobody waits for an event that was set aside.
    fn pause(&mut self, time: Duration) {
        if self.posting.is_aside() { self.posting.again_after(time) } else { self.wait(time) }
    }

    /// Waits before the next try, and ends early when there is nothing to try.
    fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.parts.pulse.beat();
            if self.is_over() || self.posting.window.is_revoked() {
                return;
            }
            self.parts.suspects.resolve();
            let rest = until.saturating_duration_since(Instant::now()).min(IDLE);
            // A set stop signal would end the wait at once; while draining, the backoff still holds.
            if self.parts.stop.is_set() {
                std::thread::sleep(rest);
            } else {
                self.parts.stop.wait(rest);
            }
        }
    }
}
