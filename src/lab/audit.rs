//! `lab audit`: does every id that was produced have exactly one fate?
//!
//! The ids that the brokers acknowledged to the producer are held against the sink's bitmap of
//! delivered ids and against the log from the committed offsets to its end, read record by record.
//! Invariant: an id in neither is *missing*, and only as many may be missing as the processor
//! counted as shed or invalid.
//! Delivered and still in the log is allowed (at-least-once): it is counted as `again`.
//! It changes nothing: it joins no group and commits nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
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
/// Missing ids that are written out.
const EXAMPLES: usize = 20;
/// Largest bitmap taken from the sink: 1 GiB is 8 billion dense ids.
const IDS_BYTES_MAX: u64 = 1 << 30;

/// Account for every id, after the processor has stopped; exit 3 when one is missing.
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
    /// what the processor printed at its end; without it nothing counts as shed or invalid
    #[argh(option)]
    pub processor: Option<PathBuf>,
    /// the ledger's file (ledger.json)
    #[argh(option, default = "PathBuf::from(FILE)")]
    pub out: PathBuf,
}

/// Where every id went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Ids that were acknowledged to the producer.
    pub produced: u64,
    /// Of these, delivered to the sink.
    pub delivered: u64,
    /// Of these, in the log at or above the committed offset.
    pub in_log: u64,
    /// Both delivered and in the log: a restart would deliver them again.
    pub again: u64,
    /// Counted as shed by the processor.
    pub shed: u64,
    /// Counted as no event by the processor.
    pub invalid: u64,
    /// In neither place.
    pub missing: u64,
    /// Missing beyond what was shed or invalid: must be 0.
    pub unexplained: u64,
    /// The lowest missing ids.
    pub missing_examples: Vec<u64>,
    /// Ids delivered or in the log that the producer does not vouch for (it was stopped before
    /// the acknowledgement came).
    pub beyond: u64,
    /// Deliveries of an id that was delivered before.
    pub duplicates: u64,
    /// Records in that part of the log; more than its ids when the producer sent some again.
    pub log_records: u64,
    /// Records in that part of the log that are no event.
    pub log_invalid: u64,
}

impl Ledger {
    /// Whether every id is accounted for.
    pub fn adds_up(&self) -> bool {
        self.unexplained == 0
    }

    /// Holds the ids against each other; the counts that are not about ids stay 0.
    pub fn of(
        produced: std::ops::Range<u64>,
        delivered: &RoaringTreemap,
        in_log: &RoaringTreemap,
        shed: u64,
        invalid: u64,
    ) -> Self {
        let mut all = RoaringTreemap::new();
        all.insert_range(produced);
        let found = delivered | in_log;
        let missing = &all - &found;
        Self {
            produced: all.len(),
            delivered: (&all & delivered).len(),
            in_log: (&all & in_log).len(),
            again: (delivered & in_log & &all).len(),
            shed,
            invalid,
            missing: missing.len(),
            unexplained: missing.len().saturating_sub(shed + invalid),
            missing_examples: missing.iter().take(EXAMPLES).collect(),
            beyond: (&found - &all).len(),
            ..Self::default()
        }
    }
}

/// What the audit needs of the producer's summary.
#[derive(Deserialize)]
struct Produced {
    first_id: u64,
    produced: u64,
}

/// What it needs of the processor's.
#[derive(Deserialize, Default)]
struct Dropped {
    shed: u64,
    invalid: u64,
}

/// Audits, and writes the ledger whatever it says.
///
/// # Errors
/// [`Failure::Verdict`] when ids are unaccounted for; [`Failure::Failed`] when the log or the
/// sink cannot be read to the end: half an audit is none.
pub fn run(settings: &Settings) -> Result<Ledger, Failure> {
    let producer: Produced = super::read_json(&settings.producer)?;
    let dropped: Dropped =
        settings.processor.as_deref().map(super::read_json).transpose()?.unwrap_or_default();
    let (delivered, duplicates) = delivered(&settings.sink)?;
    let reading = offsets(settings)?;
    let tail = Tail::read(settings, &tail_bounds(settings, &reading)?)?;
    let ledger = Ledger {
        duplicates,
        log_records: tail.records,
        log_invalid: tail.invalid,
        ..Ledger::of(
            producer.first_id..producer.first_id + producer.produced,
            &delivered,
            &tail.ids,
            dropped.shed,
            dropped.invalid,
        )
    };
    super::write_json(&settings.out, &ledger)?;
    log::info!(
        produced = ledger.produced, delivered = ledger.delivered, in_log = ledger.in_log,
        again = ledger.again, shed = ledger.shed, invalid = ledger.invalid,
        missing = ledger.missing; "ledger"
    );
    if ledger.adds_up() {
        return Ok(ledger);
    }
    Err(Failure::Verdict(format!(
        "the ledger does not add up: {} of {} ids are neither delivered nor in the log nor \
         counted as shed or invalid, the first: {:?} (all sums in {})",
        ledger.unexplained,
        ledger.produced,
        ledger.missing_examples,
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

    #[test]
    fn delivered_and_in_the_log_make_all_and_what_is_in_both_is_counted_once() {
        let ledger = Ledger::of(0..100, &ids(0..60), &ids(50..100), 0, 0);
        assert!(ledger.adds_up());
        assert_eq!((ledger.delivered, ledger.in_log, ledger.again), (60, 50, 10));
        assert_eq!((ledger.missing, ledger.beyond), (0, 0));
    }

    #[test]
    fn one_missing_id_turns_the_ledger_red_and_is_named() {
        let ledger = Ledger::of(0..100, &ids((0..60).filter(|id| *id != 42)), &ids(60..100), 0, 0);
        assert!(!ledger.adds_up());
        assert_eq!((ledger.missing, ledger.unexplained), (1, 1));
        assert_eq!(ledger.missing_examples, [42]);
    }

    #[test]
    fn what_was_shed_explains_as_many_missing_and_no_more() {
        let delivered = ids(0..90);
        assert!(Ledger::of(0..100, &delivered, &ids([]), 10, 0).adds_up());
        assert_eq!(Ledger::of(0..100, &delivered, &ids([]), 9, 0).unexplained, 1);
    }

    #[test]
    fn ids_that_nobody_vouches_for_do_not_fill_a_hole() {
        let ledger = Ledger::of(0..100, &ids((0..99).chain(200..205)), &ids([]), 0, 0);
        assert_eq!((ledger.unexplained, ledger.beyond), (1, 5));
    }

    #[test]
    fn a_partition_whose_offsets_are_unknown_fails_the_audit_rather_than_counting_as_empty() {
        let settings = Settings {
            brokers: "b".into(),
            topic: "t".into(),
            group: "g".into(),
            sink: "s".into(),
            producer: PathBuf::new(),
            processor: None,
            out: PathBuf::new(),
        };
        let reading =
            LogReading { unread: vec!["end of partition 3".into()], ..Default::default() };
        let why = tail_bounds(&settings, &reading).expect_err("unknown").to_string();
        assert!(why.contains("partition 3"), "{why}");
    }
}
