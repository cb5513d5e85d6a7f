//! What a worker posts, and the events that it set aside: the sink fails for them over and over, and may take others.
//!
//! A 5xx, a cut connection, or no answer in time may be cured by waiting, so such an event is never given up; nor may it
//! hold up what comes after it. Its offset stays open, so nothing above it is committed, and a restart delivers again
//! what came after it: that is its cost.
//!
//! Invariant: an event is set aside only after [`ALONE`] calls in a row that failed with it alone, and only while the sink took
//! another since the worker last set one aside. So of a sink that is down, each worker has one aside, not a topic's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::window::Window;
use crate::backoff::Backoff;
use crate::source::{Assigned, Run};
use crate::telemetry::metrics::ProcessorMetrics;

/// Calls in a row that fail with one event alone.
pub(super) const ALONE: u32 = 3;
/// Most events that a worker has aside.
const ASIDE_MAX: usize = 100;
/// The waits between two calls of an event that is aside.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The events that a worker posts, in order, and how the calls with the first of them went.
pub(super) struct Posting {
    pub window: Window,
    pub backoff: Backoff,
    /// Most events of a call while one of them is refused: halved until that one is alone.
    pub refused_max: usize,
    /// Calls in a row that were cut off, and that the sink did not take for another reason than its limit.
    pub cut: u32,
    pub not_taken: u32,
    /// Those of them with one event alone.
    pub alone: u32,
    /// Connections that refused the first event alone, and that ended in a row with an answer that names no end.
    pub connections: u32,
    pub endless: u32,
    aside: Option<Times>,
}

/// Of an event that was set aside.
struct Times {
    /// When it was.
    since: Instant,
    /// When it was last tried.
    tried: Instant,
    /// When it is tried again.
    due: Instant,
    /// Its partition.
    assigned: Arc<Assigned>,
}

impl Default for Posting {
    fn default() -> Self {
        Self {
            window: Window::default(),
            backoff: Backoff::standard(),
            refused_max: usize::MAX,
            cut: 0,
            not_taken: 0,
            alone: 0,
            connections: 0,
            endless: 0,
            aside: None,
        }
    }
}

impl Posting {
    /// Whether it is an event that was set aside.
    pub fn is_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// An event that was set aside is tried again after `wait`.
    pub fn again_after(&mut self, wait: Duration) {
        if let Some(times) = &mut self.aside {
            times.due = Instant::now() + wait;
        }
    }

    /// The wait after a call that began at `posted`, where the sink last took events of one that began at `taken`. That of
    /// an event set aside grows only while the sink takes others: after an outage its turn comes soon.
    pub fn wait(&mut self, posted: Instant, taken: Option<Instant>) -> Duration {
        if let Some(times) = &mut self.aside {
            if taken < Some(times.tried) {
                self.backoff.reset();
            }
            times.tried = posted;
        }
        self.backoff.wait()
    }
}

/// The events that a worker set aside.
pub(super) struct Aside {
    events: Vec<(Box<Run>, Instant, Posting)>,
    metrics: ProcessorMetrics,
}

impl Aside {
    /// None yet.
    pub fn new(metrics: ProcessorMetrics) -> Self {
        Self { events: Vec::new(), metrics }
    }

    /// Whether one more may be set aside, where the sink last took events of a call that began at `taken`.
    pub fn takes_another(&self, taken: Option<Instant>) -> bool {
        let times = self.events.iter().filter_map(|(_, _, posting)| posting.aside.as_ref());
        let since = times.map(|times| times.since).max();
        self.events.len() < ASIDE_MAX && since.is_none_or(|since| taken >= Some(since))
    }

    /// Sets the first event of `from` aside.
    pub fn set(&mut self, from: &mut Posting) {
        let Some((run, at)) = from.window.take_first_run() else { return };
        log::warn!(
            partition = run.assigned.partition, offset = run.offsets(0..1).next(), id = run.head(0).id;
            "the sink fails for the event over and over: it is set aside, and tried again by itself"
        );
        (from.alone, from.not_taken, from.cut, from.refused_max) = (0, 0, 0, usize::MAX);
        from.backoff.reset();
        let mut posting =
            Posting { backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), ..Posting::default() };
        let (now, assigned) = (Instant::now(), Arc::clone(&run.assigned));
        let due = now + posting.backoff.wait();
        assigned.set_aside();
        self.metrics.aside.inc();
        posting.aside = Some(Times { since: now, tried: now, due, assigned });
        self.events.push((run, at, posting));
    }

    /// One whose time it is, in flight, for [`Aside::back`]; events of revoked partitions go back to the log.
    pub fn due(&mut self) -> Option<Posting> {
        let now = Instant::now();
        loop {
            let is_due =
                |posting: &Posting| posting.aside.as_ref().is_some_and(|times| times.due <= now);
            let n = self
                .events
                .iter()
                .position(|(run, _, posting)| is_due(posting) || run.assigned.is_revoked())?;
            let (run, at, mut posting) = self.events.swap_remove(n);
            if run.assigned.acquire() {
                posting.window.push(run, at);
                return Some(posting);
            }
            self.metrics.returned.inc_by(run.returns(0..1) as u64);
            self.is_gone(&run.assigned);
        }
    }

    /// The event was tried. True when it is still there.
    pub fn back(&mut self, mut posting: Posting) -> bool {
        if let Some((run, at)) = posting.window.take_first_run() {
            self.events.push((run, at, posting));
            return true;
        }
        if let Some(times) = &posting.aside {
            self.is_gone(&times.assigned);
        }
        false
    }

    fn is_gone(&self, assigned: &Assigned) {
        assigned.take_back();
        self.metrics.aside.dec();
    }

    /// They go back to the log.
    pub fn release(&mut self) {
        for (run, _, _) in std::mem::take(&mut self.events) {
            self.metrics.returned.inc_by(run.returns(0..1) as u64);
            self.is_gone(&run.assigned);
        }
    }
}
