//! Experiment 15: the hidden queue. The same bounded queue, filled from clients that fetch when they are asked, and from
//! one that fetches ahead: what stands in front of the queue that has a limit?

use super::asking::{Asking, MB, RSS_MAX_MB, SETTLE_S, rss_max_mb, scaled};
use super::drawing::Drawing;
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase};
use super::{Prediction, Setup, Table};
use crate::event::HEADER_BYTES;
use crate::lab::charts::{Chart, Ink};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::figure;
use crate::planes::WAITING_BYTES_MAX;

/// The sink's ceiling, events/s, and what the queue holds.
const CEILING: f64 = 2000.0;
const QUEUE_CAP: f64 = 10_000.0;
/// The last seconds of the overload: all that fills is full.
const LAST_S: f64 = 8.0;
/// How full the queue is at least: a run of 200 events that does not fit waits.
const FULL: f64 = 0.9;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp15",
    title: "the hidden queue",
    question: "The queue is bounded, and memory is flat? A client that fetches ahead has a queue of its own in front of \
               it: how much does it hide, in events, bytes and seconds?",
    held: "load schedule, seed, payload, sink and its ceiling, a bounded queue of 10,000 events, policy `buffer`, \
           batching, workers, machine",
    varied: "the client: `wire`, which fetches what it is asked for; librdkafka with its own limits; librdkafka with \
             small ones; librdkafka that is paused while what it gave is worked on",
    arms: &[
        ArmSpec::new("wire", "wire", Ink::Blue),
        ArmSpec::new("rdkafka", "librdkafka", Ink::Vermilion),
        ArmSpec::new("small", "librdkafka, small", Ink::Green),
        ArmSpec::new("paused", "librdkafka, paused", Ink::Purple),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![hidden(run)],
    limits: "One machine and one run an arm. librdkafka's partitions are assigned by hand, as they are after a \
             rebalance; what it drops at a rebalance, and fetches again, is not measured. Java's and \
             franz-go's clients buffer too, each by rules of its own.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:10s,8000:32s", "1500:60s,8000:5m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let arm = |name: &str, client: &str| {
        let flags = format!("--queue bounded --queue-cap {QUEUE_CAP} {client}");
        Launch::new(name, &load, &format!("--rate-limit {CEILING}"), &flags)
    };
    let small = "--client rdkafka --prefetch-events 1000 --prefetch-bytes 1MiB --fetch-bytes 64KiB --answer-bytes 1MiB";
    vec![
        arm("wire", "--client wire"),
        arm("rdkafka", "--client rdkafka"),
        arm("small", small),
        arm("paused", "--client rdkafka --prefetch-pause on"),
    ]
}

fn full(setup: &Setup) -> Phase {
    let overload = setup.overload();
    Phase { from: overload.to - LAST_S, ..overload }
}

/// Bytes of an event's record value, by which librdkafka counts.
fn value_bytes(setup: &Setup) -> f64 {
    (setup.payload_bytes + HEADER_BYTES) as f64
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let value = value_bytes(setup);
    let of = |name: &str, figure: fn(&ArmSetup, f64) -> f64| {
        setup.arm(name).map_or(f64::NAN, |arm| figure(arm, value))
    };
    // It stops above its limit: then there is up to all of that on its way.
    let events = of("rdkafka", ahead) + of("rdkafka", on_its_way) / 2.0;
    let small = of("small", ahead) + of("small", on_its_way);
    let p = Prediction::new;
    vec![
        p(
            "rdkafka_events",
            events,
            "events",
            "the smaller of queued.min.messages and queued.max.messages.kbytes / value: both are asked of the one \
             queue that all partitions share. And half of what may be on its way then: a fetch of each partition"
                .into(),
        ),
        p("rdkafka_bytes", events * value / MB, "MB", "as many values".into()),
        p(
            "rdkafka_seconds",
            model::sojourn_s(events, setup.ceiling),
            "s",
            format!("N / μ; the queue that has a limit hides {} s", figure(setup.queue_cap / setup.ceiling)),
        ),
        p(
            "small_events",
            small,
            "events",
            format!(
                "at most queued.min.messages and what was on its way: {} events of all partitions' fetches",
                figure(of("small", on_its_way))
            ),
        ),
        p(
            "paused_received",
            of("paused", on_its_way) * value / WAITING_BYTES_MAX as f64,
            "×",
            "at most: an answer of each partition for what is taken between two pauses".into(),
        ),
    ]
}

/// Events that a fetch of each partition brings at most.
fn on_its_way(arm: &ArmSetup, value: f64) -> f64 {
    f64::from(arm.partitions) * arm.fetch_bytes / value
}

/// Events that librdkafka fetches ahead by its limits.
fn ahead(arm: &ArmSetup, value: f64) -> f64 {
    arm.prefetch_events.min(arm.prefetch_bytes / value)
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let full = full(setup);
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        let in_flight = setup.arm(arm.spec.name).map_or(f64::NAN, ArmSetup::in_flight);
        let is_paused = arm.spec.name == "paused";
        if !is_paused {
            asking.keeps_up_in(setup.baseline().settled(SETTLE_S), in_flight);
        }
        asking.offered_in(setup.overload().settled(SETTLE_S));
        asking.lag_climbs_in(setup.overload().settled(SETTLE_S));
        asking.sink_busy_in(full);
        let why = "a run that does not fit waits until there is room for it";
        let floor = (FULL * setup.queue_cap, Margin::AtLeast, why);
        let depth = in_the_end(arm, "processor_queue_depth", full);
        if !is_paused {
            asking.ask("queue", "Is the bounded queue full?", floor, depth, "events");
        }
        let events = in_the_end(arm, EVENTS, full);
        let question = "Events that the client holds unasked";
        match arm.spec.name {
            "wire" => {} // it fetches what it is asked for
            "rdkafka" => {
                let why = "it stops at its limit, and what was on its way comes on top";
                let wanted = (said("rdkafka_events"), Margin::Share(0.15), why);
                asking.ask("hidden", question, wanted, events, "events");
                let wanted = (said("rdkafka_bytes"), Margin::Share(0.15), why);
                let bytes = in_the_end(arm, BYTES, full).map(|bytes| bytes / MB);
                asking.ask(
                    "hidden_bytes",
                    "The same by its own count of bytes",
                    wanted,
                    bytes,
                    "MB",
                );
                let why = "at least the bytes that it counts; its records of them come on top";
                let floor = (said("rdkafka_bytes"), Margin::AtLeast, why);
                let wire = run.arm("wire").and_then(rss_max_mb);
                let more = rss_max_mb(arm).zip(wire).map(|(own, wire)| own - wire);
                asking.ask("rss_more", "Resident memory above `wire`'s", floor, more, "MB");
            }
            "paused" => {
                let question = "Bytes that brokers send for each that is taken";
                let why = "no more than an answer of each partition can come before the next pause";
                let most = (said("paused_received"), Margin::AtMost, why);
                let received_in = |phase| received(arm, setup, phase);
                let overload = setup.overload().settled(SETTLE_S);
                asking.ask("received", question, most, received_in(overload), "×");
                // A client that is not paused has filled up by then, and fetches what is taken.
                let twice =
                    (2.0, Margin::AtLeast, "what is thrown away is fetched again, more than once");
                let question = "The same at the end of the overload: is it fetched again?";
                asking.ask("again", question, twice, received_in(full), "×");
                let why =
                    "a tenth of its queue: an answer may be there at a look, but not at most looks";
                let most = (0.1 * setup.queue_cap, Margin::AtMost, why);
                let question =
                    "Events that the client holds unasked: does the pause throw them away?";
                asking.ask("hidden", question, most, events, "events");
            }
            _ => {
                let why = "its limit, and an answer of each partition";
                let most = (said("small_events"), Margin::AtMost, why);
                asking.ask("hidden", question, most, events, "events");
            }
        }
        asking.rss_under(RSS_MAX_MB);
        checks.append(&mut asking.checks);
    }
    checks
}

/// Bytes that brokers sent in `phase` for each byte of the values taken.
fn received(arm: &Arm, setup: &Setup, phase: Phase) -> Option<f64> {
    let sent = arm.rate_in("processor", "processor_client_received_bytes", phase)?;
    Some(sent / (arm.polled_in(phase)? * value_bytes(setup)))
}

const EVENTS: &str = "processor_prefetched_events";
const BYTES: &str = "processor_prefetched_bytes";

/// The median of a gauge of the processor's in `phase`.
fn in_the_end(arm: &Arm, gauge: &str, phase: Phase) -> Option<f64> {
    let seen = stats::between(&arm.metric("processor", gauge), phase.from, phase.to);
    stats::median(seen.into_iter().map(|(_, value)| value))
}

fn hidden(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let full = full(setup);
    let end = |gauge| move |arm: &Arm| in_the_end(arm, gauge, full);
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<f64> + 'a>);
    let cells: [Cell<'_>; 7] = [
        ("in the queue that has a limit, events", Box::new(end("processor_queue_depth"))),
        ("in the client's own, events", Box::new(end(EVENTS))),
        ("their bytes, MB", Box::new(move |arm| Some(in_the_end(arm, BYTES, full)? / MB))),
        (
            "what they wait there, s",
            Box::new(move |arm| Some(in_the_end(arm, EVENTS, full)? / setup.ceiling)),
        ),
        ("largest resident memory, MB", Box::new(rss_max_mb)),
        (
            "bytes that brokers send for each that is taken",
            Box::new(move |arm| received(arm, setup, setup.overload().settled(SETTLE_S))),
        ),
        (
            "to be fetched again after a kill, events",
            Box::new(move |arm| {
                let queued = in_the_end(arm, "processor_queue_depth", full)?;
                Some(queued + in_the_end(arm, EVENTS, full)?)
            }),
        ),
    ];
    let title = "What stands in front of the sink, and where";
    let rows = cells.iter().map(|(name, of)| (*name, |arm: &Arm| of(arm).map(figure)));
    Table::by_arm(title, "at the end of the overload", run, rows)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    vec![hidden_chart(run, &drawing), rss_chart(&drawing)]
}

fn hidden_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let full = full(setup);
    let mut lines = drawing.arms("", |arm| arm.metric("processor", EVENTS));
    let limit = run.plan.predicted("rdkafka_events");
    lines.push(drawing.model("librdkafka, predicted", |t| {
        let backlog = model::backlog(&setup.offered(), &setup.ceilings(), t);
        Some((backlog - setup.queue_cap).max(0.0).min(limit))
    }));
    lines.push(drawing.limit(format!("--queue-cap {}", figure(setup.queue_cap)), setup.queue_cap));
    let at_end = |name| drawing.figure(name, |arm| in_the_end(arm, EVENTS, full));
    let wait = |name| {
        drawing
            .figure(name, |arm| in_the_end(arm, EVENTS, full).map(|events| events / setup.ceiling))
    };
    drawing.chart(
        "hidden",
        format!(
            "In front of a queue of {} events librdkafka holds {} more, {} s of the sink's work; {} with small limits; \
             wire {}",
            figure(setup.queue_cap),
            at_end("rdkafka"),
            wait("rdkafka"),
            at_end("small"),
            at_end("wire")
        ),
        "Events in the client's own queue, from librdkafka's statistics, as of their last, 200 ms ago at most. Predicted: the backlog \
         less the queue's capacity, up to the client's limit.",
        "events fetched and not asked for",
        lines,
    )
}

fn rss_chart(drawing: &Drawing<'_>) -> Chart {
    let lines = drawing.arms("", |arm| scaled(arm.rss_bytes("processor"), MB));
    let most = |name| drawing.figure(name, rss_max_mb);
    drawing.chart(
        "rss",
        format!(
            "The same bounded queue takes {} MB behind wire, {} MB behind librdkafka, {} MB with small limits",
            most("wire"),
            most("rdkafka"),
            most("small")
        ),
        "Resident memory of the processor, from /proc once a second.",
        "resident memory, MB",
        lines,
    )
}
