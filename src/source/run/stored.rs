//! A run's form on disk, where the queue spills.
//!
//! `topic id u128 | partition i32 | fetched i64 (µs since the epoch) | first offset i64 | trailer u32 | events u32 |
//! (end u32, offset u32) an event | body`, big-endian. The body is the run's own: what comes back is copied, not built
//! anew. It is no place for what a process alone knows: a run may come back in another one.

use std::sync::Arc;

use super::{Assigned, Mark, Run};
use crate::sink::wire::FRAME_HEADER_BYTES;
use crate::transform::Transform;

/// Bytes of an event's mark.
const MARK_BYTES: usize = 8;

impl Run {
    /// Appends its form on disk.
    pub fn store(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.assigned.topic_id.to_be_bytes());
        out.extend_from_slice(&self.assigned.partition.to_be_bytes());
        out.extend_from_slice(&self.fetched_us.to_be_bytes());
        out.extend_from_slice(&self.first_offset.to_be_bytes());
        out.extend_from_slice(&(self.transform.trailer_bytes() as u32).to_be_bytes());
        out.extend_from_slice(&(self.marks.len() as u32).to_be_bytes());
        for mark in &self.marks {
            out.extend_from_slice(&mark.end.to_be_bytes());
            out.extend_from_slice(&mark.offset.to_be_bytes());
        }
        out.extend_from_slice(&self.body);
    }
}

/// A run as it stands on disk.
pub struct Stored<'a> {
    /// The topic's id when it was fetched.
    pub topic_id: u128,
    /// Its partition.
    pub partition: i32,
    /// When it was fetched, µs since the epoch.
    pub fetched_us: i64,
    /// Bytes behind each event, for the transform that it was fetched for.
    pub trailer_bytes: usize,
    first_offset: i64,
    marks: Vec<Mark>,
    body: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Reads it; `None` when it is none.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (topic_id, rest) = bytes.split_first_chunk()?;
        let (partition, rest) = rest.split_first_chunk()?;
        let (fetched, rest) = rest.split_first_chunk()?;
        let (first_offset, rest) = rest.split_first_chunk()?;
        let (trailer, rest) = rest.split_first_chunk()?;
        let (events, rest) = rest.split_first_chunk()?;
        let events = u32::from_be_bytes(*events) as usize;
        let (marks, body) = rest.split_at_checked(events.checked_mul(MARK_BYTES)?)?;
        let (marks, _none) = marks.as_chunks::<MARK_BYTES>();
        let mark = |[e0, e1, e2, e3, o0, o1, o2, o3]: &[u8; MARK_BYTES]| Mark {
            end: u32::from_be_bytes([*e0, *e1, *e2, *e3]),
            offset: u32::from_be_bytes([*o0, *o1, *o2, *o3]),
        };
        let stored = Self {
            topic_id: u128::from_be_bytes(*topic_id),
            partition: i32::from_be_bytes(*partition),
            fetched_us: i64::from_be_bytes(*fetched),
            trailer_bytes: u32::from_be_bytes(*trailer) as usize,
            first_offset: i64::from_be_bytes(*first_offset),
            marks: marks.iter().map(mark).collect(),
            body,
        };
        stored.is_whole().then_some(stored)
    }

    /// Whether events follow each other, each with its frame, up to the body's end.
    fn is_whole(&self) -> bool {
        let least = FRAME_HEADER_BYTES + self.trailer_bytes;
        let mut end = 0;
        let all = self.marks.iter().all(|mark| {
            let begins = std::mem::replace(&mut end, mark.end as usize);
            end >= begins + least
        });
        all && end == self.body.len() && !self.marks.is_empty()
    }

    /// Its events' offsets, ascending.
    pub fn offsets(&self) -> Vec<i64> {
        self.marks.iter().map(|mark| self.first_offset + i64::from(mark.offset)).collect()
    }

    /// Its events: offset and value.
    pub fn events(&self) -> impl Iterator<Item = (i64, &'a [u8])> + '_ {
        let mut begins = 0;
        self.marks.iter().map(move |mark| {
            let end = mark.end as usize;
            let value = begins + FRAME_HEADER_BYTES..end - self.trailer_bytes;
            begins = end;
            let offset = self.first_offset + i64::from(mark.offset);
            (offset, self.body.get(value).unwrap_or_default())
        })
    }

    /// The run; `transform` is the one that it was fetched for.
    pub fn into_run(self, assigned: Arc<Assigned>, transform: Transform) -> Box<Run> {
        Box::new(Run {
            assigned,
            fetched_us: self.fetched_us,
            transform,
            first_offset: self.first_offset,
            marks: self.marks,
            body: self.body.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Builder;
    use super::*;
    use crate::event::Event;

    proptest! {
        /// Prevents: an event that comes back from the disk with another's bytes, offset or partition; bytes that are
        /// cut and still taken for a run.
        #[test]
        fn a_run_comes_back_as_it_was(
            sizes in proptest::collection::vec(0usize..300, 1..40), gap in 1i64..9, cut in 0.0..1.0f64,
        ) {
            let assigned = Arc::new(Assigned::new(77, 3, 100));
            for transform in [Transform::Digest, Transform::None] {
                let mut builder = Builder::new(1, 1000, transform);
                for (n, size) in sizes.iter().enumerate() {
                    let mut value = Vec::new();
                    let payload = vec![n as u8; *size].into();
                    Event { id: n as u64, key: 1, ts_us: 2, payload }.encode(&mut value);
                    prop_assert!(builder.push(0, 100 + n as i64 * gap, &value, (&assigned, 7)));
                }
                let (_, run) = builder.finish().next().expect("a run");
                let mut bytes = Vec::new();
                run.store(&mut bytes);
                prop_assert!(Stored::read(&bytes[..(bytes.len() as f64 * cut) as usize]).is_none());
                let stored = Stored::read(&bytes).expect("whole");
                prop_assert_eq!((stored.topic_id, stored.partition, stored.fetched_us), (77, 3, 7));
                prop_assert_eq!(stored.trailer_bytes, transform.trailer_bytes());
                let offsets: Vec<i64> = run.offsets(0..run.len()).collect();
                prop_assert_eq!(stored.offsets(), offsets.clone());
                for (n, (offset, value)) in stored.events().enumerate() {
                    prop_assert_eq!((offset, value), (offsets[n], run.event(n)));
                }
                let back = stored.into_run(Arc::clone(&assigned), transform);
                prop_assert_eq!(back.frames(0..back.len()), run.frames(0..run.len()));
                prop_assert_eq!(back.offsets(0..back.len()).collect::<Vec<_>>(), offsets);
            }
        }
    }
}
