//! Experiment 2: pull against unbounded push. The same overload, the same sink; does the
//! difference wait in the log or in the heap?

use super::asking::{
    Asking, MB, SETTLE_S, heap_per_event, poll_ratio, rss_max_mb, rss_slope_mb, scaled,
};
use super::drawing::Drawing;
use super::{ArmSpec, Check, Experiment, Margin, Prediction, Setup, no_tables};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model::{self, Rates};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::figure;
use crate::telemetry::latency::Stage;

/// Resident memory that the pull arm must stay under, MB.
const PULL_RSS_MAX_MB: f64 = 64.0;

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
    tables: no_tables,
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
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        if arm.spec.name == "pull" {
            asking.rss_flat_in(overload);
            asking.rss_under(PULL_RSS_MAX_MB);
        } else {
            let grows = (said("unbounded_rss_slope"), Margin::Share(0.10));
            let rss = rss_slope_mb(arm, overload);
            asking.ask(
                "rss_slope",
                "Does its memory grow as the model predicts?",
                grows,
                rss,
                "MB/s",
            );
            let bytes = (said("event_bytes"), Margin::Share(0.05));
            let heap = heap_per_event(arm, overload);
            asking.ask(
                "event_bytes",
                "Heap in use per queued event, as computed?",
                bytes,
                heap,
                "B",
            );
        }
        let wanted = (said(&format!("{}_poll_ratio", arm.spec.name)), Margin::Share(0.05));
        let polled = poll_ratio(arm, overload);
        asking.ask("poll_ratio", "Poll rate over sink rate, under overload", wanted, polled, "");
        asking.sink_busy_in(overload);
        asking.offered_in(overload);
        asking.lag_flat_at(baseline);
        asking.lag_climbs_in(overload);
        checks.append(&mut asking.checks);
    }
    checks
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
    let climb = drawing.figure("unbounded", |arm| rss_slope_mb(arm, overload));
    let most = drawing.figure("pull", rss_max_mb);
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
