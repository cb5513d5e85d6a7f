//! Asks the sink for a fault, waits until it is over, and ends it early when it is interrupted.
//!
//! Invariant: the sink keeps the fault and its end, chaos does not; so nothing that happens to this
//! process or to the network can leave the sink slow.

pub mod flags;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli;
use crate::failure::Failure;
use crate::http::access::Token;
use crate::http::client::{CallError, Peer};
use crate::logging::{said, visible};
use crate::sink::control::{Command, Status};
use crate::sink::wire;
use crate::threads::Stop;
use crate::units;

/// Longest wait for the sink's answer: control needs no tokens.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the progress moves.
const TICK: Duration = Duration::from_millis(200);

/// The sink's control endpoint as chaos sees it.
pub struct Chaos {
    sink: Peer,
}

impl Chaos {
    /// Chaos for the sink at `url` (`http://127.0.0.1:9900`).
    ///
    /// # Errors
    /// When the address is no such URL.
    pub fn new(url: &str, token: Option<Token>) -> Result<Self, Failure> {
        Ok(Self { sink: Peer::new("--sink", url, token, CALL_TIMEOUT)? })
    }

    /// Asks for `fault` (which lasts `time`) and stays until it is over. `stop` ends it
    /// early.
    ///
    /// # Errors
    /// When the sink cannot be reached or refuses, and when `stop` cut the fault short.
    pub fn hold(&self, fault: &Command, time: Duration, stop: &Stop) -> Result<(), Failure> {
        let begun = Instant::now();
        let status = self.command(fault)?;
        let id = status.fault.as_ref().map(|fault| fault.id);
        cli::say(describe(&status))?;
        let cut_short = wait(time, stop);
        let held = units::show(begun.elapsed());
        let status = self.command(&Command::Restore { fault: id }).map_err(|failure| {
            let left = units::show(time.saturating_sub(begun.elapsed()));
            Failure::Failed(format!("{failure}; a sink that runs ends the fault itself in {left}"))
        })?;
        cli::say(describe(&status))?;
        if cut_short {
            return Err(Failure::Failed(format!(
                "interrupted: the fault lasted {held} of {}; it was ended",
                units::show(time)
            )));
        }
        Ok(())
    }

    /// Ends any fault.
    ///
    /// # Errors
    /// When the sink cannot be reached or refuses.
    pub fn restore(&self) -> Result<(), Failure> {
        cli::say(describe(&self.command(&Command::Restore { fault: None })?))
    }

    /// Prints the sink's status.
    ///
    /// # Errors
    /// When the sink cannot be reached or refuses.
    pub fn status(&self) -> Result<(), Failure> {
        let status = self.sink.get(wire::CONTROL).map_err(explain)?;
        cli::say(describe(&status))?;
        Ok(())
    }

    /// Sends `command` once and returns the sink's status.
    ///
    /// # Errors
    /// When the sink cannot be reached or refuses.
    pub fn command(&self, command: &Command) -> Result<Status, Failure> {
        self.sink.post(wire::CONTROL, command).map_err(explain)
    }
}

fn explain(error: CallError) -> Failure {
    let hint = match error {
        CallError::Unreachable { .. } => {
            "; is the sink running? Name it with --sink or LAB_SINK (default http://127.0.0.1:9900)"
        }
        CallError::Refused { status: 401 | 403, .. } => {
            "; give the sink's token with --token-file or LAB_TOKEN"
        }
        CallError::Refused { status: 404 | 405, .. } | CallError::Garbled { .. } => {
            "; is this address the lab's sink?"
        }
        CallError::Refused { .. } => "",
    };
    Failure::Failed(format!("{error}{hint}"))
}

/// One line for people: `200 tokens/s of 2000; stall 1: 1m 12s of 1m 30s left; 4 waiting`.
pub(crate) fn describe(status: &Status) -> String {
    let fault = status.fault.as_ref().map_or("no fault".to_owned(), |fault| {
        let [left, time] = [fault.left_seconds, fault.for_seconds]
            .map(|s| units::show(Duration::try_from_secs_f64(s).unwrap_or_default()));
        let kind = visible(&said(fault.kind.as_bytes()));
        format!("{kind} {}: {left} of {time} left", fault.id)
    });
    let Status { rate, base_rate, waiting, .. } = status;
    format!("{rate} tokens/s of {base_rate}; {fault}; {waiting} waiting")
}

/// Waits for `time`, with a progress bar on a terminal; true when `stop` cut it short.
fn wait(time: Duration, stop: &Stop) -> bool {
    let end = Instant::now() + time;
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(time.as_millis() as u64).with_style(style())
    } else {
        ProgressBar::hidden()
    };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        bar.set_position((time - left).as_millis() as u64);
        if left.is_zero() {
            bar.finish_and_clear();
            return false;
        }
        if stop.wait(left.min(TICK)) {
            bar.abandon();
            return true;
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("fault {wide_bar} {elapsed} of it, {eta} left, Ctrl-C restores")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::SAID_CHARS_MAX;
    use crate::sink::control::{Costs, FaultStatus};

    /// Prevents a server that is taken for the sink from writing what it likes to a terminal.
    #[test]
    fn a_fault_of_any_name_is_one_short_line() {
        let kind = format!("stall\n\u{1b}[2Jerror: forged {}", "x".repeat(1 << 20));
        let fault = FaultStatus { id: 1, kind, rate: 0.0, for_seconds: 1e300, left_seconds: -1.0 };
        let (costs, fault) = (Costs::default(), Some(fault));
        let status = Status {
            base_rate: 2e3,
            rate: 0.0,
            costs,
            fault,
            waiting: 0,
            rejects: false,
            per_connection: false,
        };
        let line = describe(&status);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(r"stall\n\u{1b}[2Jerror: forged"), "{line}");
        assert!(line.chars().count() < SAID_CHARS_MAX + 100, "{line}");
    }
}
