//! Where the queue spills, how much, and when offsets are let go; why it may not. Opens nothing.

use std::io;
use std::path::PathBuf;

use super::log::Limits;
use super::segment::SEGMENT_BYTES;
use crate::units;

/// When the offsets of what is on disk are let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Commit {
    /// After the sink's ack, as anywhere. Costs nothing; what retention deletes before is lost if this process ends.
    #[default]
    Acked,
    /// Once it is durable here. Costs a write of every event and ten syncs a second, and at a crash duplicates of what was
    /// not yet noted as acked.
    Spilled,
}

impl Commit {
    /// Reads `acked` or `spilled`.
    ///
    /// # Errors
    /// The names that are allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        units::one_of(text, &[("acked", Self::Acked), ("spilled", Self::Spilled)])
    }

    /// How the names of its segments end.
    pub(super) fn ext(self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Spilled => "spilled",
        }
    }
}

/// Where it spills, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder; this process's alone.
    pub dir: PathBuf,
    /// Largest size of all segments together, B.
    pub bytes_max: u64,
    /// When offsets are let go.
    pub commit: Commit,
}

/// Largest size of all segments together where none is named, B.
pub const BYTES_MAX: u64 = 2 << 30;
/// Fewest segments that the limit has room for: the one that is read, the one that is written, and two between.
pub const SEGMENTS_MIN: u64 = 4;

impl Settings {
    /// Reads a limit that has room for enough segments.
    ///
    /// # Errors
    /// The sizes that are allowed.
    pub fn bytes_max(text: &str) -> Result<u64, String> {
        let bytes = units::size(text)?;
        let least = SEGMENTS_MIN * SEGMENT_BYTES;
        let allowed = format!("expected at least {least} B: {SEGMENTS_MIN} segments of 8 MiB");
        (bytes >= least).then_some(bytes).ok_or(allowed)
    }

    /// The limits of its log.
    pub fn limits(&self) -> Limits {
        Limits { bytes_max: self.bytes_max, segment_bytes: SEGMENT_BYTES }
    }
}

/// Why the spill cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The disk refuses.
    #[error("--spill-dir: {file} cannot be {what}: {why}")]
    Disk {
        /// Its path.
        file: String,
        /// What was tried: "read".
        what: &'static str,
        /// The system's reason.
        why: io::Error,
    },
    /// What is there is not what was written.
    #[error(
        "--spill-dir: {file} offset {at}: {why}; its events may be in Kafka still: move the folder away to go on without it"
    )]
    Broken {
        /// Its path.
        file: String,
        /// Where, B.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// The folder is not for this process to use.
    #[error("--spill-dir: {0}")]
    Refused(String),
}

impl SpillError {
    pub(super) fn disk(file: String, what: &'static str, why: io::Error) -> Self {
        Self::Disk { file, what, why }
    }
}
