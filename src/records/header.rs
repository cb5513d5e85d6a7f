//! The header of a record batch v2: its fields, its checks, and their positions.
//!
//! An accepted header gives a size to skip and a next position that is higher: its length covers
//! the header, its offsets ascend, and the offset after its last one fits an i64. Its CRC is not
//! checked here, because that needs the whole batch.
//!
//! Layout (Kafka protocol guide, "Record Batch"): baseOffset i64, batchLength i32,
//! partitionLeaderEpoch i32, magic i8, crc u32, attributes i16, lastOffsetDelta i32, baseTimestamp
//! i64, maxTimestamp i64, producerId i64, producerEpoch i16, baseSequence i32, records i32.

use bytes::Buf as _;

use super::error::BadBatch;

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Bytes before those that the length counts: the base offset 8 and the length 4.
pub(super) const LOG_OVERHEAD: usize = 12;
/// Position of the message format, in all formats.
const MAGIC_AT: usize = 16;
/// The message format that is read and written.
pub(super) const MAGIC_V2: i8 = 2;
/// Position of the CRC-32C.
pub(super) const CRC_AT: usize = 17;
/// First byte that the CRC-32C covers: a broker rewrites only bytes before it.
pub(super) const CRC_COVERS_FROM: usize = 21;

const CODEC_BITS: u8 = 0x07;
const LOG_APPEND_TIME_BIT: u8 = 0x08;
const TRANSACTIONAL_BIT: u8 = 0x10;
const CONTROL_BIT: u8 = 0x20;

/// The fields of a batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// First offset of the batch; above the one asked for where the log has a gap.
    pub base_offset: i64,
    /// Last offset of the batch. Compaction keeps it, even where the record is gone.
    pub last_offset: i64,
    /// Bytes of the whole batch in the log.
    pub size: usize,
    /// Epoch of the partition's leader that appended it; -1 from a producer.
    pub leader_epoch: i32,
    /// Compression codec, attribute bits 0 to 2: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub codec: u8,
    /// It holds a control record, such as a transaction marker, and no other.
    pub is_control: bool,
    /// It belongs to a transaction.
    pub is_transactional: bool,
    /// The producer's id; -1 where the producer is not idempotent.
    pub producer_id: i64,
    /// The producer's epoch, -1 likewise.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 likewise.
    pub base_sequence: i32,
    /// Number of its records; compaction may leave fewer than it has offsets, or none.
    pub records: i32,
    /// Timestamp that the records' deltas are added to, ms since the epoch.
    pub base_timestamp_ms: i64,
    /// Highest timestamp of a record, ms since the epoch.
    pub max_timestamp_ms: i64,
    /// The broker stamped it: each record has `max_timestamp_ms`.
    pub log_append_time: bool,
}

/// Reads the header at the start of `bytes`; the bytes after it may be missing.
///
/// # Errors
/// When it is cut short, of an older format, or when its size and offsets cannot be those of a
/// batch: such a header gives no position. The format is checked as soon as its byte is there: a
/// message of format v0 or v1 can be shorter than a header of v2.
pub fn parse_header(bytes: &[u8]) -> Result<BatchHeader, BadBatch> {
    const LENGTH_MIN: i32 = (BATCH_HEADER_BYTES - LOG_OVERHEAD) as i32;
    let cut_short = BadBatch::CutShort { left: bytes.len() };
    let magic = bytes.get(MAGIC_AT).ok_or(cut_short)?.cast_signed();
    if magic != MAGIC_V2 {
        return Err(BadBatch::OldFormat { magic });
    }
    // Each field is there once MAGIC_AT is, or the whole header; `Buf` panics on none of them.
    let mut header = bytes;
    let base_offset = header.get_i64();
    let length = header.get_i32();
    let size = match usize::try_from(length) {
        Ok(counted) if length >= LENGTH_MIN => LOG_OVERHEAD + counted,
        _ => return Err(BadBatch::Length { length }),
    };
    if bytes.len() < BATCH_HEADER_BYTES {
        return Err(cut_short);
    }
    let leader_epoch = header.get_i32();
    header.advance(CRC_COVERS_FROM - MAGIC_AT);
    let [_, attributes] = header.get_u16().to_be_bytes();
    let last_offset_delta = header.get_i32();
    let base_timestamp_ms = header.get_i64();
    let max_timestamp_ms = header.get_i64();
    let producer_id = header.get_i64();
    let producer_epoch = header.get_i16();
    let base_sequence = header.get_i32();
    let records = header.get_i32();
    let last_offset = base_offset.saturating_add(i64::from(last_offset_delta));
    // The offset after the last one must fit too: it is the next position.
    if base_offset < 0 || last_offset < base_offset || last_offset == i64::MAX || records < 0 {
        return Err(BadBatch::Impossible { base_offset, last_offset, records });
    }
    Ok(BatchHeader {
        base_offset,
        last_offset,
        size,
        leader_epoch,
        codec: attributes & CODEC_BITS,
        is_control: attributes & CONTROL_BIT != 0,
        is_transactional: attributes & TRANSACTIONAL_BIT != 0,
        producer_id,
        producer_epoch,
        base_sequence,
        records,
        base_timestamp_ms,
        max_timestamp_ms,
        log_append_time: attributes & LOG_APPEND_TIME_BIT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with each field different, and every attribute but the delete horizon.
    fn bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(1_000_i64.to_be_bytes());
        bytes.extend(88_i32.to_be_bytes());
        bytes.extend(7_i32.to_be_bytes());
        bytes.push(2);
        bytes.extend(0xdead_beef_u32.to_be_bytes());
        bytes.extend(0x003b_i16.to_be_bytes());
        bytes.extend(41_i32.to_be_bytes());
        bytes.extend(2_000_i64.to_be_bytes());
        bytes.extend(3_000_i64.to_be_bytes());
        bytes.extend(4_000_i64.to_be_bytes());
        bytes.extend(5_i16.to_be_bytes());
        bytes.extend(6_i32.to_be_bytes());
        bytes.extend(42_i32.to_be_bytes());
        bytes
    }

    fn with(at: usize, field: &[u8]) -> Result<BatchHeader, BadBatch> {
        let mut bytes = bytes();
        bytes[at..at + field.len()].copy_from_slice(field);
        parse_header(&bytes)
    }

    #[test]
    fn each_field_is_read_from_its_place() {
        let header = BatchHeader {
            base_offset: 1_000,
            last_offset: 1_041,
            size: 100,
            leader_epoch: 7,
            codec: 3,
            is_control: true,
            is_transactional: true,
            producer_id: 4_000,
            producer_epoch: 5,
            base_sequence: 6,
            records: 42,
            base_timestamp_ms: 2_000,
            max_timestamp_ms: 3_000,
            log_append_time: true,
        };
        assert_eq!(bytes().len(), BATCH_HEADER_BYTES);
        assert_eq!(parse_header(&bytes()), Ok(header));
        let plain = BatchHeader {
            codec: 0,
            is_control: false,
            is_transactional: false,
            log_append_time: false,
            ..header
        };
        assert_eq!(with(21, &[0, 0]), Ok(plain));
        for (bit, read) in [
            (8, BatchHeader { log_append_time: true, ..plain }),
            (16, BatchHeader { is_transactional: true, ..plain }),
            (32, BatchHeader { is_control: true, ..plain }),
            (7, BatchHeader { codec: 7, ..plain }),
        ] {
            assert_eq!(with(21, &[0, bit]), Ok(read));
        }
    }

    /// Prevents: a position taken from a header that is no header.
    #[test]
    fn impossible_headers_are_refused() {
        let impossible = |base_offset, last_offset, records| {
            Err(BadBatch::Impossible { base_offset, last_offset, records })
        };
        assert_eq!(with(0, &(-1_i64).to_be_bytes()), impossible(-1, 40, 42));
        assert_eq!(
            with(0, &(i64::MAX - 41).to_be_bytes()),
            impossible(i64::MAX - 41, i64::MAX, 42)
        );
        assert!(with(0, &(i64::MAX - 42).to_be_bytes()).is_ok());
        assert_eq!(with(0, &i64::MAX.to_be_bytes()), impossible(i64::MAX, i64::MAX, 42));
        assert_eq!(with(23, &(-1_i32).to_be_bytes()), impossible(1_000, 999, 42));
        assert_eq!(with(57, &(-1_i32).to_be_bytes()), impossible(1_000, 1_041, -1));
        for length in [48, 0, -1, i32::MIN] {
            assert_eq!(with(8, &length.to_be_bytes()), Err(BadBatch::Length { length }));
        }
        assert_eq!(with(8, &49_i32.to_be_bytes()).map(|h| h.size), Ok(BATCH_HEADER_BYTES));
        assert_eq!(with(8, &i32::MAX.to_be_bytes()).map(|h| h.size), Ok(12 + 0x7fff_ffff));
    }

    /// Prevents: a message of an old format, or an impossible length, taken for a header that is
    /// cut off: its reader would request the same bytes for ever.
    #[test]
    fn a_cut_header_is_judged_by_what_is_there() {
        let whole = bytes();
        for left in 0..whole.len() {
            assert_eq!(parse_header(&whole[..left]), Err(BadBatch::CutShort { left }));
        }
        for magic in [0, 1, 3, -1] {
            assert_eq!(with(16, &[magic as u8]), Err(BadBatch::OldFormat { magic }));
            let mut old = bytes();
            old[16] = magic as u8;
            assert_eq!(parse_header(&old[..17]), Err(BadBatch::OldFormat { magic }));
        }
        let mut short = bytes();
        short[8..12].copy_from_slice(&20_i32.to_be_bytes());
        assert_eq!(parse_header(&short[..32]), Err(BadBatch::Length { length: 20 }));
    }
}
