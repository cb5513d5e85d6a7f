//! Experiment 1: an unbounded queue against a bounded one, until the kernel kills the processor.
//! Then a bounded queue with the source slowed down: the same overload waits nowhere.

use super::asking::{
    Asking, BASE_MB, FILE_MB, IN_FLIGHT, MB, RSS_MAX_MB, SETTLE_S, line_in, rss_max_mb,
    rss_slope_mb, saw_s, scaled,
};
use super::drawing::Drawing;
use super::{ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model::{self, Rates};
use crate::lab::run_folder::{Arm, Killed, Run, WATCHED};
use crate::lab::stats;
use crate::lab::text::figure;
use crate::policy::slow_source;

/// Share of the heap's bytes that the autopsy must find in the queue and the payloads.
const NAMED_MIN: f64 = 0.80;
/// Call sites that the report lists.
const SITES: usize = 5;
/// Seconds that the source's rate takes to follow its lease: what was fetched before is served.
const LEASE_SETTLE_S: f64 = 15.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp1",
    title: "unbounded against bounded",
    question: "The source produces four times the sink's rate. What happens with an unbounded \
               queue, with a bounded queue, and with a producer that can be throttled?",
    held: "load schedule, seed, payload, sink and its ceiling, batching, workers, topic layout, \
           fetch client, machine; one arm after the other, each on a topic and processes of its own",
    varied: "the queue between poll and sink: without limit under a memory limit (`unbounded`), of \
             10,000 events (`bounded`), of 10,000 events and a source that obeys (`slow-source`)",
    arms: &[
        ArmSpec::new("unbounded", "unbounded", Ink::Vermilion),
        ArmSpec::new("bounded", "bounded", Ink::Blue),
        ArmSpec::new("slow-source", "bounded, slow source", Ink::Green),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![kill(run), autopsy(run)],
    limits: "One machine and one run an arm. A processor that is \
             killed forgets its queue; nothing of it was committed, so all of it is still in the \
             log, and some of what the sink took last is there as well.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:12s,8000:45s", "1500:60s,8000:30m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let arm = |name, flags| Launch::new(name, &load, "--rate-limit 2000", flags);
    vec![
        Launch {
            memory_limit: Some(form.of(128, 512) << 20),
            ..arm("unbounded", "--queue unbounded")
        },
        arm("bounded", "--queue bounded --queue-cap 10000"),
        arm("slow-source", "--queue bounded --queue-cap 10000 --policy slow-source"),
    ]
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (overload, ceiling) = (setup.overload(), setup.ceiling);
    let excess = overload.rate - ceiling;
    let p = Prediction::new;
    let mut all = vec![
        p(
            "unbounded_rss_slope",
            setup.resident_bytes * excess / MB,
            "MB/s",
            format!("b (λ − μ) = {} B × {}/s", figure(setup.resident_bytes), figure(excess)),
        ),
        p(
            "bounded_rss",
            BASE_MB + FILE_MB + setup.resident_bytes * setup.queue_cap / MB,
            "MB",
            format!(
                "{} MB with an empty queue, and C b = {} × {} B",
                figure(BASE_MB + FILE_MB),
                figure(setup.queue_cap),
                figure(setup.resident_bytes)
            ),
        ),
        p("bounded_poll_rate", ceiling, "events/s", "μ: it polls what the sink takes".into()),
        p("slow_source_sent", ceiling, "events/s", "μ: the lease follows the sink".into()),
        p("overload_lag_slope", excess, "events/s", "λ − μ, wherever it waits".into()),
    ];
    if let Some(limit) = setup.memory_limit {
        let (base, growth) = (BASE_MB * MB, setup.resident_bytes);
        if let Some(s) = model::oom_s(limit, base, growth, overload.rate, ceiling) {
            all.push(p(
                "kill_after",
                s,
                "s",
                format!(
                    "(limit − base) / (b (λ − μ)) = ({} − {} MB) / {} MB/s, from the start of the \
                     overload",
                    figure(limit / MB),
                    figure(BASE_MB),
                    figure(setup.resident_bytes * excess / MB)
                ),
            ));
        }
    }
    all
}

fn checks(run: &Run) -> Vec<Check> {
    let baseline = run.plan.setup.baseline().settled(SETTLE_S);
    let overload = run.plan.setup.overload().settled(SETTLE_S);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        asking.keeps_up_in(baseline, IN_FLIGHT);
        match arm.spec.name {
            "unbounded" => of_the_killed(&mut asking, run, arm, arm.alive_in(overload)),
            "bounded" => {
                asking.rss_flat_in(overload);
                asking.rss_under(RSS_MAX_MB);
                asking.lag_climbs_in(overload);
                asking.sink_busy_in(overload);
                asking.offered_in(overload);
                let polled = arm.polled_in(overload);
                let throttled = (
                    run.plan.predicted("bounded_poll_rate"),
                    Margin::Share(0.05),
                    "the queue, filled or emptied once, in the phase",
                );
                let question = "Is its poll rate throttled to the sink's?";
                asking.ask("poll_rate", question, throttled, polled, "events/s");
            }
            _ => {
                let settled = run.plan.setup.overload().settled(LEASE_SETTLE_S);
                asking.rss_flat_in(settled);
                asking.rss_under(RSS_MAX_MB);
                asking.sink_busy_in(overload);
                let sent = arm.sent_in(settled);
                let why = "the controller steers by a backlog that it sees once a second";
                let slowed = (run.plan.predicted("slow_source_sent"), Margin::Share(0.10), why);
                asking.ask("sent", "Does the source follow the sink?", slowed, sent, "events/s");
                let ceiling = run.plan.setup.ceiling;
                let aims_at = ceiling * slow_source::TARGET.as_secs_f64();
                let why = "the backlog that it aims at and one step of the controller, events of one commit interval \
                           and half a second, and events in flight";
                let most = 1.25 * aims_at + ceiling * saw_s(&run.plan.setup, arm) + IN_FLIGHT;
                let waits = (most, Margin::AtMost, why);
                let question = "Does the excess wait nowhere? The largest lag";
                let lag = stats::max(&stats::between(&arm.lag(), settled.from, settled.to));
                asking.ask("lag_max", question, waits, lag, "events");
            }
        }
        checks.append(&mut asking.checks);
    }
    checks
}

fn of_the_killed(asking: &mut Asking<'_>, run: &Run, arm: &Arm, alive: Phase) {
    let said = |name: &str| run.plan.predicted(name);
    asking.lag_climbs_in(alive);
    asking.sink_busy_in(alive);
    asking.offered_in(alive);
    let why = "5 % of the layout, and the rates that are offered and served";
    let grows = (said("unbounded_rss_slope"), Margin::Share(0.10), why);
    let slope = rss_slope_mb(arm, alive);
    asking.ask("rss_slope", "Does its memory grow as the model predicts?", grows, slope, "MB/s");
    // Both must show it: a process can also die by signal 9 for other reasons.
    let ended = |killed: &Killed| killed.exit_code == 137;
    let by_the_kernel = |killed: &Killed| ended(killed) && killed.oom_kills > 0;
    let (question, is_so): (_, &dyn Fn(&Killed) -> bool) = match &arm.killed {
        Some(killed) if killed.by == WATCHED => {
            ("Is it killed, with 137, at its limit? By the lab, as the kernel could not", &ended)
        }
        _ => (
            "Is it killed by the kernel, by the limit's own counter, and ends with 137?",
            &by_the_kernel,
        ),
    };
    let killed = arm.killed.as_ref().map(|killed| f64::from(u8::from(is_so(killed))));
    asking.ask("killed", question, (1.0, Margin::AtLeast, "yes or no"), killed, "");
    let after = arm.killed_s().map(|at| at - run.plan.setup.overload().from);
    let when =
        (said("kill_after"), Margin::Share(0.10), "that of the slope, which it follows from");
    asking.ask("kill_time", "Is it killed when the model says?", when, after, "s");
    let held = arm.autopsy.as_ref().map(|a| a.queue_share + a.payload_share);
    let question = "Share of the last heap profile's bytes in the queue and its payloads";
    let named = (NAMED_MIN, Margin::AtLeast, "the rest is clients, buffers and the sampling");
    asking.ask("autopsy", question, named, held, "");
}

fn kill(run: &Run) -> Table {
    let arm = run.arm("unbounded");
    let row = arm.and_then(|arm| {
        let killed = arm.killed.as_ref()?;
        let by = match killed.by.as_str() {
            WATCHED => "the lab, which watched memory: no limit of the kernel was available",
            by => by,
        };
        Some(vec![
            by.to_owned(),
            format!("{} MB", figure(killed.limit_bytes as f64 / MB)),
            killed.exit_code.to_string(),
            killed.oom_kills.to_string(),
            format!("{} s", figure(arm.killed_s()? - run.plan.setup.overload().from)),
        ])
    });
    let head = ["limit set by", "limit", "exit code", "kills counted", "into the overload"];
    Table::new("How unbounded ended", &head, row)
}

fn autopsy(run: &Run) -> Table {
    let found = run.arm("unbounded").and_then(|arm| arm.autopsy.as_ref());
    let rows = found.iter().flat_map(|autopsy| autopsy.sites.iter().take(SITES)).map(|site| {
        vec![
            format!("`{}`", site.function),
            format!("{}:{}", site.file, site.line),
            format!("{:?}", site.part).to_lowercase(),
            format!("{} MB", figure(site.bytes as f64 / MB)),
            format!("{} %", figure(100.0 * site.share)),
        ]
    });
    let head = ["call site", "line", "part", "bytes", "share"];
    Table::new("The heap of unbounded in its last profile", &head, rows)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    [rss_chart, heap_chart, rates_chart, lag_chart].map(|chart| chart(run, &drawing)).into()
}

/// What an unbounded queue takes in memory at `t` s, over `base` bytes; nothing after the kill.
fn predicted_mb(run: &Run, base: f64, t: f64) -> Option<f64> {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), Rates::constant(setup.ceiling));
    let bytes = model::rss_bytes(base, setup.resident_bytes, model::backlog(&offered, &ceiling, t));
    let killed = setup.overload().from + run.plan.predicted("kill_after");
    (t <= killed).then_some(bytes / MB)
}

fn kill_words(run: &Run) -> String {
    let from = run.plan.setup.overload().from;
    let after = run.arm("unbounded").and_then(Arm::killed_s).map(|at| figure(at - from));
    let predicted = figure(run.plan.predicted("kill_after"));
    after.map_or("is not killed".into(), |s| {
        format!("is killed {s} s into the overload, {predicted} s predicted")
    })
}

fn rss_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("", |arm| scaled(arm.rss_bytes("processor"), MB));
    lines.push(
        drawing.model("unbounded, predicted", |t| predicted_mb(run, (BASE_MB + FILE_MB) * MB, t)),
    );
    if let Some(limit) = setup.memory_limit {
        let label = format!("memory limit of unbounded, {} MB", figure(limit / MB));
        lines.push(drawing.limit(label, limit / MB));
    }
    let most = drawing.figure("bounded", rss_max_mb);
    drawing.chart(
        "rss",
        format!("Unbounded {}; bounded takes {most} MB at most", kill_words(run)),
        "Resident memory of the processor, from /proc once a second, with some 8 MB of pages of the \
         program's file, which do not count towards the limit.",
        "resident memory, MB",
        lines,
    )
}

fn heap_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let heap = |arm: &Arm| scaled(arm.metric("processor", "heap_inuse_bytes"), MB);
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("", heap);
    let base = run.arm("unbounded").and_then(|arm| {
        let before =
            stats::between(&arm.metric("processor", "heap_inuse_bytes"), 0.0, setup.baseline().to);
        stats::mean(&before)
    });
    lines.push(drawing.model("unbounded, predicted", |t| predicted_mb(run, base?, t)));
    let overload = setup.overload().settled(SETTLE_S);
    let climb = drawing.figure("unbounded", |arm| {
        line_in(&heap(arm), arm.alive_in(overload)).map(|line| line.slope)
    });
    let predicted = figure(run.plan.predicted("unbounded_rss_slope"));
    drawing.chart(
        "heap",
        format!("Unbounded's heap in use grows by {climb} MB/s, {predicted} predicted"),
        "Bytes in live allocations of the processor, from jemalloc.",
        "heap in use, MB",
        lines,
    )
}

fn rates_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let mut lines = drawing.arms(" polls", |arm| {
        stats::rates(&arm.metric("processor", "processor_events_fetched_total"))
    });
    if let Some(arm) = run.arm("slow-source") {
        let sent = stats::rates(&arm.metric("producer", "producer_events_sent_total"));
        lines.push(Line { ink: Ink::Purple, ..drawing.arm(arm, "'s producer sends", &sent) });
    }
    let offered = run.plan.setup.offered();
    lines.push(drawing.model("unbounded, predicted: what is offered", |t| Some(offered.at(t))));
    let ceiling = run.plan.setup.ceiling;
    let label = format!("bounded, predicted: the sink's ceiling, {}/s", figure(ceiling));
    lines.push(drawing.limit(label, ceiling));
    let settled = run.plan.setup.overload().settled(LEASE_SETTLE_S);
    let polled = drawing.figure("bounded", |arm| arm.polled_in(settled));
    let sent = drawing.figure("slow-source", |arm| arm.sent_in(settled));
    drawing.chart(
        "rates",
        format!("Bounded polls {polled}/s; a throttled source sends {sent}/s"),
        "Events polled from the log, and events sent by the slowed producer, per second.",
        "events/s",
        lines,
    )
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let (offered, ceiling) = (setup.offered(), Rates::constant(setup.ceiling));
    let mut lines = drawing.arms("", Arm::lag);
    lines
        .push(drawing.model("bounded, predicted", |t| Some(model::backlog(&offered, &ceiling, t))));
    let at_end = |name| drawing.figure(name, |arm| drawing.last(&arm.lag()));
    let (bounded, slowed) = (at_end("bounded"), at_end("slow-source"));
    drawing.chart(
        "lag",
        format!(
            "At the end {bounded} events wait in bounded's log, {slowed} behind a slowed source"
        ),
        "High watermark less committed offset, all partitions. What waits in a heap is not committed, so \
         lag counts it as if it were still in the log.",
        "consumer lag, events",
        lines,
    )
}
