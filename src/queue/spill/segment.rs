//! A segment: a file of records, the first of which is its header.
//!
//! A record is `u32 length | u32 events | u32 CRC-32C | payload`, big-endian. The CRC is over the segment's number, the
//! record's place in it, the number of its events and the payload. So bytes of another place, as after a torn
//! write, are no record, whatever they look like. Invariant: what [`parse`] returns was written there as it is.

use std::ops::Range;

/// Length of a segment, B: so much space comes back at once. A record that does not fit begins another.
pub const SEGMENT_BYTES: u64 = 8 << 20;
/// Bytes before a record's payload.
pub const RECORD_HEADER_BYTES: usize = 12;
/// Largest payload: a run's body of 4 MiB, and 8 B for each of at most 100,000 events.
pub const PAYLOAD_BYTES_MAX: usize = 5 << 20;
/// The header's first bytes: what it is, and the version of its form.
const MAGIC: &[u8; 8] = b"spill  1";
/// Longest header: that, two numbers and the names of a topic and a group.
pub const HEADER_BYTES_MAX: usize = 4096;

/// What a segment's first record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Events that were written before its first, ever.
    pub first: u64,
    /// Whose events they are.
    pub owner: String,
}

impl Header {
    /// Its payload.
    pub fn payload(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(self.owner.as_bytes());
        out
    }

    /// Reads a payload; `None` when it is no header.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(MAGIC)?;
        let (first, owner) = rest.split_first_chunk()?;
        let owner = str::from_utf8(owner).ok()?.to_owned();
        Some(Self { first: u64::from_be_bytes(*first), owner })
    }
}

/// Appends a record that will stand at `at` of segment `number`.
pub fn record(number: u64, at: u64, events: u32, payload: &[u8], out: &mut Vec<u8>) {
    // No longer than PAYLOAD_BYTES_MAX.
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&events.to_be_bytes());
    out.extend_from_slice(&crc(number, at, events, payload).to_be_bytes());
    out.extend_from_slice(payload);
}

fn crc(number: u64, at: u64, events: u32, payload: &[u8]) -> u32 {
    let mut place = [0; 20];
    let (first, rest) = place.split_at_mut(8);
    let (second, third) = rest.split_at_mut(8);
    first.copy_from_slice(&number.to_be_bytes());
    second.copy_from_slice(&at.to_be_bytes());
    third.copy_from_slice(&events.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), payload)
}

/// What stands at a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record {
        /// Its events; 0 in a header.
        events: u32,
        /// Where its payload is in the bytes that were shown.
        payload: Range<usize>,
    },
    /// As many bytes, from the record's first on, are needed to tell.
    Needs(usize),
    /// No record.
    Broken(&'static str),
}

/// What begins with `bytes`, at `at` of segment `number`.
pub fn parse(number: u64, at: u64, bytes: &[u8]) -> Found {
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Found::Needs(RECORD_HEADER_BYTES);
    };
    let [l0, l1, l2, l3, e0, e1, e2, e3, c0, c1, c2, c3] = *head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Found::Broken("no record begins here");
    }
    let whole = RECORD_HEADER_BYTES + length;
    let Some(payload) = rest.get(..length) else { return Found::Needs(whole) };
    let events = u32::from_be_bytes([e0, e1, e2, e3]);
    if u32::from_be_bytes([c0, c1, c2, c3]) != crc(number, at, events, payload) {
        return Found::Broken("its CRC-32C does not match");
    }
    Found::Record { events, payload: RECORD_HEADER_BYTES..whole }
}

/// The file name of segment `number`; files sort as their numbers.
pub fn name(number: u64, ext: &str) -> String {
    format!("{number:020}.{ext}")
}

/// The number in a file name that [`name`] made with `ext`.
pub fn number(name: &str, ext: &str) -> Option<u64> {
    let digits = name.strip_suffix(ext)?.strip_suffix('.')?;
    let is_whole = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    is_whole.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a damaged, moved or cut record that is taken for a whole one.
    #[test]
    fn a_record_is_whole_and_in_its_place_or_none() {
        let payload = b"some events".as_slice();
        let mut bytes = Vec::new();
        record(7, 100, 3, payload, &mut bytes);
        let whole = Found::Record { events: 3, payload: RECORD_HEADER_BYTES..bytes.len() };
        assert_eq!(parse(7, 100, &bytes), whole);
        assert!(matches!(parse(7, 101, &bytes), Found::Broken(_)), "of another place");
        assert!(matches!(parse(8, 100, &bytes), Found::Broken(_)), "of another segment");
        for cut in 0..bytes.len() {
            assert!(matches!(parse(7, 100, &bytes[..cut]), Found::Needs(n) if n > cut), "{cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(7, 100, &bad), Found::Record { .. }), "bit {bit}");
        }
        assert!(matches!(parse(7, 100, &[0; 64]), Found::Broken(_)), "a hole of a torn write");
    }

    #[test]
    fn names_sort_as_numbers_and_no_other_file_has_one() {
        assert!(name(9, "x") < name(10, "x"));
        for n in [0, 1, u64::MAX] {
            assert_eq!(number(&name(n, "x"), "x"), Some(n));
        }
        for other in ["lock", "acked", "1.x", "+0000000000000000001.x", &name(1, "y")] {
            assert_eq!(number(other, "x"), None, "{other}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header { first: 12, owner: "topic events, group läb".into() };
        assert_eq!(Header::read(&header.payload()), Some(header));
        assert_eq!(Header::read(b"spill  2________"), None);
        assert_eq!(Header::read(b""), None);
    }
}
