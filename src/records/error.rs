//! Why bytes are no batch ([`BadBatch`]), and why a batch cannot be read ([`Unreadable`]).
//!
//! The two differ in what a reader may do next. After a [`BadBatch`] there is no next position,
//! because the start of the next batch is not known. An [`Unreadable`] batch has a good header: its
//! offsets can be counted, and the next batch starts after it.

use super::header::BATCH_HEADER_BYTES;

/// Why bytes give no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// The bytes end inside the header.
    #[error("the batch header is cut short: {left} bytes left, {BATCH_HEADER_BYTES} needed")]
    CutShort {
        /// Bytes that are there.
        left: usize,
    },
    /// The batch has message format v0 or v1, or a future one.
    #[error("the batch has message format {magic}, expected 2")]
    OldFormat {
        /// The format that it names.
        magic: i8,
    },
    /// The length cannot hold the header, so there is no next batch.
    #[error("no batch has a length of {length} bytes, its header alone takes 49")]
    Length {
        /// Announced bytes after the length field.
        length: i32,
    },
    /// Offsets or a count that no batch has.
    #[error("no batch has {records} records at offsets {base_offset} to {last_offset}")]
    Impossible {
        /// First offset.
        base_offset: i64,
        /// Last offset; it saturates at `i64::MAX`.
        last_offset: i64,
        /// Records announced.
        records: i32,
    },
}

/// Why a batch with a good header cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The bytes differ from those that were written.
    #[error("the CRC-32C is {computed:#010x}, the batch says {stored:#010x}")]
    Crc {
        /// The sum that the batch carries.
        stored: u32,
        /// The sum of its bytes.
        computed: u32,
    },
    /// Codec bits without a meaning in Kafka.
    #[error("codec {0} is unknown, expected 0 to 4")]
    Codec(u8),
    /// The codec's own format is broken.
    #[error("cannot be unpacked with {codec}: {why}")]
    Unpack {
        /// The codec's name.
        codec: &'static str,
        /// The library's error.
        why: String,
    },
    /// The unpacked records are larger than the limit: a decompression bomb, or a limit too low.
    #[error("takes more than {limit} bytes when unpacked with {codec}")]
    TooLarge {
        /// The codec's name.
        codec: &'static str,
        /// Bytes that may be unpacked.
        limit: usize,
    },
    /// The content of the batch is not records.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Unreadable {
    /// A short label for counts; the codec's name where its format is broken.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Crc { .. } => "crc",
            Self::Codec(_) => "unknown_codec",
            Self::Unpack { codec, .. } => codec,
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// What is wrong with the records of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A record, or a field of one, goes on after the end.
    #[error("a record is cut short: {needed} bytes needed, {left} left")]
    CutShort {
        /// Bytes that the field announces.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A varint goes on for too long, or is larger than its type.
    #[error("a number of a record does not fit into {bits} bits")]
    Number {
        /// Bits of the type.
        bits: u32,
    },
    /// A length or a count that is negative where null is not allowed.
    #[error("a record has a length of {0}")]
    Length(i32),
    /// The record's fields take fewer bytes than the record.
    #[error("a record has {0} bytes more than its fields take")]
    LongRecord(usize),
    /// An offset outside the batch, or not after the record before it.
    #[error("a record has offset {offset}, expected {least} to {last}")]
    Offset {
        /// The record's offset; it saturates at `i64::MAX`.
        offset: i64,
        /// Lowest that may follow.
        least: i64,
        /// Last offset of the batch.
        last: i64,
    },
    /// The bytes end before the last announced record.
    #[error("{missing} of {announced} records are missing")]
    Missing {
        /// Records that are not there.
        missing: i32,
        /// Records that the header announces.
        announced: i32,
    },
    /// Bytes follow the last announced record.
    #[error("{0} bytes follow the last record")]
    Leftover(usize),
    /// A marker was requested from a batch without control records.
    #[error("the batch holds no control record")]
    NoControl,
    /// The key of a control record is no version and type.
    #[error("a control record has a key of {0} bytes, expected 4")]
    ControlKey(usize),
}
