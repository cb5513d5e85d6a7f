//! `lab plan`: before a run, writes down its input, the model's prediction, and the host. Nothing
//! is measured yet, so nothing here can be fitted to the result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use argh::{ArgsInfo, FromArgs};
use procfs::{CpuInfo, Current, LoadAverage, Meminfo};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lab::experiments::{self, ArmSpec, Experiment, Form, Launch, Prediction, Setup, own};
use crate::lab::predict;
use crate::units;

/// File name inside a run's folder.
pub const FILE: &str = "plan.json";
/// File name of the host facts.
pub const HOST_FILE: &str = "host.json";

/// Before a run: write down the prediction and the host, of an experiment or of a load of your own.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "plan",
    example = "{command_name} --experiment exp2 --form quick runs/exp2\n\
               {command_name} --producer '--schedule 3k:1h,12k:20m' --sink '--rate-limit 5k' --processor '--queue-cap 9200' runs/mine"
)]
pub struct Settings {
    /// which experiment: ceiling, exp1 to exp12, exp12-retries, exp13 to exp15, faults, longlife
    #[argh(option)]
    pub experiment: Option<String>,
    /// quick or full (full)
    #[argh(option, default = "Form::Full", from_str_fn(form))]
    pub form: Form,
    /// a load of your own instead: the producer's flags, with a --schedule
    #[argh(option)]
    pub producer: Option<String>,
    /// the flags of your sink, where it is the lab's; else its ceiling as --rate-limit (2000)
    #[argh(option, default = "String::new()")]
    pub sink: String,
    /// the flags of your processor: queue, policy, batches, workers
    #[argh(option, default = "String::new()")]
    pub processor: String,
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
    /// The input of the run.
    pub setup: Setup,
    /// The model's predictions.
    pub predictions: Vec<Prediction>,
    /// What its arms are started with, as `lab run --dry-run` prints it; none for a load of one's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// The host of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// When these facts were read.
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
/// `Usage` for flags that a program would not take, and as [`Plan::write`].
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let plan = match (&settings.experiment, &settings.producer) {
        (Some(name), None) if settings.sink.is_empty() && settings.processor.is_empty() => {
            Plan::of(experiments::named(name)?, settings.form)?
        }
        (None, Some(producer)) => Plan::own(producer, &settings.sink, &settings.processor)?,
        _ => {
            let why = "expected --experiment, or your own --producer with --sink and --processor";
            return Err(Failure::Usage(why.into()));
        }
    };
    plan.write(&host(&settings.kafka, &settings.source), &settings.dir)
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The facts of this host, with `source`'s revision.
pub fn host(kafka: &str, source: &Path) -> Host {
    let cpu = CpuInfo::current().ok();
    // A run in progress changes the committed results itself.
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
            commands: Vec::new(),
        })
    }

    /// The prediction of a user's own load, from the flags of its programs.
    ///
    /// # Errors
    /// When a program would not take them.
    pub fn own(producer: &str, sink: &str, processor: &str) -> Result<Self, Failure> {
        let name = own::EXPERIMENT.name;
        let launch = Launch::new(name, producer, sink, processor);
        let setup =
            Setup::of(Form::Full, &[launch]).map_err(|why| Failure::Usage(why.to_string()))?;
        let predictions = predict::of(&setup, name)?;
        let (experiment, commands) = (name.into(), Vec::new());
        Ok(Self { experiment, written_at: now(), setup, predictions, commands })
    }

    /// What it plans: an experiment, or a user's own load.
    ///
    /// # Errors
    /// When there is none of its name.
    pub fn planned(&self) -> Result<&'static Experiment, Failure> {
        if self.experiment == own::EXPERIMENT.name {
            return Ok(&own::EXPERIMENT);
        }
        experiments::named(&self.experiment)
    }

    /// The arm of that folder; that of a user's own load, whatever its folder is called.
    ///
    /// # Errors
    /// When it has no such arm.
    pub fn arm_in(&self, folder: &str) -> Result<ArmSpec, Failure> {
        let experiment = self.planned()?;
        let own = own::EXPERIMENT.name;
        experiment.arm(if experiment.name == own { own } else { folder })
    }

    /// Writes the plan and the host facts into the run's folder.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a plan of a user's own load that predicts another load, or that takes a flag which
    /// its program does not take.
    #[test]
    fn a_load_of_ones_own_is_planned_from_the_flags_of_its_programs() {
        let plan =
            Plan::own("--schedule 3k:1h,12k:20m,3k:4h --msg-size 1200", "--rate-limit 5k", "")
                .expect("flags");
        assert_eq!(plan.experiment, "own");
        assert_eq!(plan.predicted("lag_slope"), 7000.0);
        assert!((plan.predicted("wait_peak") - 1680.0).abs() < 1e-6);
        assert_eq!(plan.predicted("caught_up_1"), 9000.0);
        for (producer, sink, processor) in [
            ("--rate 5", "", ""),
            ("--schedule 5:5s --count 7", "", ""),
            ("--schedule 5:5s", "--limit 5", ""),
            ("--schedule 5:5s", "", "--queue pulled"),
        ] {
            let why = Plan::own(producer, sink, processor).expect_err("no plan");
            assert!(matches!(why, Failure::Usage(_)), "{why}");
        }
        let of = |producer, sink, processor| Plan::own(producer, sink, processor).expect("flags");
        let cut = of("--schedule 3k:1h,12k:20m --duration 90m", "--rate-limit 5k", "").setup;
        assert_eq!(cut.schedule, [(3000.0, 3600.0), (12_000.0, 1200.0)]);
        let cut = of("--schedule 3k:1h,12k:20m --duration 30m", "--rate-limit 5k", "").setup;
        assert_eq!(cut.schedule, [(3000.0, 1800.0)]);
        let stalls = "--rate-limit 2000 --stall-rate 200 --stall-at 60s --stall-for 90s";
        let stalled = of("--rate 1500 --duration 5m", stalls, "");
        assert!((stalled.predicted("lag_peak") - 1300.0 * 90.0).abs() < 1.0);
        let spills =
            "--queue=spill --spill-dir /mnt/spill --spill-max 64MiB --producer http://p:9901";
        let arm = &of("--schedule 5:5s", "", spills).setup.arms[0];
        assert_eq!((arm.queue_cap, arm.spill_max), (Some(10_000.0), Some(67_108_864.0)));
        let asked = |words: &[&str]| run(&Settings::from_args(&["plan"], words).expect("flags"));
        for words in [
            &["/nowhere"][..],
            &["--experiment", "exp2", "--producer", "", "/nowhere"],
            &["--experiment", "exp2", "--sink", "--rate-limit 5", "/nowhere"],
        ] {
            assert!(matches!(asked(words), Err(Failure::Usage(_))), "{words:?}");
        }
    }
}
