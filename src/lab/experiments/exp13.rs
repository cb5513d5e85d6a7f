//! Experiment 13: the wrong knob. A sink with a rate limit refuses what is too much (429). What does a client deliver that
//! limits its rate, its number of calls at once, or waits as it is told?

use super::asking::{Asking, RSS_MAX_MB};
use super::drawing::Drawing;
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase};
use super::{Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink};
use crate::lab::paced::{Course, World};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::figure;
use crate::sink::control::Costs;
use crate::sink::pace::Pace;

/// The sink's ceiling, events/s, and during its step.
const CEILING: f64 = 2000.0;
const STEP_RATE: f64 = 200.0;
/// What it saves up, tokens: 50 ms of its rate; the same at every rate, as most sinks have it.
const BURST: f64 = 100.0;
/// The time of a call that it serves: with none, a number of calls would mean nothing at all.
const LATENCY: &str = "50ms";
const WORKERS: u32 = 64;
const BATCH: u32 = 10;
/// Whole seconds: calls that are on their way when the first refusal is read are refused too. How many is a ratio of
/// two times of the machine, a call's way and the time between two calls. This arm measures it, with calls of twice the
/// size, and the other is predicted by it.
const REFERENCE: &str = "retry-after-20";
const REFERENCE_BATCH: u32 = 20;
/// Seconds that are left out: of the start, in which CUBIC climbs for 8 s by the model (but see [`before`]), and of the
/// step.
const SETTLE_S: (f64, f64) = (10.0, 1.5);
/// The targets: with headers, and without.
const HEADERS: (f64, f64) = (0.995, 0.001);
const BLIND: (f64, f64) = (0.95, 0.02);
/// A new rate is found within, s.
const FOUND_S: f64 = 1.0;
/// Rounds of all workers that a batch may take.
const ROUNDS: f64 = 3.0;
/// Runs of the model whose mean is the prediction.
const SEEDS: u64 = 8;
/// How far a measured goodput may be from the model's; that of a rule whose runs in the model differ by more may be as
/// far away as they are from each other.
const GOODPUT_MARGIN: f64 = 0.15;
const MARGIN_WHY: &str = "backoffs and the phase of a rule's clock are chance: 15 %, or as far as the model's own runs differ";
/// How far a measured share of refused calls may be from the model's, as a share of it and in calls.
const REFUSED_MARGIN: (f64, f64) = (0.25, 0.01);
const REFUSED_WHY: &str = "the same, of a share that is a ratio of two of them: a quarter of it, or one call in a hundred";
/// The corrected ARC must be refused less than half as often as the one that is not.
const CORRECTED_MAX: f64 = 0.5;
const REFUSED: &str = "sink_rejected_total{status=\"429\"}";
const OLDEST: &str = "processor_oldest_batch_seconds";

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp13",
    title: "the wrong knob",
    question: "The sink has a rate limit and refuses what is too much. What does a client get that limits its rate, that \
               limits its calls at once, or that waits as it is told?",
    held: "load schedule, seed, payload, sink, its limit, its bucket of 100 tokens and its latency of 50 ms, 64 workers, \
           batches of 10 (20 where an arm says so), machine",
    varied: "what decides when the next call begins: `--pace`",
    arms: &[
        ArmSpec::new("headers", "headers (ours)", Ink::Green),
        ArmSpec::new("blind", "blind (ours)", Ink::Blue),
        ArmSpec::new("cubic", "CUBIC", Ink::Purple),
        ArmSpec::new("line", "line", Ink::Sky),
        ArmSpec::new(REFERENCE, "whole seconds, calls of 20", Ink::Sky),
        ArmSpec::new("retry-after", "whole seconds", Ink::Vermilion),
        ArmSpec::new("aimd", "AIMD", Ink::Blue),
        ArmSpec::new("vegas", "Vegas", Ink::Purple),
        ArmSpec::new("gradient2", "Gradient2", Ink::Vermilion),
        ArmSpec::new("arc", "ARC", Ink::Sky),
        ArmSpec::new("arc-fixed", "ARC, corrected", Ink::Green),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![what_came(run)],
    limits: "One machine and one run an arm; one client of the sink, on loopback: an answer takes half a millisecond and \
             the time that the sink serves. AIMD and Gradient2 may go down to one call, which their defaults forbid; what \
             Netflix's library leaves to its user, the backoff after a refusal, is this client's own. Retries never give \
             up, as AWS' SDK does after three.",
};

fn launches(form: Form) -> Vec<Launch> {
    let load = format!("--schedule {} --msg-size 512 --seed 1", form.of("8000:27s", "8000:2m"));
    let (from, time) = form.of((15.0, 5.0), (50.0, 30.0));
    let stall = Some(Phase { rate: STEP_RATE, from, to: from + time });
    let sink =
        format!("--rate-limit {CEILING} --on-limit reject --burst {BURST} --latency {LATENCY}");
    let arm = |spec: &ArmSpec| {
        let (pace, batch) = if spec.name == REFERENCE {
            ("retry-after", REFERENCE_BATCH)
        } else {
            (spec.name, BATCH)
        };
        let flags = format!(
            "--queue bounded --queue-cap 2000 --sink-workers {WORKERS} --batch-size {batch} --drain-timeout 2s --pace {pace}"
        );
        Launch { stall, ..Launch::new(spec.name, &load, &sink, &flags) }
    };
    EXPERIMENT.arms.iter().map(arm).collect()
}

fn step(setup: &Setup) -> Phase {
    setup.stall.unwrap_or(Phase::NONE)
}

/// Before the step: all that is at the start is over. Whole seconds are over sooner, and serve a bucket at once, so a window
/// of some seconds has one too many or too few.
fn before(setup: &Setup, arm: &str) -> Phase {
    let is_of_seconds = setup.arm(arm).is_some_and(|arm| arm.pace == Pace::RetryAfter);
    let settle_s = if is_of_seconds { 2.0 } else { SETTLE_S.0 };
    Phase { rate: setup.ceiling, from: 0.0, to: step(setup).from }.settled(settle_s)
}

/// After the step, once the old rate must be found.
fn after(setup: &Setup) -> Phase {
    Phase { from: step(setup).to + FOUND_S, to: setup.end_s() - 0.5, ..setup.overload() }
}

fn slow(setup: &Setup) -> Phase {
    step(setup).settled(SETTLE_S.1)
}

/// All of it, with the steps, but for the start.
fn whole(setup: &Setup) -> Phase {
    Phase { from: 1.0, to: setup.end_s() - 0.5, ..setup.overload() }
}

/// A round of all workers at the ceiling, s.
fn round_s(setup: &Setup, arm: &ArmSetup) -> f64 {
    arm.in_flight() / setup.ceiling
}

fn courses(setup: &Setup, arm: &ArmSetup) -> Vec<Course> {
    let world = World {
        pace: arm.pace,
        workers: arm.workers as usize,
        batch: arm.batch as usize,
        costs: Costs { call_cost: setup.call.cost, event_cost: setup.call.event_cost },
        burst: setup.burst,
        ceilings: setup.ceilings(),
        latency_s: setup.call.latency_s,
        until_s: setup.end_s(),
    };
    (0..SEEDS).map(|seed| world.run(seed)).collect()
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let (slow, whole) = (slow(setup), whole(setup));
    let p = Prediction::new;
    let mut said = Vec::new();
    for arm in &setup.arms {
        let before = before(setup, &arm.name);
        let courses = courses(setup, arm);
        let mean = |of: &dyn Fn(&Course) -> f64| courses.iter().map(of).sum::<f64>() / SEEDS as f64;
        let name = &arm.name;
        let model = format!("{}, in simulated time against the sink's bucket", arm.pace.name());
        let goodput = mean(&|course| course.goodput(before.from, before.to));
        said.push(p(&format!("{name}_goodput"), goodput, "events/s", model.clone()));
        let each = || courses.iter().map(|course| course.goodput(before.from, before.to));
        let spread = each().fold(0.0, f64::max) - each().fold(f64::MAX, f64::min);
        said.push(p(
            &format!("{name}_spread"),
            spread,
            "events/s",
            "the model's runs, by chance".into(),
        ));
        let low = mean(&|course| course.goodput(slow.from, slow.to));
        said.push(p(&format!("{name}_slow"), low, "events/s", model.clone()));
        // Of whole seconds the reference has the share.
        if arm.pace != Pace::RetryAfter {
            let refused = mean(&|course| course.refused(whole.from, whole.to));
            said.push(p(&format!("{name}_refused"), refused, "", model.clone()));
        }
        let oldest = mean(&|course| course.oldest(before.from, before.to));
        said.push(p(&format!("{name}_oldest"), oldest, "s", model));
    }
    said.push(letter(setup));
    said
}

/// What obeying whole seconds leaves of the rate, in closed form.
fn letter(setup: &Setup) -> Prediction {
    let (offered, ceiling) = (setup.overload().rate, setup.ceiling);
    let burst = setup.burst.unwrap_or(f64::NAN);
    let filled_s = burst / (offered - ceiling);
    let refused_s = 1.0; // the least that the standard can say
    let goodput = (burst + ceiling * filled_s) / (filled_s + refused_s);
    let because = format!(
        "(B + R t1) / (t1 + T): t1 = B / (S − R) = {} / {}/s until the first refusal, then nothing for T = 1 s: {} % of \
         the ceiling",
        figure(burst),
        figure(offered - ceiling),
        figure(100.0 * goodput / ceiling)
    );
    Prediction::new("letter", goodput, "events/s", because)
}

/// The share of an arm's calls that is refused, by the model, or by the arm that measured what the model cannot know;
/// `None` of that arm.
fn refused_said(run: &Run, name: &str) -> Option<f64> {
    let setup = &run.plan.setup;
    if setup.arm(name).is_none_or(|arm| arm.pace != Pace::RetryAfter) {
        return Some(run.plan.predicted(&format!("{name}_refused")));
    }
    let measured = run.arm(REFERENCE).filter(|_| name != REFERENCE)?;
    let share = refused_in(measured, whole(setup))?;
    let too_many = share / (1.0 - share) * served_a_round(setup, REFERENCE_BATCH);
    Some(refused_of_a_round(too_many, served_a_round(setup, BATCH)))
}

/// Calls that a full bucket serves.
fn served_a_round(setup: &Setup, batch: u32) -> f64 {
    setup.burst.unwrap_or(f64::NAN) / f64::from(batch)
}

fn refused_of_a_round(refused: f64, served: f64) -> f64 {
    refused / (refused + served)
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let (slow, whole) = (slow(setup), whole(setup));
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let before = before(setup, name);
        let mut asking = Asking::of(run, arm);
        asking.offered_in(whole);
        let goodput = arm.delivered_in(before);
        let low = arm.delivered_in(slow);
        let refused = refused_in(arm, whole);
        let targets = match name {
            "headers" => Some(HEADERS),
            "blind" => Some(BLIND),
            _ => None,
        };
        if let Some((share, most)) = targets {
            let why = "the target, less a call at the edge of the looks";
            let call = |phase: Phase| f64::from(BATCH) / phase.length();
            let floor = (share * setup.ceiling - call(before), Margin::AtLeast, why);
            asking.ask(
                "goodput",
                "Does it deliver what the sink takes?",
                floor,
                goodput,
                "events/s",
            );
            let floor = (share * step(setup).rate - call(slow), Margin::AtLeast, why);
            asking.ask("slow", "And while the sink takes a tenth?", floor, low, "events/s");
            let most = (most, Margin::AtMost, "the target");
            asking.ask(
                "refused",
                "The share of its calls that is refused, steps included",
                most,
                refused,
                "",
            );
            let rounds = setup.arm(name).map_or(f64::NAN, |arm| ROUNDS * round_s(setup, arm));
            let most = (rounds, Margin::AtMost, "three rounds of all workers");
            let oldest = oldest_in(arm, before);
            asking.ask("oldest", "The oldest batch that waits for the sink", most, oldest, "s");
        } else {
            let question = "Does it deliver what its rule makes of this sink?";
            let predicted = said(&format!("{name}_goodput"));
            let margin = (GOODPUT_MARGIN * predicted).max(said(&format!("{name}_spread")));
            let wanted = (predicted, Margin::Absolute(margin), MARGIN_WHY);
            asking.ask("goodput", question, wanted, goodput, "events/s");
            if name == REFERENCE {
                let served = served_a_round(setup, REFERENCE_BATCH);
                let least = refused_of_a_round(1.0, served);
                let wanted = (least, Margin::AtLeast, "one call a round, or there is no round");
                let question =
                    "The share of its calls that is refused: the reference for the other";
                asking.ask("refused", question, wanted, refused, "");
                let most = refused_of_a_round(f64::from(WORKERS) / 2.0, served);
                let wanted = (most, Margin::AtMost, "half of the workers");
                let question = "Does the first refusal hold the others back?";
                asking.ask("held_back", question, wanted, refused, "");
            } else {
                let question = "Is the share of its calls that is refused as predicted?";
                let predicted = refused_said(run, name).unwrap_or(f64::NAN);
                let margin = (REFUSED_MARGIN.0 * predicted).max(REFUSED_MARGIN.1);
                let wanted = (predicted, Margin::Absolute(margin), REFUSED_WHY);
                asking.ask("refused", question, wanted, refused, "");
            }
        }
        if name == "arc-fixed" {
            let before = run.arm("arc").and_then(|arc| refused_in(arc, whole));
            let ratio = refused.zip(before).map(|(corrected, before)| corrected / before);
            let why = "half: the model has a quarter, and either share may be a quarter off";
            let most = (CORRECTED_MAX, Margin::AtMost, why);
            let question = "Refused calls, for each that the uncorrected rule has";
            asking.ask("corrected", question, most, ratio, "");
        }
        if name == "headers" {
            let most = (FOUND_S, Margin::AtMost, "the target");
            let question = "The old rate is back: the time of the new one that is not used";
            asking.ask("found", question, most, lost_s(run, arm), "s");
            let call = f64::from(BATCH) / after(setup).length();
            let floor = (
                HEADERS.0 * setup.ceiling - call,
                Margin::AtLeast,
                "the target, less a call at the edge of the looks",
            );
            let question = "And from then on?";
            asking.ask("again", question, floor, arm.delivered_in(after(setup)), "events/s");
        }
        if name == "retry-after" {
            let why = "the calls come as fast as workers post, not as the schedule: t1 is between 0 and what the formula has";
            let wanted = (said("letter"), Margin::Share(0.25), why);
            asking.ask(
                "letter",
                "Is it the share that whole seconds leave?",
                wanted,
                goodput,
                "events/s",
            );
        }
        asking.rss_under(RSS_MAX_MB);
        checks.append(&mut asking.checks);
    }
    checks
}

/// Calls that the sink refused by its limit so far: 0 before the first, when there is no counter yet.
fn refused(arm: &Arm) -> Series {
    calls(arm, |refused, _| refused)
}

/// Those, and the ones that it served.
fn answered(arm: &Arm) -> Series {
    calls(arm, |refused, served| refused + served)
}

fn calls(arm: &Arm, of: fn(f64, f64) -> f64) -> Series {
    arm.series(|s| {
        let served = s.metric("sink", "sink_writes_total")?;
        Some(of(s.metric("sink", REFUSED).unwrap_or(0.0), served))
    })
}

/// The share of the calls in `phase` that the sink refused by its limit.
fn refused_in(arm: &Arm, phase: Phase) -> Option<f64> {
    let rate = |series: &Series| stats::overall_rate(&stats::between(series, phase.from, phase.to));
    let (refused, all) = (rate(&refused(arm))?, rate(&answered(arm))?);
    (all > 0.0).then(|| refused / all)
}

/// The same second by second.
fn refused_share(arm: &Arm) -> Series {
    stats::ratios(&refused(arm), &answered(arm))
}

fn oldest_in(arm: &Arm, phase: Phase) -> Option<f64> {
    stats::max(&stats::between(&arm.metric("processor", OLDEST), phase.from, phase.to))
}

/// From the end of the step on, what was not delivered of the ceiling, as seconds of it. The sink's log has the time.
fn lost_s(run: &Run, arm: &Arm) -> Option<f64> {
    let setup = &run.plan.setup;
    let log = arm.log_of("sink");
    let ended = log.iter().rfind(|(_, line)| line.contains("base rate restored"))?.0;
    let delivered = arm.delivered();
    let last = delivered.iter().rfind(|look| look.0 <= ended)?;
    let end = delivered.iter().rfind(|look| look.0 <= setup.end_s() - 0.5)?;
    let at_end_of_step = last.1 + step(setup).rate * (ended - last.0);
    Some(end.0 - ended - (end.1 - at_end_of_step) / setup.ceiling)
}

/// What came of each, from the same measurements as the checks.
fn what_came(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let (slow, whole) = (slow(setup), whole(setup));
    let before = |arm: &Arm| before(setup, arm.spec.name);
    let said = |arm: &Arm, what: &str| run.plan.predicted(&format!("{}_{what}", arm.spec.name));
    let percent = |share: f64| format!("{} %", figure(100.0 * share));
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<String> + 'a>);
    let cells: [Cell<'_>; 8] = [
        (
            "of the ceiling, predicted",
            Box::new(|arm| Some(percent(said(arm, "goodput") / setup.ceiling))),
        ),
        (
            "of the ceiling",
            Box::new(|arm| arm.delivered_in(before(arm)).map(|rate| percent(rate / setup.ceiling))),
        ),
        (
            "of a tenth of it",
            Box::new(|arm| arm.delivered_in(slow).map(|rate| percent(rate / step(setup).rate))),
        ),
        ("calls refused, predicted", Box::new(|arm| refused_said(run, arm.spec.name).map(percent))),
        ("calls refused", Box::new(|arm| refused_in(arm, whole).map(percent))),
        ("lost when the rate is back, s", Box::new(|arm| lost_s(run, arm).map(figure))),
        ("the oldest batch, predicted, s", Box::new(|arm| Some(figure(said(arm, "oldest"))))),
        ("the oldest batch, s", Box::new(|arm| oldest_in(arm, before(arm)).map(figure))),
    ];
    Table::by_arm(
        "What a client gets of a sink that refuses",
        "2,000/s, then 200/s, then 2,000/s",
        run,
        cells,
    )
}

/// The arms of one chart: five lines are what a reader can tell apart. The reference is in the table only.
const OURS: [&str; 5] = ["headers", "blind", "cubic", "line", "retry-after"];
const OTHERS: [&str; 5] = ["aimd", "vegas", "gradient2", "arc", "arc-fixed"];

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    vec![
        delivered_chart(run, &drawing, "delivered", &OURS),
        delivered_chart(run, &drawing, "delivered-concurrency", &OTHERS),
        refused_chart(run, &drawing, "refused", &OURS),
        refused_chart(run, &drawing, "refused-concurrency", &OTHERS),
    ]
}

/// `title figure, title figure, …` of these arms.
fn listed(
    run: &Run,
    drawing: &Drawing<'_>,
    names: &[&str],
    of: impl Fn(&Arm) -> Option<f64>,
) -> String {
    let each = names.iter().filter_map(|name| {
        let title = run.arm(name)?.spec.title;
        Some(format!(
            "{title} {} %",
            drawing.figure(name, |arm| of(arm).map(|share| 100.0 * share))
        ))
    });
    each.collect::<Vec<_>>().join(", ")
}

fn delivered_chart(run: &Run, drawing: &Drawing<'_>, name: &'static str, names: &[&str]) -> Chart {
    let setup = &run.plan.setup;
    let mut lines: Vec<_> = names
        .iter()
        .filter_map(|name| run.arm(name))
        .map(|arm| drawing.arm(arm, "", &stats::rates(&arm.delivered())))
        .collect();
    let ceilings = setup.ceilings();
    lines.push(drawing.model("the sink's limit", |t| Some(ceilings.at(t))));
    let shares = listed(run, drawing, names, |arm| {
        Some(arm.delivered_in(before(setup, arm.spec.name))? / setup.ceiling)
    });
    drawing.chart(
        name,
        format!("Of what the sink takes is delivered: {shares}"),
        "Events that the sink took, each second; the title has the seconds before the step.",
        "delivered, events/s",
        lines,
    )
}

fn refused_chart(run: &Run, drawing: &Drawing<'_>, name: &'static str, names: &[&str]) -> Chart {
    let whole = whole(&run.plan.setup);
    let lines: Vec<_> = names
        .iter()
        .filter_map(|name| run.arm(name))
        .map(|arm| drawing.arm(arm, "", &refused_share(arm)))
        .collect();
    let shares = listed(run, drawing, names, |arm| refused_in(arm, whole));
    drawing.chart(
        name,
        format!("Of its calls are refused: {shares}"),
        "Calls answered 429, of all calls, each second; the title has the whole load.",
        "share of the calls that is refused",
        lines,
    )
}
