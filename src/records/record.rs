//! Walks the records of one batch, in place: no allocation, no copy.
//!
//! It returns as many records as the header announces, at ascending offsets inside the header's
//! range, or an error: it leaves out no record silently. Record headers are checked and skipped.
//!
//! Layout (Kafka protocol guide, "Record"): length varint, attributes i8, timestampDelta varlong,
//! offsetDelta varint, keyLength varint, key, valueLength varint, value, headers varint, and for
//! each: keyLength varint, key, valueLength varint, value. A length of -1 is null.

use std::iter::FusedIterator;

use super::error::{Malformed, Unreadable};
use super::header::BatchHeader;
use super::varint;

/// One record; its key and value are in the batch, or in the scratch it was unpacked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// Its timestamp, ms since the epoch: the producer's, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    /// Its key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is null, a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
}

/// The records of a batch. After an error it ends.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    /// Records still to come.
    left: i32,
    /// Lowest offset that the next record may have.
    least: i64,
    header: BatchHeader,
}

impl<'a> Records<'a> {
    pub(super) fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        Self { rest: records, left: header.records, least: header.base_offset, header: *header }
    }

    fn take(&mut self) -> Result<Record<'a>, Malformed> {
        if self.rest.is_empty() {
            let announced = self.header.records;
            return Err(Malformed::Missing { missing: self.left, announced });
        }
        let length = take_length(&mut self.rest)?;
        let mut fields = take(&mut self.rest, length)?;
        // A record's attributes have no meaning yet; those of the batch have.
        take(&mut fields, 1)?;
        let timestamp_delta = varint::take_i64(&mut fields)?;
        let offset = self.offset(varint::take_i32(&mut fields)?)?;
        let key = take_nullable(&mut fields)?;
        let value = take_nullable(&mut fields)?;
        pass_headers(&mut fields)?;
        if !fields.is_empty() {
            return Err(Malformed::LongRecord(fields.len()));
        }
        let timestamp_ms = if self.header.log_append_time {
            self.header.max_timestamp_ms
        } else {
            // Both may have any value; their sum wraps as in Kafka's Java client.
            self.header.base_timestamp_ms.wrapping_add(timestamp_delta)
        };
        self.left -= 1;
        self.least = offset.saturating_add(1);
        Ok(Record { offset, timestamp_ms, key, value })
    }

    fn offset(&self, delta: i32) -> Result<i64, Malformed> {
        let (least, last) = (self.least, self.header.last_offset);
        let offset = self.header.base_offset.saturating_add(i64::from(delta));
        if (least..=last).contains(&offset) {
            Ok(offset)
        } else {
            Err(Malformed::Offset { offset, least, last })
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Unreadable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let taken = match self.left {
            0 if self.rest.is_empty() => return None,
            0 => Err(Malformed::Leftover(self.rest.len())),
            _ => self.take(),
        };
        if taken.is_err() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(taken.map_err(Unreadable::from))
    }
}

impl FusedIterator for Records<'_> {}

/// Takes `count` bytes off the front of `bytes`.
#[inline]
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let cut = Malformed::CutShort { needed: count, left: bytes.len() };
    let (taken, rest) = bytes.split_at_checked(count).ok_or(cut)?;
    *bytes = rest;
    Ok(taken)
}

/// Takes a length that must not be null.
#[inline]
fn take_length(bytes: &mut &[u8]) -> Result<usize, Malformed> {
    let length = varint::take_i32(bytes)?;
    usize::try_from(length).map_err(|_| Malformed::Length(length))
}

/// Takes a length, and that many bytes; -1 is null.
#[inline]
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    const NULL: i32 = -1;
    match varint::take_i32(bytes)? {
        NULL => Ok(None),
        length => {
            let count = usize::try_from(length).map_err(|_| Malformed::Length(length))?;
            take(bytes, count).map(Some)
        }
    }
}

#[inline]
fn pass_headers(bytes: &mut &[u8]) -> Result<(), Malformed> {
    // The announced count is no bound: each header takes two bytes at least, so the bytes are.
    for _ in 0..take_length(bytes)? {
        let key_length = take_length(bytes)?;
        take(bytes, key_length)?;
        take_nullable(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Raw, built};
    use super::super::{Codec, Scratch, batches};
    use super::*;

    /// The records of the first batch, up to and with the first error.
    fn read(bytes: &[u8]) -> Vec<Result<(i64, i64), Unreadable>> {
        let batch = batches(bytes).next().expect("a batch").expect("a good header");
        let mut scratch = Scratch::new(0);
        let mut records = batch.records(&mut scratch).expect("a good batch");
        let taken = records.by_ref().map(|r| r.map(|r| (r.offset, r.timestamp_ms))).collect();
        assert!(records.next().is_none() && records.next().is_none(), "it is fused");
        taken
    }

    fn malformed(why: Malformed) -> Vec<Result<(i64, i64), Unreadable>> {
        vec![Err(why.into())]
    }

    /// Prevents: a gap of compaction taken for a loss, or an offset moved into it.
    #[test]
    fn a_compacted_batch_gives_what_is_left() {
        let batch = Raw { base_offset: 100, last_delta: Some(9), ..Raw::default() };
        let left = batch.clone().record(3, Some(b"k"), None).record(7, None, Some(b"v"));
        assert_eq!(read(&left.batch()), [Ok((103, 1_003)), Ok((107, 1_007))]);
        let header = parse(&left.batch());
        assert_eq!((header.base_offset, header.last_offset, header.records), (100, 109, 2));
        assert_eq!(read(&batch.batch()), []);
    }

    fn parse(bytes: &[u8]) -> BatchHeader {
        batches(bytes).next().expect("a batch").expect("a good header").header
    }

    #[test]
    fn timestamps_of_the_producer_or_of_the_broker() {
        let batch = Raw { base_timestamp: -5, max_timestamp: 77, ..Raw::default() };
        let batch = batch.record(0, None, None).record(1, None, None);
        assert_eq!(read(&batch.batch()), [Ok((0, -5)), Ok((1, -4))]);
        let stamped = Raw { log_append_time: true, ..batch };
        assert_eq!(read(&stamped.batch()), [Ok((0, 77)), Ok((1, 77))]);
    }

    /// Prevents: an offset that is returned twice, or that belongs to another batch.
    #[test]
    fn offsets_ascend_inside_the_batch() {
        let batch = Raw { base_offset: 10, last_delta: Some(2), ..Raw::default() };
        for (deltas, offset, least) in
            [(&[0, 0][..], 10, 11), (&[1, 0], 10, 11 + 1), (&[0, 3], 13, 11), (&[-1], 9, 10)]
        {
            let raw =
                deltas.iter().fold(batch.clone(), |raw, delta| raw.record(*delta, None, None));
            let last = Some(Err(Malformed::Offset { offset, least, last: 12 }.into()));
            assert_eq!(read(&raw.batch()).pop(), last, "{deltas:?}");
        }
    }

    #[test]
    fn as_many_records_as_announced() {
        let two = Raw::default().record(0, None, None).record(1, None, None);
        let more = Raw { announced: Some(3), last_delta: Some(2), ..two.clone() };
        let missing = Malformed::Missing { missing: 1, announced: 3 };
        assert_eq!(read(&more.batch()), [Ok((0, 1_000)), Ok((1, 1_001)), Err(missing.into())]);
        let fewer = Raw { announced: Some(1), ..two.clone() };
        assert_eq!(read(&fewer.batch()), [Ok((0, 1_000)), Err(Malformed::Leftover(7).into())]);
        let none = Raw { announced: Some(0), ..two };
        assert_eq!(read(&none.batch()), malformed(Malformed::Leftover(14)));
        // A count of 2 G records takes no more memory than the bytes that are there.
        let many = Raw { announced: Some(i32::MAX), ..Raw::default() };
        let missing = Malformed::Missing { missing: i32::MAX, announced: i32::MAX };
        assert_eq!(read(&many.batch()), malformed(missing));
    }

    /// Prevents: a length accepted beyond its record or its batch, or below zero.
    #[test]
    fn lengths_are_checked_against_the_bytes() {
        // length, attributes, timestamp delta, offset delta, key length, value length, headers.
        let whole = [12, 0, 0, 0, 1, 1, 0];
        let with = |at: usize, byte: u8| {
            let mut record = whole.to_vec();
            record[at] = byte;
            read(&Raw::default().bytes(1, &record).batch())
        };
        assert_eq!(with(0, 12), [Ok((0, 1_000))]);
        assert_eq!(with(0, 14), malformed(Malformed::CutShort { needed: 7, left: 6 }));
        assert_eq!(with(0, 1), malformed(Malformed::Length(-1)));
        assert_eq!(with(0, 10), malformed(Malformed::CutShort { needed: 1, left: 0 }));
        assert_eq!(with(4, 3), malformed(Malformed::Length(-2)));
        assert_eq!(with(4, 6), malformed(Malformed::CutShort { needed: 3, left: 2 }));
        assert_eq!(with(5, 3), malformed(Malformed::Length(-2)));
        assert_eq!(with(5, 4), malformed(Malformed::CutShort { needed: 2, left: 1 }));
        assert_eq!(with(6, 1), malformed(Malformed::Length(-1)));
        assert_eq!(with(6, 2), malformed(Malformed::CutShort { needed: 1, left: 0 }));
        let long = Raw::default().bytes(1, &[14, 0, 0, 0, 1, 1, 0, 0]).batch();
        assert_eq!(read(&long), malformed(Malformed::LongRecord(1)));
    }

    #[test]
    fn headers_are_passed_over_and_checked() {
        // Two headers: "a" = "bc", "" = null.
        let headers = [4, 2, b'a', 4, b'b', b'c', 0, 1];
        let record = |headers: &[u8]| {
            let fields = [&[0, 0, 0, 1, 1][..], headers].concat();
            let record = [&[2 * fields.len() as u8][..], &fields].concat();
            read(&Raw::default().bytes(1, &record).batch())
        };
        assert_eq!(record(&headers), [Ok((0, 1_000))]);
        for cut in 0..headers.len() {
            let out = record(&headers[..cut]);
            assert!(matches!(out[..], [Err(Unreadable::Malformed(_))]), "{cut}: {out:?}");
        }
        // A header's key may not be null; its value may.
        assert_eq!(record(&[2, 1, 0]), malformed(Malformed::Length(-1)));
        assert_eq!(record(&[2, 0, 3]), malformed(Malformed::Length(-2)));
        let many = [0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        assert_eq!(record(&many), malformed(Malformed::CutShort { needed: 1, left: 0 }));
    }

    /// Prevents: a record read beyond the batch that it is in.
    #[test]
    fn records_cut_at_every_byte() {
        let whole = built(Codec::None, 3);
        let body = &whole[super::super::BATCH_HEADER_BYTES..];
        for cut in 0..body.len() {
            let raw = Raw { last_delta: Some(2), ..Raw::default() }.bytes(3, &body[..cut]);
            let out = read(&raw.batch());
            assert!(out.len() <= 3, "{cut}: {out:?}");
            assert!(matches!(out.last(), Some(Err(Unreadable::Malformed(_)))), "{cut}: {out:?}");
        }
    }
}
