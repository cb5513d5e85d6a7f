//! Experiment 9: how large should a batch be? The sink takes as much for a call as for nine events, so small batches
//! waste it and a lull, a burst and a standstill ask for different ones. Fixed sizes, what waits, and three rules that
//! look for the size while they run, beside an oracle that knows the sink.

use super::asking::{Asking, IN_FLIGHT, RSS_MAX_MB, SETTLE_S};
use super::drawing::Drawing;
use super::{
    ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, Table,
};
use crate::lab::charts::{Chart, Ink};
use crate::lab::model::{self, Rates};
use crate::lab::run_folder::{Arm, Late, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::figure;
use crate::sink::sizing::SIZE_MAX;
use crate::telemetry::latency::Stage;

/// What an event may take from due to acked, s.
const TARGET_S: f64 = 0.5;
/// How far behind the target a rule may be, by the oracle.
const OF_ORACLE: f64 = 1.05;
/// The share of the events that may be late where the oracle's are not.
const LATE_MAX: f64 = 0.001;
/// The batches and the lingers, s, whose pairs are the static choices.
const SIZES: [f64; 4] = [1.0, 50.0, 200.0, 1000.0];
const LINGERS_S: [f64; 3] = [0.0, 0.005, 0.25];
/// The arms of fixed size.
const FIXED: [&str; 3] = ["b50", "b200", "b1000"];
/// What waits: no rule.
const OURS: &str = "auto";
/// Step of the model's sums over time, s.
const STEP_S: f64 = 0.01;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp9",
    title: "the size of a batch",
    question: "A call of the sink costs as much as nine events. A lull, a burst near all that it can take, a standstill: \
               does it pay to look for the size of a batch while it runs?",
    held: "load schedule, seed, payload, sink and what a call costs, its standstill, four workers, a bounded queue of \
           10,000 events, machine",
    varied: "the size of a batch and its linger: three fixed pairs, what waits (`auto`), and the rules of Clipper (AIMD), \
             Linux (DQL) and Flink (debloating)",
    arms: &[
        ArmSpec::new("b50", "50, no linger", Ink::Vermilion),
        ArmSpec::new("b200", "200, 5 ms", Ink::Purple),
        ArmSpec::new("b1000", "1,000, 250 ms", Ink::Orange),
        ArmSpec::new("auto", "what waits", Ink::Green),
        ArmSpec::new("aimd", "AIMD", Ink::Blue),
        ArmSpec::new("dql", "DQL", Ink::Sky),
        ArmSpec::new("debloat", "debloating", Ink::Brown),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![table(run)],
    limits: "One machine and one run an arm. The sink's cost of a call is its own bucket's, and an event's is small beside \
             it: a sink whose work grows with the batch, or that fails above a size, is another question. The other nine \
             static pairs are in the model alone.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:5s,19000:6s,1500:11s", "1500:2m,19000:60s,1500:6m");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let (from, time) = form.of((15.0, 3.0), (300.0, 30.0));
    let stall = Some(Phase { rate: 0.0, from, to: from + time });
    let arm = |name: &str, batch: &str| {
        let flags = format!("--queue bounded --queue-cap 10000 --sink-workers 4 {batch}");
        let sink = "--rate-limit 2000 --call-cost 0.9 --event-cost 0.1";
        Launch { stall, ..Launch::new(name, &load, sink, &flags) }
    };
    let rule = |name: &str| {
        let aim = match name {
            "aimd" | "debloat" => format!(" --p99-target {}ms", TARGET_S * 1e3),
            _ => String::new(),
        };
        arm(name, &format!("--batch-size {name}{aim}"))
    };
    vec![
        arm("b50", "--batch-size 50 --batch-linger 0ms"),
        arm("b200", "--batch-size 200 --batch-linger 5ms"),
        arm("b1000", "--batch-size 1000 --batch-linger 250ms"),
        rule("auto"),
        rule("aimd"),
        rule("dql"),
        rule("debloat"),
    ]
}

/// Events/s that batches of `batch` carry, over time.
fn carries(setup: &Setup, batch: f64) -> Rates {
    let by = |tokens| model::ceiling(tokens, setup.call.cost, setup.call.event_cost, batch);
    let steady = Rates::constant(by(setup.ceiling));
    match setup.stall {
        Some(stall) => steady.but(by(stall.rate), stall.from, stall.to),
        None => steady,
    }
}

/// By how much an event is behind the target on average, ms, with batches of `batch` and `linger_s`: the fluid's wait, and
/// half of the time in which the workers' batches fill.
fn behind(setup: &Setup, batch: f64, linger_s: f64) -> f64 {
    let (offered, carried) = (setup.offered(), carries(setup, batch));
    let workers = setup.arms.first().map_or(1.0, |arm| f64::from(arm.workers));
    let served = |t: f64| offered.total(t) - model::backlog(&offered, &carried, t);
    let (mut before, mut waited, mut late_s) = (0.0, 0.0, 0.0);
    // What is not served when the load ends is served after it.
    let end_s = setup.end_s()
        + model::backlog(&offered, &carried, setup.end_s()) / carried.at(setup.end_s());
    for step in 1..=(end_s / STEP_S).ceil() as usize {
        let t = step as f64 * STEP_S;
        let fills_s = linger_s.min(workers * batch / offered.at(t).max(1.0));
        let (now, wait) = (served(t), model::wait_s(&offered, &carried, t).unwrap_or(0.0));
        late_s += (now - before) * ((wait + waited + fills_s) / 2.0 - TARGET_S).max(0.0);
        (before, waited) = (now, wait);
    }
    1e3 * late_s / offered.total(setup.end_s())
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let p = Prediction::new;
    let call = setup.call;
    let burst = setup.overload().rate;
    let oracle = behind(setup, SIZE_MAX as f64, 0.0);
    let pairs = SIZES.iter().flat_map(|size| LINGERS_S.map(|linger_s| (*size, linger_s)));
    let best = pairs.map(|(size, linger_s)| behind(setup, size, linger_s)).fold(f64::MAX, f64::min);
    let mut all = vec![
        p(
            "least_batch",
            burst * call.cost / (setup.ceiling - burst * call.event_cost),
            "events",
            format!("λ c0 / (R − λ c1): the least that carries {}/s", figure(burst)),
        ),
        p(
            "oracle_behind",
            oracle,
            "ms an event",
            format!(
                "the fluid's wait above {TARGET_S} s, with batches of {SIZE_MAX} whenever they are of use: only the standstill \
                 makes events late"
            ),
        ),
        p(
            "gain",
            best / oracle,
            "×",
            format!(
                "the best of {} static pairs by the oracle: what a rule can gain over it",
                SIZES.len() * LINGERS_S.len()
            ),
        ),
    ];
    for arm in setup.arms.iter().filter(|arm| FIXED.contains(&arm.name.as_str())) {
        all.push(p(
            &format!("{}_behind", arm.name),
            behind(setup, arm.batch, arm.linger_s),
            "ms an event",
            format!(
                "as the oracle's, with R B / (c0 + c1 B) = {}/s",
                figure(carries(setup, arm.batch).at(0.0))
            ),
        ));
    }
    all
}

/// From the second in which all runs until the sink stands still.
fn before_stall(setup: &Setup) -> Phase {
    let to = setup.stall.map_or(setup.end_s(), |stall| stall.from);
    Phase { rate: setup.baseline().rate, from: 1.0, to }
}

/// From its first second to its end, and what is acked after it.
fn all(setup: &Setup) -> Phase {
    Phase { rate: f64::NAN, from: -1.0, to: setup.end_s() + SETTLE_S }
}

fn late(arm: &Arm, phase: Phase) -> Option<Late> {
    arm.late_in(Stage::EndToEnd, TARGET_S, phase)
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let mut asking = Asking::of(run, arm);
        asking.offered_in(setup.overload().settled(1.0));
        let in_flight = setup.arm(name).map_or(f64::NAN, ArmSetup::in_flight);
        asking.keeps_up_in(setup.baseline(), in_flight.min(IN_FLIGHT));
        let measured = behind_ms(run, name);
        let question = "How far behind the target is an event, on average?";
        if FIXED.contains(&name) {
            let why = "the standstill is ordered once a second; batches are no liquid";
            let wanted = (said(&format!("{name}_behind")), Margin::Share(0.10), why);
            asking.ask("behind", question, wanted, measured, "ms an event");
        } else if name == OURS {
            let why = "the target: 1.05 of the oracle";
            let most = (OF_ORACLE * said("oracle_behind"), Margin::AtMost, why);
            asking.ask("behind", question, most, measured, "ms an event");
            let most = (LATE_MAX, Margin::AtMost, "the target");
            let share = late(arm, before_stall(setup)).map(|late| late.share);
            let question = "The share that is late before the standstill";
            asking.ask("late", question, most, share, "");
        } else {
            let why = "the oracle's share, and what may be off of either";
            let most = (OF_ORACLE, Margin::AtMost, why);
            let question = "What waits by this rule, behind the target: what does the rule gain?";
            asking.ask("gain", question, most, gained(run, name), "×");
        }
        asking.rss_under(RSS_MAX_MB);
        checks.append(&mut asking.checks);
    }
    let gain = (1.0 / said("gain"), Margin::Share(0.10), "that of both figures");
    let best = FIXED.into_iter().filter_map(|name| gained(run, name)).max_by(f64::total_cmp);
    let question = "What waits by the best fixed size: can anything be gained?";
    checks.push(Check::new("gain", question, gain, best, "×"));
    checks
}

/// How far an event of arm `name` is behind the target on average, ms.
fn behind_ms(run: &Run, name: &str) -> Option<f64> {
    Some(1e3 * late(run.arm(name)?, all(&run.plan.setup))?.behind_s)
}

/// The time behind the target of what waits, by that of arm `name`.
fn gained(run: &Run, name: &str) -> Option<f64> {
    Some(behind_ms(run, OURS)? / behind_ms(run, name)?)
}

/// Events of a call, second by second.
fn events_a_call(arm: &Arm) -> Series {
    stats::ratios(&arm.delivered(), &arm.metric("sink", "sink_writes_total"))
}

fn events_a_call_in(arm: &Arm, phase: Phase) -> Option<f64> {
    Some(arm.delivered_in(phase)? / arm.rate_in("sink", "sink_writes_total", phase)?)
}

fn table(run: &Run) -> Table {
    let setup = &run.plan.setup;
    let (lull, burst) = (setup.baseline().settled(1.0), setup.overload().settled(1.0));
    let ms = |s: f64| format!("{} ms", figure(s * 1e3));
    type Cell<'a> = (&'a str, Box<dyn Fn(&Arm) -> Option<String> + 'a>);
    let waits =
        |q: f64, phase: Phase| move |arm: &Arm| arm.latency_in(Stage::EndToEnd, q, phase).map(ms);
    let cells: [Cell<'_>; 8] = [
        (
            "behind the target, an event",
            Box::new(|arm| late(arm, all(setup)).map(|late| ms(late.behind_s))),
        ),
        (
            "late before the standstill",
            Box::new(|arm| {
                late(arm, before_stall(setup))
                    .map(|late| format!("{} %", figure(100.0 * late.share)))
            }),
        ),
        ("lull: p50", Box::new(waits(0.5, lull))),
        ("lull: p99", Box::new(waits(0.99, lull))),
        ("burst: p99", Box::new(waits(0.99, burst))),
        ("lull: events a call", Box::new(|arm| events_a_call_in(arm, lull).map(figure))),
        ("burst: events a call", Box::new(|arm| events_a_call_in(arm, burst).map(figure))),
        ("burst: delivered, events/s", Box::new(|arm| arm.delivered_in(burst).map(figure))),
    ];
    Table::by_arm("What each size of a batch costs", "from due to acked", run, cells)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::new(run);
    vec![latency_chart(run, &drawing), size_chart(run, &drawing)]
}

fn latency_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines = drawing.arms("", |arm| arm.latency(Stage::EndToEnd, 0.99));
    let (offered, carried) = (setup.offered(), carries(setup, SIZE_MAX as f64));
    lines.push(drawing.model("oracle, predicted", |t| model::wait_s(&offered, &carried, t)));
    lines.push(drawing.limit(format!("target, {TARGET_S} s"), TARGET_S));
    let behind = |name| drawing.figure(name, |_| behind_ms(run, name));
    let (auto, aimd, dql) = (behind("auto"), behind("aimd"), behind("dql"));
    let (debloat, b50) = (behind("debloat"), behind("b50"));
    drawing.chart(
        "latency",
        format!(
            "Behind the target, on average: {auto} ms where a worker takes what waits, {aimd} ms with AIMD, {dql} ms with \
             DQL, {debloat} ms with debloating, {b50} ms with batches of 50"
        ),
        "Due time to acked by the sink, 99th percentile of the events acked in each second.",
        "end-to-end latency p99, s",
        lines,
    )
}

fn size_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let burst = setup.overload().settled(1.0);
    let least = run.plan.predicted("least_batch");
    let mut lines = drawing.arms("", events_a_call);
    lines.push(drawing.limit(format!("least for the burst, {}", figure(least)), least));
    let in_burst = drawing.figure("auto", |arm| events_a_call_in(arm, burst));
    let lull = setup.baseline().settled(1.0);
    drawing.chart(
        "size",
        format!(
            "What waits is {} events a call in the lull and {in_burst} in the burst, without a rule; the least that carries \
             it is {}",
            drawing.figure("auto", |arm| events_a_call_in(arm, lull)),
            figure(least)
        ),
        "Events that the sink took by calls that it answered, second by second.",
        "events a call",
        lines,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: an oracle that a static pair beats, or a burst that any size carries.
    #[test]
    fn a_batch_of_50_falls_behind_and_the_best_pair_is_the_oracle() {
        for form in [Form::Quick, Form::Full] {
            let setup = Setup::of(form, &launches(form)).expect("flags");
            let plan = predict(&setup);
            let said = |name: &str| plan.iter().find(|p| p.name == name).expect(name).value;
            assert!((said("least_batch") - 171.0).abs() < 1e-9);
            assert!((said("gain") - 1.0).abs() < 1e-9, "{}", said("gain"));
            assert!(said("b50_behind") > 1.3 * said("oracle_behind"), "{plan:?}");
            assert!(said("b200_behind") < 1.2 * said("oracle_behind"), "{plan:?}");
        }
    }
}
