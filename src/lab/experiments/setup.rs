//! The input of a run: the flags of its arms as its programs understand them ([`super::launch`]
//! makes it). A prediction may read nothing else, and `plan.json` keeps it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Form, Phase};
use crate::lab::autoscale::rules::{Bounds, Plan};
use crate::lab::layout;
use crate::lab::model::{self, Rates};
use crate::policy::Policy;
use crate::policy::shed::Who;
use crate::sink::pace::Pace;
use crate::source::member::{self, Protocol};

/// The input of a run: a prediction may read nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Which of its two lengths.
    pub form: Form,
    /// (events/s, s) steps of the offered load.
    pub schedule: Vec<(f64, f64)>,
    /// The sink's ceiling, events/s; tokens/s where a token is not an event.
    pub ceiling: f64,
    /// What a call of the sink costs.
    #[serde(default)]
    pub call: Call,
    /// Tokens that the sink saves up, where a flag says so.
    #[serde(default)]
    pub burst: Option<f64>,
    /// Payload bytes of an event.
    pub payload_bytes: usize,
    /// Heap bytes of one queued event, from the layout.
    pub event_bytes: f64,
    /// Growth of resident memory with each, the allocator's own records included.
    pub resident_bytes: f64,
    /// Events that the bounded queue holds.
    #[serde(default)]
    pub queue_cap: f64,
    /// Memory that the unbounded arm may take, bytes.
    #[serde(default)]
    pub memory_limit: Option<f64>,
    /// The sink's stall.
    #[serde(default)]
    pub stall: Option<Phase>,
    /// Each arm by itself.
    #[serde(default)]
    pub arms: Vec<ArmSetup>,
}

/// The input of an arm: its flags as its programs understand them. Where members of a group differ,
/// these are the first one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSetup {
    /// Its name.
    pub name: String,
    /// (events/s, s) steps of its load.
    pub schedule: Vec<(f64, f64)>,
    /// Payload bytes of an event.
    pub payload_bytes: usize,
    /// How long the producer waits for more events, s.
    pub producer_linger_s: f64,
    /// Ages at which an event that the sink does not have is sent again, s.
    #[serde(default)]
    pub resend_after_s: Vec<f64>,
    /// Number of keys.
    pub keys: u64,
    /// Zipf exponent of their frequencies; 0 is uniform.
    pub key_skew: f64,
    /// Seed of keys and payloads.
    pub seed: u64,
    /// Partitions of the topic.
    pub partitions: u32,
    /// How long the topic keeps an event, s: `retention.ms`; 0 where its brokers' default applies.
    #[serde(default)]
    pub retention_s: f64,
    /// Length of its segments, s: `segment.ms`; 0 as above.
    #[serde(default)]
    pub segment_s: f64,
    /// Events that the queue holds in memory; 0 in pull, absent without limit.
    pub queue_cap: Option<f64>,
    /// Bytes that it may have on disk beside that; absent where it does not spill.
    #[serde(default)]
    pub spill_max: Option<f64>,
    /// Threads that call the sink.
    pub workers: u32,
    /// When their next call begins.
    #[serde(default)]
    pub pace: Pace,
    /// Whether each key has one worker.
    pub by_key: bool,
    /// The policy at a full queue.
    #[serde(default)]
    pub policy: Policy,
    /// Events that may wait for a member, with credit; 0 with another policy.
    #[serde(default)]
    pub credit_window: f64,
    /// Who is shed, where that is the policy.
    #[serde(default)]
    pub shed: Who,
    /// The share of the events that are of high priority.
    #[serde(default)]
    pub high_share: f64,
    /// Bytes that a fetch asks for, each partition.
    #[serde(default)]
    pub fetch_bytes: f64,
    /// Events and bytes that the client fetches ahead, at most; 0 where it fetches what it is asked for.
    #[serde(default)]
    pub prefetch_events: f64,
    /// See there.
    #[serde(default)]
    pub prefetch_bytes: f64,
    /// Events in a call at most.
    pub batch: f64,
    /// How long a call waits for more, s.
    pub linger_s: f64,
    /// Time between two commits, s.
    pub commit_interval_s: f64,
    /// `max.poll.interval.ms` of each member, s.
    pub poll_intervals_s: Vec<f64>,
    /// `session.timeout.ms`, s.
    pub session_timeout_s: f64,
    /// How its members agree on who has which partition.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether they are static members.
    #[serde(default)]
    pub is_static: bool,
    /// What starts and stops its members.
    #[serde(default)]
    pub scaled: Option<Scaled>,
    /// Whether the sink's ceiling is that of each connection.
    #[serde(default)]
    pub per_connection: bool,
}

impl ArmSetup {
    /// Events that workers hold at most.
    pub fn in_flight(&self) -> f64 {
        f64::from(self.workers) * self.batch
    }

    /// How many times the sink's limit the arm has, at least: once, or with each of its connections.
    pub fn limits(&self) -> f64 {
        if !self.per_connection {
            return 1.0;
        }
        self.members() as f64 * f64::from(self.workers)
    }

    /// Members of the group, at least.
    pub fn members(&self) -> usize {
        let scaled = self.scaled.as_ref().map(|scaled| scaled.bounds.min.get());
        scaled.unwrap_or(self.poll_intervals_s.len())
    }

    /// Its load.
    pub fn load(&self) -> Load<'_> {
        Load(&self.schedule)
    }

    /// λ(t).
    pub fn offered(&self) -> Rates {
        self.load().offered()
    }

    /// Events that an arm that sheds holds at most.
    pub fn room(&self) -> f64 {
        let (capacity, in_flight) = (self.queue_cap.unwrap_or(f64::INFINITY), self.in_flight());
        let standing = self.shed.standing_depth(capacity, in_flight).unwrap_or(capacity);
        let on_disk = self
            .spill_max
            .map_or(0.0, |bytes| bytes / layout::spilled_event_bytes(self.payload_bytes));
        standing + in_flight + on_disk
    }

    /// Time between two heartbeats of a member that the classic protocol is spoken with, s.
    pub fn heartbeat_s(&self) -> f64 {
        member::heartbeat(Duration::from_secs_f64(self.session_timeout_s)).as_secs_f64()
    }

    /// Events that are offered.
    pub fn events(&self) -> f64 {
        self.schedule.iter().map(|(rate, seconds)| rate * seconds).sum()
    }
}

/// What starts and stops the members of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaled {
    /// Its rule.
    pub plan: Plan,
    /// At least and at most so many.
    pub bounds: Bounds,
    /// Between two looks, s.
    pub interval_s: f64,
}

/// A call of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Tokens of the call, whatever is in it.
    pub cost: f64,
    /// Tokens of each event in it.
    pub event_cost: f64,
    /// Its time besides its wait for tokens, s.
    pub latency_s: f64,
}

impl Default for Call {
    /// A token is an event.
    fn default() -> Self {
        Self { cost: 0.0, event_cost: 1.0, latency_s: 0.0 }
    }
}

/// Brokers of the lab's cluster.
const BROKERS: f64 = 3.0;

impl Setup {
    /// How long the producer waits for more events, s; the same in every arm.
    pub(super) fn producer_linger_s(&self) -> f64 {
        self.arms.first().map_or(f64::NAN, |arm| arm.producer_linger_s)
    }

    /// Events come in puffs, one every so many s: the producer sends to each broker once in its linger.
    pub(super) fn puff_s(&self) -> f64 {
        self.producer_linger_s() / BROKERS
    }

    /// The arm `name`; `None` for one that the plan does not have.
    pub fn arm(&self, name: &str) -> Option<&ArmSetup> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// The load of arm `name`.
    pub fn load_of(&self, name: &str) -> Load<'_> {
        self.arm(name).map_or_else(|| self.load(), ArmSetup::load)
    }

    /// That of the first arm.
    fn load(&self) -> Load<'_> {
        Load(&self.schedule)
    }

    /// λ(t).
    pub fn offered(&self) -> Rates {
        self.load().offered()
    }

    /// Tokens/s that an arm gets of a sink with the limit `rate`: no more than its workers ask for, by a call's own time.
    pub fn tokens(&self, arm: &ArmSetup, rate: f64) -> f64 {
        let workers = f64::from(arm.workers) * arm.poll_intervals_s.len() as f64;
        let call = self.call.cost + self.call.event_cost * arm.batch;
        (rate * arm.limits()).min(workers / self.call.latency_s * call)
    }

    /// μ(t), tokens/s.
    pub fn ceilings(&self) -> Rates {
        let steady = Rates::constant(self.ceiling);
        match self.stall {
            Some(stall) => steady.but(stall.rate, stall.from, stall.to),
            None => steady,
        }
    }

    /// Events/s that the sink serves an arm over time: of its tokens, and of as many calls as the arm's workers can make at a
    /// time, in full batches.
    pub fn served(&self, arm: &ArmSetup) -> Rates {
        let events = |rate: f64| {
            let tokens = self.tokens(arm, rate);
            model::ceiling(tokens, self.call.cost, self.call.event_cost, arm.batch)
        };
        let steady = Rates::constant(events(self.ceiling));
        match self.stall {
            Some(stall) => steady.but(events(stall.rate), stall.from, stall.to),
            None => steady,
        }
    }

    /// Whether every arm has the same load.
    pub fn shares_load(&self) -> bool {
        self.arms.iter().all(|arm| arm.schedule == self.schedule)
    }

    /// When the schedule ends, s.
    pub fn end_s(&self) -> f64 {
        self.load().end_s()
    }

    /// The step of the highest rate: when it begins and ends, s from the start, and its rate.
    pub fn overload(&self) -> Phase {
        self.load().overload()
    }

    /// The first step.
    pub fn baseline(&self) -> Phase {
        self.load().baseline()
    }

    /// Every step of the schedule.
    pub fn phases(&self) -> impl Iterator<Item = Phase> + '_ {
        self.load().phases()
    }
}

/// A load: (events/s, s) steps.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a>(&'a [(f64, f64)]);

impl<'a> Load<'a> {
    /// Of these steps.
    pub fn of(steps: &'a [(f64, f64)]) -> Self {
        Self(steps)
    }

    /// λ(t).
    pub fn offered(self) -> Rates {
        Rates::schedule(self.0.iter().map(|&(rate, s)| (rate, Duration::from_secs_f64(s))))
    }

    /// Every step, with its time.
    pub fn phases(self) -> impl Iterator<Item = Phase> + 'a {
        self.0.iter().scan(0.0, |at, &(rate, seconds)| {
            let from = *at;
            *at += seconds;
            Some(Phase { rate, from, to: *at })
        })
    }

    /// When it ends, s.
    pub fn end_s(self) -> f64 {
        self.phases().map(|phase| phase.to).fold(0.0, f64::max)
    }

    /// The step of the highest rate.
    pub fn overload(self) -> Phase {
        self.phases().max_by(|a, b| a.rate.total_cmp(&b.rate)).unwrap_or(Phase::NONE)
    }

    /// The first step.
    pub fn baseline(self) -> Phase {
        self.phases().next().unwrap_or(Phase::NONE)
    }
}

#[cfg(test)]
impl Setup {
    /// Experiment 2's in quick form, without its stall, and with round figures.
    pub fn example() -> Self {
        Self {
            schedule: vec![(1500.0, 20.0), (8000.0, 60.0)],
            event_bytes: 600.0,
            resident_bytes: 600.0,
            queue_cap: 10_000.0,
            stall: None,
            ..Self::quick(&super::exp2::EXPERIMENT)
        }
    }

    /// That of an experiment's quick form.
    pub fn quick(experiment: &super::Experiment) -> Self {
        Self::of(Form::Quick, &(experiment.launches)(Form::Quick)).expect(experiment.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: tokens/s that are taken for events/s.
    #[test]
    fn what_is_served_is_events_of_full_batches() {
        let arm = |flags, sink| super::super::Launch::new("a", "--schedule 5:5s", sink, flags);
        for (flags, sink, events) in [
            ("--batch-size 100", "--rate-limit 2000", 2000.0),
            ("--batch-size 100", "--call-cost 0.9 --event-cost 0.1", 2000.0 * 100.0 / 10.9),
            ("--batch-size 10 --sink-workers 4", "--latency 50ms", 800.0),
            ("--sink-workers 3", "--limit-per connection --rate-limit 500", 1500.0),
        ] {
            let setup = Setup::of(Form::Full, &[arm(flags, sink)]).expect("flags");
            let served = setup.served(&setup.arms[0]).at(0.0);
            assert!((served - events).abs() < 1e-6, "{flags} {sink}: {served}");
        }
    }

    #[test]
    fn phases_follow_the_schedule() {
        let setup = Setup::example();
        assert_eq!(setup.overload(), Phase { rate: 8000.0, from: 20.0, to: 80.0 });
        assert_eq!(setup.baseline().settled(5.0), Phase { rate: 1500.0, from: 5.0, to: 19.0 });
    }
}
