//! `lab plan`: before a run, writes down what it is given, what the model says about it, and what
//! it runs on. Nothing is measured yet, so nothing here can be fitted to the result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use argh::FromArgs;
use procfs::{CpuInfo, Current, LoadAverage, Meminfo};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::experiments::{self, Call, Phase, Prediction, Setup};
use crate::lab::layout;
use crate::units;

/// File name inside a run's folder.
pub const FILE: &str = "plan.json";
/// File name of the host facts.
pub const HOST_FILE: &str = "host.json";

/// The producer's linger and the topic's partitions in every experiment: their defaults.
const LINGER_S: f64 = 0.020;
const PARTITIONS: f64 = 12.0;

/// Before a run: write down the prediction and the host.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "plan")]
pub struct Settings {
    /// which experiment: ceiling, exp1 to exp7, faults, longlife
    #[argh(option)]
    pub experiment: String,
    /// quick or full
    #[argh(option)]
    pub form: String,
    /// offered load, RATE:TIME[,RATE:TIME…]
    #[argh(option)]
    pub schedule: String,
    /// the sink's ceiling, events/s (2000)
    #[argh(option, default = "2000.0", from_str_fn(units::rate))]
    pub rate_limit: f64,
    /// tokens of a sink call, whatever is in it (0)
    #[argh(option, default = "0.0", from_str_fn(units::rate_or_zero))]
    pub call_cost: f64,
    /// tokens of each event in it (1)
    #[argh(option, default = "1.0", from_str_fn(units::rate))]
    pub event_cost: f64,
    /// time that a sink call takes besides its wait (0)
    #[argh(option, default = "Duration::ZERO", from_str_fn(units::duration))]
    pub latency: Duration,
    /// payload bytes of an event (512)
    #[argh(option, default = "512", from_str_fn(units::size))]
    pub msg_size: u64,
    /// events that the bounded queue holds (10000)
    #[argh(option, default = "10_000.0", from_str_fn(units::rate))]
    pub queue_cap: f64,
    /// memory that the unbounded arm may take
    #[argh(option, from_str_fn(units::size))]
    pub memory_limit: Option<u64>,
    /// what befalls the sink, RATE@AT:TIME, such as 200@10m:90s
    #[argh(option, from_str_fn(Phase::parse))]
    pub stall: Option<Phase>,
    /// kafka's release, for the record
    #[argh(option, default = "String::from(\"unknown\")")]
    pub kafka: String,
    /// folder of the source, whose revision is recorded (.)
    #[argh(option, default = "PathBuf::from(\".\")")]
    pub source: PathBuf,
    /// the run's folder
    #[argh(positional)]
    pub dir: PathBuf,
}

/// What was written down before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which experiment.
    pub experiment: String,
    /// When this was written.
    pub written_at: String,
    /// What the run is given.
    pub setup: Setup,
    /// What the model says.
    pub predictions: Vec<Prediction>,
}

/// What the run ran on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// When it was looked at.
    pub date: String,
    /// Processor model.
    pub cpu: String,
    /// Logical cores.
    pub cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load average of the last minute, before the run.
    pub load_1m: f32,
    /// Compiler.
    pub rustc: String,
    /// Kafka's release.
    pub kafka: String,
    /// Commit of the source; `unknown` outside a git work tree.
    pub revision: String,
    /// Whether the source had uncommitted changes.
    pub dirty: Option<bool>,
}

/// Writes `plan.json` and `host.json`.
///
/// # Errors
/// When a flag cannot be used, in a debug build, or when the folder cannot be written.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        return Err(Failure::Failed(
            "this is a debug build: its figures mean nothing; build with --release".into(),
        ));
    }
    let experiment = experiments::named(&settings.experiment)?;
    if !matches!(settings.form.as_str(), "quick" | "full") {
        return Err(Failure::flag("--form", &settings.form, "allowed: quick, full"));
    }
    let payload_bytes = usize::try_from(settings.msg_size).map_err(Failure::failed)?;
    let schedule = schedule(&settings.schedule)?;
    let fastest = schedule.iter().fold(0.0_f64, |most, (rate, _)| most.max(*rate));
    let run_events = layout::run_events(fastest, LINGER_S, PARTITIONS);
    let setup = Setup {
        form: settings.form.clone(),
        schedule,
        ceiling: settings.rate_limit,
        call: Call {
            cost: settings.call_cost,
            event_cost: settings.event_cost,
            latency_s: settings.latency.as_secs_f64(),
        },
        payload_bytes,
        event_bytes: layout::queued_event_bytes(payload_bytes, run_events),
        resident_bytes: layout::resident_event_bytes(payload_bytes, run_events),
        queue_cap: settings.queue_cap,
        memory_limit: settings.memory_limit.map(|bytes| bytes as f64),
        stall: settings.stall,
    };
    let plan = Plan {
        experiment: experiment.name.into(),
        written_at: now(),
        predictions: (experiment.predict)(&setup),
        setup,
    };
    std::fs::create_dir_all(&settings.dir)
        .map_err(|e| Failure::Failed(format!("{}: cannot be made: {e}", settings.dir.display())))?;
    super::write_json(&settings.dir.join(HOST_FILE), &host(&settings.kafka, &settings.source))?;
    super::write_json(&settings.dir.join(FILE), &plan)?;
    for p in &plan.predictions {
        log::info!(name = p.name.as_str(), value = p.value, unit = p.unit.as_str(); "predicted");
    }
    Ok(())
}

fn schedule(text: &str) -> Result<Vec<(f64, f64)>, Failure> {
    let step = |part: &str| -> Result<(f64, f64), String> {
        let (rate, time) = part.split_once(':').ok_or("a step is RATE:TIME")?;
        Ok((units::rate(rate)?, units::duration_above_zero(time)?.as_secs_f64()))
    };
    text.split(',')
        .map(|part| step(part).map_err(|why| Failure::flag("--schedule", text, &why)))
        .collect()
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn host(kafka: &str, source: &Path) -> Host {
    let cpu = CpuInfo::current().ok();
    let status = says("git", source, &["status", "--porcelain"]);
    Host {
        date: now(),
        cpu: cpu.as_ref().and_then(|c| c.model_name(0)).unwrap_or("unknown").to_owned(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: Meminfo::current().map_or(0, |m| m.mem_total),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| "unknown".into(), |text| text.trim().into()),
        load_1m: LoadAverage::current().map_or(f32::NAN, |l| l.one),
        rustc: says("rustc", source, &["--version"]).unwrap_or_else(|| "unknown".into()),
        kafka: kafka.to_owned(),
        revision: says("git", source, &["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".into()),
        dirty: status.map(|text| !text.is_empty()),
    }
}

/// What a program prints, trimmed; `None` when it is not there or fails.
fn says(program: &str, dir: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).current_dir(dir).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

impl Plan {
    /// The predicted figure `name`; NaN, which no check passes, when the plan has none.
    pub fn predicted(&self, name: &str) -> f64 {
        self.predictions.iter().find(|p| p.name == name).map_or(f64::NAN, |p| p.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_schedule_parses_and_a_bad_step_is_named() {
        assert_eq!(schedule("1500:60s,8000:10m").ok(), Some(vec![(1500.0, 60.0), (8000.0, 600.0)]));
        for bad in ["", "1500", "x:60s", "1500:0s", "1500:60s,"] {
            assert!(matches!(schedule(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }
}
