//! `lab run`: takes an experiment from its declaration to its verdict.
//!
//! - `interrupt` a signal, and waits that it ends
//! - `claims`    what a run takes for itself: the cluster's lock, the results' folder
//! - `cluster`   the brokers, by `run/cluster.sh`
//! - `children`  the processes that a run starts, watches and stops
//! - `memory`    the limit that the kernel enforces on one of them
//! - `commands`  what they are started with
//! - `arm`       one arm, from its topic to its ledger
//!
//! Invariant: whatever ends a run, and be it a second Ctrl-C, it stops what it started, deletes its own topics
//! only, and takes the cluster down only if it brought it up. It knows no experiment by name, and decides
//! nothing about what is measured or expected.

mod arm;
mod children;
mod claims;
mod cluster;
mod commands;
mod interrupt;
mod memory;

use std::path::{Path, PathBuf};
use std::time::Instant;

use argh::FromArgs;
use procfs::{Current, Meminfo};

use arm::Bench;
use claims::{Claim, ClusterLock};
use cluster::Cluster;
use commands::Places;
use interrupt::Interrupt;

use super::experiments::{self, Experiment, Form, Launch};
use super::model;
use super::plan::{self, Plan};
use super::run_folder::{Arm, REPEATED_FILE};
use super::text::scaled;
use super::{audit, index, read_json, report, write_json};
use crate::cli;
use crate::failure::Failure;

/// The experiments of `lab run all`, in the order of the page.
const ALL: [&str; 7] = ["exp1", "exp2", "exp3", "exp4", "exp5", "exp6", "exp7"];
/// How often an arm that the host disturbed is run again.
const AGAIN_MAX: usize = 2;
/// What three brokers take in memory, B: three JVMs with heaps of 512 MB (`run/kafka/jvm.sh`).
const BROKERS_BYTES: f64 = 2.4e9;
/// Of a record beside its payload, and of the log's indexes, as a share of the payload; replicas.
const LOG_OVERHEAD: f64 = 1.2;
const REPLICAS: f64 = 3.0;
/// What a cluster takes on disk before anything is produced, B.
const CLUSTER_BYTES: f64 = 2e9;

/// Run an experiment: its arms one after the other on a real cluster, then its report. Exit 3 when a check
/// falls short.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "run")]
pub struct Settings {
    /// ceiling, exp1 to exp7, longlife; or all: exp1 to exp7, and one page that joins them
    #[argh(positional)]
    pub experiment: String,
    /// the short form, to be had in minutes
    #[argh(switch)]
    pub quick: bool,
    /// folder of the results (results/EXPERIMENT; of all: results)
    #[argh(option)]
    pub out: Option<PathBuf>,
    /// the cluster's folder, as for run/cluster.sh (.cluster)
    #[argh(option)]
    pub data: Option<PathBuf>,
    /// the cluster's first port, where one is started (19092)
    #[argh(option)]
    pub port: Option<u16>,
    /// folder of the source: where run/cluster.sh is (.)
    #[argh(option, default = "PathBuf::from(\".\")")]
    pub source: PathBuf,
    /// print the commands and the prediction, and run nothing
    #[argh(switch)]
    pub dry_run: bool,
    /// keep the arms of an earlier run of the same plan that have a ledger
    #[argh(switch)]
    pub resume: bool,
}

/// Runs what the flags ask for.
///
/// # Errors
/// `Usage` for an experiment that is not there; `Failed` when a process, the cluster or a file does not do as
/// it should, or the host disturbed the run; `Verdict` when a check falls short; `Interrupted`.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let interrupt = Interrupt::on_signals()?;
    let names: &[&str] = match settings.experiment.as_str() {
        "all" => &ALL,
        name => &[name],
    };
    let chosen = names.iter().map(|name| to_run(name)).collect::<Result<Vec<_>, _>>()?;
    let form = if settings.quick { Form::Quick } else { Form::Full };
    let plans: Vec<(&Experiment, Plan)> = chosen
        .into_iter()
        .map(|experiment| Ok((experiment, Plan::of(experiment, form)?)))
        .collect::<Result<_, Failure>>()?;
    if settings.dry_run {
        return plans.iter().try_for_each(|(experiment, plan)| show(experiment, plan));
    }
    let (out, data) = enter(settings)?;
    plans.iter().try_for_each(|(_, plan)| enough_memory(plan))?;
    let lock = ClusterLock::take(&data)?;
    // The page of all is in a folder of its own.
    let _held = match settings.experiment.as_str() {
        "all" => Some(Claim::folder(&out)?),
        _ => None,
    };
    let disk = plans.iter().map(|(_, plan)| disk_bytes(plan)).fold(0.0, f64::max);
    let cluster = Cluster::have(lock, &data, settings.port, disk, &interrupt)?;
    let begun = Instant::now();
    if plans.len() == 1 {
        let Some((experiment, plan)) = plans.into_iter().next() else { return Ok(()) };
        return one(experiment, plan, &out, settings.resume, &cluster, &interrupt);
    }
    // All run even when one falls short: the page shows which. A failure outweighs a verdict.
    let mut worst = Ok(());
    for (experiment, plan) in plans {
        let folder = out.join(experiment.name);
        let ended = one(experiment, plan, &folder, settings.resume, &cluster, &interrupt);
        let seconds = begun.elapsed().as_secs();
        match ended {
            Err(Failure::Interrupted(signal)) => return Err(Failure::Interrupted(signal)),
            Err(why) => {
                log::warn!(experiment = experiment.name, seconds = seconds, why = why.to_string(); "fell short");
                worst = worse(worst, why);
            }
            Ok(()) => log::info!(experiment = experiment.name, seconds = seconds; "ended"),
        }
    }
    match index::run(&out) {
        Err(why) => worse(worst, why),
        Ok(()) => worst,
    }
}

/// The first of the worst kind.
fn worse(so_far: Result<(), Failure>, next: Failure) -> Result<(), Failure> {
    match (so_far, next) {
        (Err(Failure::Verdict(_)) | Ok(()), next) => Err(next),
        (worst, _) => worst,
    }
}

fn to_run(name: &str) -> Result<&'static Experiment, Failure> {
    let experiment = experiments::named(name).map_err(|_| {
        let names: Vec<&str> =
            experiments::ALL.iter().filter(|e| !e.arms.is_empty()).map(|e| e.name).collect();
        Failure::Usage(format!("run {name}: allowed: all, {}", names.join(", ")))
    })?;
    if experiment.arms.is_empty() {
        return Err(Failure::Usage(format!("run {name}: its rows are run by run/{name}.sh")));
    }
    Ok(experiment)
}

/// Makes the source's folder the current one, so that paths in commands.txt read anywhere; gives the
/// results' folder and the cluster's as they are written from there.
fn enter(settings: &Settings) -> Result<(PathBuf, PathBuf), Failure> {
    let unusable = |path: &Path, e: std::io::Error| {
        Failure::Failed(format!("{}: cannot be used: {e}", path.display()))
    };
    let source = settings.source.canonicalize().map_err(|e| unusable(&settings.source, e))?;
    let given = |path: &Option<PathBuf>, default: PathBuf| match path {
        Some(path) => std::path::absolute(path).map_err(|e| unusable(path, e)),
        None => Ok(source.join(default)),
    };
    let results = match settings.experiment.as_str() {
        "all" => PathBuf::from("results"),
        name => Path::new("results").join(name),
    };
    let (out, data) = (given(&settings.out, results)?, given(&settings.data, ".cluster".into())?);
    std::env::set_current_dir(&source).map_err(|e| unusable(&source, e))?;
    let short = |path: &Path| path.strip_prefix(&source).unwrap_or(path).to_owned();
    Ok((short(&out), short(&data)))
}

/// One experiment, on a cluster that is up.
fn one(
    experiment: &Experiment,
    plan: Plan,
    out: &Path,
    resume: bool,
    cluster: &Cluster,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let claim = if resume { Claim::folder(out)? } else { Claim::emptied(out)? };
    let plan = if resume { resumed(plan, out)? } else { plan };
    plan.write(&plan::host(cluster.version(), Path::new(".")), out)?;
    let bench = Bench { experiment: experiment.name, cluster, out, interrupt };
    let mut warm = !experiment.warm_up || !cluster.is_fresh();
    for launch in (experiment.launches)(plan.setup.form) {
        let closed = out.join(launch.arm).join(audit::FILE).exists();
        if resume && closed {
            log::info!(experiment = experiment.name, arm = launch.arm; "kept");
            continue;
        }
        if !warm {
            bench.run(&warm_up())?;
            warm = true;
        }
        undisturbed(&bench, experiment, &plan, &launch)?;
    }
    drop(claim);
    report::experiment(experiment, out)
}

/// Runs an arm, again where the host disturbed it. What disturbs the last time is for the report to weigh.
fn undisturbed(
    bench: &Bench<'_>,
    experiment: &Experiment,
    plan: &Plan,
    launch: &Launch,
) -> Result<(), Failure> {
    let dir = bench.out.join(launch.arm);
    let mut before: Vec<String> = Vec::new();
    for _ in 0..=AGAIN_MAX {
        bench.run(launch)?;
        if !before.is_empty() {
            write_json(&dir.join(REPEATED_FILE), &before)?;
        }
        let Some(spec) = experiment.arms.iter().find(|arm| arm.name == launch.arm) else { break };
        let found = report::disturbances(&plan.setup, &Arm::read(&dir, *spec)?);
        if found.is_empty() {
            break;
        }
        for why in &found {
            log::warn!(why = why.as_str(); "the host disturbed the arm");
        }
        before.extend(found);
    }
    Ok(())
}

/// Brokers that just started spend their first minute or more compiling themselves on the cores that are
/// measured: an arm is run for them alone, and no report reads it.
fn warm_up() -> Launch {
    let load = "--schedule 4000:90s --msg-size 512 --seed 1";
    Launch::new("warm-up", load, "--rate-limit 2000", "--queue pull --sink-mode single")
}

/// The plan of the run that is gone on with: it was made before the first of its arms.
fn resumed(plan: Plan, out: &Path) -> Result<Plan, Failure> {
    let path = out.join(plan::FILE);
    if !path.exists() {
        return Ok(plan);
    }
    let earlier: Plan = read_json(&path)?;
    if (&earlier.experiment, &earlier.setup) == (&plan.experiment, &plan.setup) {
        return Ok(earlier);
    }
    Err(Failure::Failed(format!(
        "--resume: {} was written for another setup than today's: run it anew, without --resume",
        path.display()
    )))
}

/// `--dry-run`.
fn show(experiment: &Experiment, plan: &Plan) -> Result<(), Failure> {
    let places = Places::named();
    for launch in (experiment.launches)(plan.setup.form) {
        cli::say(format_args!("# {} {}", experiment.name, launch.arm))?;
        for command in commands::all(&launch, &places) {
            cli::say(commands::line(&command))?;
        }
    }
    cli::say(format_args!("# {}, predicted", experiment.name))?;
    for p in &plan.predictions {
        cli::say(format_args!("{} = {} {}  ({})", p.name, p.value, p.unit, p.because))?;
    }
    Ok(())
}

/// Disk that the cluster must have for its largest topic, B: topics of earlier arms are deleted.
fn disk_bytes(plan: &Plan) -> f64 {
    let bytes = |events: f64| events * plan.setup.payload_bytes as f64 * LOG_OVERHEAD * REPLICAS;
    CLUSTER_BYTES + plan.setup.arms.iter().map(|arm| bytes(arm.events())).fold(0.0, f64::max)
}

/// Memory for three brokers and what queues without limit will hold at most.
fn enough_memory(plan: &Plan) -> Result<(), Failure> {
    let setup = &plan.setup;
    let backlog = model::backlog(&setup.offered(), &setup.ceilings(), setup.end_s());
    let unlimited =
        setup.memory_limit.is_none() && setup.arms.iter().any(|arm| arm.queue_cap.is_none());
    let queue = if unlimited { setup.resident_bytes * backlog } else { 0.0 };
    let needed = BROKERS_BYTES + queue;
    match Meminfo::current().ok().and_then(|memory| memory.mem_available) {
        Some(free) if (free as f64) < needed => Err(Failure::Failed(format!(
            "not enough free memory for {} in its {} form: {} available, {} needed for three brokers and \
             the longest queue; end other programs, or take --quick",
            plan.experiment,
            setup.form,
            scaled(free as f64, "B"),
            scaled(needed, "B")
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a run without the room it needs, and one that is refused for room that it does not.
    #[test]
    fn room_follows_the_load() {
        let plan = |name: &str, form| Plan::of(to_run(name).expect(name), form).expect(name);
        let gb = |name, form| disk_bytes(&plan(name, form)) / 1e9;
        assert!((25.0..35.0).contains(&gb("exp1", Form::Full)), "{}", gb("exp1", Form::Full));
        assert!((2.0..4.0).contains(&gb("exp2", Form::Quick)), "{}", gb("exp2", Form::Quick));
        let mut plan = plan("exp2", Form::Full);
        plan.setup.schedule = vec![(1e9, 1e6)];
        let why = enough_memory(&plan).expect_err("petabytes").to_string();
        assert!(why.contains("exp2 in its full form"), "{why}");
        plan.setup.arms.retain(|arm| arm.queue_cap.is_some());
        enough_memory(&plan).expect("pull holds nothing");
    }

    #[test]
    fn what_can_be_run_is_said() {
        let why = to_run("exp0").err().expect("none").to_string();
        assert!(why.contains("all, ceiling, exp1"), "{why}");
        assert!(to_run("faults").is_err(), "its rows are not arms");
    }

    #[test]
    fn a_failure_outweighs_a_verdict_and_the_first_is_kept() {
        let verdict = |n: &str| Failure::Verdict(n.into());
        let failed = |n: &str| Failure::Failed(n.into());
        let said = |worst: Result<(), Failure>| worst.expect_err("bad").to_string();
        assert_eq!(said(worse(worse(Ok(()), verdict("a")), failed("b"))), "b");
        assert_eq!(said(worse(worse(Ok(()), failed("a")), verdict("b"))), "a");
        assert_eq!(said(worse(worse(Ok(()), failed("a")), failed("b"))), "a");
    }
}
