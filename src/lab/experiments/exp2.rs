//! Experiment 2: pull against unbounded push. The same overload, the same sink; does the
//! difference wait in the log or in the heap?

use super::{Check, Experiment, Margin, Phase, Prediction, Setup};
use crate::lab::charts::{Chart, Ink, Line, Span};
use crate::lab::model::{self, Rates};
use crate::lab::report::figure;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::telemetry::latency::Stage;

/// Resident memory that the pull arm must stay under, MB.
const PULL_RSS_MAX_MB: f64 = 64.0;
/// Seconds after a change of load that are left out of slopes and rates: the group's join or the
/// sink's burst, the first fetches, the allocator's first slabs.
const SETTLE_S: f64 = 5.0;
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
    arms: &["pull", "unbounded"],
    predict,
    checks,
    charts,
    limits: "One machine and one run an arm: no spread between repeats. Resident memory is the \
             kernel's; b leaves out the allocator's own records, about 128 B for each 4 KiB page of \
             eight payloads, which is 3 % of b. Both arms read the same backlog \
             later; how long that takes is experiment 4's matter.",
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
                &format!("{}_{name}", arm.name),
                question,
                wanted,
                measured,
                unit,
            ));
        };
        let rss = slope_mb(arm, overload);
        let ratio = said(&format!("{}_poll_ratio", arm.name));
        if arm.name == "pull" {
            // 2 % of what an unbounded queue would grow by: 71 kB/s, 4 MB in a minute.
            let flat = (said("pull_rss_slope"), Margin::Absolute(0.02 * climb));
            ask("rss_slope", "Is pull's memory flat under overload?", flat, rss, "MB/s");
            let max = stats::max(&arm.rss_bytes("processor")).map(|bytes| bytes / MB);
            let under = (PULL_RSS_MAX_MB, Margin::AtMost);
            ask("rss_max", "Does it stay under its limit, start to end?", under, max, "MB");
        } else {
            let grows = (climb, Margin::Share(0.10));
            ask("rss_slope", "Does the heap grow as the model predicts?", grows, rss, "MB/s");
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
        // The lag is a saw of λ × the commit interval of 1 s: over the quick form's 14 s its slope
        // has a standard deviation of 1.7 % of λ, twice that where the commits come late.
        let flat = (said("baseline_lag_slope"), Margin::Absolute(0.1 * baseline.rate));
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

fn poll_ratio(arm: &Arm, phase: Phase) -> Option<f64> {
    let polled = arm.rate_in("processor", "processor_events_fetched_total", phase)?;
    Some(polled / arm.rate_in("sink", "sink_events_total", phase)?)
}

fn ink(arm: &Arm) -> Ink {
    if arm.name == "pull" { Ink::Blue } else { Ink::Vermilion }
}

fn charts(run: &Run) -> Vec<Chart> {
    let setup = &run.plan.setup;
    let spans: Vec<Span> = setup
        .phases()
        .map(|p| Span { label: format!("{}/s offered", figure(p.rate)), from: p.from, to: p.to })
        .collect();
    let end = setup.overload().to;
    let lines = |of: &dyn Fn(&Arm) -> Series| -> Vec<Line> {
        let line = |arm| Line {
            label: format!("{}, measured", arm_name(arm)),
            ink: ink(arm),
            points: stats::between(&of(arm), 0.0, end),
        };
        run.arms.iter().map(line).collect()
    };
    let shown = |value: Option<f64>| value.map_or("?".to_owned(), figure);
    let overload = setup.overload().settled(SETTLE_S);
    let per_arm = |of: &dyn Fn(&Arm) -> Option<f64>| -> (String, String) {
        let of = |name| shown(run.arm(name).and_then(of));
        (of("pull"), of("unbounded"))
    };
    let chart = |name, title, subtitle: &str, y_label, lines| Chart {
        name,
        title,
        subtitle: subtitle.to_owned(),
        x_label: "time since the first event was due, s",
        y_label,
        lines,
        spans: spans.clone(),
    };
    let model = |label: &str, of: &dyn Fn(f64) -> Option<f64>| Line {
        label: label.to_owned(),
        ink: Ink::Predicted,
        points: (0..=end as u32 * 2)
            .map(|t| f64::from(t) / 2.0)
            .filter_map(|t| Some((t, of(t)?)))
            .collect(),
    };
    let (offered, ceiling) = (setup.offered(), Rates::constant(setup.ceiling));
    let flat = |label: String, value: f64| Line {
        label,
        ink: Ink::Limit,
        points: vec![(0.0, value), (end, value)],
    };

    let mut rss = lines(&|arm| scaled(arm.rss_bytes("processor"), MB));
    // The model gives growth; where it starts from is measured before the overload.
    let base = run.arm("unbounded").and_then(|arm| {
        let before = stats::between(&arm.rss_bytes("processor"), 0.0, setup.baseline().to);
        stats::mean(&before)
    });
    rss.push(model("unbounded push, predicted: start + b (λ − μ) t", &|t| {
        let queue = model::queued(model::backlog(&offered, &ceiling, t), f64::INFINITY);
        Some(model::rss_bytes(base?, setup.event_bytes, queue) / MB)
    }));
    rss.push(flat(format!("limit for pull, {} MB", figure(PULL_RSS_MAX_MB)), PULL_RSS_MAX_MB));
    let (_, climb) = per_arm(&|arm| slope_mb(arm, overload));
    let (most, _) = per_arm(&|arm| stats::max(&arm.rss_bytes("processor")).map(|b| b / MB));

    let mut rates =
        lines(&|arm| stats::rates(&arm.metric("processor", "processor_events_fetched_total")));
    for (line, arm) in rates.iter_mut().zip(&run.arms) {
        line.label = format!("{} polls", arm_name(arm));
    }
    if let Some(arm) = run.arm("unbounded") {
        let sink = stats::rates(&arm.metric("sink", "sink_events_total"));
        let points = stats::between(&sink, 0.0, end);
        rates.push(Line { label: "unbounded push's sink takes".into(), ink: Ink::Green, points });
    }
    rates.push(flat(format!("sink's ceiling, {}/s", figure(setup.ceiling)), setup.ceiling));
    let ratios = per_arm(&|arm| poll_ratio(arm, overload));

    let last = |series: Series| stats::between(&series, 0.0, end).last().map(|p| p.1);
    let mut lag = lines(&|arm| arm.lag());
    lag.push(model("both, predicted", &|t| Some(model::backlog(&offered, &ceiling, t))));
    let lags = per_arm(&|arm| last(arm.lag()));

    let mut waits = lines(&|arm| arm.latency(Stage::EndToEnd, 0.99));
    waits.push(model("both, predicted", &|t| model::wait_s(&offered, &ceiling, t)));
    let p99 = per_arm(&|arm| last(arm.latency(Stage::EndToEnd, 0.99)));
    vec![
        chart(
            "rss",
            format!(
                "Unbounded push grows by {climb} MB/s, {} predicted; pull never takes more than {most} MB",
                figure(run.plan.predicted("unbounded_rss_slope"))
            ),
            "Resident memory of the processor, from /proc once a second. Same load, same sink.",
            "resident memory, MB",
            rss,
        ),
        chart(
            "rates",
            format!("Pull polls {} × what the sink takes, unbounded push {} ×", ratios.0, ratios.1),
            "Events polled from the log and events acked by the sink, per second.",
            "events/s",
            rates,
        ),
        chart(
            "lag",
            format!(
                "Lag does not tell pull from unbounded push: {} and {} events at the end",
                lags.0, lags.1
            ),
            "Log end less committed offset, all partitions. What unbounded push has polled is not acked yet.",
            "consumer lag, events",
            lag,
        ),
        chart(
            "latency",
            format!(
                "The same wait, elsewhere: p99 at the end is {} s in pull, in the log, {} s in unbounded push, in the heap",
                p99.0, p99.1
            ),
            "Due time to acked by the sink, 99th percentile of each second's.",
            "end-to-end latency p99, s",
            waits,
        ),
    ]
}

fn arm_name(arm: &Arm) -> &str {
    if arm.name == "pull" { "pull" } else { "unbounded push" }
}

fn scaled(series: Series, by: f64) -> Series {
    series.into_iter().map(|(t, v)| (t, v / by)).collect()
}
