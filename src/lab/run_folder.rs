//! A finished run, read from its folder: the plan, the host, and for each arm its samples, ledger
//! and commands. Times are seconds from the producer's first event due, so that arms of one run
//! lie on one axis. `quantities` has what its samples and latencies say.

mod quantities;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::audit::{self, Ledger};
use crate::lab::autopsy::{self, Autopsy};
use crate::lab::experiments::{ArmSpec, Experiment, Phase};
use crate::lab::plan::{self, Host, Plan};
use crate::lab::samples::{self, Sample};
use crate::lab::{read_json, read_json_if_there};
use crate::packed;
use crate::telemetry::hlog;

pub use quantities::{HostShares, Late};

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
}

#[cfg(test)]
impl Arm {
    /// As if every event had taken the time that `to` makes of its own in every stage, µs.
    pub fn change_latencies(&mut self, to: fn(f64) -> f64) {
        for interval in &mut self.latencies {
            let mut scaled = hdrhistogram::Histogram::new(3).expect("3 digits");
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

/// When the schedule started, µs since the epoch: the first sample that saw events due says how many, at which rate.
pub(super) fn start_us(samples: &[Sample]) -> Option<f64> {
    samples.iter().find_map(|s| {
        let due = s.metric("producer", "producer_events_due").filter(|due| *due > 0.0)?;
        let rate = s.metric("producer", "producer_target_rate").filter(|rate| *rate > 0.0)?;
        Some(s.due_us as f64 + s.late_s * 1e6 - due / rate * 1e6)
    })
}
