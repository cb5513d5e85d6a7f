//! Copies of a command: as many as are wanted, started, watched and stopped.
//!
//! Invariant: no copy outlives [`Members`]. Each leads a process group of its own, which gets the signals, so that what it
//! started ends with it; if this process is killed, the kernel signals the copy (`setpriv --pdeathsig`). A copy is over when
//! its whole group is: a shell may end before the consumer that it started. A number `{n}` belongs to one copy at a time,
//! also while that one is still stopping.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backoff::Backoff;
use crate::failure::Failure;
use crate::lab::tools::{is_group_gone, send, tied};

/// Ends without being asked, of any copies within [`LOST_WITHIN`], after which it is no use to start another.
const LOST_MAX: usize = 5;
const LOST_WITHIN: Duration = Duration::from_secs(60);
/// Wait before a copy that ended is replaced.
const REPLACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Between two looks at copies that are waited for, and how long what was killed is.
const LOOK: Duration = Duration::from_millis(10);
const KILLED_WITHIN: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Word by word, with `{n}` and `{start}`.
    pub command: Vec<String>,
    /// Most copies, and the largest `{n}`.
    pub most: usize,
    /// Where their output goes; without it, to ours.
    pub logs: Option<PathBuf>,
    /// Beginning of the names of these files.
    pub name: String,
    /// From SIGTERM until they are killed.
    pub stop_within: Duration,
}

struct Copy {
    n: usize,
    child: Child,
    /// Since when it was told to stop.
    told: Option<Instant>,
    /// Whether its first process has ended.
    has_ended: bool,
}

/// See the module.
pub struct Members {
    settings: Settings,
    all: Vec<Copy>,
    starts: usize,
    /// When copies ended without being asked.
    lost: Vec<Instant>,
    backoff: Backoff,
    not_before: Instant,
}

impl Members {
    /// None yet.
    pub fn new(settings: Settings) -> Self {
        let backoff = Backoff::new(REPLACE.0, REPLACE.1);
        let (all, lost) = (Vec::new(), Vec::new());
        Self { settings, all, starts: 0, lost, backoff, not_before: Instant::now() }
    }

    /// Copies that run and were not told to stop.
    pub fn running(&self) -> usize {
        self.all.iter().filter(|copy| copy.told.is_none()).count()
    }

    /// Notes those that have ended, and kills those that do not end in time.
    ///
    /// # Errors
    /// When too many ended without being asked.
    pub fn look(&mut self) -> Result<(), Failure> {
        self.reap();
        for copy in &self.all {
            if copy.told.is_some_and(|told| told.elapsed() >= self.settings.stop_within) {
                log::warn!(n = copy.n, pid = copy.child.id(); "it does not stop, killed");
                send(&copy.child, Signal::KILL);
            }
        }
        self.lost.retain(|at| at.elapsed() < LOST_WITHIN);
        if self.lost.len() < LOST_MAX {
            return Ok(());
        }
        let (program, within) = (self.settings.command.join(" "), LOST_WITHIN.as_secs());
        Err(Failure::Failed(format!(
            "{program}: {} copies ended by themselves within {within} s (their exit codes are above): start it by hand first",
            self.lost.len()
        )))
    }

    /// Lets go of those that are over; what a copy left behind when it ended is told to stop as well.
    fn reap(&mut self) {
        for mut copy in std::mem::take(&mut self.all) {
            if !copy.has_ended
                && let Ok(Some(status)) = copy.child.try_wait()
            {
                copy.has_ended = true;
                self.ended(&copy, status);
                if copy.told.is_none() {
                    copy.told = Some(Instant::now());
                    send(&copy.child, Signal::TERM);
                }
            }
            if !copy.has_ended || !is_group_gone(&copy.child) {
                self.all.push(copy);
            }
        }
    }

    /// Waits for the ends of all, for at most `time`; true when all have ended.
    fn are_gone_within(&mut self, time: Duration) -> bool {
        let begun = Instant::now();
        loop {
            self.reap();
            if self.all.is_empty() {
                return true;
            }
            if begun.elapsed() >= time {
                return false;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn ended(&mut self, copy: &Copy, status: ExitStatus) {
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        let (n, pid, code) = (copy.n, copy.child.id(), code.unwrap_or(-1));
        if copy.told.is_some() {
            log::info!(n = n, pid = pid, exit_code = code; "member ended");
            return;
        }
        log::warn!(n = n, pid = pid, exit_code = code; "a member ended by itself");
        self.lost.push(Instant::now());
        self.not_before = Instant::now() + self.backoff.wait();
    }

    /// Starts or stops copies, the newest first, until `wanted` run.
    ///
    /// # Errors
    /// When a copy cannot be started.
    pub fn want(&mut self, wanted: usize) -> Result<(), Failure> {
        while self.running() > wanted {
            let Some(newest) = self.all.iter_mut().rev().find(|copy| copy.told.is_none()) else {
                break;
            };
            log::info!(n = newest.n, pid = newest.child.id(); "member stops");
            newest.told = Some(Instant::now());
            send(&newest.child, Signal::TERM);
        }
        while self.running() < wanted && Instant::now() >= self.not_before {
            let taken: BTreeSet<usize> = self.all.iter().map(|copy| copy.n).collect();
            // One that still stops has its number: the next look may have it.
            let Some(n) = (1..=self.settings.most).find(|n| !taken.contains(n)) else {
                return Ok(());
            };
            self.start(n)?;
        }
        Ok(())
    }

    fn start(&mut self, n: usize) -> Result<(), Failure> {
        self.starts += 1;
        let start = self.starts;
        let filled = |word: &String| {
            word.replace("{n}", &n.to_string()).replace("{start}", &start.to_string())
        };
        let words: Vec<String> = self.settings.command.iter().map(filled).collect();
        let mut command = tied(&words);
        command.stdin(Stdio::null());
        if let Some(dir) = &self.settings.logs {
            let file = |ext: &str| {
                let path = dir.join(format!("{}-{start}.{ext}", self.settings.name));
                File::create(&path).map_err(|e| {
                    Failure::Failed(format!("--logs {}: cannot be made: {e}", path.display()))
                })
            };
            command.stdout(file("json")?).stderr(file("log")?);
        }
        let child = command.spawn().map_err(|e| {
            Failure::Failed(format!("{} cannot be started: setpriv: {e}", words.join(" ")))
        })?;
        log::info!(n = n, start = start, pid = child.id(); "member starts");
        self.all.push(Copy { n, child, told: None, has_ended: false });
        Ok(())
    }

    /// Stops all, and waits for their ends.
    ///
    /// # Errors
    /// When one had to be killed.
    pub fn end(mut self) -> Result<(), Failure> {
        self.want(0)?;
        if self.are_gone_within(self.settings.stop_within) {
            return Ok(());
        }
        let killed: Vec<String> = self.all.iter().map(|copy| copy.n.to_string()).collect();
        self.kill();
        Err(Failure::Failed(format!(
            "members {} did not stop within {} s of SIGTERM and were killed: what they had not committed comes again",
            killed.join(", "),
            self.settings.stop_within.as_secs()
        )))
    }

    fn kill(&mut self) {
        for copy in &self.all {
            send(&copy.child, Signal::KILL);
        }
        if !self.are_gone_within(KILLED_WITHIN) {
            let left: Vec<u32> = self.all.iter().map(|copy| copy.child.id()).collect();
            log::warn!(groups = format!("{left:?}").as_str(); "they do not end though they were killed");
        }
    }
}

impl Drop for Members {
    /// Only what a failure left: [`Members::end`] leaves none.
    fn drop(&mut self) {
        for copy in &self.all {
            send(&copy.child, Signal::TERM);
        }
        if !self.are_gone_within(Duration::from_secs(3)) {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, test_kill_process_group};

    use super::*;

    fn members(script: &str, dir: &std::path::Path) -> Members {
        patient(script, dir, Duration::from_millis(500))
    }

    fn patient(script: &str, dir: &std::path::Path, stop_within: Duration) -> Members {
        Members::new(Settings {
            command: ["sh", "-c", script, "{n}", "{start}"].map(str::to_owned).into(),
            most: 3,
            logs: Some(dir.to_owned()),
            name: "m".into(),
            stop_within,
        })
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    const WAITS: &str = "trap 'exit 0' TERM; echo $0 $1; while :; do sleep 0.01; done";

    fn printed(dir: &std::path::Path, start: usize) -> String {
        std::fs::read_to_string(dir.join(format!("m-{start}.json"))).unwrap_or_default()
    }

    fn only_group(members: &Members) -> Pid {
        let [copy] = &members.all[..] else { panic!("{} copies", members.all.len()) };
        Pid::from_raw(i32::try_from(copy.child.id()).expect("a pid")).expect("a pid")
    }

    /// Prevents: two copies with one number, which is a port or a group.instance.id.
    #[test]
    fn the_newest_goes_first_and_its_number_comes_back_when_it_has_ended() {
        let dir = tempfile::tempdir().expect("dir");
        let mut members = members(WAITS, dir.path());
        members.want(3).expect("started");
        until("all said who they are", || {
            (1..=3).all(|start| printed(dir.path(), start) == format!("{start} {start}\n"))
        });
        members.want(1).expect("told");
        assert_eq!(members.running(), 1);
        until("two have ended", || {
            members.look().expect("looked");
            members.all.len() == 1
        });
        members.want(2).expect("started");
        until("the fourth start is number 2", || printed(dir.path(), 4) == "2 4\n");
        members.end().expect("all end");
    }

    /// Prevents: a consumer that cannot start and is started for ever; one that died and is not replaced.
    #[test]
    fn one_that_ends_by_itself_is_replaced_and_too_many_end_the_command() {
        let dir = tempfile::tempdir().expect("dir");
        let mut members = members("exit 7", dir.path());
        let mut why = None;
        until("it gives up", || {
            members.not_before = Instant::now();
            why = members.look().and_then(|()| members.want(1)).err();
            why.is_some()
        });
        assert!(why.expect("a reason").to_string().contains("ended by themselves"));
        assert!(members.starts >= LOST_MAX);
    }

    /// Prevents: a consumer that goes on when the shell that started it has ended: beside one with its number, or after the
    /// command.
    #[test]
    fn a_copy_is_over_when_what_it_started_is() {
        let dir = tempfile::tempdir().expect("dir");
        // The shell ends at once; its child takes its time, or hears nothing.
        let slow = "(trap 'sleep 0.2; echo drained; exit 0' TERM; echo up; while :; do sleep 0.01; done) & wait";
        let mut quick_to_end = patient(slow, dir.path(), Duration::from_secs(8));
        quick_to_end.want(1).expect("started");
        until("it is up", || printed(dir.path(), 1) == "up\n");
        quick_to_end.want(0).expect("told");
        until("its number is free", || {
            quick_to_end.look().expect("looked");
            quick_to_end.all.is_empty()
        });
        assert_eq!(printed(dir.path(), 1), "up\ndrained\n");
        let deaf = "(trap '' TERM; echo up; while :; do sleep 0.01; done) & wait";
        let mut members = members(deaf, dir.path());
        members.want(1).expect("started");
        until("it is up", || printed(dir.path(), 1) == "up\n");
        let group = only_group(&members);
        assert!(members.end().expect_err("killed").to_string().contains("members 1"));
        until("its group is gone", || test_kill_process_group(group).is_err());
    }

    /// Prevents: a copy that outlives the command, whatever signals it ignores and whatever it started.
    #[test]
    fn one_that_does_not_stop_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().expect("dir");
        let deaf = "trap '' TERM; echo up; sleep 600 & while :; do sleep 0.01; done";
        let mut members = members(deaf, dir.path());
        members.want(1).expect("started");
        until("it is up", || printed(dir.path(), 1) == "up\n");
        let group = only_group(&members);
        let why = members.end().expect_err("killed").to_string();
        assert!(why.contains("members 1 did not stop"), "{why}");
        until("its group is gone", || test_kill_process_group(group).is_err());
    }
}
