//! The events in flight of a worker, in order: dequeued, and not acked by the sink.
//!
//! Invariant: a run is in flight from the moment it is pushed until it leaves, and its delivered
//! events are marked done before that. The first events are always the next to be posted; a batch
//! may begin and end inside a run.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::wire::BODY_BYTES_MAX;
use crate::source::{Assigned, Run};

/// See the module.
#[derive(Default)]
pub struct Window {
    runs: VecDeque<Taken>,
    events: usize,
    /// Buffer that joins the frames of several runs.
    body: Vec<u8>,
}

/// A run, and how far it is delivered.
struct Taken {
    run: Box<Run>,
    /// Its first event that is neither acked nor taken out.
    next: usize,
    at: Instant,
}

impl Taken {
    fn left(&self) -> Range<usize> {
        self.next..self.run.len()
    }
}

/// An event that the sink refused when posted alone, taken out of the window and still open.
pub struct Single {
    /// Its partition, as it was assigned.
    pub assigned: Arc<Assigned>,
    /// Its offset.
    pub offset: i64,
    /// Its id.
    pub id: u64,
    /// When it was due, µs since the epoch.
    pub due_us: i64,
    /// Its value.
    pub value: Box<[u8]>,
}

impl Window {
    /// Adds a run whose partition was acquired.
    pub fn push(&mut self, run: Box<Run>, at: Instant) {
        self.events += run.len();
        self.runs.push_back(Taken { run, next: 0, at });
    }

    /// Events that are neither acked nor taken out.
    pub fn events(&self) -> usize {
        self.events
    }

    /// When the first of them was pushed.
    pub fn oldest(&self) -> Option<Instant> {
        self.runs.front().map(|taken| taken.at)
    }

    /// Whether a partition of one of them was revoked.
    pub fn is_revoked(&self) -> bool {
        self.runs.iter().any(|taken| taken.run.assigned.is_revoked())
    }

    /// Releases the runs of revoked partitions; returns how many events go back to the log. What the spill let go does
    /// not: it is still on disk.
    pub fn release_revoked(&mut self) -> usize {
        if self.is_revoked() { self.release(|taken| taken.run.assigned.is_revoked()) } else { 0 }
    }

    /// Releases all runs; returns how many events go back to the log.
    pub fn release_all(&mut self) -> usize {
        self.release(|_| true)
    }

    fn release(&mut self, which: impl Fn(&Taken) -> bool) -> usize {
        let (events, mut returned) = (&mut self.events, 0);
        self.runs.retain(|taken| {
            let goes = which(taken);
            if goes {
                *events -= taken.left().len();
                returned += taken.run.returns(taken.left());
                taken.run.assigned.release();
            }
            !goes
        });
        returned
    }

    /// How many of the first events one request may carry, at most `most`; at least one, where there is
    /// one.
    pub fn fits_a_body(&self, most: usize) -> usize {
        let (mut events, mut bytes) = (0, 0);
        for taken in &self.runs {
            for n in taken.left() {
                bytes += taken.run.frames(n..n + 1).len();
                if events == most || (bytes > BODY_BYTES_MAX && events > 0) {
                    return events;
                }
                events += 1;
            }
        }
        events
    }

    /// The frames of the first `events`, one after the other.
    pub fn frames(&mut self, events: usize) -> &[u8] {
        if let Some(first) = self.runs.front().filter(|first| first.left().len() >= events) {
            return first.run.frames(first.next..first.next + events);
        }
        self.body.clear();
        let mut wanted = events;
        for taken in &self.runs {
            let some = wanted.min(taken.left().len());
            self.body.extend_from_slice(taken.run.frames(taken.next..taken.next + some));
            wanted -= some;
        }
        &self.body
    }

    /// The value of the first event, for a post of it alone.
    pub fn value(&self) -> &[u8] {
        self.runs.front().map_or(&[], |first| first.run.value(first.next))
    }

    /// Acks the first `events`: each run's part is marked done, and shown to `each`.
    pub fn ack(&mut self, events: usize, mut each: impl FnMut(&Run, Range<usize>, Instant)) {
        let mut wanted = events.min(self.events);
        self.events -= wanted;
        while wanted > 0 {
            let Some(first) = self.runs.front_mut() else { return };
            let some = first.next..first.next + wanted.min(first.left().len());
            first.run.assigned.done(first.run.offsets(some.clone()));
            each(&first.run, some.clone(), first.at);
            first.next = some.end;
            wanted -= some.len();
            self.release_first_if_settled();
        }
    }

    /// Takes the first event out, still open.
    pub fn take_first(&mut self) -> Option<Single> {
        let first = self.runs.front_mut()?;
        let head = first.run.head(first.next);
        let single = Single {
            assigned: Arc::clone(&first.run.assigned),
            offset: first.run.offsets(first.next..first.next + 1).next()?,
            id: head.id,
            due_us: head.ts_us,
            value: first.run.event(first.next).into(),
        };
        first.next += 1;
        self.events -= 1;
        self.release_first_if_settled();
        Some(single)
    }

    /// Takes the first event out as a run of its own, still open and no longer in flight; with it, when it was pushed.
    pub fn take_first_run(&mut self) -> Option<(Box<Run>, Instant)> {
        let first = self.runs.front_mut()?;
        let taken = (first.run.alone(first.next)?, first.at);
        first.next += 1;
        self.events -= 1;
        self.release_first_if_settled();
        Some(taken)
    }

    fn release_first_if_settled(&mut self) {
        if let Some(first) = self.runs.pop_front_if(|first| first.left().is_empty()) {
            first.run.assigned.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::sink::wire;
    use crate::source::run::Builder;
    use crate::transform::Transform;

    /// Runs of so many events of one partition, offsets and ids from 0 on.
    fn window(runs: &[usize], bytes: usize) -> (Window, Arc<Assigned>) {
        let (mut window, assigned) = (Window::default(), Arc::new(Assigned::new(0, 0, 0)));
        let mut id = 0;
        for &events in runs {
            let mut builder = Builder::new(1, events, Transform::None);
            for _ in 0..events {
                let mut value = Vec::new();
                Event { id, key: 1, ts_us: 0, payload: vec![7; bytes].into() }.encode(&mut value);
                assert!(builder.push(0, id as i64, &value, (&assigned, 0)));
                id += 1;
            }
            assert!(assigned.open(builder.offsets()) && assigned.acquire());
            let (_, run) = builder.finish().next().expect("a run");
            window.push(run, Instant::now());
        }
        (window, assigned)
    }

    /// Prevents: a batch with an event of its neighbour, and a commit ahead of an ack, where batches
    /// begin and end inside runs.
    #[test]
    fn batches_cut_runs_anywhere_and_each_event_is_posted_once() {
        let (mut window, assigned) = window(&[5, 1, 7, 200, 3], 100);
        let mut next = 0;
        for batch in 1.. {
            if next == 216 {
                break;
            }
            let n = window.fits_a_body(batch);
            let events = wire::unframe(window.frames(n), Transform::None).expect("framed").len();
            assert_eq!(events, n);
            assert_eq!(window.value().get(..8), Some(&(next as u64).to_be_bytes()[..]));
            let mut acked = 0;
            window.ack(n, |_, events, _| acked += events.len());
            next += n;
            assert_eq!((acked, window.events()), (n, 216 - next));
            assert_eq!(assigned.committable(), next as i64);
        }
        assert!(assigned.await_released(Instant::now()), "in flight though all is acked");
    }

    #[test]
    fn a_body_is_never_larger_than_the_sink_takes() {
        let (mut window, _) = window(&[1, 1, 1, 1, 1, 1], 900_000);
        assert_eq!(window.fits_a_body(200), 4, "4 x 900,028 B fit 4 MiB");
        assert!(window.frames(4).len() <= BODY_BYTES_MAX);
    }

    /// Prevents: a wait for a revoked partition because events that the worker released still
    /// count.
    #[test]
    fn what_is_let_go_stays_open_and_is_not_in_flight() {
        let (mut window, assigned) = window(&[5, 5], 10);
        window.ack(2, |_, _, _| {});
        let single = window.take_first().expect("an event");
        assert_eq!((single.offset, single.id), (2, 2));
        assigned.revoke();
        assert_eq!(window.release_revoked(), 7);
        assert!(assigned.await_released(Instant::now()));
        assert_eq!((assigned.committable(), window.events()), (2, 0));
    }
}
