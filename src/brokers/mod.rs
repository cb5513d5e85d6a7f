//! The brokers: who leads which partition, and requests to one broker.
//!
//! - `connection`   a kept connection to one broker, every wait bounded
//! - `stream`       its bytes, plain or by TLS
//! - `security`     TLS and SASL by a client's properties file; feature `tls`
//! - `wire`         one request over a connection of its own: leaders, offsets, a batch's header
//! - `offsets`      start and end of the logs that one broker leads, in one request
//! - `group`        committed offsets, from a group's coordinator
//! - `topics`       creates and deletes topics
//! - `librdkafka`   the settings and the log that our librdkafka clients share
//! - `fetch_answer` reads the answer to a Fetch in place
//! - `view`         the last known leaders, shared, and the bell that asks for a refresh
//! - `busy`         gives up a thread that is stuck in a dead socket
//! - here           the bootstrap list, the topic's view, and errors in our words

mod busy;
pub mod connection;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fetch_answer;
pub mod group;
pub mod librdkafka;
pub mod offsets;
#[cfg_attr(not(feature = "tls"), path = "security_none.rs")]
mod security;
mod stream;
pub mod topics;
mod view;
pub mod wire;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::cli;
use crate::failure::Failure;
use crate::http::client;
use crate::logging::Limiter;
use crate::threads::Stop;
use crate::units;

use connection::Connection;

pub use busy::Busy;
pub use security::Security;
pub use view::View;

/// How long a topic must be unknown to the brokers before it counts as missing: metadata reaches
/// every live broker within a heartbeat of the controller, 2 s by default.
const MISSING_AFTER: Duration = Duration::from_secs(3);
/// Shortest time between two log lines of a wait.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// The bootstrap list, and the security settings for its brokers.
#[derive(Debug, Clone)]
pub struct Brokers {
    hosts: Arc<[String]>,
    security: Option<Arc<Security>>,
}

/// Why the brokers could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No broker of the list answered. A later try may succeed.
    #[error("no broker answers at {hosts}: {last}; check --brokers and that the cluster is up")]
    Unreachable {
        /// The bootstrap list.
        hosts: String,
        /// The error of the last one that was tried.
        last: String,
    },
    /// The broker no longer speaks the versions crate `kafka` sends (KIP-896). Waiting does not
    /// help.
    #[error(
        "broker {host} is too new for --client kafka: it takes Fetch from version {fetch_min}, \
         crate `kafka` sends version 0 (removed in Kafka 4.0, KIP-896); use --client wire, or a \
         3.9.x broker"
    )]
    TooNew {
        /// The broker's address.
        host: String,
        /// Lowest Fetch version it takes.
        fetch_min: i16,
    },
    /// One refuses our login, or is not trusted, and no other answered. Waiting does not help.
    #[error("broker {host}: {why}")]
    Denied {
        /// Its address.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// The topic does not exist.
    #[error("topic {topic} does not exist on {host}; create it or check --topic")]
    MissingTopic {
        /// The topic.
        topic: String,
        /// The broker that said so.
        host: String,
    },
    /// A data plane's client failed.
    #[error("broker {host}: {what}")]
    Client {
        /// The broker's address.
        host: String,
        /// Its words.
        what: String,
    },
}

impl BrokerError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Client { .. })
    }
}

/// One topic as the brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicView {
    /// The topic's own id: a topic that is deleted and created again has another (KIP-516).
    pub id: u128,
    /// Leader of each partition, by broker id; `None` while there is none.
    pub leaders: BTreeMap<i32, Option<i32>>,
    /// Epoch of each partition's leader; -1 where the broker does not tell it (before 2.1).
    pub epochs: BTreeMap<i32, i32>,
    /// `host:port` of each live broker.
    pub addresses: BTreeMap<i32, String>,
}

impl TopicView {
    /// Takes those leaders of `heard` that have a newer epoch than its own.
    pub(crate) fn keep_newer_leaders(&mut self, heard: &Self) {
        for (partition, epoch) in &mut self.epochs {
            let newer = heard.epochs.get(partition).filter(|before| *before > epoch);
            if let (Some(newer), Some(leader)) = (newer, heard.leaders.get(partition)) {
                *epoch = *newer;
                self.leaders.insert(*partition, *leader);
            }
        }
    }

    /// Whether every partition has a leader.
    pub fn is_whole(&self) -> bool {
        self.leaders.values().all(Option::is_some)
    }

    /// Partitions that broker `id` leads.
    pub fn led_by(&self, id: i32) -> impl Iterator<Item = i32> + '_ {
        self.leaders.iter().filter(move |(_, l)| **l == Some(id)).map(|(p, _)| *p)
    }

    /// The address of the partition's leader.
    pub fn leader_address(&self, partition: i32) -> Option<&str> {
        let leader = (*self.leaders.get(&partition)?)?;
        self.addresses.get(&leader).map(String::as_str)
    }
}

/// Whether it is `name:port` or `[IPv6]:port`.
fn is_address(host: &str) -> bool {
    let Some((name, port)) = host.rsplit_once(':') else { return false };
    let is_port =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && units::is_name(name),
    };
    is_port && is_name
}

impl Brokers {
    /// From the flags `--brokers` and `--command-config`, else from `LAB_BROKERS` and
    /// `LAB_COMMAND_CONFIG`, else where `run/cluster.sh up` listens.
    ///
    /// # Errors
    /// Usage: names what is wrong with the list, or with the file.
    pub fn of_flags(list: Option<String>, command_config: Option<String>) -> Result<Self, Failure> {
        let brokers = Self::parse(&cli::or_env(list, "LAB_BROKERS", cli::DEFAULT_BROKERS))?;
        let file = cli::or_env(command_config, "LAB_COMMAND_CONFIG", "");
        let security = match file.as_str() {
            "" => None,
            file => Some(Arc::new(Security::read(Path::new(file))?)),
        };
        Ok(Self { security, ..brokers })
    }

    /// Reads a list such as `127.0.0.1:19092,127.0.0.1:19093`.
    pub fn parse(list: &str) -> Result<Self, Failure> {
        let hosts: Vec<String> =
            list.split(',').map(str::trim).filter(|h| !h.is_empty()).map(str::to_owned).collect();
        let bad = hosts.iter().find(|host| !is_address(host));
        match bad {
            _ if hosts.is_empty() => {
                Err(Failure::flag("--brokers", list, "expected host:port[,host:port…]"))
            }
            Some(bad) => Err(Failure::flag(
                "--brokers",
                client::without_password(bad),
                "expected host:port with a port from 1 to 65535, commas between several, and \
                 no protocol or name of a user before it",
            )),
            None => Ok(Self { hosts: hosts.into(), security: None }),
        }
    }

    /// The list as librdkafka's `bootstrap.servers` takes it.
    pub fn list(&self) -> String {
        self.hosts.join(",")
    }

    /// `host:port` of each broker of the list.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(String::as_str)
    }

    /// The same settings; brokers that were heard of follow those of the list, which may be down.
    #[must_use]
    pub fn and(&self, heard: &TopicView) -> Self {
        let more = heard.addresses.values().filter(|address| !self.hosts.contains(address));
        self.at(self.hosts.iter().chain(more).cloned())
    }

    /// The same settings, with `hosts` (`name:port`) as the list.
    pub fn at(&self, hosts: impl IntoIterator<Item = String>) -> Self {
        let mut other = self.clone();
        other.hosts = hosts.into_iter().collect();
        other
    }

    /// A connection to the broker at `address` (`name:port`).
    ///
    /// # Errors
    /// When no Kafka broker answers within [`connection::TIMEOUT`] a step; `PermissionDenied`, when
    /// one side does not trust the other.
    pub fn connect(&self, address: &str) -> io::Result<Connection> {
        Connection::open(address, self.security.as_deref())
    }

    /// librdkafka's settings for them, by name.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let mut all = self.security.as_ref().map(|s| s.properties()).unwrap_or_default();
        all.push(("bootstrap.servers", self.list()));
        all
    }

    /// Checks that they accept our login. A refused login is not tried again and again, because
    /// that may lock the account.
    ///
    /// # Errors
    /// When they refuse it. Other errors show later.
    pub fn let_us_in(&self, topic: &str) -> Result<(), Failure> {
        match self.have_security().then(|| self.describe(topic, 0)) {
            Some(Err(denied @ BrokerError::Denied { .. })) => Err(Failure::failed(denied)),
            _ => Ok(()),
        }
    }

    /// Whether TLS or SASL is used.
    pub fn have_security(&self) -> bool {
        self.security.as_ref().is_some_and(|security| !security.is_plain())
    }

    /// The first answer that a broker of the list gives.
    ///
    /// # Errors
    /// The error of the last one, when none of them answers.
    fn any_of<T>(&self, mut ask: impl FnMut(&str) -> io::Result<T>) -> io::Result<T> {
        let mut last = io::Error::other("the list of brokers is empty");
        for host in self.hosts() {
            match ask(host) {
                Ok(answer) => return Ok(answer),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Asks the brokers in turn, from position `first` of the list, for the topic's partitions.
    pub fn describe(&self, topic: &str, first: usize) -> Result<TopicView, BrokerError> {
        self.describe_until(&Stop::default(), topic, first)
    }

    /// The same; asks no further broker once `stop` is set.
    fn describe_until(
        &self,
        stop: &Stop,
        topic: &str,
        first: usize,
    ) -> Result<TopicView, BrokerError> {
        let mut last = String::from("the list is empty");
        let mut denied = None;
        let n = self.hosts.len();
        for host in self.hosts.iter().cycle().skip(first % n.max(1)).take(n) {
            if stop.is_set() {
                break;
            }
            match wire::metadata(self, host, topic) {
                Ok(view) => return view,
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    denied = Some(BrokerError::Denied { host: host.clone(), why: e.to_string() });
                }
                Err(e) => last = format!("{host}: {e}"),
            }
        }
        Err(denied.unwrap_or_else(|| BrokerError::Unreachable { hosts: self.list(), last }))
    }

    /// Whether every broker that answers says that there is no such topic.
    pub(crate) fn all_miss(&self, topic: &str) -> bool {
        let mut answers =
            self.hosts.iter().filter_map(|host| wire::metadata(self, host, topic).ok());
        answers.all(|answer| matches!(answer, Err(BrokerError::MissingTopic { .. })))
    }

    /// Waits, with backoff and a log line in 5 s, until every live broker knows the topic. Ends
    /// early with `Ok(None)` when `stop` is set. Partitions may still have no leader: the others
    /// need not wait.
    ///
    /// It waits for every broker because librdkafka assigns from what the group's coordinator
    /// knows. A coordinator that learns of a new topic a moment later than the others leaves the
    /// group without partitions, and librdkafka never asks again, because it heard of the topic
    /// from another broker.
    ///
    /// # Errors
    /// Errors that waiting does not cure: a topic that does not exist.
    pub fn await_topic(&self, topic: &str, stop: &Stop) -> Result<Option<TopicView>, BrokerError> {
        let mut backoff = Backoff::standard();
        let mut missing_since: Option<Instant> = None;
        let mut lines = Limiter::per(SAY_EVERY, 1);
        for attempt in 0.. {
            let answer = self.describe_until(stop, topic, attempt);
            // Brokers learn of a new topic one after the other, so the first "unknown topic" does
            // not count. Each try begins with another broker of the list.
            let unknown = matches!(answer, Err(BrokerError::MissingTopic { .. }));
            missing_since = unknown.then(|| missing_since.unwrap_or_else(Instant::now));
            let is_news = missing_since.is_some_and(|since| since.elapsed() < MISSING_AFTER);
            let why = match answer {
                Ok(view) => {
                    let misses =
                        |host: &&String| !stop.is_set() && !knows(self, host, topic, &view);
                    match view.addresses.values().find(misses) {
                        None => {
                            view.name_the_leaderless(topic);
                            return Ok(Some(view));
                        }
                        Some(host) => format!("broker {host} does not know the topic yet"),
                    }
                }
                Err(e) if e.is_passing() || is_news => e.to_string(),
                Err(e) => return Err(e),
            };
            if lines.allow().is_some() {
                log::warn!(topic = topic, why = why.as_str(); "waiting for the brokers");
            }
            if stop.wait(backoff.wait()) {
                break;
            }
        }
        Ok(None)
    }
}

impl TopicView {
    fn name_the_leaderless(&self, topic: &str) {
        let leaderless: Vec<i32> =
            self.leaders.iter().filter(|(_, l)| l.is_none()).map(|(p, _)| *p).collect();
        if !leaderless.is_empty() {
            log::warn!(
                topic = topic, partitions = format!("{leaderless:?}").as_str(),
                of = self.leaders.len(); "partitions without a leader wait, the others go on"
            );
        }
    }
}

/// Whether the broker describes the same topic with as many partitions. True for one that does not
/// answer: it is not waited for.
fn knows(brokers: &Brokers, host: &str, topic: &str, view: &TopicView) -> bool {
    match wire::metadata(brokers, host, topic) {
        Ok(Ok(theirs)) => theirs.id == view.id && theirs.leaders.len() == view.leaders.len(),
        Ok(Err(_)) => false,
        Err(_unreachable) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_list_is_refused_with_the_part_that_is_wrong() {
        for (list, part) in [
            ("", "--brokers"),
            ("localhost", "localhost"),
            ("a:1,b:99999", "b:99999"),
            (":9092", ":9092"),
            ("PLAINTEXT://a:9092", "no protocol"),
            ("a:9092;b:9092", "commas"),
            ("a b:9092", "a b:9092"),
            ("a:+9092", "a:+9092"),
            ("::1:9092", "::1:9092"),
            ("[::1:9092", "[::1:9092"),
            ("me:secret@a:9092", "…@a:9092"),
        ] {
            let why = Brokers::parse(list).expect_err(list).to_string();
            assert!(why.contains(part), "{list}: {why}");
        }
        assert_eq!(Brokers::parse("a:1, b:2,").expect("fine").list(), "a:1,b:2");
        assert_eq!(Brokers::parse("[::1]:1,a-b.c_d:2").expect("fine").list(), "[::1]:1,a-b.c_d:2");
    }

    /// Prevents: a SIGTERM that waits for every broker of a list that hangs.
    #[test]
    fn a_list_that_hangs_holds_up_the_end_by_one_broker_at_most() {
        // The kernel accepts connections to them, and they never answer.
        let silent: Vec<_> =
            (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("bound")).collect();
        let address = |of: &std::net::TcpListener| of.local_addr().expect("bound").to_string();
        let list: Vec<String> = silent.iter().map(address).collect();
        let brokers = Brokers::parse(&list.join(",")).expect("fine");
        let (stop, begun) = (Stop::default(), Instant::now());
        std::thread::scope(|scope| {
            scope.spawn(|| brokers.await_topic("t", &stop).expect("it was stopped"));
            std::thread::sleep(std::time::Duration::from_millis(100));
            stop.set();
        });
        // One step with one of them; all four would take four times that.
        assert!(begun.elapsed() < 2 * connection::TIMEOUT, "{:?}", begun.elapsed());
    }

    #[test]
    fn nobody_there_says_whom_it_asked() {
        // Port 1 on loopback refuses at once.
        let why = Brokers::parse("127.0.0.1:1").expect("fine").describe("t", 0);
        let why = why.expect_err("nobody listens").to_string();
        assert!(why.contains("127.0.0.1:1") && why.contains("--brokers"), "{why}");
    }
}
