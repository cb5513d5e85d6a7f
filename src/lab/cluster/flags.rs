//! The words of `lab cluster`, and their allowed values. Everything is checked before anything is
//! changed; an error ends with exit code 2 and names the flag, its value and what is allowed.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::folder::{self, Mode};
use crate::cli;
use crate::failure::Failure;
use crate::units;

/// Port 65535 is P+200 at most: there a run's live page is.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=65335;
const PARTITIONS_MAX: i32 = 1000;

/// Three Kafka brokers on this machine: JVMs where there is a Java, else Docker.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "cluster",
    usage = "VERB [OPTIONS]",
    note = "The verbs:
  fetch                 get what `up` needs of Kafka, which then needs no network for it
                        (its --version and --mode count here too)
  up                    start three brokers, make the topic, print the bootstrap list
  down                  kill the brokers and delete their data; leaves nothing
  status                one line a broker; exit 0 when all three are up, else 1
  brokers               print the bootstrap list, as `up` did
  kill N                signal 9 to broker N (1, 2 or 3)
  stop N                orderly stop of broker N
  start N               start broker N again, wait until it accepts connections
  topic create NAME [--partitions N] [--config KEY=VALUE]...
                        (replication 3; waits until it is in sync)
  topic grow NAME --partitions N         (adds partitions)
  topic delete NAME
  topic list
  coordinator GROUP     print the number of the broker that coordinates a consumer group",
    error_code(0, "done"),
    error_code(1, "failed or not up"),
    error_code(2, "wrong usage")
)]
pub struct Flags {
    /// a verb and what it takes: see below
    #[argh(positional)]
    pub(super) words: Vec<String>,
    /// data folder, of every verb (.cluster of the source)
    #[argh(option)]
    pub(super) data: Option<PathBuf>,
    /// of up: the topic to make (events); '' makes none; up remembers it, as it does the flags
    /// below
    #[argh(option)]
    pub(super) topic: Option<String>,
    /// of up, topic create and topic grow: 1 to 1000 (12)
    #[argh(option, from_str_fn(partitions))]
    pub(super) partitions: Option<i32>,
    /// of up and fetch: Kafka's release, 3.9.x or 4.x (the one pinned in src/lab/cluster/pom.xml)
    #[argh(option, from_str_fn(version))]
    pub(super) version: Option<String>,
    /// of up: brokers on P to P+2 (--secure: and P+10 to P+12), controllers on P+100 to P+102, a run's live
    /// page on P+200 (19092)
    #[argh(option, from_str_fn(port))]
    pub(super) port: Option<u16>,
    /// of up: IPv4 address of this machine where the brokers listen instead (jvm mode; 127.0.0.1). Anything but
    /// loopback is open to that network, without authentication unless --secure; the controllers stay on
    /// 127.0.0.1
    #[argh(option, from_str_fn(host))]
    pub(super) host: Option<Ipv4Addr>,
    /// of up: clients come in by SASL_SSL, on P+10 to P+12 (jvm mode): a CA of this cluster's own;
    /// SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN for user `lab`. What they need is in DIR/secure: ca.pem, password,
    /// and both in client.properties for Kafka's tools. P to P+2 are plaintext on 127.0.0.1, for the brokers
    /// and this program
    #[argh(switch)]
    pub(super) secure: bool,
    /// of up and fetch: auto, docker or jvm (auto: jvm where there is Java 17 or later, else docker)
    #[argh(option, from_str_fn(mode))]
    pub(super) mode: Option<AutoMode>,
    /// of status: a JSON object a line
    #[argh(switch)]
    pub(super) json: bool,
    /// of up: free space wanted under the data folder (2GiB); e.g. 512MiB
    #[argh(option, from_str_fn(min_disk))]
    pub(super) min_disk: Option<u64>,
    /// of up: id of a new cluster, 22 letters and digits (random)
    #[argh(option, from_str_fn(id))]
    pub(super) id: Option<String>,
    /// of topic create: a setting KEY=VALUE, such as retention.ms=60000; may be repeated
    #[argh(option, from_str_fn(config))]
    pub(super) config: Vec<String>,
    /// folder of the source, where .cluster is (.)
    #[argh(option, default = "PathBuf::from(\".\")")]
    pub(super) source: PathBuf,
}

/// `--mode`; `None` is auto.
type AutoMode = Option<Mode>;

impl Flags {
    /// Checks that the verb uses every flag that is given.
    ///
    /// # Errors
    /// Usage. A flag that its verb would ignore is a mistake: the caller means another cluster.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.mode == Some(Some(Mode::Docker)) && self.secure {
            let why = "the containers have no such listener; allowed: --mode jvm, auto";
            return Err(Failure::flag("--secure", "with --mode docker", why));
        }
        if let Some(topic) = self.topic.as_deref().filter(|topic| !topic.is_empty()) {
            cli::check_topic(topic)?;
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).take(2).collect();
        let (is_up, is_fetch) = (words == ["up"], words == ["fetch"]);
        let is_create = words == ["topic", "create"];
        let makes_topic = is_up || is_create || words == ["topic", "grow"];
        let uses = [
            ("--topic", self.topic.is_some(), is_up, "'up'"),
            ("--port", self.port.is_some(), is_up, "'up'"),
            ("--host", self.host.is_some(), is_up, "'up'"),
            ("--secure", self.secure, is_up, "'up'"),
            ("--id", self.id.is_some(), is_up, "'up'"),
            ("--min-disk", self.min_disk.is_some(), is_up, "'up'"),
            ("--version", self.version.is_some(), is_up || is_fetch, "'up' and 'fetch'"),
            ("--mode", self.mode.is_some(), is_up || is_fetch, "'up' and 'fetch'"),
            (
                "--partitions",
                self.partitions.is_some(),
                makes_topic,
                "'up', 'topic create', 'topic grow'",
            ),
            ("--config", !self.config.is_empty(), is_create, "'topic create'"),
            ("--json", self.json, words == ["status"], "'status'"),
        ];
        let wrong = uses.iter().find(|(_, is_given, is_used, _)| *is_given && !is_used);
        wrong.map_or(Ok(()), |(flag, _, _, of)| {
            let verb = words.join(" ");
            Err(Failure::Usage(format!(
                "{flag} is a flag of {of}, not of '{verb}'; allowed: --data"
            )))
        })
    }

    /// The one path of the data folder.
    ///
    /// # Errors
    /// Usage, when Kafka cannot use it.
    pub(super) fn data(&self) -> Result<PathBuf, Failure> {
        folder::usable(&self.data.clone().unwrap_or_else(|| self.source.join(".cluster")))
    }
}

fn partitions(text: &str) -> Result<i32, String> {
    let found = text.parse().ok().filter(|n| (1..=PARTITIONS_MAX).contains(n));
    found.ok_or_else(|| format!("allowed: a whole number, 1 to {PARTITIONS_MAX}"))
}

/// A cluster's first port.
///
/// # Errors
/// Says what is allowed.
pub fn port(text: &str) -> Result<u16, String> {
    let found = text.parse().ok().filter(|port| PORTS.contains(port));
    found
        .ok_or_else(|| format!("allowed: a whole number from {} to {}", PORTS.start(), PORTS.end()))
}

/// A release of Kafka that can be started.
///
/// # Errors
/// Says what is allowed.
pub fn version(text: &str) -> Result<String, String> {
    let parts: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some([3, 9, _] | [4, _, _]) if !text.contains('+') => Ok(text.to_owned()),
        _ => Err("allowed: 3.9.x or 4.x.y, such as 3.9.2".into()),
    }
}

fn host(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| "allowed: an IPv4 address, such as 127.0.0.1".into())
}

fn mode(text: &str) -> Result<AutoMode, String> {
    let modes = [("auto", None), ("docker", Some(Mode::Docker)), ("jvm", Some(Mode::Jvm))];
    units::one_of(text, &modes).map_err(|_| "allowed: auto, docker, jvm".into())
}

fn min_disk(text: &str) -> Result<u64, String> {
    units::size(text).map_err(|_| "allowed: bytes or a size such as 512MiB, 2GiB".into())
}

fn id(text: &str) -> Result<String, String> {
    match text.len() == 22 && text.chars().all(|c| c.is_ascii_alphanumeric()) {
        true => Ok(text.to_owned()),
        false => Err("allowed: 22 letters and digits".into()),
    }
}

fn config(text: &str) -> Result<String, String> {
    let is_key = |c: char| c.is_ascii_lowercase() || c == '.';
    let is_value = |c: char| c.is_ascii_alphanumeric() || ".,_-".contains(c);
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && key.chars().all(is_key) => {
            Some(value).filter(|value| !value.is_empty() && value.chars().all(is_value))
        }
        _ => None,
    }
    .map(|_| text.to_owned())
    .ok_or_else(|| "allowed: KEY=VALUE, such as retention.ms=60000".into())
}
