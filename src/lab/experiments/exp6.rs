//! Experiment 6: a consumer that polls too rarely is taken for dead. Three members share the topic;
//! one polls, fetches much, pushes all of it to a slow sink, and polls again.

use super::asking::{Asking, SETTLE_S};
use super::drawing::Drawing;
use super::{ArmSpec, Check, Experiment, Form, Launch, Margin, PROMISE, Prediction, Setup, Table};
use crate::lab::charts::{Chart, Ink, Line};
use crate::lab::model;
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::{figure, or_not_measured};

/// `--max-poll-interval` and `--session-timeout` of every arm but `interval`, s: the lowest that
/// the brokers of the lab allow.
const INTERVAL_S: f64 = 6.0;
/// Heartbeat interval of a member, s: a third of the session. A survivor learns of the rebalance at
/// its next heartbeat, and the group waits for the last survivor.
const HEARTBEAT_S: f64 = INTERVAL_S / 3.0;
/// The group's members; the first is the one that differs.
const MEMBERS: [&str; 3] = ["processor-1", "processor-2", "processor-3"];
/// Largest poll gap of a group member with a thread of its own, s: ten of its polls.
const DECOUPLED_GAP_MAX_S: f64 = 1.0;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "exp6",
    title: "max.poll.interval eviction",
    question: "Three consumers share a topic and a slow sink. One pushes all that a large fetch \
               brought before it polls again. When is it taken for dead, what does that cost the \
               others, and which cure works?",
    held: "topic, sink, load, three members with a queue of 100 events each and batches of 10, a \
           max.poll.interval of 6 s, machine; `steady` has four times the sink's rate all the time",
    varied: "the first member: one thread polls, fetches 1 MiB a partition and pushes (`naive`); \
             the same with fetches of 1 KiB (`small-fetch`), with an interval of 60 s (`interval`), \
             with polls on a thread of their own (`decoupled`, and `steady`)",
    arms: &[
        ArmSpec { evicts: true, ..ArmSpec::new("naive", "naive", Ink::Vermilion) },
        ArmSpec::new("small-fetch", "small fetch", Ink::Green),
        ArmSpec::new("interval", "long interval", Ink::Purple),
        ArmSpec::new("decoupled", "decoupled poll", Ink::Blue),
        ArmSpec::new("steady", "steady", Ink::Limit),
    ],
    launches,
    warm_up: false,
    predict,
    checks,
    charts,
    tables: |run| vec![timeline(run), cures(run)],
    limits: "One machine and one run an arm. The naive member's own log lines carry the time at \
             which it next polled, for librdkafka speaks through polls; when it was taken for dead \
             is reckoned from the gap that it reports. A long interval cures nothing that takes \
             longer still: it moves the limit, and a member that is really dead is found later.",
};

/// Only the first member differs; the others have the usual flags. Each cure has an overload that
/// is longer than one of its own intervals.
fn launches(form: Form) -> Vec<Launch> {
    let arm = |name, schedule: &str, interval_s: f64, first: &str| {
        let load = format!("--schedule {schedule} --msg-size 512 --seed 1");
        let common = format!(
            "--queue bounded --queue-cap 100 --batch-size 10 --session-timeout {INTERVAL_S}s"
        );
        let flags = |interval_s: f64, rest: &str| {
            format!("{common} --max-poll-interval {interval_s}s {rest}").trim_end().to_owned()
        };
        let [one, two, three] = MEMBERS.map(str::to_owned);
        Launch {
            processors: vec![
                (one, flags(interval_s, first)),
                (two, flags(INTERVAL_S, "")),
                (three, flags(INTERVAL_S, "")),
            ],
            ..Launch::new(name, &load, "--rate-limit 600", "")
        }
    };
    let naive = "--keepalive off --fetch-bytes 1MiB --answer-bytes 4MiB";
    let decoupled = "--keepalive on --fetch-bytes 1MiB --answer-bytes 4MiB";
    let cured = form.of("1500:12s,150:12s", "1500:2m,150:48s");
    vec![
        arm("naive", form.of("1500:12s,150:26s", "1500:12s,150:48s"), INTERVAL_S, naive),
        arm("small-fetch", cured, INTERVAL_S, "--keepalive off --fetch-bytes 1KiB"),
        arm("interval", form.of("1500:62s,150:12s", "1500:5m,150:48s"), 60.0, naive),
        arm("decoupled", cured, INTERVAL_S, decoupled),
        arm("steady", form.of("2400:30s", "2400:30m"), INTERVAL_S, ""),
    ]
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let load = setup.overload();
    let (time, ratio) = (load.to - load.from, setup.ceiling / load.rate);
    let p = Prediction::new;
    vec![
        p(
            "naive_gap_at_least",
            time * (1.0 - ratio),
            "s",
            format!(
                "each turn pushes what came in the one before, so turns grow by λ / μ = {}; one of \
                 at least T (1 − μ/λ) = {} s × {} has begun by the end of the overload",
                figure(1.0 / ratio),
                figure(time),
                figure(1.0 - ratio)
            ),
        ),
        p(
            "reassigned_after",
            INTERVAL_S + 2.0 * HEARTBEAT_S,
            "s",
            format!(
                "at most the interval of {} s and two heartbeats of {} s",
                figure(INTERVAL_S),
                figure(HEARTBEAT_S)
            ),
        ),
        p("evictions_when_cured", 0.0, "", "a poll within each interval".into()),
        p("decoupled_gap", 0.1, "s", "the group member's own poll, whatever the sink does".into()),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let said = |name: &str| run.plan.predicted(name);
    let mut checks = Vec::new();
    for arm in &run.arms {
        let mut asking = Asking::of(run, arm);
        let gap = largest(arm, MEMBERS[0], "processor_poll_gap_seconds");
        if arm.spec.name == "naive" {
            of_the_naive(&mut asking, run, arm);
        }
        let (wanted, question) = match arm.spec.name {
            "naive" => (
                (said("naive_gap_at_least"), Margin::AtLeast, "derived: see the prediction"),
                "Its largest poll gap",
            ),
            "small-fetch" => (
                (INTERVAL_S, Margin::AtMost, "the interval: beyond it is an eviction"),
                "Does it poll within the interval?",
            ),
            "interval" => (
                (INTERVAL_S, Margin::AtLeast, "the naive member's interval"),
                "Does it poll as rarely as before?",
            ),
            _ => (
                (
                    DECOUPLED_GAP_MAX_S,
                    Margin::AtMost,
                    "a poll waits 0.1 s; a busy machine may delay it",
                ),
                "Does it poll whatever the sink does?",
            ),
        };
        asking.ask("poll_gap", question, wanted, gap, "s");
        checks.append(&mut asking.checks);
    }
    checks
}

fn of_the_naive(asking: &mut Asking<'_>, run: &Run, arm: &Arm) {
    let at_least_one = (1.0, Margin::AtLeast, "yes or no");
    let story = Story::of(arm);
    let evicted = largest(arm, MEMBERS[0], "processor_evictions_total");
    asking.ask("evicted", "Is the naive member evicted?", at_least_one, evicted, "");
    let others = MEMBERS[1..].iter().map(|m| largest(arm, m, "processor_evictions_total"));
    let none = (0.0, Margin::AtMost, PROMISE);
    asking.ask("survivors", "Evictions of the others", none, others.sum(), "");
    let after = story.as_ref().and_then(|s| Some(s.reassigned? - s.last_poll));
    let when =
        (run.plan.predicted("reassigned_after"), Margin::AtMost, "the prediction is the most");
    let question = "From its last poll until the others hold every partition";
    asking.ask("reassigned", question, when, after, "s");
    let refused =
        arm.series(|s| s.metric(MEMBERS[0], "processor_commits_total{result=\"refused\"}"));
    let question = "Commits that it sent too late and that were refused";
    asking.ask("refused", question, at_least_one, stats::max(&refused), "");
    let held = arm.metric(MEMBERS[0], "processor_partitions");
    let back =
        story.as_ref().and_then(|s| stats::max(&stats::between(&held, s.next_poll, f64::MAX)));
    asking.ask("rejoined", "Partitions that it holds again later", at_least_one, back, "");
    let twice = arm.ledger.as_ref().map(|l| l.duplicates as f64);
    asking.ask("duplicates", "Events delivered twice because of it", at_least_one, twice, "events");
}

/// The largest value of a member's metric.
fn largest(arm: &Arm, member: &str, key: &str) -> Option<f64> {
    stats::max(&arm.metric(member, key))
}

/// A counter at its end, over all members; `None` when one of them does not show it.
fn of_all(arm: &Arm, key: &str) -> Option<f64> {
    MEMBERS.iter().map(|member| largest(arm, member, key)).sum()
}

/// What happened to the naive member in its longest gap, s from the start of the load. In a shorter one it may poll again before
/// the group's rebalance is over, and has its partitions back by the same one.
struct Story {
    last_poll: f64,
    taken_for_dead: f64,
    reassigned: Option<f64>,
    next_poll: f64,
    refused: Option<f64>,
    rejoined: Option<f64>,
}

impl Story {
    /// Reads it from the members' logs; `None` when the naive one was not evicted.
    fn of(arm: &Arm) -> Option<Self> {
        let naive = arm.log_of(MEMBERS[0]);
        let first = |from: f64, what: &str| {
            naive.iter().find(|(t, line)| *t >= from && line.contains(what)).map(|(t, _)| *t)
        };
        let next_polls = naive
            .iter()
            .filter(|(_, line)| line.contains("maximum poll interval"))
            .map(|(t, _)| *t);
        // The poll that ends a gap measures it; what is shown is the largest so far.
        let shown = arm.metric(MEMBERS[0], "processor_poll_gap_seconds");
        let with_gap = next_polls.filter_map(|next_poll| {
            let gap = shown.iter().find(|(t, gap)| *t >= next_poll && *gap > INTERVAL_S)?.1;
            Some((next_poll, gap))
        });
        // Of equal ones the first: a later gap that is smaller shows the same.
        let longest = |a: (f64, f64), b: (f64, f64)| if b.1 > a.1 { b } else { a };
        let (next_poll, gap) = with_gap.reduce(longest)?;
        let last_poll = next_poll - gap;
        let taken_for_dead = last_poll + INTERVAL_S;
        // A cooperative rebalance may give a member nothing in its first round.
        let assigned = |lines: &[(f64, String)], from: f64| {
            let gets = |line: &str| line.contains("partitions assigned") && !line.contains("=[]");
            lines.iter().find(|(t, line)| *t >= from && gets(line)).map(|(t, _)| *t)
        };
        let others =
            MEMBERS[1..].iter().map(|member| assigned(&arm.log_of(member), taken_for_dead));
        let by: Option<Vec<f64>> = others.collect();
        Some(Self {
            last_poll,
            taken_for_dead,
            reassigned: by.and_then(|times| times.into_iter().reduce(f64::max)),
            next_poll,
            refused: first(taken_for_dead, "commit not taken"),
            rejoined: assigned(&naive, next_poll),
        })
    }
}

fn timeline(run: &Run) -> Table {
    let at = |t: Option<f64>| t.map_or("not seen".into(), |t| format!("{t:.2}"));
    let row = |t: Option<f64>, what: String| vec![at(t), what];
    let arm = run.arm("naive");
    let story = arm.and_then(Story::of);
    let rows = match (arm, story) {
        (Some(arm), Some(s)) => {
            let lag_at = |t: f64| {
                let lag = arm.lag();
                let near = lag.iter().min_by(|a, b| (a.0 - t).abs().total_cmp(&(b.0 - t).abs()));
                near.map_or("unknown".into(), |p| figure(p.1))
            };
            let twice =
                arm.ledger.as_ref().map_or("unknown".into(), |l| figure(l.duplicates as f64));
            vec![
                row(
                    Some(s.last_poll),
                    "the naive member polls, fetches, and begins to push".into(),
                ),
                row(
                    Some(s.taken_for_dead),
                    format!(
                        "MAXPOLL: {} s without a poll; librdkafka leaves the group for it",
                        figure(INTERVAL_S)
                    ),
                ),
                row(s.reassigned, "the two others hold all partitions".into()),
                row(
                    Some(s.next_poll),
                    format!(
                        "the naive member polls again after {} s, and learns of it; lag {} events",
                        figure(s.next_poll - s.last_poll),
                        lag_at(s.next_poll)
                    ),
                ),
                row(s.refused, "its late commit is refused".into()),
                row(s.rejoined, "it has rejoined and holds partitions again".into()),
                row(
                    Some(run.plan.setup.end_s()),
                    format!("at the end {twice} events were delivered twice"),
                ),
            ]
        }
        _ => vec![row(None, "the naive member was not evicted".into())],
    };
    Table::new("What happened to the naive member", &["s from the start", "what"], rows)
}

fn cures(run: &Run) -> Table {
    let rows = run.arms.iter().map(|arm| {
        vec![
            arm.spec.title.to_owned(),
            or_not_measured(of_all(arm, "processor_evictions_total")),
            or_not_measured(largest(arm, MEMBERS[0], "processor_poll_gap_seconds")),
            or_not_measured(of_all(arm, "processor_rebalances_total")),
            or_not_measured(arm.ledger.as_ref().map(|l| l.duplicates as f64)),
        ]
    });
    let head = ["arm", "evictions", "largest poll gap, s", "rebalances", "duplicates"];
    Table::new("Each cure by itself", &head, rows)
}

fn charts(run: &Run) -> Vec<Chart> {
    let ends = drawn(run).map(|arm| run.plan.setup.load_of(arm.spec.name).end_s());
    let drawing = Drawing::until(run, ends.fold(0.0, f64::max));
    [held_chart, gap_chart, lag_chart].map(|chart| chart(run, &drawing)).into()
}

/// The arms of the charts: all but the one that lasts half an hour in full form.
fn drawn(run: &Run) -> impl Iterator<Item = &Arm> {
    run.arms.iter().filter(|arm| arm.spec.name != "steady")
}

fn held_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let held = |arm: &Arm, member: &str| arm.metric(member, "processor_partitions");
    let mut lines = Vec::new();
    let mut title = "The naive member was not evicted".to_owned();
    if let Some(arm) = run.arm("naive") {
        for (member, ink) in MEMBERS.iter().zip([Ink::Vermilion, Ink::Blue, Ink::Green]) {
            let label = if *member == MEMBERS[0] { "naive member" } else { *member };
            let points =
                stats::between(&held(arm, member), 0.0, run.plan.setup.load_of("naive").end_s());
            lines.push(Line { label: label.into(), ink, points });
        }
        if let Some(s) = Story::of(arm) {
            title = format!(
                "{} s after its last poll the group gives the naive member's partitions to the others",
                s.reassigned.map_or("?".into(), |t| figure(t - s.last_poll))
            );
            let fair = 12.0 / MEMBERS.len() as f64;
            lines.push(drawing.model("naive, predicted from its last poll", |t| {
                let gone = t > s.taken_for_dead && t < s.next_poll;
                Some(if gone { 0.0 } else { fair })
            }));
        }
    }
    drawing.chart(
        "partitions",
        title,
        "Partitions that each member of arm naive thinks it holds; the naive one learns of its \
         eviction when it polls.",
        "partitions held",
        lines,
    )
}

fn gap_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let gap = |arm: &Arm| -> Series { arm.metric(MEMBERS[0], "processor_poll_gap_seconds") };
    let mut lines: Vec<Line> = drawn(run).map(|arm| drawing.arm(arm, "", &gap(arm))).collect();
    let predicted = run.plan.predicted("decoupled_gap");
    lines.push(drawing.model("decoupled, predicted", |_| Some(predicted)));
    lines.push(drawing.limit(format!("interval, {} s", figure(INTERVAL_S)), INTERVAL_S));
    let most = |name| drawing.figure(name, |arm| stats::max(&gap(arm)));
    drawing.chart(
        "poll-gap",
        format!(
            "Largest time between two polls: {} s naive, {} s with small fetches, {} s decoupled",
            most("naive"),
            most("small-fetch"),
            most("decoupled")
        ),
        "Largest gap so far between two polls of the first group member.",
        "largest poll gap so far, s",
        lines,
    )
}

fn lag_chart(run: &Run, drawing: &Drawing<'_>) -> Chart {
    let setup = &run.plan.setup;
    let mut lines: Vec<Line> = drawn(run).map(|arm| drawing.arm(arm, "", &arm.lag())).collect();
    lines.push(drawing.model("naive, predicted without eviction", |t| {
        let lag = model::backlog(&setup.load_of("naive").offered(), &setup.ceilings(), t);
        (t <= setup.load_of("naive").end_s()).then_some(lag)
    }));
    let worst = |name| {
        let lag = |arm: &Arm| stats::between(&arm.lag(), SETTLE_S, setup.load_of(name).end_s());
        drawing.figure(name, |arm| stats::max(&lag(arm)))
    };
    drawing.chart(
        "lag",
        format!(
            "Largest lag of the group: {} events with the naive member, {} with a decoupled poll",
            worst("naive"),
            worst("decoupled")
        ),
        "High watermark less committed offset, all partitions. What an evicted member had pushed is not \
         committed, and is pushed again by its successors.",
        "consumer lag, events",
        lines,
    )
}
