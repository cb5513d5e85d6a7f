//! Experiment 7: every overload policy under the same load. Each keeps some promises and breaks
//! others; the table says which, computed from what was measured.

use super::asking::{
    Asking, BASE_MB, FILE_MB, IN_FLIGHT, MB, RSS_MAX_MB, SETTLE_S, lag_slope, rss_max_mb, saw_s,
    scaled,
};
use super::drawing::Drawing;
use super::{ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::figure;
use crate::policy::slow_source;
use crate::telemetry::latency::Stage;

/// The sink's ceiling, events/s, and the queue's capacity where no other is given.
const CEILING: f64 = 2000.0;
const QUEUE_CAP: f64 = 10_000.0;
/// The target at 80 % of the ceiling, and the promise that the table asks for under overload, s.
const P99_MAX_S: f64 = 2.0;
/// Seconds in which a queue fills or a source slows down, left out of the steady part.
const POLICY_SETTLE_S: f64 = 15.0;
/// Events that may wait with credit: twice what the sink takes in the longest round trip, 40 ms.
const CREDIT_WINDOW: f64 = 160.0;
/// What waits on disk.
const ON_DISK: &str = "processor_spill_events";
const SPILLED: &str = "processor_spill_bytes";
/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp7",
    title: "overload policies",
    question: "The queue is full. Let the log grow, copy to a disk, drop some, or slow the source: what does \
               each cost, and which promise does it keep?",
    held: "load schedule, seed, payload, sink and its ceiling, 10,000 events in memory (but for \
           `shed-2s`), batching, workers, machine",
    varied: "what happens when the queue is full: wait (`buffer`), go on to disk (`spill`), drop and count the newest \
             (`shed`; `shed-2s` with the capacity that the target gives) or what a controller of the wait chooses \
             (`shed-pid`), tell the source a rate (`slow-source`), or give it no more than a window ahead (`credit`)",
    arms: &[
        ArmSpec::new("buffer", "buffer", Ink::Blue),
        ArmSpec::new("spill", "spill", Ink::Sky),
        ArmSpec::new("shed", "shed", Ink::Vermilion),
        ArmSpec::new("shed-2s", "shed, a queue of 2 s", Ink::Purple),
        ArmSpec::new("shed-pid", "shed by PID", Ink::Orange),
        ArmSpec::new("slow-source", "slow source", Ink::Green),
        ArmSpec::new("credit", "credit", Ink::Brown),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![promises(run)],
    limits: "One machine and one run an arm. The promises are asked of a steady overload; none of \
             the policies is asked how it behaves when a dependency is away (experiments 5 and 10), nor who \
             is dropped (12). What a source holds back is in no ledger and no latency.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:12s,1600:12s,8000:36s", "1500:60s,1600:60s,8000:5m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let arm =
        |name, flags: String| Launch::new(name, &load, &format!("--rate-limit {CEILING}"), &flags);
    let bounded =
        |cap: f64, policy: &str| format!("--queue bounded --queue-cap {cap} --policy {policy}");
    let timely_s = P99_MAX_S * (1.0 - model::TIMELY_REST);
    let timely = model::timely_capacity(CEILING, timely_s, IN_FLIGHT).round();
    vec![
        arm("buffer", bounded(QUEUE_CAP, "buffer")),
        arm("spill", format!("--queue spill --queue-cap {QUEUE_CAP} --spill-commit spilled")),
        arm("shed", bounded(QUEUE_CAP, "shed")),
        arm("shed-2s", bounded(timely, "shed")),
        arm("shed-pid", bounded(QUEUE_CAP, "shed --shed pid")),
        arm("slow-source", bounded(QUEUE_CAP, "slow-source")),
        arm("credit", bounded(QUEUE_CAP, &format!("credit --credit-window {CREDIT_WINDOW}"))),
    ]
}

fn eighty(setup: &Setup) -> Phase {
    setup.phases().nth(1).unwrap_or_else(|| setup.baseline()).settled(SETTLE_S)
}

fn steady(setup: &Setup) -> Phase {
    setup.overload().settled(POLICY_SETTLE_S)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let timely = setup.arm("shed-2s").and_then(|arm| arm.queue_cap).unwrap_or(f64::NAN);
    let (offered, ceiling) = (setup.overload().rate, setup.ceiling);
    let excess = offered - ceiling;
    let p = Prediction::new;
    vec![
        p(
            "buffer_lag_slope",
            excess,
            "events/s",
            "λ − μ: what is not served stays in the log".into(),
        ),
        p("spill_lag_slope", 0.0, "events/s", "what is on disk is committed".into()),
        p("shed_lag_slope", 0.0, "events/s", "what is not served is dropped".into()),
        p("shed-2s_lag_slope", 0.0, "events/s", "what is not served is dropped".into()),
        p("shed-pid_lag_slope", 0.0, "events/s", "what is not served is dropped".into()),
        p("slow-source_lag_slope", 0.0, "events/s", "what is not served is not produced".into()),
        p("credit_lag_slope", 0.0, "events/s", "what is not served is not produced".into()),
        p("spill_on_disk_slope", excess, "events/s", "λ − μ goes to the disk".into()),
        p("shed_rate", excess, "events/s", "λ − μ is dropped".into()),
        p(
            "shed_sojourn",
            model::sojourn_s(setup.queue_cap + IN_FLIGHT, ceiling),
            "s",
            format!(
                "(C + W B) / μ: a full queue of {} and the batches of {} events in flight",
                figure(setup.queue_cap),
                figure(IN_FLIGHT)
            ),
        ),
        p(
            "shed-2s_sojourn",
            model::sojourn_s(timely + IN_FLIGHT, ceiling),
            "s",
            format!(
                "(C + W B) / μ; C = μ × (the target of {} s less {} %) − 2 W B = {} events",
                figure(P99_MAX_S),
                figure(100.0 * model::TIMELY_REST),
                figure(timely)
            ),
        ),
        p("slow-source_sent", ceiling, "events/s", "μ: the lease follows the sink".into()),
        p(
            "slow-source_sojourn",
            slow_source::TARGET.as_secs_f64(),
            "s",
            "the backlog that it aims at".into(),
        ),
        p("credit_sent", ceiling, "events/s", "μ: what is acked is granted".into()),
        p(
            "credit_sojourn",
            CREDIT_WINDOW / ceiling,
            "s",
            "W / μ: from the grant to the ack, by Little's law".into(),
        ),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let (baseline, steady) = (setup.baseline().settled(SETTLE_S), steady(setup));
    let said = |name: &str| run.plan.predicted(name);
    let excess = setup.overload().rate - setup.ceiling;
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let mut asking = Asking::of(run, arm);
        asking.keeps_up_in(baseline, IN_FLIGHT);
        let p99 = p99_s(arm, eighty(setup));
        let target = (P99_MAX_S, Margin::AtMost, "the target");
        asking.ask("p99_80", "p99 at 80 % of the ceiling", target, p99, "s");
        asking.sink_busy_in(steady);
        asking.rss_flat_in(steady);
        asking.rss_under(RSS_MAX_MB);
        let lag = lag_slope(arm, steady);
        let (margin, why) = if name == "buffer" {
            (0.10 * excess, "10 % of λ − μ: a difference of rates, through the commits' saw")
        } else {
            (steps(setup, arm), STEPS_WHY)
        };
        let wanted = (said(&format!("{name}_lag_slope")), Margin::Absolute(margin), why);
        asking.ask("lag_slope", "Does the lag move as the policy has it?", wanted, lag, "events/s");
        let p50 = arm.latency_in(Stage::EndToEnd, 0.5, steady);
        match name {
            "spill" => {
                asking.offered_in(steady);
                let slope = arm.rate_in("processor", ON_DISK, steady);
                let wanted = (
                    said("spill_on_disk_slope"),
                    Margin::Share(0.05),
                    "two rates, each within 1 to 2 %",
                );
                asking.ask("on_disk", "Does the excess go to the disk?", wanted, slope, "events/s");
            }
            "shed" | "shed-2s" | "shed-pid" => {
                let dropped = shed_rate(arm, steady);
                let wanted =
                    (said("shed_rate"), Margin::Share(0.05), "two rates, each within 1 to 2 %");
                asking.ask(
                    "dropped",
                    "Is the excess dropped, and counted?",
                    wanted,
                    dropped,
                    "events/s",
                );
                if name != "shed-pid" {
                    let why = "the queue's last run may not fit, and the rate's 2 %";
                    let wanted = (said(&format!("{name}_sojourn")), Margin::Share(0.10), why);
                    asking.ask("p50", "Do kept events wait for a full queue?", wanted, p50, "s");
                }
                if name != "shed" {
                    let why =
                        "the target: it sized the queue, or the controller holds a wait below it";
                    let target = (P99_MAX_S, Margin::AtMost, why);
                    let p99 = p99_s(arm, steady);
                    asking.ask("p99", "p99 of kept events, under overload", target, p99, "s");
                }
            }
            "slow-source" | "credit" => {
                let sent = arm.sent_in(steady);
                let (share, why) = match name {
                    "credit" => (0.02, "what is granted is what is acked, and a rate's 2 %"),
                    _ => (0.10, "it steers by a backlog that it sees four times a second"),
                };
                let wanted = (said(&format!("{name}_sent")), Margin::Share(share), why);
                asking.ask("sent", "Does the source follow the sink?", wanted, sent, "events/s");
                let why = "one step of the controller, on a backlog of one second; a linger, on a window of 80 ms";
                let wanted = (said(&format!("{name}_sojourn")), Margin::Share(0.25), why);
                asking.ask("p50", "Does it wait for what may be on its way?", wanted, p50, "s");
            }
            _ => asking.offered_in(steady),
        }
        checks.append(&mut asking.checks);
    }
    checks
}

const STEPS_WHY: &str = "a line through the commits' saw leans by at most 1.5 of its steps: events of one interval and of \
                         half a second, and events in flight, over the phase";

/// The most that a lag that stays may seem to climb, events/s.
fn steps(setup: &Setup, arm: &Arm) -> f64 {
    1.5 * (setup.ceiling * saw_s(setup, arm) + IN_FLIGHT) / steady(setup).length()
}

fn p99_s(arm: &Arm, phase: Phase) -> Option<f64> {
    arm.latency_in(Stage::EndToEnd, 0.99, phase)
}

fn shed_rate(arm: &Arm, phase: Phase) -> Option<f64> {
    stats::overall_rate(&stats::between(&arm.shed(), phase.from, phase.to))
}

/// Which promise each policy keeps under overload, from the same measurements as the checks.
fn promises(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let steady = steady(setup);
    type Promise<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<(bool, String)> + 'a>);
    let promises: [Promise<'_>; 6] = [
        (
            "no event is lost",
            Box::new(|arm| {
                let lost = arm.ledger.as_ref().map(|l| l.shed + l.invalid + l.unexplained)?;
                Some((lost == 0, format!("{} dropped", figure(lost as f64))))
            }),
        ),
        (
            "p99 under 2 s",
            Box::new(|arm| {
                let p99 = p99_s(arm, steady)?;
                Some((p99 < P99_MAX_S, format!("{} s", figure(p99))))
            }),
        ),
        (
            "memory under 512 MB",
            Box::new(|arm| {
                let rss = rss_max_mb(arm)?;
                Some((rss < RSS_MAX_MB, format!("{} MB", figure(rss))))
            }),
        ),
        (
            "the log does not grow",
            Box::new(|arm| {
                let slope = lag_slope(arm, steady)?;
                Some((slope < steps(setup, arm), format!("{} events/s", figure(slope))))
            }),
        ),
        (
            "the source is not slowed",
            Box::new(|arm| {
                let share = arm.sent_in(steady)? / setup.overload().rate;
                Some((share > 0.99, format!("sends {} % of what is due", figure(100.0 * share))))
            }),
        ),
        (
            "the processor needs no disk",
            Box::new(|arm| {
                let mb = stats::max(&arm.metric("processor", SPILLED)).unwrap_or(0.0) / MB;
                Some((mb < 1.0, format!("{} MB", figure(mb))))
            }),
        ),
    ];
    let rows = promises.iter().map(|(name, kept)| {
        let says = move |arm: &Arm| {
            let (is_kept, figures) = kept(arm)?;
            let word = if is_kept { "kept" } else { "**broken**" };
            Some(format!("{word} ({figures})"))
        };
        (*name, says)
    });
    Table::by_arm("Which promise each policy keeps", "promise, under overload", run, rows)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    [lag_chart, latency_chart, rates_chart, rss_chart].map(|chart| chart(run, &drawing)).into()
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("", Arm::lag);
    lines.push(drawing.model("buffer, predicted", |t| {
        Some(model::backlog(&setup.offered(), &setup.ceilings(), t))
    }));
    let at_end = |name| drawing.figure(name, |arm| drawing.last(&arm.lag()));
    drawing.chart(
        "lag",
        format!(
            "Lag at the end: {} events with buffer, {} with spill; {} with shed and {} with a queue of 2 s, most of them \
             dropped already; {} behind a slowed source, {} with credit",
            at_end("buffer"),
            at_end("spill"),
            at_end("shed"),
            at_end("shed-2s"),
            at_end("slow-source"),
            at_end("credit")
        ),
        "High watermark less committed offset, all partitions. What is dropped is behind the commit until the events \
         before it are acked.",
        "consumer lag, events",
        lines,
    )
}

fn latency_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("", |arm| arm.latency(Stage::EndToEnd, 0.99));
    lines.push(
        drawing
            .model("buffer, predicted", |t| model::wait_s(&setup.offered(), &setup.ceilings(), t)),
    );
    lines.push(drawing.limit(format!("target, {} s", figure(P99_MAX_S)), P99_MAX_S));
    let steady = steady(setup);
    let p99 = |name| drawing.figure(name, |arm| p99_s(arm, steady));
    drawing.chart(
        "latency",
        format!(
            "Under overload p99 is {} s with buffer, {} s with spill, {} s with shed, {} s with a queue of \
             2 s, {} s by PID, {} s with a slowed source, {} s with credit",
            p99("buffer"),
            p99("spill"),
            p99("shed"),
            p99("shed-2s"),
            p99("shed-pid"),
            p99("slow-source"),
            p99("credit")
        ),
        "Due time to acked by the sink, 99th percentile of the events acked in each second.",
        "end-to-end latency p99, s",
        lines,
    )
}

fn rates_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("'s source sends", |arm| {
        stats::rates(&arm.metric("producer", "producer_events_sent_total"))
    });
    lines.extend(run.arm("shed").map(|arm| Line {
        ink: arm.spec.ink.predicted(),
        ..drawing.arm(arm, " drops", &stats::rates(&arm.shed()))
    }));
    lines.push(drawing.model("buffer and shed, predicted", |t| Some(setup.offered().at(t))));
    lines
        .push(drawing.limit(format!("sink's ceiling, {}/s", figure(setup.ceiling)), setup.ceiling));
    let slowed = drawing.figure("slow-source", |arm| arm.sent_in(steady(setup)));
    let dropped = drawing.figure("shed", |arm| shed_rate(arm, steady(setup)));
    drawing.chart(
        "rates",
        format!("A throttled source sends {slowed}/s; shed drops {dropped}/s"),
        "Events sent by the producer per second; thin dashes: what shed drops of them.",
        "events/s",
        lines,
    )
}

fn rss_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let mut lines = drawing.arms("", |arm| scaled(arm.rss_bytes("processor"), MB));
    let setup = &run.plan.setup;
    lines.push(drawing.model("buffer and shed, predicted", |t| {
        let backlog = model::backlog(&setup.offered(), &setup.ceilings(), t);
        let queue = model::queued(backlog, setup.queue_cap);
        Some(model::rss_bytes((BASE_MB + FILE_MB) * MB, setup.resident_bytes, queue) / MB)
    }));
    lines.push(drawing.limit(format!("limit, {} MB", figure(RSS_MAX_MB)), RSS_MAX_MB));
    let most = |name| drawing.figure(name, rss_max_mb);
    drawing.chart(
        "rss",
        format!(
            "At most {} MB with buffer, {} with spill, {} with shed ({} with a queue of 2 s, {} by PID), {} with a slowed \
             source, {} with credit",
            most("buffer"),
            most("spill"),
            most("shed"),
            most("shed-2s"),
            most("shed-pid"),
            most("slow-source"),
            most("credit")
        ),
        "Resident memory of the processor, from /proc once a second.",
        "resident memory, MB",
        lines,
    )
}
