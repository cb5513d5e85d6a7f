//! The errors that end a run, and the one place that maps them to exit codes.
//!
//! Invariant: a message names the thing, the value, the limit and what to do.

use std::process::ExitCode;

/// Why a command did not end with exit code 0.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The flags or their values cannot be used; nothing was started. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The work was started and could not be finished. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// A signal ended it before it was done. Exit code 128 and the signal's number.
    #[error("interrupted by signal {0}; everything that was started is stopped")]
    Interrupted(u8),
    /// The work was done and a verdict fell short of its margin. Exit code 3.
    #[error("{0}")]
    Verdict(String),
}

impl Failure {
    /// A failure of exit code 1 from any error.
    pub fn failed(what: impl std::fmt::Display) -> Self {
        Self::Failed(what.to_string())
    }

    /// A failure of exit code 2 for a flag: names the flag, its value and what it may be.
    pub fn flag(flag: &str, value: impl std::fmt::Display, allowed: &str) -> Self {
        Self::Usage(format!("{flag} {value}: {allowed}"))
    }

    /// 1 failed, 2 usage, 3 a verdict fell short (0, done, has no failure), 128 + N after signal N.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Verdict(_) => 3,
            Self::Interrupted(signal) => 128_u8.saturating_add(*signal),
        })
    }
}
