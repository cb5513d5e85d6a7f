//! Events that the sink refuses for good, and when the sink is at fault rather than the events.
//!
//! Invariant: a refused event is given up, and its offset done, only once the sink took another
//! event after it; or after [`HELD_MAX`], if the status is about the event. If it is not, as that
//! of an expired token, the run stops then. When [`SHARE`] of the last [`LAST`] events were
//! refused, the run stops instead, and the refused events that are still held stay in the log. So a
//! sink that refuses everything, a wrong address or a proxy cannot use up the topic.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fate::is_about_the_event;
use super::window::Single;
use crate::backoff::Backoff;
use crate::logging::Limiter;
use crate::policy::credit::Settled;
use crate::policy::dead_letters::DeadLetters;
use crate::source::Rejected;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;

/// If, of so many events in a row…
const LAST: usize = 100;
/// … so many are refused, the run stops.
const SHARE: usize = 50;
/// How long a refused event is held if the sink takes no other: a source that waits for its ack
/// (pull) brings no other.
const HELD_MAX: Duration = Duration::from_secs(10);

/// The sink's refusals, shared by all workers.
#[derive(Default)]
pub struct Refusals {
    /// Whether each of the last events was refused.
    last: Mutex<VecDeque<bool>>,
    /// Events that the sink took.
    taken: AtomicU64,
    /// Too many were refused: no further call is made.
    too_many: AtomicBool,
}

impl Refusals {
    /// Notes that the sink took events.
    pub fn taken(&self, events: usize) {
        self.taken.fetch_add(events as u64, Ordering::Relaxed);
        let mut last = self.last.lock();
        // Nearly always there is no refusal to forget.
        if last.contains(&true) {
            for _ in 0..events.min(LAST) {
                note(&mut last, false);
            }
        }
    }

    /// Whether the sink refused too many: the remaining events go back to the log.
    pub fn are_too_many(&self) -> bool {
        self.too_many.load(Ordering::Relaxed)
    }

    /// Notes that the sink refused an event posted alone; true when that is one too many.
    fn refused(&self) -> bool {
        let mut last = self.last.lock();
        note(&mut last, true);
        let too_many = last.iter().filter(|refused| **refused).count() >= SHARE;
        too_many && !self.too_many.swap(true, Ordering::Relaxed)
    }
}

fn note(last: &mut VecDeque<bool>, refused: bool) {
    if last.len() == LAST {
        last.pop_front();
    }
    last.push_back(refused);
}

/// A refused event that is held.
struct Held {
    single: Single,
    status: u16,
    why: String,
    since: Instant,
    /// The number of events taken by then.
    taken: u64,
}

/// The refused events of one worker.
pub struct Suspects {
    shared: Arc<Refusals>,
    dead_letters: Arc<DeadLetters>,
    settled: Settled,
    metrics: ProcessorMetrics,
    stop: Stop,
    held: Vec<Held>,
    /// Dead letters that could not be written are tried again then.
    letters_wait_until: Option<Instant>,
    backoff: Backoff,
    lines: Limiter,
}

impl Suspects {
    /// Nothing refused yet.
    pub fn new(
        shared: Arc<Refusals>,
        dead_letters: Arc<DeadLetters>,
        settled: Settled,
        metrics: ProcessorMetrics,
        stop: Stop,
    ) -> Self {
        let lines = Limiter::per_second(5);
        let (held, backoff) = (Vec::new(), Backoff::standard());
        let letters_wait_until = None;
        Self {
            shared,
            dead_letters,
            settled,
            metrics,
            stop,
            held,
            letters_wait_until,
            backoff,
            lines,
        }
    }

    /// Notes that the sink refused an event posted alone. Stops the run when it refuses too many.
    pub fn refused(&mut self, single: Single, status: u16, why: String) {
        if let Some(suppressed) = self.lines.allow() {
            log::error!(
                partition = single.assigned.partition, offset = single.offset, id = single.id,
                status = status, why = why.as_str(), lines_suppressed = suppressed;
                "sink rejects the event"
            );
        }
        if self.shared.refused() {
            self.stop.fail(format!(
                "the sink refuses {SHARE} of the last {LAST} events, which their data does not explain; \
                 the last one with status {status}: {why}; check --sink and what answers there. What \
                 was refused since it last took one is in the log"
            ));
        }
        let taken = self.shared.taken.load(Ordering::Relaxed);
        self.held.push(Held { single, status, why, since: Instant::now(), taken });
    }

    /// Gives up the events that the sink refuses for their own sake.
    pub fn resolve(&mut self) {
        if self.held.is_empty() || self.shared.are_too_many() {
            return;
        }
        let taken = self.shared.taken.load(Ordering::Relaxed);
        let is_over = |held: &Held| taken == held.taken && held.since.elapsed() >= HELD_MAX;
        let is_foreign = |held: &&Held| is_over(held) && !is_about_the_event(held.status);
        if let Some(Held { status, why, .. }) = self.held.iter().find(is_foreign) {
            self.shared.too_many.store(true, Ordering::Relaxed);
            self.stop.fail(format!(
                "the sink took nothing for {} s after it refused an event with status {status}, which is \
                 not about its data: {why}; check --sink and what answers there. What was refused since \
                 it last took one is in the log",
                HELD_MAX.as_secs()
            ));
            return;
        }
        let is_known = |held: &mut Held| taken > held.taken || is_over(held);
        let known: Vec<Held> = self.held.extract_if(.., is_known).collect();
        let mut later = self.letters_wait_until.is_some_and(|time| Instant::now() < time);
        for held in known {
            if later {
                self.held.push(held);
                continue;
            }
            let Held { single, status, why, .. } = &held;
            let Single { assigned, offset, id, due_us, value } = single;
            let (offset, id, due_us) = (*offset, *id, *due_us);
            if !assigned.acquire() {
                self.metrics.returned.inc();
                continue;
            }
            let reason = format!("sink_{status}");
            let rejected = Rejected {
                partition: assigned.partition,
                offset,
                last_offset: offset,
                id: Some(id),
                reason: &reason,
                why,
                value: Some(value),
            };
            let kept = self.dead_letters.try_keep(&rejected);
            if kept {
                let mut book = self.settled.lock();
                assigned.done([offset]);
                book.iter_mut().for_each(|book| book.settle(id, due_us));
                self.backoff.reset();
            }
            assigned.release();
            if !kept {
                // The worker goes on; so do its partitions.
                self.letters_wait_until = Some(Instant::now() + self.backoff.wait());
                later = true;
                self.held.push(held);
            }
        }
    }

    /// Events still held go back to the log.
    pub fn release(&mut self) {
        let returned = self.held.iter().filter(|held| !held.single.assigned.is_let_go).count();
        self.metrics.returned.inc_by(returned as u64);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::Brokers;
    use crate::source::Assigned;
    use crate::telemetry::metrics::{Metrics, sum};

    fn suspects() -> (Suspects, Arc<Assigned>, Stop) {
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        let brokers = Brokers::parse("127.0.0.1:1").expect("a list");
        let letters = DeadLetters::open(None, &brokers, metrics.clone()).expect("no file");
        let (stop, assigned) = (Stop::default(), Arc::new(Assigned::new(0, 3, 0)));
        let suspects = Suspects::new(
            Arc::default(),
            Arc::new(letters),
            Settled::default(),
            metrics,
            stop.clone(),
        );
        (suspects, assigned, stop)
    }

    fn refuse(suspects: &mut Suspects, assigned: &Arc<Assigned>, offset: i64) {
        refuse_with(400, suspects, assigned, offset);
    }

    fn refuse_with(status: u16, suspects: &mut Suspects, assigned: &Arc<Assigned>, offset: i64) {
        assert!(assigned.open(&[offset]));
        let (id, value) = (offset as u64, Box::default());
        let due_us = 0;
        let single = Single { assigned: Arc::clone(assigned), offset, id, due_us, value };
        suspects.refused(single, status, "no".into());
        suspects.resolve();
    }

    /// Prevents: a topic used up by a sink that refuses everything.
    #[test]
    fn a_sink_that_refuses_everything_stops_the_run_and_costs_nothing() {
        let (mut suspects, assigned, stop) = suspects();
        for offset in 0..SHARE as i64 {
            assert!(!stop.is_set(), "after {offset}");
            refuse(&mut suspects, &assigned, offset);
        }
        let why = stop.outcome().expect_err("it stopped").to_string();
        assert!(why.contains("50 of the last 100") && why.contains("status 400: no"), "{why}");
        suspects.shared.taken(1);
        suspects.resolve();
        assert_eq!((assigned.committable(), sum(&suspects.metrics.invalid)), (0, 0));
        suspects.release();
        assert_eq!(suspects.metrics.returned.get(), SHARE as u64);
    }

    /// Prevents: one bad event in ten that stops the run, or delays the commit.
    #[test]
    fn what_is_refused_for_its_own_sake_is_given_up_when_another_is_taken() {
        let (mut suspects, assigned, stop) = suspects();
        for offset in 0..200 {
            refuse(&mut suspects, &assigned, offset);
            assert_eq!(assigned.committable(), offset, "nothing was taken after it");
            suspects.shared.taken(9);
            suspects.resolve();
            assert_eq!(assigned.committable(), offset + 1);
        }
        assert!(!stop.is_set());
        assert_eq!(sum(&suspects.metrics.invalid), 200);
    }

    /// Prevents: an expired token, or a wrong address, that uses up a quiet topic one event at a
    /// time.
    #[test]
    fn after_a_while_only_a_status_about_the_event_gives_it_up() {
        for (status, given_up) in [(400, 1), (422, 1), (401, 0), (404, 0), (307, 0), (200, 0)] {
            let (mut suspects, assigned, stop) = suspects();
            refuse_with(status, &mut suspects, &assigned, 0);
            assert_eq!(assigned.committable(), 0, "{status}: too early");
            for held in &mut suspects.held {
                held.since -= HELD_MAX;
            }
            suspects.resolve();
            assert_eq!(assigned.committable(), given_up, "{status}");
            assert_eq!(stop.is_set(), given_up == 0, "{status}");
        }
    }
}
