//! A client and a sink that refuses, in simulated time: what each `Pace` delivers, before a run.
//!
//! The client's side is the code that runs (`sink/pace`), and so is the sink's bucket; HTTP is a time, and chance is seeded. Workers
//! always have a batch: the queue before them is full. A call delays the next by its work, and nothing else of the
//! machine is modelled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use super::model::Rates;
use crate::backoff;
use crate::sink::bucket::{Bucket, Due};
use crate::sink::control::Costs;
use crate::sink::pace::{Ended, Order, Outcome, Pace, Verdict};
use crate::sink::quota::{Policy, Quota};

/// From a call's begin to the sink, and back: half a millisecond in all on loopback, with the sink's own work. No two
/// are the same: it varies by half, because some rules compare round trips.
const WAY: Duration = Duration::from_micros(250);
/// A call's work, which delays the next call: what the sink spends on one with 16 connections, measured before there was
/// any of this. Client and sink have a core each.
const WORK: Duration = Duration::from_micros(133);
/// The longest wait that is said when none is known: the sink's own.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A client and its sink.
#[derive(Debug, Clone)]
pub struct World {
    /// What the client does.
    pub pace: Pace,
    /// Threads that call the sink.
    pub workers: usize,
    /// Events in a call.
    pub batch: usize,
    /// What a call costs, tokens.
    pub costs: Costs,
    /// Tokens that the sink saves up.
    pub burst: Option<f64>,
    /// Tokens/s over time.
    pub ceilings: Rates,
    /// The time of a call that is served, s.
    pub latency_s: f64,
    /// When it ends, s.
    pub until_s: f64,
}

/// What happened until a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// Events that the sink took.
    pub delivered: f64,
    /// Calls that it refused.
    pub refused: f64,
    /// All calls.
    pub calls: f64,
}

/// What happened, looked at ten times a second.
pub struct Course {
    looks: Vec<(f64, Sums, f64)>,
}

/// Looks a second.
const LOOKS: f64 = 10.0;

impl Course {
    fn sums_at(&self, t: f64) -> Sums {
        let looked = self.looks.iter().take_while(|look| look.0 <= t).last();
        looked.map_or(Sums::default(), |look| look.1)
    }

    /// From `from` to `to` s.
    pub fn between(&self, from: f64, to: f64) -> Sums {
        let (a, b) = (self.sums_at(from), self.sums_at(to));
        Sums {
            delivered: b.delivered - a.delivered,
            refused: b.refused - a.refused,
            calls: b.calls - a.calls,
        }
    }

    /// Events/s from `from` to `to` s.
    pub fn goodput(&self, from: f64, to: f64) -> f64 {
        self.between(from, to).delivered / (to - from)
    }

    /// The share of the calls that was refused from `from` to `to` s.
    pub fn refused(&self, from: f64, to: f64) -> f64 {
        let sums = self.between(from, to);
        sums.refused / sums.calls.max(1.0)
    }

    /// The largest age of a batch from `from` to `to` s; s.
    pub fn oldest(&self, from: f64, to: f64) -> f64 {
        let inside = self.looks.iter().filter(|look| (from..=to).contains(&look.0));
        inside.map(|look| look.2).fold(0.0, f64::max)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Look,
    Ask(usize),
    Arrives(usize),
    Served(usize),
    Refused(usize, Duration),
    Acked(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    /// It asks; the next time by itself at.
    Asks(Option<Instant>),
    /// It backs off.
    Rests(Instant),
    Calls,
}

struct Run<'a> {
    world: &'a World,
    start: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    number: u64,
    order: Order,
    bucket: Bucket,
    steps: Vec<(Instant, f64)>,
    workers: Vec<Doing>,
    /// What the answer on its way to each worker says.
    told: Vec<Quota>,
    retries: Vec<u32>,
    sums: Sums,
    rng: Xoshiro256PlusPlus,
    course: Course,
}

impl World {
    /// What happens, with the chance of `seed`.
    pub fn run(&self, seed: u64) -> Course {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        // A client is up before its load, and some rules look at the clock: by how much is chance.
        let up = Instant::now();
        let start = up + Duration::from_secs_f64(rng.random_range(2.0..3.0));
        let at = |s: f64| start + Duration::from_secs_f64(s);
        let mut steps: Vec<(Instant, f64)> =
            self.ceilings.edges().map(|s| (at(s), self.ceilings.at(s))).collect();
        steps.reverse();
        let mut run = Run {
            world: self,
            start,
            now: start,
            events: BinaryHeap::new(),
            number: 0,
            order: Order::new(self.pace, self.workers, up),
            bucket: Bucket::new(self.ceilings.at(0.0), self.burst, start),
            steps,
            workers: vec![Doing::Asks(None); self.workers],
            told: vec![Quota::default(); self.workers],
            retries: vec![0; self.workers],
            sums: Sums::default(),
            rng,
            course: Course { looks: Vec::new() },
        };
        run.push(start, Event::Look);
        (0..self.workers).for_each(|worker| run.push(start, Event::Ask(worker)));
        run.until(at(self.until_s));
        run.course
    }
}

impl Run<'_> {
    fn push(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn until(&mut self, end: Instant) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > end {
                return;
            }
            self.now = at;
            while let Some((step, rate)) = self.steps.pop_if(|step| step.0 <= at) {
                self.bucket.set_rate(rate, step);
            }
            match event {
                Event::Look => self.look(),
                Event::Ask(worker) => self.ask(worker),
                Event::Arrives(worker) => self.arrives(worker),
                Event::Served(worker) => {
                    self.sums.delivered += self.world.batch as f64;
                    self.tell(worker);
                    let way = self.way();
                    self.push(at + way, Event::Acked(worker));
                }
                Event::Refused(worker, after) => self.ended(worker, Some(after)),
                Event::Acked(worker) => self.ended(worker, None),
            }
        }
    }

    fn look(&mut self) {
        let t = (self.now - self.start).as_secs_f64();
        self.course.looks.push((t, self.sums, self.order.oldest(self.now).as_secs_f64()));
        self.push(self.now + Duration::from_secs_f64(1.0 / LOOKS), Event::Look);
    }

    fn ask(&mut self, worker: usize) {
        match self.workers.get(worker) {
            Some(Doing::Calls) | None => return,
            Some(Doing::Rests(until)) if *until > self.now => return,
            Some(_) => {}
        }
        let doing = match self.order.may_begin(worker, self.world.batch, self.now) {
            Verdict::Go => {
                self.sums.calls += 1.0;
                let way = self.way();
                self.push(self.now + way, Event::Arrives(worker));
                Doing::Calls
            }
            Verdict::Later => Doing::Asks(None),
            Verdict::At(at) => {
                let is_due = |due: &&Instant| **due > self.now && **due <= at;
                let due = match self.workers.get(worker) {
                    Some(Doing::Asks(due)) => due.as_ref().filter(is_due).copied(),
                    _ => None,
                };
                if due.is_none() {
                    self.push(at, Event::Ask(worker));
                }
                Doing::Asks(due.or(Some(at)))
            }
        };
        if let Some(own) = self.workers.get_mut(worker) {
            *own = doing;
        }
        if doing == Doing::Calls {
            self.wake(WORK);
        }
    }

    fn way(&mut self) -> Duration {
        WAY.mul_f64(self.rng.random_range(0.5..1.5))
    }

    fn wake(&mut self, after: Duration) {
        if let Some(next) = self.order.next() {
            self.push(self.now + after, Event::Ask(next));
        }
    }

    /// The sink's answer says this.
    fn tell(&mut self, worker: usize) {
        let policy = Policy {
            rate: self.bucket.rate(),
            burst: Some(self.bucket.burst()),
            costs: self.world.costs,
        };
        let remaining = Some(self.bucket.level(self.now).max(0.0).floor());
        if let Some(told) = self.told.get_mut(worker) {
            *told = Quota { policy: Some(policy), remaining };
        }
    }

    fn arrives(&mut self, worker: usize) {
        let cost = self.world.costs.of(self.world.batch);
        match self.bucket.try_claim(cost, self.now) {
            Ok(place) => {
                let served = match self.bucket.due(place, self.now) {
                    Due::Now => self.now,
                    Due::At(at) => at,
                    Due::Unknown => self.now + UNKNOWN,
                };
                let served = served + Duration::from_secs_f64(self.world.latency_s);
                self.push(served, Event::Served(worker));
            }
            Err(due) => {
                let wait = if let Due::At(at) = due { at - self.now } else { UNKNOWN };
                self.sums.refused += 1.0;
                self.tell(worker);
                let way = self.way();
                self.push(self.now + way, Event::Refused(worker, wait));
            }
        }
    }

    fn ended(&mut self, worker: usize, refused: Option<Duration>) {
        let chance = self.rng.random_range(0.0..1.0);
        let up = |wait: Duration, ms: u128| {
            Duration::from_millis((wait.as_nanos().div_ceil(ms * 1_000_000) * ms) as u64)
        };
        let outcome = Outcome {
            ended: if refused.is_some() { Ended::Limited } else { Ended::Acked },
            quota: self.told.get(worker).copied().unwrap_or_default(),
            after: refused.map(|wait| up(wait, 1)),
            after_seconds: refused.map(|wait| up(wait, 1_000)),
        };
        let told = self.order.ended(worker, &outcome, self.now, chance);
        let Some(retries) = self.retries.get_mut(worker) else { return };
        let wait = match outcome.ended {
            Ended::Limited => {
                *retries += 1;
                let own = backoff::standard_wait(*retries - 1, chance);
                told.or(outcome.after).unwrap_or(own)
            }
            _ => {
                *retries = 0;
                Duration::ZERO
            }
        };
        let until = self.now + wait;
        if let Some(own) = self.workers.get_mut(worker) {
            *own = Doing::Rests(until);
        }
        self.push(until, Event::Ask(worker));
        self.wake(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: (f64, f64) = (20.0, 30.0);
    const END: f64 = 50.0;

    /// 64 workers with batches of 10 before 2,000/s, 200/s for ten seconds, 2,000/s.
    fn world(pace: Pace) -> World {
        World {
            pace,
            workers: 64,
            batch: 10,
            costs: Costs { call_cost: 0.0, event_cost: 1.0 },
            burst: Some(100.0),
            ceilings: Rates::constant(2_000.0).but(200.0, STEP.0, STEP.1),
            latency_s: 0.05,
            until_s: END,
        }
    }

    /// Prevents: a client of ours that delivers less than the sink takes, is refused, is slow to find a new rate, or lets a
    /// batch wait for more than a few rounds.
    #[test]
    fn ours_keep_their_targets_in_the_model() {
        for (pace, goodput, refused, found_s) in
            [(Pace::Headers, 0.995, 0.001, 1.0), (Pace::Blind, 0.95, 0.02, f64::MAX)]
        {
            for seed in 0..3 {
                let course = world(pace).run(seed);
                let before = course.goodput(5.0, 20.0) / 2_000.0;
                let slow = course.goodput(21.0, 30.0) / 200.0;
                let after = course.between(30.0, 40.0).delivered;
                let all = course.refused(1.0, END);
                let lost_s = 10.0 - after / 2_000.0;
                let round_s = 640.0 / 2_000.0;
                let oldest = course.oldest(5.0, 20.0).max(course.oldest(40.0, END));
                let seen = format!(
                    "{pace:?}: {before} {slow} refused {all} lost {lost_s} s oldest {oldest} s"
                );
                println!("{seen}");
                assert!(before >= goodput && slow >= goodput, "{seen}");
                assert!(all <= refused && lost_s <= found_s, "{seen}");
                assert!(oldest <= 3.0 * round_s, "{seen}");
            }
        }
    }

    /// Prevents: a formula for whole seconds that is not what obeying them does.
    #[test]
    fn whole_seconds_cost_what_the_formula_says() {
        let goodput = world(Pace::RetryAfter).run(0).goodput(5.0, 20.0);
        // B / T, and what is earned while the calls come.
        assert!((95.0..140.0).contains(&goodput), "{goodput}");
    }

    /// Prevents: a model in which chance is not seeded: a prediction that differs from look to look.
    #[test]
    fn equal_seeds_give_equal_courses() {
        for pace in Pace::ALL {
            let sums = |seed| world(pace).run(seed).between(0.0, END);
            assert_eq!(sums(7), sums(7), "{pace:?}");
        }
    }

    /// Prevents: a client that stops for good.
    #[test]
    fn every_pace_delivers_until_the_end() {
        for pace in Pace::ALL {
            let course = world(pace).run(1);
            for from in [5.0, 35.0, 45.0] {
                assert!(course.between(from, from + 5.0).delivered > 0.0, "{pace:?} from {from} s");
            }
            println!(
                "{:10} {:6.0} {:6.0} {:6.0} refused {:5.3} oldest {:5.2}",
                pace.name(),
                course.goodput(5.0, 20.0),
                course.goodput(21.0, 30.0),
                course.goodput(32.0, 50.0),
                course.refused(1.0, END),
                course.oldest(5.0, END)
            );
        }
    }
}
