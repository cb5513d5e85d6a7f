//! The three brokers, by `run/cluster.sh`: one that is up is used and left up; else one is started, and taken
//! down again when this is dropped. One that a killed run left is replaced.

use std::cell::Cell;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::children::{is_gone_within, send, tied};
use super::claims::ClusterLock;
use super::interrupt::Interrupt;
use crate::failure::Failure;
use crate::logging::said;

const SCRIPT: &str = "run/cluster.sh";
/// Its marker, with `key=value` lines.
const MARKER: &str = "backpressure-lab.cluster";
/// Longest `up`: what run/cluster.sh allows itself, and a download before.
const UP_WITHIN: Duration = Duration::from_secs(900);
/// How long an `up` that is told to end may take to undo what it began.
const UNDO_WITHIN: Duration = Duration::from_secs(30);

/// How a cluster is started where there is none.
pub struct New<'a> {
    /// Its first port; where there is a cluster, that must have it.
    pub port: Option<u16>,
    /// Room on its disk, B.
    pub disk_bytes: f64,
    /// Further flags of `up`.
    pub flags: &'a [&'a str],
}

/// See the module.
pub struct Cluster {
    data: PathBuf,
    brokers: String,
    version: String,
    /// Whether this run brought it up.
    is_ours: bool,
    /// Whether nothing has been run on brokers that just started.
    is_cold: Cell<bool>,
    lock: ClusterLock,
}

impl Cluster {
    /// The cluster in `data`; a `new` one where there is none.
    ///
    /// # Errors
    /// When it cannot be started, or none of its brokers is alive; [`Failure::Interrupted`].
    pub fn have(
        lock: ClusterLock,
        data: &Path,
        new: &New,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let mut cluster = Self {
            data: data.to_owned(),
            brokers: String::new(),
            version: String::new(),
            is_ours: false,
            is_cold: Cell::new(false),
            lock,
        };
        let is_there = cluster.ask(&["brokers"]).is_ok();
        if is_there && cluster.lock.left_behind(&cluster.marked("cluster_id")) {
            log::warn!(data = data.display().to_string(); "a run that was killed left its cluster behind");
            cluster.tell(&["down"])?;
        } else if is_there {
            cluster.has_a_broker()?;
        }
        cluster.is_ours = !data.join(MARKER).exists();
        cluster.is_cold.set(cluster.is_ours);
        let mut up: Vec<String> = vec!["up".into()];
        if cluster.is_ours {
            let disk = format!("{:.0}MiB", new.disk_bytes / f64::from(1 << 20));
            up.extend(["--topic", "", "--min-disk", &disk].map(str::to_owned));
            up.extend(new.flags.iter().map(|flag| (*flag).to_owned()));
        }
        if let Some(port) = new.port {
            up.extend(["--port".into(), port.to_string()]);
        }
        cluster.brokers = cluster.up(&up, interrupt)?;
        cluster.version = cluster.marked("version");
        if cluster.is_ours {
            let id = cluster.marked("cluster_id");
            let noted = cluster.lock.brought_up(&id);
            noted.map_err(|e| Failure::failed(format!("the cluster's lock: {e}")))?;
        }
        Ok(cluster)
    }

    /// Bootstrap list.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Kafka's release.
    pub fn version(&self) -> &str {
        if self.version.is_empty() { "unknown" } else { &self.version }
    }

    /// Whether this run started it.
    pub fn is_fresh(&self) -> bool {
        self.is_ours
    }

    /// Whether nothing has been run on brokers that just started: they are still compiling themselves.
    pub fn is_cold(&self) -> bool {
        self.is_cold.get()
    }

    /// An arm has been run on it.
    pub fn arm_was_run(&self) {
        self.is_cold.set(false);
    }

    /// (broker, pid) of each that runs on this machine; a container's may be another machine's.
    pub fn pids(&self) -> Vec<(String, String)> {
        let status = self.status();
        let of = |line: &str| -> Option<(String, String)> {
            let mut words = line.split(' ');
            let broker = words.next()?.replace('=', "-");
            let pid = words.find_map(|word| word.strip_prefix("pid="))?.to_owned();
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains("kafka").then_some((broker, pid))
        };
        status.lines().filter_map(of).collect()
    }

    /// Runs a command of `run/cluster.sh`, such as `topic create NAME`, to its end.
    ///
    /// # Errors
    /// When it fails; its words go where ours go.
    pub fn tell(&self, words: &[&str]) -> Result<(), Failure> {
        let status = self.command(words).stdout(Stdio::null()).status();
        match status.map_err(|e| Failure::Failed(format!("{SCRIPT}: {e}")))?.success() {
            true => Ok(()),
            false => {
                Err(Failure::Failed(format!("{SCRIPT} {}: its words are above", words.join(" "))))
            }
        }
    }

    /// Runs a command that answers, such as `coordinator GROUP`.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, words: &[&str]) -> Result<String, Failure> {
        let output = self.command(words).output();
        let output = output.map_err(|e| Failure::Failed(format!("{SCRIPT}: {e}")))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => {
                let why = said(&output.stderr);
                Err(Failure::Failed(format!("{SCRIPT} {}: {}", words.join(" "), why.trim())))
            }
        }
    }

    /// Where broker `n` keeps its logs.
    pub fn data_of(&self, n: u32) -> PathBuf {
        self.data.join(format!("broker-{n}/data"))
    }

    /// It fails where one of them is down, and says which.
    fn status(&self) -> String {
        let output = self.command(&["status"]).stderr(Stdio::null()).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    }

    /// The pid of broker `n`, where it runs on this machine.
    pub fn pid(&self, n: u32) -> Option<u32> {
        let name = format!("broker-{n}");
        self.pids().into_iter().find(|(of, _)| *of == name)?.1.parse().ok()
    }

    fn has_a_broker(&self) -> Result<(), Failure> {
        if self.status().split([' ', '\n']).any(is_pid) {
            return Ok(());
        }
        let data = self.data.display();
        Err(Failure::Failed(format!(
            "no broker of the cluster in {data} is alive: '{SCRIPT} up --data {data}' brings it back, \
             '{SCRIPT} down --data {data}' deletes it"
        )))
    }

    fn marked(&self, key: &str) -> String {
        let text = fs::read_to_string(self.data.join(MARKER)).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    }

    /// `up` undoes what it has begun when it is told to end.
    fn up(&self, words: &[String], interrupt: &Interrupt) -> Result<String, Failure> {
        let mut command = vec![SCRIPT.to_owned()];
        command.extend_from_slice(words);
        command.extend(["--data".into(), self.data.display().to_string()]);
        let failed = |why: String| Failure::Failed(format!("{SCRIPT} up: {why}"));
        let mut child = tied(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let ended = interrupt.until(UP_WITHIN, || child.try_wait().map_err(Failure::failed));
        let status = match ended {
            Ok(Some(status)) => status,
            Ok(None) | Err(_) => {
                send(&child, Signal::TERM);
                if !is_gone_within(&mut child, UNDO_WITHIN) {
                    send(&child, Signal::KILL);
                }
                interrupt.check()?;
                return Err(failed(format!("no cluster after {} s", UP_WITHIN.as_secs())));
            }
        };
        let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
        match status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(failed("its words are above".into())),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        command.args(words).arg("--data").arg(&self.data).stdin(Stdio::null());
        // A Ctrl-C in the terminal is for the run alone.
        command.process_group(0);
        command
    }

    /// Takes it down, if this run brought it up.
    ///
    /// # Errors
    /// When it stays up: the lock then says so to the next run.
    pub fn end(mut self) -> Result<(), Failure> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.is_ours) || !self.data.join(MARKER).exists() {
            return Ok(());
        }
        let id = self.marked("cluster_id");
        self.tell(&["down"]).inspect_err(|_| self.lock.leave_behind(&id))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(why) = self.take_down() {
            log::error!(why = why.to_string(); "the cluster stays up");
        }
    }
}

fn is_pid(word: &str) -> bool {
    word.strip_prefix("pid=").is_some_and(|pid| pid.parse::<u32>().is_ok())
}
