//! Builds one batch from records, in buffers that are kept for the next one.
//!
//! The result is what Kafka's Java client sends: base offset 0 (the broker assigns the real one),
//! partition leader epoch -1, CreateTime, offsets without a gap, no record headers. Invariant: a
//! finished batch is never larger than [`Builder::bytes`] says, whatever the codec.
//!
//! It has no limit but the format's own: the caller bounds a batch by [`record_bytes`] or
//! [`Builder::bytes`].

use bytes::BufMut as _;

use super::codec::Codec;
use super::header::{BATCH_HEADER_BYTES, CRC_AT, CRC_COVERS_FROM, LOG_OVERHEAD, MAGIC_V2};
use super::varint;

/// Largest batch that the format holds: its length is an i32, and counts all but 12 bytes of it.
const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// The sender of a batch, for brokers that recognise a resend (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The id from InitProducerId.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Sequence number of the batch's first record in its partition.
    pub base_sequence: i32,
}

impl ProducerStamp {
    /// A producer that is not idempotent.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
}

/// The batch would be larger than the format holds (2 GiB): the record is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch of {bytes} bytes has no room for a record of {record} more")]
pub struct Full {
    /// Bytes of the batch.
    pub bytes: usize,
    /// Bytes of the record, at most.
    pub record: usize,
}

/// The codec failed; the records are still there.
#[derive(Debug, thiserror::Error)]
#[error("{records} records cannot be packed with {codec}: {why}")]
pub struct NotPacked {
    /// Records of the batch.
    pub records: i32,
    /// The codec's name.
    pub codec: &'static str,
    /// The library's error.
    pub why: std::io::Error,
}

/// The most bytes that one record takes before compression, at any place in its batch, for a key
/// and a value of these lengths; 0 for null.
pub fn record_bytes(key_len: usize, value_len: usize) -> usize {
    fields_bytes(varint::I64_BYTES_MAX + varint::I32_BYTES_MAX, key_len, value_len)
        .saturating_add(varint::I32_BYTES_MAX)
}

/// Bytes of a record after its length, with deltas that take `deltas` bytes.
fn fields_bytes(deltas: usize, key_len: usize, value_len: usize) -> usize {
    const ATTRIBUTES: usize = 1;
    const HEADERS: usize = 1;
    let nullable =
        |len: usize| len.saturating_add(varint::len(i64::try_from(len).unwrap_or(i64::MAX)));
    (ATTRIBUTES + deltas + HEADERS)
        .saturating_add(nullable(key_len))
        .saturating_add(nullable(value_len))
}

/// One batch that grows by records, and is finished as bytes to send.
#[derive(Debug, Default)]
pub struct Builder {
    /// Room for the header, then the records.
    plain: Vec<u8>,
    /// The same, packed by the last [`Builder::finish`].
    packed: Vec<u8>,
    records: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl Builder {
    /// An empty batch. It takes memory with the first record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a record. `timestamp_ms` is ms since the epoch.
    ///
    /// # Errors
    /// When the format has no room for it.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), Full> {
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let (bytes, record) = (self.bytes(), record_bytes(len(key), len(value)));
        if self.records == i32::MAX || bytes.saturating_add(record) > BATCH_BYTES_MAX {
            return Err(Full { bytes, record });
        }
        if self.records == 0 {
            self.plain.resize(BATCH_HEADER_BYTES, 0);
            (self.base_timestamp_ms, self.max_timestamp_ms) = (timestamp_ms, timestamp_ms);
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        // A reader adds it again, and wraps in the same way.
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        put_record(&mut self.plain, timestamp_delta, self.records, key, value);
        self.records += 1;
        Ok(())
    }

    /// Records in the batch.
    pub fn len(&self) -> usize {
        usize::try_from(self.records).unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of the batch before compression: the most that it takes in a request.
    pub fn bytes(&self) -> usize {
        self.plain.len().max(BATCH_HEADER_BYTES)
    }

    /// The whole batch, ready to send; empty where there is no record. The records stay, so it may
    /// be finished again, for example with the next epoch, until [`Builder::clear`].
    ///
    /// Records that packing does not make smaller are left unpacked, and the header says so, as in
    /// librdkafka.
    ///
    /// # Errors
    /// When the codec is out of memory.
    pub fn finish(&mut self, codec: Codec, stamp: ProducerStamp) -> Result<&[u8], NotPacked> {
        if self.is_empty() {
            return Ok(&[]);
        }
        if codec != Codec::None {
            self.packed.clear();
            self.packed.resize(BATCH_HEADER_BYTES, 0);
            let records = self.plain.get(BATCH_HEADER_BYTES..).unwrap_or_default();
            codec.pack(records, &mut self.packed).map_err(|why| NotPacked {
                records: self.records,
                codec: codec.name(),
                why,
            })?;
        }
        let packs = codec != Codec::None && self.packed.len() < self.plain.len();
        let header = Header {
            attributes: i16::from(if packs { codec.bits() } else { Codec::None.bits() }),
            base_offset: 0,
            last_offset_delta: self.records - 1,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            stamp,
            records: self.records,
        };
        let batch = if packs { &mut self.packed } else { &mut self.plain };
        header.seal(batch);
        Ok(batch)
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.plain.clear();
        self.records = 0;
    }
}

/// Appends one record without headers.
pub(super) fn put_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) {
    const NULL: i64 = -1;
    const NO_ATTRIBUTES: u8 = 0;
    const NO_HEADERS: u8 = 0;
    let offset_delta = i64::from(offset_delta);
    let deltas = varint::len(timestamp_delta) + varint::len(offset_delta);
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let length = fields_bytes(deltas, len(key), len(value));
    // `Builder::push` has checked that all lengths fit.
    varint::put(i64::try_from(length).unwrap_or(i64::MAX), out);
    out.push(NO_ATTRIBUTES);
    varint::put(timestamp_delta, out);
    varint::put(offset_delta, out);
    for field in [key, value] {
        match field {
            None => varint::put(NULL, out),
            Some(bytes) => {
                varint::put(i64::try_from(bytes.len()).unwrap_or(i64::MAX), out);
                out.extend_from_slice(bytes);
            }
        }
    }
    out.push(NO_HEADERS);
}

/// A batch's header, without its length and its sum.
pub(super) struct Header {
    pub(super) attributes: i16,
    pub(super) base_offset: i64,
    pub(super) last_offset_delta: i32,
    pub(super) base_timestamp_ms: i64,
    pub(super) max_timestamp_ms: i64,
    pub(super) stamp: ProducerStamp,
    pub(super) records: i32,
}

impl Header {
    /// Writes the header over the first bytes of `batch`, whose records are there, and then its sum.
    pub(super) fn seal(&self, batch: &mut [u8]) {
        const NO_LEADER_EPOCH: i32 = -1;
        // No batch is larger than BATCH_BYTES_MAX.
        let length = i32::try_from(batch.len().saturating_sub(LOG_OVERHEAD)).unwrap_or(i32::MAX);
        let Some((mut header, _)) = batch.split_at_mut_checked(BATCH_HEADER_BYTES) else { return };
        header.put_i64(self.base_offset);
        header.put_i32(length);
        header.put_i32(NO_LEADER_EPOCH);
        header.put_i8(MAGIC_V2);
        header.put_u32(0);
        header.put_i16(self.attributes);
        header.put_i32(self.last_offset_delta);
        header.put_i64(self.base_timestamp_ms);
        header.put_i64(self.max_timestamp_ms);
        header.put_i64(self.stamp.producer_id);
        header.put_i16(self.stamp.producer_epoch);
        header.put_i32(self.stamp.base_sequence);
        header.put_i32(self.records);
        let sum = crc32c::crc32c(batch.get(CRC_COVERS_FROM..).unwrap_or_default());
        if let Some(field) = batch.get_mut(CRC_AT..CRC_COVERS_FROM) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: offsets that wrap, in a batch that the format cannot hold.
    #[test]
    fn a_batch_ends_where_the_format_does() {
        let mut builder = Builder { records: i32::MAX, ..Builder::new() };
        assert_eq!(builder.push(0, None, None), Err(Full { bytes: 61, record: 24 }));
        assert_eq!(builder.len(), i32::MAX as usize, "the record is not in it");
    }

    /// Prevents: a request that is larger than its sender reckoned.
    #[test]
    fn the_bytes_of_a_record_are_bounded() {
        // Length 5, attributes 1, deltas 10 and 5, key 1 + 8, value 2 + 536, headers 1.
        assert_eq!(record_bytes(8, 536), 5 + 1 + 10 + 5 + 9 + 538 + 1);
        assert_eq!(record_bytes(usize::MAX, 1), usize::MAX, "it saturates");
        let mut out = Vec::new();
        put_record(&mut out, i64::MIN, i32::MAX, Some(&[0; 8]), Some(&[0; 536]));
        // Its own length takes 2 bytes, not 5.
        assert_eq!(out.len() + 3, record_bytes(8, 536));
    }
}
