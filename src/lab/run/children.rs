//! The processes of an arm: started, watched and stopped by the run, each with its own files in the
//! arm's folder: NAME.json is its stdout, NAME.log its stderr.
//!
//! Invariant: a process never outlives its `Children`, whatever it does: it gets a signal to end,
//! and is killed if it does not. Each leads a process group of its own, so that a Ctrl-C in the
//! terminal reaches the run alone, which then stops things in order; if the run itself is killed,
//! the kernel signals the process to end (`setpriv --pdeathsig`).

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::commands;
use crate::failure::Failure;
use crate::lab::interrupt::Interrupt;
use crate::lab::procs::Watched;
use crate::lab::tools::{is_gone_within, last_lines, send, tied};

/// Limits for a program to log its address; for an orderly stop (a processor drains for at most 10
/// s and commits); for the stop of a run that broke.
const LISTEN_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const ABORT_WITHIN: Duration = Duration::from_secs(3);

/// See the module.
pub struct Children {
    dir: PathBuf,
    interrupt: Interrupt,
    all: Vec<(String, Child)>,
}

impl Children {
    /// None yet; their files are in `dir`, which exists.
    pub fn new(dir: &Path, interrupt: &Interrupt) -> Self {
        Self { dir: dir.to_owned(), interrupt: interrupt.clone(), all: Vec::new() }
    }

    /// Starts `command` as `name`; returns its pid.
    ///
    /// # Errors
    /// When its files cannot be made, or there is no such program.
    pub fn start(&mut self, name: &str, command: &[String]) -> Result<u32, Failure> {
        commands::note(&self.dir, &commands::line(command))?;
        let file = |path: PathBuf| {
            File::create(&path)
                .map_err(|e| Failure::Failed(format!("{}: cannot be made: {e}", path.display())))
        };
        let child = tied(command)
            .stdin(Stdio::null())
            .stdout(file(self.dir.join(format!("{name}.json")))?)
            .stderr(file(self.log(name))?)
            .spawn()
            .map_err(|e| Failure::Failed(format!("{name} cannot be started: setpriv: {e}")))?;
        let pid = child.id();
        self.all.push((name.to_owned(), child));
        Ok(pid)
    }

    /// The address at which `name` listens, as soon as it prints or logs one.
    ///
    /// # Errors
    /// When it ends, or does not listen in time; [`Failure::Interrupted`].
    pub fn address(&mut self, name: &str) -> Result<String, Failure> {
        let (interrupt, log) = (self.interrupt.clone(), self.log(name));
        let found = interrupt.until(LISTEN_WITHIN, || {
            self.alive()?;
            let said = |file: &Path| listening(&fs::read_to_string(file).unwrap_or_default());
            Ok(said(&log).or_else(|| said(&log.with_extension("json"))))
        })?;
        found.ok_or_else(|| {
            self.broken(name, &format!("does not listen after {} s", LISTEN_WITHIN.as_secs()))
        })
    }

    /// Checks that all of them run.
    ///
    /// # Errors
    /// When one has ended.
    pub fn alive(&mut self) -> Result<(), Failure> {
        match self.ended()? {
            Some((name, status)) => Err(self.ended_early(&name, status)),
            None => Ok(()),
        }
    }

    /// One that has ended since the last call.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<(String, ExitStatus)>, Failure> {
        for at in 0..self.all.len() {
            let Some((name, child)) = self.all.get_mut(at) else { break };
            let status = child.try_wait().map_err(|e| Failure::Failed(format!("{name}: {e}")))?;
            if let Some(status) = status {
                let (name, _) = self.all.remove(at);
                return Ok(Some((name, status)));
            }
        }
        Ok(None)
    }

    /// Whether `name` runs.
    pub fn runs(&self, name: &str) -> bool {
        self.all.iter().any(|(known, _)| known == name)
    }

    /// The process `name` in `/proc`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn watched(&self, name: &str) -> Result<Watched, Failure> {
        Watched::open(name, i32::try_from(self.pid(name)).map_err(Failure::failed)?)
    }

    /// Sends `signal` to the processes called `name`.
    pub fn signal(&self, name: &str, signal: Signal) {
        for (_, child) in self.all.iter().filter(|(known, _)| known == name) {
            send(child, signal);
        }
    }

    /// Signals it to end, and waits: it must end with exit code 0.
    ///
    /// # Errors
    /// When it ended before, does not end in time, or ends otherwise; [`Failure::Interrupted`].
    pub fn stop(&mut self, name: &str) -> Result<(), Failure> {
        self.alive()?;
        commands::note(&self.dir, &format!("kill -TERM {}", self.pid(name)))?;
        self.signal(name, Signal::TERM);
        let late = format!("did not stop within {} s of SIGTERM", STOP_WITHIN.as_secs());
        self.ends_well(name, STOP_WITHIN, "stopped", &late)
    }

    /// Kills it with signal 9; its end is then no failure.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub fn kill(&mut self, name: &str) -> Result<(), Failure> {
        commands::note(&self.dir, &format!("kill -KILL {}", self.pid(name)))?;
        self.signal(name, Signal::KILL);
        self.ends(name, STOP_WITHIN).map(drop)
    }

    /// Waits until it has done its work, for at most `time`.
    ///
    /// # Errors
    /// When it does not end in time with exit code 0; [`Failure::Interrupted`].
    pub fn finished(&mut self, name: &str, time: Duration) -> Result<(), Failure> {
        self.ends_well(name, time, "ended", &format!("has not ended after {} s", time.as_secs()))
    }

    /// Waits for exit code 0: else it has `ended` badly, or is `late`.
    fn ends_well(
        &mut self,
        name: &str,
        time: Duration,
        ended: &str,
        late: &str,
    ) -> Result<(), Failure> {
        match self.ends(name, time)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(self.broken(name, &format!("{ended} with exit code {}", code(status))))
            }
            None => Err(self.broken(name, late)),
        }
    }

    /// Its pid; 0 when it does not run.
    pub fn pid(&self, name: &str) -> u32 {
        self.all.iter().find(|(known, _)| known == name).map_or(0, |(_, child)| child.id())
    }

    /// Signals it to end, and ignores its output and its exit code.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub fn dismiss(&mut self, name: &str) -> Result<(), Failure> {
        self.signal(name, Signal::TERM);
        self.ends(name, STOP_WITHIN).map(drop)
    }

    /// Waits for its end, whatever its exit code; `None` when it has not ended after `time`.
    ///
    /// # Errors
    /// When another one ends meanwhile; [`Failure::Interrupted`].
    pub fn ends(&mut self, name: &str, time: Duration) -> Result<Option<ExitStatus>, Failure> {
        let interrupt = self.interrupt.clone();
        interrupt.until(time, || {
            if !self.runs(name) {
                return Ok(Some(ExitStatus::default()));
            }
            match self.ended()? {
                Some((ended, status)) if ended == name => Ok(Some(status)),
                Some((other, status)) => Err(self.ended_early(&other, status)),
                None => Ok(None),
            }
        })
    }

    /// The failure of `name`, which ended although it should run.
    pub fn ended_early(&self, name: &str, status: ExitStatus) -> Failure {
        self.broken(name, &format!("ended too early, with exit code {}", code(status)))
    }

    /// The failure of `name`, with its last words on stderr.
    pub fn broken(&self, name: &str, what: &str) -> Failure {
        let log = self.log(name);
        for line in last_lines(&log).lines() {
            log::error!(process = name, line = line; "its last words");
        }
        Failure::Failed(format!("the {name} {what} (everything it said: {})", log.display()))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (_, child) in &self.all {
            send(child, Signal::CONT); // a stopped process handles no signal
            send(child, Signal::TERM);
        }
        for (name, child) in &mut self.all {
            if !is_gone_within(child, ABORT_WITHIN) {
                send(child, Signal::KILL);
                let _reaped = child.wait();
            }
            log::warn!(name = name.as_str(), pid = child.id(); "stopped early");
        }
    }
}

/// The exit code as a shell has it: 128 and the signal's number.
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The first address in a log: `addr=127.0.0.1:1234`, `listen="127.0.0.1:1234"`, or the latter as JSON.
fn listening(log: &str) -> Option<String> {
    log.lines().find_map(|line| {
        ["addr=", "listen=", "listen\":"].into_iter().find_map(|key| {
            let (_, value) = line.split_once(key)?;
            let value = value.trim_start_matches('"');
            let end = value.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            let address = value.get(..end.unwrap_or(value.len()))?;
            address.parse::<std::net::SocketAddr>().is_ok().then(|| address.to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).into()
    }

    fn children() -> (tempfile::TempDir, Children) {
        let dir = tempfile::tempdir().expect("dir");
        let children = Children::new(dir.path(), &Interrupt::default());
        (dir, children)
    }

    const HEARS: &str = "echo msg=listening addr=127.0.0.1:4711 >&2;";

    /// Prevents: a run that goes on without one of its processes, or does not say which and why.
    #[test]
    fn one_that_dies_ends_the_run_with_its_last_words() {
        let (_dir, mut children) = children();
        children.start("sink", &shell("echo 'no room' >&2; exit 7")).expect("started");
        let why = children.address("sink").expect_err("it died").to_string();
        assert!(why.contains("the sink ended too early, with exit code 7"), "{why}");
        children.start("sink", &shell("kill -9 $$")).expect("started");
        let why = children.address("sink").expect_err("it was killed").to_string();
        assert!(why.contains("exit code 137"), "{why}");
        let absent = ["/nowhere/sink".to_owned()];
        children.start("sink", &absent).expect("setpriv starts");
        assert!(children.address("sink").is_err());
    }

    /// Prevents: a wait for an end without a limit, or an exit code that is not checked.
    #[test]
    fn what_is_stopped_must_end_well() {
        let (_dir, mut children) = children();
        let good = format!("trap 'exit 0' TERM; {HEARS} while :; do sleep 0.01; done");
        children.start("sink", &shell(&good)).expect("started");
        assert_eq!(children.address("sink").expect("an address"), "127.0.0.1:4711");
        children.stop("sink").expect("exit code 0");
        let bad = format!("trap 'exit 3' TERM; {HEARS} while :; do sleep 0.01; done");
        children.start("sink", &shell(&bad)).expect("started");
        children.address("sink").expect("an address");
        let why = children.stop("sink").expect_err("3").to_string();
        assert!(why.contains("stopped with exit code 3"), "{why}");
    }

    /// Prevents: a process that outlives a run that broke, whatever signals it ignores and whatever
    /// it started.
    #[test]
    fn none_outlives_its_run_though_it_ignores_every_signal() {
        let (dir, mut children) = children();
        let deaf = format!("trap '' TERM INT; {HEARS} sleep 600 & while :; do sleep 0.01; done");
        let pid = children.start("sink", &shell(&deaf)).expect("started");
        children.address("sink").expect("an address");
        let group = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        drop(children);
        // Its init reaps what it started.
        let gone = || Ok(rustix::process::test_kill_process_group(group).err());
        let gone = Interrupt::default().until(Duration::from_secs(5), gone).expect("no signal");
        assert!(gone.is_some(), "{:?}", dir.path());
    }

    /// Prevents: a flood of output that stops its process, as a pipe without a reader would.
    #[test]
    fn one_that_floods_its_log_runs_on() {
        let (dir, mut children) = children();
        let flood = format!(
            "trap 'exit 0' TERM; yes error | head -c 3000000 >&2; {HEARS} while :; do sleep 0.01; done"
        );
        children.start("sink", &shell(&flood)).expect("started");
        children.address("sink").expect("an address");
        children.stop("sink").expect("exit code 0");
        let size = fs::metadata(dir.path().join("sink.log")).expect("a log").len();
        assert!(size > 3_000_000, "{size}");
    }

    #[test]
    fn an_address_is_found_as_programs_write_it() {
        assert_eq!(listening("a\nb addr=127.0.0.1:80 c"), Some("127.0.0.1:80".into()));
        assert_eq!(listening("listen=\"10.0.0.1:9\""), Some("10.0.0.1:9".into()));
        assert_eq!(listening("{\"listen\":\"10.0.0.1:9\"}"), Some("10.0.0.1:9".into()));
        assert_eq!(listening("addr=127.0.0.1: connecting"), None);
    }
}
