//! `lab run`: takes an experiment from its declaration to its verdict.
//!
//! - `flags`     the user's flags
//! - `sitting`   one experiment or all of them, arm after arm
//! - `claims`    the locks of a run: the cluster's, and the results' folder's
//! - `cluster`   the run's cluster: an existing one, or one of its own
//! - `children`  the processes that a run starts, watches and stops
//! - `memory`    the limit that the kernel enforces on one of them
//! - `commands`  their command lines
//! - `arm`       one arm, from its topic to its ledger, with its `topic` and its watch (`watching`)
//! - `room`      the memory and the disk that a run needs
//! - `rows`      the rows of the fault matrix, each an arm in which something breaks
//! - `hosts`, `disks`, `clock`  things that can be broken without harm to the machine
//!
//! Invariant: however a run ends, even by a second Ctrl-C, it stops what it started, deletes only
//! its own topics, and takes the cluster down only if it brought it up. It knows no experiment by
//! name, and decides nothing about measurements or expectations.

pub(super) mod arm;
pub(super) mod children;
pub(super) mod claims;
mod clock;
pub(super) mod cluster;
pub(super) mod commands;
mod disks;
pub(super) mod flags;
mod hosts;
mod memory;
mod room;
mod rows;
mod sitting;
pub(super) mod topic;
mod watching;

use std::path::Path;

use arm::Bench;
use claims::{Claim, ClusterLock};
use cluster::{Cluster, New};
pub use flags::Settings;
use hosts::Hosts;
use sitting::Sitting;

use super::experiments::{self, Experiment, Launch, ceiling, faults, longlife};
use super::interrupt::Interrupt;
use super::plan::{self, Plan};
use super::report;
use crate::cli;
use crate::failure::Failure;

/// What `lab run all` leaves out: a benchmark, the run that looks for leaks, and the matrix, which has a page of its own.
const APART: [&str; 3] =
    [ceiling::EXPERIMENT.name, longlife::EXPERIMENT.name, faults::EXPERIMENT.name];

/// The experiments of `lab run all`, in the order of the page.
fn of_all() -> Vec<&'static str> {
    let names = experiments::ALL.iter().map(|experiment| experiment.name);
    names.filter(|name| !APART.contains(name)).collect()
}

/// Runs what the flags ask for.
///
/// # Errors
/// `Usage` for an unknown experiment; `Failed` when a process, the cluster or a file fails, or the
/// host disturbed the run; `Verdict` when a check falls short; `Interrupted`.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let interrupt = Interrupt::on_signals()?;
    if settings.experiment == faults::EXPERIMENT.name {
        return matrix(settings, &interrupt);
    }
    if !settings.faults.is_empty() || settings.case.is_some() {
        let why = "only faults takes names of faults, and --case".to_owned();
        return Err(Failure::Usage(format!("run {}: {why}", settings.experiment)));
    }
    let one = [settings.experiment.as_str()];
    let names = if settings.is_of_all() { of_all() } else { one.to_vec() };
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
    let (out, data) = settings.enter()?;
    let lock = ClusterLock::take(&data)?;
    // The page of all is in a folder of its own.
    let _held = settings.is_of_all().then(|| Claim::folder(&out)).transpose()?;
    let disk = plans.iter().map(|(_, plan)| room::disk_bytes(plan)).fold(0.0, f64::max);
    let new = New { port: settings.port, disk_bytes: disk, flags: &[] };
    let cluster = Cluster::have(lock, &data, &new, &interrupt)?;
    // The brokers have their memory by now.
    let room = plans.iter().try_for_each(|(_, plan)| room::enough_memory(plan));
    let sitting = Sitting { settings, cluster: &cluster, interrupt: &interrupt };
    let ran = room.and_then(|()| sitting.run(plans, &out));
    ended(ran, cluster)
}

/// The result of a run after its cluster is ended: a cluster that stays up is a failure, too.
///
/// # Errors
/// The run's failure; else the cluster's.
pub(super) fn ended(ran: Result<(), Failure>, cluster: Cluster) -> Result<(), Failure> {
    match (ran, cluster.end()) {
        (Ok(()) | Err(Failure::Verdict(_)), Err(why)) => Err(why),
        (ran, _) => ran,
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
            cli::say(format_args!("# {}: {}", fault.name, fault.strike.what()))?;
            show_commands(&faults::launch(fault, *case))
        });
    }
    let plan = Plan::of(experiment, form)?;
    let (out, data) = settings.enter()?;
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

fn to_run(name: &str) -> Result<&'static Experiment, Failure> {
    experiments::named(name).map_err(|_| {
        let names: Vec<&str> = experiments::ALL.iter().map(|e| e.name).collect();
        Failure::Usage(format!("run {name}: allowed: all, {}", names.join(", ")))
    })
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
}
