//! Runs other programs to their end, or ties them to this process so that they do not outlive it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::interrupt::{Interrupt, LOOK};
use crate::failure::Failure;
use crate::logging::said;

/// Time for a child that got a signal to end, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How many lines of a log are shown when its process broke.
pub const LAST_LINES: usize = 15;

/// Runs `words` and returns their output.
///
/// # Errors
/// When there is no such tool, or it fails: with its output.
pub fn run(words: &[&str]) -> Result<String, Failure> {
    run_on("", words)
}

/// The same, with `input` as stdin.
///
/// # Errors
/// As [`run`].
pub fn run_on(input: &str, words: &[&str]) -> Result<String, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", words.join(" ")));
    let Some((program, rest)) = words.split_first() else { return Ok(String::new()) };
    // A group of its own: a Ctrl-C in the terminal is for the run alone.
    let mut command = Command::new(program);
    command.args(rest).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = fed(&mut command, input).and_then(Child::wait_with_output);
    let output = output.map_err(|e| failed(format!("cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // Some tools write their errors to stdout.
    let words = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(failed(format!("failed: {}", said(words).trim())))
}

/// Starts `command`, which reads `input`. Only a little: a pipe holds 64 KiB.
///
/// # Errors
/// When it cannot be started. A program that does not read its input fails later, and its end says
/// why.
pub fn fed(command: &mut Command, input: &str) -> io::Result<Child> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let _it_may_have_ended = stdin.write_all(input.as_bytes());
    }
    Ok(child)
}

/// Runs `words` to their end, for at most `time`, with their output on stderr; a signal to us ends
/// them.
///
/// # Errors
/// When there is no such tool, it fails or takes too long; [`Failure::Interrupted`].
pub fn attend(words: &[&str], time: Duration, interrupt: &Interrupt) -> Result<(), Failure> {
    let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let child = tied(&owned).stdin(Stdio::null()).stdout(io::stderr()).spawn();
    let line = words.join(" ");
    let mut child = child.map_err(|e| Failure::Failed(format!("setpriv {line}: {e}")))?;
    match ended(&mut child, time, interrupt)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Failure::Failed(format!("{line}: {status}"))),
        None => Err(Failure::Failed(format!("{line}: not done after {} s", time.as_secs()))),
    }
}

/// Waits for a child's end for at most `time`. It ends one that takes longer, and also when a
/// signal comes.
///
/// # Errors
/// [`Failure::Interrupted`].
pub fn ended(
    child: &mut Child,
    time: Duration,
    interrupt: &Interrupt,
) -> Result<Option<ExitStatus>, Failure> {
    let ended = interrupt.until(time, || child.try_wait().map_err(Failure::failed));
    if !matches!(ended, Ok(Some(_))) {
        send(child, Signal::TERM);
        if !is_gone_within(child, END_WITHIN) {
            send(child, Signal::KILL);
        }
    }
    ended
}

/// The end of a log, for when its process broke.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// `command` in a group of its own, with a signal to end when this process is gone.
pub fn tied(command: &[String]) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "TERM"]).args(command).process_group(0);
    // The run and the reports read lines that are logged at info: a program's address, its counts.
    tied.env_remove("LAB_LOG");
    tied
}

/// Sends `signal` to a child and what it started; to no process when it has ended and been waited
/// for.
pub fn send(child: &Child, signal: Signal) {
    if let Some(group) = group_of(child) {
        let _may_be_gone = kill_process_group(group, signal);
    }
}

/// Whether no process of a child's group runs any more; asked when the child itself has been waited for.
pub fn is_group_gone(child: &Child) -> bool {
    let Some(group) = group_of(child) else { return true };
    if test_kill_process_group(group).is_err() {
        return true;
    }
    // Where the first process of a container waits for nobody, the dead stay in its table.
    let group = group.as_raw_nonzero().get();
    let stats = procfs::process::all_processes().into_iter().flatten();
    let mut stats = stats.filter_map(|process| process.ok()?.stat().ok());
    !stats.any(|stat| stat.pgrp == group && !matches!(stat.state, 'Z' | 'X'))
}

fn group_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Waits for a child that got a signal to end.
pub fn is_gone_within(child: &mut Child, time: Duration) -> bool {
    let end = Instant::now() + time;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}
