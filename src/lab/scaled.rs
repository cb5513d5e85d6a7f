//! A consumer group that is scaled, in simulated time: what a rule of `lab autoscale` makes of a load and a sink, before a run.
//!
//! The rule is the code that runs (`autoscale/rules`). The rest is a fluid: each partition has what is written to it, each
//! member serves its partitions up to what it or the sink can. A step takes effect after [`World::join_s`]; that a rebalance
//! stops some partitions meanwhile is left out. A group commits in steps, as a real one, so the rule sees the same saw.

use super::autoscale::rules::{Bounds, Look, Plan, Rule, Said};
use super::model::Rates;

/// What limits the members.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cap {
    /// The sink takes so much of all together, events/s.
    All(f64),
    /// It takes so much of each, events/s.
    Each(f64),
}

/// A group, its load and its sink.
#[derive(Debug, Clone)]
pub struct World {
    /// Offered, events/s over time.
    pub offered: Rates,
    /// Of the topic.
    pub partitions: usize,
    /// The sink.
    pub cap: Cap,
    /// What decides.
    pub plan: Plan,
    /// Its bounds.
    pub bounds: Bounds,
    /// From a decision until the partitions have moved, s.
    pub join_s: f64,
    /// Between two looks, s.
    pub look_s: f64,
    /// Between two commits of a member, s.
    pub commit_s: f64,
    /// When it ends, s.
    pub until_s: f64,
}

/// What was seen at a look, and decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// When, s.
    pub at_s: f64,
    /// Members wanted.
    pub wanted: usize,
    /// What the rule said.
    pub said: Said,
    /// Events delivered until then.
    pub delivered: f64,
    /// Events that wait.
    pub lag: f64,
}

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// By time.
    pub looks: Vec<Seen>,
}

impl Course {
    /// The first look at which the rule said that the sink is the limit.
    pub fn limit(&self) -> Option<&Seen> {
        self.looks.iter().find(|seen| matches!(seen.said, Said::SinkIsTheLimit { .. }))
    }

    /// Changes of the wanted number until `at_s`.
    pub fn steps_until(&self, at_s: f64) -> usize {
        let pairs = self.looks.iter().zip(self.looks.iter().skip(1));
        pairs.filter(|(a, b)| b.at_s <= at_s && a.wanted != b.wanted).count()
    }

    /// Members wanted at `at_s`.
    pub fn wanted_at(&self, at_s: f64) -> usize {
        self.looks.iter().take_while(|seen| seen.at_s <= at_s).last().map_or(0, |seen| seen.wanted)
    }

    /// Most members that were wanted.
    pub fn most(&self) -> usize {
        self.looks.iter().map(|seen| seen.wanted).max().unwrap_or(0)
    }

    /// Events delivered a second from `from` to `to` s.
    pub fn delivered_in(&self, from: f64, to: f64) -> f64 {
        let mut inside = self.looks.iter().filter(|seen| (from..=to).contains(&seen.at_s));
        let (first, last) = (inside.next(), inside.next_back());
        match (first, last) {
            (Some(first), Some(last)) => {
                (last.delivered - first.delivered) / (last.at_s - first.at_s)
            }
            _ => f64::NAN,
        }
    }
}

/// Step of the fluid, s.
const DT_S: f64 = 0.05;

impl World {
    /// What happens.
    pub fn run(&self) -> Course {
        let mut rule = Rule::new(&self.plan, self.bounds);
        let mut fluid = Fluid {
            waiting: vec![0.0; self.partitions],
            uncommitted: vec![0.0; self.partitions],
            delivered: 0.0,
        };
        let mut course = Course::default();
        let (mut wanted, mut active) = (self.bounds.min.get(), self.bounds.min.get());
        let mut moves: Vec<(f64, usize)> = Vec::new();
        let (mut next_look_s, mut committed) = (0.0, 0.0);
        let steps = (self.until_s / DT_S).ceil() as usize;
        for n in 0..steps {
            let t = n as f64 * DT_S;
            moves.retain(|(at, members)| {
                let is_due = *at <= t;
                if is_due {
                    active = *members;
                }
                !is_due
            });
            fluid.flow(self.offered.at(t), self.cap, active);
            for member in 0..active {
                // Each commits at a time of its own.
                let phase = (t + self.commit_s * member as f64 / active as f64) % self.commit_s;
                if phase < DT_S {
                    committed += fluid.commit(member, active);
                }
            }
            if t < next_look_s {
                continue;
            }
            next_look_s += self.look_s;
            let lags = fluid.lags();
            let look = Look { at_s: t, lags: &lags, delivered: committed, members: wanted };
            let decision = rule.decide(&look);
            if decision.wanted != wanted {
                wanted = decision.wanted;
                moves.push((t + self.join_s, wanted));
            }
            let lag = look.lag();
            let (said, delivered) = (decision.said, fluid.delivered);
            course.looks.push(Seen { at_s: t, wanted, said, delivered, lag });
        }
        course
    }
}

struct Fluid {
    /// Of each partition: not delivered, and delivered but not committed.
    waiting: Vec<f64>,
    uncommitted: Vec<f64>,
    delivered: f64,
}

impl Fluid {
    fn flow(&mut self, offered: f64, cap: Cap, active: usize) {
        let each = offered * DT_S / self.waiting.len() as f64;
        self.waiting.iter_mut().for_each(|waiting| *waiting += each);
        let share =
            |room: f64, waiting: f64| (room * DT_S / waiting.max(f64::MIN_POSITIVE)).min(1.0);
        let all: f64 = self.waiting.iter().sum();
        for member in 0..active {
            let own = || (member..self.waiting.len()).step_by(active);
            let share = match cap {
                Cap::All(rate) => share(rate, all),
                Cap::Each(rate) => share(rate, own().filter_map(|p| self.waiting.get(p)).sum()),
            };
            for p in own() {
                if let (Some(waiting), Some(done)) =
                    (self.waiting.get_mut(p), self.uncommitted.get_mut(p))
                {
                    let served = *waiting * share;
                    *waiting -= served;
                    *done += served;
                    self.delivered += served;
                }
            }
        }
    }

    fn commit(&mut self, member: usize, active: usize) -> f64 {
        let own = self.uncommitted.iter_mut().skip(member).step_by(active);
        own.map(std::mem::take).sum()
    }

    /// As a broker shows it: behind the committed offset.
    fn lags(&self) -> Vec<i64> {
        let all = self.waiting.iter().zip(&self.uncommitted);
        all.map(|(waiting, done)| (waiting + done).round() as i64).collect()
    }
}
