//! `lab run`: takes an experiment from its declaration to its verdict.
//!
//! - `interrupt` a signal, and waits that it ends
//! - `claims`    what a run takes for itself: the cluster's lock, the results' folder
//! - `cluster`   the brokers, by `run/cluster.sh`
//! - `children`  the processes that a run starts, watches and stops
//! - `memory`    the limit that the kernel enforces on one of them
//! - `commands`  what they are started with
//! - `arm`       one arm, from its topic to its ledger, with its `topic` and its watch (`watching`)
//! - `room`      the memory and the disk that a run needs
//! - `rows`      the rows of the fault matrix, each an arm in which something breaks
//! - `hosts`, `disks`, `clock`, `tools`  what can be broken without harm to the machine
//!
//! Invariant: whatever ends a run, and be it a second Ctrl-C, it stops what it started, deletes its own topics
//! only, and takes the cluster down only if it brought it up. It knows no experiment by name, and decides
//! nothing about what is measured or expected.

mod arm;
mod children;
mod claims;
mod clock;
mod cluster;
mod commands;
mod disks;
mod hosts;
mod interrupt;
mod memory;
mod room;
mod rows;
mod tools;
mod topic;
mod watching;

use std::path::{Path, PathBuf};
use std::time::Instant;

use argh::FromArgs;

use arm::Bench;
use claims::{Claim, ClusterLock};
use cluster::{Cluster, New};
use hosts::Hosts;
use interrupt::Interrupt;

use super::experiments::faults::{self, Case};
use super::experiments::{self, Experiment, Form, Launch};
use super::plan::{self, Plan};
use super::report::spread;
use super::run_folder::{Arm, REPEATED_FILE};
use super::{index, read_json, report, verdict, write_json};
use crate::failure::Failure;
use crate::{cli, units};

/// The experiments of `lab run all`, in the order of the page.
const ALL: [&str; 7] = ["exp1", "exp2", "exp3", "exp4", "exp5", "exp6", "exp7"];
/// Most repeats: beyond, it is another question than how far apart runs are.
const REPEAT_MAX: usize = 20;
/// How often an arm is run again of which the host took so much: more than any margin bears.
const AGAIN_MAX: usize = 2;
const AGAIN_ABOVE: f64 = 0.25;
/// Run an experiment: its arms one after the other on a real cluster, then its report. Exit 3 when a check
/// falls short.
#[derive(Debug, FromArgs)]
#[argh(subcommand, name = "run")]
pub struct Settings {
    /// ceiling, exp1 to exp7, longlife; all: exp1 to exp7, and one page that joins them; or faults
    #[argh(positional)]
    pub experiment: String,
    /// of faults: these alone
    #[argh(positional)]
    pub faults: Vec<String>,
    /// of faults: under this queue and load alone, such as bounded:8000
    #[argh(option, from_str_fn(Case::parse))]
    pub case: Option<Case>,
    /// the short form, to be had in minutes
    #[argh(switch)]
    pub quick: bool,
    /// folder of the results (results/EXPERIMENT; of all: results)
    #[argh(option)]
    pub out: Option<PathBuf>,
    /// the cluster's folder, as for run/cluster.sh (.cluster; of faults: .cluster-faults)
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
    /// run it so many times: the verdict takes the worst, and the spread is shown (1)
    #[argh(option, default = "1", from_str_fn(repeats))]
    pub repeat: usize,
    /// run this arm alone, and keep the others of an earlier run of the same plan; may be repeated
    #[argh(option)]
    pub arm: Vec<String>,
    /// keep the arms of an earlier run of the same plan that have a ledger
    #[argh(switch)]
    pub resume: bool,
}

fn repeats(text: &str) -> Result<usize, String> {
    match units::count(text) {
        Ok(times) if times.get() <= REPEAT_MAX => Ok(times.get()),
        _ => Err(format!("expected 1 to {REPEAT_MAX}")),
    }
}

impl Settings {
    fn form(&self) -> Form {
        if self.quick { Form::Quick } else { Form::Full }
    }

    /// Whether arms of an earlier run stay.
    fn keeps(&self) -> bool {
        self.resume || !self.arm.is_empty()
    }

    /// The results' folder `out`, emptied of what shall not stay.
    fn claim(&self, out: &Path) -> Result<Claim, Failure> {
        if self.keeps() && out.join(plan::FILE).exists() {
            Claim::without_report(out)
        } else {
            Claim::emptied(out)
        }
    }

    /// `--arm` names arms of the one experiment.
    fn check_arms(&self, experiments: &[&Experiment]) -> Result<(), Failure> {
        let known: Vec<&str> =
            experiments.iter().flat_map(|e| e.arms).map(|arm| arm.name).collect();
        match self.arm.iter().find(|arm| !known.contains(&arm.as_str())) {
            _ if !self.arm.is_empty() && (experiments.len() > 1 || self.repeat > 1) => {
                Err(Failure::Usage("--arm: of one experiment, not of all, and run once".into()))
            }
            Some(arm) => {
                Err(Failure::flag("--arm", arm, &format!("allowed: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }
}

/// Runs what the flags ask for.
///
/// # Errors
/// `Usage` for an experiment that is not there; `Failed` when a process, the cluster or a file does not do as
/// it should, or the host disturbed the run; `Verdict` when a check falls short; `Interrupted`.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let interrupt = Interrupt::on_signals()?;
    if settings.experiment == faults::EXPERIMENT.name {
        return matrix(settings, &interrupt);
    }
    if !settings.faults.is_empty() || settings.case.is_some() {
        let why = "only faults takes names of faults, and --case".to_owned();
        return Err(Failure::Usage(format!("run {}: {why}", settings.experiment)));
    }
    let names: &[&str] = match settings.experiment.as_str() {
        "all" => &ALL,
        name => &[name],
    };
    let chosen = names.iter().map(|name| to_run(name)).collect::<Result<Vec<_>, _>>()?;
    settings.check_arms(&chosen)?;
    let form = settings.form();
    let plans: Vec<(&Experiment, Plan)> = chosen
        .into_iter()
        .map(|experiment| Ok((experiment, Plan::of(experiment, form)?)))
        .collect::<Result<_, Failure>>()?;
    if settings.dry_run {
        return plans.iter().try_for_each(|(experiment, plan)| show(experiment, plan));
    }
    let (out, data) = enter(settings)?;
    let lock = ClusterLock::take(&data)?;
    // The page of all is in a folder of its own.
    let _held = match settings.experiment.as_str() {
        "all" => Some(Claim::folder(&out)?),
        _ => None,
    };
    let disk = plans.iter().map(|(_, plan)| room::disk_bytes(plan)).fold(0.0, f64::max);
    let new = New { port: settings.port, disk_bytes: disk, flags: &[] };
    let cluster = Cluster::have(lock, &data, &new, &interrupt)?;
    // The brokers have theirs by now.
    let room = plans.iter().try_for_each(|(_, plan)| room::enough_memory(plan));
    let ran = room.and_then(|()| all(settings, plans, &out, &cluster, &interrupt));
    ended(ran, cluster)
}

/// What came of a run whose cluster is given back: a cluster that stays up is a failure, too.
fn ended(ran: Result<(), Failure>, cluster: Cluster) -> Result<(), Failure> {
    match (ran, cluster.end()) {
        (Ok(()) | Err(Failure::Verdict(_)), Err(why)) => Err(why),
        (ran, _) => ran,
    }
}

/// One experiment, or all of them and their page.
fn all(
    settings: &Settings,
    plans: Vec<(&Experiment, Plan)>,
    out: &Path,
    cluster: &Cluster,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    if settings.experiment != "all" {
        return plans.into_iter().try_for_each(|(experiment, plan)| {
            times(settings, experiment, plan, out, cluster, interrupt)
        });
    }
    // All run even when one falls short: the page shows which. A failure outweighs a verdict.
    let (begun, mut worst) = (Instant::now(), Ok(()));
    for (experiment, plan) in plans {
        let folder = out.join(experiment.name);
        let ended = times(settings, experiment, plan, &folder, cluster, interrupt);
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
    match index::run(out) {
        Err(why) => worse(worst, why),
        Ok(()) => worst,
    }
}

/// The fault matrix, in namespaces of its own.
fn matrix(settings: &Settings, interrupt: &Interrupt) -> Result<(), Failure> {
    let (experiment, form) = (&faults::EXPERIMENT, settings.form());
    rows::check_names(&settings.faults)?;
    if settings.resume {
        return Err(Failure::Usage(
            "run faults: --resume is for arms; name the faults to run".into(),
        ));
    }
    if settings.repeat > 1 || !settings.arm.is_empty() {
        return Err(Failure::Usage("run faults: --repeat and --arm are for experiments".into()));
    }
    let rows = faults::rows(form, &settings.faults, settings.case);
    if settings.dry_run {
        return rows.iter().try_for_each(|(fault, case)| {
            cli::say(format_args!("# {}: {}", fault.name, fault.what))?;
            show_commands(&faults::launch(fault, *case))
        });
    }
    let plan = Plan::of(experiment, form)?;
    let (out, data) = enter(settings)?;
    let lock = ClusterLock::take(&data)?;
    let _claim = Claim::emptied(&out)?;
    let mut hosts = Hosts::up(interrupt)?;
    let flags = ["--host", hosts::BROKERS, "--mode", "jvm"];
    let new = New { port: settings.port, disk_bytes: room::FAULTS_DISK_BYTES, flags: &flags };
    let cluster = Cluster::have(lock, &data, &new, interrupt)?;
    plan.write(&plan::host(cluster.version(), Path::new(".")), &out)?;
    let bench = Bench { experiment: experiment.name, cluster: &cluster, out: &out, interrupt };
    let ran = rows::run(&bench, &mut hosts, &rows);
    let reported = ran.and_then(|()| report::experiment(experiment, &out));
    ended(reported, cluster)
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
        let names: Vec<&str> = experiments::ALL.iter().map(|e| e.name).collect();
        Failure::Usage(format!("run {name}: allowed: all, {}", names.join(", ")))
    })?;
    Ok(experiment)
}

/// Makes the source's folder the current one, so that paths in commands.txt read anywhere; gives the
/// results' folder and the cluster's as they are written from there.
fn enter(settings: &Settings) -> Result<(PathBuf, PathBuf), Failure> {
    let unusable = |path: &Path, e: std::io::Error| {
        Failure::Failed(format!("{}: cannot be used: {e}", path.display()))
    };
    let source = settings.source.canonicalize().map_err(|e| unusable(&settings.source, e))?;
    let given = |path: &Option<PathBuf>, default: PathBuf| {
        let path = path.clone().map_or(Ok(source.join(default)), std::path::absolute);
        path.and_then(|path| real(&path)).map_err(|e| {
            Failure::Failed(format!("a folder of --out or --data cannot be used: {e}"))
        })
    };
    let results = match settings.experiment.as_str() {
        "all" => PathBuf::from("results"),
        name => Path::new("results").join(name),
    };
    let cluster = if settings.experiment == "faults" { ".cluster-faults" } else { ".cluster" };
    let (out, data) = (given(&settings.out, results)?, given(&settings.data, cluster.into())?);
    std::env::set_current_dir(&source).map_err(|e| unusable(&source, e))?;
    let short = |path: &Path| path.strip_prefix(&source).unwrap_or(path).to_owned();
    Ok((short(&out), short(&data)))
}

/// The one path of a folder that may not be there yet: two runs must not take two of them for two folders.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(real(parent)?.join(name)),
                _ => Err(e),
            }
        }
        Err(e) => Err(e),
    }
}

/// One experiment, as many times as the flags say, on a cluster that is up.
fn times(
    settings: &Settings,
    experiment: &Experiment,
    plan: Plan,
    out: &Path,
    cluster: &Cluster,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let once = |out: &Path| one(settings, experiment, plan.clone(), out, cluster, interrupt);
    if settings.repeat == 1 {
        return once(out);
    }
    let folders: Vec<PathBuf> =
        (1..=settings.repeat).map(|n| out.join(format!("run-{n}"))).collect();
    let begun = folders.iter().any(|folder| folder.join(plan::FILE).exists());
    let _claim = if settings.keeps() && begun { Claim::folder(out)? } else { Claim::emptied(out)? };
    for folder in &folders {
        match once(folder) {
            // What fell short, or was void, is in its verdict.
            Ok(()) | Err(Failure::Verdict(_)) => {}
            Err(Failure::Failed(_)) if folder.join(verdict::FILE).exists() => {}
            Err(why) => return Err(why),
        }
    }
    spread::report(&folders, out)
}

/// One experiment, on a cluster that is up.
fn one(
    settings: &Settings,
    experiment: &Experiment,
    plan: Plan,
    out: &Path,
    cluster: &Cluster,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let _claim = settings.claim(out)?;
    let plan = if settings.keeps() { resumed(plan, out)? } else { plan };
    plan.write(&plan::host(cluster.version(), Path::new(".")), out)?;
    let bench = Bench { experiment: experiment.name, cluster, out, interrupt };
    let mut warm = !experiment.warm_up || !cluster.is_fresh();
    for launch in (experiment.launches)(plan.setup.form) {
        let closed = arm::is_closed(&out.join(&launch.arm));
        let is_chosen = settings.arm.is_empty() || settings.arm.contains(&launch.arm);
        if !is_chosen || (settings.resume && closed) {
            log::info!(experiment = experiment.name, arm = launch.arm.as_str(); "kept");
            continue;
        }
        if !warm {
            bench.run(&warm_up())?;
            warm = true;
        }
        undisturbed(&bench, experiment, &plan, &launch)?;
    }
    let never: Vec<&str> = (experiment.arms.iter().map(|arm| arm.name))
        .filter(|arm| !arm::is_closed(&out.join(arm)))
        .collect();
    if !never.is_empty() {
        log::warn!(arms = never.join(", "); "no report: these arms have not been run");
        return Ok(());
    }
    report::experiment(experiment, out)
}

/// Runs an arm, again where the host disturbed it. What disturbs the last time is for the report to weigh.
fn undisturbed(
    bench: &Bench<'_>,
    experiment: &Experiment,
    plan: &Plan,
    launch: &Launch,
) -> Result<(), Failure> {
    let dir = bench.out.join(&launch.arm);
    let mut before: Vec<String> = Vec::new();
    for _ in 0..=AGAIN_MAX {
        bench.run(launch)?;
        if !before.is_empty() {
            write_json(&dir.join(REPEATED_FILE), &before)?;
        }
        let Some(spec) = experiment.arms.iter().find(|arm| arm.name == launch.arm) else { break };
        let mut found = report::disturbances(&plan.setup, &Arm::read(&dir, *spec)?);
        found.retain(|found| found.share > AGAIN_ABOVE);
        if found.is_empty() {
            break;
        }
        for found in found {
            log::warn!(why = found.why.as_str(); "the host disturbed the arm");
            before.push(found.why);
        }
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
        "{} was written for another setup than today's: run it anew, without --resume and --arm",
        path.display()
    )))
}

/// `--dry-run`.
fn show(experiment: &Experiment, plan: &Plan) -> Result<(), Failure> {
    for launch in (experiment.launches)(plan.setup.form) {
        cli::say(format_args!("# {} {}", experiment.name, launch.arm))?;
        show_commands(&launch)?;
    }
    cli::say(format_args!("# {}, predicted", experiment.name))?;
    for p in &plan.predictions {
        cli::say(format_args!("{} = {} {}  ({})", p.name, p.value, p.unit, p.because))?;
    }
    Ok(())
}

fn show_commands(launch: &Launch) -> Result<(), Failure> {
    commands::all(launch).iter().try_for_each(|command| cli::say(commands::line(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_run_is_said() {
        let why = to_run("exp0").err().expect("none").to_string();
        assert!(why.contains("all, ceiling, exp1"), "{why}");
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
