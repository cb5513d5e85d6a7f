//! Experiment 12 with clients that send again what is not answered: after a short overload, does the pipeline come
//! back by itself? A queue that is longer than the clients' patience is full of work that nobody waits for.

use super::asking::{Asking, SETTLE_S};
use super::drawing::Drawing;
use super::exp12::{BATCH, CEILING, QUEUE_CAP, WORKERS, timely_cap};
use super::retry_model::{Dropped, Pipeline, Second};
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase};
use super::{Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::figure;
use crate::telemetry::latency::Stage;

/// When clients lose patience, s: the first age, and the second, as far behind it again as doubled.
const AGES: &str = "1s,3s";
/// The last seconds of the run: what lasts shows there.
const LAST_S: f64 = 10.0;
/// A second in which more than this share of the answers is late is a bad one.
const LATE_SHARE: f64 = 0.01;
/// How many times the fluid time the way back may take.
const BACK_MAX: f64 = 2.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp12-retries",
    title: "overload with retries",
    question: "Clients send again what is not answered in time. After ten seconds of 1.4 times the ceiling the load is \
               0.9 times: does the pipeline come back?",
    held: "load schedule, seed, payload, sink and its ceiling, policy `shed`, batches of 20, workers, machine",
    varied: "whether clients send again, after 1 s and after 3 s; and the queue: 10,000 events, as many as the target \
             gives, or as long as the PID lets it be",
    arms: &[
        ArmSpec::new("patient", "long queue, patient clients", Ink::Purple),
        ArmSpec { resends: true, ..ArmSpec::new("long", "long queue", Ink::Vermilion) },
        ArmSpec { resends: true, ..ArmSpec::new("short", "short queue", Ink::Blue) },
        ArmSpec { resends: true, ..ArmSpec::new("pid", "PID", Ink::Green) },
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![storm(run)],
    limits: "One machine and one run an arm. A client knows the sink's answer within 20 ms; it sends again at most \
             twice, without jitter, and without a budget for retries, which would end the trouble as well.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:10s,2800:10s,1800:45s", "1500:60s,2800:10s,1800:5m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let impatient = format!("{load} --resend-after {AGES}");
    let arm = |name: &str, load: &str, who: &str, cap: f64| {
        let flags = format!(
            "--queue bounded --queue-cap {cap} --policy shed --shed {who} --batch-size {BATCH} \
             --sink-workers {WORKERS}"
        );
        Launch::new(name, load, &format!("--rate-limit {CEILING}"), &flags)
    };
    vec![
        arm("patient", &load, "newest", QUEUE_CAP),
        arm("long", &impatient, "newest", QUEUE_CAP),
        arm("short", &impatient, "newest", timely_cap()),
        arm("pid", &impatient, "pid", QUEUE_CAP),
    ]
}

/// What comes after the overload.
fn after(setup: &Setup) -> Phase {
    setup.phases().last().unwrap_or(Phase::NONE)
}

fn last(setup: &Setup) -> Phase {
    let after = after(setup);
    Phase { from: after.to - LAST_S - 1.0, to: after.to - 1.0, ..after }
}

/// When an answer is late, s: when clients have lost their patience, in every arm.
fn patience_s(setup: &Setup) -> f64 {
    setup.arms.iter().find_map(|arm| arm.resend_after_s.first().copied()).unwrap_or(f64::NAN)
}

/// How long a queue without limit would need to be empty again, s.
fn fluid_s(setup: &Setup) -> f64 {
    let (trigger, after) = (setup.overload(), after(setup));
    (trigger.rate - setup.ceiling) * trigger.length() / (setup.ceiling - after.rate)
}

fn modelled(setup: &Setup, arm: &ArmSetup) -> Vec<Second> {
    let cap = arm.queue_cap.unwrap_or(f64::INFINITY);
    let depth = arm.shed.standing_depth(cap, arm.in_flight()).unwrap_or(cap);
    let pipeline = Pipeline {
        ceiling: setup.ceiling,
        room: depth + arm.in_flight(),
        dropped: if arm.shed.is_by_event() { Dropped::ByEvent } else { Dropped::ByChance },
        ages_s: &arm.resend_after_s,
        late_s: patience_s(setup),
    };
    pipeline.under(&setup.offered(), setup.end_s())
}

/// From the end of the overload to the end of the last bad second, s; `None` where that is the last of all.
fn back_s(setup: &Setup, late: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (from, end) = (after(setup).from, last(setup).to);
    let bad = late.filter(|(_, share)| *share > LATE_SHARE).map(|(t, _)| t);
    let back = bad.fold(from, f64::max);
    (back < end).then_some(back - from)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let mut said = vec![Prediction::new(
        "fluid",
        fluid_s(setup),
        "s",
        "(λ₁ − μ) T₁ / (μ − λ₂): what ten seconds pile up, served by what is left".into(),
    )];
    for arm in &setup.arms {
        let seconds = modelled(setup, arm);
        let phase = last(setup);
        let end = || seconds.iter().take(phase.to as usize).skip(phase.from as usize);
        let mean = |of: fn(&Second) -> f64| end().map(of).sum::<f64>() / end().count() as f64;
        let ends = seconds.iter().enumerate().map(|(n, second)| (n as f64 + 1.0, second.late));
        let mut say = |what: &str, value: f64, unit: &str, because: &str| {
            let because = format!("the model of retries: {because}");
            said.push(Prediction::new(&format!("{}_{what}", arm.name), value, unit, because));
        };
        say("came", mean(|s| s.came), "events/s", "attempts in the last seconds");
        say("goodput", mean(|s| s.delivered), "events/s", "events answered for the first time");
        say(
            "wasted",
            mean(|s| s.served - s.delivered),
            "events/s",
            "work for events answered before",
        );
        match back_s(setup, ends) {
            Some(back_s) => {
                let because = "from the overload's end to the last second with more than one late answer in a hundred";
                say("back", back_s, "s", because);
            }
            None => say(
                "lasts",
                patience_s(setup),
                "s",
                "it does not come back: no answer within the first age",
            ),
        }
    }
    said
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let phase = last(setup);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let said = |what: &str| run.plan.predicted(&format!("{name}_{what}"));
        let mut asking = Asking::of(run, arm);
        asking.offered_in(setup.overload().settled(1.0));
        let in_flight = setup.arm(name).map_or(f64::NAN, ArmSetup::in_flight);
        asking.keeps_up_in(setup.baseline().settled(SETTLE_S), in_flight);
        let why = "two rates, each within 1 to 2 %, and shares that are drawn by chance";
        let wanted = (said("came"), Margin::Share(0.05), why);
        let came = arm.polled_in(phase);
        asking.ask(
            "came",
            "What comes in the end, what is sent again included",
            wanted,
            came,
            "events/s",
        );
        let wanted = (said("goodput"), Margin::Share(0.05), why);
        let goodput = arm.delivered_in(phase);
        asking.ask(
            "goodput",
            "Events that the sink takes for the first time, in the end",
            wanted,
            goodput,
            "events/s",
        );
        if said("back").is_finite() {
            let back = measured_back(run, arm);
            let most =
                (BACK_MAX * said_fluid(run), Margin::AtMost, "the target: twice the fluid time");
            asking.ask("back", "From the overload's end to the last bad second", most, back, "s");
            let why = "seconds are counted whole, and events come in puffs and batches";
            let near = (said("back"), Margin::Absolute(0.1 * said_fluid(run)), why);
            asking.ask("back_predicted", "The same, as predicted?", near, back, "s");
        } else {
            let target =
                (said("lasts"), Margin::AtLeast, "the trigger is over, and no answer is in time");
            let p50 = arm.latency_in(Stage::EndToEnd, 0.5, phase);
            asking.ask(
                "lasts",
                "The median answer in the end: the overload outlives its cause",
                target,
                p50,
                "s",
            );
            let wanted = (said("wasted"), Margin::Share(0.10), "the difference of two rates");
            asking.ask(
                "wasted",
                "Work for events that were answered before",
                wanted,
                wasted_in(arm, phase),
                "events/s",
            );
        }
        checks.append(&mut asking.checks);
    }
    checks
}

fn said_fluid(run: &Run) -> f64 {
    run.plan.predicted("fluid")
}

/// The share of late answers of each second, at its end.
fn late(run: &Run, arm: &Arm) -> Series {
    let setup = &run.plan.setup;
    let patience_s = patience_s(setup);
    let second = |end: u32| {
        let to = f64::from(end);
        let phase = Phase { from: to - 1.0, to, rate: 0.0 };
        Some((to, arm.late_in(Stage::EndToEnd, patience_s, phase)?.share))
    };
    (1..=setup.end_s() as u32).filter_map(second).collect()
}

fn measured_back(run: &Run, arm: &Arm) -> Option<f64> {
    let late = late(run, arm);
    // A run that shows no second of what came after shows no way back.
    stats::between(&late, last(&run.plan.setup).from, f64::INFINITY).first()?;
    back_s(&run.plan.setup, late.into_iter())
}

fn wasted_in(arm: &Arm, phase: Phase) -> Option<f64> {
    arm.rate_in("sink", "sink_duplicates_total", phase)
}

/// What the retries did, from the same measurements as the checks.
fn storm(run: &Run) -> Table {
    let phase = last(&run.plan.setup);
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<String> + 'a>);
    let count = |n: u64| crate::lab::text::thousands(n as f64);
    let cells: [Cell<'_>; 8] = [
        (
            "in the end: attempts that come, events/s",
            Box::new(|arm| arm.polled_in(phase).map(figure)),
        ),
        ("taken for the first time, events/s", Box::new(|arm| arm.delivered_in(phase).map(figure))),
        ("taken for nothing, events/s", Box::new(|arm| wasted_in(arm, phase).map(figure))),
        (
            "answer after, p50",
            Box::new(|arm| {
                Some(format!("{} s", figure(arm.latency_in(Stage::EndToEnd, 0.5, phase)?)))
            }),
        ),
        (
            "back after the overload's end",
            Box::new(|arm| {
                Some(measured_back(run, arm).map_or("never".into(), |s| format!("{} s", figure(s))))
            }),
        ),
        (
            "sent again, events",
            Box::new(|arm| {
                stats::max(&arm.metric("producer", "producer_events_resent_total"))
                    .map(|n| count(n as u64))
            }),
        ),
        ("never delivered, events", Box::new(|arm| Some(count(arm.ledger.as_ref()?.shed)))),
        ("delivered again, events", Box::new(|arm| Some(count(arm.ledger.as_ref()?.duplicates)))),
    ];
    Table::by_arm("What clients that send again do to a queue", "", run, cells)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    let setup = &run.plan.setup;
    let model = setup.arm("long").map(|arm| modelled(setup, arm)).unwrap_or_default();
    vec![goodput_chart(run, &drawing, &model), came_chart(run, &drawing, &model)]
}

fn goodput_chart(run: &Run, drawing: &Drawing<'_>, model: &[Second]) -> Chart {
    let setup = &run.plan.setup;
    let phase = last(setup);
    let rate = |name| drawing.figure(name, |arm| arm.delivered_in(phase));
    let mut lines = drawing.arms("", |arm| stats::rates(&arm.delivered()));
    lines.push(
        drawing.model("long queue, predicted", |t| {
            model.get(t as usize).map(|second| second.delivered)
        }),
    );
    drawing.chart(
        "goodput",
        format!(
            "The overload is over, {}/s are offered: the long queue delivers {}/s of them with clients that send \
             again, {}/s with patient ones; the short queue {}/s, the PID {}/s",
            figure(phase.rate),
            rate("long"),
            rate("patient"),
            rate("short"),
            rate("pid")
        ),
        "Events that the sink took for the first time, each second.",
        "delivered for the first time, events/s",
        lines,
    )
}

fn came_chart(run: &Run, drawing: &Drawing<'_>, model: &[Second]) -> Chart {
    let setup = &run.plan.setup;
    let phase = last(setup);
    let rate = |name| drawing.figure(name, |arm| arm.polled_in(phase));
    let fetched =
        |arm: &Arm| stats::rates(&arm.metric("processor", "processor_events_fetched_total"));
    let mut lines = drawing.arms("", fetched);
    lines.push(
        drawing.model("long queue, predicted", |t| model.get(t as usize).map(|second| second.came)),
    );
    drawing.chart(
        "attempts",
        format!(
            "In the end {}/s come to the long queue, {}/s to the short one, {}/s to the PID: the rest is what \
             clients send again",
            rate("long"),
            rate("short"),
            rate("pid")
        ),
        "Records fetched from the log each second: every event once, and again for each time that a client lost \
         its patience.",
        "fetched, events/s",
        lines,
    )
}
