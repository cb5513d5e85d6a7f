//! The two worlds: the sink has one limit for all, or one for each connection; and what two rules make of either.

use super::{MOST, end_s, last_step};
use crate::lab::charts::{Chart, Line};
use crate::lab::experiments::asking::Asking;
use crate::lab::experiments::drawing::Drawing;
use crate::lab::experiments::{ArmSetup, Margin, Phase, Prediction, Setup, Table};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::scaled::{Cap, Course, World};
use crate::lab::stats::{self, Series};
use crate::lab::text::{figure, or_not_measured};

/// The targets: of what the best number of members delivers, and the steps until a limit for all is named.
const IDEAL: f64 = 0.9;
const STEPS_MAX: f64 = 2.0;
/// From the command to the fetch of a member that is started: its start, and heartbeats of the two rounds, as a mean.
const PROCESS_S: f64 = 0.5;
const WANTED: &str = "lab_autoscale_members_wanted";

fn world(setup: &Setup, arm: &ArmSetup) -> Option<World> {
    let scaled = arm.scaled.as_ref()?;
    Some(World {
        offered: arm.offered(),
        partitions: arm.partitions as usize,
        cap: if arm.per_connection { Cap::Each(setup.ceiling) } else { Cap::All(setup.ceiling) },
        plan: scaled.plan.clone(),
        bounds: scaled.bounds,
        // The last of the members, then the new one once more.
        join_s: PROCESS_S + 1.5 * arm.heartbeat_s(),
        look_s: scaled.interval_s,
        commit_s: arm.commit_interval_s,
        until_s: end_s(arm),
    })
}

/// What so many members deliver at best, under the load of the arm's last step.
fn ideal(setup: &Setup, arm: &ArmSetup) -> f64 {
    let load = last_step(arm).rate;
    let most = arm.scaled.as_ref().map_or(MOST, |scaled| scaled.bounds.max.get());
    load.min(if arm.per_connection { most as f64 * setup.ceiling } else { setup.ceiling })
}

/// The end of an arm, in which its number of members is what it will be.
fn last(arm: &ArmSetup) -> Phase {
    let to = end_s(arm) - 0.5;
    Phase { rate: 0.0, from: to - 8.0, to }
}

/// What the rule will do, by itself in simulated time.
pub fn predict(setup: &Setup, arm: &ArmSetup) -> Vec<Prediction> {
    let (name, p) = (&arm.name, Prediction::new);
    let mut said = Vec::new();
    let Some(course) = course(setup, arm) else { return said };
    let model = || "the rule itself, in simulated time before a fluid".to_owned();
    let last = last(arm);
    said.push(p(&format!("{name}_members"), course.wanted_at(last.to) as f64, "", model()));
    said.push(p(
        &format!("{name}_delivered"),
        course.delivered_in(last.from, last.to),
        "events/s",
        model(),
    ));
    if let Some(limit) = course.limit() {
        said.push(p(&format!("{name}_said_at"), limit.at_s, "s", model()));
        let steps = course.steps_until(limit.at_s) as f64;
        said.push(p(&format!("{name}_steps"), steps, "", model()));
    }
    said
}

/// What a rule is asked: was it right?
pub fn checks(asking: &mut Asking<'_>, run: &Run, arm: &Arm, of_arm: &ArmSetup) {
    match arm.spec.name {
        "each-marginal" | "all-marginal" => of_the_rule(asking, run, arm, of_arm),
        _ => of_the_lag(asking, run, arm, of_arm),
    }
}

fn of_the_rule(asking: &mut Asking<'_>, run: &Run, arm: &Arm, of_arm: &ArmSetup) {
    let (setup, name, last) = (&run.plan.setup, arm.spec.name, last(of_arm));
    let said = |what: &str| run.plan.predicted(&format!("{name}_{what}"));
    let floor =
        (IDEAL * ideal(setup, of_arm), Margin::AtLeast, "the target: nine tenths of the ideal");
    asking.ask(
        "delivered",
        "Is delivered what the best number of members can?",
        floor,
        arm.delivered_in(last),
        "events/s",
    );
    let exactly = (said("members"), Margin::Absolute(0.0), "the prediction");
    asking.ask("members", "Members in the end", exactly, members_in(arm, last), "");
    let limits = limits(arm);
    if of_arm.per_connection {
        let never = (0.0, Margin::AtMost, "each connection has a limit of its own");
        asking.ask(
            "limit",
            "How often is the sink called the limit?",
            never,
            limits.map(|all| all.len() as f64),
            "",
        );
        return;
    }
    let first = limits.and_then(|all| all.first().copied());
    let most = (STEPS_MAX, Margin::AtMost, "the target: one up, one back");
    let steps =
        first.map(|at| changes(arm).iter().filter(|change| **change <= at + 0.1).count() as f64);
    asking.ask("steps", "Steps until it says that the sink is the limit", most, steps, "");
    let why = "two looks and a window that begins late";
    let wanted = (said("said_at"), Margin::Absolute(5.0), why);
    asking.ask("said_at", "When does it say so?", wanted, first, "s");
}

fn of_the_lag(asking: &mut Asking<'_>, run: &Run, arm: &Arm, of_arm: &ArmSetup) {
    let setup = &run.plan.setup;
    let said = |what: &str| run.plan.predicted(&format!("{}_{what}", arm.spec.name));
    let exactly = (said("members"), Margin::Absolute(0.0), "the prediction");
    let most = stats::max(&wanted(arm));
    asking.ask("members", "Members that the lag asks for", exactly, most, "");
    let last = last(of_arm);
    let why = "the sink's limit, whatever the members; a rebalance of all of them may be under way";
    let about = (ideal(setup, of_arm), Margin::Share(0.1), why);
    asking.ask("delivered", "What do they deliver?", about, arm.delivered_in(last), "events/s");
}

/// Members wanted over time.
fn wanted(arm: &Arm) -> Series {
    arm.metric("autoscaler", WANTED)
}

/// Of a phase, the mean.
fn members_in(arm: &Arm, phase: Phase) -> Option<f64> {
    stats::mean(&stats::between(&wanted(arm), phase.from, phase.to))
}

/// When the autoscaler changed that, by its log, s; `None` without a log.
fn changes(arm: &Arm) -> Vec<f64> {
    said(arm, "msg=\"members wanted\"").unwrap_or_default()
}

/// When it said that the sink is the limit.
fn limits(arm: &Arm) -> Option<Vec<f64>> {
    said(arm, "msg=\"the sink is the limit\"")
}

fn said(arm: &Arm, what: &str) -> Option<Vec<f64>> {
    let log = arm.log_of("autoscaler");
    let own = log.iter().filter(|(at, line)| *at > 0.0 && line.contains(what));
    (!log.is_empty()).then(|| own.map(|(at, _)| *at).collect())
}

/// Members and what they deliver, by arm.
pub fn table<'a>(run: &'a Run, arms: impl Iterator<Item = &'a Arm>) -> Table {
    let setup = &run.plan.setup;
    let rows = arms.filter_map(|arm| {
        let of_arm = setup.arm(arm.spec.name)?;
        let last = last(of_arm);
        let limits = limits(arm).unwrap_or_default();
        let delivered = arm.delivered_in(last);
        Some(vec![
            arm.spec.title.to_owned(),
            or_not_measured(stats::max(&wanted(arm))),
            or_not_measured(members_in(arm, last)),
            or_not_measured(delivered),
            or_not_measured(delivered.map(|rate| 100.0 * rate / ideal(setup, of_arm))),
            limits.first().map_or("never".into(), |at| format!("after {} s", figure(*at))),
        ])
    });
    let head = [
        "arm",
        "members at most",
        "members in the end",
        "delivered, events/s",
        "of the ideal, %",
        "\"the sink is the limit\"",
    ];
    Table::new("Members and what they deliver", &head, rows)
}

/// Members, deliveries and lag of one world.
pub fn charts(run: &Run, name: &str, world: &str) -> Vec<Chart> {
    let setup = &run.plan.setup;
    let arms: Vec<&Arm> = [format!("{name}-marginal"), format!("{name}-lag")]
        .iter()
        .filter_map(|arm| run.arm(arm))
        .collect();
    let drawing = Drawing::new(run);
    let lines = |of: &dyn Fn(&Arm) -> Series| -> Vec<Line> {
        let own = |arm: &&Arm| {
            let end_s = setup.arm(arm.spec.name).map_or(0.0, end_s);
            drawing.arm(arm, "", &stats::between(&of(arm), 0.0, end_s))
        };
        arms.iter().map(own).collect()
    };
    let course = setup.arm(&format!("{name}-marginal")).and_then(|arm| course(setup, arm));
    let model = |of: &dyn Fn(&Course, f64) -> f64| {
        course.as_ref().map(|course| {
            drawing.model("marginal, predicted", |t| {
                course.looks.last().filter(|last| t <= last.at_s)?;
                Some(of(course, t))
            })
        })
    };
    let most = |arm: &str| drawing.figure(&format!("{name}-{arm}"), |arm| stats::max(&wanted(arm)));
    let in_the_end = drawing.figure(&format!("{name}-marginal"), |arm| {
        let last = setup.arm(arm.spec.name).map(last)?;
        members_in(arm, last)
    });
    let named: [&'static str; 3] = if name == "each" {
        ["each-members", "each-delivered", "each-lag"]
    } else {
        ["all-members", "all-delivered", "all-lag"]
    };
    let with = |mut lines: Vec<Line>, model: Option<Line>| {
        lines.extend(model);
        lines
    };
    vec![
        drawing.chart(
            named[0],
            format!(
                "With {world}, the marginal rule ends with {in_the_end} members ({} at most); lag alone asks for {}",
                most("marginal"),
                most("lag")
            ),
            "Members that the rule wants.",
            "members",
            with(lines(&wanted), model(&|course, t| course.wanted_at(t) as f64)),
        ),
        drawing.chart(
            named[1],
            format!("With {world}: what the sink takes"),
            "Events that the sink took, each once, second by second.",
            "delivered, events/s",
            with(lines(&|arm| stats::rates(&arm.delivered())), model(&|course, t| course.delivered_in(t - 1.0, t))),
        ),
        drawing.chart(
            named[2],
            format!("With {world}: what waits"),
            "High watermark less committed offset, all partitions.",
            "consumer lag, events",
            with(lines(&Arm::lag), model(&|course, t| {
                course.looks.iter().take_while(|seen| seen.at_s <= t).last().map_or(0.0, |seen| seen.lag)
            })),
        ),
    ]
}

fn course(setup: &Setup, arm: &ArmSetup) -> Option<Course> {
    Some(world(setup, arm)?.run())
}
