//! The table arm × numbers, the same for every experiment.

use crate::lab::experiments::Phase;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::telemetry::latency::Stage;

/// A row: its label, and its figure for an arm; `None` when the run does not show it.
pub type Number = (&'static str, fn(&Run, &Arm) -> Option<f64>);

/// Seconds after a change of load that the table leaves out.
const SETTLE_S: f64 = 5.0;

fn overload(run: &Run, arm: &Arm) -> Phase {
    run.plan.setup.load_of(arm.spec.name).overload().settled(SETTLE_S)
}

/// The gain of a counter of all processors together, a second of the overload.
fn members_rate(run: &Run, arm: &Arm, key: &str) -> Option<f64> {
    let Phase { from, to, .. } = overload(run, arm);
    stats::overall_rate(&stats::between(&arm.counted_by_members(key), from, to))
}

fn quantile(run: &Run, arm: &Arm, q: f64, baseline: bool) -> Option<f64> {
    let below = || run.plan.setup.load_of(arm.spec.name).baseline().settled(SETTLE_S);
    let phase = if baseline { below() } else { overload(run, arm) };
    arm.latency_in(Stage::EndToEnd, q, phase)
}

fn median_in(run: &Run, arm: &Arm, stage: Stage) -> Option<f64> {
    arm.latency_in(stage, 0.5, overload(run, arm))
}

/// The table arm × numbers, the same for every experiment. Where a group has several processors all that lived are counted
/// together, and its memory is that of the largest.
pub const NUMBERS: &[Number] = &[
    ("λ as produced in the overload, events/s", |r, a| a.sent_in(overload(r, a))),
    ("λ as polled, events/s", |r, a| members_rate(r, a, "processor_events_fetched_total")),
    ("fetch requests/s", |r, a| members_rate(r, a, "processor_polls_total")),
    ("μ as delivered, events/s", |r, a| a.delivered_in(overload(r, a))),
    ("RSS slope from λ and μ as measured, queue without limit, MB/s", |r, a| {
        // A queue with a limit is full: what it cannot take is in the log, or shed.
        let arm = r.plan.setup.arm(a.spec.name);
        arm.is_none_or(|arm| arm.queue_cap.is_none()).then_some(())?;
        let polled = members_rate(r, a, "processor_events_fetched_total")?;
        let acked = a.delivered_in(overload(r, a))?;
        Some(r.plan.setup.resident_bytes * (polled - acked) / 1e6)
    }),
    ("RSS of the processor at the end of the baseline, MB", |r, a| {
        let to = r.plan.setup.load_of(a.spec.name).baseline().to;
        stats::between(&a.largest_rss_bytes(), 0.0, to).last().map(|p| p.1 / 1e6)
    }),
    ("largest RSS of the processor, MB", |_, a| {
        stats::max(&a.largest_rss_bytes()).map(|b| b / 1e6)
    }),
    ("largest queue depth, events", |_, a| {
        stats::max(&a.of_members("processor_queue_depth", |a, b| a + b))
    }),
    ("largest lag, events", |_, a| stats::max(&a.lag())),
    ("end-to-end p50 in the baseline, s", |r, a| quantile(r, a, 0.5, true)),
    ("end-to-end p99 in the baseline, s", |r, a| quantile(r, a, 0.99, true)),
    ("end-to-end p50 in the overload, s", |r, a| quantile(r, a, 0.5, false)),
    ("end-to-end p99 in the overload, s", |r, a| quantile(r, a, 0.99, false)),
    ("end-to-end p99.9 in the overload, s", |r, a| quantile(r, a, 0.999, false)),
    ("of that p50, waited in the log, s", |r, a| median_in(r, a, Stage::Log)),
    ("of that p50, waited in the queue, s", |r, a| median_in(r, a, Stage::Queue)),
    ("largest gap between two polls of the group member, s", |_, a| {
        stats::max(&a.of_members("processor_poll_gap_seconds", f64::max))
    }),
    ("evictions", |_, a| a.evictions(1)),
    ("CPU of other processes in the overload, % of the machine", |r, a| {
        a.host_in(r.plan.setup.load_of(a.spec.name).overload()).map(|host| host.others * 100.0)
    }),
];
