//! Experiment 11: more members before the same sink. A rule that asks whether a member helped, beside one that follows the lag,
//! where the sink has one limit for all and where it has one for each connection (`worlds`); and what a rebalance costs
//! (`costs`, by `pauses`).

mod costs;
mod pauses;
mod worlds;

use std::time::Duration;

use super::asking::Asking;
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Phase, Prediction, Setup};
use crate::lab::charts::{Chart, Ink};
use crate::lab::run_folder::{Arm, Run};

/// The sink's limit, events/s: of all together, or of each connection. A member has one.
const LIMIT: f64 = 1000.0;
/// Members at most.
const MOST: usize = 6;
/// Members of the arms about rebalances, the lower number; and their steps each way.
const FEW: usize = 2;
const ROUNDS: usize = 2;
/// The arms about rebalances.
const COSTS: [&str; 4] = ["eager", "cooperative", "static", "consumer"];
/// How often lag is looked at there: a pause is a few seconds.
const LOOK: Duration = Duration::from_millis(100);

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp11",
    title: "autoscaling on lag",
    question: "Lag grows. Does one more member deliver more, or is the sink the limit? And what does the rebalance cost that \
               brings it in?",
    held: "topic, seed, payload, a sink of 1,000 tokens/s, members with one connection each and batches of 20, machine",
    varied: "the sink's limit is one for each connection (`each`) or one for all (`all`); the rule adds a member and keeps it only \
             if it helped (`marginal`), or follows the lag (`lag`). The other arms go from two members to three and back, twice, \
             by different protocols of the group",
    arms: &[
        ArmSpec::new("each-marginal", "each, marginal", Ink::Blue),
        ArmSpec::new("each-lag", "each, by lag", Ink::Sky),
        ArmSpec::new("all-marginal", "all, marginal", Ink::Green),
        ArmSpec::new("all-lag", "all, by lag", Ink::Vermilion),
        ArmSpec::new("eager", "eager", Ink::Vermilion),
        ArmSpec::new("cooperative", "cooperative", Ink::Blue),
        ArmSpec::new("static", "static", Ink::Purple),
        ArmSpec::new("consumer", "KIP-848", Ink::Green),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![worlds::table(run, of_worlds(run)), costs::table(run, of_costs(run))],
    limits: "One machine and one run an arm; a member starts in half a second, and small groups: members that \
             joined at different times hear of a rebalance at different times, which is not seen here. The membership is librdkafka's. KEDA itself was not run: \
             `lag` is its formula.",
};

fn launches(form: Form) -> Vec<Launch> {
    let sink = |each: bool| {
        let per = if each { " --limit-per connection" } else { "" };
        format!("--rate-limit {LIMIT}{per}")
    };
    let common =
        "--queue bounded --queue-cap 100 --batch-size 20 --sink-workers 1 --drain-timeout 5s";
    let launch = |name: &str, schedule: &str, each: bool, processor: &str, scaler: String| {
        let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
        Launch {
            autoscaler: Some(scaler),
            ..Launch::new(name, &load, &sink(each), &format!("{common} {processor}"))
        }
    };
    // The least session that the brokers allow, so a heartbeat of 2 s.
    let quick_group = "--session-timeout 6s --commit-interval 500ms";
    let (settle, window) = form.of(("5s", "4s"), ("10s", "10s"));
    let marginal = format!(
        "--max {MOST} --interval 500ms --lag-max 2s --settle {settle} --window {window} --idle 5m"
    );
    let by_lag = format!("--max {MOST} --interval 500ms --rule lag --lag-threshold {LIMIT}");
    let each = form.of("400:5s,6600:65s", "400:20s,6600:5m");
    let all = form.of("400:5s,3000:35s", "400:20s,3000:5m");
    let (each_lag, all_lag) = (
        form.of("400:5s,6600:20s", "400:20s,6600:2m"),
        form.of("400:5s,3000:20s", "400:20s,3000:2m"),
    );
    let mut arms = vec![
        launch("each-marginal", each, true, quick_group, marginal.clone()),
        launch("each-lag", each_lag, true, quick_group, by_lag.clone()),
        launch("all-marginal", all, false, quick_group, marginal),
        launch("all-lag", all_lag, false, quick_group, by_lag),
    ];
    // A heartbeat of 3 s, Kafka's default.
    let group = "--session-timeout 10s --commit-interval 100ms";
    for (name, flags) in [
        ("eager", format!("{group} --assignor eager")),
        ("cooperative", group.to_owned()),
        ("static", format!("{group} --instance-id member-{{n}}")),
        ("consumer", "--group-protocol consumer --commit-interval 100ms".to_owned()),
    ] {
        // A static member that ends is missed after its session.
        let (up, down) = if name == "static" { (12, 27) } else { (12, 14) };
        let rounds = rounds(form);
        let steps = vec![format!("{}:{up}s,{FEW}:{down}s", FEW + 1); rounds].join(",");
        let scaler = format!(
            "--min {FEW} --max {} --interval 500ms --rule steps --steps {FEW}:8s,{steps}",
            FEW + 1
        );
        let load = format!("1500:{}s", 8 + rounds * (up + down) + 2);
        arms.push(Launch { look: LOOK, ..launch(name, &load, true, &flags, scaler) });
    }
    arms
}

/// Steps each way of an arm about rebalances.
fn rounds(form: Form) -> usize {
    form.of(ROUNDS, 5 * ROUNDS)
}

fn is_about_costs(arm: &str) -> bool {
    COSTS.contains(&arm)
}

fn of_costs(run: &Run) -> impl Iterator<Item = &Arm> {
    run.arms.iter().filter(|arm| is_about_costs(arm.spec.name))
}

fn of_worlds(run: &Run) -> impl Iterator<Item = &Arm> {
    run.arms.iter().filter(|arm| !is_about_costs(arm.spec.name))
}

/// The last step of an arm's load.
fn last_step(arm: &ArmSetup) -> Phase {
    arm.load().phases().last().unwrap_or(Phase::NONE)
}

fn end_s(arm: &ArmSetup) -> f64 {
    arm.load().end_s()
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let of_arm = |arm: &ArmSetup| match is_about_costs(&arm.name) {
        true => costs::predict(setup, arm),
        false => worlds::predict(setup, arm),
    };
    setup.arms.iter().flat_map(of_arm).collect()
}

fn checks(run: &Run) -> Vec<Check> {
    let mut checks = Vec::new();
    for arm in &run.arms {
        let Some(of_arm) = run.plan.setup.arm(arm.spec.name) else { continue };
        let mut asking = Asking::of(run, arm);
        asking.offered_in(last_step(of_arm).settled(1.0));
        match is_about_costs(arm.spec.name) {
            true => costs::checks(&mut asking, run, arm, of_arm),
            false => worlds::checks(&mut asking, run, arm, of_arm),
        }
        checks.append(&mut asking.checks);
    }
    checks
}

fn charts(run: &Run) -> Vec<Chart> {
    let mut charts = Vec::new();
    for (name, world) in [("each", "one limit for each connection"), ("all", "one limit for all")] {
        charts.extend(worlds::charts(run, name, world));
    }
    charts.push(costs::chart(run, of_costs(run)));
    charts
}
