//! Experiment 5: the sink stalls and comes back. How much piles up, where, and how long until no
//! trace of it is left?

use super::asking::{Asking, IN_FLIGHT, SETTLE_S, lag_slope};
use super::drawing::Drawing;
use super::{
    ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, no_tables,
};
use crate::lab::charts::{Chart, Ink};
use crate::lab::model::{self, Rates};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::figure;
use crate::telemetry::latency::Stage;

/// The target: the backlog of a stall is gone within five minutes.
const RECOVERY_MAX_S: f64 = 300.0;
/// The time of one sample of the log and of a stall's command: left out at both ends of its slope.
const EDGE_S: f64 = 2.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp5",
    title: "the sink stalls",
    question: "A steady load below the ceiling; then the sink serves a tenth for a while. How fast \
               does the lag climb, how high, how long until it is back where it was, and where does \
               each queue keep the backlog?",
    held: "load, seed, payload, sink, stall, batching, workers, commit interval of 200 ms, machine",
    varied: "the queue between poll and sink: of 10,000 events (`bounded`) or without limit \
             (`unbounded`)",
    arms: &[
        ArmSpec::new("bounded", "bounded", Ink::Blue),
        ArmSpec::new("unbounded", "unbounded", Ink::Vermilion),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: no_tables,
    limits: "One machine and one run an arm. The stall is a command to the sink: it begins within \
             a second of its time in the plan, and the recovery is counted from when the lag was \
             largest. Recovery is seen at one look a second, through a lag that is a saw of up to \
             one commit interval.",
};

fn launches(form: Form) -> Vec<Launch> {
    let load = format!("--schedule {} --msg-size 512 --seed 1", form.of("1500:76s", "1500:17m"));
    let (from, time) = form.of((15.0, 15.0), (600.0, 90.0));
    let stall = Some(Phase { rate: 200.0, from, to: from + time });
    // A short commit interval, so that the lag is a fine saw and its return can be timed.
    let arm = |name, queue| {
        let flags = format!("--queue {queue} --commit-interval 200ms");
        Launch { stall, ..Launch::new(name, &load, "--rate-limit 2000", &flags) }
    };
    vec![arm("bounded", "bounded --queue-cap 10000"), arm("unbounded", "unbounded")]
}

fn of(setup: &Setup) -> Phase {
    setup.stall.unwrap_or(Phase::NONE)
}

/// The time before the stall, without its first seconds.
fn before(setup: &Setup) -> Phase {
    Phase { rate: setup.baseline().rate, from: SETTLE_S, to: of(setup).from - 1.0 }
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (stall, load) = (of(setup), setup.baseline().rate);
    let time = std::time::Duration::from_secs_f64(stall.length());
    let after = model::stall(load, setup.ceiling, stall.rate, time);
    let (slope, spare) = (load - stall.rate, setup.ceiling - load);
    let p = Prediction::new;
    vec![
        p(
            "stall_lag_slope",
            slope,
            "events/s",
            format!("λ − μ' = {} − {}", figure(load), figure(stall.rate)),
        ),
        p(
            "peak",
            after.peak,
            "events",
            format!("(λ − μ') T = {}/s × {} s", figure(slope), figure(time.as_secs_f64())),
        ),
        p(
            "recovery",
            after.recovery_s,
            "s",
            format!("peak / (μ − λ) = {} / {}/s", figure(after.peak), figure(spare)),
        ),
        p(
            "bounded_queue",
            setup.queue_cap.min(after.peak),
            "events",
            "C; the rest stays in the log".into(),
        ),
        p("unbounded_queue", after.peak, "events", "all of it, in memory".into()),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let (stall, said) = (of(setup), |name: &str| run.plan.predicted(name));
    let before = before(setup);
    let during = Phase { from: stall.from + EDGE_S, to: stall.to - EDGE_S, ..before };
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        asking.keeps_up_in(before, IN_FLIGHT);
        asking.offered_in(Phase { from: SETTLE_S, to: setup.end_s() - 1.0, ..before });
        let why = "a difference of two rates, read through a saw of one commit interval";
        let climbs = (said("stall_lag_slope"), Margin::Share(0.10), why);
        let question = "Does the lag climb at λ − μ' in the stall?";
        asking.ask("stall_lag_slope", question, climbs, lag_slope(arm, during), "events/s");
        let peak =
            (said("peak"), Margin::Share(0.10), "that of the slope, and one commit interval");
        asking.ask("peak", "The largest lag", peak, stats::max(&arm.lag()), "events");
        let recovery = recovery_s(run, arm, before);
        let when =
            (said("recovery"), Margin::Share(0.10), "that of the peak, which it follows from");
        let question = "From the largest lag back into the band of before the stall";
        asking.ask("recovery_time", question, when, recovery, "s");
        let target = (RECOVERY_MAX_S, Margin::AtMost, "the target");
        asking.ask("recovery", "Is it within the target?", target, recovery, "s");
        let kept = stats::max(&arm.metric("processor", "processor_queue_depth"));
        let (wanted, question) = match arm.spec.name {
            "bounded" => (
                (
                    said("bounded_queue"),
                    Margin::Share(0.02),
                    "a run that finds no room is held back whole",
                ),
                "Does the queue fill and stop?",
            ),
            _ => (
                (said("unbounded_queue"), Margin::Share(0.10), "that of the peak of the lag"),
                "Is all of it in memory?",
            ),
        };
        asking.ask("queue", question, wanted, kept, "events");
        checks.append(&mut asking.checks);
    }
    checks
}

/// From the largest lag until the lag is first back within its range in `before`, s. The lag is a
/// saw; samples once a second always meet the same part of it, and another part after the stall: so
/// the events of one commit interval do not count.
fn recovery_s(run: &Run, arm: &Arm, before: Phase) -> Option<f64> {
    let (setup, lag) = (&run.plan.setup, arm.lag());
    let saw = before.rate * setup.arm(arm.spec.name)?.commit_interval_s;
    let band = stats::max(&stats::between(&lag, before.from, before.to))? + saw;
    let peak = lag.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let back = lag.iter().find(|(t, lag)| *t > peak.0 && *lag <= band)?;
    Some(back.0 - peak.0)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    [lag_chart, queue_chart, latency_chart].map(|chart| chart(run, &drawing)).into()
}

fn predicted_lag(run: &Run, t: f64) -> f64 {
    let setup = &run.plan.setup;
    model::backlog(&setup.offered(), &setup.ceilings(), t)
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let before = before(&run.plan.setup);
    let mut lines = drawing.arms("", Arm::lag);
    lines.push(drawing.model("both, predicted", |t| Some(predicted_lag(run, t))));
    let took = drawing.figure("bounded", |arm| recovery_s(run, arm, before));
    let peak = drawing.figure("bounded", |arm| stats::max(&arm.lag()));
    let (p, r) = (figure(run.plan.predicted("peak")), figure(run.plan.predicted("recovery")));
    drawing.chart(
        "lag",
        format!(
            "A stall leaves {peak} events ({p} predicted), gone after {took} s ({r} s predicted)"
        ),
        "High watermark less committed offset, all partitions, wherever the events wait.",
        "consumer lag, events",
        lines,
    )
}

fn queue_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let mut lines = drawing.arms("", |arm| arm.metric("processor", "processor_queue_depth"));
    lines.push(drawing.model("unbounded, predicted", |t| Some(predicted_lag(run, t))));
    let cap = run.plan.setup.queue_cap;
    lines.push(drawing.limit(format!("bounded's capacity, {}", figure(cap)), cap));
    let depth = |name| {
        drawing.figure(name, |arm| stats::max(&arm.metric("processor", "processor_queue_depth")))
    };
    drawing.chart(
        "queue",
        format!(
            "Bounded holds {} events in memory at most, unbounded {}",
            depth("bounded"),
            depth("unbounded")
        ),
        "Events in the queue between poll and sink.",
        "queue depth, events",
        lines,
    )
}

fn latency_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceilings): (Rates, Rates) = (setup.offered(), setup.ceilings());
    let p99 = |arm: &Arm| arm.latency(Stage::EndToEnd, 0.99);
    let mut lines = drawing.arms("", p99);
    lines.push(drawing.model("both, predicted", |t| model::wait_s(&offered, &ceilings, t)));
    let worst = |name| drawing.figure(name, |arm| stats::max(&p99(arm)));
    drawing.chart(
        "latency",
        format!(
            "Longest wait: {} s in bounded, {} s in unbounded",
            worst("bounded"),
            worst("unbounded")
        ),
        "Due time to acked by the sink, 99th percentile of the events acked in each second.",
        "end-to-end latency p99, s",
        lines,
    )
}
