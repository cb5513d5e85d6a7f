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
use crate::load::logs::GoneLog;
use crate::logging::said;
use crate::pipeline::Spilled;
use crate::planes::Isolation;
use crate::policy::dead_letters;
use crate::policy::shed::class::Classes;
use crate::policy::shed::ids as shed_ids;
use crate::sink::wire;
use crate::source::{LeftLog, spilled};

use ledger::Found;
pub use ledger::Ledger;
use tail::Tail;

/// File name inside an arm's folder.
pub const FILE: &str = "ledger.json";

/// Limit of a request to the sink.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Largest bitmap taken from the sink, and most ids of the producers: 1 GiB is 8 billion dense ids.
const IDS_BYTES_MAX: u64 = 1 << 30;
const IDS_MAX: u64 = IDS_BYTES_MAX * 8;
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
    /// what a processor gave up, its --dead-letter, once for each
    #[argh(option)]
    pub dead_letter: Vec<PathBuf>,
    /// where a processor's queue spilled, its --spill-dir, once for each
    #[argh(option)]
    pub spill_dir: Vec<PathBuf>,
    /// the ledger's file (ledger.json)
    #[argh(option, default = "PathBuf::from(FILE)")]
    pub out: PathBuf,
}

/// What the audit needs of the producer's summary.
#[derive(Deserialize, Default)]
struct Produced {
    first_id: u64,
    acked_below: u64,
    #[serde(default)]
    logs_gone: Vec<GoneLog>,
    #[serde(default)]
    resent: u64,
}

impl Produced {
    fn read(path: &Path) -> Result<Self, Failure> {
        let read: Self = super::read_json(path)?;
        let ids = read.acked_below.checked_sub(read.first_id);
        if ids.is_some_and(|ids| ids <= IDS_MAX) {
            return Ok(read);
        }
        Err(Failure::Failed(format!(
            "--producer {}: ids from {} to below {}: allowed: 0 to {IDS_MAX} ids of a producer",
            path.display(),
            read.first_id,
            read.acked_below
        )))
    }
}

/// What it needs of a processor's summary. One without its fetched and acked events is refused.
#[derive(Deserialize, Default)]
struct Taken {
    fetched: u64,
    acked: u64,
    #[serde(default)]
    shed: u64,
    #[serde(default)]
    high_priority_share: f64,
    #[serde(default)]
    invalid: u64,
    #[serde(default)]
    evictions: u64,
    #[serde(default)]
    lost: u64,
    #[serde(default)]
    logs_left: Vec<LeftLog>,
    #[serde(default)]
    spill: Option<Spilled>,
}

impl Taken {
    /// Read from its file; `None` when that is empty: the processor was killed before it could
    /// print anything. A missing file is an error, not a kill.
    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let failed = |why: String| {
            let path = path.display();
            Failure::Failed(format!(
                "--processor {path}: {why}; expected what the processor printed at its end, or an \
                 empty file if it was killed"
            ))
        };
        let text = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|e| failed(format!("is damaged: {e}")))
    }

    /// What it took and did not see to its end; what it left on disk is not in the log, and not among them.
    fn held(&self) -> u64 {
        let Spilled { found, left } = self.spill.unwrap_or_default();
        (self.fetched + found).saturating_sub(self.acked + self.shed + self.invalid + left)
    }
}

/// What all processors together held; `None` when one cannot say, or none was named.
fn held(taken: &[Option<Taken>]) -> Option<u64> {
    let sum = taken.iter().map(|one| one.as_ref().map(Taken::held)).sum();
    if taken.is_empty() { None } else { sum }
}

/// How many of the ids are of high priority, for any of the processors.
fn high(ids: &RoaringTreemap, taken: &[Option<Taken>]) -> u64 {
    let classes: Vec<Classes> = taken
        .iter()
        .flatten()
        .map(|taken| Classes { high_share: taken.high_priority_share })
        .filter(|classes| classes.high_share > 0.0)
        .collect();
    let is_high = |id: &u64| classes.iter().any(|classes| classes.is_high(*id));
    if classes.is_empty() { 0 } else { ids.iter().filter(is_high).count() as u64 }
}

/// The ids of all producers.
///
/// # Errors
/// When two had the same id: what one lost, the other would have delivered.
fn ids_of(files: &[PathBuf], producers: &[Produced]) -> Result<RoaringTreemap, Failure> {
    let mut ids = RoaringTreemap::new();
    for (file, Produced { first_id, acked_below, .. }) in files.iter().zip(producers) {
        let shared = acked_below - first_id - ids.insert_range(*first_id..*acked_below);
        if shared > 0 {
            return Err(Failure::Failed(format!(
                "--producer {}: {shared} of its ids, {first_id} to below {acked_below}, are another producer's too: no \
                 audit can tell their events apart; give each producer its own (--first-id or --share)",
                file.display()
            )));
        }
    }
    Ok(ids)
}

/// Whether an event may have been taken up a second time. A consumer that leaves no summary cannot say.
fn taken_again(taken: &[Option<Taken>]) -> bool {
    taken.len() != 1 || taken.iter().any(|one| one.as_ref().is_none_or(|one| one.evictions > 0))
}

/// Audits, and always writes the ledger.
///
/// # Errors
/// [`Failure::Verdict`] when ids are unaccounted for; [`Failure::Failed`] when the log or the
/// sink cannot be read to the end: a partial audit does not count.
pub fn run(settings: &Settings) -> Result<Ledger, Failure> {
    cli::check_topic(&settings.topic)?;
    let brokers = Brokers::of_flags(settings.brokers.clone(), settings.command_config.clone())?;
    if settings.producer.is_empty() {
        return Err(Failure::Usage("--producer: what the producer printed at its end".to_owned()));
    }
    let sink = client::base_url("--sink", &settings.sink)?;
    brokers.let_us_in(&settings.topic)?;
    let producers: Vec<Produced> =
        settings.producer.iter().map(|path| Produced::read(path)).collect::<Result<_, _>>()?;
    let produced = ids_of(&settings.producer, &producers)?;
    let taken: Vec<Option<Taken>> =
        settings.processor.iter().map(|path| Taken::read(path)).collect::<Result<_, _>>()?;
    // What was sent again may have been shed once and delivered once.
    let resent = producers.iter().any(|producer| producer.resent > 0);
    let mut found = Found { taken_again: resent || taken_again(&taken), ..Found::default() };
    for path in &settings.shed_ids {
        found.shed |= shed_ids::read(path)?;
    }
    for path in &settings.dead_letter {
        found.invalid |= dead_letters::ids(path)?;
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
        held: held(&taken),
        lost: lost::count(&producers, &taken),
        invalid: summaries().map(|taken| taken.invalid).sum(),
        shed_high: high(&found.shed, &taken),
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

    /// Prevents: a mistyped path that counts as a kill, after which an id may have two fates.
    #[test]
    fn a_summary_that_cannot_be_read_is_a_failure_and_no_kill() {
        let dir = tempfile::tempdir().expect("dir");
        let damaged = dir.path().join("damaged");
        std::fs::write(&damaged, "{\"fetched\":").expect("written");
        let other = dir.path().join("other");
        std::fs::write(&other, "{}").expect("written");
        for path in [dir.path().join("absent"), dir.path().to_owned(), damaged, other] {
            let why = Taken::read(&path).err().expect("no summary");
            let said = why.to_string();
            assert!(matches!(why, Failure::Failed(_)), "{said}");
            assert!(said.contains(&format!("--processor {}", path.display())), "{said}");
        }
    }

    /// Prevents: a damaged summary whose ids fill the memory, or count as none.
    #[test]
    fn ids_that_nobody_can_have_produced_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("producer.json");
        for (first, below, is_read) in
            [(0, 0, true), (5, 9, true), (0, IDS_MAX, true), (0, IDS_MAX + 1, false), (9, 5, false)]
        {
            let text = format!("{{\"first_id\":{first},\"acked_below\":{below}}}");
            std::fs::write(&path, text).expect("written");
            assert_eq!(Produced::read(&path).is_ok(), is_read, "{first} to {below}");
        }
    }

    /// Prevents: an event that is lost and covered by another producer's of the same id.
    #[test]
    fn producers_with_the_same_ids_are_refused() {
        let files = ["a.json", "b.json"].map(PathBuf::from);
        let of = |ranges: [(u64, u64); 2]| {
            let all = ranges.map(|(first_id, acked_below)| Produced {
                first_id,
                acked_below,
                ..Produced::default()
            });
            ids_of(&files, &all)
        };
        assert_eq!(of([(0, 10), (10, 15)]).expect("apart").len(), 15);
        assert_eq!(of([(0, 10), (5, 5)]).expect("one sent nothing").len(), 10);
        let why = of([(0, 10), (7, 15)]).expect_err("three of both").to_string();
        assert!(why.contains("--producer b.json: 3 of its ids"), "{why}");
    }

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

    #[test]
    fn a_killed_processor_leaves_no_summary_and_what_it_took_may_come_again() {
        let dir = tempfile::tempdir().expect("dir");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").expect("written");
        assert!(Taken::read(&empty).expect("killed").is_none());
        let ended = Taken { fetched: 100, acked: 60, shed: 20, invalid: 1, ..Taken::default() };
        assert_eq!((held(&[None]), held(&[])), (None, None));
        assert!(taken_again(&[None]) && taken_again(&[Some(Taken::default()), None]));
        let evicted = Taken { evictions: 1, ..Taken::default() };
        assert!(taken_again(&[Some(evicted)]) && taken_again(&[]));
        let alone = [Some(ended)];
        assert_eq!((held(&alone), taken_again(&alone)), (Some(19), false));
    }
}
