//! One batch at a time, where a plain fetch cannot go on: its answer was empty although there is
//! more (a batch larger than the fetch), it skipped offsets (plain and compressed batches in one
//! set; compaction left a gap), or it failed as a whole (a codec that crate `kafka` cannot read).
//!
//! The batch's own header gives its size, codec and offsets, so the next fetch can request exactly
//! this batch, and the number of skipped records is exact.

use crate::brokers::Brokers;
use crate::brokers::wire::{self, Peeked};
use crate::records::BatchHeader;

/// What to do at a position.
pub enum Step {
    /// The log ends here.
    End,
    /// Retention deleted the position, or the log ends before it.
    OutOfRange,
    /// The log has nothing below `to`.
    Gap {
        /// First offset that exists.
        to: i64,
    },
    /// A transaction marker up to `to`; it holds no record.
    Control {
        /// First offset after it.
        to: i64,
    },
    /// The batch's codec cannot be read; its offsets end below `to`.
    Unreadable {
        /// The reason it is counted under.
        codec: &'static str,
        /// First offset after it.
        to: i64,
    },
    /// Fetch exactly this batch.
    Batch {
        /// Its size.
        bytes: i32,
        /// The rest of its header.
        header: BatchHeader,
    },
    /// The batch is larger than the limit.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// First offset after it.
        to: i64,
    },
    /// The header could not be read now.
    Failed(String),
}

/// Reads batch headers from one broker.
pub struct Stepper<'a> {
    /// The brokers.
    pub brokers: &'a Brokers,
    /// The broker's address.
    pub address: &'a str,
    /// The topic.
    pub topic: &'a str,
}

impl Stepper<'_> {
    /// The next step at `position`; batches above `bytes_max` are too large.
    pub fn next(&self, partition: i32, position: i64, bytes_max: i32) -> Step {
        let batch =
            match wire::peek_batch(self.brokers, self.address, self.topic, partition, position) {
                Ok(Peeked::Batch(batch)) => batch,
                Ok(Peeked::End) => return Step::End,
                Ok(Peeked::OutOfRange) => return Step::OutOfRange,
                Err(e) => return Step::Failed(format!("batch header: {e}")),
            };
        let to = batch.last_offset + 1;
        if batch.base_offset > position {
            return Step::Gap { to: batch.base_offset };
        }
        if to <= position {
            return Step::Failed(format!(
                "asked for offset {position}, got the batch {}..{to}",
                batch.base_offset
            ));
        }
        if batch.is_control {
            return Step::Control { to };
        }
        match (batch.codec, i32::try_from(batch.size)) {
            (3, _) => Step::Unreadable { codec: "lz4", to },
            (4, _) => Step::Unreadable { codec: "zstd", to },
            (5.., _) => Step::Unreadable { codec: "unknown_codec", to },
            (_, Ok(bytes)) if bytes <= bytes_max => Step::Batch { bytes, header: batch },
            _ => Step::TooLarge { bytes: batch.size, to },
        }
    }
}
