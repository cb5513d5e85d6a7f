//! Experiment 11: more members before the same sink. A rule that asks whether a member helped, beside one that follows the lag,
//! where the sink has one limit for all and where it has one for each connection; and what a rebalance costs.

mod pauses;

use std::time::Duration;

use self::pauses::{Expected, Rebalance, Step};
use super::asking::Asking;
use super::drawing::Drawing;
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase};
use super::{Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::scaled::{Cap, Course, World};
use crate::lab::stats::{self, Series};
use crate::lab::text::figure;
use crate::source::member::HEARTBEAT;

/// The sink's limit, events/s: of all together, or of each connection. A member has one.
const LIMIT: f64 = 1000.0;
/// Members at most.
const MOST: usize = 6;
/// The targets: of what the best number of members delivers, and the steps until a limit for all is named.
const IDEAL: f64 = 0.9;
const STEPS_MAX: f64 = 2.0;
/// From the command to the fetch of a member that is started: its start, and heartbeats of the two rounds, as a mean.
const PROCESS_S: f64 = 0.5;
/// How far the law of the cost may be off: the target.
const LAW: f64 = 0.15;
/// Members of the arms about rebalances, the lower number; and their steps each way.
const FEW: usize = 2;
const ROUNDS: usize = 2;
/// What a busy machine may add to the pause of each partition, s.
const SLACK_S: f64 = 0.1;
/// The arms about rebalances.
const COSTS: [&str; 4] = ["eager", "cooperative", "static", "consumer"];
/// How often lag is looked at there: a pause is a few seconds.
const LOOK: Duration = Duration::from_millis(100);
const WANTED: &str = "lab_autoscale_members_wanted";

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
    tables: |run| vec![worlds_table(run), costs_table(run)],
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
        let rounds = form.of(ROUNDS, 5 * ROUNDS);
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

fn world(setup: &Setup, arm: &ArmSetup) -> Option<World> {
    let scaled = arm.scaled.as_ref()?;
    let beat_s = HEARTBEAT.as_secs_f64().min(arm.session_timeout_s / 3.0);
    Some(World {
        offered: arm.offered(),
        partitions: arm.partitions as usize,
        cap: if arm.per_connection { Cap::Each(setup.ceiling) } else { Cap::All(setup.ceiling) },
        plan: scaled.plan.clone(),
        bounds: scaled.bounds,
        // The last of the members, then the new one once more.
        join_s: PROCESS_S + 1.5 * beat_s,
        look_s: scaled.interval_s,
        commit_s: arm.commit_interval_s,
        until_s: end_s(arm),
    })
}

fn end_s(arm: &ArmSetup) -> f64 {
    arm.schedule.iter().map(|step| step.1).sum()
}

/// What so many members deliver at best, under the load of the arm's last step.
fn ideal(setup: &Setup, arm: &ArmSetup) -> f64 {
    let load = arm.schedule.last().map_or(f64::NAN, |step| step.0);
    let most = arm.scaled.as_ref().map_or(MOST, |scaled| scaled.bounds.max.get());
    load.min(if arm.per_connection { most as f64 * setup.ceiling } else { setup.ceiling })
}

/// The end of an arm, in which its number of members is what it will be.
fn last(arm: &ArmSetup) -> Phase {
    let to = end_s(arm) - 0.5;
    Phase { rate: 0.0, from: to - 8.0, to }
}

/// Steps each way of an arm about rebalances.
fn rounds(setup: &Setup) -> usize {
    setup.form.of(ROUNDS, 5 * ROUNDS)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let p = Prediction::new;
    let mut said = Vec::new();
    for arm in &setup.arms {
        let name = &arm.name;
        if COSTS.contains(&name.as_str()) {
            said.extend(Step::ALL.into_iter().flat_map(|step| cost(setup, arm, step)));
            continue;
        }
        let Some(course) = world(setup, arm).map(|world| world.run()) else { continue };
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
    }
    said
}

/// What a step costs, by one protocol.
fn cost(setup: &Setup, arm: &ArmSetup, step: Step) -> Vec<Prediction> {
    let Expected { mean, low, high } = pauses::expected(arm, step, FEW, rounds(setup));
    let (name, step) = (&arm.name, step.name());
    let rate = of_a_partition(arm);
    let because = format!(
        "a heartbeat at a time by chance, {FEW} members and one more; the mean of {} steps is within {} to {} in 98 of 100 cases",
        rounds(setup),
        figure(low),
        figure(high)
    );
    let half = (high - mean).max(mean - low) + SLACK_S * f64::from(arm.partitions);
    let p = Prediction::new;
    let events = format!("that × {} events/s of a partition", figure(rate));
    let pays =
        format!("these by {} events/s, which the member adds in a burst", figure(setup.ceiling));
    vec![
        p(&format!("{name}_{step}_paused"), mean, "partition-s", because),
        p(
            &format!("{name}_{step}_band"),
            half,
            "partition-s",
            "of the same, and a tenth of a second for each partition".into(),
        ),
        p(&format!("{name}_{step}_waits"), mean * rate, "events", events),
        p(&format!("{name}_{step}_pays_after"), mean * rate / setup.ceiling, "s", pays),
    ]
}

/// Events/s of a partition.
fn of_a_partition(arm: &ArmSetup) -> f64 {
    arm.schedule.first().map_or(f64::NAN, |step| step.0) / f64::from(arm.partitions)
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let mut checks = Vec::new();
    for arm in &run.arms {
        let Some(of_arm) = setup.arm(arm.spec.name) else { continue };
        let mut asking = Asking::of(run, arm);
        let load = Phase {
            rate: of_arm.schedule.last().map_or(f64::NAN, |step| step.0),
            from: end_s(of_arm) - of_arm.schedule.last().map_or(0.0, |step| step.1),
            to: end_s(of_arm),
        };
        asking.offered_in(load.settled(1.0));
        match arm.spec.name {
            "each-marginal" | "all-marginal" => of_the_rule(&mut asking, run, arm, of_arm),
            "each-lag" | "all-lag" => of_the_lag(&mut asking, run, arm, of_arm),
            _ => of_the_cost(&mut asking, run, arm, of_arm),
        }
        checks.append(&mut asking.checks);
    }
    checks
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
    asking.ask(
        "members",
        "Members in the end",
        exactly,
        stats::mean(&stats::between(&wanted(arm), last.from, last.to)),
        "",
    );
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

fn of_the_cost(asking: &mut Asking<'_>, run: &Run, arm: &Arm, of_arm: &ArmSetup) {
    let name = arm.spec.name;
    let all = pauses::of(arm, end_s(of_arm));
    for step in Step::ALL {
        let own: Vec<&Rebalance> = all.iter().filter(|it| it.step == step).collect();
        let said = |what: &str| run.plan.predicted(&format!("{name}_{}_{what}", step.name()));
        let band = Margin::Absolute(said("band"));
        let wanted = (
            said("paused"),
            band,
            "98 of 100 draws of the heartbeat's phase, and 0.1 s for each partition",
        );
        let question = match step {
            Step::Up => {
                "A member comes: partition-seconds in which nobody reads (the members' logs)"
            }
            Step::Down => {
                "A member goes: partition-seconds in which nobody reads (the members' logs)"
            }
        };
        let paused = mean(&own, |it| it.paused_s);
        asking.ask(&format!("{}_paused", step.name()), question, wanted, paused, "partition-s");
    }
    let twice = arm.ledger.as_ref().map(|ledger| ledger.duplicates as f64);
    let law = total(&all, |it| it.paused_s)
        .zip(twice)
        .map(|(paused, twice)| paused * of_a_partition(of_arm) + twice);
    let wanted = (law.unwrap_or(f64::NAN), Margin::Share(LAW), "the target");
    let question = "Paused partition-seconds × events/s of a partition + duplicates: is it what the sink got later than usual?";
    asking.ask("law", question, wanted, total(&all, |it| it.waited), "events");
}

fn mean(all: &[&Rebalance], of: impl Fn(&Rebalance) -> f64) -> Option<f64> {
    (!all.is_empty()).then(|| all.iter().map(|it| of(it)).sum::<f64>() / all.len() as f64)
}

fn total(all: &[Rebalance], of: impl Fn(&Rebalance) -> f64) -> Option<f64> {
    (!all.is_empty()).then(|| all.iter().map(of).sum())
}

/// Members wanted over time.
fn wanted(arm: &Arm) -> Series {
    arm.metric("autoscaler", WANTED)
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

fn worlds_table(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let rows = run.arms.iter().filter(|arm| !COSTS.contains(&arm.spec.name)).filter_map(|arm| {
        let of_arm = setup.arm(arm.spec.name)?;
        let last = last(of_arm);
        let or = |value: Option<f64>| value.map_or("not measured".into(), figure);
        let limits = limits(arm).unwrap_or_default();
        let delivered = arm.delivered_in(last);
        Some(vec![
            arm.spec.title.to_owned(),
            or(stats::max(&wanted(arm))),
            or(stats::mean(&stats::between(&wanted(arm), last.from, last.to))),
            or(delivered),
            or(delivered.map(|rate| 100.0 * rate / ideal(setup, of_arm))),
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

fn costs_table(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let mut rows = Vec::new();
    for arm in run.arms.iter().filter(|arm| COSTS.contains(&arm.spec.name)) {
        let Some(of_arm) = setup.arm(arm.spec.name) else { continue };
        let all = pauses::of(arm, end_s(of_arm));
        for step in Step::ALL {
            let own: Vec<&Rebalance> = all.iter().filter(|it| it.step == step).collect();
            let or = |value: Option<f64>| value.map_or("not measured".into(), figure);
            let predicted =
                run.plan.predicted(&format!("{}_{}_paused", arm.spec.name, step.name()));
            let paused = mean(&own, |it| it.paused_s);
            let law = paused.map(|paused| paused * of_a_partition(of_arm));
            rows.push(vec![
                format!("{}, {}", arm.spec.title, step.name()),
                or(mean(&own, |it| it.partitions as f64)),
                or(mean(&own, |it| it.longest_s)),
                figure(predicted),
                or(paused),
                or(law),
                or(mean(&own, |it| it.waited)),
                match step {
                    Step::Up => or(law.map(|events| events / setup.ceiling)),
                    Step::Down => "–".into(),
                },
            ]);
        }
    }
    let head = [
        "a member comes (up) or goes (down)",
        "partitions that stood",
        "the longest, s",
        "partition-s, predicted",
        "partition-s",
        "× events/s of a partition",
        "late at the sink",
        "a burst pays for it after, s",
    ];
    Table::new("What a rebalance costs", &head, rows)
}

fn charts(run: &Run) -> Vec<Chart> {
    let mut charts = Vec::new();
    for (name, world) in [("each", "one limit for each connection"), ("all", "one limit for all")] {
        charts.extend(world_charts(run, name, world));
    }
    charts.push(pause_chart(run));
    charts
}

fn world_charts(run: &Run, name: &str, world: &str) -> Vec<Chart> {
    let arms: Vec<&Arm> = [format!("{name}-marginal"), format!("{name}-lag")]
        .iter()
        .filter_map(|arm| run.arm(arm))
        .collect();
    let drawing = Drawing::new(run);
    let lines = |of: &dyn Fn(&Arm) -> Series| -> Vec<Line> {
        let own = |arm: &&Arm| {
            let end_s = run.plan.setup.arm(arm.spec.name).map_or(0.0, end_s);
            drawing.arm(arm, "", &stats::between(&of(arm), 0.0, end_s))
        };
        arms.iter().map(own).collect()
    };
    let course = course(run, &format!("{name}-marginal"));
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
        let last = run.plan.setup.arm(arm.spec.name).map(last)?;
        stats::mean(&stats::between(&wanted(arm), last.from, last.to))
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
            "Log end less committed offset, all partitions.",
            "consumer lag, events",
            with(lines(&Arm::lag), model(&|course, t| {
                course.looks.iter().take_while(|seen| seen.at_s <= t).last().map_or(0.0, |seen| seen.lag)
            })),
        ),
    ]
}

fn course(run: &Run, name: &str) -> Option<Course> {
    let setup = &run.plan.setup;
    Some(world(setup, setup.arm(name)?)?.run())
}

fn pause_chart(run: &Run) -> Chart {
    let end_s = |arm: &Arm| run.plan.setup.arm(arm.spec.name).map_or(0.0, end_s);
    let arms: Vec<&Arm> = run.arms.iter().filter(|arm| COSTS.contains(&arm.spec.name)).collect();
    let drawing = Drawing::until(run, arms.iter().map(|arm| end_s(arm)).fold(0.0, f64::max));
    let lines = arms.iter().map(|arm| {
        let way = pauses::on_their_way(arm);
        drawing.arm(arm, "", &stats::between(&way, 0.0, end_s(arm)))
    });
    let up = |name| {
        drawing.figure(name, |arm| {
            let all = pauses::of(arm, end_s(arm));
            let own: Vec<&Rebalance> = all.iter().filter(|it| it.step == Step::Up).collect();
            mean(&own, |it| it.paused_s)
        })
    };
    drawing.chart(
        "rebalances",
        format!(
            "A third member costs {} partition-seconds eager, {} cooperative, {} static, {} by KIP-848",
            up("eager"),
            up("cooperative"),
            up("static"),
            up("consumer")
        ),
        "Three quarters of what two members can; a third comes and goes, twice. Each rise is a rebalance.",
        "sent and not delivered, events",
        lines.collect(),
    )
}
