//! A sample of the whole pipeline, one JSON object a line.
//!
//! Invariant: a sample says what could not be read (`unread`, and the value is absent); it never
//! invents a 0. Counters are kept as they were read: the reader computes rates.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::packed;

/// File name inside an arm's folder.
pub const FILE: &str = "samples.jsonl";

/// One sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The deadline of this sample, µs since the epoch; samples are one interval apart.
    pub due_us: i64,
    /// How long after its deadline it was taken, s.
    pub late_s: f64,
    /// Deadlines skipped since the last sample, because it took too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// Samples just before it that a full disk did not take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Kafka's side: absent when no reading has come yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogReading>,
    /// `/proc` by name.
    pub processes: BTreeMap<String, ProcessReading>,
    /// `/metrics` by name: value by `metric{label="value",…}`. Histograms give their `_sum` and
    /// `_count`; what is not a finite number is left out.
    pub metrics: BTreeMap<String, BTreeMap<String, f64>>,
    /// The whole machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostReading>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Offsets of the topic, read on the Kafka thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogReading {
    /// When the reading was complete, µs since the epoch: not the sample's own time.
    pub read_us: i64,
    /// By partition.
    pub partitions: BTreeMap<i32, PartitionReading>,
    /// Sum of the lags; absent when one partition's is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Members of the group; absent when the coordinator did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<usize>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// What was read and is probably not intended: a group that does not exist, or that has no
    /// reader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionReading {
    /// High watermark; of a reader of committed records, the last stable offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// Committed offset; absent while the group has none in this log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed: Option<i64>,
    /// End less committed, without what retention deleted; where nothing is committed, end less log
    /// start offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ProcessReading {
    /// It runs.
    Alive {
        /// Its id.
        pid: i32,
        /// Resident set size, bytes.
        rss_bytes: u64,
        /// Threads.
        threads: i64,
        /// Open file descriptors; absent where they may not be listed.
        #[serde(skip_serializing_if = "Option::is_none")]
        fds: Option<usize>,
        /// CPU time used so far, user and system, s.
        cpu_s: f64,
    },
    /// It has ended.
    Gone {
        /// The id it had.
        pid: i32,
    },
}

/// The machine since boot, s of CPU time over all cores, and its free memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReading {
    /// CPU time of all processes.
    pub busy_s: f64,
    /// CPU time that the hypervisor gave to other machines.
    pub steal_s: f64,
    /// All time: busy, stolen and idle.
    pub total_s: f64,
    /// Memory that is available without swapping, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
}

/// How what is said of the page of `name` begins.
fn of_page(name: &str) -> String {
    format!("metrics {name}: ")
}

impl Sample {
    /// What was read and is probably not intended.
    pub fn notes(&self) -> Vec<String> {
        let gone = self.processes.iter().filter_map(|(name, reading)| match reading {
            ProcessReading::Gone { pid } => Some(format!("process {name} ({pid}) has ended")),
            ProcessReading::Alive { .. } => None,
        });
        gone.chain(self.log.iter().flat_map(|log| log.notes.iter().cloned())).collect()
    }

    /// What could not be read, including Kafka's side.
    pub fn all_unread(&self) -> impl Iterator<Item = &String> {
        self.unread.iter().chain(self.log.iter().flat_map(|log| &log.unread))
    }

    /// The page of `name` could not be read.
    pub fn miss_page(&mut self, name: &str, why: &str) {
        self.unread.push(format!("{}{why}", of_page(name)));
    }

    /// What could not be read, without the pages of processes that have ended: that is no news.
    pub fn unread_of_the_living(&self) -> impl Iterator<Item = &String> {
        let is_gone = |why: &str| {
            self.processes.iter().any(|(name, reading)| {
                matches!(reading, ProcessReading::Gone { .. }) && why.starts_with(&of_page(name))
            })
        };
        self.all_unread().filter(move |why| !is_gone(why))
    }

    /// Whether every requested value was read.
    pub fn is_complete(&self) -> bool {
        self.log.is_some() && self.all_unread().next().is_none()
    }

    /// The metric `key` of `source`, such as `("sink", "sink_events_total")`.
    pub fn metric(&self, source: &str, key: &str) -> Option<f64> {
        self.metrics.get(source)?.get(key).copied()
    }

    /// Events that the sink took, each once however often it came.
    pub fn delivered(&self) -> Option<f64> {
        let again = self.metric("sink", "sink_duplicates_total").unwrap_or(0.0);
        Some(self.metric("sink", "sink_events_total")? - again)
    }

    /// The sum over all labels of the metric `name` of `source`; `None` when it has none.
    pub fn metric_sum(&self, source: &str, name: &str) -> Option<f64> {
        let values: Vec<f64> = self
            .metrics
            .get(source)?
            .iter()
            .filter(|(key, _)| key.split('{').next() == Some(name))
            .map(|(_, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Resident bytes of process `name`.
    pub fn rss_bytes(&self, name: &str) -> Option<f64> {
        match self.processes.get(name)? {
            ProcessReading::Alive { rss_bytes, .. } => Some(*rss_bytes as f64),
            ProcessReading::Gone { .. } => None,
        }
    }
}

/// Reads a samples file. A last line that was cut short (the watch was killed) is left out with a
/// warning.
///
/// # Errors
/// When the file cannot be read, holds no sample, or a line before the last is no sample.
pub fn read(path: &Path) -> Result<Vec<Sample>, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let file = packed::open(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let mut samples = Vec::new();
    let mut cut: Option<(usize, serde_json::Error)> = None;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| failed(format!("cannot be read: {e}")))?;
        if let Some((number, why)) = cut {
            return Err(failed(format!("line {} is no sample: {why}", number + 1)));
        }
        match serde_json::from_str(&line) {
            Ok(sample) => samples.push(sample),
            Err(why) => cut = Some((number, why)),
        }
    }
    if let Some((number, _)) = cut {
        log::warn!(file = path.display().to_string(), line = number + 1; "last sample cut short, left out");
    }
    if samples.is_empty() {
        return Err(failed("holds no sample".into()));
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(due_us: i64) -> Sample {
        let process = ProcessReading::Alive {
            pid: 7,
            rss_bytes: 1 << 20,
            threads: 3,
            fds: Some(9),
            cpu_s: 0.5,
        };
        Sample {
            due_us,
            processes: [
                ("processor".to_owned(), process),
                ("sink".to_owned(), ProcessReading::Gone { pid: 8 }),
            ]
            .into(),
            metrics: [(
                "processor".to_owned(),
                [("x_total{a=\"1\"}", 2.0), ("x_total{a=\"2\"}", 3.0), ("x", 9.0)]
                    .map(|(k, v)| (k.to_owned(), v))
                    .into(),
            )]
            .into(),
            ..Sample::default()
        }
    }

    #[test]
    fn a_sample_survives_its_file_and_a_cut_last_line_does_not_lose_the_run() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(FILE);
        let lines: Vec<String> =
            (0..3).map(|t| serde_json::to_string(&sample(t)).expect("json")).collect();
        let cut = lines[2].split_at(20).0;
        std::fs::write(&path, format!("{}\n{}\n{cut}", lines[0], lines[1])).expect("file");
        assert_eq!(read(&path).expect("read"), [sample(0), sample(1)]);
        // In the middle it is a damaged file, not a cut one.
        std::fs::write(&path, format!("{}\nnonsense\n{}", lines[0], lines[1])).expect("file");
        let why = read(&path).expect_err("damaged").to_string();
        assert!(why.contains("line 2"), "{why}");
    }

    #[test]
    fn what_is_gone_or_absent_is_none_and_never_0() {
        let s = sample(0);
        assert_eq!(s.rss_bytes("sink"), None);
        assert_eq!(s.rss_bytes("nobody"), None);
        assert_eq!(s.metric("processor", "y"), None);
        assert_eq!(s.metric_sum("processor", "x_total"), Some(5.0));
        assert_eq!(s.metric_sum("sink", "x_total"), None);
    }
}
