//! Experiment 10: spill to disk. The sink is away for longer than Kafka keeps the events: which queue loses some, how many,
//! and what does it cost to lose none?

use super::asking::{Asking, MB, RSS_MAX_MB, SETTLE_S, rss_max_mb};
use super::drawing::Drawing;
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, PROMISE, Phase};
use super::{Prediction, Setup, Table};
use crate::lab::audit::Ledger;
use crate::lab::charts::{Chart, Ink};
use crate::lab::cluster::retention_check_s;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::{figure, thousands};
use crate::lab::{layout, model};

/// The stall is half as long again as the retention.
const STALLED_OF_KEPT: f64 = 1.5;
/// What the sink still takes in the stall, events/s: calls are answered, and no worker waits for a time limit.
const STALLED: f64 = 50.0;
/// The processor's commit interval, and as long for the answers of a busy cluster: the lag where nothing waits for the sink.
const COMMITTED_S: f64 = 2.0;
/// How long an event is on disk at most where it only passes through, s: what is written waits for its reader.
const PASSING_S: f64 = 0.1;
/// Seconds of a stall's end that are left out: it is a command to the sink, and comes within a second.
const EDGE_S: f64 = 2.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp10",
    title: "spill to disk",
    question: "The sink stalls for half as long again as Kafka keeps the events. How many does a bounded queue lose, and \
               what does a queue that spills to disk lose, hold and cost?",
    held: "load, seed, payload, sink, stall, retention by time, batching, workers, the queue's capacity in memory, \
           machine",
    varied: "the queue: bounded (`bounded`); with a disk behind its memory, offsets committed after the sink's ack (`acked`) \
             or once the events are durable on disk (`spilled`)",
    arms: &[
        ArmSpec { loses: true, ..ArmSpec::new("bounded", "bounded", Ink::Vermilion) },
        ArmSpec::new("acked", "spill, commit acked", Ink::Blue),
        ArmSpec::new("spilled", "spill, commit spilled", Ink::Green),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![costs(run)],
    limits: "One machine and one run an arm; the spill and the brokers share its disk. Kafka keeps whole segments, here of \
             1 s, so what is lost is predicted to a second's events and counted to the id. No process is killed: that a \
             restarted processor delivers what `spilled` let go is a test's business (`tests/kafka/spill.rs`).",
};

fn launches(form: Form) -> Vec<Launch> {
    let kept_s = form.of(20.0, 60.0);
    // After the stall the backlog drains at μ − λ.
    let load = format!("--schedule {} --msg-size 512 --seed 1", form.of("1500:62s", "1500:160s"));
    let from = 10.0;
    let stall = Some(Phase { rate: STALLED, from, to: from + STALLED_OF_KEPT * kept_s });
    let topic = [format!("retention.ms={}", kept_s * 1000.0), "segment.ms=1000".into()];
    let arm = |name, queue: &str| {
        let flags = format!("--queue {queue} --queue-cap 1000 --batch-size 100");
        let launch = Launch::new(name, &load, "--rate-limit 4000", &flags);
        Launch { stall, topic: topic.clone().into(), partitions: 6, ..launch }
    };
    vec![
        arm("bounded", "bounded"),
        arm("acked", "spill --spill-commit acked"),
        arm("spilled", "spill --spill-commit spilled"),
    ]
}

fn stall(setup: &Setup) -> Phase {
    setup.stall.unwrap_or(Phase::NONE)
}

/// The stall, without the second in which it begins, and that in which it ends.
fn during(setup: &Setup) -> Phase {
    let stall = stall(setup);
    Phase { from: stall.from + EDGE_S, to: stall.to - EDGE_S, ..stall }
}

/// Seconds of the log, from its start to its end, on average.
fn kept_s(arm: &ArmSetup) -> f64 {
    arm.retention_s + (arm.segment_s + retention_check_s()) / 2.0
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (stall, load) = (stall(setup), setup.baseline().rate);
    let bounded = setup.arm("bounded");
    let of = |figure: fn(&ArmSetup) -> f64| bounded.map_or(f64::NAN, figure);
    let (kept, in_flight) = (of(kept_s), of(ArmSetup::in_flight));
    let cap = of(|arm| arm.queue_cap.unwrap_or(f64::NAN));
    let time = std::time::Duration::from_secs_f64(stall.length());
    let after = model::stall(load, setup.ceiling, stall.rate, time);
    let lost = load * (stall.length() - kept) - stall.rate * stall.length() - cap - in_flight;
    let on_disk = (after.peak - cap - in_flight).max(0.0);
    let bytes = layout::spilled_event_bytes(setup.payload_bytes);
    let p = Prediction::new;
    vec![
        p(
            "lost",
            lost.max(0.0),
            "events",
            format!(
                "λ (T − K) − μ' T − C − W B: what came in the stall of T = {} s, less what Kafka keeps, K = {} s, less what \
                 the sink took, what the queue holds and what workers hold. K is the retention, half a segment, and half of \
                 the time between two looks of the broker",
                figure(stall.length()),
                figure(kept)
            ),
        ),
        p(
            "on_disk",
            on_disk,
            "events",
            "(λ − μ') T − C − W B: the backlog that memory does not hold".into(),
        ),
        p("on_disk_mb", on_disk * bytes / MB, "MB", format!("× {} B an event", figure(bytes))),
        p(
            "drained",
            on_disk / (setup.ceiling - load),
            "s",
            format!("{} / (μ − λ) = {}/s", figure(on_disk), figure(setup.ceiling - load)),
        ),
        p(
            "acked_lag",
            after.peak.min(load * kept),
            "events",
            "the smaller of (λ − μ') T and λ K: not committed before the ack, and what retention deleted is no lag".into(),
        ),
        p(
            "spilled_lag",
            load * COMMITTED_S,
            "events",
            "at most λ × 2 s: a commit interval, and as long for its answer; what is on disk is committed".into(),
        ),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let (stall, said) = (stall(setup), |name: &str| run.plan.predicted(name));
    let before = Phase { rate: setup.baseline().rate, from: SETTLE_S, to: stall.from - 1.0 };
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let mut asking = Asking::of(run, arm);
        let in_flight = setup.arm(name).map_or(f64::NAN, ArmSetup::in_flight);
        asking.keeps_up_in(before, in_flight);
        asking.offered_in(Phase { from: SETTLE_S, to: setup.end_s() - 1.0, ..before });
        if name == "bounded" {
            let why = "Kafka keeps whole segments of a second and looks once a second: a second's events, either way";
            let wanted = (said("lost"), Margin::Absolute(before.rate), why);
            asking.ask("lost", "Events that retention took", wanted, lost(arm), "events");
        } else {
            let nothing = (0.0, Margin::AtMost, PROMISE);
            asking.ask("lost", "Events that retention took", nothing, lost(arm), "events");
            let why = "the backlog is a difference of two rates; a stall begins and ends within a second of its time";
            let wanted = (said("on_disk"), Margin::Share(0.10), why);
            let question = "Events on disk, at most";
            asking.ask("on_disk", question, wanted, most(arm, EVENTS), "events");
            let why = "that of its events, and a segment of 8 MiB that is given back as a whole";
            let wanted = (said("on_disk_mb"), Margin::Share(0.25), why);
            let bytes = most(arm, BYTES).map(|bytes| bytes / MB);
            asking.ask("on_disk_mb", "Size of its segments, at most", wanted, bytes, "MB");
            let why = "that of the peak, which it follows from";
            let wanted = (said("drained"), Margin::Share(0.15), why);
            let question = "From the stall's end until nothing is left on disk";
            asking.ask("drained", question, wanted, drained_s(setup, arm), "s");
            let (segments, why) = match name {
                "acked" => (1.0, "the newest segment stays, 8 MiB"),
                _ => (
                    2.0,
                    "the newest segment stays, 8 MiB, and the one before it until the sink acked it",
                ),
            };
            let left = (segments * SEGMENT_MB, Margin::AtMost, why);
            let last = arm.metric("processor", BYTES).last().map(|point| point.1 / MB);
            asking.ask("given_back", "Is the disk given back?", left, last, "MB");
            let lag = stats::max(&stats::between(&arm.lag(), stall.from, stall.to));
            let question = "The lag in the stall, at most";
            match name {
                "acked" => {
                    let why = "as of what bounded loses, a second's events of what Kafka keeps";
                    let wanted = (said("acked_lag"), Margin::Absolute(before.rate), why);
                    asking.ask("lag", question, wanted, lag, "events");
                }
                _ => {
                    let why = "what is on disk is committed";
                    let wanted = (said("spilled_lag"), Margin::AtMost, why);
                    asking.ask("lag", question, wanted, lag, "events");
                }
            }
            let why =
                "as bounded: what is on disk is not in memory; both hold C and what is fetched";
            let bounded = run.arm("bounded").and_then(rss_max_mb);
            let under = (bounded.unwrap_or(f64::NAN) + SEGMENT_MB, Margin::AtMost, why);
            asking.ask("rss", "Memory, against bounded's", under, rss_max_mb(arm), "MB");
        }
        asking.rss_under(RSS_MAX_MB);
        checks.append(&mut asking.checks);
    }
    checks
}

/// Length of a segment, in MB.
const SEGMENT_MB: f64 = crate::queue::spill::segment::SEGMENT_BYTES as f64 / MB;
const EVENTS: &str = "processor_spill_events";
const BYTES: &str = "processor_spill_bytes";

fn most(arm: &Arm, metric: &str) -> Option<f64> {
    stats::max(&arm.metric("processor", metric))
}

/// Events that the processor found gone.
fn lost(arm: &Arm) -> Option<f64> {
    Some(arm.ledger.as_ref()?.lost as f64)
}

/// From the stall's end to the first look that finds no more on disk than what passes through it, s.
fn drained_s(setup: &Setup, arm: &Arm) -> Option<f64> {
    let (stall, passing) = (stall(setup), setup.baseline().rate * PASSING_S);
    let on_disk = arm.metric("processor", EVENTS);
    let empty = on_disk.iter().find(|(t, events)| *t > stall.to && *events <= passing)?;
    Some(empty.0 - stall.to)
}

/// What each queue costs, from the same measurements as the checks.
fn costs(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let during = during(setup);
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<String> + 'a>);
    let count =
        |of: fn(&Ledger) -> u64| move |arm: &Arm| Some(thousands(of(arm.ledger.as_ref()?) as f64));
    let total = |key: &'static str| move |arm: &Arm| most(arm, key);
    let cells: [Cell<'_>; 9] = [
        ("lost to retention, events", Box::new(count(|ledger| ledger.lost))),
        ("delivered, events", Box::new(count(|ledger| ledger.delivered))),
        ("delivered twice, events", Box::new(count(|ledger| ledger.duplicates))),
        ("on disk at most, events", Box::new(move |arm| total(EVENTS)(arm).map(figure))),
        ("on disk at most, MB", Box::new(move |arm| Some(figure(total(BYTES)(arm)? / MB)))),
        (
            "written to disk, MB",
            Box::new(move |arm| {
                Some(figure(total("processor_spill_written_bytes_total")(arm)? / MB))
            }),
        ),
        (
            "syncs, a second of the stall",
            Box::new(move |arm| {
                let rate = arm.rate_in("processor", "processor_spill_syncs_total", during)?;
                Some(figure(rate))
            }),
        ),
        (
            "the lag in the stall, at most, events",
            Box::new(move |arm| {
                stats::max(&stats::between(&arm.lag(), during.from, during.to)).map(figure)
            }),
        ),
        ("memory, at most, MB", Box::new(|arm| rss_max_mb(arm).map(figure))),
    ];
    Table::by_arm("What a stall longer than the retention costs", "", run, cells)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    vec![lost_chart(run, &drawing), disk_chart(run, &drawing), lag_chart(run, &drawing)]
}

fn lost_so_far(arm: &Arm) -> Series {
    arm.series(|s| {
        s.metric("processor", "processor_events_fetched_total")?;
        Some(s.metric_sum("processor", "processor_events_lost_total").unwrap_or(0.0))
    })
}

fn lost_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let said = run.plan.predicted("lost");
    let mut lines = drawing.arms("", lost_so_far);
    lines.push(drawing.limit(format!("bounded, predicted: {}", figure(said)), said));
    let of = |name| drawing.figure(name, lost);
    drawing.chart(
        "lost",
        format!(
            "A stall of {} s on a log of {} s: bounded loses {} events, {} predicted; spilling loses {} and {}",
            figure(stall(setup).length()),
            figure(setup.arm("bounded").map_or(f64::NAN, |arm| arm.retention_s)),
            of("bounded"),
            figure(said),
            of("acked"),
            of("spilled")
        ),
        "Offsets that retention deleted before they were fetched, as the processor counts them.",
        "events lost",
        lines,
    )
}

fn disk_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let spilling = || run.arms.iter().filter(|arm| arm.spec.name != "bounded");
    let mut lines: Vec<_> =
        spilling().map(|arm| drawing.arm(arm, "", &arm.metric("processor", EVENTS))).collect();
    let held = setup.queue_cap + setup.arm("acked").map_or(f64::NAN, ArmSetup::in_flight);
    lines.push(drawing.model("predicted", |t| {
        let backlog = model::backlog(&setup.offered(), &setup.ceilings(), t);
        Some((backlog - held).max(0.0))
    }));
    let most = |name| drawing.figure(name, |arm| most(arm, EVENTS));
    let drained = |name| drawing.figure(name, |arm| drained_s(setup, arm));
    drawing.chart(
        "disk",
        format!(
            "On disk wait up to {} and {} events, {} predicted; they are gone {} and {} s after the stall",
            most("acked"),
            most("spilled"),
            figure(run.plan.predicted("on_disk")),
            drained("acked"),
            drained("spilled")
        ),
        "Events on disk that did not come back to memory yet. Predicted: the backlog less what memory and workers hold.",
        "events on disk",
        lines,
    )
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("", Arm::lag);
    let kept = setup.arm("acked").map_or(f64::NAN, kept_s) * setup.baseline().rate;
    lines.push(drawing.model("commit acked, predicted", |t| {
        Some(model::backlog(&setup.offered(), &setup.ceilings(), t).min(kept))
    }));
    let most = |name| drawing.figure(name, |arm| stats::max(&arm.lag()));
    drawing.chart(
        "lag",
        format!(
            "Lag shows no more than Kafka keeps, {} events, where the ack commits; {} at most where what is durable on disk is \
             committed",
            most("acked"),
            most("spilled")
        ),
        "High watermark less committed offset, all partitions; what retention deleted is no lag.",
        "consumer lag, events",
        lines,
    )
}
