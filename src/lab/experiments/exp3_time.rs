//! Experiment 3 where a call costs time instead of tokens: the sink sleeps for 10 ms in each call
//! and has no other limit. No law of batches is put in: the rest of a call's time depends on this
//! machine, and the knee follows from the load. A worker that makes one call after the other
//! carries λ with batches of λ τ (Little); a larger batch carries nothing more. A linger makes
//! larger batches, which have no use below the ceiling: while a call is in progress the next batch
//! gathers by itself.

use super::asking::{Asking, SETTLE_S};
use super::drawing::{Words, over_ratios};
use super::{ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::text::{figure, or_not_measured};
use crate::telemetry::latency::Stage;

/// Events a batch, by arm, with no linger; offered both loads.
const SIZES: [(&str, f64); 4] =
    [("b50", 50.0), ("b200", 200.0), ("b300", 300.0), ("b1000", 1000.0)];
/// The arm whose calls give the time of a call on this machine.
const GAUGE: &str = "b50";
/// The largest size below the predicted knee.
const BELOW_KNEE: &str = "b200";
/// The smallest that carries the upper load.
const ENOUGH: &str = "b300";
/// Lingers, ms, by arm: batches of [`ENOUGH`], the lower load alone. Its own arm has none.
const LINGERS: [(&str, f64); 3] = [(ENOUGH, 0.0), ("l20", 20.0), ("l100", 100.0)];
/// How far a gain may be off: each event of a call takes some microseconds.
const GAIN_MARGIN: f64 = 0.10;
/// The most that a call may take besides the sink's own time, as a share of that time.
const OWN_WAY_MAX: f64 = 0.25;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp3-time",
    title: "batch sizes and lingers, where a call costs time",
    question: "A call of the sink takes 10 ms, whatever is in it, and there is one worker. Which batch \
               carries the load, and what does a linger gain?",
    held: "seed, payload, sink (10 ms a call, no limit in reach), a bounded queue of 10,000 events, one \
           worker, machine",
    varied: "the batch size (50, 200, 300, 1,000 events, no linger) at two loads; the linger (0, 20, 100 ms, \
             300 events) at the lower one",
    arms: &[
        ArmSpec::new("b50", "batch 50", Ink::Blue),
        ArmSpec::new("b200", "batch 200", Ink::Green),
        ArmSpec::new(ENOUGH, "batch 300", Ink::Vermilion),
        ArmSpec::new("b1000", "batch 1,000", Ink::Purple),
        ArmSpec::new("l20", "batch 300, linger 20 ms", Ink::Blue),
        ArmSpec::new("l100", "batch 300, linger 100 ms", Ink::Green),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![table(run)],
    limits: "One machine and one run an arm. One worker: more of them share the load, and the knee of \
             each is as much lower. What an event takes of its own is some microseconds here, so no size \
             is too large for the sink; where the sink's own work grows with the batch, exp3 is the model.",
};

fn launches(form: Form) -> Vec<Launch> {
    let below = form.of("1500:12s", "1500:90s");
    let above = form.of("22000:12s", "22000:60s");
    let arm = |name: &str, schedule: &str, size: f64, linger_ms: f64| {
        let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
        let flags = format!(
            "--queue bounded --queue-cap 10000 --sink-mode batch --batch-size {size} --batch-linger \
             {linger_ms}ms --sink-workers 1 --drain-timeout 1s"
        );
        Launch::new(name, &load, "--rate-limit 1000000 --latency 10ms", &flags)
    };
    let both = format!("{below},{above}");
    let sizes = SIZES.map(|(name, size)| arm(name, &both, size, 0.0));
    let lingers = LINGERS.into_iter().filter(|(name, _)| *name != ENOUGH);
    let lingers = lingers.map(|(name, linger)| arm(name, below, size(ENOUGH), linger));
    sizes.into_iter().chain(lingers).collect()
}

fn size(arm: &str) -> f64 {
    SIZES.iter().find(|(name, _)| *name == arm).map_or(f64::NAN, |(_, size)| *size)
}

/// Events/s that one worker carries in batches of `size`, whose calls take `call_s`.
fn carries(setup: &Setup, size: f64, call_s: f64) -> f64 {
    (size / call_s).min(setup.overload().rate)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let p = Prediction::new;
    let (latency, offered) = (setup.call.latency_s, setup.overload().rate);
    let gauge = carries(setup, size(GAUGE), latency);
    let mut all = vec![
        p(
            "gauge_at_most",
            gauge,
            "events/s",
            format!("B / s: a call takes {} ms at least", figure(latency * 1e3)),
        ),
        p(
            "knee_at_least",
            offered * latency,
            "events",
            format!("λ s = {}/s × {} ms (Little)", figure(offered), figure(latency * 1e3)),
        ),
    ];
    for (arm, size) in SIZES.into_iter().filter(|(arm, _)| *arm != GAUGE) {
        all.push(p(
            &format!("{arm}_gain"),
            carries(setup, size, latency) / gauge,
            "× batches of 50",
            "as many as are in a call, and no more than is offered".into(),
        ));
    }
    let below = setup.baseline().rate;
    for (arm, linger) in LINGERS {
        all.push(p(
            &format!("{arm}_call"),
            below * (linger / 1e3 + latency),
            "events",
            format!("λ (linger + s): what comes until the next call, at {}/s", figure(below)),
        ));
        all.push(p(
            &format!("{arm}_wait_p50"),
            if linger > 0.0 { (linger + latency * 1e3) / 2.0 } else { 0.0 },
            "ms",
            "½ (linger + s): what gathered during a call waits for all of the linger, the last not at all"
                .into(),
        ));
    }
    all
}

fn below(run: &Run) -> Phase {
    run.plan.setup.baseline().settled(SETTLE_S)
}

fn above(run: &Run) -> Phase {
    run.plan.setup.overload().settled(SETTLE_S)
}

fn carried(run: &Run, arm: &str) -> Option<f64> {
    run.arm(arm)?.delivered_in(above(run))
}

/// The time of a call, s, where its size bounds what is carried.
fn call_s(run: &Run, arm: &str) -> Option<f64> {
    Some(size(arm) / carried(run, arm)?)
}

/// The batch with which one worker carries the upper load, by what its calls take.
fn knee(run: &Run) -> Option<f64> {
    Some(run.plan.setup.overload().rate * call_s(run, BELOW_KNEE)?)
}

fn events_a_call(run: &Run, arm: &Arm) -> Option<f64> {
    let calls = arm.rate_in("sink", "sink_writes_total", below(run))?;
    Some(arm.delivered_in(below(run))? / calls)
}

fn latency_ms(run: &Run, arm: &Arm, stage: Stage, quantile: f64) -> Option<f64> {
    arm.latency_in(stage, quantile, below(run)).map(|s| s * 1e3)
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for (name, size) in SIZES {
        let Some(arm) = run.arm(name) else { continue };
        let mut asking = Asking::of(run, arm);
        asking.offered_in(above(run));
        asking.keeps_up_in(setup.baseline(), size);
        if name == GAUGE {
            let most = said("gauge_at_most");
            let wanted = (most, Margin::AtMost, "a call is no shorter than the sink's time");
            let question = "What batches of 50 carry: the reference for the others";
            asking.ask("throughput", question, wanted, carried(run, name), "events/s");
            let why = "a call's own way takes no longer than a quarter of the sink's time";
            let wanted = (most / (1.0 + OWN_WAY_MAX), Margin::AtLeast, why);
            let question = "Does the worker spend its time at the sink?";
            asking.ask("at_work", question, wanted, carried(run, name), "events/s");
        } else {
            // Where the load is the bound, a slower call leaves more to gain.
            let gauge = carried(run, GAUGE);
            let expected = call_s(run, GAUGE).zip(gauge);
            let expected = expected.map(|(call_s, gauge)| carries(setup, size, call_s) / gauge);
            let why = "an event takes some microseconds of its own in a call";
            let wanted = (expected.unwrap_or(f64::NAN), Margin::Share(GAIN_MARGIN), why);
            let gained = carried(run, name).zip(gauge).map(|(carried, gauge)| carried / gauge);
            asking.ask("gain", "How many times what batches of 50 do?", wanted, gained, "×");
        }
        checks.append(&mut asking.checks);
    }
    let own = 1.0 + OWN_WAY_MAX;
    let why = "λ times what the sink takes, and up to a quarter more for the call's own way";
    let least = said("knee_at_least");
    checks.push(Check::new(
        "knee",
        "The batch that carries the load, by what a call takes at 200",
        (least * (1.0 + own) / 2.0, Margin::Absolute(least * (own - 1.0) / 2.0), why),
        knee(run),
        "events",
    ));
    let all = 0.99 * setup.overload().rate;
    let enough = SIZES.iter().find(|(arm, _)| carried(run, arm).is_some_and(|rate| rate >= all));
    checks.push(Check::new(
        "knee_among_sizes",
        "The smallest of the sizes that carries the load",
        (size(ENOUGH), Margin::Absolute(0.0), "one of four sizes"),
        enough.map(|(_, size)| *size),
        "events",
    ));
    lingers(run, &mut checks);
    checks
}

fn lingers(run: &Run, checks: &mut Vec<Check>) {
    let setup = &run.plan.setup;
    let said = |name: &str| run.plan.predicted(name);
    // No event waits longer for the next ones.
    let puff_s = setup.puff_s();
    let (puff, puff_ms) = (setup.baseline().rate * puff_s, 1e3 * puff_s);
    for (name, linger) in LINGERS {
        let Some(arm) = run.arm(name) else { continue };
        let mut asking = Asking::of(run, arm);
        if name != ENOUGH {
            asking.offered_in(below(run));
            let in_flight = size(ENOUGH);
            asking.keeps_up_in(setup.baseline(), in_flight);
        }
        let own = setup.baseline().rate * setup.call.latency_s * OWN_WAY_MAX;
        let why = "up to the next puff of the producer, every 6.7 ms, and the call's own way";
        let (least, most) = (said(&format!("{name}_call")), puff + own);
        let wanted = (least + most / 2.0, Margin::Absolute(most / 2.0), why);
        let question = "Do as many share a call as come until the next one?";
        asking.ask("call", question, wanted, events_a_call(run, arm), "events");
        let why = "events come in puffs, every 6.7 ms";
        let wanted = (said(&format!("{name}_wait_p50")), Margin::Absolute(puff_ms), why);
        let waited = latency_ms(run, arm, Stage::Batch, 0.5);
        asking.ask(
            "wait_p50",
            "Do events wait for their batch as long as they gather?",
            wanted,
            waited,
            "ms",
        );
        if linger > 0.0 {
            let of = |name| latency_ms(run, run.arm(name)?, Stage::EndToEnd, 0.5);
            let dearer = of(name).zip(of(ENOUGH)).map(|(with, without)| with - without);
            let why = "half a linger less what it saves: nothing, below the ceiling";
            let wanted = (linger / 2.0, Margin::Absolute(puff_ms + linger / 10.0), why);
            let question = "p50 end to end, above that without a linger";
            asking.ask("dearer", question, wanted, dearer, "ms");
        }
        checks.append(&mut asking.checks);
    }
}

fn charts(run: &Run) -> Vec<Chart> {
    vec![throughput_chart(run), linger_chart(run)]
}

fn throughput_chart(run: &Run) -> Chart {
    let setup = &run.plan.setup;
    let offered = setup.overload().rate;
    let call_s = call_s(run, GAUGE).unwrap_or(f64::NAN);
    let sizes = (0..=30).map(|step| 40.0 * 10f64.powf(f64::from(step) / 20.0));
    let curve = sizes.map(|size| (size, carries(setup, size, call_s))).collect();
    let points = SIZES.into_iter().filter_map(|(arm, size)| Some((size, carried(run, arm)?)));
    let lines = vec![
        Line { label: "B / τ, from batches of 50".into(), ink: Ink::Predicted, points: curve },
        Line { label: "measured".into(), ink: Ink::Blue, points: points.collect() },
    ];
    let words = Words {
        name: "throughput",
        title: format!(
            "One worker whose calls take {} ms carries {}/s with batches of {}, and a larger one carries no \
             more",
            figure(call_s * 1e3),
            figure(offered),
            knee(run).map_or("?".into(), |knee| figure(knee.round()))
        ),
        subtitle: "Events acked by the sink per second, under overload, by batch size. The curve goes through \
                   the first point.",
        y_label: "events/s",
    };
    over_ratios("batch size, events", &SIZES.map(|(_, size)| size), words, lines)
}

fn linger_chart(run: &Run) -> Chart {
    // A linger of 0 has no place on this axis: the sink's own time stands beside it.
    let sink_ms = run.plan.setup.call.latency_s * 1e3;
    let at = |linger: f64| linger + sink_ms;
    let line = |label: &str, ink, stage, quantile| Line {
        label: label.into(),
        ink,
        points: LINGERS
            .into_iter()
            .filter_map(|(arm, linger)| {
                Some((at(linger), latency_ms(run, run.arm(arm)?, stage, quantile)?))
            })
            .collect(),
    };
    let lines = vec![
        Line {
            label: "wait for the batch p50, predicted".into(),
            ink: Ink::Predicted,
            points: LINGERS
                .map(|(arm, linger)| (at(linger), run.plan.predicted(&format!("{arm}_wait_p50"))))
                .into(),
        },
        line("wait for the batch p50, measured", Ink::Vermilion, Stage::Batch, 0.5),
        line("end to end p50", Ink::Green, Stage::EndToEnd, 0.5),
        line("end to end p99", Ink::Blue, Stage::EndToEnd, 0.99),
    ];
    let shared = |name: &str| {
        let events = run.arm(name).and_then(|arm| events_a_call(run, arm));
        events.map_or("?".into(), |events| figure(events.round()))
    };
    let words = Words {
        name: "linger",
        title: format!(
            "Without a linger {} events share a call by themselves; 100 ms of it make {}, and cost half of \
             it",
            shared(ENOUGH),
            shared("l100")
        ),
        subtitle: "At the lower load, by the time from one call's begin to the next one's: the linger and the \
                   sink's 10 ms.",
        y_label: "time, ms",
    };
    over_ratios("linger + sink, ms", &LINGERS.map(|(_, linger)| at(linger)), words, lines)
}

fn table(run: &Run) -> Table {
    let row = |arm: &Arm| {
        let (name, shown) = (arm.spec.name, |value| or_not_measured(value));
        let upper = SIZES.iter().any(|(size, _)| *size == name);
        vec![
            arm.spec.title.to_owned(),
            if upper { shown(carried(run, name)) } else { "–".into() },
            shown(events_a_call(run, arm)),
            shown(latency_ms(run, arm, Stage::Batch, 0.5)),
            shown(latency_ms(run, arm, Stage::EndToEnd, 0.5)),
            shown(latency_ms(run, arm, Stage::EndToEnd, 0.99)),
        ]
    };
    let head = [
        "arm",
        "events/s under overload",
        "events a call at the lower load",
        "wait for the batch there, p50, ms",
        "end to end there, p50",
        "p99",
    ];
    Table::new(
        "What batches and lingers do where a call costs time",
        &head,
        run.arms.iter().map(row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knee_lies_between_the_second_and_the_third_size() {
        let setup = Setup::quick(&EXPERIMENT);
        let plan = predict(&setup);
        let said = |name: &str| plan.iter().find(|p| p.name == name).expect(name).value;
        assert_eq!((said("gauge_at_most"), said("knee_at_least")), (5000.0, 220.0));
        let knees = (220.0, 220.0 * (1.0 + OWN_WAY_MAX));
        assert!(size(BELOW_KNEE) < knees.0 && knees.1 < size(ENOUGH));
        assert_eq!((said("b200_gain"), said("b300_gain"), said("b1000_gain")), (4.0, 4.4, 4.4));
        assert_eq!(
            (said("b300_call"), said("l100_call"), said("l100_wait_p50")),
            (15.0, 165.0, 55.0)
        );
    }
}
