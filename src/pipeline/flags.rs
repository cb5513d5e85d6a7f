//! The processor's flags: plain data, then checked into [`Settings`]. Opens nothing but the
//! token's file.

mod check;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::{Settings, Sharding};
use crate::brokers::Brokers;
use crate::failure::Failure;
use crate::http::access;
use crate::http::client::base_url;
use crate::planes::{Answers, Client, FetchSettings, Isolation};
use crate::policy::Policy;
use crate::policy::dead_letters::Destination;
use crate::policy::shed::Who;
use crate::policy::shed::class::Classes;
use crate::queue::{self, spill, spill::Commit};
use crate::sink::pace::Pace;
use crate::sink::sizing::{self, Sizing};
use crate::sink::workers::Mode;
use crate::source::member::{MemberSettings, Protocol, Reset};
use crate::transform::Transform;
use crate::{cli, units};

/// Where the groups of [`Flags`] begin.
pub const GROUPS: cli::Groups = &[
    ("--brokers", "Kafka: the log"),
    ("--group-protocol", "Kafka: the group's member"),
    ("--queue", "Queue and overload policy"),
    ("--sink", "Workers and sink"),
    ("--listen", "Observability"),
];

/// Take events from the log, hand them to the sink, commit what was acked.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[flags]",
    example = "{command_name} --queue bounded --queue-cap 10000\n\
               {command_name} --queue pull --sink http://127.0.0.1:9900 --group mine\n\
               {command_name} --policy shed --shed pid --shed-ids shed.ids"
)]
pub struct Flags {
    /// bootstrap brokers, host:port[,…] (else LAB_BROKERS, else run/cluster.sh's): bootstrap.servers
    #[argh(option)]
    brokers: Option<String>,
    /// properties file of a Kafka client: TLS and SASL (else LAB_COMMAND_CONFIG)
    #[argh(option)]
    command_config: Option<String>,
    /// topic to read (events)
    #[argh(option, default = "\"events\".into()")]
    topic: String,
    /// consumer group (lab): group.id
    #[argh(option, default = "\"lab\".into()")]
    group: String,
    /// where a partition without a committed offset starts: earliest, latest (earliest); one that is
    /// added during the run is read from its start: auto.offset.reset
    #[argh(option, default = "Reset::Earliest", from_str_fn(reset))]
    from: Reset,
    /// data plane: wire (today's protocol, Kafka 2.1 to 4.x), kafka (crate kafka, up to 3.9), rdkafka
    /// (librdkafka, which fetches ahead of the queue) (wire)
    #[argh(option, default = "Client::Wire", from_str_fn(Client::parse_consumer))]
    client: Client,
    /// bytes that --client rdkafka fetches ahead (64MiB): queued.max.messages.kbytes
    #[argh(option, default = "64 << 20", from_str_fn(prefetch_bytes))]
    prefetch_bytes: u64,
    /// events in its queue above which --client rdkafka fetches no more ahead (100000):
    /// queued.min.messages
    #[argh(option, default = "100_000", from_str_fn(prefetch_events))]
    prefetch_events: u32,
    /// whether --client rdkafka is paused while what it gave is worked on, and resumed to give more: on, off (off);
    /// what it fetched ahead is thrown away at each pause
    #[argh(option, default = "false", from_str_fn(on_off))]
    prefetch_pause: bool,
    /// records of transactions: read-uncommitted, read-committed (leaves out those of aborted ones, and
    /// what is behind an open one) (read-uncommitted): isolation.level
    #[argh(option, default = "Isolation::ReadUncommitted", from_str_fn(Isolation::parse))]
    isolation: Isolation,
    /// count what cannot be read (a corrupt batch, an unknown codec, one above --fetch-bytes-max) and
    /// go on behind it; else the run ends with the partition and the offset
    #[argh(switch)]
    skip_unreadable: bool,
    /// bytes that a fetch asks for, each partition: max.partition.fetch.bytes (1MiB)
    #[argh(option, default = "1 << 20", from_str_fn(bytes_of_a_fetch))]
    fetch_bytes: i32,
    /// bytes of a whole answer, at most: what is taken in 250 ms, and no less than 64KiB (a batch that
    /// is larger comes alone) (4MiB): fetch.max.bytes; not with --client kafka
    #[argh(option, default = "4 << 20", from_str_fn(bytes_of_a_fetch))]
    answer_bytes: i32,
    /// largest record batch that is fetched, and largest that one may unpack to; a larger one ends the
    /// run (64MiB, which is the most)
    #[argh(option, default = "BATCH_BYTES_MAX", from_str_fn(bytes_of_a_fetch))]
    fetch_bytes_max: i32,
    /// how the group agrees on who has which partition, the same for all of its members: classic (JoinGroup), consumer
    /// (KIP-848: the coordinator assigns; Kafka 4.0 and above) (classic): group.protocol
    #[argh(option, default = "GroupProtocol::Classic", from_str_fn(group_protocol))]
    group_protocol: GroupProtocol,
    /// of classic, the same for all members: cooperative (only what moves stops), eager (all stops)
    /// (cooperative): partition.assignment.strategy cooperative-sticky, range
    #[argh(option, from_str_fn(assignor))]
    assignor: Option<Protocol>,
    /// a static member, which keeps its partitions when it is restarted within the session timeout;
    /// the older of two of one name ends with exit 1: group.instance.id
    #[argh(option)]
    instance_id: Option<String>,
    /// time without a poll after which the group takes the partitions away (300s):
    /// max.poll.interval.ms
    #[argh(option, default = "secs(300)", from_str_fn(units::duration_above_zero))]
    max_poll_interval: Duration,
    /// time without a heartbeat after which it does; at most --max-poll-interval; with --group-protocol consumer the
    /// broker says it (45s): session.timeout.ms
    #[argh(option, from_str_fn(units::duration_above_zero))]
    session_timeout: Option<Duration>,
    /// on: the member polls on its own thread; off: polling waits while the queue is full, as in a
    /// naive consumer (on)
    #[argh(option, default = "true", from_str_fn(on_off))]
    keepalive: bool,
    /// how often the acked prefix is committed (1s): auto.commit.interval.ms
    #[argh(option, default = "secs(1)", from_str_fn(units::duration_above_zero))]
    commit_interval: Duration,
    /// how long a revocation waits for what workers have in flight (5s)
    #[argh(option, default = "secs(5)", from_str_fn(units::duration))]
    revoke_wait: Duration,
    /// a worker that has not moved for so long stops the poll clock (120s)
    #[argh(option, default = "secs(120)", from_str_fn(units::duration_above_zero))]
    stuck_after: Duration,
    /// what is between fetch and workers: bounded, unbounded, pull, spill (bounded, and the rest on disk: for a sink
    /// that is away for longer than the log is kept) (bounded)
    #[argh(option, default = "queue::Name::Bounded", from_str_fn(queue::Name::parse))]
    queue: queue::Name,
    /// events that a bounded queue holds, and one that spills in memory (10000)
    #[argh(option, default = "at_least_1(10_000)", from_str_fn(queue_cap))]
    queue_cap: NonZeroUsize,
    /// folder for --queue spill, of this processor alone
    #[argh(option)]
    spill_dir: Option<PathBuf>,
    /// size of all that is in it, at most; above that --policy decides (2GiB)
    #[argh(option, from_str_fn(spill::Settings::bytes_max))]
    spill_max: Option<u64>,
    /// when offsets are committed: acked (after the sink's ack; what is on disk is thrown away at a start, Kafka has
    /// it), spilled (once it is durable on disk, so that retention may delete it: every event is written there, and the
    /// next processor with this folder delivers it) (acked)
    #[argh(option, from_str_fn(Commit::parse))]
    spill_commit: Option<Commit>,
    /// at a full queue: buffer (wait), shed (drop, counted), slow-source (slow the producer), credit (wait, and the
    /// producer sends no more than --credit-window events ahead of the sink's acks) (buffer)
    #[argh(option, default = "Policy::Buffer", from_str_fn(Policy::parse))]
    policy: Policy,
    /// events that may wait for this processor, in the log and in it, with --policy credit: twice what the sink takes in
    /// the longest round trip (160 at 2000/s and 40 ms); less than one trip's costs goodput, more is delay
    #[argh(option, from_str_fn(units::count))]
    credit_window: Option<NonZeroUsize>,
    /// who is dropped with --policy shed: newest (what finds the queue full), oldest (what has waited longest),
    /// priority (a quarter of the queue is for high priority alone), sojourn (what has waited for more than twice
    /// what the sink needs for the workers' batches: CoDel), pid (a share, by a controller that holds that wait;
    /// NOTES.md recommends it) (newest)
    #[argh(option, default = "Who::Newest", from_str_fn(Who::parse))]
    shed: Who,
    /// share of the events, by their ids, that are of high priority: 10% (0); their latency is shown apart
    #[argh(option, default = "0.0", from_str_fn(units::share))]
    high_priority_share: f64,
    /// the producer's control endpoint, for slow-source and credit (http://127.0.0.1:9901); it is shown the
    /// token, so where there is one it must be named
    #[argh(option)]
    producer: Option<String>,
    /// file for the ids that are shed, a line each, for lab audit; it goes on behind those of an earlier
    /// run
    #[argh(option)]
    shed_ids: Option<PathBuf>,
    /// FILE or topic:NAME (which must exist) for what will never be delivered, a JSON line or record
    /// each: partition, offset, id, reason, value; it is there before its offset is committed, twice
    /// where the answer was lost
    #[argh(option)]
    dead_letter: Option<String>,
    /// the sink (else LAB_SINK, else http://127.0.0.1:9900)
    #[argh(option)]
    sink: Option<String>,
    /// longest call of the sink (60s)
    #[argh(option, default = "secs(60)", from_str_fn(units::duration_above_zero))]
    sink_timeout: Duration,
    /// how events travel to the sink: single, batch (batch)
    #[argh(option, default = "ModeName::Batch", from_str_fn(mode))]
    sink_mode: ModeName,
    /// events in a batch, at most (200); or who decides: auto (what waits, at most 1000), aimd (up by one,
    /// down by a tenth when a call outlasts --p99-target), dql (no more in flight than keeps the sink from
    /// starving), debloat (what the sink takes within --p99-target)
    #[argh(option, default = "sizing::Name::Events(200)", from_str_fn(sizing::Name::parse))]
    batch_size: sizing::Name,
    /// what --batch-size aimd and debloat aim at (500ms)
    #[argh(option, from_str_fn(units::duration_above_zero))]
    p99_target: Option<Duration>,
    /// longest wait of a batch's first event (5ms; 0 with --queue pull: nothing more comes before
    /// the acks; and 0 where --batch-size is not a number)
    #[argh(option, default = "Duration::from_millis(5)", from_str_fn(units::duration))]
    batch_linger: Duration,
    /// threads that call the sink (4)
    #[argh(option, default = "at_least_1(4)", from_str_fn(workers))]
    sink_workers: NonZeroUsize,
    /// what is done about a sink's rate limit (429): line (when the sink says, one call at a time), headers (the rate that
    /// its RateLimit headers say), blind (a rate, found without them); to compare: retry-after (nothing for whole
    /// seconds), cubic (a rate, AWS SDK), aimd, vegas, gradient2 (calls at once, Netflix), arc, arc-fixed (Vector) (line)
    #[argh(option, default = "Pace::Line", from_str_fn(Pace::parse))]
    pace: Pace,
    /// which worker gets an event: round-robin, key (keeps the order of a key) (round-robin)
    #[argh(option, default = "Sharding::Shared", from_str_fn(sharding))]
    worker_assignment: Sharding,
    /// what workers do to an event: digest (append the xxHash64 of its payload, which the sink
    /// checks), none (digest)
    #[argh(option, default = "Transform::Digest")]
    transform: Transform,
    /// how long queued events may still be delivered after SIGTERM (10s); its last third, at most 2 s,
    /// is for those that workers hold by then; the run ends within 5 s more, whatever the sink does
    #[argh(option, default = "secs(10)", from_str_fn(units::duration))]
    drain_timeout: Duration,
    /// where /metrics, /healthz (its workers move and its member polls), /readyz (it has partitions and
    /// the sink answers) and /debug/pprof/ are served (127.0.0.1:9902)
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 9902))")]
    listen: SocketAddr,
    /// file with the token that opens profiles off loopback, and is shown to the producer (else
    /// LAB_TOKEN)
    #[argh(option)]
    token_file: Option<PathBuf>,
    /// file for the interval latency log
    #[argh(option)]
    hlog: Option<PathBuf>,
}

/// Largest batch that can be asked for: its answer brings it whole. `message.max.bytes` is 1 MB by
/// default.
const BATCH_BYTES_MAX: i32 = 64 << 20;

/// What the rules for the size of a batch aim at.
const P99_TARGET: Duration = Duration::from_millis(500);

/// Kafka's default `session.timeout.ms`.
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);

/// Where a producer listens that was told nothing else.
const PRODUCER: &str = "http://127.0.0.1:9901";

#[derive(Clone, Copy, PartialEq, Eq)]
enum GroupProtocol {
    Classic,
    Consumer,
}

#[derive(Clone, Copy)]
enum ModeName {
    Single,
    Batch,
}

impl Flags {
    /// Checks what no single flag's range can say, and reads the environment's stand-ins.
    pub fn settings(self) -> Result<Settings, Failure> {
        self.check()?;
        let token = access::token(self.token_file.as_deref())?;
        if self.policy.holds_the_source() && token.is_some() && self.producer.is_none() {
            return Err(Failure::Usage(format!(
                "--producer is missing: --policy {} shows the producer the token, and at \
                 an address that nobody named anybody may listen; name it, such as \
                 --producer http://127.0.0.1:9901",
                self.policy.name()
            )));
        }
        let protocol = self.protocol();
        let sizing = self.batch_size.with_target(self.p99_target.unwrap_or(P99_TARGET));
        let linger = self.linger(sizing);
        let brokers = Brokers::of_flags(self.brokers, self.command_config)?;
        self.client.check(&brokers)?;
        let dead_letter = self.dead_letter.as_deref().map(Destination::parse).transpose()?;
        if dead_letter == Some(Destination::Topic(self.topic.clone())) {
            let allowed = "expected another topic than the one that is read";
            return Err(Failure::flag(
                "--dead-letter",
                format_args!("topic:{}", self.topic),
                allowed,
            ));
        }
        Ok(Settings {
            member: MemberSettings {
                brokers,
                topic: self.topic,
                group: self.group,
                instance_id: self.instance_id,
                max_poll_interval: self.max_poll_interval,
                protocol,
                session_timeout: self.session_timeout.unwrap_or(SESSION_TIMEOUT),
                commit_interval: self.commit_interval,
                revoke_wait: self.revoke_wait,
                reset: self.from,
            },
            fetch: FetchSettings {
                client: self.client,
                bytes: self.fetch_bytes,
                answer_bytes: self.answer_bytes,
                // A naive consumer asks for as much as ever, however slowly it is taken.
                answers: if self.keepalive { Answers::AsTaken } else { Answers::Largest },
                bytes_max: self.fetch_bytes_max,
                wait: Duration::from_millis(100),
                isolation: self.isolation,
                prefetch_bytes: self.prefetch_bytes,
                prefetch_events: self.prefetch_events,
                prefetch_pause: self.prefetch_pause,
            },
            skip_unreadable: self.skip_unreadable,
            queue: self.queue.with_capacity(self.queue_cap),
            spill: self.spill_dir.map(|dir| spill::Settings {
                dir,
                bytes_max: self.spill_max.unwrap_or(spill::BYTES_MAX),
                commit: self.spill_commit.unwrap_or_default(),
            }),
            sharding: self.worker_assignment,
            transform: self.transform,
            workers: self.sink_workers,
            pace: self.pace,
            mode: match self.sink_mode {
                ModeName::Single => Mode::Single,
                ModeName::Batch => Mode::Batch { sizing, linger },
            },
            policy: self.policy,
            credit_window: self.credit_window.map(|events| events.get() as u64),
            shed: self.shed,
            classes: Classes { high_share: self.high_priority_share },
            producer: base_url("--producer", self.producer.as_deref().unwrap_or(PRODUCER))?,
            sink: base_url("--sink", &cli::or_env(self.sink, "LAB_SINK", "http://127.0.0.1:9900"))?,
            sink_timeout: self.sink_timeout,
            drain_timeout: self.drain_timeout,
            stuck_after: self.stuck_after,
            keepalive: self.keepalive,
            listen: self.listen,
            token,
            hlog: self.hlog,
            shed_ids: self.shed_ids,
            dead_letter,
        })
    }

    fn protocol(&self) -> Protocol {
        match self.group_protocol {
            GroupProtocol::Classic => self.assignor.unwrap_or_default(),
            GroupProtocol::Consumer => Protocol::Consumer,
        }
    }

    /// How long a batch's first event waits.
    fn linger(&self, sizing: Sizing) -> Duration {
        // A fetcher that waits for the acks sends nothing that could be waited for; and a rule for the size waits for
        // nobody: batches gather during a call.
        let is_fixed = matches!(sizing, Sizing::Fixed(_));
        if self.queue == queue::Name::Pull || !is_fixed {
            Duration::ZERO
        } else {
            self.batch_linger
        }
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn at_least_1(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

fn reset(text: &str) -> Result<Reset, String> {
    units::one_of(text, &[("earliest", Reset::Earliest), ("latest", Reset::Latest)])
}

fn mode(text: &str) -> Result<ModeName, String> {
    units::one_of(text, &[("single", ModeName::Single), ("batch", ModeName::Batch)])
}

fn sharding(text: &str) -> Result<Sharding, String> {
    units::one_of(text, &[("round-robin", Sharding::Shared), ("key", Sharding::Key)])
}

fn group_protocol(text: &str) -> Result<GroupProtocol, String> {
    let names = [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
    units::one_of(text, &names)
}

fn assignor(text: &str) -> Result<Protocol, String> {
    let names = [("cooperative", Protocol::Cooperative), ("eager", Protocol::Eager)];
    units::one_of(text, &names)
}

fn on_off(text: &str) -> Result<bool, String> {
    units::one_of(text, &[("on", true), ("off", false)])
}

/// A bounded queue's slots are made at once, 16 B each: 1.6 GB at most.
fn queue_cap(text: &str) -> Result<NonZeroUsize, String> {
    let count = units::count(text)?;
    if count.get() <= 100_000_000 { Ok(count) } else { Err("expected at most 100000000".into()) }
}

fn workers(text: &str) -> Result<NonZeroUsize, String> {
    units::count(text).ok().filter(|n| n.get() <= 1024).ok_or("expected 1 to 1024".into())
}

/// librdkafka's own limits: 1 to 2097151 kB, 1 to 10000000 messages.
fn prefetch_bytes(text: &str) -> Result<u64, String> {
    let bytes = units::size(text)?;
    let allowed = "expected a size from 1KiB to 1GiB";
    (1 << 10..=1 << 30).contains(&bytes).then_some(bytes).ok_or(allowed.into())
}

fn prefetch_events(text: &str) -> Result<u32, String> {
    let allowed = "expected 1 to 10000000";
    let count = units::count(text).ok().and_then(|n| u32::try_from(n.get()).ok());
    count.filter(|n| *n <= 10_000_000).ok_or(allowed.into())
}

fn bytes_of_a_fetch(text: &str) -> Result<i32, String> {
    let bytes = units::size(text)?;
    i32::try_from(bytes)
        .ok()
        .filter(|b| (1024..=BATCH_BYTES_MAX).contains(b))
        .ok_or("expected a size from 1KiB to 64MiB".into())
}
