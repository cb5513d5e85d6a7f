//! The system's own tools, run to their end.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::failure::Failure;
use crate::logging::said;

/// What `words` print.
///
/// # Errors
/// When there is no such tool, or it fails: with its words.
pub fn run(words: &[&str]) -> Result<String, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", words.join(" ")));
    let Some((program, rest)) = words.split_first() else { return Ok(String::new()) };
    // A Ctrl-C in the terminal is for the run alone.
    let output = Command::new(program).args(rest).stdin(Stdio::null()).process_group(0).output();
    let output = output.map_err(|e| failed(format!("cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!("failed: {}", said(&output.stderr).trim())))
}
