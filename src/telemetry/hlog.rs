//! The standard HdrHistogram interval log: one line a stage and second, tagged with the stage,
//! values in µs, times in s since the epoch.
//!
//! Invariant: it grows by whole seconds (`lines`); reading ignores a line that was cut short. A
//! full disk leaves a gap, which is logged, and stops no thread. Any HdrHistogram tool reads the
//! file.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use super::latency::{Stage, Stages};
use crate::failure::Failure;
use crate::lines::{self, Lines};
use crate::packed;

/// An interval log that grows by a line a stage at a time.
pub(super) struct Writer {
    lines: Lines,
    serializer: V2DeflateSerializer,
}

impl Writer {
    /// Opens `path`, keeping its whole lines.
    pub fn append(path: &Path) -> Result<Self, Failure> {
        Self::open(path).map_err(|e| failure("open", path, e))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let mut writer = Self { lines: Lines::open(path)?, serializer: V2DeflateSerializer::new() };
        if writer.lines.is_empty() {
            let mut header = Vec::new();
            IntervalLogWriterBuilder::new()
                .add_comment("[Latency by stage (the tag), in microseconds]")
                .with_start_time(SystemTime::now())
                .begin_log_with(&mut header, &mut writer.serializer)?;
            writer.lines.append(&header)?;
        }
        Ok(writer)
    }

    /// Appends the interval between two times (µs since the epoch), stages in the order of
    /// [`Stage::ALL`].
    ///
    /// # Errors
    /// When a histogram cannot be serialised.
    pub fn write(&mut self, start_us: i64, end_us: i64, stages: &Stages) -> Result<(), Failure> {
        let start = Duration::from_micros(start_us.try_into().unwrap_or(0));
        let length = Duration::from_micros(end_us.saturating_sub(start_us).try_into().unwrap_or(0));
        let mut lines = Vec::new();
        let mut log = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut lines, &mut self.serializer)
            .map_err(Failure::failed)?;
        for (stage, histogram) in Stage::ALL.iter().zip(stages) {
            log.write_histogram(histogram, start, length, Tag::new(stage.name()))
                .map_err(|e| Failure::Failed(format!("the latency log: {e:?}")))?;
        }
        self.lines.append_or_go_on(&lines);
        Ok(())
    }
}

/// One stage of one interval.
#[derive(Clone)]
pub struct Interval {
    /// The stage that its tag names.
    pub stage: Stage,
    /// When it began, µs since the epoch; the file keeps whole ms.
    pub start_us: i64,
    /// How long it lasted.
    pub length: Duration,
    /// Latencies, µs.
    pub latencies: Histogram<u64>,
}

/// The quantile `q` of what the events of each interval waited in `stage`: (end of the interval, µs since the epoch;
/// s). Intervals without an event are left out.
pub fn quantiles(intervals: &[Interval], stage: Stage, q: f64) -> impl Iterator<Item = (i64, f64)> {
    let seen = move |i: &&Interval| i.stage == stage && !i.latencies.is_empty();
    intervals.iter().filter(seen).map(move |i| {
        let end_us = i.start_us + i.length.as_micros() as i64;
        (end_us, i.latencies.value_at_quantile(q) as f64 / 1e6)
    })
}

/// Reads an interval log. Intervals with a tag that is no stage are left out.
///
/// # Errors
/// When the file cannot be read or a line that is not its cut end is malformed.
pub fn read(path: &Path) -> Result<Vec<Interval>, Failure> {
    let mut text = Vec::new();
    packed::open(path)
        .and_then(|mut file| file.read_to_end(&mut text))
        .map_err(|e| failure("read", path, e))?;
    let mut deserializer = Deserializer::new();
    let mut intervals = Vec::new();
    for entry in IntervalLogIterator::new(lines::whole(&text)) {
        match entry {
            Ok(LogEntry::Interval(line)) => {
                intervals.extend(
                    interval(&line, &mut deserializer).map_err(|e| failure("read", path, e))?,
                );
            }
            Ok(LogEntry::StartTime(_) | LogEntry::BaseTime(_)) => {}
            Err(e) => return Err(failure("read", path, format!("malformed line: {e:?}"))),
        }
    }
    Ok(intervals)
}

fn interval(
    line: &IntervalLogHistogram<'_>,
    deserializer: &mut Deserializer,
) -> Result<Option<Interval>, String> {
    let tag = line.tag().map(|tag| tag.as_str());
    let Some(stage) = Stage::ALL.into_iter().find(|stage| tag == Some(stage.name())) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(line.encoded_histogram()).map_err(|e| e.to_string())?;
    let latencies = deserializer.deserialize(&mut bytes.as_slice()).map_err(|e| e.to_string())?;
    let start_us = i64::try_from(line.start_timestamp().as_micros()).unwrap_or(i64::MAX);
    Ok(Some(Interval { stage, start_us, length: line.duration(), latencies }))
}

/// All latencies of `stage` in the intervals that began within `from_us..to_us` (µs since the
/// epoch): the same counts as if one histogram had recorded them.
pub fn merge(intervals: &[Interval], stage: Stage, from_us: i64, to_us: i64) -> Histogram<u64> {
    let mut merged = super::latency::empty();
    for interval in intervals {
        if interval.stage == stage && (from_us..to_us).contains(&interval.start_us) {
            // It grows to the range of the source.
            let _never_refused = merged.add(&interval.latencies);
        }
    }
    merged
}

fn failure(what: &str, path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("cannot {what} the latency log {}: {why}", path.display()))
}
