//! What is still in the log: from the committed offsets to its end, read record by record. It joins
//! no group and commits nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList, error::KafkaError};
use roaring::RoaringTreemap;

use super::{ANSWER_WITHIN, Settings};
use crate::event::Event;
use crate::failure::Failure;
use crate::lab::lag::LagReader;
use crate::lab::samples::LogReading;

/// How long the log may stand still while it is read.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// When offsets that could not be read are asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

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
pub struct Tail {
    pub ids: RoaringTreemap,
    pub records: u64,
    pub invalid: u64,
}

impl Tail {
    /// Reads it whole.
    pub fn of(settings: &Settings) -> Result<Self, Failure> {
        Self::read(settings, &tail_bounds(settings, &offsets(settings)?)?)
    }

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
            // Where retention has been, the log starts later: what it took is found nowhere, and
            // so it is missing.
            .set("auto.offset.reset", "earliest")
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
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_partition_whose_offsets_are_unknown_fails_the_audit_rather_than_counting_as_empty() {
        let settings = Settings {
            brokers: "b".into(),
            topic: "t".into(),
            group: "g".into(),
            sink: "s".into(),
            producer: Vec::new(),
            processor: Vec::new(),
            shed_ids: Vec::new(),
            dead_letter: Vec::new(),
            out: PathBuf::new(),
        };
        let reading =
            LogReading { unread: vec!["end of partition 3".into()], ..Default::default() };
        let why = tail_bounds(&settings, &reading).expect_err("unknown").to_string();
        assert!(why.contains("partition 3"), "{why}");
    }
}
