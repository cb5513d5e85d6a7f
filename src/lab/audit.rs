//! `lab audit`: does every id that was produced have exactly one fate?
//!
//! The ids that the brokers acknowledged to the producer are held against the sink's bitmap of
//! delivered ids, the processor's of shed ids, and the log from the committed offsets to its end,
//! read record by record. Invariant: an id in none of them is *missing*, and only as many may be
//! missing as the processor counted as invalid (most of those are records without an id).
//! What a processor held in memory is not committed, so the log has it: a killed one, which leaves
//! neither summary nor ids, is audited like any other. Settled and still in the log is allowed
//! (at-least-once): it is counted as `again`. Shed and delivered is not: it is two fates.
//! It changes nothing: it joins no group and commits nothing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::FromArgs;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList, error::KafkaError};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use crate::cli::{DEFAULT_BROKERS, or_env};
use crate::event::Event;
use crate::failure::Failure;
use crate::http;
use crate::lab::lag::LagReader;
use crate::lab::samples::LogReading;

/// File name inside an arm's folder.
pub const FILE: &str = "ledger.json";

/// How long the log may stand still while it is read.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// When offsets that could not be read are asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Ids in the wrong that are written out.
const EXAMPLES: usize = 20;
/// Largest bitmap taken from the sink: 1 GiB is 8 billion dense ids.
const IDS_BYTES_MAX: u64 = 1 << 30;

/// Account for every id, after the processor has stopped; exit 3 when one has no
/// fate or two.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "audit")]
pub struct Settings {
    /// bootstrap list (LAB_BROKERS, else where run/cluster.sh listens)
    #[argh(option, default = "or_env(None, \"LAB_BROKERS\", DEFAULT_BROKERS)")]
    pub brokers: String,
    /// topic, which holds this run's events only (events)
    #[argh(option, default = "String::from(\"events\")")]
    pub topic: String,
    /// the processor's group (lab)
    #[argh(option, default = "String::from(\"lab\")")]
    pub group: String,
    /// the sink's address (LAB_SINK, else http://127.0.0.1:9900)
    #[argh(option, default = "or_env(None, \"LAB_SINK\", \"http://127.0.0.1:9900\")")]
    pub sink: String,
    /// what the producer printed at its end
    #[argh(option)]
    pub producer: PathBuf,
    /// what a processor printed at its end, once for each; nothing, if it was killed
    #[argh(option)]
    pub processor: Vec<PathBuf>,
    /// the ids that a processor shed, its --shed-ids, once for each; no file, if it was killed
    #[argh(option)]
    pub shed_ids: Vec<PathBuf>,
    /// the ledger's file (ledger.json)
    #[argh(option, default = "PathBuf::from(FILE)")]
    pub out: PathBuf,
}

/// Where every id went. `produced = delivered + shed + in_log − again + missing`, by id, unless an
/// id was shed and delivered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Ids that were acknowledged to the producer.
    pub produced: u64,
    /// Of these, delivered to the sink.
    pub delivered: u64,
    /// Of these, in the log at or above the committed offset.
    pub in_log: u64,
    /// Delivered or shed, and in the log: a restart would take them up again.
    pub again: u64,
    /// Of these, shed by the processor.
    pub shed: u64,
    /// Both shed and delivered: must be 0.
    pub shed_delivered: u64,
    /// Counted as no event by the processor, or refused for good by the sink.
    pub invalid: u64,
    /// What the processor had taken and neither delivered nor dropped when it ended. It was not
    /// committed: its ids are among `in_log`. Absent when it was killed and left no summary.
    pub held: Option<u64>,
    /// In none of these places.
    pub missing: u64,
    /// Missing beyond what was invalid: must be 0.
    pub unexplained: u64,
    /// The lowest ids that are missing, or shed and delivered.
    pub examples: Vec<u64>,
    /// Ids found that the producer does not vouch for (it was stopped before the acknowledgement
    /// came).
    pub beyond: u64,
    /// Deliveries of an id that was delivered before.
    pub duplicates: u64,
    /// Records in that part of the log; more than its ids when the producer sent some again.
    pub log_records: u64,
    /// Records in that part of the log that are no event.
    pub log_invalid: u64,
}

/// Sets of ids, by what became of them.
#[derive(Debug, Default)]
struct Found {
    delivered: RoaringTreemap,
    shed: RoaringTreemap,
    in_log: RoaringTreemap,
}

impl Ledger {
    /// Ids without a fate, or with two: must be 0.
    pub fn wrong(&self) -> u64 {
        self.unexplained + self.shed_delivered
    }

    /// Holds the ids against each other; the counts that are not about ids stay 0.
    fn of(produced: std::ops::Range<u64>, found: &Found, invalid: u64) -> Self {
        let mut all = RoaringTreemap::new();
        all.insert_range(produced);
        let Found { delivered, shed, in_log } = found;
        let settled = delivered | shed;
        let anywhere = &settled | in_log;
        let (missing, both) = (&all - &anywhere, delivered & shed);
        Self {
            produced: all.len(),
            delivered: (&all & delivered).len(),
            in_log: (&all & in_log).len(),
            again: (settled & in_log & &all).len(),
            shed: (&all & shed).len(),
            shed_delivered: both.len(),
            invalid,
            missing: missing.len(),
            unexplained: missing.len().saturating_sub(invalid),
            examples: (missing | both).iter().take(EXAMPLES).collect(),
            beyond: (anywhere - &all).len(),
            ..Self::default()
        }
    }
}

/// What the audit needs of the producer's summary.
#[derive(Deserialize)]
struct Produced {
    first_id: u64,
    acked_below: u64,
}

/// What it needs of a processor's.
#[derive(Deserialize, Default)]
struct Taken {
    fetched: u64,
    acked: u64,
    shed: u64,
    invalid: u64,
}

impl Taken {
    /// Read from its file; `None` when the processor was killed before it could print it.
    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        match path.metadata() {
            Ok(meta) if meta.len() > 0 => super::read_json(path).map(Some),
            _ => Ok(None),
        }
    }

    fn held(&self) -> u64 {
        self.fetched.saturating_sub(self.acked + self.shed + self.invalid)
    }
}

/// What all processors together held; `None` when one cannot say, or none was named.
fn held(taken: &[Option<Taken>]) -> Option<u64> {
    let sum = taken.iter().map(|one| one.as_ref().map(Taken::held)).sum();
    if taken.is_empty() { None } else { sum }
}

/// The ids that a processor shed; none when it was killed before it could write them.
fn shed(path: &Path) -> Result<RoaringTreemap, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    match std::fs::read(path) {
        Ok(bytes) => RoaringTreemap::deserialize_from(bytes.as_slice())
            .map_err(|e| failed(format!("is no set of ids: {e}"))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(RoaringTreemap::new()),
        Err(e) => Err(failed(format!("cannot be read: {e}"))),
    }
}

/// Audits, and writes the ledger whatever it says.
///
/// # Errors
/// [`Failure::Verdict`] when ids are unaccounted for; [`Failure::Failed`] when the log or the
/// sink cannot be read to the end: half an audit is none.
pub fn run(settings: &Settings) -> Result<Ledger, Failure> {
    let producer: Produced = super::read_json(&settings.producer)?;
    let taken: Vec<Option<Taken>> =
        settings.processor.iter().map(|path| Taken::read(path)).collect::<Result<_, _>>()?;
    let mut found = Found::default();
    for path in &settings.shed_ids {
        found.shed |= shed(path)?;
    }
    let duplicates;
    (found.delivered, duplicates) = delivered(&settings.sink)?;
    let reading = offsets(settings)?;
    let tail = Tail::read(settings, &tail_bounds(settings, &reading)?)?;
    found.in_log = tail.ids;
    let summaries = || taken.iter().flatten();
    let ledger = Ledger {
        duplicates,
        log_records: tail.records,
        log_invalid: tail.invalid,
        held: held(&taken),
        ..Ledger::of(
            producer.first_id..producer.acked_below,
            &found,
            summaries().map(|taken| taken.invalid).sum(),
        )
    };
    super::write_json(&settings.out, &ledger)?;
    log::info!(
        produced = ledger.produced, delivered = ledger.delivered, shed = ledger.shed,
        in_log = ledger.in_log, again = ledger.again, held = ledger.held, invalid = ledger.invalid,
        missing = ledger.missing; "ledger"
    );
    if ledger.wrong() == 0 {
        return Ok(ledger);
    }
    Err(Failure::Verdict(format!(
        "the ledger does not add up: of {} ids {} are neither delivered nor shed nor in the log, \
         {} of them beyond what was invalid, and {} are both shed and delivered; the first: {:?} \
         (the processors counted {} as shed; all sums in {})",
        ledger.produced,
        ledger.missing,
        ledger.unexplained,
        ledger.shed_delivered,
        ledger.examples,
        summaries().map(|taken| taken.shed).sum::<u64>(),
        settings.out.display()
    )))
}

fn delivered(sink: &str) -> Result<(RoaringTreemap, u64), Failure> {
    #[derive(Deserialize)]
    struct Totals {
        distinct: u64,
        duplicates: u64,
    }
    let base = sink.trim_end_matches('/');
    let agent = http::client::agent(ANSWER_WITHIN);
    let get = |path: &str| -> Result<Vec<u8>, Failure> {
        let url = format!("{base}{path}");
        let failed = |why: String| Failure::Failed(format!("the sink's ledger, {url}: {why}"));
        let mut answer = agent.get(&url).call().map_err(|e| failed(e.to_string()))?;
        if answer.status() != 200 {
            return Err(failed(format!("status {}", answer.status())));
        }
        let body = answer.body_mut().with_config().limit(IDS_BYTES_MAX);
        body.read_to_vec().map_err(|e| failed(e.to_string()))
    };
    let broken = |why: String| Failure::Failed(format!("the sink's ledger, {base}: {why}"));
    let totals: Totals = serde_json::from_slice(&get(crate::sink::wire::LEDGER)?)
        .map_err(|e| broken(e.to_string()))?;
    let ids = get(crate::sink::wire::LEDGER_IDS)?;
    let ids =
        RoaringTreemap::deserialize_from(ids.as_slice()).map_err(|e| broken(e.to_string()))?;
    if ids.len() != totals.distinct {
        return Err(broken(format!(
            "{} ids but {} distinct events: it is still being written to; stop the processor first",
            ids.len(),
            totals.distinct
        )));
    }
    Ok((ids, totals.duplicates))
}

/// The offsets. A coordinator that moves, or that the cluster's first group has yet to make, is
/// waited for; what is unread after that is for [`tail_bounds`] to say.
fn offsets(settings: &Settings) -> Result<LogReading, Failure> {
    let mut reader =
        LagReader::new(&settings.brokers, &settings.topic, &settings.group, ANSWER_WITHIN)?;
    let end = Instant::now() + SILENCE_MAX;
    loop {
        let reading = reader.read();
        if reading.unread.is_empty() || Instant::now() > end {
            return Ok(reading);
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// From where to where the log is read, by partition; partitions with nothing left are not in it.
type Bounds = BTreeMap<i32, (i64, i64)>;

fn tail_bounds(settings: &Settings, reading: &LogReading) -> Result<Bounds, Failure> {
    if !reading.unread.is_empty() || reading.partitions.is_empty() {
        return Err(Failure::Failed(format!(
            "topic {} at {}: its offsets cannot be read: {}",
            settings.topic,
            settings.brokers,
            reading.unread.join("; ")
        )));
    }
    let bounds = reading.partitions.iter().filter_map(|(partition, row)| {
        let (end, lag) = (row.end?, row.lag?);
        (lag > 0).then_some((*partition, (end - lag, end)))
    });
    Ok(bounds.collect())
}

#[derive(Default)]
struct Tail {
    ids: RoaringTreemap,
    records: u64,
    invalid: u64,
}

impl Tail {
    fn read(settings: &Settings, bounds: &Bounds) -> Result<Self, Failure> {
        let failed = |e: KafkaError| {
            let topic = &settings.topic;
            Failure::Failed(format!("topic {topic}: the log cannot be read: {e}"))
        };
        let mut tail = Self::default();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            // A group of its own that is never joined nor committed to.
            .set("group.id", format!("{}-audit", settings.group))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .create()
            .map_err(failed)?;
        let mut assignment = TopicPartitionList::new();
        for (partition, (from, _)) in bounds {
            assignment
                .add_partition_offset(&settings.topic, *partition, Offset::Offset(*from))
                .map_err(failed)?;
        }
        consumer.assign(&assignment).map_err(failed)?;
        let mut open: BTreeMap<i32, i64> = bounds.iter().map(|(p, (_, end))| (*p, *end)).collect();
        let mut heard = Instant::now();
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(record)) => {
                    heard = Instant::now();
                    let (partition, at) = (record.partition(), record.offset());
                    let Some(end) = open.get(&partition).copied() else { continue };
                    if at < end {
                        tail.count(record.payload().unwrap_or_default());
                    }
                    if at + 1 >= end {
                        open.remove(&partition);
                    }
                }
                // The last offsets may hold no record (transaction markers, compaction).
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(KafkaError::MessageConsumption(code)))
                    if code == rdkafka::types::RDKafkaErrorCode::AutoOffsetReset =>
                {
                    return Err(failed(KafkaError::MessageConsumption(code)));
                }
                // Others are librdkafka's own retries; silence ends them.
                Some(Err(e)) => log::warn!(why = e.to_string(); "reading the log, still trying"),
                None => {}
            }
            if heard.elapsed() > SILENCE_MAX {
                return Err(Failure::Failed(format!(
                    "topic {}: no record for {} s, partitions not read to their end: {:?}; \
                     are all brokers up? (run/cluster.sh status)",
                    settings.topic,
                    SILENCE_MAX.as_secs(),
                    open.keys().collect::<Vec<_>>()
                )));
            }
        }
        Ok(tail)
    }

    fn count(&mut self, value: &[u8]) {
        self.records += 1;
        match Event::decode(value) {
            Ok(event) => drop(self.ids.insert(event.id)),
            Err(_) => self.invalid += 1,
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges is meant, also of one")]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = u64>) -> RoaringTreemap {
        ids.into_iter().collect()
    }

    fn ledger(
        delivered: impl IntoIterator<Item = u64>,
        shed: impl IntoIterator<Item = u64>,
        in_log: impl IntoIterator<Item = u64>,
        invalid: u64,
    ) -> Ledger {
        let found = Found { delivered: ids(delivered), shed: ids(shed), in_log: ids(in_log) };
        Ledger::of(0..100, &found, invalid)
    }

    #[test]
    fn delivered_shed_and_in_the_log_make_all_and_what_is_in_two_is_counted_once() {
        let ledger = ledger(0..40, 40..60, 35..100, 0);
        assert_eq!(ledger.wrong(), 0);
        assert_eq!((ledger.delivered, ledger.shed, ledger.in_log), (40, 20, 65));
        // 5 delivered and 20 shed ones are in the log as well.
        assert_eq!((ledger.again, ledger.missing, ledger.beyond), (25, 0, 0));
        assert_eq!(ledger.produced, 40 + 20 + 65 - 25);
    }

    #[test]
    fn one_missing_id_turns_the_ledger_red_and_is_named() {
        let ledger = ledger((0..60).filter(|id| *id != 42), [], 60..100, 0);
        assert_eq!((ledger.wrong(), ledger.missing, ledger.unexplained), (1, 1, 1));
        assert_eq!(ledger.examples, [42]);
    }

    #[test]
    fn a_shed_id_explains_itself_and_no_other() {
        assert_eq!(ledger(0..90, 90..100, [], 0).wrong(), 0);
        // As many shed as are missing, but another one.
        let other = ledger(0..90, (91..100).chain([200]), [], 0);
        assert_eq!((other.wrong(), other.examples), (1, vec![90]));
    }

    #[test]
    fn an_id_that_was_shed_and_delivered_has_two_fates() {
        let both = ledger(0..100, [7], [], 0);
        assert_eq!((both.wrong(), both.missing, both.examples), (1, 0, vec![7]));
    }

    #[test]
    fn what_was_invalid_explains_as_many_missing_and_no_more() {
        assert_eq!(ledger(0..90, [], [], 10).wrong(), 0);
        assert_eq!(ledger(0..90, [], [], 9).wrong(), 1);
    }

    #[test]
    fn ids_that_nobody_vouches_for_do_not_fill_a_hole() {
        let ledger = ledger((0..99).chain(200..205), [], [], 0);
        assert_eq!((ledger.unexplained, ledger.beyond), (1, 5));
    }

    #[test]
    fn a_killed_processor_leaves_nothing_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let (absent, empty) = (dir.path().join("absent"), dir.path().join("empty"));
        std::fs::write(&empty, "").expect("written");
        assert!(Taken::read(&absent).expect("killed").is_none());
        assert!(Taken::read(&empty).expect("killed").is_none());
        let ended = Taken { fetched: 100, acked: 60, shed: 20, invalid: 1 };
        assert_eq!(held(&[Some(ended)]), Some(19));
        assert_eq!((held(&[None]), held(&[])), (None, None));
        assert!(shed(&absent).expect("killed").is_empty());
        assert!(shed(&empty).expect_err("cut short").to_string().contains("empty"));
    }

    #[test]
    fn a_partition_whose_offsets_are_unknown_fails_the_audit_rather_than_counting_as_empty() {
        let settings = Settings {
            brokers: "b".into(),
            topic: "t".into(),
            group: "g".into(),
            sink: "s".into(),
            producer: PathBuf::new(),
            processor: Vec::new(),
            shed_ids: Vec::new(),
            out: PathBuf::new(),
        };
        let reading =
            LogReading { unread: vec!["end of partition 3".into()], ..Default::default() };
        let why = tail_bounds(&settings, &reading).expect_err("unknown").to_string();
        assert!(why.contains("partition 3"), "{why}");
    }
}
