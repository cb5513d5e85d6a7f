//! Experiment 2: pull against unbounded push. The same overload, the same sink; does the
//! difference wait in the log or in the heap?

use super::drawing::Drawing;
use super::{ArmSpec, Check, Experiment, Margin, Phase, Prediction, Setup};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model::{self, Rates};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::samples::Sample;
use crate::lab::stats::{self, Series};
use crate::lab::text::figure;
use crate::telemetry::latency::Stage;

/// Resident memory that the pull arm must stay under, MB.
const PULL_RSS_MAX_MB: f64 = 64.0;
/// Seconds after a change of load that are left out of slopes and rates: the group's join or the
/// sink's burst, the first fetches, the allocator's first slabs.
const SETTLE_S: f64 = 5.0;
/// The processor's commit interval of 1 s, and half a second for the answers of a busy cluster.
const SAW_S: f64 = 1.5;
const MB: f64 = 1e6;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp2",
    title: "pull against unbounded push",
    question: "The source outruns the sink. If the consumer polls only what the sink takes, where \
               does the difference wait, and what does it cost? And if it polls all it can get?",
    held: "load schedule, seed, payload, sink and its ceiling, batching, workers, topic layout, \
           fetch client, machine; one arm after the other, each on a topic and processes of its own",
    varied: "the queue between poll and sink: none, poll after ack (`pull`), or without limit \
             (`unbounded`)",
    arms: &[
        ArmSpec { name: "pull", title: "pull", ink: Ink::Blue },
        ArmSpec { name: "unbounded", title: "unbounded push", ink: Ink::Vermilion },
    ],
    predict,
    checks,
    charts,
    limits: "One machine and one run an arm: no spread between repeats. Resident memory \
             grows some 4 % faster than the heap in use: b leaves out the allocator's own records, \
             about 128 B for each 4 KiB page of eight payloads, and what its profiler keeps. Both \
             arms read the same backlog later; how long that takes is not asked here.",
};

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (offered, ceiling) = (setup.overload().rate, setup.ceiling);
    let excess = offered - ceiling;
    let over = format!("λ − μ = {} − {}", figure(offered), figure(ceiling));
    let end = setup.overload().to;
    let wait = model::wait_s(&setup.offered(), &Rates::constant(ceiling), end).unwrap_or(0.0);
    let p = Prediction::new;
    vec![
        p(
            "event_bytes",
            setup.event_bytes,
            "B",
            format!(
                "one queued event: its share of a channel block and its {} B payload, by \
                 allocator size class",
                setup.payload_bytes
            ),
        ),
        p(
            "unbounded_rss_slope",
            setup.event_bytes * excess / MB,
            "MB/s",
            format!("b (λ − μ) = {} B × {}/s", figure(setup.event_bytes), figure(excess)),
        ),
        p("pull_rss_slope", 0.0, "MB/s", "no queue, so b × 0".into()),
        p("unbounded_poll_ratio", offered / ceiling, "", "λ / μ: it polls what is offered".into()),
        p("pull_poll_ratio", 1.0, "", "it polls what the sink took".into()),
        p("baseline_lag_slope", 0.0, "events/s", "λ < μ: no backlog".into()),
        p("overload_lag_slope", excess, "events/s", format!("{over}, wherever it waits")),
        p("delivered", ceiling, "events/s", "μ: the sink is the bottleneck".into()),
        p(
            "wait_at_end",
            wait,
            "s",
            "first in, first out: t − A⁻¹(D(t)) at the end of the load".into(),
        ),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let overload = run.plan.setup.overload().settled(SETTLE_S);
    let baseline = run.plan.setup.baseline().settled(SETTLE_S);
    let said = |name: &str| run.plan.predicted(name);
    let climb = said("unbounded_rss_slope");
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut ask = |name: &str, question: &str, wanted, measured, unit: &str| {
            checks.push(Check::new(
                &format!("{}_{name}", arm.spec.name),
                question,
                wanted,
                measured,
                unit,
            ));
        };
        let rss = slope_mb(arm, overload);
        let ratio = said(&format!("{}_poll_ratio", arm.spec.name));
        if arm.spec.name == "pull" {
            // 2 % of what an unbounded queue would grow by: 71 kB/s, 4 MB in a minute.
            let flat = (said("pull_rss_slope"), Margin::Absolute(0.02 * climb));
            ask("rss_slope", "Is pull's memory flat under overload?", flat, rss, "MB/s");
            let max = stats::max(&arm.rss_bytes("processor")).map(|bytes| bytes / MB);
            let under = (PULL_RSS_MAX_MB, Margin::AtMost);
            ask("rss_max", "Does it stay under its limit, start to end?", under, max, "MB");
        } else {
            let grows = (climb, Margin::Share(0.10));
            ask("rss_slope", "Does its memory grow as the model predicts?", grows, rss, "MB/s");
            let bytes = (said("event_bytes"), Margin::Share(0.05));
            let heap = heap_per_event(arm, overload);
            ask("event_bytes", "Heap in use per queued event, as computed?", bytes, heap, "B");
        }
        let polled = poll_ratio(arm, overload);
        let wanted = (ratio, Margin::Share(0.05));
        ask("poll_ratio", "Poll rate over sink rate, under overload", wanted, polled, "");
        let delivered = arm.rate_in("sink", "sink_events_total", overload);
        let floor = (0.98 * said("delivered"), Margin::AtLeast);
        ask("delivered", "Is the sink kept busy under overload?", floor, delivered, "events/s");
        let sent = arm.rate_in("producer", "producer_events_sent_total", overload);
        let load = (overload.rate, Margin::Share(0.01));
        ask("offered", "Was the overload really offered?", load, sent, "events/s");
        let lag = |phase: Phase| line_in(&arm.lag(), phase).map(|line| line.slope);
        // Below the ceiling the lag is a saw between 0 and λ × SAW_S; over a time T no line through
        // it is steeper than 1.5 of its height over T (the steepest is through one step midway).
        let steepest = 1.5 * baseline.rate * SAW_S / (baseline.to - baseline.from);
        let flat = (said("baseline_lag_slope"), Margin::Absolute(steepest));
        ask("lag_baseline", "Is the lag flat below the ceiling?", flat, lag(baseline), "events/s");
        let climbs = (said("overload_lag_slope"), Margin::Share(0.10));
        ask("lag_overload", "Does the lag climb at λ − μ?", climbs, lag(overload), "events/s");
    }
    checks
}

fn line_in(series: &[(f64, f64)], phase: Phase) -> Option<stats::Line> {
    stats::line(&stats::between(series, phase.from, phase.to))
}

fn slope_mb(arm: &Arm, phase: Phase) -> Option<f64> {
    line_in(&arm.rss_bytes("processor"), phase).map(|line| line.slope / MB)
}

/// By how much the heap in use grows with each event in the queue, B.
fn heap_per_event(arm: &Arm, phase: Phase) -> Option<f64> {
    let metric = |name| move |s: &Sample| s.metric("processor", name);
    let pairs = arm.against(phase, metric("processor_queue_depth"), metric("heap_inuse_bytes"));
    stats::line(&pairs).map(|line| line.slope)
}

fn poll_ratio(arm: &Arm, phase: Phase) -> Option<f64> {
    let polled = arm.rate_in("processor", "processor_events_fetched_total", phase)?;
    Some(polled / arm.rate_in("sink", "sink_events_total", phase)?)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    [rss_chart, rates_chart, lag_chart, latency_chart].map(|chart| chart(run, &drawing)).into()
}

fn rss_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), Rates::constant(setup.ceiling));
    let mut lines = drawing.arms(", measured", |arm| scaled(arm.rss_bytes("processor"), MB));
    // The model gives growth; where it starts from is measured before the overload.
    let base = run.arm("unbounded").and_then(|arm| {
        let before = stats::between(&arm.rss_bytes("processor"), 0.0, setup.baseline().to);
        stats::mean(&before)
    });
    let excess = figure(setup.overload().rate - setup.ceiling);
    let label = format!("predicted: {} B × {excess}/s", figure(setup.event_bytes));
    lines.push(drawing.model(label, |t| {
        let queue = model::queued(model::backlog(&offered, &ceiling, t), f64::INFINITY);
        Some(model::rss_bytes(base?, setup.event_bytes, queue) / MB)
    }));
    let limit = format!("limit for pull, {} MB", figure(PULL_RSS_MAX_MB));
    lines.push(drawing.limit(limit, PULL_RSS_MAX_MB));
    let overload = setup.overload().settled(SETTLE_S);
    let climb = drawing.figure("unbounded", |arm| slope_mb(arm, overload));
    let most = drawing
        .figure("pull", |arm| stats::max(&arm.rss_bytes("processor")).map(|bytes| bytes / MB));
    let predicted = figure(run.plan.predicted("unbounded_rss_slope"));
    drawing.chart(
        "rss",
        format!(
            "Unbounded push grows by {climb} MB/s, {predicted} predicted; pull takes {most} MB at \
             most"
        ),
        "Resident memory of the processor, from /proc once a second.",
        "resident memory, MB",
        lines,
    )
}

fn rates_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let mut lines = drawing.arms(" polls", |arm| {
        stats::rates(&arm.metric("processor", "processor_events_fetched_total"))
    });
    if let Some(arm) = run.arm("unbounded") {
        let taken = stats::rates(&arm.metric("sink", "sink_events_total"));
        lines.push(Line { ink: Ink::Green, ..drawing.arm(arm, "'s sink takes", &taken) });
    }
    let ceiling = run.plan.setup.ceiling;
    lines.push(drawing.limit(format!("sink's ceiling, {}/s", figure(ceiling)), ceiling));
    let overload = run.plan.setup.overload().settled(SETTLE_S);
    let ratio = |name| drawing.figure(name, |arm| poll_ratio(arm, overload));
    let (pull, unbounded) = (ratio("pull"), ratio("unbounded"));
    drawing.chart(
        "rates",
        format!("Pull polls {pull} × what its sink takes, unbounded push {unbounded} ×"),
        "Events polled from the log and events acked by the sink, per second. The ratio is the \
         overload's.",
        "events/s",
        lines,
    )
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), Rates::constant(setup.ceiling));
    let mut lines = drawing.arms(", measured", Arm::lag);
    lines.push(drawing.model("both, predicted", |t| Some(model::backlog(&offered, &ceiling, t))));
    let at_end = |name| drawing.figure(name, |arm| drawing.last(&arm.lag()));
    let (pull, unbounded) = (at_end("pull"), at_end("unbounded"));
    drawing.chart(
        "lag",
        format!("Consumer lag at the end: {pull} events in pull, {unbounded} in unbounded push"),
        "Log end less committed offset, all partitions. What waits in unbounded push's heap is not \
         committed, so lag counts it as if it were still in the log.",
        "consumer lag, events",
        lines,
    )
}

fn latency_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), Rates::constant(setup.ceiling));
    let p99 = |arm: &Arm| arm.latency(Stage::EndToEnd, 0.99);
    let mut lines = drawing.arms(", measured", p99);
    lines.push(drawing.model("both, predicted", |t| model::wait_s(&offered, &ceiling, t)));
    let at_end = |name| drawing.figure(name, |arm| drawing.last(&p99(arm)));
    let (pull, unbounded) = (at_end("pull"), at_end("unbounded"));
    let predicted = figure(run.plan.predicted("wait_at_end"));
    drawing.chart(
        "latency",
        format!(
            "p99 latency at the end: {pull} s in pull, {unbounded} s in unbounded push, \
             {predicted} s predicted"
        ),
        "Due time to acked by the sink, 99th percentile of the events acked in each second.",
        "end-to-end latency p99, s",
        lines,
    )
}

fn scaled(series: Series, by: f64) -> Series {
    series.into_iter().map(|(t, v)| (t, v / by)).collect()
}
