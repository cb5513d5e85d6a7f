//! The producer's flags as a user writes them, and the settings made from them.
//!
//! Invariant: a `Settings` can be run as it is; making one opens nothing.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::keys::Keys;
use super::resends::Ages;
use super::schedule::Schedule;
use super::sender::ACK_TIMEOUT;
use crate::brokers::Brokers;
use crate::cli;
use crate::event::{EVENT_BYTES_MAX, HEADER_BYTES};
use crate::failure::Failure;
use crate::http::client;
use crate::planes::{Acks, Client, ProduceSettings};
use crate::records::Codec;
use crate::units;

/// Largest payload: an event with its header stays within [`EVENT_BYTES_MAX`].
const PAYLOAD_BYTES_MAX: u64 = (EVENT_BYTES_MAX - HEADER_BYTES) as u64;
/// Longest linger: above it the schedule is a series of bursts.
const LINGER_MAX: Duration = Duration::from_secs(10);
/// Up to 2^53 every key is a whole number to Zipf's f64 as well.
const KEYS_MAX: u64 = 1 << 53;
/// Steepest skew: with exponent 20 all but one event in a million have key 0.
const SKEW_MAX: f64 = 20.0;
/// Ids up to 2^63 leave room for the longest run.
const FIRST_ID_MAX: u64 = 1 << 63;

/// Where the groups of [`Flags`] begin.
pub const GROUPS: cli::Groups =
    &[("--rate", "Load"), ("--brokers", "Kafka"), ("--listen", "Observability and control")];

/// Offers events to a Kafka topic at the rate of a schedule, however slow the brokers are: events
/// that cannot be sent now are sent later. The same seed gives the same ids, keys and payloads.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    usage = "[flags]",
    example = "{command_name} --rate 1500\n\
               {command_name} --schedule 1500:60s,8000:10m --msg-size 512"
)]
pub struct Flags {
    /// rate in events/s; or give --schedule
    #[argh(option, from_str_fn(units::rate))]
    pub rate: Option<f64>,

    /// rate:time steps such as 1500:60s,8000:10m; the last may omit its time; x20 behind the last: all of them 20 times,
    /// as in 1900:1s,300:2s,x20
    #[argh(option)]
    pub schedule: Option<Schedule>,

    /// how long to offer events; without it and --count until SIGTERM
    #[argh(option, from_str_fn(units::duration_above_zero))]
    pub duration: Option<Duration>,

    /// how many events to offer
    #[argh(option, from_str_fn(units::count))]
    pub count: Option<NonZeroUsize>,

    /// bytes of payload (512); an event has 24 more
    #[argh(option, default = "512", from_str_fn(payload_bytes))]
    pub msg_size: usize,

    /// seed of keys and payloads (1)
    #[argh(option, default = "1")]
    pub seed: u64,

    /// id of the first event (0)
    #[argh(option, default = "0", from_str_fn(first_id))]
    pub first_id: u64,

    /// which of several producers of one load this is: 2/8 is the second of eight, with an eighth
    /// of the rate and of the count, and ids of its own, so that one audit joins the summaries of
    /// all
    #[argh(option, default = "Share::WHOLE", from_str_fn(Share::parse))]
    pub share: Share,

    /// number of keys (10000)
    #[argh(option, default = "10_000", from_str_fn(keys))]
    pub keys: u64,

    /// zipf exponent of the keys' frequencies, 0 to 20 (0: uniform)
    #[argh(option, default = "0.0", from_str_fn(skew))]
    pub key_skew: f64,

    /// ages at which an event that the sink does not have is sent again, such as 1s,3s: clients that wait for an
    /// answer and try again
    #[argh(option)]
    pub resend_after: Option<Ages>,

    /// the sink that --resend-after asks (LAB_SINK, else http://127.0.0.1:9900)
    #[argh(option)]
    pub sink: Option<String>,

    /// bootstrap list host:port[,host:port...] (LAB_BROKERS, else where run/cluster.sh listens): bootstrap.servers
    #[argh(option)]
    pub brokers: Option<String>,

    /// properties file of a Kafka client: TLS and SASL (LAB_COMMAND_CONFIG)
    #[argh(option)]
    pub command_config: Option<String>,

    /// topic to send to (events)
    #[argh(option, default = "String::from(\"events\")")]
    pub topic: String,

    /// data plane: wire (today's protocol, Kafka 2.1 to 4.x; idempotent with --acks all:
    /// enable.idempotence), kafka (crate kafka, up to 3.9) (wire)
    #[argh(option, default = "Client::Wire", from_str_fn(Client::parse))]
    pub client: Client,

    /// replicas that must have an event: all, 1 or 0 (all); below all, events that count as sent
    /// can be lost with a broker or a connection: acks
    #[argh(option, default = "Acks::All", from_str_fn(Acks::parse))]
    pub acks: Acks,

    /// time between two requests to a broker (20ms): linger.ms
    #[argh(option, default = "Duration::from_millis(20)", from_str_fn(linger))]
    pub linger: Duration,

    /// how batches are packed: none, gzip, snappy, lz4, zstd (none); --client wire only: compression.type
    #[argh(option, default = "Codec::None", from_str_fn(Codec::parse))]
    pub compression: Codec,

    /// how long to go on sending the backlog after the schedule's end or SIGTERM (25s: of the 30 that Kubernetes gives)
    #[argh(option, default = "Duration::from_secs(25)", from_str_fn(units::duration))]
    pub drain_timeout: Duration,

    /// address of /metrics, /healthz, /readyz, /debug/pprof, /rate and /credit (127.0.0.1:9901; port 0 picks one)
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 9901))")]
    pub listen: SocketAddr,

    /// file with the token that HTTP callers must show
    #[argh(option)]
    pub token_file: Option<PathBuf>,
}

/// Ids between the first ids of two shares: years at a million events a second.
pub const SHARE_IDS: u64 = 1 << 40;
/// Most producers of one load.
const SHARES_MAX: u64 = 4096;

/// One producer's place among the producers of one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 1 on.
    place: u64,
    of: u64,
}

impl Share {
    const WHOLE: Self = Self { place: 1, of: 1 };

    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|n| (1..=SHARES_MAX).contains(n));
        let read = text.split_once('/').and_then(|(k, n)| {
            Some(Self { place: number(k)?, of: number(n)? }).filter(|share| share.place <= share.of)
        });
        read.ok_or_else(|| {
            format!("expected K/N such as 2/8, K from 1 to N, N at most {SHARES_MAX}")
        })
    }
}

/// What the producer runs with.
#[derive(Debug)]
pub struct Settings {
    /// The offered load over time.
    pub schedule: Schedule,
    /// Bytes of payload in each event.
    pub payload_bytes: usize,
    /// The run's seed.
    pub seed: u64,
    /// Id of the first event.
    pub first_id: u64,
    /// The keys of the load.
    pub keys: Keys,
    /// Time between two requests to a broker.
    pub linger: Duration,
    /// How events are sent.
    pub produce: ProduceSettings,
    /// The topic.
    pub topic: String,
    /// The bootstrap list.
    pub brokers: Brokers,
    /// The sink that is asked, and the ages at which an event that it does not have is sent again.
    pub resends: Option<(String, Ages)>,
    /// Where HTTP listens.
    pub listen: SocketAddr,
    /// Where the HTTP token is.
    pub token_file: Option<PathBuf>,
    /// How long the backlog may take to send once the schedule has ended.
    pub drain_timeout: Duration,
}

impl Flags {
    /// The settings that these flags make.
    ///
    /// # Errors
    /// `Usage` for flags that contradict each other or name nothing usable.
    pub fn settings(self) -> Result<Settings, Failure> {
        let schedule = match (self.rate, self.schedule) {
            (Some(rate), None) => Schedule::constant(rate),
            (None, Some(schedule)) => schedule,
            (Some(rate), Some(_)) => {
                return Err(Failure::flag("--rate", rate, "give either --rate or --schedule"));
            }
            (None, None) => {
                return Err(Failure::Usage("--rate or --schedule is needed: how fast?".into()));
            }
        };
        let Share { place, of } = self.share;
        let schedule = schedule.shared_by(of);
        let schedule = match (self.duration, self.count) {
            (Some(duration), None) => schedule.lasting(duration),
            (None, Some(count)) => {
                let count = count.get() as u64;
                schedule.counting(count / of + u64::from(place <= count % of))
            }
            (None, None) => schedule,
            (Some(_), Some(count)) => {
                return Err(Failure::flag("--count", count, "give either --count or --duration"));
            }
        };
        cli::check_topic(&self.topic)?;
        if self.client == Client::Kafka && self.compression != Codec::None {
            let allowed = "crate kafka sends batches as they are: use --client wire";
            return Err(Failure::flag("--compression", self.compression.name(), allowed));
        }
        let resends = match self.resend_after {
            Some(ages) => {
                let sink = cli::or_env(self.sink, "LAB_SINK", "http://127.0.0.1:9900");
                Some((client::base_url("--sink", &sink)?, ages))
            }
            None if self.sink.is_some() => {
                let why = "--sink is asked what it has: it needs --resend-after".to_owned();
                return Err(Failure::Usage(why));
            }
            None => None,
        };
        let brokers = Brokers::of_flags(self.brokers, self.command_config)?;
        self.client.check(&brokers)?;
        Ok(Settings {
            schedule,
            payload_bytes: self.msg_size,
            seed: self.seed,
            first_id: self.first_id + (place - 1) * SHARE_IDS,
            keys: Keys::new(self.keys, self.key_skew)
                .map_err(|e| Failure::flag("--key-skew", self.key_skew, &e))?,
            linger: self.linger,
            produce: ProduceSettings {
                client: self.client,
                acks: self.acks,
                codec: self.compression,
                timeout: ACK_TIMEOUT,
            },
            topic: self.topic,
            resends,
            brokers,
            listen: self.listen,
            token_file: self.token_file,
            drain_timeout: self.drain_timeout,
        })
    }
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let range = format!("expected a size from 0 to {PAYLOAD_BYTES_MAX} bytes");
    match units::size(text) {
        Ok(bytes) if bytes <= PAYLOAD_BYTES_MAX => usize::try_from(bytes).map_err(|_| range),
        _ => Err(range),
    }
}

fn first_id(text: &str) -> Result<u64, String> {
    let id = text.parse().ok().filter(|id| *id <= FIRST_ID_MAX);
    id.ok_or_else(|| format!("expected a whole number from 0 to {FIRST_ID_MAX}"))
}

fn keys(text: &str) -> Result<u64, String> {
    let keys = text.parse().ok().filter(|keys| (1..=KEYS_MAX).contains(keys));
    keys.ok_or_else(|| format!("expected a whole number from 1 to {KEYS_MAX}"))
}

fn skew(text: &str) -> Result<f64, String> {
    let skew = text.parse().ok().filter(|skew| (0.0..=SKEW_MAX).contains(skew));
    skew.ok_or_else(|| format!("expected a Zipf exponent from 0 to {SKEW_MAX}"))
}

fn linger(text: &str) -> Result<Duration, String> {
    let range = || format!("expected a time from 1ms to {}", units::show(LINGER_MAX));
    let linger = units::duration(text).map_err(|_| range())?;
    let fine = (Duration::from_millis(1)..=LINGER_MAX).contains(&linger);
    if fine { Ok(linger) } else { Err(range()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        let args = cli::normalise(line.split_whitespace().map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let flags = Flags::from_args(&["producer"], &args).map_err(|e| e.output)?;
        flags.settings().map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let settings = settings("--rate 8000").expect("valid");
        assert_eq!((settings.payload_bytes, settings.first_id), (512, 0));
        assert_eq!(settings.linger, Duration::from_millis(20));
        assert_eq!(settings.topic, "events");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:9901");
        assert_eq!(settings.drain_timeout, Duration::from_secs(25));
        assert_eq!(settings.schedule, Schedule::constant(8000.0));
    }

    /// Prevents: ids that two producers of one load both send, and a load that is not the sum of its shares.
    #[test]
    fn shares_make_the_whole_and_have_ids_of_their_own() {
        let share = |k| settings(&format!("--schedule 900:10s,90:10s --count 10 --share {k}/4"));
        let all: Vec<Settings> = (1..=4).map(|k| share(k).expect("valid")).collect();
        let counts = [3, 3, 2, 2];
        for (n, (one, count)) in all.iter().zip(counts).enumerate() {
            let whole = "225:10s,22.5:10s".parse::<Schedule>().expect("valid").counting(count);
            assert_eq!((one.first_id, &one.schedule), (n as u64 * SHARE_IDS, &whole));
        }
        assert_eq!(settings("--rate 8 --share 1/1").expect("valid").first_id, 0);
    }

    /// A wrong value must end in a message with the flag, the value and what it may be.
    #[test]
    fn wrong_values_are_named_with_their_range() {
        for (line, parts) in [
            ("--rate -5", ["--rate", "-5", "above 0"]),
            ("--rate 1 --msg-size 2MB", ["--msg-size", "2MB", "999976"]),
            ("--rate 1 --keys 0", ["--keys", "0", "from 1 to"]),
            ("--rate 1 --key-skew nan", ["--key-skew", "nan", "0 to 20"]),
            ("--rate 1 --linger 0", ["--linger", "0", "1ms to 10s"]),
            ("--rate 1 --acks 2", ["--acks", "2", "all"]),
            ("--rate 1 --duration 5", ["--duration", "5", "90s"]),
            ("--rate 1 --count 0", ["--count", "0", "at least 1"]),
            ("--rate 1 --topic a/b", ["--topic", "a/b", "249"]),
            ("--rate 1 --brokers nowhere", ["--brokers", "nowhere", "host:port"]),
            ("--rate 1 --listen here", ["--listen", "here", "address"]),
            ("--rate 1 --schedule 5:1s", ["--rate", "1", "--schedule"]),
            ("--rate 1 --resend-after 3s,1s", ["--resend-after", "3s,1s", "above the last"]),
            ("--rate 1 --resend-after 1s --sink here", ["--sink", "here", "http://"]),
            ("--rate 1 --sink http://127.0.0.1:1", ["--sink", "needs", "--resend-after"]),
            ("--rate 1 --share 9/8", ["--share", "9/8", "2/8"]),
            ("--rate 1 --share 0/8", ["--share", "0/8", "K from 1"]),
            ("--rate 1 --count 5 --duration 1s", ["--count", "5", "--duration"]),
            ("--schedule 5:1s,x0", ["--schedule", "0 steps", "1 to 2000"]),
            ("--schedule 5,x2", ["--schedule", "x2", "needs a time"]),
            ("--schedule 5:1s,2:1s,x1001", ["--schedule", "2002 steps", "1 to 2000"]),
            ("--schedule 5:1s,x", ["--schedule", "step 2", "rate"]),
            ("--seed 1", ["--rate", "--schedule", "needed"]),
        ] {
            let error = settings(line).expect_err(line);
            for part in parts {
                assert!(error.contains(part), "{line}: {error:?} lacks {part:?}");
            }
        }
    }
}
