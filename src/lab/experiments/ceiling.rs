//! The benchmark behind the experiments: below the ceiling latency is small; above it the sink
//! stays busy, with each way to hold the consumer back. Batches are off: every event is a call.

use super::asking::{Asking, SETTLE_S};
use super::drawing::Drawing;
use super::{ArmSpec, Check, Experiment, Form, Launch, Margin, Prediction, Setup, no_tables};
use crate::lab::charts::{Chart, Ink};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::text::figure;
use crate::telemetry::latency::Stage;

/// The targets at 80 % of the ceiling, by arm, ms.
const P99_MAX_MS: [(&str, f64); 2] = [("bounded", 50.0), ("pull", 25.0)];

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "ceiling",
    title: "below and above the ceiling, batches off",
    question: "At 80 % of what the sink takes, how long does an event travel? At four times, is the \
               sink kept busy and the source on its schedule?",
    held: "load schedule, seed, payload, sink and its ceiling, one event a call, workers, machine",
    varied: "how the consumer is held back: a bounded queue (`bounded`) or none (`pull`)",
    arms: &[
        ArmSpec::new("bounded", "bounded", Ink::Vermilion),
        ArmSpec::new("pull", "pull", Ink::Blue),
    ],
    launches,
    warm_up: true,
    predict,
    checks,
    charts,
    tables: no_tables,
    limits: "One machine and one run an arm. Client, brokers and sink share its cores, so the \
             latency below the ceiling holds their scheduling too.",
};

fn launches(form: Form) -> Vec<Launch> {
    let schedule = form.of("1600:40s,8000:60s", "1600:120s,8000:100s");
    // Half of the producer's default: its own batches are what an event waits for most.
    let load = format!("--schedule {schedule} --msg-size 512 --seed 1 --linger 10ms");
    let arm = |name, flags| Launch::new(name, &load, "--rate-limit 2000", flags);
    vec![
        arm("bounded", "--queue bounded --sink-mode single"),
        arm("pull", "--queue pull --sink-mode single"),
    ]
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    // An event waits for up to one tick of the producer.
    let linger_ms = setup.arm("bounded").map_or(f64::NAN, |arm| 1e3 * arm.producer_linger_s);
    let utilisation = setup.baseline().rate / setup.ceiling;
    let service_ms = 1000.0 / setup.ceiling;
    // Mean wait of M/D/1 (Pollaczek–Khinchine).
    let wait_ms = service_ms * utilisation / (2.0 * (1.0 - utilisation));
    vec![
        Prediction::new(
            "p50_below",
            linger_ms / 2.0 + service_ms + wait_ms,
            "ms",
            format!(
                "half a linger of {} ms, a service of {} ms, an M/D/1 wait of {} ms at {} % of the \
                 ceiling; brokers and scheduling come on top",
                figure(linger_ms),
                figure(service_ms),
                figure(wait_ms),
                figure(100.0 * utilisation)
            ),
        ),
        Prediction::new("delivered", setup.ceiling, "events/s", "μ: the sink is busy".into()),
        Prediction::new(
            "offered",
            setup.overload().rate,
            "events/s",
            "open model: the schedule, whatever the sink does".into(),
        ),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let below = run.plan.setup.baseline().settled(SETTLE_S);
    let above = run.plan.setup.overload().settled(SETTLE_S);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        let p99_ms = arm.latency_in(Stage::EndToEnd, 0.99, below).map(|s| s * 1e3);
        let target = P99_MAX_MS.iter().find(|(name, _)| *name == arm.spec.name);
        let target = target.map_or(f64::NAN, |(_, ms)| *ms);
        let small = (target, Margin::AtMost, "the target");
        asking.ask("p99_below", "Due to acked at 80 % of the ceiling, p99", small, p99_ms, "ms");
        asking.sink_busy_in(above);
        let sent = arm.sent_in(above);
        let why = "99.9 % of it: looks come up to some 10 ms late";
        let kept = (0.999 * run.plan.predicted("offered"), Margin::AtLeast, why);
        asking.ask("offered", "Does the producer keep its schedule?", kept, sent, "events/s");
        checks.append(&mut asking.checks);
    }
    checks
}

fn charts(run: &Run) -> Vec<Chart> {
    let below = run.plan.setup.baseline();
    let drawing = Drawing::until(run, below.to);
    let settled = below.settled(SETTLE_S);
    let p99_ms = |arm: &Arm| arm.latency_in(Stage::EndToEnd, 0.99, settled).map(|s| s * 1e3);
    let p99 = |name| drawing.figure(name, p99_ms);
    let mut lines = drawing.arms(", measured", |arm| {
        let seconds = arm.latency(Stage::EndToEnd, 0.99);
        seconds.into_iter().map(|(t, s)| (t, s * 1e3)).collect()
    });
    for (arm, ms) in P99_MAX_MS {
        lines.push(drawing.limit(format!("target of {arm}, {} ms", figure(ms)), ms));
    }
    let (bounded, pull) = (p99("bounded"), p99("pull"));
    vec![drawing.chart(
        "latency",
        format!(
            "At 80 % of the ceiling p99 is {bounded} ms over a bounded queue, {pull} ms by pull"
        ),
        "Due time to acked by the sink, 99th percentile of the events acked in each second; \
         batches off.",
        "end-to-end latency p99, ms",
        lines,
    )]
}
