//! A recording: the samples of an arm as a detector beside the run would have had them, look by look.
//!
//! Invariant: a reading of the log counts once, at the look that brought it; what could not be read is absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::trouble::{self, Trouble};
use crate::failure::Failure;
use crate::lab::experiments::WARM_UP;
use crate::lab::run_folder::{self, Arm, LATENCY_FILE};
use crate::lab::samples::{self, LogReading, PartitionReading, Sample};
use crate::lab::stats::{self, Series};
use crate::logging::visible;
use crate::packed;
use crate::telemetry::hlog;
use crate::telemetry::latency::Stage;

/// A longer time without a look is not recorded: it is neither quiet nor trouble, s; where looks are rare, so many times
/// the usual time between two.
const GAP_S: f64 = 5.0;
const GAP_LOOKS: f64 = 2.5;
/// Half of an interval of the latency log: its median stands for the middle of it, s.
const HALF_INTERVAL_S: f64 = 0.5;
/// Half of the time that a quantile on the page of metrics is taken over, s.
const HALF_WINDOW_S: f64 = 5.0;
/// The median of the whole way, on that page.
const MEDIAN: &str = "latency_quantile_seconds{quantile=\"0.5\",stage=\"end_to_end\"}";

/// One look.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// When it was taken, s from the first event due.
    pub at: f64,
    /// What it read of the log; absent where it carries the reading of the look before.
    pub log: Option<Log>,
    /// When, and how many events were done by then: committed, or acked where no sample tells that.
    pub done: Option<(f64, f64)>,
    /// As in a sample.
    pub metrics: BTreeMap<String, BTreeMap<String, f64>>,
}

/// A reading of the log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// When it was complete, s.
    pub at: f64,
    /// All partitions together, events.
    pub lag: Option<f64>,
    /// Sum of the high watermarks; absent where one is.
    pub end: Option<f64>,
    /// Sum of the committed offsets; absent where one is not known.
    pub committed: Option<f64>,
    /// By partition; a thinned recording has none.
    pub partitions: BTreeMap<i32, PartitionReading>,
}

impl Log {
    fn of(reading: LogReading, at: f64) -> Self {
        let rows = || reading.partitions.values();
        let sum = |values: Option<i64>| {
            values.filter(|_| !reading.partitions.is_empty()).map(|sum| sum as f64)
        };
        Self {
            at,
            lag: reading.lag.map(|lag| lag as f64),
            end: sum(rows().map(|row| row.end).sum()),
            committed: sum(rows().map(committed).sum()),
            partitions: reading.partitions,
        }
    }
}

impl Look {
    /// The lag that this look read, events.
    pub fn lag(&self) -> Option<f64> {
        self.log.as_ref()?.lag
    }

    /// The largest value of the metric `key` among the processors.
    pub fn largest(&self, key: &str) -> Option<f64> {
        let members = self.metrics.iter().filter(|(name, _)| name.starts_with("processor"));
        members.filter_map(|(_, page)| page.get(key).copied()).max_by(f64::total_cmp)
    }

    /// Events committed, and when that was read.
    fn committed(&self) -> Option<(f64, f64)> {
        let log = self.log.as_ref()?;
        Some((log.at, log.committed?))
    }

    /// Events acked by all processors together. One that is gone is missing in the sum, which falls by it.
    fn acked(&self) -> Option<(f64, f64)> {
        let members = self.metrics.iter().filter(|(name, _)| name.starts_with("processor"));
        let acked = members.filter_map(|(_, page)| page.get("processor_events_acked_total"));
        acked.copied().reduce(|a, b| a + b).map(|sum| (self.at, sum))
    }
}

/// Up to where a partition is done: where nothing is committed, its end less its lag.
pub fn committed(row: &PartitionReading) -> Option<i64> {
    row.committed.or_else(|| Some(row.end?.saturating_sub(row.lag?)))
}

/// The looks of the last `seconds` before the newest, and that one.
pub fn last(looks: &[Look], seconds: f64) -> &[Look] {
    let Some(now) = looks.last() else { return looks };
    let from = looks.partition_point(|look| look.at < now.at - seconds);
    looks.get(from..).unwrap_or_default()
}

/// Lag over time, events.
pub fn lags(looks: &[Look]) -> Series {
    let logs = looks.iter().filter_map(|look| look.log.as_ref());
    logs.filter_map(|log| Some((log.at, log.lag?))).collect()
}

/// Events done over time.
pub fn done(looks: &[Look]) -> Series {
    looks.iter().filter_map(|look| look.done).collect()
}

/// An arm's samples, and what is known beside them.
pub struct Recording {
    /// The last two names of its folder: `exp5/bounded`.
    pub name: String,
    /// In their order.
    pub looks: Vec<Look>,
    /// Those that it covers, in their order; none overlaps another.
    pub troubles: Vec<Trouble>,
    /// Why no trouble is known.
    pub note: Option<String>,
    /// How long the events that were acked then had been on their way, median, s.
    pub truth: Series,
    /// What `truth` was read from.
    pub truth_from: &'static str,
    /// When the load ended, s; what follows is neither quiet nor trouble.
    pub ended: f64,
}

impl Recording {
    /// Reads the folder of an arm. Its trouble is what is given by hand, else what its plan says.
    ///
    /// # Errors
    /// When its samples or its latency log are absent or damaged.
    pub fn read(dir: &Path, by_hand: &[Trouble]) -> Result<Self, Failure> {
        if !dir.is_dir() {
            return Err(Failure::Failed(format!("{}: no such folder", dir.display())));
        }
        let samples = samples::read(&dir.join(samples::FILE))?;
        // Without a producer of ours, time begins with the first look.
        let first_us = samples.first().map(|s| s.due_us as f64);
        let start_us = run_folder::start_us(&samples).or(first_us).unwrap_or_default();
        let at = |us: i64| (us as f64 - start_us) / 1e6;
        let path = dir.join(LATENCY_FILE);
        let latencies = if packed::exists(&path) { hlog::read(&path)? } else { Vec::new() };
        let medians = hlog::quantiles(&latencies, Stage::EndToEnd, 0.5);
        let medians: Series = medians.map(|(end_us, s)| (at(end_us), s)).collect();
        let known = match by_hand {
            [] => trouble::of_folder(dir).map_err(|why| why.to_string()),
            _ => Ok(by_hand.to_vec()),
        };
        let (troubles, note) = match known {
            Ok(troubles) => (troubles, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Ok(Self::of(name(dir), looks(samples, at), troubles, note).with_truth(medians))
    }

    /// Of an arm that was read already.
    pub fn of_arm(arm: &Arm, troubles: Vec<Trouble>) -> Self {
        let medians = arm.latency(Stage::EndToEnd, 0.5);
        let looks = looks(arm.samples.clone(), |us| arm.at(us));
        Self::of(arm.spec.name.to_owned(), looks, troubles, None).with_truth(medians)
    }

    /// One of looks that are there already.
    pub fn of(
        name: String,
        looks: Vec<Look>,
        mut troubles: Vec<Trouble>,
        note: Option<String>,
    ) -> Self {
        let end = looks.last().map_or(0.0, |look| look.at);
        troubles.retain(|trouble| trouble.from <= end);
        let loaded = |look: &&Look| {
            look.metrics
                .get("producer")
                .is_some_and(|page| page.contains_key("producer_events_due"))
        };
        let ended = looks.iter().rfind(loaded).map_or(end, |look| look.at);
        let (truth, truth_from) = (Vec::new(), "");
        Self { name, looks, troubles, note, truth, truth_from, ended }
    }

    /// The truth from the latency log's medians, or from the pages of metrics where there are none.
    fn with_truth(mut self, medians: Series) -> Self {
        (self.truth, self.truth_from) = if medians.is_empty() {
            let median = |look: &Look| Some((look.at - HALF_WINDOW_S, look.largest(MEDIAN)?));
            let read: Series = self.looks.iter().filter_map(median).collect();
            (read, "median of 10 s, as of their middle, from /metrics")
        } else {
            let medians = medians.into_iter().map(|(end, s)| (end - HALF_INTERVAL_S, s));
            (medians.collect(), "median of each second, from latency.hlog")
        };
        self
    }

    /// Whether an alarm at `at` is false: no trouble then, and nothing left of one.
    pub fn is_quiet(&self, at: f64, beginning_s: f64) -> bool {
        let troubled = |trouble: &Trouble| (trouble.from..=trouble.clear).contains(&at);
        (beginning_s..=self.ended).contains(&at) && !self.troubles.iter().any(troubled)
    }

    /// Recorded time that is quiet, s.
    pub fn quiet_s(&self, beginning_s: f64) -> f64 {
        let steps = || self.looks.iter().zip(self.looks.iter().skip(1));
        let usual = stats::median(steps().map(|(a, b)| b.at - a.at)).unwrap_or(0.0);
        let longest = GAP_S.max(GAP_LOOKS * usual);
        let quiet = |look: &Look| self.is_quiet(look.at, beginning_s);
        steps()
            .filter(|(a, b)| quiet(a) && quiet(b) && b.at - a.at <= longest)
            .map(|(a, b)| b.at - a.at)
            .fold(0.0, |sum, step| sum + step)
    }
}

/// The folders of arms in `dir`: itself, or those of a run, or of all runs in it, by name; itself, too, where there are
/// none.
pub fn arms_in(dir: &Path) -> Vec<PathBuf> {
    let is_arm = |path: &Path| packed::exists(&path.join(samples::FILE));
    if is_arm(dir) {
        return vec![dir.to_owned()];
    }
    let runs = folders_in(dir);
    let below = || runs.iter().flat_map(|run| folders_in(run));
    let mut arms: Vec<PathBuf> = runs.iter().cloned().chain(below()).collect();
    arms.retain(|path| is_arm(path) && !path.ends_with(WARM_UP));
    arms.sort();
    if arms.is_empty() { vec![dir.to_owned()] } else { arms }
}

fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut names: Vec<_> = whole.iter().rev().take(2).map(|name| name.to_string_lossy()).collect();
    names.reverse();
    visible(&names.join("/"))
}

fn looks(samples: Vec<Sample>, at: impl Fn(i64) -> f64) -> Vec<Look> {
    let mut before_us = None;
    let mut looks = Vec::with_capacity(samples.len());
    for sample in samples {
        let fresh = sample.log.filter(|log| before_us.replace(log.read_us) != Some(log.read_us));
        let log = fresh.map(|reading| {
            let read = at(reading.read_us);
            Log::of(reading, read)
        });
        let at = at(sample.due_us) + sample.late_s;
        looks.push(Look { at, log, done: None, metrics: sample.metrics });
    }
    // One of the two for the whole recording: a rate between them would be none.
    let told = looks.iter().any(|look| look.committed().is_some());
    for look in &mut looks {
        look.done = if told { look.committed() } else { look.acked() };
    }
    looks
}
