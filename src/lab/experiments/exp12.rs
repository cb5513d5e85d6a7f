//! Experiment 12: who is shed? The same overload, and the same policy, shed; what differs is which events go, and
//! what that does to those that stay and to those that matter most.

use super::asking::{Asking, RSS_MAX_MB, SETTLE_S, lag_slope, rss_max_mb};
use super::drawing::Drawing;
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase};
use super::{Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::{figure, thousands};
use crate::policy::shed::priority;
use crate::telemetry::latency::Stage;

/// The sink's ceiling, events/s, and what the queue holds where nothing else is said.
pub(super) const CEILING: f64 = 2000.0;
pub(super) const QUEUE_CAP: f64 = 10_000.0;
/// What the events that stay may take from due to acked, s: p99.
const P99_MAX_S: f64 = 0.3;
/// Of that, what the way to the queue takes: the producer's linger, the brokers, the fetch.
const WAY_S: f64 = 0.08;
/// The share of the ceiling that must be delivered: whoever sheds must not make the sink wait.
const GOODPUT: f64 = 0.995;
/// How much the share that is shed may differ from second to second, standard deviation by mean.
const UNSTEADY_MAX: f64 = 0.05;
/// Seconds after a step in which a controller finds its share.
const STEP_S: f64 = 1.0;
/// Seconds in which a queue of [`QUEUE_CAP`] fills at four times the ceiling, and what was in it is served.
const FILL_S: f64 = 8.0;
/// Events a call: with four workers in flight, the sink needs 40 ms for them.
pub(super) const BATCH: f64 = 20.0;
pub(super) const WORKERS: f64 = 4.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp12",
    title: "who is shed",
    question: "More comes than the sink takes, and some of it is dropped. Which: the newest, the oldest, what \
               matters least, what waited too long, or a share of all?",
    held: "load schedule, seed, payload, sink and its ceiling, policy `shed`, batches of 20, workers, a tenth of the \
           events of high priority, machine",
    varied: "who is shed; the queue holds 10,000 events, but for `priority`, whose capacity the target gives",
    arms: &[
        ArmSpec::new("newest", "newest", Ink::Vermilion),
        ArmSpec::new("oldest", "oldest", Ink::Purple),
        ArmSpec::new("priority", "by priority", Ink::Blue),
        ArmSpec::new("sojourn", "by sojourn", Ink::Sky),
        ArmSpec::new("pid", "PID", Ink::Green),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![lost_and_served(run)],
    limits: "One machine and one run an arm. Priority is a function of the id, a tenth of them; no tenants. \
             Nobody sends again what was shed, so what retries do to an overload is not seen here.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:10s,2800:10s,8000:24s", "1500:60s,2800:2m,8000:10m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let arm = |who: &str, cap: f64| {
        let flags = format!(
            "--queue bounded --queue-cap {cap} --policy shed --shed {who} --batch-size {BATCH} \
             --sink-workers {WORKERS} --high-priority-share 10%"
        );
        Launch::new(who, &load, &format!("--rate-limit {CEILING}"), &flags)
    };
    vec![
        arm("newest", QUEUE_CAP),
        arm("oldest", QUEUE_CAP),
        arm("priority", timely_cap()),
        arm("sojourn", QUEUE_CAP),
        arm("pid", QUEUE_CAP),
    ]
}

/// Events that a queue may hold for what stays to be acked in time.
pub(super) fn timely_cap() -> f64 {
    model::timely_capacity(CEILING, P99_MAX_S - WAY_S, BATCH * WORKERS).round()
}

/// The step a little above the ceiling.
fn slight(setup: &Setup) -> Phase {
    setup.phases().nth(1).unwrap_or(Phase::NONE)
}

fn steady(setup: &Setup) -> Phase {
    setup.overload().settled(FILL_S)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (offered, ceiling) = (setup.overload().rate, setup.ceiling);
    let held = setup.arm("pid").map_or(f64::NAN, ArmSetup::in_flight);
    let cap = |arm: &str| setup.arm(arm).and_then(|arm| arm.queue_cap).unwrap_or(f64::NAN);
    let high = setup.arm("pid").map_or(f64::NAN, |arm| arm.high_share);
    let shared = 1.0 - priority::RESERVE;
    let wait = |name: &str| {
        let depth = setup.arm(name)?.shed.standing_depth(cap(name), held);
        Some(match depth {
            Some(depth) => model::sojourn_s(depth, ceiling),
            None => model::sojourn_s(cap(name), offered),
        })
    };
    let waits = |name: &str, because: String| {
        Prediction::new(&format!("{name}_wait"), wait(name).unwrap_or(f64::NAN), "s", because)
    };
    let p = Prediction::new;
    let twice = format!("2 W B / μ: the wait that it keeps to; W B = {} events", figure(held));
    let excess = offered - ceiling;
    vec![
        p("shed_rate", excess, "events/s", "λ − μ is dropped, whoever it is".into()),
        p(
            "normal_shed",
            excess / (offered * (1.0 - high)),
            "",
            format!(
                "(λ − μ) / λ (1 − h): of the normal class, if of the high one, h = {high}, nothing goes"
            ),
        ),
        waits("newest", "C / μ: behind a full queue".into()),
        waits(
            "oldest",
            "C / λ: what comes pushes the rest through, whether it is served or dropped".into(),
        ),
        waits(
            "priority",
            format!(
                "{shared} C / μ: what all classes may fill; C = μ × ({P99_MAX_S} s − {WAY_S} s) − 2 W B = {} events",
                figure(cap("priority"))
            ),
        ),
        waits("sojourn", twice.clone()),
        waits("pid", twice),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let steady = steady(setup);
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let mut asking = Asking::of(run, arm);
        let in_flight = setup.arm(name).map_or(f64::NAN, ArmSetup::in_flight);
        asking.keeps_up_in(setup.baseline().settled(SETTLE_S), in_flight);
        asking.offered_in(steady);
        let why = "the target: whoever sheds must not make the sink wait";
        let floor = (GOODPUT * setup.ceiling, Margin::AtLeast, why);
        let goodput = arm.delivered_in(steady);
        asking.ask("goodput", "Is the sink kept busy?", floor, goodput, "events/s");
        let wanted = (said("shed_rate"), Margin::Share(0.05), "two rates, each within 1 to 2 %");
        let dropped = stats::overall_rate(&stats::between(&arm.shed(), steady.from, steady.to));
        asking.ask("dropped", "Is the excess dropped, and counted?", wanted, dropped, "events/s");
        let (share, why) = match name {
            "newest" | "oldest" => (0.10, "the last run may not fit, and a rate's 2 %"),
            _ => (
                0.25,
                "events come in puffs of the producer's linger, 20 ms, a quarter of the wait",
            ),
        };
        let wanted = (said(&format!("{name}_wait")), Margin::Share(share), why);
        let wait = arm.latency_in(Stage::Queue, 0.5, steady);
        asking.ask(
            "wait",
            "Does what stays wait as predicted? (p50 in the queue)",
            wanted,
            wait,
            "s",
        );
        if ["priority", "sojourn", "pid"].contains(&name) {
            let target = (P99_MAX_S, Margin::AtMost, "the target");
            let p99 = arm.latency_in(Stage::EndToEnd, 0.99, steady);
            asking.ask("p99", "p99 of what stays, due to acked", target, p99, "s");
            let worst = arm.settled_p99(Stage::Queue, slight(setup), STEP_S);
            let question = "1.4 times the ceiling: p99 of the wait in the queue in 95 of 100 seconds, from one \
                            second after the step";
            let most = (P99_MAX_S - WAY_S, Margin::AtMost, "the target less the way to the queue");
            asking.ask("step", question, most, worst, "s");
        }
        if ["priority", "pid"].contains(&name) {
            let high = setup.arm(name).map_or(f64::NAN, |arm| arm.high_share);
            let lost = arm.ledger.as_ref().map(|ledger| ledger.shed_high as f64);
            let none = (0.0, Margin::AtMost, "the target");
            asking.ask("high_lost", "Events of high priority that were shed", none, lost, "events");
            let target = (P99_MAX_S, Margin::AtMost, "the target");
            let p99 = arm.latency_in(Stage::EndToEndHigh, 0.99, steady);
            asking.ask("high_p99", "p99 of high priority, due to acked", target, p99, "s");
            let why = "as the excess: two rates, each within 1 to 2 %";
            let wanted = (said("normal_shed"), Margin::Share(0.05), why);
            let share = normal_shed(arm, high, steady);
            asking.ask("normal_shed", "The share of the normal class that goes", wanted, share, "");
        }
        if name == "pid" {
            let target = (UNSTEADY_MAX, Margin::AtMost, "the target");
            let question = "How much the share that goes differs from second to second";
            asking.ask("steady", question, target, unsteadiness(arm, steady), "");
        }
        asking.rss_under(RSS_MAX_MB);
        checks.append(&mut asking.checks);
    }
    checks
}

/// Of the events of normal priority that came, the share that was shed.
fn normal_shed(arm: &Arm, high: f64, phase: Phase) -> Option<f64> {
    let by = arm.spec.name; // an arm's name is its --shed
    let key = format!("processor_events_shed_total{{by=\"{by}\",class=\"normal\"}}");
    let came = arm.polled_in(phase)? * (1.0 - high);
    Some(arm.rate_in("processor", &key, phase)? / came)
}

/// Shed of fetched, second by second.
fn share(arm: &Arm) -> Series {
    stats::ratios(&arm.shed(), &arm.metric("processor", "processor_events_fetched_total"))
}

/// Standard deviation of [`share`] by its mean.
fn unsteadiness(arm: &Arm, phase: Phase) -> Option<f64> {
    let share = stats::between(&share(arm), phase.from, phase.to);
    let mean = stats::mean(&share)?;
    let squares: Series = share.iter().map(|(t, v)| (*t, (v - mean).powi(2))).collect();
    Some(stats::mean(&squares)?.sqrt() / mean)
}

/// Who is lost and who is served, from the same measurements as the checks.
fn lost_and_served(run: &Run) -> Table {
    let steady = steady(&run.plan.setup);
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<String> + 'a>);
    let seconds = |s: f64| format!("{} s", figure(s));
    let cells: [Cell<'_>; 9] = [
        ("delivered, events/s", Box::new(|arm| arm.delivered_in(steady).map(figure))),
        ("shed, events", Box::new(|arm| Some(thousands(arm.ledger.as_ref()?.shed as f64)))),
        (
            "of these, of high priority",
            Box::new(|arm| Some(thousands(arm.ledger.as_ref()?.shed_high as f64))),
        ),
        ("what stays: p50", Box::new(|arm| latency(arm, 0.5, steady).map(seconds))),
        ("what stays: p99", Box::new(|arm| latency(arm, 0.99, steady).map(seconds))),
        (
            "high priority: p99",
            Box::new(|arm| arm.latency_in(Stage::EndToEndHigh, 0.99, steady).map(seconds)),
        ),
        (
            "the share that goes: standard deviation of the seconds",
            Box::new(|arm| {
                unsteadiness(arm, steady).map(|by| format!("± {} %", figure(100.0 * by)))
            }),
        ),
        ("the lag grows by, events/s", Box::new(|arm| lag_slope(arm, steady).map(figure))),
        ("memory, at most", Box::new(|arm| rss_max_mb(arm).map(|mb| format!("{} MB", figure(mb))))),
    ];
    let title = "Who is lost, and what those that stay wait";
    Table::by_arm(title, "at four times the ceiling", run, cells)
}

fn latency(arm: &Arm, q: f64, phase: Phase) -> Option<f64> {
    arm.latency_in(Stage::EndToEnd, q, phase)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    vec![all_chart(run, &drawing), high_chart(run, &drawing), share_chart(run, &drawing)]
}

fn all_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let steady = steady(&run.plan.setup);
    let p99 = |name| drawing.figure(name, |arm| latency(arm, 0.99, steady));
    let mut lines = drawing.arms("", |arm| arm.latency(Stage::EndToEnd, 0.99));
    lines.push(drawing.limit(format!("target, {P99_MAX_S} s"), P99_MAX_S));
    drawing.chart(
        "latency",
        format!(
            "At four times the ceiling p99 of what stays is {} s where the newest go, {} s where the oldest go, {} s \
             by priority, {} s by sojourn, {} s with the PID",
            p99("newest"),
            p99("oldest"),
            p99("priority"),
            p99("sojourn"),
            p99("pid")
        ),
        "Due time to acked by the sink, 99th percentile of the events acked in each second.",
        "end-to-end latency p99, s",
        lines,
    )
}

fn high_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let lost = |name| {
        drawing.figure(name, |arm| arm.ledger.as_ref().map(|ledger| ledger.shed_high as f64))
    };
    let steady = steady(&run.plan.setup);
    let p99 = |name| drawing.figure(name, |arm| arm.latency_in(Stage::EndToEndHigh, 0.99, steady));
    let mut lines = drawing.arms("", |arm| arm.latency(Stage::EndToEndHigh, 0.99));
    lines.push(drawing.limit(format!("target, {P99_MAX_S} s"), P99_MAX_S));
    drawing.chart(
        "high",
        format!(
            "Of high priority {} events are lost by priority and {} with the PID, at p99 of {} s and {} s; {} where \
             the newest go, {} by sojourn, which do not look",
            lost("priority"),
            lost("pid"),
            p99("priority"),
            p99("pid"),
            lost("newest"),
            lost("sojourn")
        ),
        "Events of high priority alone: due time to acked by the sink, 99th percentile of those acked in each second.",
        "end-to-end latency p99, s",
        lines,
    )
}

fn share_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let steady = steady(setup);
    let mut lines = drawing.arms("", share);
    lines.push(drawing.model("predicted", |t| {
        let offered = setup.offered().at(t);
        Some((1.0 - setup.ceiling / offered).max(0.0))
    }));
    let by = |name| drawing.figure(name, |arm| unsteadiness(arm, steady).map(|by| 100.0 * by));
    drawing.chart(
        "share",
        format!(
            "The share that goes differs by {} % from second to second with the PID, {} % where the newest go, {} % by \
             sojourn",
            by("pid"),
            by("newest"),
            by("sojourn")
        ),
        "Events shed of events fetched, each second. Predicted: 1 − μ / λ.",
        "share of what comes that is shed",
        lines,
    )
}
