//! Experiment 2: pull against unbounded push, with the same overload and the same sink. Does the
//! difference wait in the log or in the heap?

use super::asking::{
    Asking, IN_FLIGHT, MB, SETTLE_S, heap_per_event, poll_ratio, rss_max_mb, rss_slope_mb, scaled,
};
use super::drawing::Drawing;
use super::{
    ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, no_tables,
};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::samples::Sample;
use crate::lab::stats;
use crate::lab::text::figure;
use crate::telemetry::latency::Stage;

/// Resident memory that the pull arm must stay under, MB.
const PULL_RSS_MAX_MB: f64 = 64.0;

/// Correlation of poll rate and sink rate from which they count as coupled, and below which they do
/// not. Over 30 unrelated samples, |r| is below 0.5 in 199 of 200 runs.
const FOLLOWS_MIN: f64 = 0.9;
const IGNORES_MAX: f64 = 0.5;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp2",
    title: "pull against unbounded push",
    question: "The source outruns the sink. If the consumer polls only what the sink takes, where \
               does the difference wait, and what does it cost? And if it polls all it can get?",
    held: "load schedule, seed, payload, sink, its ceiling and its stall, batching, workers, topic layout, \
           fetch client, machine; one arm after the other, each on a topic and processes of its own",
    varied: "the queue between poll and sink: none, poll after ack (`pull`), or without limit \
             (`unbounded`)",
    arms: &[
        ArmSpec::new("pull", "pull", Ink::Blue),
        ArmSpec::new("unbounded", "unbounded push", Ink::Vermilion),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: no_tables,
    limits: "One machine and one run an arm: no spread between repeats. Both \
             arms read the same backlog later; how long that takes is not asked here.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:15s,8000:60s", "1500:60s,8000:30m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    // Towards the end the sink stalls: which poll rate follows?
    let (from, time) = form.of((58.0, 15.0), (560.0, 60.0));
    let stall = Some(Phase { rate: 500.0, from, to: from + time });
    let arm =
        |name, flags| Launch { stall, ..Launch::new(name, &load, "--rate-limit 2000", flags) };
    vec![arm("pull", "--queue pull"), arm("unbounded", "--queue unbounded")]
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (offered, ceiling) = (setup.overload().rate, setup.ceiling);
    let excess = offered - ceiling;
    let over = format!("λ − μ = {} − {}", figure(offered), figure(ceiling));
    let end = setup.overload().to;
    let wait = model::wait_s(&setup.offered(), &setup.ceilings(), end).unwrap_or(0.0);
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
            setup.resident_bytes * excess / MB,
            "MB/s",
            format!(
                "b (λ − μ) = {} B resident × {}/s",
                figure(setup.resident_bytes),
                figure(excess)
            ),
        ),
        p("pull_rss_slope", 0.0, "MB/s", "no queue, so b × 0".into()),
        p("pull_coupling", 1.0, "", "what it polls is what the sink took".into()),
        p(
            "unbounded_coupling",
            0.0,
            "",
            "what it polls is what is offered, whatever the sink does".into(),
        ),
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

/// The overload without its first seconds, before the sink stalls.
fn steady(setup: &Setup) -> Phase {
    let overload = setup.overload();
    let to = setup.stall.map_or(overload.to, |stall| overload.to.min(stall.from));
    Phase { to, ..overload }.settled(SETTLE_S)
}

/// The stall, with as much of the steady overload before it: half of it at each of the sink's rates.
fn stalled(setup: &Setup) -> Phase {
    let stall = setup.stall.unwrap_or(Phase::NONE);
    Phase { rate: setup.overload().rate, from: stall.from - stall.length(), to: stall.to }
}

/// How closely the poll rate follows the sink's, sample by sample (Pearson's r).
fn correlation(arm: &Arm, phase: Phase) -> Option<f64> {
    let polled = |s: &Sample| s.metric("processor", "processor_events_fetched_total");
    let totals = arm.against(phase, polled, Sample::delivered);
    let gains = totals.iter().zip(totals.iter().skip(1)).map(|(a, b)| (b.0 - a.0, b.1 - a.1));
    stats::correlation(&gains.collect::<Vec<_>>())
}

fn checks(run: &Run) -> Vec<Check> {
    let overload = steady(&run.plan.setup);
    let baseline = run.plan.setup.baseline().settled(SETTLE_S);
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        if arm.spec.name == "pull" {
            asking.rss_flat_in(overload);
            asking.rss_under(PULL_RSS_MAX_MB);
        } else {
            let why = "5 % of the layout, and the rates that are offered and served";
            let grows = (said("unbounded_rss_slope"), Margin::Share(0.10), why);
            let rss = rss_slope_mb(arm, overload);
            asking.ask(
                "rss_slope",
                "Does its memory grow as the model predicts?",
                grows,
                rss,
                "MB/s",
            );
            let bytes = (
                said("event_bytes"),
                Margin::Share(0.05),
                "sampling, and answers that come and go",
            );
            let heap = heap_per_event(arm, overload);
            asking.ask(
                "event_bytes",
                "Heap in use per queued event, as computed?",
                bytes,
                heap,
                "B",
            );
        }
        let why = "two counters, each read once a second over the phase";
        let wanted = (said(&format!("{}_poll_ratio", arm.spec.name)), Margin::Share(0.05), why);
        let polled = poll_ratio(arm, overload);
        asking.ask("poll_ratio", "Poll rate over sink rate, under overload", wanted, polled, "");
        let follows = match arm.spec.name {
            "pull" => (FOLLOWS_MIN, Margin::AtLeast, "1 less the jitter of one look a second"),
            _ => (IGNORES_MAX, Margin::AtMost, "0 and what chance gives in so few looks"),
        };
        let question = "Correlation of poll rate and sink rate through the stall";
        let coupled = correlation(arm, stalled(&run.plan.setup));
        asking.ask("coupling", question, follows, coupled, "");
        asking.sink_busy_in(overload);
        asking.offered_in(overload);
        asking.keeps_up_in(baseline, IN_FLIGHT);
        asking.lag_climbs_in(overload);
        checks.append(&mut asking.checks);
    }
    checks
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    [rss_chart, rates_chart, ratio_chart, lag_chart, latency_chart]
        .map(|chart| chart(run, &drawing))
        .into()
}

fn rss_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), setup.ceilings());
    let mut lines = drawing.arms(", measured", |arm| scaled(arm.rss_bytes("processor"), MB));
    // The model gives growth; where it starts from is measured before the overload.
    let base = run.arm("unbounded").and_then(|arm| {
        let before = stats::between(&arm.rss_bytes("processor"), 0.0, setup.baseline().to);
        stats::mean(&before)
    });
    let excess = figure(setup.overload().rate - setup.ceiling);
    let label = format!("predicted: {} B × {excess}/s", figure(setup.resident_bytes));
    lines.push(drawing.model(label, |t| {
        let queue = model::queued(model::backlog(&offered, &ceiling, t), f64::INFINITY);
        Some(model::rss_bytes(base?, setup.resident_bytes, queue) / MB)
    }));
    let limit = format!("limit for pull, {} MB", figure(PULL_RSS_MAX_MB));
    lines.push(drawing.limit(limit, PULL_RSS_MAX_MB));
    let overload = steady(setup);
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
        let taken = stats::rates(&arm.delivered());
        lines.push(Line { ink: Ink::Green, ..drawing.arm(arm, "'s sink takes", &taken) });
    }
    let offered = run.plan.setup.offered();
    lines
        .push(drawing.model("unbounded push, predicted: what is offered", |t| Some(offered.at(t))));
    let ceiling = run.plan.setup.ceiling;
    let label = format!("pull, predicted: the sink's ceiling, {}/s", figure(ceiling));
    lines.push(drawing.limit(label, ceiling));
    let overload = steady(&run.plan.setup);
    let ratio = |name| drawing.figure(name, |arm| poll_ratio(arm, overload));
    let (pull, unbounded) = (ratio("pull"), ratio("unbounded"));
    drawing.chart(
        "rates",
        format!("Pull polls {pull} × what its sink takes, unbounded push {unbounded} ×"),
        "Events polled from the log and events acked by the sink, per second; towards the end the \
         sink stalls. The ratio is that before the stall.",
        "events/s",
        lines,
    )
}

fn ratio_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms(", measured", |arm| {
        let polled = stats::rates(&arm.metric("processor", "processor_events_fetched_total"));
        let taken = stats::rates(&arm.delivered());
        let pairs = polled.iter().zip(&taken).filter(|(p, t)| p.0 == t.0 && t.1 > 0.0);
        pairs.map(|(p, t)| (p.0, p.1 / t.1)).collect()
    });
    lines.push(drawing.model("unbounded push, predicted: λ / μ", |t| {
        Some(setup.offered().at(t) / setup.ceilings().at(t).min(setup.offered().at(t)))
    }));
    lines.push(drawing.limit("pull, predicted: 1", 1.0));
    let r = |name| drawing.figure(name, |arm| correlation(arm, stalled(setup)));
    let (pull, unbounded) = (r("pull"), r("unbounded"));
    drawing.chart(
        "coupling",
        format!(
            "Through a stall pull's poll rate follows the sink's (r = {pull}), unbounded push's does \
             not (r = {unbounded})"
        ),
        "Events polled for each event that the sink took, second by second; the sink stalls towards \
         the end.",
        "poll rate / sink rate",
        lines,
    )
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), setup.ceilings());
    let mut lines = drawing.arms(", measured", Arm::lag);
    lines.push(drawing.model("both, predicted", |t| Some(model::backlog(&offered, &ceiling, t))));
    let at_end = |name| drawing.figure(name, |arm| drawing.last(&arm.lag()));
    let (pull, unbounded) = (at_end("pull"), at_end("unbounded"));
    drawing.chart(
        "lag",
        format!("Consumer lag at the end: {pull} events in pull, {unbounded} in unbounded push"),
        "High watermark less committed offset, all partitions. What waits in unbounded push's heap is not \
         committed, so lag counts it as if it were still in the log.",
        "consumer lag, events",
        lines,
    )
}

fn latency_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), setup.ceilings());
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
