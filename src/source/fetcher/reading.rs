//! Reads one partition's part of an answer: events become runs and are enqueued, all else is
//! counted.
//!
//! Invariant: offsets are opened, counted and enqueued in the order of the log; the position moves
//! only past those.

use std::sync::Arc;

use super::Context;
use crate::logging::Limiter;
use crate::planes::{Entry, Passed};
use crate::source::run::{self, Builder};
use crate::source::{Assigned, Downstream, Enqueued, Rejected};

/// Why the reading of a part ends early.
pub(super) enum Halt {
    Unwanted,
    /// The log is gone; no further offset of it is opened.
    Left,
    Fatal(String),
}

/// Events enqueued since the last wait for acks: a pull source waits for the acks of as many events
/// as the workers can take at once.
#[derive(Default)]
pub(super) struct Round {
    touched: Vec<Arc<Assigned>>,
    events: usize,
}

impl Round {
    /// Counts enqueued events; waits when they are as many as the workers take.
    fn count(&mut self, assigned: &Arc<Assigned>, events: usize, downstream: &dyn Downstream) {
        let Some(most) = downstream.round_events_max() else { return };
        if !self.touched.iter().any(|a| Arc::ptr_eq(a, assigned)) {
            self.touched.push(Arc::clone(assigned));
        }
        self.events += events;
        if self.events >= most {
            self.await_acks(downstream);
        }
    }

    /// Waits until all counted events are done; then a new round begins.
    pub(super) fn await_acks(&mut self, downstream: &dyn Downstream) {
        for assigned in self.touched.drain(..) {
            downstream.await_acks(&assigned);
        }
        self.events = 0;
    }
}

/// One partition's part of an answer while it is read.
pub(super) struct Reading<'a> {
    pub(super) assigned: &'a Arc<Assigned>,
    pub(super) fetched_us: i64,
    pub(super) context: &'a Context,
    pub(super) builder: &'a mut Builder,
    pub(super) round: &'a mut Round,
    pub(super) lines: &'a mut Limiter,
    /// The next offset: all before it is in the builder, enqueued or skipped.
    pub(super) next: i64,
    /// Offsets without a record that the position has not moved past yet.
    pub(super) gaps: u64,
}

impl Reading<'_> {
    /// Handles the next entry of the log.
    pub(super) fn entry(&mut self, entry: Entry<'_>) -> Result<(), Halt> {
        match entry {
            Entry::Record { offset, value } => {
                if offset > self.next {
                    self.gap(offset);
                }
                match run::check(value) {
                    Ok((value, head)) => self.event(offset, head.key, value)?,
                    Err(why) => self.rejected(&Rejected {
                        partition: self.assigned.partition,
                        offset,
                        last_offset: offset,
                        id: None,
                        reason: why.reason(),
                        why: &why.to_string(),
                        value,
                    })?,
                }
                self.next = offset + 1;
            }
            Entry::Passed { to, what } => {
                if to > self.next && what == Passed::Gap {
                    self.gap(to);
                }
                self.next = self.next.max(to);
            }
            Entry::Unreadable { to, reason, why } => self.unreadable(to, reason, &why)?,
        }
        Ok(())
    }

    fn event(&mut self, offset: i64, key: u64, value: &[u8]) -> Result<(), Halt> {
        let shard = self.context.downstream.shard_of(key);
        let of = (self.assigned, self.fetched_us);
        if !self.builder.push(shard, offset, value, of) {
            self.flush()?;
            if !self.builder.push(shard, offset, value, of) {
                // An empty run takes any event, unless there is no such shard.
                return Err(Halt::Fatal(format!("shard {shard} of the queue takes no event")));
            }
        }
        Ok(())
    }

    /// Opens the builder's events, enqueues them, and moves the position past them and past the
    /// offsets skipped after them.
    pub(super) fn flush(&mut self) -> Result<(), Halt> {
        let opened = self.builder.offsets().len();
        if !self.assigned.open(self.builder.offsets()) {
            self.builder.finish().for_each(drop);
            return Err(Halt::Left);
        }
        self.context.metrics.fetched.inc_by(opened as u64);
        let mut unwanted = false;
        for (shard, run) in self.builder.finish() {
            let events = run.len();
            unwanted =
                unwanted || self.context.downstream.enqueue(shard, run) == Enqueued::Unwanted;
            if unwanted {
                // It stays open at its offsets, so it is not committed and still in the log.
                self.context.metrics.returned.inc_by(events as u64);
            }
        }
        if unwanted {
            return Err(Halt::Unwanted);
        }
        self.assigned.skip_to(self.next);
        let gaps = std::mem::take(&mut self.gaps);
        self.context.metrics.lost.with_label_values(&["gap"]).inc_by(gaps);
        self.round.count(self.assigned, opened, self.context.downstream.as_ref());
        Ok(())
    }

    /// A record that will not be delivered is kept and counted before its offsets are done.
    fn rejected(&mut self, rejected: &Rejected<'_>) -> Result<(), Halt> {
        self.flush()?;
        if !self.assigned.open(&[rejected.offset]) {
            return Err(Halt::Left);
        }
        let offsets = rejected.offsets();
        self.context.metrics.fetched.inc_by(offsets);
        if let Some(suppressed) = self.lines.allow() {
            log::warn!(
                partition = rejected.partition, offset = rejected.offset, reason = rejected.reason,
                why = rejected.why, offsets = offsets, lines_suppressed = suppressed; "record is no event, counted and passed over"
            );
        }
        if !self.context.downstream.reject(rejected, &self.context.stop) {
            return Err(Halt::Unwanted);
        }
        self.assigned.done([rejected.offset]);
        Ok(())
    }

    fn unreadable(&mut self, to: Option<i64>, reason: &str, why: &str) -> Result<(), Halt> {
        let (partition, offset) = (self.assigned.partition, self.next);
        let topic = &self.context.topic;
        let at = format!("topic {topic} partition {partition} offset {offset}: {why}");
        let Some(to) = to else {
            return Err(Halt::Fatal(format!("{at}; set the group's offset after it")));
        };
        if !self.context.skip_unreadable {
            return Err(Halt::Fatal(format!(
                "{at}; --skip-unreadable goes on after it and counts the loss, or set the \
                 group's offset after it"
            )));
        }
        self.rejected(&Rejected {
            partition,
            offset,
            last_offset: to - 1,
            id: None,
            reason,
            why,
            value: None,
        })?;
        self.next = to;
        Ok(())
    }

    /// Offsets up to `to` hold no record: compaction or a deletion removed them.
    fn gap(&mut self, to: i64) {
        let offsets = (to - self.next).unsigned_abs();
        self.gaps += offsets;
        if let Some(suppressed) = self.lines.allow() {
            log::warn!(
                partition = self.assigned.partition, from = self.next, to = to, offsets = offsets,
                lines_suppressed = suppressed;
                "the log has no records here (compacted or deleted), going on after them"
            );
        }
    }
}
