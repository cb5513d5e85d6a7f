//! A sitting: one experiment or all of them, arm after arm, on a cluster that is up.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::arm::{self, Bench};
use super::claims::Claim;
use super::cluster::Cluster;
use super::commands;
use super::flags::Settings;
use crate::failure::Failure;
use crate::lab::experiments::{Experiment, Form, Launch, WARM_UP};
use crate::lab::interrupt::Interrupt;
use crate::lab::plan::{self, Plan};
use crate::lab::report::{self, spread};
use crate::lab::run_folder::{self, Arm, REPEATED_FILE};
use crate::lab::{index, read_json, verdict, write_json};

/// How often an arm is run again if the host took so much of it: more than any margin bears.
const AGAIN_MAX: usize = 2;
const AGAIN_ABOVE: f64 = 0.25;

/// The common input of the experiments of a sitting.
pub struct Sitting<'a> {
    /// The user's flags.
    pub settings: &'a Settings,
    /// The brokers.
    pub cluster: &'a Cluster,
    /// The signal that ends it early.
    pub interrupt: &'a Interrupt,
}

impl Sitting<'_> {
    /// One experiment, or all of them and their page.
    ///
    /// # Errors
    /// The first of the worst kind; [`Failure::Interrupted`] at once.
    pub fn run(&self, plans: Vec<(&Experiment, Plan)>, out: &Path) -> Result<(), Failure> {
        if !self.settings.is_of_all() {
            let each = |(experiment, plan)| self.times(experiment, plan, out);
            return plans.into_iter().try_for_each(each);
        }
        // All of them run even when one falls short: the page shows which one. A failure outweighs
        // a verdict.
        let (begun, mut worst) = (Instant::now(), Ok(()));
        for (experiment, plan) in plans {
            let ended = self.times(experiment, plan, &out.join(experiment.name));
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

    /// One experiment, as many times as the flags say.
    fn times(&self, experiment: &Experiment, plan: Plan, out: &Path) -> Result<(), Failure> {
        if self.settings.repeat == 1 {
            return self.once(experiment, plan, out);
        }
        let folders: Vec<PathBuf> =
            (1..=self.settings.repeat).map(|n| out.join(format!("run-{n}"))).collect();
        let begun = folders.iter().any(|folder| folder.join(plan::FILE).exists());
        if self.settings.keeps() && out.join(plan::FILE).exists() && !begun {
            return Err(Failure::Failed(format!(
                "{} holds a run without --repeat, of which --resume would keep nothing: leave --repeat away, or \
                 choose --out",
                out.display()
            )));
        }
        let _claim =
            if self.settings.keeps() && begun { Claim::folder(out)? } else { Claim::emptied(out)? };
        for folder in &folders {
            match self.once(experiment, plan.clone(), folder) {
                // Its verdict says what fell short, or was void.
                Ok(()) | Err(Failure::Verdict(_)) => {}
                Err(Failure::Failed(_)) if folder.join(verdict::FILE).exists() => {}
                Err(why) => return Err(why),
            }
        }
        spread::report(&folders, out)
    }

    fn once(&self, experiment: &Experiment, plan: Plan, out: &Path) -> Result<(), Failure> {
        let Self { settings, cluster, interrupt } = *self;
        let keeps = settings.keeps() && out.join(plan::FILE).exists();
        let _claim = if keeps { Claim::without_report(out)? } else { Claim::emptied(out)? };
        let launches = (experiment.launches)(plan.setup.form);
        let commands = launches.iter().flat_map(commands::all).map(|words| commands::line(&words));
        let plan = Plan { commands: commands.collect(), ..plan };
        let plan = if keeps { resumed(plan, out)? } else { plan };
        let host = plan::host(cluster.version(), Path::new("."));
        plan.write(&host, out)?;
        let bench = Bench { experiment: experiment.name, cluster, out, interrupt };
        for launch in launches {
            let closed = arm::is_closed(&out.join(&launch.arm));
            let is_chosen = settings.arm.is_empty() || settings.arm.contains(&launch.arm);
            if !is_chosen || (settings.resume && closed) {
                let what = if closed { "kept" } else { "left out" };
                log::info!(experiment = experiment.name, arm = launch.arm.as_str(); "{what}");
                continue;
            }
            if experiment.warm_up && cluster.is_cold() {
                bench.run(&warm_up())?;
            }
            undisturbed(&bench, experiment, &plan, &launch)?;
            write_json(&out.join(&launch.arm).join(plan::HOST_FILE), &host)?;
            if plan.setup.form == Form::Full {
                run_folder::pack(&out.join(&launch.arm))?;
            }
        }
        let never: Vec<&str> = (experiment.arms.iter().map(|arm| arm.name))
            .filter(|arm| !arm::is_closed(&out.join(arm)))
            .collect();
        if !never.is_empty() {
            log::warn!(
                arms = never.join(", ");
                "no report: its checks compare all arms, and these have not been run; --resume runs them"
            );
            return Ok(());
        }
        report::experiment(experiment, out)
    }
}

/// The first of the worst kind.
fn worse(so_far: Result<(), Failure>, next: Failure) -> Result<(), Failure> {
    match (so_far, next) {
        (Err(Failure::Verdict(_)) | Ok(()), next) => Err(next),
        (worst, _) => worst,
    }
}

/// Runs an arm, and again if the host disturbed it. The report weighs the disturbance of the last
/// run.
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

/// Brokers that just started spend their first minute or more compiling themselves on the cores
/// that are measured, so one arm is run only to warm them up; no report reads it.
fn warm_up() -> Launch {
    let load = "--schedule 4000:90s --msg-size 512 --seed 1";
    Launch::new(WARM_UP, load, "--rate-limit 2000", "--queue pull --sink-mode single")
}

/// The plan of the run that is resumed: it was made before the first of its arms.
fn resumed(plan: Plan, out: &Path) -> Result<Plan, Failure> {
    let path = out.join(plan::FILE);
    let earlier: Plan = read_json(&path)?;
    let is_of_now = (&earlier.experiment, &earlier.setup) == (&plan.experiment, &plan.setup);
    // An old plan does not have them.
    if is_of_now && (earlier.commands.is_empty() || earlier.commands == plan.commands) {
        return Ok(earlier);
    }
    Err(Failure::Failed(format!(
        "{} was written for other flags than today's: run it anew, without --resume and --arm",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

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
