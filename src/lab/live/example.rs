//! What the tests watch: a pull arm of experiment 2 that does as the model says.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::lab::experiments::{self, Form, Setup};
use crate::lab::plan::{self, Plan};
use crate::lab::samples::{LogReading, ProcessReading, Sample};

/// Second `t` of it: 1,500/s for 20 s, then 8,000/s, against 2,000/s.
pub fn look(t: i64) -> Sample {
    let (due, acked) =
        if t <= 20 { (1500 * t, 1500 * t) } else { (8000 * t - 130_000, 2000 * t - 10_000) };
    let rate = if t <= 20 { 1500.0 } else { 8000.0 };
    let page = |values: &[(&str, f64)]| values.iter().map(|(k, v)| ((*k).into(), *v)).collect();
    let producer = page(&[
        ("producer_events_due", due as f64),
        ("producer_events_sent_total", due as f64),
        ("producer_target_rate", rate),
    ]);
    let processor = page(&[
        ("processor_events_fetched_total", acked as f64),
        ("processor_events_acked_total", acked as f64),
        ("processor_evictions_total", 0.0),
        ("heap_inuse_bytes", 9e6),
        ("processor_queue_depth", 0.0),
        ("processor_queue_capacity", 0.0),
    ]);
    let sink = page(&[("sink_events_total", acked as f64)]);
    let alive =
        ProcessReading::Alive { pid: 1, rss_bytes: 17 << 20, threads: 9, fds: None, cpu_s: 1.0 };
    let read_us = t * 1_000_000;
    Sample {
        due_us: read_us,
        log: Some(LogReading { read_us, lag: Some(due - acked), ..LogReading::default() }),
        processes: [("processor".to_owned(), alive)].into(),
        metrics: [("producer", producer), ("processor", processor), ("sink", sink)]
            .map(|(name, page)| (name.to_owned(), page))
            .into(),
        ..Sample::default()
    }
}

/// The folder of the arm, with its plan beside it.
pub fn arm() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let experiment = experiments::named("exp2").expect("declared");
    let mut setup = Setup::example();
    for arm in &mut setup.arms {
        arm.schedule.clone_from(&setup.schedule);
    }
    let plan = Plan {
        predictions: (experiment.predict)(&setup),
        setup,
        ..Plan::of(experiment, Form::Quick).expect("its flags")
    };
    crate::lab::write_json(&dir.path().join(plan::FILE), &plan).expect("written");
    let arm = dir.path().join("pull");
    (dir, arm)
}
