//! Holds a request until its tokens are there: the one place where the bucket, the clock and the
//! faults meet, under one small mutex.
//!
//! Invariant: a thread that takes the lock first applies the rate changes that are due, each at its
//! own instant, so a late thread changes no rate. A change wakes all waiting requests to plan anew.
//! A request that is released without its tokens is never acked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::bucket::{Due, Place};
use super::buckets::{Buckets, Per};
use super::control::{Change, Command, Control, Costs, Failing, Scheduled, Status};
use super::quota;
use crate::telemetry::metrics::SinkMetrics;

/// The wait that a refused request is told when the time of its tokens is unknown; and the longest
/// wait during a fault, which chaos may end at any time.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);

/// What happens to a request without tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// It waits: costs its caller time and a connection.
    Delay,
    /// It is answered 429 with the time to wait: costs its caller another call.
    Reject,
}

impl std::str::FromStr for OnLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "delay" => Ok(Self::Delay),
            "reject" => Ok(Self::Reject),
            _ => Err("expected delay or reject"),
        }
    }
}

/// The cost of a request and its longest time.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Tokens of a call.
    pub costs: Costs,
    /// What happens at the limit.
    pub on_limit: OnLimit,
    /// Whose limit it is.
    pub per: Per,
    /// The time of each call besides its wait for tokens.
    pub latency: Duration,
    /// Requests that may be inside at once, for their tokens or their latency; one more is refused as busy.
    pub waiting_max: usize,
}

/// Why a request was released without its tokens, and when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The limit is reached and the sink rejects.
    Limit(Duration),
    /// Too many requests are inside.
    Busy(Duration),
    /// The sink stops.
    Stopping,
}

/// See the module.
pub struct Gate {
    terms: Terms,
    metrics: SinkMetrics,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    buckets: Buckets,
    control: Control,
    /// Requests inside.
    inside: usize,
    /// Those of them that wait for their tokens.
    waiting: usize,
    closed: bool,
}

type Guard<'a> = MutexGuard<'a, State>;

impl Gate {
    /// A gate of `rate` tokens/s from `now`, with buckets as in [`Buckets::new`].
    pub fn new(
        terms: Terms,
        rate: f64,
        burst: Option<f64>,
        stall: Option<Scheduled>,
        metrics: SinkMetrics,
        now: Instant,
    ) -> Self {
        let buckets = Buckets::new(terms.per, rate, burst, now);
        let control = Control::new(rate, stall);
        metrics.rate_limit.set(rate);
        let state = Mutex::new(State { buckets, control, inside: 0, waiting: 0, closed: false });
        Self { terms, metrics, state, changed: Condvar::new() }
    }

    /// Waits until a request of `events` events on `peer`'s connection is served: its tokens paid, its latency over.
    ///
    /// # Errors
    /// [`Refusal`]: it was not served and must not be acked.
    pub fn pass(&self, events: usize, peer: Option<SocketAddr>) -> Result<(), Refusal> {
        let cost = self.terms.costs.of(events);
        let (mut state, now) = self.lock();
        if state.closed {
            return Err(Refusal::Stopping);
        }
        if state.inside >= self.terms.waiting_max {
            // They leave one after the other until all are served: a place is free after about
            // its share of that time.
            let share = |time: Duration| time.div_f64(self.terms.waiting_max as f64);
            let again = match state.buckets.of(peer, now).drained(now) {
                Due::Now => share(RETRY_UNKNOWN),
                Due::At(at) => state.wait_for(Due::At(now + share(at - now)), now),
                Due::Unknown => RETRY_UNKNOWN,
            };
            return Err(Refusal::Busy(again));
        }
        let place = match self.terms.on_limit {
            OnLimit::Delay => state.buckets.of(peer, now).claim(cost, now),
            OnLimit::Reject => match state.buckets.of(peer, now).try_claim(cost, now) {
                Ok(place) => place,
                Err(due) => return Err(Refusal::Limit(state.wait_for(due, now))),
            },
        };
        let is_paid = state.buckets.of(peer, now).due(place, now) == Due::Now;
        if is_paid && self.terms.latency.is_zero() {
            return Ok(());
        }
        state.inside += 1;
        let mut served = Ok(());
        if !is_paid {
            state.buckets.waits(peer);
            state.waiting += 1;
            self.metrics.waiting.set(state.waiting as i64);
            served = self.wait_for_tokens(&mut state, place, peer);
            state.buckets.waits_no_more(peer);
            state.waiting -= 1;
            self.metrics.waiting.set(state.waiting as i64);
        }
        let served = served.and_then(|()| self.wait_latency(&mut state));
        state.inside -= 1;
        served
    }

    fn wait_for_tokens(
        &self,
        state: &mut Guard<'_>,
        place: Place,
        peer: Option<SocketAddr>,
    ) -> Result<(), Refusal> {
        loop {
            let now = Instant::now();
            self.apply_due(state, now);
            match state.buckets.of(peer, now).due(place, now) {
                Due::Now => return Ok(()),
                _ if state.closed => return Err(Refusal::Stopping),
                Due::At(at) => drop(self.changed.wait_until(state, at)),
                Due::Unknown => self.changed.wait(state),
            }
        }
    }

    fn wait_latency(&self, state: &mut Guard<'_>) -> Result<(), Refusal> {
        let over = Instant::now() + self.terms.latency;
        while Instant::now() < over {
            if state.closed {
                return Err(Refusal::Stopping);
            }
            self.changed.wait_until(state, over);
        }
        Ok(())
    }

    /// How requests fail now, if they do.
    pub fn failing(&self) -> Option<Failing> {
        self.lock().0.control.failing()
    }

    /// Applies a command of chaos, and returns the status after it.
    ///
    /// # Errors
    /// As [`Control::apply`].
    pub fn command(&self, command: &Command) -> Result<Status, String> {
        let (mut state, now) = self.lock();
        let change = state.control.apply(command, now)?;
        self.enact(&mut state, change);
        Ok(self.status_of(&state, now))
    }

    /// The limit and what is left of it, for a sink that refuses; one that waits enforces it by itself.
    pub fn quota(&self, peer: Option<SocketAddr>) -> Option<quota::Now> {
        if self.terms.on_limit != OnLimit::Reject {
            return None;
        }
        let (mut state, now) = self.lock();
        let bucket = state.buckets.of(peer, now);
        let policy = quota::Policy {
            rate: bucket.rate(),
            burst: Some(bucket.burst()),
            costs: self.terms.costs,
        };
        Some(quota::Now { policy, level: bucket.level(now) })
    }

    /// The current status.
    pub fn status(&self) -> Status {
        let (state, now) = self.lock();
        self.status_of(&state, now)
    }

    fn status_of(&self, state: &State, now: Instant) -> Status {
        Status {
            rejects: self.terms.on_limit == OnLimit::Reject,
            per_connection: self.terms.per == Per::Connection,
            ..state.control.status(now, self.terms.costs, state.waiting)
        }
    }

    /// Applies scheduled changes when they are due, until the gate is closed.
    pub fn keep_time(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            self.apply_due(&mut state, Instant::now());
            match state.control.next_change() {
                Some(at) => drop(self.changed.wait_until(&mut state, at)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Releases all waiting requests unserved, and all later ones.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// The state with every due change applied, and the time of that.
    fn lock(&self) -> (Guard<'_>, Instant) {
        let mut state = self.state.lock();
        let now = Instant::now();
        self.apply_due(&mut state, now);
        (state, now)
    }

    fn apply_due(&self, state: &mut State, now: Instant) {
        while let Some(change) = state.control.advance(now) {
            self.enact(state, change);
        }
    }

    fn enact(&self, state: &mut State, change: Change) {
        state.buckets.set_rate(change.rate, change.at);
        self.metrics.rate_limit.set(change.rate);
        self.changed.notify_all();
        log::info!(rate = change.rate, waiting = state.waiting; "{}", change.what);
    }
}

impl State {
    /// How long to stay away if the tokens come at `due`.
    fn wait_for(&self, due: Due, now: Instant) -> Duration {
        match due {
            Due::At(at) if self.control.is_disturbed() => (at - now).min(RETRY_UNKNOWN),
            Due::At(at) => at - now,
            Due::Now | Due::Unknown => RETRY_UNKNOWN,
        }
    }
}
