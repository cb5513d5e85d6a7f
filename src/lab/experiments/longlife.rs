//! Long life: half an hour at four times the ceiling. Does anything grow that should not, such as
//! memory, threads or file descriptors?

use super::asking::{Asking, MB, RSS_MAX_MB, rss_slope_mb, scaled};
use super::drawing::Drawing;
use super::{
    ArmSpec, Check, Experiment, Form, Launch, Margin, PROMISE, Phase, Prediction, Setup, no_tables,
};
use crate::lab::charts::{Chart, Ink};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::samples::ProcessReading;
use crate::lab::stats;
use crate::lab::text::figure;

/// What the processor's memory may grow by after its warm-up, MB an hour.
const GROWTH_MAX: f64 = 1.0;
/// The share of the run that warms up: queues fill, the allocator finds its size.
const WARM_UP: f64 = 1.0 / 6.0;
/// The allocator takes and releases memory in steps of about so much, MB. In half an hour that is
/// below the limit's own resolution; in minutes it looks like growth.
const STEP_MB: f64 = 0.5;
/// Descriptors that come and go: a connection that is being made anew, a metrics page being read.
const PASSING_FDS: f64 = 2.0;
/// Whose threads and descriptors are counted.
const PROCESSES: [&str; 3] = ["producer", "processor", "sink"];

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "longlife",
    title: "half an hour at four times the ceiling",
    question: "Four times what the sink takes, for long. Does the processor's memory grow, do \
               threads or file descriptors?",
    held: "load, seed, payload, sink, batching, workers, machine",
    varied: "how the consumer is held back: a queue of 10,000 events (`bounded`) or none (`pull`)",
    arms: &[
        ArmSpec::new("bounded", "bounded", Ink::Vermilion),
        ArmSpec::new("pull", "pull", Ink::Blue),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: no_tables,
    limits: "One machine and one run an arm. A leak of less than a megabyte an hour is not seen. The \
             short form sees only what grows by half a megabyte in its few minutes. The sink's ledger \
             grows with what was delivered (a bit an id) and is not judged.",
};

fn launches(form: Form) -> Vec<Launch> {
    let load = format!("--schedule 8000:{} --msg-size 512 --seed 1", form.of("4m", "30m"));
    let arm = |name, flags| Launch::new(name, &load, "--rate-limit 2000", flags);
    vec![arm("bounded", "--queue bounded --queue-cap 10000"), arm("pull", "--queue pull")]
}

fn settled(setup: &Setup) -> Phase {
    let end = setup.end_s();
    Phase { rate: setup.overload().rate, from: end * WARM_UP, to: end - 2.0 }
}

/// MB an hour.
fn growth_max(setup: &Setup) -> f64 {
    GROWTH_MAX + setup.form.of(STEP_MB * 3600.0 / settled(setup).length(), 0.0)
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let because = match setup.form {
        Form::Quick => format!(
            "a queue that is full stays so; {} MB an hour, and one step of the allocator of {} MB in \
             {} s",
            figure(GROWTH_MAX),
            figure(STEP_MB),
            figure(settled(setup).length())
        ),
        Form::Full => "a queue that is full stays so".into(),
    };
    vec![Prediction::new("growth", growth_max(setup), "MB/hour", because)]
}

fn checks(run: &Run) -> Vec<Check> {
    let setup = &run.plan.setup;
    let phase = settled(setup);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        asking.sink_busy_in(phase);
        asking.rss_under(RSS_MAX_MB);
        let growth = rss_slope_mb(arm, phase).map(|slope| slope * 3600.0);
        let limit = (growth_max(setup), Margin::AtMost, "see the prediction");
        let question = "By how much does its memory grow after the warm-up (regression)?";
        asking.ask("growth", question, limit, growth, "MB/hour");
        for process in PROCESSES {
            let threads = range(
                arm,
                phase,
                |reading| match reading {
                    ProcessReading::Alive { threads, .. } => Some(*threads as f64),
                    ProcessReading::Gone { .. } => None,
                },
                process,
            );
            let constant = (0.0, Margin::AtMost, PROMISE);
            let question = "How far apart are its most and its fewest threads?";
            asking.ask(&format!("{process}_threads"), question, constant, threads, "threads");
            let fds = range(
                arm,
                phase,
                |reading| match reading {
                    ProcessReading::Alive { fds, .. } => fds.map(|fds| fds as f64),
                    ProcessReading::Gone { .. } => None,
                },
                process,
            );
            let why = "a connection that is being made anew, a metrics page being read";
            let constant = (PASSING_FDS, Margin::AtMost, why);
            let question = "How far apart are its most and its fewest file descriptors?";
            asking.ask(&format!("{process}_fds"), question, constant, fds, "descriptors");
        }
        checks.append(&mut asking.checks);
    }
    checks
}

/// The largest less the smallest.
fn range(
    arm: &Arm,
    phase: Phase,
    of: fn(&ProcessReading) -> Option<f64>,
    process: &str,
) -> Option<f64> {
    let series = arm.series(|sample| of(sample.processes.get(process)?));
    let inside = stats::between(&series, phase.from, phase.to);
    let smallest = inside.iter().map(|point| point.1).min_by(f64::total_cmp)?;
    Some(stats::max(&inside)? - smallest)
}

fn charts(run: &Run) -> Vec<Chart> {
    let drawing = Drawing::until(run, run.plan.setup.end_s());
    let growth = |name| {
        let phase = settled(&run.plan.setup);
        drawing.figure(name, |arm| rss_slope_mb(arm, phase).map(|slope| slope * 3600.0))
    };
    let lines = drawing.arms(", measured", |arm| scaled(arm.rss_bytes("processor"), MB));
    let (bounded, pull) = (growth("bounded"), growth("pull"));
    vec![drawing.chart(
        "memory",
        format!("After the warm-up memory grows by {bounded} MB an hour (bounded), {pull} (pull)"),
        "Resident memory of the processor, looked at once a second; the slope is a regression.",
        "resident memory, MB",
        lines,
    )]
}
