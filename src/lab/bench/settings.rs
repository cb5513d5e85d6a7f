//! The flags of `lab bench`.

use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use crate::failure::Failure;
use crate::lab::cluster;
use crate::lab::run::flags;
use crate::planes::Client;
use crate::units;

/// What is raced: each queue of ours against the same of franz-go; the producer flat out; what an event costs by
/// partitions, payload, workers and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Race,
    Producer,
    Curve,
}

impl Kind {
    const NAMES: [(&str, Self); 3] =
        [("race", Self::Race), ("producer", Self::Producer), ("curve", Self::Curve)];

    /// As the flags and the files call it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| *name)
    }
}

/// One flag's: argh takes a `Vec` for a flag that may be repeated.
pub type Clients = Vec<Client>;

/// Race the processor and the producer against a franz-go program of the same job, on the same
/// brokers, topic, sink and bodies, in turn. Exit 1 when a contestant loses an event or leaves one
/// uncommitted.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "bench")]
pub struct Settings {
    /// race: bounded, pull and unbounded; producer: flat out; curve: by partitions, payload, workers, batch
    /// (race)
    #[argh(positional, default = "Kind::Race", from_str_fn(kind))]
    pub kind: Kind,
    /// 200000 events and 2 rounds, and fewer points of a curve
    #[argh(switch)]
    pub quick: bool,
    /// laps of each contestant (5; of a curve 1)
    #[argh(option, from_str_fn(rounds))]
    rounds: Option<u64>,
    /// events of a lap (1000000); a curve takes so many of 536 B, and of other sizes as many as
    /// take about as long
    #[argh(option, from_str_fn(events))]
    events: Option<u64>,
    /// kafka's release to start (the pinned one, see run/cluster.sh)
    #[argh(option, from_str_fn(cluster::version))]
    pub kafka: Option<String>,
    /// which clients of ours run (wire,kafka)
    #[argh(option, default = "vec![Client::Wire, Client::Kafka]", from_str_fn(clients))]
    pub client: Clients,
    /// franz-go in the curve too; in the race also with fetches of 2 MiB a partition
    #[argh(switch)]
    pub peers: bool,
    /// folder of the results (results/bench): KIND.jsonl, KIND.txt, commands.txt
    #[argh(option)]
    out: Option<PathBuf>,
    /// the cluster's folder, as for run/cluster.sh (.cluster)
    #[argh(option)]
    data: Option<PathBuf>,
    /// the cluster's first port, where one is started (19092)
    #[argh(option, from_str_fn(cluster::port))]
    pub port: Option<u16>,
    /// folder of the source: where run/cluster.sh and benches/peers are (.)
    #[argh(option, default = "PathBuf::from(\".\")")]
    source: PathBuf,
    /// print the figures of each lap, a JSON object a line, in place of the table
    #[argh(switch)]
    pub json: bool,
    /// print the commands, and run nothing
    #[argh(switch)]
    pub dry_run: bool,
}

fn kind(text: &str) -> Result<Kind, String> {
    units::one_of(text, &Kind::NAMES)
}

fn rounds(text: &str) -> Result<u64, String> {
    within(text, 1, 999)
}

fn events(text: &str) -> Result<u64, String> {
    within(text, 1000, 99_999_999)
}

fn within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let value = text.parse().ok().filter(|value| (&least..=&most).contains(&value));
    value.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

fn clients(text: &str) -> Result<Clients, String> {
    let all = text.split(',').map(Client::parse).collect::<Result<_, _>>();
    all.map_err(|_| "expected wire, kafka, or both with a comma".into())
}

impl Settings {
    /// Laps of each contestant, beside the warm-up.
    pub fn rounds(&self) -> u64 {
        let by_form = if self.quick { 2 } else { 5 };
        self.rounds.unwrap_or(if self.kind == Kind::Curve { 1 } else { by_form })
    }

    /// Events of a lap at the default point.
    pub fn events(&self) -> u64 {
        self.events.unwrap_or(if self.quick { 200_000 } else { 1_000_000 })
    }

    /// As `lab run` does: the folders of the results and of the cluster.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn enter(&self) -> Result<(PathBuf, PathBuf), Failure> {
        let out = (&self.out, Path::new("results/bench"));
        flags::enter(&self.source, out, (&self.data, ".cluster"))
    }
}
