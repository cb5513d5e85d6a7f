//! A run: events of one partition that came in one fetch, at most a batch long, on their way from the
//! log to the sink.
//!
//! Its buffer already is the body of a POST: `u32 length | value | trailer` one event after the
//! other (see [`crate::sink::wire`]); the worker fills in the trailer ([`crate::transform`]). So an
//! event costs no allocation, and its bytes are copied once, out of the broker's answer, whose
//! memory is then free again. A run has each event's place and offset; the rest is in the bytes.
//! `stored` is its form on disk.

pub mod stored;

use std::ops::Range;
use std::sync::Arc;

use super::Assigned;
use crate::event::{Head, Invalid};
use crate::queue::Load;
use crate::sink::wire::{BODY_BYTES_MAX, FRAME_HEADER_BYTES};
use crate::transform::Transform;

/// Events of one partition; see the module.
///
/// The memory of an event is its frame in `body` and its [`Mark`]; a run adds this struct and the
/// three allocations. `lab predict` computes it from these layouts.
pub struct Run {
    /// The partition as it was assigned when the run was fetched.
    pub assigned: Arc<Assigned>,
    /// When its answer arrived, µs since the epoch.
    pub fetched_us: i64,
    transform: Transform,
    /// The run's first offset; marks count from here.
    first_offset: i64,
    marks: Vec<Mark>,
    body: Vec<u8>,
}

/// Where an event's frame ends in the body, and its offset less the run's first.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    end: u32,
    offset: u32,
}

impl Run {
    /// A run without events yet, with room for `events` of `bytes` each.
    fn new(
        assigned: Arc<Assigned>,
        fetched_us: i64,
        transform: Transform,
        (events, bytes): (usize, usize),
    ) -> Self {
        let frame = FRAME_HEADER_BYTES + bytes + transform.trailer_bytes();
        Self {
            assigned,
            fetched_us,
            transform,
            first_offset: 0,
            marks: Vec::with_capacity(events),
            body: Vec::with_capacity((events * frame).min(BODY_BYTES_MAX)),
        }
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether it is empty; an enqueued run never is.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The offsets of events `range`, ascending.
    pub fn offsets(&self, range: Range<usize>) -> impl Iterator<Item = i64> + '_ {
        let marks = self.marks.get(range).unwrap_or_default();
        marks.iter().map(|mark| self.first_offset + i64::from(mark.offset))
    }

    /// The frames of events `range`, as they stand in a POST of a batch.
    pub fn frames(&self, range: Range<usize>) -> &[u8] {
        let end = self.start_of(range.end);
        self.body.get(self.start_of(range.start)..end).unwrap_or_default()
    }

    /// Event `n`'s value and trailer, without the length before them.
    pub fn value(&self, n: usize) -> &[u8] {
        self.frames(n..n + 1).get(FRAME_HEADER_BYTES..).unwrap_or_default()
    }

    /// Event `n`'s value as it is in the log.
    pub fn event(&self, n: usize) -> &[u8] {
        let value = self.value(n);
        value
            .get(..value.len() - self.transform.trailer_bytes().min(value.len()))
            .unwrap_or_default()
    }

    /// Event `n` as a run of its own.
    pub fn alone(&self, n: usize) -> Option<Box<Self>> {
        let mark = *self.marks.get(n)?;
        let body = self.frames(n..n + 1).to_vec();
        let marks = vec![Mark { end: body.len() as u32, ..mark }];
        let assigned = Arc::clone(&self.assigned);
        let Self { fetched_us, transform, first_offset, .. } = *self;
        Some(Box::new(Self { assigned, fetched_us, transform, first_offset, marks, body }))
    }

    /// Id, key and due time of event `n`.
    pub fn head(&self, n: usize) -> Head {
        // It was checked when it was pushed.
        Head::read(self.event(n)).unwrap_or_default()
    }

    /// How many of `events` are in the log again when they are released: none that the spill let go from it.
    pub fn returns(&self, events: Range<usize>) -> usize {
        if self.assigned.is_let_go { 0 } else { events.len() }
    }

    /// Fills in the trailers: the worker's part of the transform.
    pub fn transform(&mut self) {
        let mut start = 0;
        for mark in &self.marks {
            let end = mark.end as usize;
            if let Some(frame) = self.body.get_mut(start..end) {
                self.transform
                    .fill_trailer(frame.get_mut(FRAME_HEADER_BYTES..).unwrap_or_default());
            }
            start = end;
        }
    }

    fn start_of(&self, n: usize) -> usize {
        let before = n.checked_sub(1).and_then(|before| self.marks.get(before));
        before.map_or(0, |mark| mark.end as usize)
    }

    /// Appends an event. False when the run cannot take it, and the caller must begin another: its
    /// body would be larger than the sink takes, or its offset too far from the first.
    fn push(&mut self, offset: i64, value: &[u8]) -> bool {
        if self.marks.is_empty() {
            self.first_offset = offset;
        }
        let length = value.len() + self.transform.trailer_bytes();
        let end = self.body.len() + FRAME_HEADER_BYTES + length;
        let fits = end <= BODY_BYTES_MAX || self.marks.is_empty();
        let (Ok(end), Ok(after), Ok(announced), true) = (
            u32::try_from(end),
            u32::try_from(offset - self.first_offset),
            u32::try_from(length),
            fits,
        ) else {
            return false;
        };
        self.body.extend_from_slice(&announced.to_be_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(end as usize, 0);
        self.marks.push(Mark { end, offset: after });
        true
    }

    /// Keeps the events of which `stays` is true.
    pub fn retain(&mut self, stays: impl Fn(usize) -> bool) {
        let (mut from, mut to) = (0, 0);
        let mut n = 0;
        let body = &mut self.body;
        self.marks.retain_mut(|mark| {
            let frame = from..mark.end as usize;
            let is_kept = stays(n);
            (from, n) = (frame.end, n + 1);
            if is_kept {
                let length = frame.len();
                body.copy_within(frame, to);
                to += length;
                mark.end = to as u32; // no larger than it was
            }
            is_kept
        });
        self.body.truncate(to);
        self.shrink();
    }

    /// Releases the room that it did not need: what waits in a queue costs what it holds.
    fn shrink(&mut self) {
        self.body.shrink_to_fit();
        self.marks.shrink_to_fit();
    }
}

impl Load for Box<Run> {
    fn events(&self) -> usize {
        self.len()
    }

    /// Its events from `at` on as a separate run.
    fn split_off(&mut self, at: usize) -> Self {
        let start = self.start_of(at);
        let marks = self.marks.split_off(at.min(self.marks.len()));
        let rest = Run {
            assigned: Arc::clone(&self.assigned),
            fetched_us: self.fetched_us,
            transform: self.transform,
            first_offset: self.first_offset,
            marks: marks
                .into_iter()
                .map(|mark| Mark { end: mark.end - start as u32, offset: mark.offset })
                .collect(),
            body: self.body.split_off(start),
        };
        Box::new(rest)
    }
}

/// Most events for which a new run reserves memory.
const ROOM_EVENTS_MAX: usize = 256;

/// Makes runs of the events of one partition's part of an answer, one for each shard, and returns
/// them together when one is full.
pub struct Builder {
    events_max: usize,
    transform: Transform,
    /// The runs that are being filled, by shard.
    filling: Vec<Option<Box<Run>>>,
    /// Offsets of all events in `filling`, ascending.
    offsets: Vec<i64>,
}

impl Builder {
    /// Runs of at most `events_max` events for `shards` shards.
    pub fn new(shards: usize, events_max: usize, transform: Transform) -> Self {
        let filling = (0..shards).map(|_| None).collect();
        Self { events_max, transform, filling, offsets: Vec::new() }
    }

    /// Appends an event to its shard's run. False when that is full: call [`Builder::finish`], and
    /// push again.
    pub fn push(
        &mut self,
        shard: usize,
        offset: i64,
        value: &[u8],
        of: (&Arc<Assigned>, i64),
    ) -> bool {
        let Some(slot) = self.filling.get_mut(shard) else { return false };
        let (assigned, fetched_us) = of;
        // Neighbours are mostly of one size; unused memory is released later.
        let (transform, room) =
            (self.transform, (self.events_max.min(ROOM_EVENTS_MAX), value.len()));
        let run = slot.get_or_insert_with(|| {
            Box::new(Run::new(Arc::clone(assigned), fetched_us, transform, room))
        });
        if run.len() >= self.events_max || !run.push(offset, value) {
            return false;
        }
        self.offsets.push(offset);
        true
    }

    /// Offsets of the filled runs, ascending.
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// Returns the filled runs, each with its shard.
    pub fn finish(&mut self) -> impl Iterator<Item = (usize, Box<Run>)> + '_ {
        self.offsets.clear();
        let filled = self.filling.iter_mut().enumerate();
        filled.filter_map(|(shard, slot)| {
            let mut run = slot.take()?;
            run.shrink();
            Some((shard, run))
        })
    }
}

/// Why a record's value is no event of the lab, or its head.
pub fn check(value: Option<&[u8]>) -> Result<(&[u8], Head), Invalid> {
    let value = value.ok_or(Invalid::Tombstone)?;
    Head::read(value).map(|head| (value, head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Event;
    use crate::sink::wire;

    fn event(id: u64, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Event { id, key: id % 7, ts_us: id as i64, payload: vec![id as u8; bytes].into() }
            .encode(&mut out);
        out
    }

    proptest! {
        /// Prevents: an event that gets another's bytes, offset or place in the body, in a run or
        /// in its halves.
        #[test]
        fn a_run_gives_back_what_was_pushed(
            sizes in proptest::collection::vec(0usize..300, 1..40), cut in 0usize..40, gap in 1i64..9,
        ) {
            let assigned = Arc::new(Assigned::new(0, 3, 100));
            let mut builder = Builder::new(1, 1000, Transform::Digest);
            let values: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(id, size)| event(id as u64, *size)).collect();
            for (n, value) in values.iter().enumerate() {
                prop_assert!(builder.push(0, 100 + n as i64 * gap, value, (&assigned, 7)));
            }
            let (_, mut first) = builder.finish().next().expect("a run");
            first.transform();
            let cut = cut % (values.len() + 1);
            let second = first.split_off(cut);
            prop_assert_eq!((first.len(), second.len()), (cut, values.len() - cut));
            let mut at = 0;
            for run in [first, second] {
                for n in 0..run.len() {
                    prop_assert_eq!(run.event(n), &values[at][..]);
                    prop_assert_eq!(run.head(n).id, at as u64);
                    let offset: Vec<i64> = run.offsets(n..n + 1).collect();
                    prop_assert_eq!(offset, [100 + at as i64 * gap]);
                    at += 1;
                }
                let framed = wire::unframe(run.frames(0..run.len()), Transform::Digest);
                prop_assert!(run.is_empty() || framed.is_ok_and(|events| events.len() == run.len()));
            }
        }
    }

    proptest! {
        /// Prevents: an event whose bytes or offset become its neighbour's when those between are dropped.
        #[test]
        fn what_is_kept_of_a_run_is_as_it_was(
            events in proptest::collection::vec((0usize..300, any::<bool>()), 1..40),
        ) {
            let assigned = Arc::new(Assigned::new(0, 3, 100));
            let mut builder = Builder::new(1, 1000, Transform::Digest);
            for (id, (size, _)) in events.iter().enumerate() {
                prop_assert!(builder.push(0, 100 + id as i64, &event(id as u64, *size), (&assigned, 7)));
            }
            let (_, mut run) = builder.finish().next().expect("a run");
            run.retain(|n| events[n].1);
            let kept: Vec<usize> = (0..events.len()).filter(|n| events[*n].1).collect();
            prop_assert_eq!(run.len(), kept.len());
            for (n, id) in kept.into_iter().enumerate() {
                prop_assert_eq!(run.event(n), &event(id as u64, events[id].0)[..]);
                let offset: Vec<i64> = run.offsets(n..n + 1).collect();
                prop_assert_eq!(offset, [100 + id as i64]);
            }
        }
    }

    /// Prevents: a body that no sink takes, and an offset that wraps.
    #[test]
    fn a_run_ends_where_its_body_or_its_offsets_would_be_too_large() {
        let assigned = Arc::new(Assigned::new(0, 3, 0));
        let mut builder = Builder::new(1, 1000, Transform::None);
        let large = event(1, 999_000);
        let pushed = (0..9).take_while(|n| builder.push(0, *n, &large, (&assigned, 0))).count();
        assert_eq!(pushed, 4, "4 x 999,028 B fit 4 MiB");
        builder.finish().for_each(drop);
        assert!(builder.push(0, 5, &event(1, 10), (&assigned, 0)));
        assert!(!builder.push(0, 5 + (1 << 32), &event(2, 10), (&assigned, 0)));
    }
}
