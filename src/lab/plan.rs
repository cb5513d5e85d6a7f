//! `lab plan`: before a run, writes down what it is given, what the model says about it, and what
//! it runs on. Nothing is measured yet, so nothing here can be fitted to the result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use argh::{ArgsInfo, FromArgs};
use procfs::{CpuInfo, Current, LoadAverage, Meminfo};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::experiments::{self, Experiment, Form, Prediction, Setup};
use crate::units;

/// File name inside a run's folder.
pub const FILE: &str = "plan.json";
/// File name of the host facts.
pub const HOST_FILE: &str = "host.json";

/// Before a run: write down the prediction and the host.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "plan")]
pub struct Settings {
    /// which experiment: ceiling, exp1 to exp7, faults, longlife
    #[argh(option)]
    pub experiment: String,
    /// quick or full
    #[argh(option, from_str_fn(form))]
    pub form: Form,
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

fn form(text: &str) -> Result<Form, String> {
    units::one_of(text, &[("quick", Form::Quick), ("full", Form::Full)])
}

/// Writes `plan.json` and `host.json`.
///
/// # Errors
/// As [`Plan::write`].
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let experiment = experiments::named(&settings.experiment)?;
    let plan = Plan::of(experiment, settings.form)?;
    plan.write(&host(&settings.kafka, &settings.source), &settings.dir)
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// What this is run on, with `source`'s revision.
pub fn host(kafka: &str, source: &Path) -> Host {
    let cpu = CpuInfo::current().ok();
    // A run that is under way changes the committed results itself.
    let status = says("git", source, &["status", "--porcelain", "--", ".", ":!results"]);
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

/// Only a release build is measured.
///
/// # Errors
/// In a debug build.
pub fn refuse_debug_build() -> Result<(), Failure> {
    let why = "this is a debug build: its figures mean nothing; build with --release";
    if cfg!(debug_assertions) { Err(Failure::Failed(why.into())) } else { Ok(()) }
}

impl Plan {
    /// The prediction of a run that is about to begin.
    ///
    /// # Errors
    /// When a program would not take the flags that the experiment declares.
    pub fn of(experiment: &Experiment, form: Form) -> Result<Self, Failure> {
        let setup = Setup::of(form, &(experiment.launches)(form))?;
        Ok(Self {
            experiment: experiment.name.into(),
            written_at: now(),
            predictions: (experiment.predict)(&setup),
            setup,
        })
    }

    /// Writes it, and what the run runs on, into the run's folder.
    ///
    /// # Errors
    /// In a debug build, or when the folder cannot be written.
    pub fn write(&self, host: &Host, dir: &Path) -> Result<(), Failure> {
        refuse_debug_build()?;
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::Failed(format!("{}: cannot be made: {e}", dir.display())))?;
        super::write_json(&dir.join(HOST_FILE), host)?;
        super::write_json(&dir.join(FILE), self)?;
        for p in &self.predictions {
            log::info!(name = p.name.as_str(), value = p.value, unit = p.unit.as_str(); "predicted");
        }
        Ok(())
    }

    /// The predicted figure `name`; NaN, which no check passes, when the plan has none.
    pub fn predicted(&self, name: &str) -> f64 {
        self.predictions.iter().find(|p| p.name == name).map_or(f64::NAN, |p| p.value)
    }
}
