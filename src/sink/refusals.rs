//! Events that the sink refuses for good, and when the sink is at fault rather than the events.
//!
//! Invariant: a refused event is given up, and its offset done, only once the connection that refused
//! it took another event after it; or after [`HELD_MAX`], if the status is about the event, at most
//! [`BY_TIME_MAX`] in a row. If it is not, as that of an expired token, the run stops then, unless other
//! workers' events were taken. When [`SHARE`] of the last [`LAST`] events were refused, of all or of one
//! worker's, the run stops instead, and the refused events that are still held stay in the log. So a
//! sink that refuses everything, a wrong address, a proxy, or one bad server behind a balancer cannot use
//! up the topic.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
/// How long a refused event is held if its connection takes no other: a source that waits for its ack
/// (pull) brings no other.
const HELD_MAX: Duration = Duration::from_secs(10);
/// So many are given up after that time before the sink takes one again.
const BY_TIME_MAX: usize = 3;

/// The sink's refusals, shared by all workers.
#[derive(Default)]
pub struct Refusals {
    last: Mutex<Last>,
    /// Events that the sink took.
    taken: AtomicU64,
    /// Events that were given up by their time since the sink took one.
    by_time: AtomicUsize,
    /// Too many were refused: no further call is made.
    too_many: AtomicBool,
}

impl Refusals {
    fn taken(&self, events: usize) {
        self.taken.fetch_add(events as u64, Ordering::Relaxed);
        self.by_time.store(0, Ordering::Relaxed);
        self.last.lock().taken(events);
    }
}

/// Whether each of the last events was refused.
#[derive(Default)]
struct Last(VecDeque<bool>);

impl Last {
    fn taken(&mut self, events: usize) {
        // Nearly always there is no refusal to forget.
        if self.0.contains(&true) {
            (0..events.min(LAST)).for_each(|_| self.note(false));
        }
    }

    /// True when that is one too many.
    fn refused(&mut self) -> bool {
        self.note(true);
        self.0.iter().filter(|refused| **refused).count() >= SHARE
    }

    /// One refusal is explained by its event.
    fn explain(&mut self) {
        if let Some(refused) = self.0.iter_mut().find(|refused| **refused) {
            *refused = false;
        }
    }

    fn note(&mut self, refused: bool) {
        if self.0.len() == LAST {
            self.0.pop_front();
        }
        self.0.push_back(refused);
    }
}

/// A refused event that is held.
struct Held {
    single: Single,
    status: u16,
    why: String,
    since: Instant,
    /// The connection that refused it, and events that it and that all had taken by then.
    connection: u64,
    taken: u64,
    taken_of_all: u64,
}

/// The refused events of one worker.
pub struct Suspects {
    shared: Arc<Refusals>,
    dead_letters: Arc<DeadLetters>,
    settled: Settled,
    metrics: ProcessorMetrics,
    stop: Stop,
    /// Whether each of this worker's last events was refused, without those that proved to be the event's own fault.
    last: Last,
    /// Its connection's number, the events that were taken, and those given up by their time since.
    connection: u64,
    taken: u64,
    by_time: usize,
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
            last: Last::default(),
            connection: 0,
            taken: 0,
            by_time: 0,
            held,
            letters_wait_until,
            backoff,
            lines,
        }
    }

    /// Notes that the sink took events of this worker.
    pub fn taken(&mut self, events: usize) {
        if events == 0 {
            return;
        }
        self.taken += events as u64;
        self.by_time = 0;
        self.last.taken(events);
        self.shared.taken(events);
    }

    /// The worker's next call is made on a new connection, perhaps to another server.
    pub fn reconnected(&mut self) {
        self.connection += 1;
    }

    /// Whether the sink refused too many: the remaining events go back to the log.
    pub fn are_too_many(&self) -> bool {
        self.shared.too_many.load(Ordering::Relaxed)
    }

    /// Ends the run, once.
    fn give_up_the_sink(&self, why: String) {
        if !self.shared.too_many.swap(true, Ordering::Relaxed) {
            let given_up = match self.shared.by_time.load(Ordering::Relaxed) {
                0 => String::new(),
                events => format!(", but for {events} that were given up as invalid"),
            };
            self.stop.fail(format!(
                "{why}; check --sink and what answers there. What was refused since it last took one is in \
                 the log{given_up}"
            ));
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
        let of_own = self.last.refused();
        if self.shared.last.lock().refused() || of_own {
            let whose = if of_own { " of a worker" } else { "" };
            self.give_up_the_sink(format!(
                "the sink refuses {SHARE} of the last {LAST} events{whose}, which their data does not explain; \
                 the last one with status {status}: {why}"
            ));
        }
        self.held.push(Held {
            single,
            status,
            why,
            since: Instant::now(),
            connection: self.connection,
            taken: self.taken,
            taken_of_all: self.shared.taken.load(Ordering::Relaxed),
        });
    }

    /// Gives up the events that the sink refuses for their own sake.
    pub fn resolve(&mut self) {
        if self.held.is_empty() || self.are_too_many() {
            return;
        }
        let taken_of_all = self.shared.taken.load(Ordering::Relaxed);
        let is_over = |held: &Held| held.since.elapsed() >= HELD_MAX;
        // Other workers' connections may lead to other servers; but several in a row refused such an event.
        let is_nobodys = |held: &Held| taken_of_all == held.taken_of_all;
        let is_foreign =
            |held: &&Held| is_over(held) && is_nobodys(held) && !is_about_the_event(held.status);
        if let Some(Held { status, why, .. }) = self.held.iter().find(is_foreign) {
            self.give_up_the_sink(format!(
                "the sink took nothing for {} s after it refused an event with status {status}, which is \
                 not about its data: {why}",
                HELD_MAX.as_secs()
            ));
            return;
        }
        let (connection, taken, of_all) = (self.connection, self.taken, &self.shared.by_time);
        let (by_time, last) = (&mut self.by_time, &mut self.last);
        let mut one_too_many = None;
        let is_known = |held: &mut Held| {
            if held.connection == connection && taken > held.taken {
                last.explain();
                return true;
            }
            if !is_over(held) {
                return false;
            }
            let before = if is_nobodys(held) { of_all.load(Ordering::Relaxed) } else { *by_time };
            if before >= BY_TIME_MAX {
                one_too_many = Some((held.status, held.why.clone()));
                return false;
            }
            *by_time += 1;
            of_all.fetch_add(1, Ordering::Relaxed);
            true
        };
        let known: Vec<Held> = self.held.extract_if(.., is_known).collect();
        if let Some((status, why)) = one_too_many {
            self.give_up_the_sink(format!(
                "the sink took nothing of a worker and refused {} events of it, the last one with status {status}: {why}",
                BY_TIME_MAX + 1
            ));
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
        suspects.taken(1);
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
            suspects.taken(9);
            suspects.resolve();
            assert_eq!(assigned.committable(), offset + 1);
        }
        assert!(!stop.is_set());
        assert_eq!(sum(&suspects.metrics.invalid), 200);
    }

    /// Prevents: one bad server behind a balancer that uses up the topic, while the others serve the other workers.
    #[test]
    fn what_another_connection_took_proves_nothing() {
        for status in [401, 422] {
            let (mut suspects, assigned, stop) = suspects();
            for offset in 0..SHARE as i64 {
                assert!(!stop.is_set(), "{status}: after {offset}");
                refuse_with(status, &mut suspects, &assigned, offset);
                suspects.shared.taken(LAST); // other workers
                suspects.resolve();
            }
            let why = stop.outcome().expect_err("it stopped").to_string();
            assert!(why.contains("50 of the last 100 events of a worker"), "{why}");
            assert_eq!(
                (assigned.committable(), sum(&suspects.metrics.invalid)),
                (0, 0),
                "{status}"
            );
        }
        // On a quiet topic it takes longer.
        let (mut suspects, assigned, stop) = suspects();
        for offset in 0..=BY_TIME_MAX as i64 {
            assert!(!stop.is_set(), "after {offset}");
            refuse_with(401, &mut suspects, &assigned, offset);
            suspects.shared.taken(LAST);
            suspects.held.iter_mut().for_each(|held| held.since -= HELD_MAX);
            suspects.resolve();
        }
        assert!(stop.is_set());
        assert_eq!(sum(&suspects.metrics.invalid), BY_TIME_MAX as u64);
    }

    /// Prevents: an event that is given up because the next call, of a new connection, reached another server.
    #[test]
    fn what_the_next_connection_takes_proves_nothing() {
        let (mut suspects, assigned, _) = suspects();
        refuse(&mut suspects, &assigned, 0);
        suspects.reconnected();
        suspects.taken(1);
        suspects.resolve();
        assert_eq!(assigned.committable(), 0, "it is another connection");
        refuse(&mut suspects, &assigned, 1);
        suspects.taken(1);
        suspects.resolve();
        assert_eq!(sum(&suspects.metrics.invalid), 1);
    }

    /// Prevents: a quiet topic that a sink without an end of its refusals uses up, an event in ten seconds.
    #[test]
    fn after_a_while_a_few_are_given_up_in_a_row_and_no_more() {
        let (mut suspects, assigned, stop) = suspects();
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
        suspects.taken(1);
        for offset in most..2 * most {
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
