//! A sitting: one experiment or all of them, arm after arm, on a cluster that is up.

use std::collections::BTreeMap;
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
use crate::lab::run_folder::{self, REPEATED_FILE};
use crate::lab::{index, read_json, read_json_if_there, verdict, write_json};

/// How often arms are run again if the host took more of them than the margins bear of the checks that fell short.
const AGAIN_MAX: usize = 2;

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
        let is_chosen = |arm: &String| settings.arm.is_empty() || settings.arm.contains(arm);
        let run = |launch: &Launch| {
            bench.run(launch)?;
            write_json(&out.join(&launch.arm).join(plan::HOST_FILE), &host)?;
            if plan.setup.form == Form::Full {
                run_folder::pack(&out.join(&launch.arm))?;
            }
            Ok::<(), Failure>(())
        };
        for launch in &launches {
            let closed = arm::is_closed(&out.join(&launch.arm));
            if !is_chosen(&launch.arm) || (settings.resume && closed) {
                let what = if closed { "kept" } else { "left out" };
                log::info!(experiment = experiment.name, arm = launch.arm.as_str(); "{what}");
                continue;
            }
            if experiment.warm_up && cluster.is_cold() {
                bench.run(&warm_up())?;
            }
            run(launch)?;
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
        let chosen: Vec<&Launch> =
            launches.iter().filter(|launch| is_chosen(&launch.arm)).collect();
        reported(experiment, out, &chosen, run)
    }
}

/// The report; while the host makes the run void, those of `launches` are run again whose checks fell short by it.
fn reported(
    experiment: &Experiment,
    out: &Path,
    launches: &[&Launch],
    run: impl Fn(&Launch) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for _ in 0..AGAIN_MAX {
        let ended = report::experiment(experiment, out);
        let Err(Failure::Failed(_)) = ended else { return ended };
        let mut excused: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for found in report::excused(experiment, out)? {
            excused.entry(found.arm).or_default().push(found.why);
        }
        let again: Vec<_> = launches
            .iter()
            .filter_map(|launch| Some((launch, excused.remove(&launch.arm)?)))
            .collect();
        if again.is_empty() {
            return ended;
        }
        for (launch, why) in again {
            log::warn!(arm = launch.arm.as_str(), why = why.join(", "); "void by the host, run again");
            let path = out.join(&launch.arm).join(REPEATED_FILE);
            let mut all: Vec<String> = read_json_if_there(&path)?.unwrap_or_default();
            all.extend(why);
            run(launch)?;
            write_json(&path, &all)?;
        }
    }
    report::experiment(experiment, out)
}

/// The first of the worst kind.
fn worse(so_far: Result<(), Failure>, next: Failure) -> Result<(), Failure> {
    match (so_far, next) {
        (Err(Failure::Verdict(_)) | Ok(()), next) => Err(next),
        (worst, _) => worst,
    }
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
