//! Experiment 4: how many workers, and what does order cost? A call takes 5 ms, so W workers that
//! share one queue carry W calls in that time, and overtake each other. Workers by key keep a key's
//! order: then the hottest shard bounds them all, because its queue fills and the one stream that
//! feeds every shard waits for it.
//!
//! The share of that shard is known before the run (`worker_cases`).

use super::asking::{Asking, SETTLE_S};
use super::drawing::{Words, over_ratios};
use super::worker_cases::{CASES, Case, KEYS, ZIPF, busiest_share, without_order};
use super::{
    ArmSpec, Check, Experiment, Form, Launch, Margin, PROMISE, Phase, Prediction, Setup, Table,
};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::run_folder::Run;
use crate::lab::stats;
use crate::lab::text::{figure, or_not_measured};

/// How far a gain may be off. The time of a call besides the sink's latency depends on this
/// machine, and the first arm, a single worker, measures it. With more workers it is longer,
/// because they share the cores.
const GAIN_MARGIN: f64 = 0.15;
/// The least share of a worker's time that the sink's own latency must be.
const SINGLE_SHARE_MIN: f64 = 0.6;
/// Two arms that run one after the other may differ by this much in what a call takes.
const TAX_MARGIN_PERCENT: f64 = 5.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp4",
    title: "workers, and the price of order",
    question: "A call of the sink takes 5 ms. What do more workers gain, how often do they break the \
               order of a key, and what does it cost to keep it?",
    held: "offered load, seed, 100 keys, payload, sink (5 ms a call, no limit in reach), one event a \
           call, a bounded queue of 1,600 events, a topic of one partition (so that the log itself \
           has one order, and one stream feeds every shard), machine",
    varied: "workers (1, 4, 16); which one takes an event: a free one (`rr`) or its key's worker \
             (`key`); keys uniform or by Zipf's law with exponent 1. A single worker is both",
    arms: &[
        ArmSpec::new("single", "single worker", Ink::Blue),
        ArmSpec::new("rr4-uniform", "4 round-robin, uniform keys", Ink::Blue),
        ArmSpec::new("rr16-uniform", "16 round-robin, uniform keys", Ink::Blue),
        ArmSpec::new("key4-uniform", "4 by key, uniform keys", Ink::Vermilion),
        ArmSpec::new("key16-uniform", "16 by key, uniform keys", Ink::Vermilion),
        ArmSpec::new("rr4-zipf", "4 round-robin, Zipf keys", Ink::Green),
        ArmSpec::new("rr16-zipf", "16 round-robin, Zipf keys", Ink::Green),
        ArmSpec::new("key4-zipf", "4 by key, Zipf keys", Ink::Purple),
        ArmSpec::new("key16-zipf", "16 by key, Zipf keys", Ink::Purple),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![cases_table(run)],
    limits: "One machine and one run an arm. How often order breaks depends on how evenly threads \
             are woken: it is counted, not predicted, and a quieter machine breaks it less often. \
             100 keys are few: a hash spreads them unevenly over 16 shards (13 % in the fullest \
             instead of 6 %), and 10,000 uniform keys would pay a tax of 7 % instead. With several \
             partitions the streams without the hottest key would run ahead for as long as they \
             have a backlog.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("4000:13s", "4000:60s");
    let arm = |case: Case| {
        let load = format!(
            "--schedule {schedule} --msg-size 512 --seed 1 --keys {KEYS} --key-skew {}",
            case.skew
        );
        let assignment = if case.by_key { "key" } else { "round-robin" };
        let flags = format!(
            "--queue bounded --queue-cap 1600 --sink-mode single --sink-workers {} \
             --worker-assignment {assignment} --drain-timeout 1s",
            case.workers
        );
        let sink = "--rate-limit 100000 --latency 5ms";
        // One partition: one order in the log, one stream to all shards.
        Launch { partitions: 1, ..Launch::new(case.arm, &load, sink, &flags) }
    };
    CASES.map(arm).into()
}

/// How many times a single worker's throughput `case` carries: its busiest worker makes one call
/// after the other, and the offered load is the limit.
fn gain(setup: &Setup, single: f64, case: Case) -> f64 {
    (1.0 / busiest_share(setup, case)).min(setup.overload().rate / single)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let most = 1.0 / setup.call.latency_s;
    let mut all = vec![Prediction::new(
        "single_at_most",
        most,
        "events/s",
        format!("1 / s: a call takes {} ms at least", figure(setup.call.latency_s * 1e3)),
    )];
    for case in CASES.into_iter().filter(|case| case.workers > 1) {
        all.push(Prediction::new(
            &format!("{}_gain", case.arm),
            gain(setup, most, case),
            "× one worker",
            format!(
                "1 / p: the busiest of {} gets p = {} % of the events, whatever a call takes",
                case.workers,
                figure(100.0 * busiest_share(setup, case))
            ),
        ));
    }
    all
}

/// When every shard that will be full is full.
fn steady(run: &Run) -> Phase {
    run.plan.setup.overload().settled(SETTLE_S)
}

fn carried(run: &Run, arm: &str) -> Option<f64> {
    run.arm(arm)?.delivered_in(steady(run))
}

/// As predicted before the run, except where the source is the bound, which the first arm shows.
fn said(run: &Run, arm: &str) -> f64 {
    let bound =
        carried(run, "single").map_or(f64::NAN, |single| run.plan.setup.overload().rate / single);
    if arm == "single" { 1.0 } else { run.plan.predicted(&format!("{arm}_gain")).min(bound) }
}

/// The throughput, as a multiple of a single worker's.
fn gained(run: &Run, arm: &str) -> Option<f64> {
    Some(carried(run, arm)? / carried(run, "single")?)
}

/// Events delivered after a later one of their key, that is, below the largest id of it that was seen.
fn violations(run: &Run, arm: &str) -> Option<f64> {
    stats::max(&run.arm(arm)?.metric("sink", "sink_order_violations_total"))
}

fn violations_per_1000(run: &Run, arm: &str) -> Option<f64> {
    let delivered = stats::max(&run.arm(arm)?.delivered())?;
    Some(1e3 * violations(run, arm)? / delivered)
}

/// The share of the throughput that order costs `case`; `None` where nothing keeps it.
fn tax(case: Case, rate: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let free = rate(without_order(case)?.arm)?;
    Some(1.0 - rate(case.arm)? / free)
}

fn checks(run: &Run) -> Vec<Check> {
    let mut checks = Vec::new();
    for case in CASES {
        let Some(arm) = run.arm(case.arm) else { continue };
        let mut asking = Asking::of(run, arm);
        asking.offered_in(steady(run));
        if case.workers == 1 {
            let most = run.plan.predicted("single_at_most");
            let wanted = (most, Margin::AtMost, "a call is no shorter than the sink's latency");
            let question = "What one worker carries: the reference for the others";
            asking.ask("throughput", question, wanted, carried(run, case.arm), "events/s");
            let why = "a call's own way takes no longer than two thirds of the sink's latency";
            let wanted = (SINGLE_SHARE_MIN * most, Margin::AtLeast, why);
            let question = "Does it spend its time at the sink?";
            asking.ask("at_work", question, wanted, carried(run, case.arm), "events/s");
        } else {
            let why = "a call takes a little longer where more workers share the cores";
            let wanted = (said(run, case.arm), Margin::Share(GAIN_MARGIN), why);
            let question = "How many times what a single worker does?";
            asking.ask("gain", question, wanted, gained(run, case.arm), "×");
        }
        let broken = violations(run, case.arm);
        if case.by_key || case.workers == 1 {
            let never = (0.0, Margin::AtMost, PROMISE);
            asking.ask("order", "Is the order of every key kept?", never, broken, "violations");
        } else {
            let some = (1.0, Margin::AtLeast, "yes or no");
            asking.ask("order", "Does it break the order of a key?", some, broken, "violations");
        }
        if let Some(expected) = tax(case, |arm| Some(said(run, arm))) {
            // Whatever a call takes on this machine, it takes in both arms.
            let why = "points; a ratio, in which the machine's own part falls away";
            let wanted = (100.0 * expected, Margin::Absolute(TAX_MARGIN_PERCENT), why);
            let found = tax(case, |arm| carried(run, arm)).map(|share| 100.0 * share);
            asking.ask("tax", "Does order cost what is predicted?", wanted, found, "%");
        }
        checks.append(&mut asking.checks);
    }
    checks
}

fn cases_table(run: &Run) -> Table {
    let row = |case: &Case| {
        let carries = carried(run, case.arm);
        let broken = violations(run, case.arm);
        let lost = without_order(*case).and_then(|free| {
            let lost = carried(run, free.arm)? - carries?;
            let share = tax(*case, |arm| carried(run, arm))?;
            Some(format!("{} ({} %)", figure(lost), figure(100.0 * share)))
        });
        vec![
            run.arm(case.arm).map_or(case.arm, |arm| arm.spec.title).to_owned(),
            figure(said(run, case.arm)),
            or_not_measured(gained(run, case.arm)),
            or_not_measured(carries),
            lost.unwrap_or_else(|| "–".into()),
            or_not_measured(broken),
            or_not_measured(broken.map(|broken| broken / KEYS as f64)),
            or_not_measured(violations_per_1000(run, case.arm)),
        ]
    };
    let head = [
        "workers",
        "× a single worker, predicted",
        "measured",
        "events/s",
        "ordering tax, events/s",
        "order violations",
        "per key",
        "per 1,000 events",
    ];
    Table::new("What workers gain and what order costs", &head, CASES.iter().map(row))
}

/// Label, ink, by key, skew.
type Kind = (&'static str, Ink, bool, f64);

const FREE: [Kind; 2] = [
    ("round-robin, uniform keys", Ink::Blue, false, 0.0),
    ("round-robin, Zipf keys", Ink::Green, false, ZIPF),
];
const ORDERED: [Kind; 2] = [
    ("by key, uniform keys", Ink::Vermilion, true, 0.0),
    ("by key, Zipf keys", Ink::Purple, true, ZIPF),
];

/// The arms of a kind; a single worker is of every one.
fn measured((label, ink, by_key, skew): Kind, of: impl Fn(Case) -> Option<f64>) -> Line {
    let points = CASES
        .into_iter()
        .filter(|c| c.workers == 1 || (c.by_key == by_key && c.skew == skew))
        .filter_map(|c| Some((f64::from(c.workers), of(c)?)));
    Line { label: label.into(), ink, points: points.collect() }
}

/// The model, for every number of workers up to the most.
fn predicted((label, ink, by_key, skew): Kind, of: impl Fn(Case) -> f64) -> Line {
    let points = (1..=16).map(|workers| {
        let case = Case { arm: "", workers, by_key, skew };
        (f64::from(workers), of(case))
    });
    let label = format!("{label}, predicted");
    Line { label, ink: ink.predicted(), points: points.collect() }
}

fn by_workers(words: Words, lines: Vec<Line>) -> Chart {
    over_ratios("workers", &[1.0, 4.0, 16.0], words, lines)
}

fn charts(run: &Run) -> Vec<Chart> {
    vec![throughput_chart(run), tax_chart(run), order_chart(run)]
}

fn times(run: &Run, arm: &str) -> String {
    gained(run, arm).map_or("?".into(), figure)
}

fn throughput_chart(run: &Run) -> Chart {
    let setup = &run.plan.setup;
    let single = carried(run, "single").unwrap_or(f64::NAN);
    let carries = |case| single * gain(setup, single, case);
    // Without order the keys do not matter: one prediction for both.
    let free = ("round-robin", Ink::Predicted, false, 0.0);
    let mut lines = vec![predicted(free, carries)];
    lines.extend(ORDERED.map(|kind| predicted(kind, carries)));
    let found = |case: Case| carried(run, case.arm);
    lines.extend(FREE.into_iter().chain(ORDERED).map(|kind| measured(kind, found)));
    let words = Words {
        name: "throughput",
        title: format!(
            "16 workers carry {} × what one does; {} × when uniform keys keep their order, {} × \
             when Zipf keys do",
            times(run, "rr16-uniform"),
            times(run, "key16-uniform"),
            times(run, "key16-zipf")
        ),
        subtitle: "Events delivered per second, each call taking 5 ms and its way. Predicted from what the single \
         worker carries. By key, the fullest shard bounds \
         all; a hash fills shards unevenly, so one worker more may carry less.",
        y_label: "events/s",
    };
    by_workers(words, lines)
}

fn tax_chart(run: &Run) -> Chart {
    let setup = &run.plan.setup;
    let found = |case: Case| match case.workers {
        1 => Some(0.0),
        _ => tax(case, |arm| carried(run, arm)).map(|share| 100.0 * share),
    };
    let single = carried(run, "single").unwrap_or(f64::NAN);
    let expected = |case: Case| {
        let free = gain(setup, single, Case { by_key: false, ..case });
        100.0 * (1.0 - gain(setup, single, case) / free)
    };
    let mut lines: Vec<Line> = ORDERED.map(|kind| predicted(kind, expected)).into();
    lines.extend(ORDERED.map(|kind| measured(kind, found)));
    let costs = |arm: &str| {
        let case = CASES.into_iter().find(|case| case.arm == arm);
        case.and_then(found).map_or("?".into(), |percent| figure(percent.round()))
    };
    let words = Words {
        name: "tax",
        title: format!(
            "Order costs 16 workers {} % of their throughput with uniform keys, {} % with Zipf keys",
            costs("key16-uniform"),
            costs("key16-zipf")
        ),
        subtitle: "What is lost by key, as a share of what round-robin carries with as many workers on the \
         same keys.",
        y_label: "ordering tax, %",
    };
    by_workers(words, lines)
}

fn order_chart(run: &Run) -> Chart {
    let mut lines = vec![predicted(("by key", Ink::Predicted, true, 0.0), |_| 0.0)];
    let rate = |case: Case| violations_per_1000(run, case.arm);
    lines.extend(FREE.into_iter().chain(ORDERED).map(|kind| measured(kind, rate)));
    let count = |arm: &str| or_not_measured(violations(run, arm));
    let words = Words {
        name: "order",
        title: format!(
            "16 workers break the order of a key {} times with uniform keys, {} times with Zipf keys; \
             by key never",
            count("rr16-uniform"),
            count("rr16-zipf")
        ),
        subtitle: "Events delivered after a later one of their key, as the sink counts them.",
        y_label: "order violations per 1,000 events",
    };
    by_workers(words, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_an_arm_and_every_arm_a_case() {
        let arms: Vec<&str> = EXPERIMENT.arms.iter().map(|arm| arm.name).collect();
        assert_eq!(arms, CASES.map(|case| case.arm));
    }

    #[test]
    fn order_never_makes_it_faster_and_the_source_bounds_all() {
        let plan = predict(&Setup::quick(&EXPERIMENT));
        let said = |arm: &str| {
            let name = format!("{arm}_gain");
            plan.iter().find(|p| p.name == name).expect(arm).value
        };
        assert!((said("rr16-zipf") - 16.0).abs() < 1e-6);
        for case in CASES {
            if let Some(free) = without_order(case) {
                assert!(said(case.arm) < said(free.arm), "{}", case.arm);
            }
        }
        let slow = Setup { schedule: vec![(400.0, 13.0)], ..Setup::quick(&EXPERIMENT) };
        assert!(predict(&slow).iter().filter(|p| p.unit != "events/s").all(|p| p.value <= 2.0));
    }
}
