//! What a rebalance stops, for how long: predicted from heartbeats, read from the members' logs, and beside it what the
//! sink did not get.
//!
//! A member hears of a rebalance at its next heartbeat. The members of a group that were last assigned in one round began
//! their intervals together, so they hear of it together, at a time by chance. What was really stopped is in the
//! members' logs: a partition stands from its revocation (or the stop of its member) until it starts elsewhere. The counters
//! of producer and sink know nothing of that, and show how many events more than usual were on their way at the worst.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use crate::lab::experiments::{ArmSetup, Phase};
use crate::lab::run_folder::Arm;
use crate::lab::stats::{self, Series};
use crate::source::member::Protocol;

/// `group.consumer.heartbeat.interval.ms`, Kafka's default and its least, s.
const BROKERS_HEARTBEAT_S: f64 = 5.0;
/// From the end of the waiting to the first fetch, s: sync, the committed offsets, their leaders.
const START_S: f64 = 0.03;
/// What a member that stops needs for what it has in flight, and to commit it, s.
const DRAIN_S: f64 = 0.15;
/// Draws of the phases.
const DRAWS: usize = 20_000;

/// A member comes, or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One more.
    Up,
    /// One fewer.
    Down,
}

impl Step {
    /// As a name of checks has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Both.
    pub const ALL: [Self; 2] = [Self::Up, Self::Down];
}

/// Paused partition-seconds of a step: the mean, and what a mean of `count` steps is within in 98 of 100 cases.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Partition-seconds.
    pub mean: f64,
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

/// What a step between `members` and one more is expected to pause.
pub fn expected(arm: &ArmSetup, step: Step, members: usize, count: usize) -> Expected {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let all: f64 = (0..count).map(|_| draw(arm, step, members, &mut rng)).sum();
            all / count as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let mean = means.iter().sum::<f64>() / DRAWS as f64;
    let at = |share: f64| means.get((share * DRAWS as f64) as usize).copied().unwrap_or(f64::NAN);
    Expected { mean, low: at(0.01), high: at(0.99) }
}

/// One step with phases by chance; s of each partition, summed.
fn draw(arm: &ArmSetup, step: Step, members: usize, rng: &mut Xoshiro256PlusPlus) -> f64 {
    let partitions = f64::from(arm.partitions);
    let moved = partitions / (members + 1) as f64;
    let beat_s = match arm.protocol {
        Protocol::Consumer => BROKERS_HEARTBEAT_S,
        Protocol::Cooperative | Protocol::Eager => arm.heartbeat_s(),
    };
    let heard = rng.random_range(0.0..beat_s);
    let missed_s = if arm.is_static { arm.session_timeout_s } else { 0.0 };
    let left = moved * (DRAIN_S + missed_s + heard + START_S);
    match (arm.protocol, step) {
        // Together they hear of it, revoke, join, and have their partitions again.
        (Protocol::Eager, Step::Up) => partitions * START_S,
        (Protocol::Eager, Step::Down) => left + (partitions - moved) * START_S,
        // What moves was revoked at the end of the first round, in which the new member began its interval: it hears of the
        // second one a whole interval later.
        (Protocol::Cooperative, Step::Up) => moved * (beat_s + START_S),
        // The former owners revoke at their heartbeat, and the new one has it at its own.
        (Protocol::Consumer, Step::Up) => moved * (heard + START_S),
        (Protocol::Cooperative | Protocol::Consumer, Step::Down) => left,
    }
}

/// One change of the members.
#[derive(Debug, Clone)]
pub struct Rebalance {
    /// Which way.
    pub step: Step,
    /// Partition-seconds without an owner that reads, by the members' logs.
    pub paused_s: f64,
    /// The longest time of a partition among these, s.
    pub longest_s: f64,
    /// Partitions that stood still.
    pub partitions: usize,
    /// Events on their way at the worst, more than before: sent, and not taken by the sink.
    pub waited: f64,
}

/// Every change of the members of an arm, after the first.
pub fn of(arm: &Arm, end_s: f64) -> Vec<Rebalance> {
    let (steps, pauses, way) = (steps(arm), pauses(arm), on_their_way(arm));
    let ends = steps.iter().skip(1).map(|(at, _)| *at).chain([end_s]);
    let each = steps.iter().zip(ends).map(|((from, step), to)| {
        let phase = Phase { rate: 0.0, from: *from, to };
        let own: Vec<&Pause> =
            pauses.iter().filter(|pause| (*from..to).contains(&pause.from)).collect();
        Rebalance {
            step: *step,
            paused_s: own.iter().map(|pause| pause.to - pause.from).sum(),
            longest_s: own.iter().map(|pause| pause.to - pause.from).fold(0.0, f64::max),
            partitions: own.iter().map(|pause| pause.partition).collect::<BTreeSet<_>>().len(),
            waited: waited(&way, phase),
        }
    });
    each.collect()
}

/// When the autoscaler took a step, by its log; those of the start are before the load.
fn steps(arm: &Arm) -> Vec<(f64, Step)> {
    let step = |(at, line): (f64, String)| {
        if at < 0.0 || !line.contains("msg=\"members wanted\"") {
            return None;
        }
        let number = |key: &str| value(&line, key)?.parse::<usize>().ok();
        let (before, wanted) = (number("members=")?, number("wanted=")?);
        Some((at, if wanted > before { Step::Up } else { Step::Down }))
    };
    arm.log_of("autoscaler").into_iter().filter_map(step).collect()
}

struct Pause {
    partition: i32,
    from: f64,
    to: f64,
}

/// What stood still, in the order of its beginnings.
fn pauses(arm: &Arm) -> Vec<Pause> {
    enum What {
        Stops(Vec<i32>),
        Starts(i32),
    }
    let mut all: Vec<(f64, What)> = Vec::new();
    for start in 1.. {
        let log = arm.log_of(&format!("processor-{start}"));
        if log.is_empty() {
            break;
        }
        let mut own = BTreeSet::new();
        for (at, line) in log {
            if line.contains("msg=\"partition starts\"") {
                let Some(partition) = value(&line, "partition=").and_then(|p| p.parse().ok())
                else {
                    continue;
                };
                own.insert(partition);
                all.push((at, What::Starts(partition)));
            } else if line.contains("msg=\"partitions revoked\"") {
                let gone: Vec<i32> = listed(&line).into_iter().filter(|p| own.remove(p)).collect();
                all.push((at, What::Stops(gone)));
            } else if line.contains("stopping: no more fetches") {
                all.push((at, What::Stops(std::mem::take(&mut own).into_iter().collect())));
            }
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut stands, mut pauses) = (BTreeMap::new(), Vec::new());
    for (at, what) in all {
        match what {
            What::Stops(partitions) => stands.extend(partitions.into_iter().map(|p| (p, at))),
            What::Starts(partition) => {
                if let Some(from) = stands.remove(&partition) {
                    pauses.push(Pause { partition, from, to: at });
                }
            }
        }
    }
    pauses
}

/// The value behind `key` in a line of a log.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {key}"))?;
    rest.split(' ').next()
}

/// The numbers of `partitions="[1, 2]"`.
fn listed(line: &str) -> Vec<i32> {
    let list = line.split_once("partitions=").map(|(_, rest)| rest.trim_start_matches(['"', '[']));
    let list = list.and_then(|rest| rest.split(']').next()).unwrap_or_default();
    list.split(", ").filter_map(|p| p.parse().ok()).collect()
}

/// Events that were sent, and that the sink has not taken yet, over time.
pub fn on_their_way(arm: &Arm) -> Series {
    arm.series(|sample| {
        Some(sample.metric("producer", "producer_events_sent_total")? - sample.delivered()?)
    })
}

/// Seconds before a step in which as many are on their way as usual.
const CALM_S: f64 = 2.0;

/// How many more than usual were on their way in `phase`.
fn waited(way: &[(f64, f64)], phase: Phase) -> f64 {
    let calm = stats::between(way, phase.from - CALM_S, phase.from);
    let usual = stats::median(calm.iter().map(|point| point.1));
    let peak = stats::max(&stats::between(way, phase.from, phase.to));
    peak.zip(usual).map_or(f64::NAN, |(peak, usual)| peak - usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log_is_read_as_it_is_written() {
        let line = "2026-11-27T05:00:00.123Z level=info thread=member msg=\"partitions revoked\" partitions=\"[3, 11]\" evicted=false";
        assert_eq!(listed(line), [3, 11]);
        assert_eq!(listed("msg=x partitions=[] evicted=false"), Vec::<i32>::new());
        assert_eq!(value("a msg=x members=2 wanted=3", "wanted="), Some("3"));
    }

    /// Prevents: a prediction that does not follow its protocol.
    #[test]
    fn what_is_expected_follows_the_heartbeats() {
        let setup = crate::lab::experiments::Setup::quick(&super::super::EXPERIMENT);
        let mean = |name: &str, step| {
            let arm = setup.arm(name).expect(name);
            expected(arm, step, 2, 1).mean
        };
        assert!((mean("eager", Step::Up) - 12.0 * START_S).abs() < 1e-9);
        assert!((mean("cooperative", Step::Up) - 4.0 * (3.0 + START_S)).abs() < 1e-9);
        assert!((mean("cooperative", Step::Down) - 4.0 * (1.5 + DRAIN_S + START_S)).abs() < 0.1);
        assert!((mean("consumer", Step::Up) - 4.0 * (2.5 + START_S)).abs() < 0.1);
        let late = mean("static", Step::Down) - mean("cooperative", Step::Down);
        assert!(
            (late - 4.0 * setup.arm("static").expect("it").session_timeout_s).abs() < 0.1,
            "{late}"
        );
    }
}
