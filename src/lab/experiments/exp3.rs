//! Experiment 3: how large a batch? A call has a fixed cost: larger batches share it among more
//! events, and wait longer until they are full. The model says what they carry, [`BatchLaw`] where
//! the knee lies, [`wait_p50_s`] how long they wait.

use super::asking::{Asking, IN_FLIGHT, SETTLE_S, scaled};
use super::batch_law::{BatchLaw, KNEE_SHARE, recommended};
use super::drawing::{Drawing, Words, over_ratios};
use super::{ArmSpec, Check, Experiment, Form, Launch, Margin, Phase, Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::{figure, or_not_measured};
use crate::telemetry::latency::Stage;

/// Events a batch, by arm.
const SIZES: [(&str, f64); 4] = [("b1", 1.0), ("b50", 50.0), ("b200", 200.0), ("b1000", 1000.0)];
/// Threads that call the sink, and how long a batch may wait to be filled, s.
const WORKERS: f64 = 2.0;
const LINGER_S: f64 = 0.5;
/// The target below the ceiling, s.
const P99_MAX_S: f64 = 2.0;
/// The p99 for which a size is recommended, s.
const STATED_P99_S: [f64; 4] = [0.1, 0.25, 0.5, 1.0];
/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp3",
    title: "batch sizes",
    question: "A call of the sink costs 0.9 tokens and each event in it 0.1. What does the batch \
               size do to throughput and to latency, and which size is enough?",
    held: "load schedule, seed, payload, sink with its costs and its tokens/s, a bounded queue of \
           10,000 events, two workers, a linger of 500 ms, machine",
    varied: "the batch size: 1, 50, 200, 1,000 events",
    arms: &[
        ArmSpec::new("b1", "batch 1", Ink::Blue),
        ArmSpec::new("b50", "batch 50", Ink::Vermilion),
        ArmSpec::new("b200", "batch 200", Ink::Green),
        ArmSpec::new("b1000", "batch 1,000", Ink::Purple),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: |run| vec![sizes_table(run), recommendations(run)],
    limits: "One machine and one run an arm. Latency is taken at a load that every size carries: \
             under overload it grows with the backlog and says nothing about the batch. A linger \
             of 500 ms and two workers make the filling of a batch visible; with more workers each \
             one's batch fills more slowly, with a shorter linger large batches leave half empty \
             at this load, and only under overload are they full. The source (22,000/s) exceeds \
             the highest ceiling by a tenth.",
};

/// The upper load is above every size's ceiling, the lower below every one's.
fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1500:16s,22000:16s", "1500:90s,22000:120s");
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
    let sink = "--rate-limit 2000 --call-cost 0.9 --event-cost 0.1";
    let arm = |(name, size)| {
        let flags = format!(
            "--queue bounded --queue-cap 10000 --sink-mode batch --batch-size {size} \
             --batch-linger {}ms --sink-workers {WORKERS} --drain-timeout 1s",
            LINGER_S * 1e3
        );
        Launch::new(name, &load, sink, &flags)
    };
    SIZES.map(arm).into()
}

fn law(setup: &Setup) -> BatchLaw {
    BatchLaw::of(setup.ceiling, setup.call)
}

/// Events/s that batches of `size` carry.
fn carries(setup: &Setup, size: f64) -> f64 {
    model::ceiling(setup.ceiling, setup.call.cost, setup.call.event_cost, size)
}

/// How long half of the events wait for their batch to leave, at the lower load: the first event
/// waits until the batch is full or the linger is over, the last puff not at all, the others evenly
/// between.
fn wait_p50_s(setup: &Setup, size: f64) -> f64 {
    let offered = setup.baseline().rate;
    let puff = offered * setup.puff_s();
    let to_come = (size - puff).clamp(0.0, size - 1.0);
    (to_come * WORKERS / offered).min(LINGER_S) / 2.0
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let p = Prediction::new;
    let (law, call) = (law(setup), setup.call);
    let curve = SIZES.map(|(_, size)| (size, carries(setup, size)));
    let mut all = vec![
        p(
            "asymptote",
            law.asymptote,
            "events/s",
            format!("r∞ = r / e = {} / {}", figure(setup.ceiling), call.event_cost),
        ),
        p(
            "half_size",
            law.half_size,
            "events",
            format!("n½ = c / e = {} / {}", call.cost, call.event_cost),
        ),
        p(
            "knee",
            law.knee(),
            "events",
            format!("{} % of r∞ is reached at 9 n½", figure(100.0 * KNEE_SHARE)),
        ),
        p(
            "knee_among_sizes",
            law.knee_among(&curve).unwrap_or(f64::NAN),
            "events",
            "the smallest of the sizes at or above it".into(),
        ),
    ];
    let offered = setup.baseline().rate;
    for (arm, size) in SIZES {
        all.push(p(
            &format!("{arm}_throughput"),
            carries(setup, size),
            "events/s",
            format!("r B / (c + e B) at B = {}", figure(size)),
        ));
        all.push(p(
            &format!("{arm}_wait_p50"),
            wait_p50_s(setup, size) * 1e3,
            "ms",
            format!(
                "½ min((B − p) W / λ, linger): λ = {}/s in puffs of p = {}, over W = {} workers",
                figure(offered),
                figure(offered * setup.puff_s()),
                figure(WORKERS)
            ),
        ));
    }
    all
}

/// Below every size's ceiling, and above.
fn below(run: &Run) -> Phase {
    run.plan.setup.baseline().settled(SETTLE_S)
}

fn above(run: &Run) -> Phase {
    run.plan.setup.overload().settled(SETTLE_S)
}

fn size(arm: &Arm) -> f64 {
    SIZES.iter().find(|(name, _)| *name == arm.spec.name).map_or(f64::NAN, |(_, size)| *size)
}

fn carried(run: &Run, arm: &Arm) -> Option<f64> {
    arm.delivered_in(above(run))
}

fn p99_s(run: &Run, arm: &Arm) -> Option<f64> {
    arm.latency_in(Stage::EndToEnd, 0.99, below(run))
}

/// (size, figure) for every arm that has one.
fn by_size(run: &Run, of: impl Fn(&Arm) -> Option<f64>) -> Vec<(f64, f64)> {
    run.arms.iter().filter_map(|arm| Some((size(arm), of(arm)?))).collect()
}

fn checks(run: &Run) -> Vec<Check> {
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let name = arm.spec.name;
        let mut asking = Asking::of(run, arm);
        let why = "calls that come late, which the bucket does not make up for";
        let wanted = (said(&format!("{name}_throughput")), Margin::Share(0.05), why);
        let question = "Is the throughput on the predicted curve?";
        asking.ask("throughput", question, wanted, carried(run, arm), "events/s");
        asking.offered_in(above(run));
        asking.keeps_up_in(below(run), IN_FLIGHT + below(run).rate * LINGER_S);
        let wait = arm.latency_in(Stage::Batch, 0.5, below(run)).map(|s| s * 1e3);
        let why = "the producer sends once a linger of 20 ms, so a batch fills in puffs";
        let linger_ms = 1e3 * run.plan.setup.producer_linger_s();
        let wanted = (said(&format!("{name}_wait_p50")), Margin::Absolute(linger_ms), why);
        let question = "Do events wait for their batch as long as it fills?";
        asking.ask("wait_p50", question, wanted, wait, "ms");
        let under = (P99_MAX_S, Margin::AtMost, "the target");
        asking.ask("p99", "p99 below the ceiling", under, p99_s(run, arm), "s");
        checks.append(&mut asking.checks);
    }
    let points = by_size(run, |arm| carried(run, arm));
    let fit = BatchLaw::fitted(&points);
    checks.push(Check::new(
        "knee",
        "Batch for 90 % of r∞, by the law fitted to the four sizes",
        (said("knee"), Margin::Share(0.20), "a fit to four points, each within 5 %"),
        fit.map(BatchLaw::knee),
        "events",
    ));
    checks.push(Check::new(
        "knee_among_sizes",
        "Smallest of the sizes that carries 90 % of r∞ as fitted",
        (said("knee_among_sizes"), Margin::Absolute(0.0), "one of four sizes"),
        fit.and_then(|fit| fit.knee_among(&points)),
        "events",
    ));
    checks
}

fn charts(run: &Run) -> Vec<Chart> {
    vec![throughput_chart(run), latency_chart(run), time_chart(run)]
}

/// Sizes from the smallest to the largest arm's, close enough together for a curve.
fn curve(of: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (0..=60).map(|step| 10f64.powf(f64::from(step) / 20.0)).map(|b| (b, of(b))).collect()
}

fn by_size_chart(words: Words, lines: Vec<Line>) -> Chart {
    over_ratios("batch size, events", &SIZES.map(|(_, size)| size), words, lines)
}

fn level(label: String, value: f64) -> Line {
    Line { label, ink: Ink::Limit, points: curve(|_| value) }
}

fn throughput_chart(run: &Run) -> Chart {
    let law = law(&run.plan.setup);
    let points = by_size(run, |arm| carried(run, arm));
    let found = BatchLaw::fitted(&points).map_or("?".into(), |fit| figure(fit.knee().round()));
    let most = law.asymptote;
    let lines = vec![
        Line {
            label: "r B / (c + e B), predicted".into(),
            ink: Ink::Predicted,
            points: curve(|size| carries(&run.plan.setup, size)),
        },
        Line { label: "measured".into(), ink: Ink::Blue, points },
        level(format!("r∞, {}/s", figure(most)), most),
        level(format!("90 % of it, {}/s", figure(KNEE_SHARE * most)), KNEE_SHARE * most),
    ];
    let words = Words {
        name: "throughput",
        title: format!(
            "A batch of {found} events carries 90 % of what the sink can ever take; {} predicted",
            figure(run.plan.predicted("knee").round())
        ),
        subtitle: "Events acked by the sink per second, under overload, by batch size. The knee is 9 n½ of \
         Hockney's law, fitted to the four points.",
        y_label: "events/s",
    };
    by_size_chart(words, lines)
}

fn latency_chart(run: &Run) -> Chart {
    let offered = run.plan.setup.baseline().rate;
    let ms = |points: Vec<(f64, f64)>| scaled(points, 1e-3);
    let p99 = ms(by_size(run, |arm| p99_s(run, arm)));
    let of = |size: f64| {
        let found = p99.iter().find(|p| p.0 == size);
        found.map_or("?".into(), |p| figure(p.1.round()))
    };
    let title = format!(
        "At {}/s p99 is {} ms without batches, {} ms at 200, {} ms at 1,000",
        figure(offered),
        of(1.0),
        of(200.0),
        of(1000.0)
    );
    let lines = vec![
        Line {
            label: "wait for the batch p50, predicted".into(),
            ink: Ink::Predicted,
            points: ms(curve(|size| wait_p50_s(&run.plan.setup, size))),
        },
        Line {
            label: "wait for the batch p50, measured".into(),
            ink: Ink::Vermilion,
            points: ms(by_size(run, |arm| arm.latency_in(Stage::Batch, 0.5, below(run)))),
        },
        Line { label: "end to end p99, measured".into(), ink: Ink::Blue, points: p99 },
        level(format!("linger, {} ms", figure(LINGER_S * 1e3)), LINGER_S * 1e3),
    ];
    let words = Words {
        name: "latency",
        title,
        subtitle: "Of all events acked at the lower load, by batch size. A batch leaves when it is full or its \
         first event has waited for the linger.",
        y_label: "time, ms",
    };
    by_size_chart(words, lines)
}

fn time_chart(run: &Run) -> Chart {
    let (setup, drawing) = (&run.plan.setup, Drawing::new(run));
    let mut lines = drawing.arms("", |arm| stats::rates(&arm.delivered()));
    let offered = setup.offered();
    for (_, size) in SIZES {
        let most = carries(setup, size);
        let during = |t| (t < setup.end_s()).then(|| offered.at(t).min(most));
        lines.push(drawing.model(format!("{}, predicted", figure(size)), during));
    }
    let figures: Vec<String> = (run.arms.iter())
        .map(|arm| drawing.figure(arm.spec.name, |arm| carried(run, arm)))
        .collect();
    drawing.chart(
        "rates",
        format!(
            "In batches of 1, 50, 200 and 1,000 the sink takes {} events/s",
            figures.join(", ")
        ),
        "Events acked by the sink per second.",
        "events/s",
        lines,
    )
}

fn sizes_table(run: &Run) -> Table {
    let ms = |value: Option<f64>| or_not_measured(value.map(|s| s * 1e3));
    let row = |arm: &Arm| {
        let predicted = run.plan.predicted(&format!("{}_throughput", arm.spec.name));
        let carried = carried(run, arm);
        let wait = |q, phase| ms(arm.latency_in(Stage::Batch, q, phase));
        let calls = arm.rate_in("sink", "sink_writes_total", above(run));
        vec![
            figure(size(arm)),
            figure(predicted),
            or_not_measured(carried),
            carried.map_or("?".into(), |c| format!("{:+.1} %", 100.0 * (c / predicted - 1.0))),
            or_not_measured(carried.zip(calls).map(|(events, calls)| events / calls)),
            ms(arm.latency_in(Stage::EndToEnd, 0.5, below(run))),
            ms(p99_s(run, arm)),
            wait(0.5, below(run)),
            wait(0.99, below(run)),
            wait(0.99, above(run)),
        ]
    };
    let head = [
        "batch",
        "events/s, predicted",
        "measured",
        "off by",
        "events a call",
        "p50 at the lower load, ms",
        "p99",
        "linger waited there, p50, ms",
        "p99",
        "p99 under overload",
    ];
    Table::new("What each batch size does", &head, run.arms.iter().map(row))
}

fn recommendations(run: &Run) -> Table {
    let sizes: Vec<(f64, f64, f64)> = (run.arms.iter())
        .filter_map(|arm| Some((size(arm), carried(run, arm)?, p99_s(run, arm)?)))
        .collect();
    let row = |stated: f64| {
        let wanted = format!("{} ms", figure(stated * 1e3));
        match recommended(&sizes, stated) {
            Some((size, rate, p99)) => {
                vec![wanted, figure(size), figure(rate), format!("{} ms", figure(p99 * 1e3))]
            }
            None => vec![wanted, "none keeps it".into(), String::new(), String::new()],
        }
    };
    Table::new(
        "The batch size for a stated p99: the smallest within 5 % of the best throughput among those \
         that keep it",
        &["p99 at the lower load", "batch size", "carries, events/s", "its p99"],
        STATED_P99_S.map(row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_designs_own_curve() {
        let plan = predict(&Setup::quick(&EXPERIMENT));
        let said = |name: &str| plan.iter().find(|p| p.name == name).expect(name).value;
        let carried = SIZES.map(|(arm, _)| said(&format!("{arm}_throughput")).round());
        assert_eq!(carried, [2000.0, 16_949.0, 19_139.0, 19_822.0]);
        assert_eq!((said("knee").round(), said("knee_among_sizes")), (81.0, 200.0));
        assert_eq!(said("b1_wait_p50"), 0.0);
        assert!((said("b50_wait_p50") - 1e3 * 40.0 * 2.0 / 1500.0 / 2.0).abs() < 1e-9);
        assert_eq!(said("b1000_wait_p50"), 250.0, "the linger ends it");
    }
}
