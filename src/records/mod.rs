//! Kafka record batches, format v2: pure functions over bytes.
//!
//! - `header` the batch header: its fields, its checks, their positions
//! - `batch`  walks the batches of a fetched set; CRC-32C; transaction markers
//! - `record` walks the records of one batch, without an allocation
//! - `unpack` decompresses a batch into one kept buffer, never beyond a limit
//! - `codec`  the codecs, their names, and how they pack records
//! - `build`  builds one batch from records
//! - `varint` the zigzag varints that records are made of
//! - `error`  why bytes are no batch, or cannot be read
//!
//! All input is untrusted: counts and lengths are checked against the bytes that are there before
//! memory is reserved. Nothing here knows the network, topics or positions; message formats v0 and
//! v1 are recognised, never read.
//!
//! Source: Kafka protocol guide, "Record Batch"; KIP-98 (format v2), KIP-74 (a cut last batch).

mod batch;
mod build;
mod codec;
mod error;
mod header;
#[cfg(test)]
mod interop;
mod record;
#[cfg(test)]
mod tests;
mod unpack;
mod varint;

pub use batch::{Batch, Batches, Control, announced, batches};
pub use build::{Builder, Full, NotPacked, ProducerStamp, record_bytes};
pub use codec::Codec;
pub use error::{BadBatch, Malformed, Unreadable};
pub use header::{BATCH_HEADER_BYTES, BatchHeader, parse_header};
pub use record::{Record, Records};
pub use unpack::Scratch;
