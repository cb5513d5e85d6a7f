//! `lab cluster`: three real Kafka brokers (KRaft, combined roles) on this machine.
//!
//! - `flags`   the words, and their allowed values
//! - `folder`  the data folder and its marker
//! - `up`      starts brokers, and undoes that on failure
//! - `down`    shows, kills and stops brokers; deletes all of it
//! - `topics`  creates, grows, deletes and lists topics; finds a group's coordinator
//! - `host`    what this machine must have: programs, ports, disk
//! - `jvm`, `docker`  the two ways in which brokers run, one seam: [`Engine`]
//! - `properties`, `secure`  a JVM broker's settings; its certificates and password
//!
//! Invariant: `up` leaves nothing half started, `down` leaves nothing. No remembered pid is ever signalled, and
//! only a folder with our marker is ever deleted. It builds nothing and tunes no setting of the host.

mod docker;
mod down;
mod flags;
mod folder;
mod host;
mod jvm;
mod properties;
mod secure;
mod topics;
mod up;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::FromArgs as _;
use rustix::process::Signal;

pub use flags::{Flags, port, version};
use folder::Mode;
pub use folder::{new_id, real};
pub use properties::retention_check_s;
pub use topics::create as create_topic;

use super::interrupt::Interrupt;
use crate::brokers::Brokers;
use crate::cli;
use crate::failure::Failure;

/// Twice the 52 s that three brokers took to recover on two cores at a load average of 14.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// The brokers, by number.
const BROKERS: [u32; 3] = [1, 2, 3];
const VERBS: &str = "fetch up down status brokers kill stop start topic coordinator";

/// A cluster: the settings of `up`, and the folder where it is.
#[derive(Debug, Clone)]
pub struct Cluster {
    data: PathBuf,
    mode: Mode,
    version: String,
    port: u16,
    host: Ipv4Addr,
    secure: bool,
    topic: String,
    partitions: i32,
    id: String,
}

/// A way in which brokers run. Broker `n` is 1, 2 or 3.
trait Engine {
    /// Fetches Kafka, so that a start needs no network for it.
    fn fetch(&self, version: &str, interrupt: &Interrupt) -> Result<(), Failure>;
    /// The process of broker `n`: nothing when it is down.
    fn pids(&self, cluster: &Cluster, n: u32) -> Vec<u32>;
    /// Whether broker `n` accepts connections.
    fn is_ready(&self, cluster: &Cluster, n: u32) -> bool;
    /// Starts these brokers, which are down.
    fn launch(
        &self,
        cluster: &Cluster,
        brokers: &[u32],
        interrupt: &Interrupt,
    ) -> Result<(), Failure>;
    /// Signals broker `n`, if it is there.
    fn signal(&self, cluster: &Cluster, n: u32, signal: Signal);
    /// The end of its log.
    fn last_words(&self, cluster: &Cluster, n: u32) -> String;
}

impl Mode {
    /// The programs that brokers need.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Jvm => &["java", "setsid", "setpriv"],
            Self::Docker => &["docker", "timeout", "setpriv"],
        }
    }

    fn engine(self) -> &'static dyn Engine {
        match self {
            Self::Jvm => &jvm::Jvm,
            Self::Docker => &docker::Docker,
        }
    }
}

/// Does what the flags ask for, and prints its answer.
///
/// # Errors
/// `Usage` before anything is changed; `Failed`; `Interrupted`, with what was begun undone.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    match carry_out(flags, &Interrupt::on_signals()?)? {
        answer if answer.is_empty() => Ok(()),
        answer => cli::say(answer),
    }
}

/// The same, for words as a user types them after `run/cluster.sh`; returns the answer.
///
/// # Errors
/// As [`run`].
pub fn tell(words: &[&str], interrupt: &Interrupt) -> Result<String, Failure> {
    let flags = Flags::from_args(&["lab", "cluster"], words);
    let flags = flags.map_err(|early| Failure::Usage(early.output))?;
    carry_out(&flags, interrupt)
}

fn carry_out(flags: &Flags, interrupt: &Interrupt) -> Result<String, Failure> {
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    let wrong = |why: String| Err(Failure::Usage(format!("{why} (see run/cluster.sh --help)")));
    let data = flags.data()?;
    // A wrong verb says so before a flag that it would not take.
    let known = words.first().is_some_and(|verb| VERBS.split(' ').any(|known| known == *verb));
    if known {
        flags.check()?;
    }
    let there = || Cluster::there(&data);
    let silent = |done: Result<(), Failure>| done.map(|()| String::new());
    match words.as_slice() {
        ["fetch"] => silent(up::fetch(flags, interrupt)),
        ["up"] => Ok(up::up(&data, flags, interrupt)?.bootstrap()),
        ["down"] => silent(down::down(&data)),
        ["status"] => silent(down::status(&there()?, flags.json)),
        ["brokers"] => Ok(there()?.bootstrap()),
        [verb @ ("kill" | "stop" | "start"), rest @ ..] => {
            let given = rest.join(" ");
            match (*verb, BROKERS.into_iter().find(|n| n.to_string() == given)) {
                ("kill", Some(n)) => silent(there()?.kill(n, interrupt)),
                ("stop", Some(n)) => silent(there()?.stop(n, interrupt)),
                (_, Some(n)) => silent(there()?.start(n, interrupt)),
                _ => wrong(format!("{verb} '{given}': allowed: one broker, 1, 2 or 3")),
            }
        }
        ["topic", verb @ ("create" | "grow" | "delete"), name] => {
            cli::check_topic(name)?;
            match (*verb, flags.partitions) {
                ("create", n) => {
                    silent(there()?.create(name, n.unwrap_or(12), &flags.config, interrupt))
                }
                ("grow", Some(n)) => silent(there()?.grow(name, n, interrupt)),
                ("grow", None) => wrong("topic grow needs --partitions N".into()),
                _ => silent(there()?.delete(name, interrupt)),
            }
        }
        ["topic", "list"] => Ok(there()?.list(interrupt)?.join("\n")),
        ["topic", rest @ ..] => {
            let allowed = "create NAME, grow NAME, delete NAME, list";
            wrong(format!("topic '{}': allowed: {allowed}", rest.join(" ")))
        }
        ["coordinator", group] => Ok(there()?.coordinator(group, interrupt)?.to_string()),
        ["coordinator", ..] => wrong("coordinator needs one GROUP".into()),
        [verb, extra, ..] if known => wrong(format!("{verb} takes no '{extra}'")),
        [other, ..] => wrong(format!("unknown verb '{other}'; allowed: {VERBS}")),
        [] => wrong(format!("no verb given; allowed: {VERBS}")),
    }
}

impl Cluster {
    /// The cluster in `data`.
    ///
    /// # Errors
    /// When there is none.
    fn there(data: &Path) -> Result<Self, Failure> {
        let shown = data.display();
        let none =
            || format!("no cluster in {shown}: start one with 'run/cluster.sh up --data {shown}'");
        Self::open(data)?.ok_or_else(|| Failure::Failed(none()))
    }

    /// Bootstrap list, for clients.
    pub fn bootstrap(&self) -> String {
        self.three(self.host, if self.secure { self.secure_port(1) } else { self.port })
    }

    /// Kafka's release.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its own id: another cluster in the same folder has another.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// (broker, pid) of each that is there.
    pub fn pids(&self) -> Vec<(u32, u32)> {
        BROKERS.into_iter().filter_map(|n| Some((n, self.pid(n)?))).collect()
    }

    /// Checks that at least one broker lives.
    ///
    /// # Errors
    /// When none does, as after a restart of the machine.
    pub fn lives(&self) -> Result<(), Failure> {
        let data = self.data.display();
        match BROKERS.iter().any(|n| self.pid(*n).is_some()) {
            true => Ok(()),
            false => Err(Failure::Failed(format!(
                "no broker of the cluster in {data} is alive: 'run/cluster.sh up --data {data}' brings it back, \
                 'run/cluster.sh down --data {data}' deletes it"
            ))),
        }
    }

    /// A client of its brokers: it uses the plaintext listener, which is on loopback where there is
    /// another.
    fn admin(&self) -> Result<Brokers, Failure> {
        Brokers::parse(&self.three(self.plain_host(), self.port))
    }

    fn three(&self, host: Ipv4Addr, first: u16) -> String {
        [0, 1, 2].map(|n| format!("{host}:{}", first + n)).join(",")
    }

    fn plain_host(&self) -> Ipv4Addr {
        if self.secure { Ipv4Addr::LOCALHOST } else { self.host }
    }

    fn broker_port(&self, n: u32) -> u16 {
        self.port + n as u16 - 1
    }

    fn secure_port(&self, n: u32) -> u16 {
        self.broker_port(n) + 10
    }

    fn controller_port(&self, n: u32) -> u16 {
        self.broker_port(n) + 100
    }

    fn engine(&self) -> &'static dyn Engine {
        self.mode.engine()
    }

    fn pid(&self, n: u32) -> Option<u32> {
        self.engine().pids(self, n).first().copied()
    }

    /// Whether broker `n` ends in this time.
    fn is_gone_within(
        &self,
        n: u32,
        time: Duration,
        interrupt: &Interrupt,
    ) -> Result<bool, Failure> {
        let what = format!("the end of broker {n}");
        let gone = interrupt.patiently(&what, time, || Ok(self.pid(n).is_none().then_some(())))?;
        Ok(gone.is_some())
    }
}

/// The failure when `who` could not get a release; its output went to stderr.
fn not_had(who: &str, version: &str, or: &str) -> impl FnOnce(Failure) -> Failure {
    move |why| match why {
        Failure::Failed(why) => Failure::Failed(format!(
            "{who} Kafka {version} (its own words are above; {why}): try another --version, or {or}"
        )),
        interrupted => interrupted,
    }
}

fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
