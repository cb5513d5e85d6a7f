//! When the next call of a sink may begin: what a client does about a rate limit that refuses (429).
//!
//! - here          `Pace`, and the order of the batches that wait
//! - `place`       a worker's place in it
//! - `line`        the sink's own time: after a 429 one call at a time, whoever waits longest first
//! - `headers`     our client: a rate, as the sink's `RateLimit` headers give it
//! - `blind`       our client without headers: a rate, found by what the sink takes between two refusals
//! - `retry_after` the standard to the letter: nothing is sent for whole seconds
//! - `cubic`       a rate: AWS SDK's adaptive retry mode
//! - `concurrency` a number of calls, by one of three rules: `aimd`, `vegas`, `gradient2` (Netflix)
//! - `arc`         a number of calls: Vector's adaptive request concurrency, before and after its correction
//!
//! A rate is the knob that a rate limit asks for; a number of calls is the wrong one. Experiment 13 shows both.
//!
//! Invariant: batches begin in the order in which they first asked (`line`: in which they were refused), so none
//! starves while the knob lets any pass. Time and chance are passed in: the same code runs in simulated time
//! (`lab/paced.rs`).

mod aimd;
mod arc;
mod blind;
mod concurrency;
mod cubic;
mod gradient2;
mod headers;
mod line;
mod place;
mod retry_after;
mod vegas;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::quota::Quota;
use crate::units;
pub use place::{Place, Throttle};

/// What a client does about a rate limit; see the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// After a 429 one call at a time, when the sink says. Costs a call for each one that is served, and the sink's
    /// concurrency.
    #[default]
    Line,
    /// Calls at the rate of the `RateLimit` headers; without headers as `Blind`.
    Headers,
    /// Calls at a rate that is found without headers. Costs a refusal now and then, by which it is found.
    Blind,
    /// After a 429 no call for whole seconds. Costs nearly all of the rate.
    RetryAfter,
    /// Calls at a rate, by CUBIC.
    Cubic,
    /// So many calls at once, one more for each that is served, a tenth fewer for each that is not.
    Aimd,
    /// So many calls at once, by the round trip against the shortest.
    Vegas,
    /// So many calls at once, by the round trip against its average; refusals do not count.
    Gradient2,
    /// So many batches at once, by the time until they are served, retries included.
    Arc,
    /// The same, by the time and the refusals of each call.
    ArcFixed,
}

impl Pace {
    /// All, in the order of the help.
    pub const ALL: [Self; 10] = [
        Self::Line,
        Self::Headers,
        Self::Blind,
        Self::RetryAfter,
        Self::Cubic,
        Self::Aimd,
        Self::Vegas,
        Self::Gradient2,
        Self::Arc,
        Self::ArcFixed,
    ];

    /// Its name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Headers => "headers",
            Self::Blind => "blind",
            Self::RetryAfter => "retry-after",
            Self::Cubic => "cubic",
            Self::Aimd => "aimd",
            Self::Vegas => "vegas",
            Self::Gradient2 => "gradient2",
            Self::Arc => "arc",
            Self::ArcFixed => "arc-fixed",
        }
    }

    /// By its name in flags.
    ///
    /// # Errors
    /// Says which there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        units::one_of(text, &Self::ALL.map(|pace| (pace.name(), pace)))
    }

    fn knob(self, now: Instant) -> Box<dyn Knob> {
        match self {
            Self::Line => Box::new(line::Line::default()),
            Self::Headers => Box::new(headers::Headers::new(now)),
            Self::Blind => Box::new(blind::Blind::new(now)),
            Self::RetryAfter => Box::new(retry_after::RetryAfter::default()),
            Self::Cubic => Box::new(cubic::Cubic::new(now)),
            Self::Aimd => Box::new(concurrency::Concurrency::new(aimd::Aimd::default())),
            Self::Vegas => Box::new(concurrency::Concurrency::new(vegas::Vegas::default())),
            Self::Gradient2 => {
                Box::new(concurrency::Concurrency::new(gradient2::Gradient2::default()))
            }
            Self::Arc => Box::new(arc::Arc::new(arc::Measured::Sequence, now)),
            Self::ArcFixed => Box::new(arc::Arc::new(arc::Measured::Call, now)),
        }
    }
}

/// A call, as it begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Call {
    /// Whose.
    pub worker: usize,
    /// Events in it.
    pub events: usize,
    /// Earlier calls of the same batch, none of which was answered for good.
    pub retries: u32,
    /// When the first of them began.
    pub first: Instant,
    /// When this one begins.
    pub begun: Instant,
    /// Calls that run then, with this one.
    pub in_flight: usize,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The sink took events.
    Acked,
    /// The sink's rate limit refused it (429).
    Limited,
    /// It is to be tried again for another reason.
    Failed,
    /// The sink will never take it.
    Rejected,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// How the call ended.
    pub ended: Ended,
    /// The sink's limit, where it says so.
    pub quota: Quota,
    /// How long the sink asks to wait, to the millisecond where it says so.
    pub after: Option<Duration>,
    /// The same by the standard's header alone, in whole seconds.
    pub after_seconds: Option<Duration>,
}

impl Outcome {
    /// An answer without any header.
    pub fn bare(ended: Ended) -> Self {
        Self { ended, quota: Quota::default(), after: None, after_seconds: None }
    }
}

/// Whether a call may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Now; it counts as begun.
    Go,
    /// At this instant, unless an answer changes that.
    At(Instant),
    /// Not before another call ends.
    Later,
}

/// When a batch that was not served may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// After this time at the earliest, and it keeps its place in the order.
    InOrder(Duration),
    /// After this time at the earliest; those behind it may pass.
    Aside(Duration),
    /// When the sink says; if it does not, after the worker's own backoff. Those behind it may pass.
    AsTold,
}

/// What decides when the next call begins.
trait Knob: Send {
    /// Whether this call may begin, which is the oldest that asks.
    fn begin(&mut self, call: &Call) -> Verdict;

    /// A call ended. `chance` is uniform in 0 to 1.
    fn ended(&mut self, call: &Call, outcome: &Outcome, now: Instant, chance: f64) -> Again;

    /// A worker gives up its batch; `retries` as in its next call.
    fn left(&mut self, _worker: usize, _retries: u32) {}

    /// Whether this call waits for those that asked before it.
    fn is_in_order(&self, _call: &Call) -> bool {
        true
    }

    /// Who is next by the knob's own order, where it has one.
    fn front(&self) -> Option<usize> {
        None
    }
}

/// A worker's batch.
#[derive(Debug, Clone, Copy, Default)]
struct Batch {
    /// When it first asked.
    since: Option<Instant>,
    /// When its first call began.
    first: Option<Instant>,
    retries: u32,
    running: Option<Call>,
}

/// Which calls run and which batches wait, in which order.
pub struct Order {
    knob: Box<dyn Knob>,
    batches: Vec<Batch>,
    waiting: BTreeSet<(Instant, usize)>,
    in_flight: usize,
}

impl Order {
    /// Of `workers`, none of which has a batch.
    pub fn new(pace: Pace, workers: usize, now: Instant) -> Self {
        Self {
            knob: pace.knob(now),
            batches: vec![Batch::default(); workers],
            waiting: BTreeSet::new(),
            in_flight: 0,
        }
    }

    /// Whether `worker` may begin a call of `events` now.
    pub fn may_begin(&mut self, worker: usize, events: usize, now: Instant) -> Verdict {
        let Some(batch) = self.batches.get_mut(worker) else { return Verdict::Later };
        let since = *batch.since.get_or_insert(now);
        let call = Call {
            worker,
            events,
            retries: batch.retries,
            first: batch.first.unwrap_or(now),
            begun: now,
            in_flight: self.in_flight + 1,
        };
        if self.knob.is_in_order(&call) {
            self.waiting.insert((since, worker));
            if self.waiting.first() != Some(&(since, worker)) {
                return Verdict::Later;
            }
        }
        let verdict = self.knob.begin(&call);
        if verdict == Verdict::Go {
            self.waiting.remove(&(since, worker));
            self.in_flight += 1;
            batch.first = Some(call.first);
            batch.running = Some(call);
        }
        verdict
    }

    /// The call of `worker` ended: how long its batch waits before the next one, if there is one.
    pub fn ended(
        &mut self,
        worker: usize,
        outcome: &Outcome,
        now: Instant,
        chance: f64,
    ) -> Option<Duration> {
        let batch = self.batches.get_mut(worker)?;
        let call = batch.running.take()?;
        self.in_flight -= 1;
        let again = self.knob.ended(&call, outcome, now, chance);
        if matches!(outcome.ended, Ended::Acked | Ended::Rejected) {
            *batch = Batch::default();
            return None;
        }
        batch.retries = batch.retries.saturating_add(1);
        match again {
            Again::InOrder(time) => {
                self.waiting.extend(batch.since.map(|since| (since, worker)));
                Some(time)
            }
            Again::Aside(time) => Some(time),
            Again::AsTold => None,
        }
    }

    /// `worker` gives up its batch, or has none.
    pub fn leave(&mut self, worker: usize) {
        let Some(batch) = self.batches.get_mut(worker) else { return };
        let Batch { since, retries, running, .. } = std::mem::take(batch);
        self.in_flight -= usize::from(running.is_some());
        if let Some(since) = since {
            self.waiting.remove(&(since, worker));
            self.knob.left(worker, retries);
        }
    }

    /// Who may be able to begin next.
    pub fn next(&self) -> Option<usize> {
        self.knob.front().or_else(|| self.waiting.first().map(|(_, worker)| *worker))
    }

    /// The age of the oldest batch that is not served yet.
    pub fn oldest(&self, now: Instant) -> Duration {
        let since = self.batches.iter().filter_map(|batch| batch.since).min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// So many seconds after `now`: at least 50 µs, which no thread can tell from now, and at most an hour.
fn at(now: Instant, seconds: f64) -> Instant {
    // A NaN is as good as the hour: no rate leads to the next call.
    now + Duration::from_secs_f64(if seconds < 3600.0 { seconds.max(50e-6) } else { 3600.0 })
}

fn seconds_between(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    fn place(throttle: &Arc<Throttle>, worker: usize) -> Place {
        Place::new(Arc::clone(throttle), worker)
    }

    #[test]
    fn every_pace_has_a_name_that_is_parsed() {
        for pace in Pace::ALL {
            assert_eq!(Pace::parse(pace.name()), Ok(pace));
        }
        assert!(Pace::parse("fast").expect_err("none").contains("retry-after"));
    }

    /// Prevents: a worker that sleeps on though its turn has come.
    #[test]
    fn a_place_that_is_left_wakes_the_next() {
        let throttle = Throttle::new(Pace::Line, 2);
        let (mut first, mut second) = (place(&throttle, 0), place(&throttle, 1));
        assert!(first.may_call(1, Duration::ZERO));
        first.ended(&Outcome::bare(Ended::Limited));
        assert!(!second.may_call(1, Duration::ZERO));
        let waiter = std::thread::spawn(move || second.may_call(1, Duration::from_secs(60)));
        first.leave();
        assert!(waiter.join().expect("no panic"));
    }

    /// One thing that happens to a worker.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Ask(usize),
        End(usize, Ended),
        Leave(usize),
        Pass(u64),
    }

    fn steps(workers: usize) -> impl Strategy<Value = Vec<Step>> {
        let ended = prop_oneof![
            3 => Just(Ended::Acked),
            3 => Just(Ended::Limited),
            1 => Just(Ended::Failed),
            1 => Just(Ended::Rejected),
        ];
        let step = prop_oneof![
            4 => (0..workers).prop_map(Step::Ask),
            4 => (0..workers, ended).prop_map(|(worker, ended)| Step::End(worker, ended)),
            1 => (0..workers).prop_map(Step::Leave),
            2 => (1u64..5_000_000).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 1..150)
    }

    proptest! {
        /// Prevents: a client that never calls again. Whatever happened before, once calls are answered and time
        /// passes, every worker that asks is served; and the calls that run are counted right.
        #[test]
        fn whatever_happened_every_batch_is_served_in_the_end(steps in steps(6), chance in 0.0f64..1.0) {
            for pace in Pace::ALL {
                let mut now = Instant::now();
                let mut order = Order::new(pace, 6, now);
                let mut running = [false; 6];
                for step in &steps {
                    match *step {
                        Step::Ask(worker) if !running[worker] => {
                            running[worker] = order.may_begin(worker, 10, now) == Verdict::Go;
                        }
                        Step::End(worker, ended) if running[worker] => {
                            running[worker] = false;
                            order.ended(worker, &Outcome::bare(ended), now, chance);
                        }
                        Step::Leave(worker) if !running[worker] => order.leave(worker),
                        Step::Pass(us) => now += Duration::from_micros(us),
                        _ => {}
                    }
                    prop_assert_eq!(order.in_flight, running.iter().filter(|runs| **runs).count());
                }
                for worker in (0..6).filter(|worker| running[*worker]) {
                    order.ended(worker, &Outcome::bare(Ended::Acked), now, chance);
                }
                let mut left: BTreeSet<usize> = (0..6).collect();
                for _ in 0..200 {
                    now += Duration::from_secs(20);
                    for worker in 0..6 {
                        if left.contains(&worker) && order.may_begin(worker, 10, now) == Verdict::Go {
                            order.ended(worker, &Outcome::bare(Ended::Acked), now, chance);
                            left.remove(&worker);
                        }
                    }
                }
                prop_assert!(left.is_empty(), "{:?}: {:?} never called", pace, left);
                prop_assert_eq!((order.in_flight, order.oldest(now)), (0, Duration::ZERO));
            }
        }
    }
}
