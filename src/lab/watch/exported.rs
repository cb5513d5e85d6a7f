//! Exports the last sample, and logs on stderr what is wrong in it.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::IntGaugeVec;

use crate::failure::Failure;
use crate::lab::samples::{LogReading, ProcessReading, Sample};
use crate::telemetry::metrics::{Metrics, WatchMetrics};

/// Samples in a row with the same problem before it is logged: a group does not exist before its
/// first member, and a broker that elects a leader does not know it yet.
const PATIENT_LOOKS: u32 = 3;

/// See the module.
pub struct Exported {
    metrics: WatchMetrics,
    group: String,
    topic: String,
    /// By partition: the metrics that the last sample set.
    told: BTreeSet<(Told, i32)>,
    processes: BTreeSet<String>,
    /// Those that have ended, each said once.
    ended: BTreeSet<String>,
    /// The current problem, and for how many samples it has been the same.
    amiss: (String, u32),
    /// Whether a problem was logged since the last sample without one.
    is_said: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Lag,
    Committed,
    End,
}

impl Exported {
    /// The exports for `group` and `topic`, in `metrics`.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn of(metrics: &Metrics, group: &str, topic: &str) -> Result<Self, Failure> {
        Ok(Self {
            metrics: WatchMetrics::register(metrics)?,
            group: group.to_owned(),
            topic: topic.to_owned(),
            told: BTreeSet::new(),
            processes: BTreeSet::new(),
            ended: BTreeSet::new(),
            amiss: Default::default(),
            is_said: false,
        })
    }

    /// Exports a sample. A value that is unknown, or gone, is absent: it does not keep its last
    /// value.
    pub fn show(&mut self, sample: &Sample) {
        self.metrics.complete.set(i64::from(sample.is_complete()));
        self.show_log(sample.log.as_ref().unwrap_or(&LogReading::default()));
        self.show_processes(sample);
        self.say(sample);
    }

    fn show_log(&mut self, log: &LogReading) {
        let known = |told: Told| {
            log.partitions.iter().filter_map(move |(partition, row)| {
                let value = match told {
                    Told::Lag => row.lag,
                    Told::Committed => row.committed,
                    Told::End => row.end,
                };
                Some(((told, *partition), value?))
            })
        };
        let known: BTreeMap<_, _> =
            [Told::Lag, Told::Committed, Told::End].into_iter().flat_map(known).collect();
        for (told, partition) in self.told.iter().filter(|what| !known.contains_key(what)) {
            let (gauge, labels) = self.series(*told, *partition);
            let _was_there = gauge.remove_label_values(&labels);
        }
        for ((told, partition), value) in &known {
            let (gauge, labels) = self.series(*told, *partition);
            gauge.with_label_values(&labels).set(*value);
        }
        self.told = known.into_keys().collect();
        let group = [self.group.as_str()];
        match log.members {
            Some(members) => self.metrics.members.with_label_values(&group).set(members as i64),
            None => drop(self.metrics.members.remove_label_values(&group)),
        }
    }

    fn series(&self, told: Told, partition: i32) -> (&IntGaugeVec, Vec<String>) {
        let (group, topic) = (self.group.clone(), self.topic.clone());
        let partition = partition.to_string();
        match told {
            Told::Lag => (&self.metrics.lag, vec![group, topic, partition]),
            Told::Committed => (&self.metrics.committed, vec![group, topic, partition]),
            Told::End => (&self.metrics.end, vec![topic, partition]),
        }
    }

    fn show_processes(&mut self, sample: &Sample) {
        let mut now = BTreeSet::new();
        for (name, reading) in &sample.processes {
            let (rss_bytes, cpu_s) = match reading {
                ProcessReading::Alive { rss_bytes, cpu_s, .. } => (rss_bytes, cpu_s),
                ProcessReading::Gone { pid } => {
                    if self.ended.insert(name.clone()) {
                        log::info!(process = name.as_str(), pid = pid; "it has ended");
                    }
                    continue;
                }
            };
            now.insert(name.clone());
            self.metrics.rss.with_label_values(&[name]).set(*rss_bytes as i64);
            let cpu = self.metrics.cpu.with_label_values(&[name]);
            cpu.inc_by((cpu_s - cpu.get()).max(0.0));
        }
        for gone in self.processes.difference(&now) {
            let _was_there = self.metrics.rss.remove_label_values(&[gone]);
        }
        self.processes = now;
    }

    /// Logs one line when a problem has been the same for a while, and one when it is over.
    fn say(&mut self, sample: &Sample) {
        let unread = sample.unread_of_the_living();
        let notes = sample.log.iter().flat_map(|log| log.notes.iter().cloned());
        let all: Vec<String> = unread.map(|why| format!("unread: {why}")).chain(notes).collect();
        let (before, looks) = std::mem::take(&mut self.amiss);
        let now = all.join("; ");
        let looks = if now == before { looks.saturating_add(1) } else { 1 };
        if looks == PATIENT_LOOKS && !now.is_empty() {
            log::warn!(what = now.as_str(); "the samples show a problem");
            self.is_said = true;
        }
        if now.is_empty() && std::mem::take(&mut self.is_said) {
            log::info!("the problem is over");
        }
        self.amiss = (now, looks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::samples::PartitionReading;

    fn lines(metrics: &Metrics, name: &str) -> usize {
        let text = String::from_utf8(metrics.text().expect("text")).expect("utf-8");
        text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count()
    }

    /// Prevents: a lag that stays when its partition is gone, or its lag is not known any more.
    #[test]
    fn only_what_the_last_look_knows_is_exported() {
        let metrics = Metrics::default();
        let mut exported = Exported::of(&metrics, "g", "t").expect("names");
        let mut shown = |lags: &[(i32, Option<i64>)]| {
            let row = |(p, lag): &(i32, Option<i64>)| {
                (*p, PartitionReading { lag: *lag, end: Some(9), ..PartitionReading::default() })
            };
            let partitions = lags.iter().map(row).collect();
            let log = Some(LogReading { partitions, members: Some(2), ..LogReading::default() });
            exported.show(&Sample { log, ..Sample::default() });
            (
                lines(&metrics, "kafka_consumergroup_lag"),
                lines(&metrics, "kafka_topic_partition_current_offset"),
            )
        };
        let twelve: Vec<_> = (0..12).map(|p| (p, Some(5))).collect();
        assert_eq!(shown(&twelve), (12, 12));
        assert_eq!(shown(&[(0, Some(5)), (1, None), (2, Some(5)), (3, Some(0))]), (3, 4));
        assert_eq!(shown(&twelve[..4]), (4, 4));
        assert_eq!(lines(&metrics, "kafka_consumergroup_members"), 1);
        assert_eq!(shown(&[]), (0, 0));
    }

    #[test]
    fn a_process_that_has_ended_has_no_memory_and_its_cpu_time_never_goes_back() {
        let metrics = Metrics::default();
        let mut exported = Exported::of(&metrics, "g", "t").expect("names");
        let mut show = |reading| {
            let processes = [("processor".to_owned(), reading)].into();
            exported.show(&Sample { processes, ..Sample::default() });
            let value = exported.metrics.cpu.with_label_values(&["processor"]).get();
            (lines(&metrics, "watch_process_resident_memory_bytes"), value)
        };
        let alive =
            |cpu_s| ProcessReading::Alive { pid: 7, rss_bytes: 1, threads: 1, fds: None, cpu_s };
        assert_eq!(show(alive(1.5)), (1, 1.5));
        assert_eq!(show(alive(2.5)), (1, 2.5));
        assert_eq!(show(ProcessReading::Gone { pid: 7 }), (0, 2.5));
    }
}
