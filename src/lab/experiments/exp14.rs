//! Experiment 14: who notices first. The sink stands still behind a steady, a bursty and an almost idle producer; rules
//! over the recorded samples say when they would have fired, and how often for nothing.

use super::asking::Asking;
use super::drawing::Drawing;
use super::{
    ArmSetup, ArmSpec, Check, Experiment, Form, Launch, Margin, PROMISE, Phase, Prediction, Setup,
    Table,
};
use crate::lab::charts::{Chart, Ink};
use crate::lab::detect::{self, FallingBehind, Score, Scored};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;

/// The target: seconds until the recommended rule fires.
const FOUND_MAX_S: f64 = 10.0;
/// Seconds of quiet in all arms, quick and full: an hour, without which no false alarm in it would mean nothing.
const QUIET_S: (f64, f64) = (80.0, 3_600.0);
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
    tables,
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
    let seconds = arm.load().end_s();
    let (mean, interval) = (arm.events() / seconds, rule.commit_interval_s);
    let busiest = arm.load().overload().rate;
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
    let (mut checks, mut quiet_s) = (Vec::new(), 0.0);
    for arm in &run.arms {
        let setup = run.plan.setup.arm(arm.spec.name);
        let mut asking = Asking::of(run, arm);
        let planned = setup.map_or(f64::NAN, ArmSetup::events);
        let why = "a schedule is kept to the event; the last sample is up to a second early";
        let sent = stats::max(&arm.metric("producer", "producer_events_sent_total"));
        let all = (planned, Margin::Share(0.05), why);
        asking.ask("offered", "Was the load really offered?", all, sent, "events");
        let scored = scored(run, arm);
        quiet_s += scored.as_ref().map_or(0.0, |scored| scored.quiet_s);
        let score = scored.as_ref().and_then(Scored::recommended);
        let after = score.and_then(found_after);
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
    let wanted =
        (run.plan.setup.form.of(QUIET_S.0, QUIET_S.1), Margin::AtLeast, "the target is of an hour");
    let question = "How long was it quiet, in all arms? No alarm is false in trouble";
    checks.push(Check::new("quiet", question, wanted, Some(quiet_s), "s"));
    checks
}

fn scored(run: &Run, arm: &Arm) -> Option<Scored> {
    let setup = &run.plan.setup;
    Some(detect::of_arm(setup, setup.arm(arm.spec.name)?, arm))
}

/// Seconds from the stall, the one trouble of an arm.
fn found_after(score: &Score) -> Option<f64> {
    *score.found_after_s.first()?
}

/// A row for each rule, a column for each arm.
fn tables(run: &Run) -> Vec<Table> {
    let scored = |arm: &Arm| Some((arm.spec.name, scored(run, arm)?));
    let all: Vec<(&str, Scored)> = run.arms.iter().filter_map(scored).collect();
    let by_rule = |title: &str, cell: fn(&Score, &Scored) -> String| {
        let rules = all.first().map_or(&[][..], |(_, scored)| &scored.scores);
        let rows = rules.iter().map(|rule| {
            let of = |arm: &Arm| {
                let (_, scored) = all.iter().find(|(name, _)| *name == arm.spec.name)?;
                Some(cell(scored.of_rule(rule.name)?, scored))
            };
            (rule.rule.as_str(), of)
        });
        Table::by_arm(title, "rule", run, rows)
    };
    vec![
        by_rule("Found, s after the sink stands still", |score, _| {
            match (score.needs, found_after(score)) {
                (Some(what), _) => format!("needs {what}"),
                (None, Some(after)) => format!("{after:.1}"),
                (None, None) => "missed".to_owned(),
            }
        }),
        by_rule("False alarms, and the time in which each is one", |score, scored| {
            format!("{} in {:.0} s", score.false_alarms, scored.quiet_s)
        }),
    ]
}

fn lag_chart(run: &Run) -> Chart {
    let drawing = Drawing::new(run);
    let after = |name| drawing.figure(name, |arm| found_after(scored(run, arm)?.recommended()?));
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
