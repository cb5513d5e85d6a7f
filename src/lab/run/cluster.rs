//! The run's cluster: one that is up is used and left up; else one is started, and taken down again when this is
//! dropped. One that a killed run left is replaced.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use super::claims::ClusterLock;
use crate::failure::Failure;
use crate::lab::cluster::{self, Cluster as There};
use crate::lab::interrupt::Interrupt;

/// How a cluster is started where there is none.
pub struct New<'a> {
    /// Its first port; an existing cluster must have it too.
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
    /// Whether its brokers just started and no arm has run on them.
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
        let there = There::open(data)?;
        cluster.is_ours = match &there {
            None => true,
            Some(there) if cluster.lock.left_behind(there.id()) => {
                log::warn!(data = data.display().to_string(); "a run that was killed left its cluster behind");
                cluster.tell(&["down"])?;
                true
            }
            Some(there) => {
                there.lives()?;
                false
            }
        };
        cluster.is_cold.set(cluster.is_ours);
        let (disk, port) = (
            format!("{:.0}MiB", new.disk_bytes / f64::from(1 << 20)),
            new.port.map(|port| port.to_string()),
        );
        let (mut up, id) = (vec!["up"], cluster::new_id()?);
        if cluster.is_ours {
            // A run that is killed from here on leaves a cluster that the next one knows.
            let noted = cluster.lock.brought_up(&id);
            noted.map_err(|e| Failure::failed(format!("the cluster's lock: {e}")))?;
            up.extend(["--topic", "", "--min-disk", &disk, "--id", &id]);
            up.extend(new.flags);
        }
        up.extend(port.iter().flat_map(|port| ["--port", port]));
        let brokers = cluster.told(&up, interrupt);
        let there = There::open(data)?;
        if let (Err(Failure::Failed(_)), Some(there), true) = (&brokers, &there, cluster.is_ours) {
            // Its brokers are undone, and the error names their logs: the next run deletes them.
            cluster.is_ours = false;
            cluster.lock.leave_behind(there.id());
        }
        cluster.brokers = brokers?;
        let there = there.ok_or_else(|| Failure::failed("the cluster is gone again"))?;
        cluster.version = there.version().to_owned();
        Ok(cluster)
    }

    /// Bootstrap list.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Kafka's release.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether this run started it.
    pub fn is_fresh(&self) -> bool {
        self.is_ours
    }

    /// Whether its brokers just started and no arm has run on them: they are still compiling
    /// themselves.
    pub fn is_cold(&self) -> bool {
        self.is_cold.get()
    }

    /// Notes that an arm has been run on it.
    pub fn arm_was_run(&self) {
        self.is_cold.set(false);
    }

    /// (broker, pid) of each that runs on this machine; a container's may be another machine's.
    pub fn pids(&self) -> Vec<(String, String)> {
        self.processes().map(|(n, pid)| (format!("broker-{n}"), pid.to_string())).collect()
    }

    /// The pid of broker `n`, where it runs on this machine.
    pub fn pid(&self, n: u32) -> Option<u32> {
        self.processes().find(|(of, _)| *of == n).map(|(_, pid)| pid)
    }

    fn processes(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let all = There::open(&self.data).ok().flatten().map(|there| there.pids());
        let is_kafka = |pid: u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains("kafka")
        };
        all.unwrap_or_default().into_iter().filter(move |(_, pid)| is_kafka(*pid))
    }

    /// Does what these words say after `run/cluster.sh`, such as `topic create NAME`, and returns
    /// the answer. It runs to its end, because a run also uses it to undo things after a signal.
    ///
    /// # Errors
    /// When it fails.
    pub fn tell(&self, words: &[&str]) -> Result<String, Failure> {
        self.told(words, &Interrupt::default())
    }

    fn told(&self, words: &[&str], interrupt: &Interrupt) -> Result<String, Failure> {
        let data = self.data.display().to_string();
        cluster::tell(&[words, &["--data", &data]].concat(), interrupt)
    }

    /// Where broker `n` keeps its logs.
    pub fn data_of(&self, n: u32) -> PathBuf {
        self.data.join(format!("broker-{n}/data"))
    }

    /// Takes it down, if this run brought it up.
    ///
    /// # Errors
    /// When it stays up: the lock then tells the next run.
    pub fn end(mut self) -> Result<(), Failure> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Failure> {
        let there = There::open(&self.data).ok().flatten();
        match there.filter(|_| std::mem::take(&mut self.is_ours)) {
            Some(there) => {
                self.tell(&["down"]).map(drop).inspect_err(|_| self.lock.leave_behind(there.id()))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(why) = self.take_down() {
            log::error!(why = why.to_string(); "the cluster stays up");
        }
    }
}
