//! Walks the batches of a fetched set, and opens one: CRC-32C first, then the codec, then records.
//!
//! A [`Batch`] is whole: as many bytes as its header says. A last one that is cut off is not
//! returned (KIP-74: a broker fills an answer up to its limit, in the middle of a batch too).
//! Offsets of batches are not compared with each other: the caller knows the position that it asked
//! for.

use std::iter::FusedIterator;

use super::error::{BadBatch, Malformed, Unreadable};
use super::header::{BATCH_HEADER_BYTES, BatchHeader, CRC_AT, CRC_COVERS_FROM, parse_header};
use super::record::Records;
use super::unpack::Scratch;

/// The batches of one partition's fetched set.
pub fn batches(set: &[u8]) -> Batches<'_> {
    Batches { rest: set }
}

/// The size of a set's first batch by its own header; `None` where that is cut off.
pub fn announced(set: &[u8]) -> Option<usize> {
    parse_header(set).ok().map(|header| header.size)
}

/// See [`batches`]. It ends after the last whole batch, and after an error.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BadBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let set = std::mem::take(&mut self.rest);
        match parse_header(set) {
            Ok(header) => {
                let (bytes, rest) = set.split_at_checked(header.size)?;
                self.rest = rest;
                Some(Ok(Batch { header, bytes }))
            }
            Err(BadBatch::CutShort { .. }) => None,
            Err(bad) => Some(Err(bad)),
        }
    }
}

impl FusedIterator for Batches<'_> {}

/// One whole batch, as the log has it.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Its header.
    pub header: BatchHeader,
    bytes: &'a [u8],
}

/// The marker in a control batch (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The transaction of the batch's producer is committed.
    Commit,
    /// It is aborted: its records were never there.
    Abort,
    /// A marker of another type, such as the new leader's (2, KIP-595).
    Other(i16),
    /// Compaction removed the marker and kept the batch for its producer's state.
    Removed,
}

impl Batch<'_> {
    /// Checks the batch's CRC-32C, unpacks it into `scratch` where it is compressed, and starts
    /// before its first record. Control records are returned unchanged: use [`Batch::control`] for
    /// them.
    ///
    /// # Errors
    /// When the sum differs, the codec is unknown or broken, or the limit of `scratch` is reached.
    pub fn records<'s>(&'s self, scratch: &'s mut Scratch) -> Result<Records<'s>, Unreadable> {
        self.check()?;
        let packed = self.bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        Ok(Records::new(&self.header, scratch.unpack(self.header.codec, packed)?))
    }

    /// The marker of the control batch.
    ///
    /// # Errors
    /// As [`Batch::records`]; and when the batch holds no control records, or the key of its record
    /// is no version and type.
    pub fn control(&self, scratch: &mut Scratch) -> Result<Control, Unreadable> {
        const ABORT: i16 = 0;
        const COMMIT: i16 = 1;
        if !self.header.is_control {
            return Err(Malformed::NoControl.into());
        }
        let mut records = self.records(scratch)?;
        let Some(record) = records.next() else { return Ok(Control::Removed) };
        // A marker does not count if the batch is broken after it.
        records.try_for_each(|record| record.map(drop))?;
        // Later versions only add to the key, as Kafka's Java client reads it.
        let key = record?.key.unwrap_or_default();
        let Some([_, _, high, low]) = key.first_chunk() else {
            return Err(Malformed::ControlKey(key.len()).into());
        };
        Ok(match i16::from_be_bytes([*high, *low]) {
            ABORT => Control::Abort,
            COMMIT => Control::Commit,
            other => Control::Other(other),
        })
    }

    fn check(&self) -> Result<(), Unreadable> {
        let stored = self.bytes.get(CRC_AT..).and_then(<[u8]>::first_chunk);
        let stored = u32::from_be_bytes(stored.copied().unwrap_or_default());
        let computed = crc32c::crc32c(self.bytes.get(CRC_COVERS_FROM..).unwrap_or_default());
        if stored == computed { Ok(()) } else { Err(Unreadable::Crc { stored, computed }) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Raw, built};
    use super::*;
    use crate::records::Codec;

    const LIMIT: usize = 1 << 20;

    fn offsets(set: &[u8]) -> Vec<Result<i64, BadBatch>> {
        batches(set).map(|batch| batch.map(|batch| batch.header.last_offset)).collect()
    }

    /// Prevents: an answer that ends in the middle of a batch, or of a header, taken for broken.
    #[test]
    fn a_cut_last_batch_ends_the_set() {
        let one = built(Codec::None, 3);
        let set = [&one[..], &one, &one].concat();
        for cut in 0..=set.len() {
            assert_eq!(offsets(&set[..cut]), vec![Ok(2); cut / one.len()], "cut at {cut}");
        }
    }

    /// Prevents: an old message that follows, shorter than a header of v2, taken for a cut batch.
    #[test]
    fn a_bad_header_ends_the_set_with_its_error() {
        let one = built(Codec::None, 3);
        let mut old = [0; 34];
        old[8..12].copy_from_slice(&22_i32.to_be_bytes());
        old[16] = 1;
        let set = [&one[..], &old, &one].concat();
        assert_eq!(offsets(&set), [Ok(2), Err(BadBatch::OldFormat { magic: 1 })]);
        assert_eq!(offsets(&old), [Err(BadBatch::OldFormat { magic: 1 })]);
    }

    /// Prevents: bytes that changed on a disk or on their way, delivered as an event.
    #[test]
    fn a_changed_byte_behind_the_sum_is_never_read() {
        let mut scratch = Scratch::new(LIMIT);
        for codec in Codec::ALL {
            let one = built(codec, 3);
            for at in CRC_AT..one.len() {
                for bit in [0x01, 0x80] {
                    let mut flipped = one.clone();
                    flipped[at] ^= bit;
                    let Some(Ok(batch)) = batches(&flipped).next() else { continue };
                    let refused = batch.records(&mut scratch).expect_err("a flipped bit");
                    assert_eq!(refused.reason(), "crc", "{codec:?}, byte {at}: {refused}");
                }
            }
        }
    }

    #[test]
    fn control_records_by_their_type() {
        let mut scratch = Scratch::new(LIMIT);
        let control = |key: Option<&[u8]>, scratch: &mut Scratch| {
            let marker = Raw { control: true, ..Raw::default() }.record(0, key, Some(&[0; 6]));
            let bytes = marker.batch();
            let batch = batches(&bytes).next().expect("a batch").expect("a good one");
            batch.control(scratch)
        };
        for (kind, control_kind) in [
            (0, Control::Abort),
            (1, Control::Commit),
            (2, Control::Other(2)),
            (-1, Control::Other(-1)),
        ] {
            for (version, more) in [(0_u8, &[][..]), (1, &[9])] {
                let key = [&[0, version][..], &i16::to_be_bytes(kind), more].concat();
                assert_eq!(control(Some(&key), &mut scratch), Ok(control_kind));
            }
        }
        let half = Raw { control: true, announced: Some(2), ..Raw::default() };
        let half = half.record(0, Some(&[0, 0, 0, 1]), None).batch();
        let batch = batches(&half).next().expect("a batch").expect("a good one");
        let missing = Malformed::Missing { missing: 1, announced: 2 };
        assert_eq!(batch.control(&mut scratch), Err(missing.into()));
        for key in [None, Some(&[][..]), Some(&[0, 0, 0])] {
            let len = key.unwrap_or_default().len();
            assert_eq!(control(key, &mut scratch), Err(Malformed::ControlKey(len).into()));
        }
    }

    /// Prevents: a data batch asked for its marker, an emptied control batch taken for broken.
    #[test]
    fn no_control_record() {
        let mut scratch = Scratch::new(LIMIT);
        let plain = built(Codec::None, 1);
        let batch = batches(&plain).next().expect("a batch").expect("a good one");
        assert_eq!(batch.control(&mut scratch), Err(Malformed::NoControl.into()));
        let emptied = Raw { control: true, ..Raw::default() }.batch();
        let batch = batches(&emptied).next().expect("a batch").expect("a good one");
        assert_eq!(batch.control(&mut scratch), Ok(Control::Removed));
    }
}
