//! The result of a scenario: phase by phase, and figure by figure with its formula (`figures`).

mod figures;

use serde::Serialize;

use crate::lab::model::{self, Course, Rates};
use crate::lab::text::{scaled, with_unit};

use super::scenario::Scenario;
use crate::policy::Policy;

/// Moments at which the longest wait is looked for, beside the corners of the backlog.
const LOOKS: u32 = 1000;

/// The whole result of the model.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// The scenario in one sentence.
    pub given: String,
    /// In order of time.
    pub phases: Vec<Row>,
    /// The figures.
    pub figures: Vec<Figure>,
    #[serde(skip)]
    course: Course,
    /// What comes to the queue or its log, events/s.
    #[serde(skip)]
    offered: Rates,
    /// With its stalls and, after a kill, without service.
    #[serde(skip)]
    ceiling: Rates,
    /// When the processor is killed, s.
    #[serde(skip)]
    pub killed_s: Option<f64>,
    /// When the event is served that waits longest, and for how long, s: also after the schedule's end.
    #[serde(skip)]
    longest_wait: (f64, f64),
}

/// A time in which all rates are constant; other values are those at its end.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub from_s: f64,
    pub to_s: f64,
    /// Events/s.
    pub offered: f64,
    /// Events/s; 0 once the processor is killed.
    pub ceiling: f64,
    /// Events/s at the start.
    pub lag_slope: f64,
    /// Events not yet committed, in the queue or in the log.
    pub lag: f64,
    pub lag_per_partition: f64,
    /// Of these, in the processor's memory.
    pub queue: f64,
    /// Of a processor.
    pub rss_bytes: f64,
    /// How long the event that is served then has waited since it was due; absent once the
    /// processor is killed.
    pub wait_s: Option<f64>,
    /// Written to all brokers since the start.
    pub disk_bytes: f64,
    /// Bytes/s into all brokers.
    pub network_in: f64,
    /// Bytes/s out of all brokers.
    pub network_out: f64,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    /// Absent when it never happens.
    pub value: Option<f64>,
    pub unit: &'static str,
    /// The formula with its figures.
    pub because: String,
}

impl Figure {
    /// For people.
    pub fn says(&self) -> String {
        match (self.value, self.unit) {
            (None, _) => "never".into(),
            (Some(value), "B" | "B/s") => scaled(value, self.unit),
            (Some(value), unit) => with_unit(value, unit),
        }
    }
}

impl Forecast {
    /// The forecast for `scenario`.
    pub fn of(scenario: &Scenario) -> Self {
        let end_s = scenario.end_s();
        // The queue at which the limit is reached; only a queue that may grow so far reaches it.
        let fatal = scenario.fits().map(|fits| fits * scenario.members);
        let fatal = fatal.filter(|fatal| *fatal < scenario.standing);
        let alive = Course::of(&scenario.offered, &scenario.ceiling, end_s);
        let killed_s = fatal.and_then(|fatal| alive.rises_to(fatal));
        let (ceiling, offered) = match killed_s {
            Some(at) => {
                let ceiling = scenario.ceiling.clone().but(0.0, at, f64::INFINITY);
                let offered = scenario.offered_to_the_dead(at, &ceiling);
                (ceiling, offered)
            }
            None => (scenario.ceiling.clone(), scenario.offered.clone()),
        };
        let mut forecast = Self {
            given: scenario.given.clone(),
            phases: Vec::new(),
            figures: Vec::new(),
            course: Course::of(&offered, &ceiling, drained_s(&offered, &ceiling, end_s)),
            offered,
            ceiling,
            killed_s,
            longest_wait: (0.0, 0.0),
        };
        let waits = forecast.moments().into_iter();
        let waits = waits.filter_map(|t| Some((t, forecast.wait(t)?)));
        forecast.longest_wait = waits.fold((0.0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
        let empty_s = forecast.empty_s(end_s);
        if let Some(until) = if scenario.drain { empty_s } else { Some(end_s) } {
            forecast.course = Course::of(&forecast.offered, &forecast.ceiling, until);
        }
        forecast.phases = forecast.rows(scenario);
        forecast.figures = forecast.figures(scenario, fatal, empty_s);
        forecast
    }

    /// When it ends, s.
    pub fn until(&self) -> f64 {
        self.course.corners().last().map_or(0.0, |corner| corner.0)
    }

    /// The corners of the backlog, the times when the events due at them are served, and steps
    /// between at which another curve may bend.
    pub fn moments(&self) -> Vec<f64> {
        let until = self.until();
        let even = (0..=LOOKS).map(|n| until * f64::from(n) / f64::from(LOOKS));
        let corners = || self.course.corners().iter();
        let served =
            corners().filter_map(|(t, lag)| self.ceiling.when(self.ceiling.total(*t) + lag));
        let served = served.filter(|t| *t <= until);
        let mut all: Vec<f64> = corners().map(|c| c.0).chain(served).chain(even).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// The most that is served at `t` s, events/s.
    pub fn ceiling_at(&self, t: f64) -> f64 {
        self.ceiling.at(t)
    }

    /// Events offered and not served at `t` s.
    pub fn lag(&self, t: f64) -> f64 {
        self.course.at(t)
    }

    /// Of these, in the processor's memory; nothing once it is killed.
    pub fn queue(&self, scenario: &Scenario, t: f64) -> f64 {
        if self.is_dead(t) { 0.0 } else { model::queued(self.lag(t), scenario.standing) }
    }

    /// A processor's resident memory at `t` s.
    pub fn rss(&self, scenario: &Scenario, t: f64) -> f64 {
        let queue = self.queue(scenario, t) / scenario.members;
        let alive = model::rss_bytes(scenario.empty_bytes(), scenario.event_bytes, queue);
        if self.is_dead(t) { 0.0 } else { alive }
    }

    /// How long the event that is served at `t` s has waited; nothing where none waits.
    pub fn wait(&self, t: f64) -> Option<f64> {
        if self.is_dead(t) {
            return None;
        }
        if self.course.is_idle(t) {
            return Some(0.0);
        }
        // A little less, so that rounding does not ask for an event that is never offered.
        let served = (self.offered.total(t) - self.lag(t)) * (1.0 - 1e-12);
        self.offered.when(served).map(|due| (t - due).max(0.0))
    }

    fn is_dead(&self, t: f64) -> bool {
        self.killed_s.is_some_and(|killed| t > killed)
    }

    /// When the backlog is gone for good, s: at or after the schedule's end.
    fn empty_s(&self, end_s: f64) -> Option<f64> {
        if self.lag(end_s) <= 0.0 { Some(end_s) } else { self.course.falls_to(0.0, end_s) }
    }

    fn rows(&self, scenario: &Scenario) -> Vec<Row> {
        let until = self.until();
        let edges = scenario.due.edges().chain(self.offered.edges()).chain(self.ceiling.edges());
        let mut edges: Vec<f64> = edges.filter(|edge| *edge < until).chain([until]).collect();
        edges.sort_by(f64::total_cmp);
        edges.dedup();
        let mut disk_bytes = 0.0;
        let spills = scenario.on_disk > 0.0;
        let in_log = |t: f64| {
            // With a disk the batches in flight are read too before the log holds any.
            let disk = if spills { scenario.in_flight + scenario.on_disk } else { 0.0 };
            scenario.policy != Policy::Shed && self.lag(t) > scenario.capacity + disk
        };
        let pairs = edges.iter().zip(edges.iter().skip(1));
        let row = |(&from, &to): (&f64, &f64)| {
            let (offered, ceiling) = (scenario.due.at(from), self.ceiling.at(from));
            let admitted = self.offered.at(from);
            let lag = self.lag(to);
            let wire = scenario.wire;
            // What is shed was produced; what is held back was not.
            let produced = if scenario.policy.holds_the_source() { admitted } else { offered };
            disk_bytes += produced * (to - from) * wire.log_bytes(produced) * wire.replication;
            // If the log holds some, it is read as fast as the sink serves; else events are read as
            // they come.
            let behind = in_log(from) || in_log(to) || self.is_dead(to);
            let network = wire.network(produced, if behind { ceiling } else { produced });
            let idle = self.lag(from) <= 0.0 && admitted <= ceiling;
            Row {
                from_s: from,
                to_s: to,
                offered,
                ceiling,
                lag_slope: if idle { 0.0 } else { admitted - ceiling },
                lag,
                lag_per_partition: lag / scenario.partitions,
                queue: self.queue(scenario, to),
                rss_bytes: self.rss(scenario, to),
                wait_s: self.wait(to),
                disk_bytes,
                network_in: network.into,
                network_out: network.out_of,
            }
        };
        pairs.map(row).collect()
    }
}

/// A time at which the backlog is gone, if it ever is: after every change of rate, at the last
/// ceiling.
fn drained_s(offered: &Rates, ceiling: &Rates, end_s: f64) -> f64 {
    let last = ceiling.edges().chain([end_s]).fold(0.0, f64::max);
    let (left, rate) = (model::backlog(offered, ceiling, last), ceiling.at(last));
    // A little more, so that rounding does not leave a billionth of an event for ever.
    if rate > 0.0 && left > 0.0 { (last + left / rate) * (1.0 + 1e-9) } else { last }
}
