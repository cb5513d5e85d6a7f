//! Checks that several experiments share. Each has one way to measure and one margin, so that the
//! same word means the same thing in every report.

use super::{Check, Form, Margin, Phase, Setup, Wanted};
use crate::event::HEADER_BYTES;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::samples::Sample;
use crate::lab::stats::{self, Line, Series};

/// Bytes in the megabyte of the reports.
pub const MB: f64 = 1e6;
/// Seconds after a change of load that are left out of slopes and rates: the group's join or the
/// sink's burst, the first fetches, the allocator's first slabs.
pub const SETTLE_S: f64 = 5.0;
/// Seconds after which the allocator has released the memory of the first burst (jemalloc's
/// `dirty_decay_ms`, its default).
const DECAY_S: f64 = 10.0;
/// The largest share of the bytes passed that may stay allocated, in a run of a minute.
const LEAK_MAX: f64 = 0.025;
/// What `bounded` and `pull` must stay under, MB.
pub const RSS_MAX_MB: f64 = 512.0;
/// Memory of a processor with an empty queue that a limit counts, MB: `RssAnon` in
/// `/proc/PID/status`, read once at 1,500 events/s, before any run that is judged by it.
pub const BASE_MB: f64 = 13.0;
/// Other resident memory, MB: `RssFile`, pages of the program's own file, which the kernel takes
/// back before it kills a process.
pub const FILE_MB: f64 = 8.0;
/// A commit's answer, from a busy cluster, s.
const ANSWER_S: f64 = 0.5;
/// What waits may grow by, as a share of the load: half of what a processor that serves 14 of 15 events falls behind.
const FALLS_BEHIND: f64 = 1.0 / 30.0;
/// A phase shows it that lasts so long after the group has joined, s.
const JOIN_S: f64 = 3.0;
const SHOWS_S: f64 = 5.0;
/// Events that four workers with batches of 200 have in flight: the defaults.
pub const IN_FLIGHT: f64 = 4.0 * 200.0;
/// The end of a phase: some samples, one a second.
const LAST_S: f64 = 5.0;

/// The checks of one arm, asked one by one.
pub struct Asking<'a> {
    run: &'a Run,
    arm: &'a Arm,
    /// What was asked so far.
    pub checks: Vec<Check>,
}

impl<'a> Asking<'a> {
    /// Nothing asked yet.
    pub fn of(run: &'a Run, arm: &'a Arm) -> Self {
        Self { run, arm, checks: Vec::new() }
    }

    /// The check `{arm}_{name}`.
    pub fn ask(
        &mut self,
        name: &str,
        question: &str,
        wanted: Wanted,
        measured: Option<f64>,
        unit: &str,
    ) {
        let name = format!("{}_{name}", self.arm.spec.name);
        self.checks.push(Check::new(&name, question, wanted, measured, unit));
    }

    /// Below the ceiling, all offered events are served and committed. It is judged by the lag at
    /// the end of the whole phase, and by how what waits grows, so that a processor that is a little too slow is
    /// found: one that serves 1,400/s of 1,500/s is 1,200 events behind after 12 s. Workers hold `in_flight` events
    /// at most.
    pub fn keeps_up_in(&mut self, phase: Phase, in_flight: f64) {
        let setup = &self.run.plan.setup;
        let last = |series: &Series| {
            let end = stats::between(series, phase.to - LAST_S, phase.to);
            stats::median(end.iter().map(|point| point.1))
        };
        let unserved = self.arm.series(|s| {
            let acked = s.metric_sum("processor", "processor_events_acked_total")?;
            Some(s.metric("producer", "producer_events_sent_total")? - acked)
        });
        let why =
            "events in flight; one that serves too little falls behind as long as the phase lasts";
        let held = (in_flight, Margin::AtMost, why);
        let question = "Below the ceiling: what was sent and not acked at its end";
        self.ask("served_baseline", question, held, last(&unserved), "events");
        let joined = Phase { from: phase.from.max(JOIN_S), ..phase };
        if joined.length() >= SHOWS_S {
            let batch = setup.arm(self.arm.spec.name).map_or(0.0, |arm| arm.batch);
            let most = phase.rate * FALLS_BEHIND + batch / joined.length();
            let why = "half of what a processor that serves 14 of 15 events falls behind, and a batch that \
                       begins or ends";
            let question = "Below the ceiling: by how much what was sent and not acked grows";
            let slope = line_in(&unserved, joined).map(|line| line.slope);
            self.ask("grows_baseline", question, (most, Margin::AtMost, why), slope, "events/s");
        }
        let why =
            "events of one commit interval and half a second for its answer, and events in flight";
        let saw = (phase.rate * saw_s(setup, self.arm) + in_flight, Margin::AtMost, why);
        let question = "Below the ceiling: the lag at its end";
        let end = stats::between(&self.arm.lag(), phase.to - LAST_S, phase.to);
        self.ask("lag_baseline", question, saw, stats::max(&end), "events");
    }

    /// The lag climbs at λ − μ.
    pub fn lag_climbs_in(&mut self, phase: Phase) {
        let excess = phase.rate - self.run.plan.setup.ceiling;
        let why = "a difference of two rates, read through a saw of one commit interval";
        let (climbs, lag) = ((excess, Margin::Share(0.10), why), lag_slope(self.arm, phase));
        self.ask("lag_overload", "Does the lag climb at λ − μ?", climbs, lag, "events/s");
    }

    /// The producer kept its schedule.
    pub fn offered_in(&mut self, phase: Phase) {
        let sent = self.arm.sent_in(phase);
        let why = "a schedule is kept to the event; looks come up to some 10 ms late";
        let load = (phase.rate, Margin::Share(0.01), why);
        self.ask("offered", "Was the load really offered?", load, sent, "events/s");
    }

    /// The sink was the bottleneck.
    pub fn sink_busy_in(&mut self, phase: Phase) {
        let delivered = self.arm.delivered_in(phase);
        let why = "98 % of the ceiling: a bucket that finds no call waiting for 20 ms loses 2 % of a second";
        let floor = (0.98 * self.run.plan.setup.ceiling, Margin::AtLeast, why);
        self.ask(
            "delivered",
            "Is the sink kept busy under overload?",
            floor,
            delivered,
            "events/s",
        );
    }

    /// Memory does not grow; it may shrink. In half an hour resident memory may grow by 1 MB an
    /// hour. In a minute resident memory is the allocator's own, 5 MB up and down without a leak,
    /// so there the check uses what the program has allocated: a leak of more than [`LEAK_MAX`] of
    /// the bytes passed turns it red.
    pub fn rss_flat_in(&mut self, phase: Phase) {
        let setup = &self.run.plan.setup;
        let decayed = setup.overload().from + SETTLE_S + DECAY_S;
        let settled = Phase { from: phase.from.max(decayed).min(phase.to), ..phase };
        let (most, slope, why, question) = if setup.form == Form::Quick {
            let passing = setup.ceiling * (setup.payload_bytes + HEADER_BYTES) as f64 / MB;
            let heap = self.arm.metric("processor", "heap_inuse_bytes");
            (
                LEAK_MAX * passing,
                line_in(&heap, settled).map(|line| line.slope / MB),
                "2.5 % of the bytes that pass; less is the coming and going of batches and answers",
                "Is its memory flat under overload? (what it has allocated)",
            )
        } else {
            let why = "1 MB an hour, as in longlife";
            let question = "Is its memory flat under overload? (resident)";
            (1.0 / 3600.0, rss_slope_mb(self.arm, settled), why, question)
        };
        self.ask("rss_slope", question, (most, Margin::AtMost, why), slope, "MB/s");
    }

    /// Memory stays below `limit_mb` from start to end.
    pub fn rss_under(&mut self, limit_mb: f64) {
        let under = (limit_mb, Margin::AtMost, "the target");
        let max = rss_max_mb(self.arm);
        self.ask("rss_max", "Does it stay under its limit, start to end?", under, max, "MB");
    }
}

/// The time between two commits of an arm, and for the answer of one, s.
pub fn saw_s(setup: &Setup, arm: &Arm) -> f64 {
    setup.arm(arm.spec.name).map_or(f64::NAN, |arm| arm.commit_interval_s) + ANSWER_S
}

/// The straight line through `series` in `phase`.
pub fn line_in(series: &[(f64, f64)], phase: Phase) -> Option<Line> {
    stats::line(&stats::between(series, phase.from, phase.to))
}

/// Slope of the consumer lag, events/s.
pub fn lag_slope(arm: &Arm, phase: Phase) -> Option<f64> {
    line_in(&arm.lag(), phase).map(|line| line.slope)
}

/// Slope of the processor's resident memory, MB/s.
pub fn rss_slope_mb(arm: &Arm, phase: Phase) -> Option<f64> {
    line_in(&arm.rss_bytes("processor"), phase).map(|line| line.slope / MB)
}

/// Largest resident memory of the processor, MB.
pub fn rss_max_mb(arm: &Arm) -> Option<f64> {
    stats::max(&arm.rss_bytes("processor")).map(|bytes| bytes / MB)
}

/// Events polled for each event that the sink took.
pub fn poll_ratio(arm: &Arm, phase: Phase) -> Option<f64> {
    Some(arm.polled_in(phase)? / arm.delivered_in(phase)?)
}

/// By how much the heap in use grows with each event in the queue, B.
pub fn heap_per_event(arm: &Arm, phase: Phase) -> Option<f64> {
    let metric = |name| move |s: &Sample| s.metric("processor", name);
    let pairs = arm.against(phase, metric("processor_queue_depth"), metric("heap_inuse_bytes"));
    stats::line(&pairs).map(|line| line.slope)
}

/// `series` in another unit.
pub fn scaled(series: Series, by: f64) -> Series {
    series.into_iter().map(|(t, v)| (t, v / by)).collect()
}
