//! Experiment 8: credits against the implicit channel. A bounded queue holds the source back by being full; a lease
//! tells it a rate; explicit credit lets it send so many events more than the sink acked. What does each deliver, what
//! waits, and how large must the window be?

use super::asking::{Asking, RSS_MAX_MB, SETTLE_S};
use super::credit_shards;
use super::drawing::{Drawing, Words, over_ratios};
use super::{ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase};
use super::{Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::figure;
use crate::policy::{Policy, credit, slow_source};
use crate::telemetry::latency::Stage;

/// The sink's ceiling, events/s, and what the queue holds.
const CEILING: f64 = 2000.0;
const QUEUE_CAP: f64 = 10_000.0;
/// Events a call: four in flight are half a window of 160.
const BATCH: f64 = 20.0;
const WORKERS: f64 = 4.0;
/// The targets, of a window of 160: the share of the ceiling that is delivered; p99 of the time in the processor, s;
/// the time after a step until that holds, s: ten announcements.
const GOODPUT: f64 = 0.995;
const SOJOURN_MAX_S: f64 = 0.2;
const STEP_S: f64 = 10.0 * credit::PERIOD.as_secs_f64();
/// Seconds in which the bounded queue fills and is passed through once, and the lease settles.
const FILL_S: f64 = 10.0;
/// From sent to fetched, s: the mean below the ceiling without credit, in the first run of this experiment.
const BROKERS_S: f64 = 0.0036;
/// The arms with credit, and the one that the targets are about.
const WINDOWS: [(&str, f64); 4] = [("w20", 20.0), ("w40", 40.0), ("w160", 160.0), ("w640", 640.0)];
const TARGETED: &str = "w160";
/// The windows that charts over them show.
const DRAWN: (f64, f64) = (16.0, 1024.0);
/// The arm whose keys are skewed, and the exponent.
const ZIPF_ARM: &str = "w160-zipf";
const ZIPF: f64 = 1.2;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp8",
    title: "credits against the implicit channel",
    question: "A full queue holds the source back, at the price of all that waits in it. Can credit, counted from the \
               sink's acks, keep the sink as busy with a window of a few round trips, and what does a smaller one cost?",
    held: "load schedule, seed, payload, sink and its ceiling, a bounded queue of 10,000 events, batches of 20, four \
           workers, machine",
    varied: "who holds the source back: nobody (`buffer`, the log grows), a lease on its rate (`slow-source`), or credit \
             with a window of 20, 40, 160 or 640 events; once with Zipf keys, each with its worker",
    arms: &[
        ArmSpec::new("buffer", "bounded queue", Ink::Vermilion),
        ArmSpec::new("slow-source", "lease", Ink::Purple),
        ArmSpec::new("w20", "credit, 20", Ink::Orange),
        ArmSpec::new("w40", "credit, 40", Ink::Sky),
        ArmSpec::new(TARGETED, "credit, 160", Ink::Green),
        ArmSpec::new("w640", "credit, 640", Ink::Blue),
        ArmSpec::new(ZIPF_ARM, "credit, 160, Zipf keys", Ink::Brown),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![what_came(run), by_shard(&run.plan.setup)],
    limits: "One machine, one run an arm, one producer and one processor on loopback. What is held back is never sent, as \
             with a lease: a source that must keep it needs a place for it. Credit per shard is computed, not built. \
             Events of which a fetch does not know yet when an epoch begins are not in its debt.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:8s,2800:8s,8000:20s", "1500:60s,2800:2m,8000:6m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let arm = |name: &str, more: &str, flags: &str| {
        let flags = format!(
            "--queue bounded --queue-cap {QUEUE_CAP} --batch-size {BATCH} --sink-workers {WORKERS} {flags}"
        );
        Launch::new(name, &format!("{load}{more}"), &format!("--rate-limit {CEILING}"), &flags)
    };
    let credit = |window: f64| format!("--policy credit --credit-window {window}");
    let mut arms =
        vec![arm("buffer", "", "--policy buffer"), arm("slow-source", "", "--policy slow-source")];
    arms.extend(WINDOWS.map(|(name, window)| arm(name, "", &credit(window))));
    let by_key = format!("{} --worker-assignment key", credit(160.0));
    arms.push(arm(ZIPF_ARM, &format!(" --key-skew {ZIPF}"), &by_key));
    arms
}

/// The step a little above the ceiling.
fn slight(setup: &Setup) -> Phase {
    setup.phases().nth(1).unwrap_or(Phase::NONE)
}

fn steady(setup: &Setup) -> Phase {
    setup.overload().settled(FILL_S)
}

/// From an ack until the event that its credit lets go is fetched, s, where nothing waits: half the time between two
/// announcements, half the producer's linger, the brokers.
fn outside_s(arm: &ArmSetup) -> f64 {
    credit::PACE.as_secs_f64() / 2.0 + arm.producer_linger_s / 2.0 + BROKERS_S
}

/// That, and the linger of the batch: the shortest time from one ack to that of the event that it lets go.
fn round_trip_s(arm: &ArmSetup) -> f64 {
    outside_s(arm) + arm.linger_s
}

/// Events/s of a window: `min(μ, W / round trip)`, as Flink sizes its credits.
fn carried(setup: &Setup, arm: &ArmSetup, window: f64) -> f64 {
    setup.ceiling.min(window / round_trip_s(arm))
}

/// What the events of a window spend in the processor: all of it but what is on its way there.
fn inside_s(setup: &Setup, arm: &ArmSetup, window: f64) -> f64 {
    window / carried(setup, arm, window) - outside_s(arm)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let p = Prediction::new;
    let mut said = Vec::new();
    let (offered, ceiling) = (setup.overload().rate, setup.ceiling);
    for arm in &setup.arms {
        let (name, window) = (&arm.name, arm.credit_window);
        let (goodput, inside, because) = match arm.policy {
            Policy::Credit => (
                carried(setup, arm, window),
                inside_s(setup, arm, window),
                format!(
                    "min(μ, W / T): T = {} announced + {} producer's linger + {} brokers + {} batch's linger = {} ms; μ T = \
                     {} events",
                    figure(credit::PACE.as_secs_f64() * 500.0),
                    figure(arm.producer_linger_s * 500.0),
                    figure(BROKERS_S * 1e3),
                    figure(arm.linger_s * 1e3),
                    figure(round_trip_s(arm) * 1e3),
                    figure(ceiling * round_trip_s(arm))
                ),
            ),
            Policy::SlowSource => {
                (ceiling, slow_source::TARGET.as_secs_f64(), "the lease follows the sink".into())
            }
            Policy::Buffer | Policy::Shed => {
                let held = arm.queue_cap.unwrap_or(f64::NAN) + arm.in_flight();
                (ceiling, model::sojourn_s(held, ceiling), "the sink is busy".into())
            }
        };
        said.push(p(&format!("{name}_goodput"), goodput, "events/s", because.clone()));
        let why = match arm.policy {
            Policy::Credit => {
                "W / goodput less the way there: all that is granted and not on its way"
            }
            Policy::SlowSource => "the backlog that it aims at",
            Policy::Buffer | Policy::Shed => "(C + W B) / μ: a full queue, and what workers hold",
        };
        said.push(p(&format!("{name}_inside"), inside, "s", why.into()));
        let sent = if arm.policy.holds_the_source() { goodput } else { offered };
        let why = "λ less what is sent";
        said.push(p(&format!("{name}_held_back"), offered - sent, "events/s", why.into()));
    }
    said
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let steady = steady(setup);
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let Some(given) = setup.arm(name) else { continue };
        let mut asking = Asking::of(run, arm);
        let waits = given.in_flight().max(given.credit_window);
        asking.keeps_up_in(setup.baseline().settled(SETTLE_S - 2.0), waits);
        let goodput = arm.delivered_in(steady);
        let predicted = said(&format!("{name}_goodput"));
        if predicted < setup.ceiling {
            let why = "lingers are steps, not means: the first runs were 4 % and 5 % off";
            let wanted = (predicted, Margin::Share(0.15), why);
            let question = "Does a window below a round trip carry what it can?";
            asking.ask("goodput", question, wanted, goodput, "events/s");
        } else if [TARGETED, "w640"].contains(&name) {
            let why = "the target, less a call at the edge of the looks";
            let floor = GOODPUT * setup.ceiling - BATCH / steady.length();
            let wanted = (floor, Margin::AtLeast, why);
            asking.ask("goodput", "Is the sink kept busy?", wanted, goodput, "events/s");
        } else {
            asking.sink_busy_in(steady);
        }
        let mean = arm.mean_latency_in(Stage::Processor, steady);
        let (margin, why) = match given.policy {
            Policy::Credit => {
                let by = 0.75 * said(&format!("{name}_inside"));
                let why = "half a linger of the producer, when in it a grant comes, and at most three quarters of it";
                (Margin::Absolute(by.min(given.producer_linger_s / 2.0)), why)
            }
            Policy::SlowSource => {
                (Margin::Share(0.25), "one step of the controller, on a backlog of one second")
            }
            Policy::Buffer | Policy::Shed => {
                (Margin::Share(0.10), "the last run may not fit, and a rate's 2 %")
            }
        };
        let wanted = (said(&format!("{name}_inside")), margin, why);
        let question = "Do events spend in the processor what they must? (mean)";
        asking.ask("inside", question, wanted, mean, "s");
        if given.policy.holds_the_source() {
            let why = "what is granted is what is acked; the lease steers by a backlog it sees four times a second";
            let share = if given.policy == Policy::Credit { 0.02 } else { 0.10 };
            let wanted = (goodput.unwrap_or(f64::NAN), Margin::Share(share), why);
            let sent = arm.sent_in(steady);
            asking.ask("sent", "Is no more sent than is served?", wanted, sent, "events/s");
        } else {
            asking.offered_in(steady);
        }
        if name == TARGETED {
            let most = (SOJOURN_MAX_S, Margin::AtMost, "the target");
            let p99 = arm.latency_in(Stage::Processor, 0.99, steady);
            asking.ask("p99", "p99 of the time in the processor, at four times", most, p99, "s");
            let question = "1.4 times the ceiling: p99 of the time in the processor in 95 of 100 seconds, from ten \
                            announcements after the step";
            asking.ask(
                "step",
                question,
                most,
                arm.settled_p99(Stage::Processor, slight(setup), STEP_S),
                "s",
            );
        }
        asking.rss_under(RSS_MAX_MB);
        checks.append(&mut asking.checks);
    }
    checks
}

/// What was due and is never sent, events/s.
fn held_back(run: &Run, arm: &Arm, phase: Phase) -> Option<f64> {
    Some((run.plan.setup.offered().at(phase.from) - arm.sent_in(phase)?).max(0.0))
}

fn grants(arm: &Arm, phase: Phase) -> Option<f64> {
    arm.rate_in("processor", "processor_grants_total{result=\"ok\"}", phase)
}

/// What came of each, from the same measurements as the checks.
fn what_came(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let steady = steady(setup);
    let said = |arm: &Arm, what: &str| run.plan.predicted(&format!("{}_{what}", arm.spec.name));
    let ms = |s: f64| format!("{} ms", figure(s * 1e3));
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<String> + 'a>);
    let cells: [Cell<'_>; 9] = [
        ("delivered, predicted, events/s", Box::new(|arm| Some(figure(said(arm, "goodput"))))),
        ("delivered, events/s", Box::new(|arm| arm.delivered_in(steady).map(figure))),
        ("in the processor, predicted", Box::new(|arm| Some(ms(said(arm, "inside"))))),
        (
            "in the processor: mean",
            Box::new(|arm| arm.mean_latency_in(Stage::Processor, steady).map(ms)),
        ),
        (
            "in the processor: p99",
            Box::new(|arm| arm.latency_in(Stage::Processor, 0.99, steady).map(ms)),
        ),
        (
            "in the processor: p99, a second after the step to 1.4",
            Box::new(|arm| arm.settled_p99(Stage::Processor, slight(setup), STEP_S).map(ms)),
        ),
        (
            "due to acked: p99",
            Box::new(|arm| arm.latency_in(Stage::EndToEnd, 0.99, steady).map(ms)),
        ),
        ("held back, events/s", Box::new(|arm| held_back(run, arm, steady).map(figure))),
        (
            "grants announced, 1/s",
            Box::new(|arm| Some(grants(arm, steady).map_or("none".into(), figure))),
        ),
    ];
    Table::by_arm(
        "What each way to hold the source back costs",
        "at four times the ceiling",
        run,
        cells,
    )
}

/// What credit per shard would cost and save.
fn by_shard(setup: &Setup) -> Table {
    let Some(arm) = setup.arm(TARGETED) else { return Table::new("", &[], []) };
    credit_shards::table(setup, arm, round_trip_s(arm), [0.0, 0.8, ZIPF])
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    vec![goodput_chart(run, &drawing), inside_chart(run, &drawing), time_chart(run, &drawing)]
}

/// A point for each window that was measured.
fn by_window(run: &Run, of: impl Fn(&Arm) -> Option<f64>) -> Vec<(f64, f64)> {
    WINDOWS.into_iter().filter_map(|(name, window)| Some((window, of(run.arm(name)?)?))).collect()
}

/// A line of the model over the windows of the chart.
fn modelled(run: &Run, of: impl Fn(&Setup, &ArmSetup, f64) -> f64) -> Vec<(f64, f64)> {
    let setup = &run.plan.setup;
    let Some(arm) = setup.arm(TARGETED) else { return Vec::new() };
    let (least, most) = DRAWN;
    let steps = (0..=72).map(|n| least * (most / least).powf(f64::from(n) / 72.0));
    steps.map(|window| (window, of(setup, arm, window))).collect()
}

/// The level of an arm without a window.
fn across(run: &Run, name: &str, of: impl Fn(&Arm) -> Option<f64>) -> Option<Line> {
    let arm = run.arm(name)?;
    let value = of(arm)?;
    let points = vec![(DRAWN.0, value), (DRAWN.1, value)];
    Some(Line { label: arm.spec.title.into(), ink: arm.spec.ink, points })
}

fn window_chart(
    run: &Run,
    words: Words,
    of: impl Fn(&Arm) -> Option<f64>,
    predicted: &str,
    model: fn(&Setup, &ArmSetup, f64) -> f64,
) -> Chart {
    let line = |label: &str, ink, points| Line { label: label.into(), ink, points };
    let mut lines = vec![
        line(predicted, Ink::Predicted, modelled(run, model)),
        line("credit, measured", Ink::Green, by_window(run, &of)),
    ];
    lines.extend(["buffer", "slow-source"].into_iter().filter_map(|name| across(run, name, &of)));
    over_ratios("window, events", &WINDOWS.map(|it| it.1), words, lines)
}

fn goodput_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let phase = steady(&run.plan.setup);
    let of = |arm: &Arm| arm.delivered_in(phase);
    let at = |name| drawing.figure(name, of);
    let words = Words {
        name: "goodput",
        title: format!(
            "At four times the ceiling a window of 160 delivers {} events/s, of 40 {}, of 20 {}; a queue of 10,000 {}",
            at(TARGETED),
            at("w40"),
            at("w20"),
            at("buffer")
        ),
        subtitle: "Events that the sink acked a second, by the window. Predicted: min(μ, W / round trip).",
        y_label: "delivered, events/s",
    };
    window_chart(run, words, of, "credit, predicted", carried)
}

fn inside_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let phase = steady(&run.plan.setup);
    let of = |arm: &Arm| arm.latency_in(Stage::Processor, 0.99, phase);
    let at = |name| drawing.figure(name, of);
    let words = Words {
        name: "inside",
        title: format!(
            "p99 in the processor is {} s with a window of 160, {} s with 640, {} s with a lease, {} s in a queue of 10,000",
            at(TARGETED),
            at("w640"),
            at("slow-source"),
            at("buffer")
        ),
        subtitle: "From fetched to acked, 99th percentile at four times the ceiling, by the window. Predicted is the mean.",
        y_label: "time in the processor, s",
    };
    window_chart(run, words, of, "credit, mean predicted", inside_s)
}

fn time_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let phase = steady(&run.plan.setup);
    let sent = |name| drawing.figure(name, |arm| held_back(run, arm, phase));
    drawing.chart(
        "sent",
        format!(
            "The source holds back {} events/s with a window of 160, {} with 20, {} with a lease, {} before a queue",
            sent(TARGETED),
            sent("w20"),
            sent("slow-source"),
            sent("buffer")
        ),
        "Events acknowledged by the brokers, each second. What is offered and not sent is held back.",
        "sent, events/s",
        drawing.arms("", |arm| stats::rates(&arm.metric("producer", "producer_events_sent_total"))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a prediction that does not see the window, or a window of four round trips that starves the sink.
    #[test]
    fn half_a_round_trip_starves_the_sink_and_four_do_not() {
        for form in [Form::Quick, Form::Full] {
            let setup = Setup::of(form, &launches(form)).expect("flags");
            let plan = predict(&setup);
            let said = |name: &str| plan.iter().find(|p| p.name == name).expect(name).value;
            assert!(said("w20_goodput") < 0.7 * CEILING, "{plan:?}");
            assert!((said("w160_goodput") - CEILING).abs() < 1e-9);
            assert!(said("w160_inside") < SOJOURN_MAX_S && said("buffer_inside") > 5.0);
        }
    }
}
