//! `lab bench`: this project's processor and producer against a franz-go program of the same job
//! (`benches/peers/franz-go`), on the same brokers, topic, sink and bodies, in turn.
//!
//! - `settings` what the user asks for
//! - `laps`     who runs when, and on what: as data
//! - `commands` what they are started with
//!
//! Invariant: each run of a contestant (a lap) is started, watched, checked and measured by the peer's `lap`; it
//! has figures only if every id arrived and every offset was committed. The peer's `table` makes the medians.
//! However a race ends, it stops what it started, and leaves no topic and no cluster of its own.

mod commands;
mod laps;
mod settings;

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use commands::{PEER_SOURCE, Places, words};
use laps::{Contestant, DEFAULT, Lap};
use settings::Kind;
pub use settings::Settings;

use super::interrupt::Interrupt;
use super::plan;
use super::run::arm::programs;
use super::run::children::Children;
use super::run::claims::{Claim, ClusterLock};
use super::run::cluster::{Cluster, New};
use super::run::commands::{FILE as COMMANDS, line, topic};
use super::run::ended;
use super::run::topic::Topic;
use super::tools;
use crate::cli;
use crate::failure::Failure;
use crate::planes::Client;

/// What a cluster takes on disk before anything is produced, B; three replicas of a topic, and of the one before
/// it that is being deleted.
const CLUSTER_BYTES: u64 = 1 << 30;
const COPIES: u64 = 3 * 2;

/// Races what the flags ask for.
///
/// # Errors
/// `Failed` when a lap, a process, the cluster or a file fails; `Interrupted`.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let mut places = Places::named(settings.kind);
    if settings.dry_run {
        let laps = laps::by_topic(settings, &laps::contestants(settings));
        return laps.iter().try_for_each(|laps| show(&places, laps));
    }
    plan::refuse_debug_build()?;
    let interrupt = Interrupt::on_signals()?;
    let (out, data) = settings.enter()?;
    let lock = ClusterLock::take(&data)?;
    // Only now, because the folder may hold the figures of the run that has the cluster.
    let _claim = Claim::emptied(&out)?;
    places.said = out.join("laps").join(settings.kind.name());
    let lines = forget_earlier(&out, settings.kind, &places.said)?;
    places.bin = programs()?;
    let peer = places.bin.parent().unwrap_or(Path::new(".")).join("franz-go/peer");
    places.peer = std::path::absolute(peer).map_err(Failure::failed)?;
    let mut children = Children::new(&out, &interrupt);
    log::info!(source = PEER_SOURCE; "building");
    children.start("peer-build", &places.build())?;
    children.finished("peer-build", Duration::MAX)?;
    let version = settings.kafka.as_ref();
    let flags: Vec<&str> = version.iter().flat_map(|v| ["--version", v.as_str()]).collect();
    let disk_bytes = (CLUSTER_BYTES + settings.events() * DEFAULT.value_bytes() * COPIES) as f64;
    let new = New { port: settings.port, disk_bytes, flags: &flags };
    let cluster = Cluster::have(lock, &data, &new, &interrupt)?;
    let on = (&cluster, &interrupt);
    let race = Race { children, topic: None, settings, on, places, out, lines, laps: 0, failed: 0 };
    let ran = contestants(settings, &cluster, &data).and_then(|all| race.run(&all));
    ended(ran, cluster)
}

/// `--dry-run`, of laps that share a topic.
fn show(places: &Places, laps: &[Lap]) -> Result<(), Failure> {
    let Some(first) = laps.first() else { return Ok(()) };
    cli::say(line(&topic("TOPIC", first.point.partitions, &[])))?;
    if places.kind != Kind::Producer {
        cli::say(line(&places.fill(first, "TOPIC")))?;
    }
    laps.iter().try_for_each(|lap| cli::say(line(&places.lap(lap, "TOPIC", "GROUP"))))
}

/// Removes what an earlier race of this kind left, and gives the file of the lines.
fn forget_earlier(out: &Path, kind: Kind, said: &Path) -> Result<File, Failure> {
    let of_kind = |ext: &str| out.join(kind.name()).with_extension(ext);
    let gone = [fs::remove_file(out.join(COMMANDS)), fs::remove_file(of_kind("txt"))];
    for gone in gone.into_iter().chain([fs::remove_dir_all(said)]) {
        gone.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
            .map_err(unwritable(out))?;
    }
    fs::create_dir_all(said).map_err(unwritable(said))?;
    File::create(of_kind("jsonl")).map_err(unwritable(out))
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |e| Failure::Failed(format!("{}: cannot be written: {e}", path.display()))
}

/// Who can run on this cluster, which may have been up already.
fn contestants(
    settings: &Settings,
    cluster: &Cluster,
    data: &Path,
) -> Result<Vec<Contestant>, Failure> {
    let (version, data) = (cluster.version(), data.display());
    if let Some(wanted) = settings.kafka.as_ref().filter(|wanted| *wanted != version) {
        return Err(Failure::Failed(format!(
            "the cluster in {data} is Kafka {version}, not {wanted}: 'run/cluster.sh down --data {data}' first, \
             or choose another --data and --port"
        )));
    }
    let can = |it: &Contestant| it.client != Some(Client::Kafka) || version.starts_with("3.");
    let (all, left_out): (Vec<_>, Vec<_>) = laps::contestants(settings).into_iter().partition(can);
    for it in left_out {
        let why = format!("crate kafka speaks to brokers up to 3.9, not {version}");
        log::warn!(who = it.who, why = why; "left out");
    }
    if all.iter().all(|it| it.client.is_none()) {
        let why =
            format!("--client kafka cannot run on Kafka {version}: take wire, or --kafka 3.9.2");
        return Err(Failure::Failed(why));
    }
    Ok(all)
}

/// A race under way. Dropped, it stops what it started and deletes its topic, in the order of its fields.
struct Race<'a> {
    children: Children,
    topic: Option<Topic<'a>>,
    settings: &'a Settings,
    on: (&'a Cluster, &'a Interrupt),
    places: Places,
    out: PathBuf,
    lines: File,
    laps: usize,
    failed: usize,
}

impl Race<'_> {
    fn run(mut self, contestants: &[Contestant]) -> Result<(), Failure> {
        let (cluster, kind) = (self.on.0, self.settings.kind);
        self.places.brokers = cluster.brokers().to_owned();
        self.places.broker_pids = cluster.pids().into_iter().map(|(_, pid)| pid).collect();
        if kind != Kind::Producer {
            let pid = self.children.start("sink", &words(&self.places.peer, "sink"))?;
            self.places.sink_pid = pid.to_string();
            self.places.sink = self.children.address("sink")?;
        }
        let says = host(self.settings, cluster.version());
        self.write(&serde_json::json!({ "kind": "host", "says": says }).to_string())?;
        for laps in laps::by_topic(self.settings, contestants) {
            self.on_a_topic(&laps)?;
        }
        show_progress("");
        if self.children.runs("sink") {
            self.children.dismiss("sink")?;
        }
        let (peer, lines) = (self.places.peer.display().to_string(), self.result("jsonl"));
        let table = tools::run(&[&peer, "table", &lines.display().to_string()])?;
        let text = self.result("txt");
        fs::write(&text, &table).map_err(unwritable(&text))?;
        let said = if self.settings.json {
            let unread = |e| Failure::Failed(format!("{}: cannot be read: {e}", lines.display()));
            fs::read_to_string(&lines).map_err(unread)?
        } else {
            table
        };
        cli::say(said.trim_end())?;
        let (failed, laps) = (self.failed, self.laps);
        let why = format!("{failed} of {laps} laps have no figures: see {}", lines.display());
        if failed == 0 { Ok(()) } else { Err(Failure::Failed(why)) }
    }

    /// Runs the laps that share a topic.
    fn on_a_topic(&mut self, laps: &[Lap]) -> Result<(), Failure> {
        let Some(first) = laps.first() else { return Ok(()) };
        let kind = self.settings.kind;
        let name = format!("bench-{}-{}-{}", kind.name(), std::process::id(), self.laps + 1);
        let partitions = first.point.partitions;
        self.topic = Some(Topic::create(self.on, &self.out, name.clone(), partitions, &[])?);
        if kind != Kind::Producer {
            let (events, bytes) = (first.events, first.point.value_bytes());
            show_progress(&format!("filling {name} with {events} events of {bytes} B"));
            self.children.start("fill", &self.places.fill(first, &name))?;
            self.children.finished("fill", Duration::MAX)?;
        }
        laps.iter().try_for_each(|lap| self.lap(lap, &name))?;
        self.topic.take().map_or(Ok(()), |mut topic| topic.delete())
    }

    /// Runs a lap and adds its line to the results, except for the warm-up.
    fn lap(&mut self, lap: &Lap, topic: &str) -> Result<(), Failure> {
        let (round, mode, who) = (lap.round, lap.point.mode, lap.by.who);
        let (kind, rounds) = (self.settings.kind.name(), self.settings.rounds());
        show_progress(&format!("{kind}, round {round} of {rounds}: {mode}, {who}"));
        self.laps += 1;
        let group = format!("{topic}-{}", self.laps);
        self.children.start("lap", &self.places.lap(lap, topic, &group))?;
        let status = self.children.ends("lap", Duration::MAX)?.unwrap_or_default();
        let said = |name: &str| fs::read_to_string(self.out.join(name)).unwrap_or_default();
        let (line, why) = (said("lap.json"), said("lap.log"));
        if line.trim().is_empty() {
            return Err(self.children.broken("lap", "says nothing"));
        }
        if !status.success() {
            self.failed += 1;
            log::error!(who = who, mode = mode, round = round, why = why.trim(); "lap failed");
        }
        if round == 0 { Ok(()) } else { self.write(line.trim()) }
    }

    fn result(&self, ext: &str) -> PathBuf {
        self.out.join(self.settings.kind.name()).with_extension(ext)
    }

    fn write(&self, line: &str) -> Result<(), Failure> {
        writeln!(&self.lines, "{line}").map_err(unwritable(&self.result("jsonl")))
    }
}

/// The line above the table.
fn host(settings: &Settings, kafka: &str) -> String {
    let of = match settings.kind {
        Kind::Race => "queue of 10000, batches of 200, 4 workers, transform digest",
        Kind::Producer => "acks of all replicas",
        Kind::Curve => {
            "queue bounded; default: 12 partitions, payload 512, 4 workers, batches of 200; transform digest"
        }
    };
    let go = fs::read_to_string(Path::new(PEER_SOURCE).join("go.mod")).unwrap_or_default();
    let franz = go.lines().find_map(|line| line.trim().strip_prefix("github.com/twmb/franz-go v"));
    let host = plan::host(kafka, Path::new("."));
    format!(
        "{} of {}{}: {} events of {} B, {of}; Kafka {kafka}, franz-go {}, {} cores of {}, load {:.2}, {}. \
         Medians (least-most); x: of ours to franz-go",
        settings.kind.name(),
        host.revision.get(..10).unwrap_or("unknown"),
        if host.dirty == Some(true) { "-dirty" } else { "" },
        settings.events(),
        DEFAULT.value_bytes(),
        franz.unwrap_or("unknown"),
        host.cores,
        host.cpu,
        host.load_1m,
        host.date
    )
}

/// Shows progress on a terminal; a pipe gets none.
fn show_progress(words: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{words}");
    }
}
