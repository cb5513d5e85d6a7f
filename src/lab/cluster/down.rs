//! Shows the state of brokers, kills and stops them; deletes the whole cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::process::Signal;

use super::folder::Mode;
use super::{BROKERS, Cluster, docker, jvm, ms};
use crate::cli;
use crate::failure::Failure;
use crate::lab::interrupt::Interrupt;

const STOP_WITHIN: Duration = Duration::from_secs(30);
/// A process that was sent signal 9 is gone once the kernel has freed what it held.
const DIE_WITHIN: Duration = Duration::from_secs(10);

/// Prints one line a broker.
///
/// # Errors
/// Names those that are not up.
pub fn status(cluster: &Cluster, json: bool) -> Result<(), Failure> {
    let mut down = Vec::new();
    for n in BROKERS {
        let (port, pid) = (cluster.broker_port(n), cluster.pid(n));
        let state = match pid {
            None => "down",
            Some(_) if cluster.engine().is_ready(cluster, n) => "up",
            Some(_) => "starting",
        };
        let rss_mib = match pid {
            None => Some(0),
            Some(pid) => rss_mib(pid),
        };
        if state != "up" {
            down.push(format!("broker {n} is {state}"));
        }
        if json {
            let shown = serde_json::json!({
                "broker": n, "state": state, "pid": pid, "port": port, "rss_mib": rss_mib
            });
            cli::say_json(&shown)?;
        } else {
            let or_dash = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
            let (pid, rss) = (or_dash(pid.map(u64::from)), or_dash(rss_mib));
            cli::say(format_args!("broker={n} state={state} pid={pid} port={port} rss_mib={rss}"))?;
        }
    }
    if down.is_empty() { Ok(()) } else { Err(Failure::Failed(down.join(", "))) }
}

fn rss_mib(pid: u32) -> Option<u64> {
    let status = Process::new(i32::try_from(pid).ok()?).ok()?.status().ok()?;
    Some(status.vmrss? / 1024)
}

/// Kills every broker of this folder and deletes what `up` made there.
///
/// # Errors
/// When the folder is not a cluster's, or a broker does not die.
pub fn down(data: &Path) -> Result<(), Failure> {
    let (since, shown) = (Instant::now(), data.display().to_string());
    let cluster = Cluster::open(data)?;
    if cluster.is_none() && data.exists() {
        let why = format!("--data {shown} is no cluster's folder: nothing is deleted");
        return Err(Failure::Failed(why));
    }
    if cluster.is_none() && BROKERS.iter().all(|n| jvm::pids(data, *n).is_empty()) {
        log::info!(data = shown; "cluster already down");
        return Ok(());
    }
    remove(data, cluster.as_ref())?;
    log::info!(data = shown, ms = ms(since); "cluster down");
    Ok(())
}

/// The same, with the cluster where it is known. No signal ends it early: a half-deleted cluster is
/// worse.
pub(super) fn remove(data: &Path, cluster: Option<&Cluster>) -> Result<(), Failure> {
    if let Some(cluster) = cluster.filter(|cluster| cluster.mode == Mode::Docker) {
        docker::remove(cluster)?;
    }
    BROKERS.iter().for_each(|n| jvm::signal(data, *n, Signal::KILL));
    for n in BROKERS {
        let gone = || Ok(jvm::pids(data, n).is_empty().then_some(()));
        let what = format!("the end of broker {n}");
        if Interrupt::default().patiently(&what, DIE_WITHIN, gone)?.is_none() {
            return Err(does_not_die(n, jvm::pids(data, n).first().copied()));
        }
    }
    Cluster::remove_files(data)
}

fn does_not_die(n: u32, pid: Option<u32>) -> Failure {
    let pid = pid.unwrap_or_default();
    Failure::Failed(format!("broker {n} (pid {pid}) does not die: is it another user's?"))
}

impl Cluster {
    /// Kills broker `n` with signal 9.
    ///
    /// # Errors
    /// When it does not die.
    pub(super) fn kill(&self, n: u32, interrupt: &Interrupt) -> Result<(), Failure> {
        match self.end(n, Signal::KILL, DIE_WITHIN, interrupt)? {
            Some(pid) => Err(does_not_die(n, Some(pid))),
            None => Ok(()),
        }
    }

    /// Stops broker `n` in order: others first take over its partitions. One that takes too long is
    /// killed.
    ///
    /// # Errors
    /// When it does not die.
    pub(super) fn stop(&self, n: u32, interrupt: &Interrupt) -> Result<(), Failure> {
        let late = self.end(n, Signal::TERM, STOP_WITHIN, interrupt)?;
        late.map_or(Ok(()), |pid| {
            log::warn!(broker = n, pid = pid, after_s = STOP_WITHIN.as_secs(); "broker stop overdue: it is killed");
            self.kill(n, interrupt)
        })
    }

    /// Ends broker `n` by `signal`; gives its pid where it has not ended in this time.
    fn end(
        &self,
        n: u32,
        signal: Signal,
        within: Duration,
        interrupt: &Interrupt,
    ) -> Result<Option<u32>, Failure> {
        let since = Instant::now();
        let Some(pid) = self.pid(n) else {
            log::info!(broker = n; "broker already down");
            return Ok(None);
        };
        self.engine().signal(self, n, signal);
        if !self.is_gone_within(n, within, interrupt)? {
            return Ok(Some(pid));
        }
        let how = if signal == Signal::KILL { "broker killed" } else { "broker stopped" };
        log::info!(broker = n, pid = pid, ms = ms(since); "{how}");
        Ok(None)
    }
}
