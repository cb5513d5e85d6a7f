//! `lab audit`: does every id that was produced have exactly one fate?
//!
//! The ids that the brokers acknowledged to the producer are compared with the sink's bitmap of
//! delivered ids, the processor's shed ids and dead letters, what it left on disk, and the log from the
//! committed offsets to its end, read record by record. Invariant: an id in none of them is *missing*; dead letters
//! explain only the ids that they name. Events that a processor held in memory are not committed,
//! so the log has them: a killed processor, which leaves no summary, is audited like any other. An
//! id may be delivered or shed and still be in the log (at-least-once): it is counted as `again`.
//! An id that is shed and delivered has two fates, unless its event can have been read twice: after
//! a kill, or by another member. The audit changes nothing: it joins no group and commits nothing.

mod ledger;
mod lost;
mod summaries;
mod tail;

use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use roaring::RoaringTreemap;
use serde::Deserialize;

use crate::brokers::Brokers;
use crate::cli::{self, or_env};
use crate::failure::Failure;
use crate::http::client;
use crate::logging::said;
use crate::planes::Isolation;
use crate::policy::dead_letters::{self, Destination};
use crate::policy::shed::ids as shed_ids;
use crate::sink::wire;
use crate::source::spilled;

use ledger::Found;
pub use ledger::Ledger;
use summaries::{Produced, Taken};
use tail::Tail;

/// File name inside an arm's folder.
pub const FILE: &str = "ledger.json";

/// Limit of a request to the sink.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Largest bitmap taken from the sink, 1 GiB: 8 billion dense ids.
const IDS_BYTES_MAX: u64 = 1 << 30;
/// How often a busy sink is asked, and how long after. A sink that serves its ids to one reader at
/// a time cuts that reader off after 10 s (`http::Limits`), so this is room for two before us.
const TRIES_MAX: u32 = 30;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Account for every id, after the processor has stopped; exit 3 when one has no
/// fate or two.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "audit")]
pub struct Settings {
    /// bootstrap list (LAB_BROKERS, else where run/cluster.sh listens)
    #[argh(option)]
    pub brokers: Option<String>,
    /// properties file of a Kafka client: TLS and SASL (LAB_COMMAND_CONFIG)
    #[argh(option)]
    pub command_config: Option<String>,
    /// topic, which holds this run's events only (events)
    #[argh(option, default = "String::from(\"events\")")]
    pub topic: String,
    /// the processor's group (lab)
    #[argh(option, default = "String::from(\"lab\")")]
    pub group: String,
    /// as the processor's: read-uncommitted, read-committed (read-uncommitted)
    #[argh(option, default = "Isolation::ReadUncommitted", from_str_fn(Isolation::parse))]
    pub isolation: Isolation,
    /// the sink's address (LAB_SINK, else http://127.0.0.1:9900)
    #[argh(option, default = "or_env(None, \"LAB_SINK\", \"http://127.0.0.1:9900\")")]
    pub sink: String,
    /// what a producer printed at its end, once for each
    #[argh(option)]
    pub producer: Vec<PathBuf>,
    /// what a processor printed at its end, once for each; an empty file, if it was killed
    #[argh(option)]
    pub processor: Vec<PathBuf>,
    /// the ids that a processor shed, its --shed-ids, once for each
    #[argh(option)]
    pub shed_ids: Vec<PathBuf>,
    /// what a processor gave up, its --dead-letter, once for each; of a topic, its records as lines of a file
    #[argh(option)]
    pub dead_letter: Vec<String>,
    /// where a processor's queue spilled, its --spill-dir, once for each
    #[argh(option)]
    pub spill_dir: Vec<PathBuf>,
    /// the ledger's file (ledger.json)
    #[argh(option, default = "PathBuf::from(FILE)")]
    pub out: PathBuf,
}

/// Audits, and always writes the ledger.
///
/// # Errors
/// [`Failure::Verdict`] when ids are unaccounted for; [`Failure::Failed`] when the log or the
/// sink cannot be read to the end: a partial audit does not count.
pub fn run(settings: &Settings) -> Result<Ledger, Failure> {
    cli::check_topic(&settings.topic)?;
    cli::check_group(&settings.group)?;
    let brokers = Brokers::of_flags(settings.brokers.clone(), settings.command_config.clone())?;
    if settings.producer.is_empty() {
        return Err(Failure::Usage("--producer: what the producer printed at its end".to_owned()));
    }
    let sink = client::base_url("--sink", &settings.sink)?;
    brokers.let_us_in(&settings.topic)?;
    let producers: Vec<Produced> =
        settings.producer.iter().map(|path| Produced::read(path)).collect::<Result<_, _>>()?;
    let produced = summaries::ids_of(&settings.producer, &producers)?;
    let taken: Vec<Option<Taken>> =
        settings.processor.iter().map(|path| Taken::read(path)).collect::<Result<_, _>>()?;
    // What was sent again may have been shed once and delivered once.
    let resent = producers.iter().any(|producer| producer.resent > 0);
    let mut found =
        Found { taken_again: resent || summaries::taken_again(&taken), ..Found::default() };
    for path in &settings.shed_ids {
        found.shed |= shed_ids::read(path)?;
    }
    for to in &settings.dead_letter {
        match Destination::parse(to)? {
            Destination::File(path) => found.invalid |= dead_letters::ids(&path)?,
            Destination::Topic(_) => {
                return Err(Failure::Usage(format!(
                    "--dead-letter {to}: the audit reads a file: write the topic's records into one, a line each, with any \
                     consumer"
                )));
            }
        }
    }
    for path in &settings.spill_dir {
        found.on_disk |= spilled::ids(path, &settings.topic, &settings.group)?;
    }
    let totals;
    (found.delivered, totals) = delivered(&sink)?;
    let tail = Tail::of(&brokers, settings)?;
    if let Some(members) = tail.members.filter(|members| *members > 0) {
        log::warn!(
            group = settings.group.as_str(), members = members;
            "the group has members still: unless they were killed, stop them, or these sums are of a moment"
        );
    }
    found.in_log = tail.ids;
    let summaries = || taken.iter().flatten();
    let ledger = Ledger {
        duplicates: totals.duplicates,
        corrupt: totals.corrupt,
        log_records: tail.records,
        log_invalid: tail.invalid,
        held: summaries::held(&taken),
        lost: lost::count(&producers, &taken),
        invalid: summaries().map(|taken| taken.invalid).sum(),
        shed_high: summaries::high(&found.shed, &taken),
        ..Ledger::of(&produced, &found)
    };
    super::write_json(&settings.out, &ledger)?;
    log::info!(
        produced = ledger.produced, delivered = ledger.delivered, shed = ledger.shed,
        in_log = ledger.in_log, on_disk = ledger.on_disk, again = ledger.again, duplicates = ledger.duplicates,
        held = ledger.held.map_or_else(|| "unknown".to_owned(), |held| held.to_string()).as_str(), invalid = ledger.invalid,
        lost = ledger.lost, corrupt = ledger.corrupt, missing = ledger.missing; "ledger"
    );
    if ledger.wrong() > 0 {
        let shed = summaries().map(|taken| taken.shed).sum();
        return Err(Failure::Verdict(wrong(&ledger, shed, &settings.out)));
    }
    // Then all is in the log, whoever lost it. A processor of ours may have been killed before its first commit.
    if !tail.is_committed && taken.is_empty() {
        return Err(Failure::Failed(format!(
            "group {} has committed nothing in {} (the sink has {} of its ids): every id counts as in the log; name the \
             group that reads it (--group)",
            settings.group, settings.topic, ledger.delivered
        )));
    }
    Ok(ledger)
}

/// What is wrong, the worst first; `shed` is how many the processors counted as shed.
fn wrong(ledger: &Ledger, shed: u64, sums: &Path) -> String {
    let mut all = Vec::new();
    let mut say = |ids: u64, what: &str| {
        if ids > 0 {
            all.push(format!("{ids} {what}"));
        }
    };
    say(
        ledger.unexplained,
        "are missing: not delivered, shed (--shed-ids), given up (--dead-letter), on disk (--spill-dir) or in the log at \
         or above the committed offset",
    );
    say(ledger.two_fates, "are both shed and delivered");
    say(ledger.corrupt, "deliveries were not what their digest says");
    say(ledger.lost, "are known to be lost with the log");
    say(shed, "were counted as shed by the processors");
    let (produced, wrong, sums) = (ledger.produced, all.join("; "), sums.display());
    let first = &ledger.examples;
    format!(
        "the ledger does not add up: of {produced} ids {wrong}; the first: {first:?}; all sums in {sums}"
    )
}

/// The ids that the sink at `base` delivered, and its sums.
fn delivered(base: &str) -> Result<(RoaringTreemap, Totals), Failure> {
    let agent = client::agent(ANSWER_WITHIN);
    let broken = |why: String| Failure::Failed(format!("the sink's ledger, {base}: {why}"));
    let totals = Totals::read(&ask(&agent, &format!("{base}{}", wire::LEDGER))?).map_err(broken)?;
    let ids = ask(&agent, &format!("{base}{}", wire::LEDGER_IDS))?;
    let ids = read_ids(&ids, totals.distinct).map_err(broken)?;
    Ok((ids, totals))
}

/// The body at `url`. A sink that answers 503 is busy: all its handlers are, or another reader
/// reads its ids.
fn ask(agent: &ureq::Agent, url: &str) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::Failed(format!("the sink's ledger, {url}: {why}"));
    let mut tries = 1;
    loop {
        let mut answer = agent.get(url).call().map_err(|e| failed(e.to_string()))?;
        let status = answer.status().as_u16();
        if status == 200 {
            let body = answer.body_mut().with_config().limit(IDS_BYTES_MAX);
            return body.read_to_vec().map_err(|e| failed(e.to_string()));
        }
        if status != 503 || tries == TRIES_MAX {
            let mut words = Vec::new();
            // As much of them as comes.
            let _cut_short = client::read_beginning(answer.body_mut(), &mut words);
            let why = format!("status {status} at try {tries}: {}", said(&words));
            return Err(failed(why));
        }
        log::warn!(url = url, tries = tries; "the sink is busy, asking again");
        tries += 1;
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// What the audit needs of the sink's sums.
#[derive(Debug, Deserialize)]
pub(crate) struct Totals {
    distinct: u64,
    duplicates: u64,
    /// A sink that is not the lab's may check no digests.
    #[serde(default)]
    corrupt: u64,
}

impl Totals {
    /// Reads the answer to `GET /ledger`; `Err` says what is wrong with it.
    pub(crate) fn read(answer: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(answer).map_err(|e| said(e.to_string().as_bytes()))
    }
}

/// Reads the answer to `GET /ledger/ids` of a sink that counts `distinct` ids; `Err` says what is wrong
/// with it.
pub(crate) fn read_ids(answer: &[u8], distinct: u64) -> Result<RoaringTreemap, String> {
    let ids = RoaringTreemap::deserialize_from(answer).map_err(|e| e.to_string())?;
    if ids.len() == distinct {
        return Ok(ids);
    }
    Err(format!(
        "{} ids but {distinct} distinct events: it is still being written to; stop the processor first",
        ids.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: an audit without a ledger because another reader reads the same sink's ids.
    #[test]
    fn a_sink_that_is_busy_is_asked_again() {
        use crate::http::{Limits, Request, Response, Server};
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU32, Ordering};

        let delivered_ids: RoaringTreemap = [1, 2, 1_u64 << 40].into_iter().collect();
        let mut ids = Vec::new();
        delivered_ids.serialize_into(&mut ids).expect("written");
        let asked = Arc::new(AtomicU32::new(0));
        let times = Arc::clone(&asked);
        let handler = move |request: Request| match request.path.as_str() {
            wire::LEDGER => Response::text(200, r#"{"distinct":3,"duplicates":7}"#),
            wire::LEDGER_IDS if times.fetch_add(1, Ordering::SeqCst) == 0 => {
                Response::text(503, "somebody else").with_header("Retry-After", "1")
            }
            wire::LEDGER_IDS => Response::bytes(200, "application/octet-stream", ids.clone()),
            path => Response::text(404, path),
        };
        let listen = ([127, 0, 0, 1], 0).into();
        let server = Server::start(listen, Limits::default(), Arc::new(handler)).expect("a sink");
        let base = format!("http://{}", server.addr());
        let (ids, totals) = delivered(&base).expect("a ledger");
        assert_eq!((ids, totals.duplicates, totals.corrupt), (delivered_ids, 7, 0));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let other = ask(&client::agent(ANSWER_WITHIN), &format!("{base}/none"));
        let why = other.expect_err("404").to_string();
        assert!(why.contains("status 404 at try 1: /none"), "{why}");
    }
}
