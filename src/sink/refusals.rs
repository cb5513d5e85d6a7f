//! Events that the sink refuses for good, and when the sink is at fault rather than the events.
//!
//! Invariant: a refused event, which [`CONNECTIONS`] connections in a row refused, is given up, and its
//! offset done, only once the sink took another event of a call that began after the refusal; or after [`HELD_MAX`],
//! if the status is about the event, at most [`BY_TIME_MAX`] in a row, and if the run took any event or keeps
//! dead letters: a supervisor that starts it again and again must not use up a quiet topic either. If the status is
//! not about the event, as that of an expired token, the run stops then. When [`SHARE`] of the last [`LAST`] events were refused, the run stops instead,
//! and the refused events that are still held stay in the log. So a sink that refuses everything, a
//! wrong address, a proxy, or one bad server behind a balancer cannot use up the topic.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
/// So many are given up after that time before the sink takes one again.
const BY_TIME_MAX: usize = 3;
/// An event is refused only once so many connections in a row refused it: behind a balancer one bad server must not cost
/// what another would take.
pub(super) const CONNECTIONS: u32 = 5;

/// A worker takes no new events while it holds so many: their letters cannot be kept, or nothing is taken.
const HELD_EVENTS_MAX: usize = 1_000;

/// The sink's refusals, shared by all workers.
#[derive(Default)]
pub struct Refusals {
    lately: Mutex<Lately>,
    /// Events that were given up by their time since.
    by_time: AtomicUsize,
    /// Too many were refused: no further call is made.
    too_many: AtomicBool,
}

#[derive(Default)]
struct Lately {
    /// Whether each of the last events was refused.
    refused: VecDeque<bool>,
    /// When the last of the calls began of which the sink took events.
    taken: Option<Instant>,
}

impl Lately {
    fn note(&mut self, refused: bool) {
        if self.refused.len() == LAST {
            self.refused.pop_front();
        }
        self.refused.push_back(refused);
    }
}

impl Refusals {
    /// Notes that the sink took events of a call that began at `posted`.
    pub fn taken(&self, events: usize, posted: Instant) {
        if events == 0 {
            return;
        }
        self.by_time.store(0, Ordering::Relaxed);
        let mut lately = self.lately.lock();
        lately.taken = lately.taken.max(Some(posted));
        // Nearly always there is no refusal to forget.
        if lately.refused.contains(&true) {
            (0..events.min(LAST)).for_each(|_| lately.note(false));
        }
    }

    /// When the last of the calls began of which the sink took events.
    pub fn last_taken(&self) -> Option<Instant> {
        self.lately.lock().taken
    }

    /// Whether the sink refused too many: the remaining events go back to the log.
    pub fn are_too_many(&self) -> bool {
        self.too_many.load(Ordering::Relaxed)
    }

    /// Notes that the sink refused an event posted alone; true when that is one too many.
    fn refused(&self) -> bool {
        let mut lately = self.lately.lock();
        lately.note(true);
        lately.refused.iter().filter(|refused| **refused).count() >= SHARE
    }
}

/// A refused event that is held.
struct Held {
    single: Single,
    status: u16,
    why: String,
    since: Instant,
    /// Whether it is to be given up, once its letter is written.
    is_known: bool,
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

    /// Ends the run, once.
    pub fn give_up_the_sink(&self, why: &str) {
        if self.shared.too_many.swap(true, Ordering::Relaxed) {
            return;
        }
        let given_up = match self.shared.by_time.load(Ordering::Relaxed) {
            0 => String::new(),
            events => format!(", but for {events} that were given up as invalid"),
        };
        self.stop.fail(format!(
            "{why}; check --sink and what answers there. What was refused since it last took one is in the \
             log{given_up}"
        ));
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
            self.give_up_the_sink(&format!(
                "the sink refuses {SHARE} of the last {LAST} events, which their data does not explain; \
                 the last one with status {status}: {why}"
            ));
        }
        self.held.push(Held { single, status, why, since: Instant::now(), is_known: false });
    }

    /// Whether no new events may be taken while these wait.
    pub fn are_many(&self) -> bool {
        self.held.len() >= HELD_EVENTS_MAX
    }

    /// Gives up the events that the sink refuses for their own sake.
    pub fn resolve(&mut self) {
        if self.held.is_empty() || self.shared.are_too_many() {
            return;
        }
        // A call that was on its way when it was refused proves nothing: the sink may have changed since.
        let taken = self.shared.last_taken();
        let is_proven = |held: &Held| taken >= Some(held.since);
        let is_over = |held: &Held| !is_proven(held) && held.since.elapsed() >= HELD_MAX;
        let is_foreign =
            |held: &&Held| !held.is_known && is_over(held) && !is_about_the_event(held.status);
        if let Some(Held { status, why, .. }) = self.held.iter().find(is_foreign) {
            self.give_up_the_sink(&format!(
                "the sink took nothing for {} s after it refused an event with status {status}, which is \
                 not about its data: {why}",
                HELD_MAX.as_secs()
            ));
            return;
        }
        let by_time = &self.shared.by_time;
        let may_by_time = taken.is_some() || self.dead_letters.are_kept();
        let mut one_too_many = None;
        let is_known = |held: &mut Held| {
            if !held.is_known && is_over(held) {
                if !may_by_time || by_time.load(Ordering::Relaxed) >= BY_TIME_MAX {
                    one_too_many = Some((held.status, held.why.clone()));
                    return false;
                }
                by_time.fetch_add(1, Ordering::Relaxed);
                held.is_known = true;
            }
            held.is_known = held.is_known || is_proven(held);
            held.is_known
        };
        let known: Vec<Held> = self.held.extract_if(.., is_known).collect();
        if let Some((status, why)) = one_too_many {
            self.give_up_the_sink(&if may_by_time {
                let events = BY_TIME_MAX + 1;
                format!("the sink took nothing and refused {events} events, the last one with status {status}: {why}")
            } else {
                format!(
                    "the sink has taken nothing since the start, and refuses an event with status {status}: {why}; \
                     --dead-letter would keep a few such events"
                )
            });
        }
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
            let kept = self.dead_letters.try_keep(&rejected, &self.stop);
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

    /// Before whatever is refused is made older.
    fn before() -> Instant {
        Instant::now() - 2 * HELD_MAX
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
        suspects.shared.taken(1, Instant::now());
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
            suspects.shared.taken(9, Instant::now());
            suspects.resolve();
            assert_eq!(assigned.committable(), offset + 1);
        }
        assert!(!stop.is_set());
        assert_eq!(sum(&suspects.metrics.invalid), 200);
    }

    /// Prevents: events given up at a cut-over, by acks of calls that began before it.
    #[test]
    fn a_call_that_began_before_the_refusal_proves_nothing() {
        let (mut suspects, assigned, _) = suspects();
        let posted = Instant::now();
        refuse(&mut suspects, &assigned, 0);
        suspects.shared.taken(9, posted);
        suspects.resolve();
        assert_eq!(assigned.committable(), 0);
        suspects.shared.taken(9, Instant::now());
        suspects.shared.taken(9, posted);
        suspects.resolve();
        assert_eq!(assigned.committable(), 1);
    }

    /// Prevents: a quiet topic used up by starts, a few events each.
    #[test]
    fn before_the_sink_took_any_the_first_refusal_ends_the_run() {
        let (mut suspects, assigned, stop) = suspects();
        refuse(&mut suspects, &assigned, 0);
        assert!(!stop.is_set());
        suspects.held.iter_mut().for_each(|held| held.since -= HELD_MAX);
        suspects.resolve();
        let why = stop.outcome().expect_err("it stopped").to_string();
        assert!(why.contains("since the start") && why.contains("--dead-letter"), "{why}");
        assert_eq!(assigned.committable(), 0);
    }

    /// Prevents: a quiet topic that a sink without an end of its refusals uses up, an event in ten seconds; and a letter
    /// that cannot be written at once and counts as several.
    #[test]
    fn after_a_while_a_few_are_given_up_in_a_row_and_no_more() {
        let (mut suspects, assigned, stop) = suspects();
        suspects.shared.taken(1, before());
        let later = |suspects: &mut Suspects| {
            suspects.held.iter_mut().for_each(|held| held.since -= HELD_MAX);
            suspects.resolve();
        };
        let most = BY_TIME_MAX as i64;
        for offset in 0..most {
            refuse(&mut suspects, &assigned, offset);
            later(&mut suspects);
            assert_eq!(assigned.committable(), offset + 1);
        }
        suspects.shared.taken(1, before());
        suspects.letters_wait_until = Some(Instant::now() + HELD_MAX);
        refuse(&mut suspects, &assigned, most);
        (0..5).for_each(|_| later(&mut suspects));
        assert_eq!((stop.is_set(), assigned.committable()), (false, most), "its letter waits");
        suspects.letters_wait_until = None;
        for offset in most + 1..2 * most {
            refuse(&mut suspects, &assigned, offset);
            later(&mut suspects);
        }
        assert!(!stop.is_set(), "one was taken between");
        refuse(&mut suspects, &assigned, 2 * most);
        later(&mut suspects);
        let why = stop.outcome().expect_err("it stopped").to_string();
        assert!(why.contains("but for 3 that were given up as invalid"), "{why}");
        assert_eq!(assigned.committable(), 2 * most);
    }

    /// Prevents: an expired token, or a wrong address, that uses up a quiet topic one event at a
    /// time.
    #[test]
    fn after_a_while_only_a_status_about_the_event_gives_it_up() {
        for (status, given_up) in [(400, 1), (422, 1), (401, 0), (404, 0), (307, 0), (200, 0)] {
            let (mut suspects, assigned, stop) = suspects();
            suspects.shared.taken(1, before());
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
