//! A finished run, read from its folder: the plan, the host, and for each arm its samples, ledger
//! and commands. Times are seconds from the producer's first event due, so that arms of one run
//! lie on one axis.

use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::audit::{self, Ledger};
use crate::lab::autopsy::{self, Autopsy};
use crate::lab::experiments::{ArmSpec, Experiment, Phase};
use crate::lab::plan::{self, Host, Plan};
use crate::lab::read_json;
use crate::lab::samples::{self, ProcessReading, Sample};
use crate::lab::stats::{self, Series};
use crate::packed;
use crate::telemetry::hlog;
use crate::telemetry::latency::Stage;

/// Events that took longer than a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Late {
    /// Their share of all.
    pub share: f64,
    /// By how much an event took longer, s: the mean over all, with 0 for those in time.
    pub behind_s: f64,
}

/// A run.
#[derive(Clone)]
pub struct Run {
    /// The plan, written before the run.
    pub plan: Plan,
    /// The host of the run.
    pub host: Host,
    /// In the experiment's order.
    pub arms: Vec<Arm>,
    /// Its folder.
    pub dir: PathBuf,
}

/// The end of a processor at its memory limit, as the run's script saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Killed {
    /// When it ended, µs since the epoch.
    pub at_us: i64,
    /// 137 after a signal 9.
    pub exit_code: i32,
    /// The limit's own counter of kernel kills; 0 where there is none ([`WATCHED`]).
    pub oom_kills: u64,
    /// The limit, bytes.
    pub limit_bytes: u64,
    /// What set the limit: `cgroup v2`, `cgroup v1`, `systemd-run`, or `watched`.
    pub by: String,
}

/// Shares of a machine's CPU time, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostShares {
    /// CPU time of processes that are not part of the run.
    pub others: f64,
    /// CPU time that the hypervisor took.
    pub steal: f64,
    /// Unused CPU time.
    pub idle: f64,
}

/// The limit without a kernel's enforcement: the run watches the memory, and kills.
pub const WATCHED: &str = "watched";

/// File name of [`Killed`] inside an arm's folder.
pub const KILLED_FILE: &str = "killed.json";

/// File name of the latencies inside an arm's folder, second by second.
pub const LATENCY_FILE: &str = "latency.hlog";

/// File name of [`Arm::repeated`] inside an arm's folder.
pub const REPEATED_FILE: &str = "repeated.json";

/// One arm of a run.
#[derive(Clone)]
pub struct Arm {
    /// As the experiment declares it.
    pub spec: ArmSpec,
    /// Every second of it.
    pub samples: Vec<Sample>,
    /// The audit's result; absent when it could not be made.
    pub ledger: Option<Ledger>,
    /// Latencies second by second; empty when the processor wrote none.
    latencies: Vec<hlog::Interval>,
    /// The exact commands, one a line.
    pub commands: String,
    /// The host and the revision of its own run, which may be of an earlier sitting; absent where the run's own holds.
    pub host: Option<Host>,
    /// Its folder.
    dir: PathBuf,
    /// What disturbed earlier runs of it; empty when it was run once.
    pub repeated: Vec<String>,
    /// How the processor was killed; absent when it was not.
    pub killed: Option<Killed>,
    /// The autopsy of its last heap profile; absent when none was taken.
    pub autopsy: Option<Autopsy>,
    /// The schedule's start, µs since the epoch.
    start_us: f64,
}

/// Packs the large files in the folder of an arm that has ended: its samples and its latency logs.
///
/// # Errors
/// When one of them cannot be packed; it is still there then.
pub fn pack(dir: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, e: std::io::Error| {
        Failure::Failed(format!("{}: cannot be packed: {e}", path.display()))
    };
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let path = entry.map_err(|e| failed(dir, e))?.path();
        let is_log = path.extension().is_some_and(|ext| ext == "hlog");
        if is_log || path.file_name().is_some_and(|name| name == samples::FILE) {
            packed::pack(&path).map_err(|e| failed(&path, e))?;
        }
    }
    Ok(())
}

impl Run {
    /// Reads the folder of a run of `experiment`.
    ///
    /// # Errors
    /// When a file that every run has is absent or damaged, or the plan is another experiment's.
    pub fn read(experiment: &Experiment, dir: &Path) -> Result<Self, Failure> {
        let plan: Plan = read_json(&dir.join(plan::FILE))?;
        if plan.experiment != experiment.name {
            let dir = dir.display();
            return Err(Failure::Failed(format!(
                "{dir} holds a run of {}, not of {}",
                plan.experiment, experiment.name
            )));
        }
        let arms = experiment.arms.iter().map(|spec| Arm::read(&dir.join(spec.name), *spec));
        Ok(Self {
            host: read_json(&dir.join(plan::HOST_FILE))?,
            arms: arms.collect::<Result<_, _>>()?,
            plan,
            dir: dir.to_owned(),
        })
    }

    /// A run in progress: one arm, whose folder is `dir`, with no samples yet.
    pub fn under_way(plan: Plan, spec: ArmSpec, dir: &Path) -> Self {
        let arm = Arm {
            spec,
            samples: Vec::new(),
            ledger: None,
            latencies: Vec::new(),
            commands: String::new(),
            host: None,
            dir: dir.to_owned(),
            repeated: Vec::new(),
            killed: None,
            autopsy: None,
            start_us: f64::NAN,
        };
        Self { plan, host: Host::default(), arms: vec![arm], dir: dir.to_owned() }
    }

    /// The arm `name`; `None` only for a name that the experiment does not declare.
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.spec.name == name)
    }
}

impl Arm {
    /// Reads an arm's folder.
    ///
    /// # Errors
    /// When its samples are absent or damaged, or show no event.
    pub fn read(dir: &Path, spec: ArmSpec) -> Result<Self, Failure> {
        let samples = samples::read(&dir.join(samples::FILE))?;
        let latencies = dir.join(LATENCY_FILE);
        let start_us = start_us(&samples).ok_or_else(|| {
            Failure::Failed(format!("{}: the producer sent nothing", dir.display()))
        })?;
        Ok(Self {
            spec,
            samples,
            dir: dir.to_owned(),
            ledger: read_json_if_there(&dir.join(audit::FILE))?,
            latencies: if packed::exists(&latencies) {
                hlog::read(&latencies)?
            } else {
                Vec::new()
            },
            host: read_json_if_there(&dir.join(plan::HOST_FILE))?,
            repeated: read_json_if_there(&dir.join(REPEATED_FILE))?.unwrap_or_default(),
            killed: read_json_if_there(&dir.join(KILLED_FILE))?,
            autopsy: read_json_if_there(&dir.join(autopsy::FILE))?,
            commands: std::fs::read_to_string(dir.join("commands.txt")).unwrap_or_default(),
            start_us,
        })
    }

    /// Adds the next sample of a run in progress.
    pub fn push(&mut self, sample: Sample) {
        if self.start_us.is_nan() {
            self.start_us = start_us(std::slice::from_ref(&sample)).unwrap_or(f64::NAN);
        }
        self.samples.push(sample);
    }

    /// Seconds from the first event due to `us`; NaN, which lies in no phase, while none was.
    pub fn at(&self, us: i64) -> f64 {
        (us as f64 - self.start_us) / 1e6
    }

    /// When the processor was killed, s.
    pub fn killed_s(&self) -> Option<f64> {
        self.killed.as_ref().map(|killed| self.at(killed.at_us))
    }

    /// The part of `phase` in which the processor lived.
    #[must_use]
    pub fn alive_in(&self, phase: Phase) -> Phase {
        let to = self.killed_s().map_or(phase.to, |at| phase.to.min(at - 1.0));
        Phase { to: to.max(phase.from), ..phase }
    }

    /// The log of `process`: (s, line); empty when it has no log. Lines without a time are left
    /// out.
    pub fn log_of(&self, process: &str) -> Vec<(f64, String)> {
        let text = std::fs::read_to_string(self.dir.join(format!("{process}.log")));
        let timed = |line: &str| {
            let at = humantime::parse_rfc3339(line.split(' ').next()?).ok()?;
            let us = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_micros();
            Some((self.at(i64::try_from(us).ok()?), line.to_owned()))
        };
        text.unwrap_or_default().lines().filter_map(timed).collect()
    }

    /// A quantity over time; samples that do not have it are left out.
    pub fn series(&self, of: impl Fn(&Sample) -> Option<f64>) -> Series {
        let late = |s: &Sample| self.at(s.due_us) + s.late_s;
        self.samples.iter().filter_map(|s| Some((late(s), of(s)?))).collect()
    }

    /// The metric `key` of `source` over time.
    pub fn metric(&self, source: &str, key: &str) -> Series {
        self.series(|s| s.metric(source, key))
    }

    /// One quantity against another in `phase`, sample by sample: (x, y).
    pub fn against(
        &self,
        phase: Phase,
        x: impl Fn(&Sample) -> Option<f64>,
        y: impl Fn(&Sample) -> Option<f64>,
    ) -> Series {
        let inside = |s: &&Sample| (phase.from..=phase.to).contains(&self.at(s.due_us));
        self.samples.iter().filter(inside).filter_map(|s| Some((x(s)?, y(s)?))).collect()
    }

    /// Resident bytes of process `name` over time.
    pub fn rss_bytes(&self, name: &str) -> Series {
        self.series(|s| s.rss_bytes(name))
    }

    /// Consumer lag over time, at the times when Kafka was really asked.
    pub fn lag(&self) -> Series {
        let mut lag: Series = self
            .samples
            .iter()
            .filter_map(|s| s.log.as_ref())
            .filter_map(|log| Some((self.at(log.read_us), log.lag? as f64)))
            .collect();
        lag.dedup_by_key(|point| point.0); // a sample may carry the reading of the one before
        lag
    }

    /// The quantile `q` of the waits in `stage` of each second's events, s.
    pub fn latency(&self, stage: Stage, q: f64) -> Series {
        hlog::quantiles(&self.latencies, stage, q)
            .map(|(end_us, seconds)| (self.at(end_us), seconds))
            .collect()
    }

    /// The p99 of the waits in `stage` that 95 of 100 seconds of `phase` keep to, of those that began at least `after_s`
    /// after it, s: of ten seconds the worst.
    pub fn settled_p99(&self, stage: Stage, phase: Phase, after_s: f64) -> Option<f64> {
        // A second's figure stands at its end.
        let p99 = self.latency(stage, 0.99);
        let seconds = stats::between(&p99, phase.from + after_s + 1.0, phase.to);
        stats::quantile(seconds.into_iter().map(|second| second.1), 0.95)
    }

    /// The quantile `q` of the waits in `stage` of all events acked in `phase`, s.
    pub fn latency_in(&self, stage: Stage, q: f64, phase: Phase) -> Option<f64> {
        let all = self.latencies_in(stage, phase)?;
        Some(all.value_at_quantile(q) as f64 / 1e6)
    }

    /// The mean of the waits in `stage` of all events acked in `phase`, s.
    pub fn mean_latency_in(&self, stage: Stage, phase: Phase) -> Option<f64> {
        Some(self.latencies_in(stage, phase)?.mean() / 1e6)
    }

    /// Of all events acked in `phase`, those that waited longer than `target_s` in `stage`.
    pub fn late_in(&self, stage: Stage, target_s: f64, phase: Phase) -> Option<Late> {
        let all = self.latencies_in(stage, phase)?;
        let (mut late, mut behind_s) = (0.0, 0.0);
        for bucket in all.iter_recorded() {
            let events = bucket.count_at_value() as f64;
            let over_s = bucket.value_iterated_to() as f64 / 1e6 - target_s;
            if over_s > 0.0 {
                late += events;
                behind_s += events * over_s;
            }
        }
        let events = all.len() as f64;
        Some(Late { share: late / events, behind_s: behind_s / events })
    }

    /// Latencies, µs, of all events acked in `phase`; `None` where none was.
    fn latencies_in(&self, stage: Stage, phase: Phase) -> Option<Histogram<u64>> {
        let us = |t: f64| (self.start_us + t * 1e6) as i64;
        let all = hlog::merge(&self.latencies, stage, us(phase.from), us(phase.to));
        (!all.is_empty()).then_some(all)
    }

    /// The machine's CPU time apart from the watched processes, from the first sample of `phase` to
    /// its last.
    pub fn host_in(&self, phase: Phase) -> Option<HostShares> {
        let phase = self.alive_in(phase);
        let mut inside = self
            .samples
            .iter()
            .filter(|s| (phase.from..=phase.to).contains(&self.at(s.due_us)) && s.host.is_some());
        let first = inside.next()?;
        let last = inside.next_back()?;
        let (a, b) = (first.host.as_ref()?, last.host.as_ref()?);
        let total = b.total_s - a.total_s;
        let own: f64 = last
            .processes
            .iter()
            .filter_map(|(name, reading)| match (reading, first.processes.get(name)?) {
                (
                    ProcessReading::Alive { cpu_s: b, .. },
                    ProcessReading::Alive { cpu_s: a, .. },
                ) => Some(b - a),
                _ => None,
            })
            .sum();
        let others = (b.busy_s - a.busy_s - own).max(0.0);
        (total > 0.0).then(|| HostShares {
            others: others / total,
            steal: (b.steal_s - a.steal_s) / total,
            idle: 1.0 - (b.busy_s - a.busy_s) / total,
        })
    }

    /// Events/s that the producer sent in `phase`.
    pub fn sent_in(&self, phase: Phase) -> Option<f64> {
        self.rate_in("producer", "producer_events_sent_total", phase)
    }

    /// Events/s that the processor polled from the log in `phase`.
    pub fn polled_in(&self, phase: Phase) -> Option<f64> {
        self.rate_in("processor", "processor_events_fetched_total", phase)
    }

    /// The names of its processors whose pages were read.
    fn members(&self) -> impl Iterator<Item = &String> {
        let all: std::collections::BTreeSet<&String> =
            self.samples.iter().flat_map(|s| s.metrics.keys()).collect();
        all.into_iter().filter(|name| name.starts_with("processor"))
    }

    /// Evictions of all its processors together, which are `members` at least; `None` when one does not tell.
    pub fn evictions(&self, members: usize) -> Option<f64> {
        if self.members().count() < members.max(1) {
            return None;
        }
        self.members().map(|name| stats::max(&self.metric(name, "processor_evictions_total"))).sum()
    }

    /// Records that its processors took for no event, by their pages; `None` when none of them was read. One that was
    /// killed leaves no summary.
    pub fn invalid(&self) -> Option<f64> {
        let of = |name: &String| {
            let known = "processor_events_fetched_total";
            stats::max(&self.series(|s| {
                s.metric(name, known)?;
                Some(s.metric_sum(name, "processor_events_invalid_total").unwrap_or(0.0))
            }))
        };
        self.members().filter_map(of).reduce(|a, b| a + b)
    }

    /// The longest time of the load, which ends at `to` s, in which not everything was read, s: the lag, and the pages of
    /// all that lived; where members come and go (`vary`), theirs may be absent. A peak may hide in it, and a rate from
    /// first to last look passes over it.
    pub fn blind_s(&self, to: f64, vary: bool) -> f64 {
        let to = self.alive_in(Phase { rate: 0.0, from: 0.0, to }).to;
        let may_be = |why: &String| vary && why.starts_with("metrics processor");
        let pages = |s: &&Sample| s.unread_of_the_living().all(may_be);
        let pages = self.samples.iter().filter(pages).map(|s| self.at(s.due_us) + s.late_s);
        longest_gap(pages, to).max(longest_gap(self.lag().into_iter().map(|look| look.0), to))
    }

    /// Events that the sink took over time, each counted once.
    pub fn delivered(&self) -> Series {
        self.series(Sample::delivered)
    }

    /// Events shed so far: 0 before the first, when there is no counter yet.
    pub fn shed(&self) -> Series {
        self.series(|s| {
            s.metric("processor", "processor_events_fetched_total")?;
            Some(s.metric_sum("processor", "processor_events_shed_total").unwrap_or(0.0))
        })
    }

    /// Events/s that the sink took in `phase`, each counted once.
    pub fn delivered_in(&self, phase: Phase) -> Option<f64> {
        stats::overall_rate(&stats::between(&self.delivered(), phase.from, phase.to))
    }

    /// A counter's gain a second in `phase`.
    pub fn rate_in(&self, source: &str, key: &str, phase: Phase) -> Option<f64> {
        stats::overall_rate(&stats::between(&self.metric(source, key), phase.from, phase.to))
    }
}

#[cfg(test)]
impl Arm {
    /// As if every event had taken the time that `to` makes of its own in every stage, µs.
    pub fn change_latencies(&mut self, to: fn(f64) -> f64) {
        for interval in &mut self.latencies {
            let mut scaled = Histogram::new(3).expect("3 digits");
            for bucket in interval.latencies.iter_recorded() {
                let us = to(bucket.value_iterated_to() as f64) as u64;
                let _never_refused = scaled.record_n(us, bucket.count_at_value());
            }
            interval.latencies = scaled;
        }
    }

    /// As if no process had logged anything.
    pub fn forget_logs(&mut self) {
        self.dir = PathBuf::from("/nowhere");
    }
}

/// The longest time between two of `times`, from 0 `to` the end.
fn longest_gap(times: impl Iterator<Item = f64>, to: f64) -> f64 {
    let inside = times.filter(|t| (0.0..to).contains(t)).chain([to]);
    let gaps = inside.scan(0.0, |last, t| Some(t - std::mem::replace(last, t)));
    gaps.fold(0.0, f64::max)
}

fn read_json_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    path.exists().then(|| read_json(path)).transpose()
}

/// When the schedule started, µs since the epoch: the first sample that saw events due says how many, at which rate.
pub(super) fn start_us(samples: &[Sample]) -> Option<f64> {
    samples.iter().find_map(|s| {
        let due = s.metric("producer", "producer_events_due").filter(|due| *due > 0.0)?;
        let rate = s.metric("producer", "producer_target_rate").filter(|rate| *rate > 0.0)?;
        Some(s.due_us as f64 + s.late_s * 1e6 - due / rate * 1e6)
    })
}
