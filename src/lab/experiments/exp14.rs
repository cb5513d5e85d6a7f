//! Experiment 14: who notices first. The sink stands still behind a steady, a bursty and an almost idle producer; rules
//! over the recorded samples say when they would have fired, and how often for nothing.

use super::asking::Asking;
use super::drawing::Drawing;
use super::{
    ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, PROMISE, Phase, Prediction, Setup,
    Table,
};
use crate::lab::charts::{Chart, Ink};
use crate::lab::detect::{self, FallingBehind, RECOMMENDED};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;

/// The target: seconds until the recommended rule fires.
const FOUND_MAX_S: f64 = 10.0;
/// A second each, at most: the stall's command, the commit of what was acked before it, the look that shows it.
const SEEN_S: f64 = 3.0;
/// Events/s of the sink while it stands still: one event in a standstill of the quick form.
const STILL: f64 = 0.1;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp14",
    title: "who notices first",
    question: "The sink stands still. How soon does each rule notice it behind a steady, a bursty and an almost idle \
               producer, and how often does it fire while nothing is wrong?",
    held: "sink and its ceiling, its stall, a bounded queue of 10,000 events, batching, workers, commit interval of \
           1 s, machine",
    varied: "the load: 1,500/s; 1,900/s for a second and 250/s for two, in turn; 20/s",
    arms: &[
        ArmSpec::new("steady", "steady", Ink::Blue),
        ArmSpec::new("bursty", "bursty", Ink::Vermilion),
        ArmSpec::new("idle", "idle", Ink::Green),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts: |run| vec![lag_chart(run)],
    tables: |run| vec![found(run), false_alarms(run)],
    limits: "One machine and one run an arm; one kind of trouble (run/faults.sh has 25 of them, under the same loads by \
             --case). Rules are scored once a second over samples of one second; one that asks less often is later by \
             that much.",
};

fn launches(form: Form) -> Vec<Launch> {
    // Twenty minutes of quiet in each arm make the hour in which the recommended rule may not fire. The stall is shorter
    // than a call may take (--sink-timeout, a minute): else it would be sent again, and served twice.
    let (turns, from, time) = form.of((23, 30.0, 15.0), (500, 1200.0, 45.0));
    let stall = Some(Phase { rate: STILL, from, to: from + time });
    let seconds = turns * 3;
    let arm = |name, schedule: String| Launch {
        stall,
        ..Launch::new(
            name,
            &format!("--schedule {schedule} --msg-size 512 --seed 1"),
            "--rate-limit 2000",
            "--queue bounded --queue-cap 10000",
        )
    };
    vec![
        arm("steady", format!("1500:{seconds}s")),
        arm("bursty", format!("1900:1s,250:2s,x{turns}")),
        arm("idle", format!("20:{seconds}s")),
    ]
}

/// Within which the recommended rule must fire: when the lag has gained what is done in two commit intervals at the
/// busiest, and an interval later still; or when a partition stood still for long enough, from its first event on.
fn within(arm: &ArmSetup) -> f64 {
    let rule = FallingBehind::default();
    let seconds = arm.phases().last().map_or(f64::NAN, |last| last.to);
    let (mean, interval) = (arm.events() / seconds, rule.commit_interval_s);
    let busiest = arm.phases().map(|phase| phase.rate).fold(0.0, f64::max);
    let gain = rule.floor.max(rule.gain_intervals * interval * busiest);
    let first_event = f64::from(arm.partitions) / mean;
    let still = (rule.still_intervals + 1.0) * interval + first_event;
    (gain / mean + interval).min(still) + SEEN_S
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let of = |arm: &ArmSetup| {
        Prediction::new(
            &within_of(&arm.name),
            within(arm),
            "s",
            "at most: a gain of two commit intervals' worth at the busiest, and an interval; or six intervals and the \
             first event of a partition; and 3 s for the stall's command, the last commit and the look"
                .into(),
        )
    };
    setup.arms.iter().map(of).collect()
}

fn within_of(arm: &str) -> String {
    format!("{arm}_within")
}

fn checks(run: &Run) -> Vec<Check> {
    let mut checks = Vec::new();
    for arm in &run.arms {
        let setup = run.plan.setup.arm(arm.spec.name);
        let mut asking = Asking::of(run, arm);
        let planned = setup.map_or(f64::NAN, ArmSetup::events);
        let why = "a schedule is kept to the event; the last sample is up to a second early";
        let sent = stats::max(&arm.metric("producer", "producer_events_sent_total"));
        let all = (planned, Margin::Share(0.05), why);
        asking.ask("offered", "Was the load really offered?", all, sent, "events");
        let scored = setup.map(|setup| detect::of_arm(&run.plan.setup, setup, arm));
        let score = scored.as_ref().and_then(|scored| scored.of_rule(RECOMMENDED));
        let score = score.filter(|score| score.needs.is_none());
        let after = score.and_then(|score| *score.found_after_s.first()?);
        let target = (FOUND_MAX_S, Margin::AtMost, "the target");
        let question = "From the stall until the recommended rule fires";
        asking.ask("found", question, target, after, "s");
        let said = run.plan.predicted(&within_of(arm.spec.name));
        let most = (said, Margin::AtMost, "the prediction is the most");
        asking.ask("found_within", "The same, by the prediction", most, after, "s");
        let none = (0.0, Margin::AtMost, PROMISE);
        let fired = score.map(|score| score.false_alarms as f64);
        let question = "How often does it fire though nothing waits?";
        asking.ask("false_alarms", question, none, fired, "");
        checks.append(&mut asking.checks);
    }
    checks
}

/// A row for each rule, a column for each arm.
fn by_rule(
    title: &str,
    run: &Run,
    cell: impl Fn(&detect::Score, &detect::Scored) -> String,
) -> Table {
    let scored = |arm: &Arm| {
        let setup = run.plan.setup.arm(arm.spec.name)?;
        Some(detect::of_arm(&run.plan.setup, setup, arm))
    };
    let arms: Vec<_> = run.arms.iter().map(scored).collect();
    let titles = run.arms.iter().map(|arm| arm.spec.title);
    let head: Vec<&str> = std::iter::once("rule").chain(titles).collect();
    let rules = arms.iter().flatten().next().map_or(0, |scored| scored.scores.len());
    let rows = (0..rules).map(|place| {
        let score = |scored: &detect::Scored| {
            let score = scored.scores.get(place)?;
            Some((score.rule.clone(), cell(score, scored)))
        };
        let cells: Vec<_> = arms.iter().map(|arm| arm.as_ref().and_then(score)).collect();
        let rule = cells.iter().flatten().next().map_or(String::new(), |(rule, _)| rule.clone());
        let none = || "not measured".to_owned();
        let cells = cells.into_iter().map(|cell| cell.map_or_else(none, |(_, text)| text));
        std::iter::once(rule).chain(cells).collect()
    });
    Table::new(title, &head, rows)
}

fn found(run: &Run) -> Table {
    by_rule("Found, s after the sink stands still", run, |score, _| {
        match (score.needs, score.found_after_s.first().copied().flatten()) {
            (Some(what), _) => format!("needs {what}"),
            (None, Some(after)) => format!("{after:.1}"),
            (None, None) => "missed".to_owned(),
        }
    })
}

fn false_alarms(run: &Run) -> Table {
    by_rule("False alarms, and the time in which each is one", run, |score, scored| {
        format!("{} in {:.0} s", score.false_alarms, scored.quiet_s)
    })
}

fn lag_chart(run: &Run) -> Chart {
    let drawing = Drawing::new(run);
    let after = |name| {
        drawing.figure(name, |arm| {
            let setup = run.plan.setup.arm(name)?;
            let scored = detect::of_arm(&run.plan.setup, setup, arm);
            *scored.of_rule(RECOMMENDED)?.found_after_s.first()?
        })
    };
    drawing.chart(
        "lag",
        format!(
            "The sink stands still: noticed after {} s behind a steady load, {} s a bursty one, {} s an idle one",
            after("steady"),
            after("bursty"),
            after("idle")
        ),
        "High watermark less committed offset, all partitions. The rule: gain above two commit intervals' worth, or a \
         partition that stands still.",
        "consumer lag, events",
        drawing.arms("", Arm::lag),
    )
}
