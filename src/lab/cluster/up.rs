//! Starts the brokers that are down.
//!
//! Invariant: if it ends early, it stops what it started. After a signal it deletes a folder that
//! it made itself; after a failure the folder stays, because its logs are worth keeping.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::folder::{self, Mode};
use super::{BROKERS, Cluster, Flags, UP_WITHIN, docker, down, host, ms, secure};
use crate::failure::Failure;
use crate::lab::interrupt::Interrupt;

/// Defaults of a new cluster.
const PORT: u16 = 19092;
const TOPIC: &str = "events";
const PARTITIONS: i32 = 12;
const MIN_DISK: u64 = 2 << 30;
/// A process that was just forked is not yet the broker that it becomes: until then nothing has ended.
const APPEARS_WITHIN: Duration = Duration::from_secs(2);
/// Limit for a killed broker to end.
const UNDO_WITHIN: Duration = Duration::from_secs(5);

/// Starts the brokers of the cluster in `data` that are down, and makes its topic; a new cluster
/// where there is none.
///
/// # Errors
/// When the cluster is not what the flags say, or this machine lacks what it needs; when a broker
/// does not come up (the end of its log is on stderr); [`Failure::Interrupted`].
pub fn up(data: &Path, flags: &Flags, interrupt: &Interrupt) -> Result<Cluster, Failure> {
    let since = Instant::now();
    let (cluster, is_new) = match Cluster::open(data)? {
        Some(cluster) => (cluster.that_is(flags)?, false),
        None => (Cluster::new(data, flags)?, true),
    };
    cluster.require()?;
    let dead: Vec<u32> = BROKERS.into_iter().filter(|n| cluster.pid(*n).is_none()).collect();
    host::check_ports(&cluster, &dead)?;
    let begun = || {
        cluster.engine().fetch(&cluster.version, interrupt)?;
        fs::create_dir_all(data).map_err(|e| folder::failed(data, &e))?;
        cluster.save()?;
        if cluster.secure {
            secure::make(&cluster)?;
        }
        // Fetching Kafka does not count against the brokers.
        let since = Instant::now();
        cluster.launch(&dead, interrupt)?;
        BROKERS.iter().try_for_each(|n| cluster.await_broker(*n, since, interrupt))?;
        match cluster.topic.as_str() {
            "" => Ok(()),
            topic => cluster.create(topic, cluster.partitions, &[], interrupt),
        }
    };
    begun()
        .inspect_err(|why| cluster.undo(&dead, is_new && matches!(why, Failure::Interrupted(_))))?;
    log::info!(
        mode = cluster.mode.name(), version = cluster.version.as_str(), brokers = cluster.bootstrap(),
        data = data.display().to_string(), started = dead.len(), ms = ms(since);
        "{}", if dead.is_empty() { "cluster already up" } else { "cluster up" }
    );
    Ok(cluster)
}

/// Fetches the release of Kafka for `up`.
///
/// # Errors
/// When it cannot be fetched; [`Failure::Interrupted`].
pub fn fetch(flags: &Flags, interrupt: &Interrupt) -> Result<(), Failure> {
    let mode = choose(flags, Ipv4Addr::LOCALHOST)?;
    host::require(mode.programs())?;
    let version = flags.version.clone().unwrap_or_else(pinned_version);
    mode.engine().fetch(&version, interrupt)
}

/// The release that the pom names.
fn pinned_version() -> String {
    let of = |text: &'static str| text.split_once("<kafka.version>")?.1.split_once('<');
    of(super::jvm::POM).map_or("", |(version, _)| version).to_owned()
}

/// JVMs where there is a Java for them, else Docker where an engine answers.
fn choose(flags: &Flags, host: Ipv4Addr) -> Result<Mode, Failure> {
    let mode = match flags.mode.flatten() {
        Some(Mode::Docker) if !docker::answers() => {
            return Err(Failure::Failed(
                "--mode docker: no Docker engine with the compose plugin answers ('docker info', 'docker compose \
                 version'); start it, or use --mode jvm".into(),
            ));
        }
        Some(mode) => mode,
        None if flags.secure || super::host::has_java() => Mode::Jvm,
        None if docker::answers() => Mode::Docker,
        None => Mode::Jvm,
    };
    if mode == Mode::Docker && host != Ipv4Addr::LOCALHOST {
        return Err(Failure::Failed(format!(
            "--host {host}: containers are published on 127.0.0.1 only; add --mode jvm, or leave it out"
        )));
    }
    Ok(mode)
}

impl Cluster {
    /// An existing cluster, with the flags' topic, if the rest is what the flags say.
    fn that_is(mut self, flags: &Flags) -> Result<Self, Failure> {
        let is_same = flags.version.as_ref().is_none_or(|version| *version == self.version)
            && flags.port.is_none_or(|port| port == self.port)
            && flags.id.as_ref().is_none_or(|id| *id == self.id)
            && flags.host.is_none_or(|host| host == self.host)
            && (!flags.secure || self.secure)
            && flags.mode.flatten().is_none_or(|mode| mode == self.mode);
        if !is_same {
            let (data, mode) = (self.data.display(), self.mode.name());
            let secure = if self.secure { "yes" } else { "no" };
            return Err(Failure::Failed(format!(
                "the cluster in {data} is mode={mode} version={} port={} host={} secure={secure}: 'run/cluster.sh \
                 down --data {data}' first, or choose another --data",
                self.version, self.port, self.host
            )));
        }
        self.topic = flags.topic.clone().unwrap_or(self.topic);
        self.partitions = flags.partitions.unwrap_or(self.partitions);
        Ok(self)
    }

    /// A new cluster.
    fn new(data: &Path, flags: &Flags) -> Result<Self, Failure> {
        if !folder::is_free(data) {
            return Err(Failure::Failed(format!(
                "--data {} exists and is no cluster's folder: choose another, or an empty one",
                data.display()
            )));
        }
        let host = flags.host.unwrap_or(Ipv4Addr::LOCALHOST);
        let mode = choose(flags, host)?;
        host::check_disk(data, flags.min_disk.unwrap_or(MIN_DISK))?;
        Ok(Self {
            data: data.to_owned(),
            mode,
            version: flags.version.clone().unwrap_or_else(pinned_version),
            port: flags.port.unwrap_or(PORT),
            host,
            secure: flags.secure,
            topic: flags.topic.clone().unwrap_or_else(|| TOPIC.to_owned()),
            partitions: flags.partitions.unwrap_or(PARTITIONS),
            id: flags.id.clone().map_or_else(folder::new_id, Ok)?,
        })
    }

    /// Starts broker `n` again, and waits until it accepts connections.
    ///
    /// # Errors
    /// As [`up`].
    pub(super) fn start(&self, n: u32, interrupt: &Interrupt) -> Result<(), Failure> {
        self.require()?;
        if self.pid(n).is_some() {
            log::info!(broker = n; "broker already started");
            return self.await_broker(n, Instant::now(), interrupt);
        }
        host::check_ports(self, &[n])?;
        let begun = || {
            self.engine().fetch(&self.version, interrupt)?;
            let since = Instant::now();
            self.launch(&[n], interrupt)?;
            self.await_broker(n, since, interrupt)
        };
        begun().inspect_err(|_| self.undo(&[n], false))
    }

    fn require(&self) -> Result<(), Failure> {
        let keytool: &[&str] = if self.secure { &["keytool"] } else { &[] };
        host::require(&[self.mode.programs(), keytool].concat())
    }

    fn launch(&self, brokers: &[u32], interrupt: &Interrupt) -> Result<(), Failure> {
        for n in brokers {
            log::info!(
                broker = *n, mode = self.mode.name(), version = self.version.as_str(), port = self.broker_port(*n);
                "broker starting"
            );
        }
        self.engine().launch(self, brokers, interrupt)
    }

    /// Waits until broker `n` accepts connections, at most [`UP_WITHIN`] from `since` on.
    fn await_broker(&self, n: u32, since: Instant, interrupt: &Interrupt) -> Result<(), Failure> {
        let mut was_there = false;
        let ready = || {
            if self.engine().is_ready(self, n) {
                return Ok(Some(()));
            }
            let is_there = self.pid(n).is_some();
            was_there |= is_there;
            if is_there || !was_there && since.elapsed() < APPEARS_WITHIN {
                return Ok(None);
            }
            Err(self.died(n, "ended while starting"))
        };
        let left = UP_WITHIN.saturating_sub(since.elapsed());
        let late =
            || self.died(n, &format!("accepts no connection after {} s", UP_WITHIN.as_secs()));
        interrupt.patiently(&format!("broker {n}"), left, ready)?.ok_or_else(late)?;
        let (pid, port) = (self.pid(n).unwrap_or_default(), self.broker_port(n));
        log::info!(broker = n, pid = pid, port = port, ms = ms(since); "broker up");
        Ok(())
    }

    /// The failure of a broker, with its last words on stderr.
    pub(super) fn died(&self, n: u32, what: &str) -> Failure {
        for line in self.engine().last_words(self, n).lines() {
            log::error!(broker = n, line = line; "its last words");
        }
        Failure::Failed(format!("broker {n} {what} (folder: {})", self.data.display()))
    }

    /// Stops `brokers`, which were to be started; deletes the folder where `whole`. No signal ends it.
    fn undo(&self, brokers: &[u32], whole: bool) {
        let started: Vec<u32> =
            brokers.iter().copied().filter(|n| self.pid(*n).is_some()).collect();
        started.iter().for_each(|n| self.engine().signal(self, *n, Signal::KILL));
        for n in started {
            match self.is_gone_within(n, UNDO_WITHIN, &Interrupt::default()) {
                Ok(true) => log::warn!(broker = n; "broker undone"),
                _ => log::warn!(broker = n, pid = self.pid(n).unwrap_or_default(); "broker left"),
            }
        }
        if whole {
            let removed =
                down::remove(&self.data, Some(self)).err().map_or("yes".into(), |e| e.to_string());
            log::warn!(data = self.data.display().to_string(), removed = removed; "interrupted");
        }
    }
}
