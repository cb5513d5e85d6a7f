//! The figures of a forecast, each with its formula.

use super::{Figure, Forecast, Row};
use crate::lab::model;
use crate::lab::predict::scenario::Scenario;
use crate::lab::text::{figure, scaled};
use crate::policy::{Policy, slow_source};

/// Most moments of catching up that are listed.
const CAUGHT_UP_MAX: usize = 5;

impl Forecast {
    /// Of these, on the members' disks, until the processor is killed.
    fn spilled(&self, scenario: &Scenario, t: f64) -> f64 {
        let beyond = self.lag(t) - scenario.standing - scenario.in_flight;
        if self.is_dead(t) { 0.0 } else { beyond.clamp(0.0, scenario.on_disk) }
    }

    /// How long the last event that is inside the processor at `t` s is in it.
    fn sojourn(&self, scenario: &Scenario, t: f64) -> Option<f64> {
        let inside = scenario.standing + scenario.in_flight + scenario.on_disk;
        let inside = self.lag(t).min(inside);
        Some(scenario.ceiling.when(scenario.ceiling.total(t) + inside)? - t)
    }

    /// The moments at which a backlog is gone, s.
    fn caught_up(&self) -> impl Iterator<Item = f64> + '_ {
        let corners = self.course.corners();
        corners
            .iter()
            .zip(corners.iter().skip(1))
            .filter(|(a, b)| a.1 > 0.0 && b.1 <= 0.0)
            .map(|(_, b)| b.0)
    }

    /// What the policy costs.
    fn say_policy(
        &self,
        s: &Scenario,
        say: &mut impl FnMut(&str, Option<f64>, &'static str, String),
    ) {
        let until = s.end_s();
        match s.policy {
            Policy::Buffer => {}
            Policy::Shed => {
                let (due, taken) = (s.due.total(until), self.offered.total(until));
                let because = format!(
                    "λ − μ while the queue, the batches and the disk, {} + {} + {}, are full: {} due − {} taken",
                    figure(s.standing),
                    figure(s.in_flight),
                    figure(s.on_disk),
                    figure(due),
                    figure(taken)
                );
                say("shed_total", Some((due - taken).max(0.0)), "events", because);
            }
            Policy::SlowSource => {
                let (due, sent) = (s.due.total(until), self.offered.total(until));
                let aimed = s.steady * slow_source::TARGET.as_secs_f64();
                let because = format!(
                    "due, and never sent, once the backlog is the {} that the lease aims at: {} due − {} sent",
                    figure(aimed),
                    figure(due),
                    figure(sent)
                );
                say("held_back_total", Some((due - sent).max(0.0)), "events", because);
            }
            Policy::Credit => {
                let (due, sent) = (s.due.total(until), self.offered.total(until));
                let because = format!(
                    "due, and never sent, once the {} of the window wait: {} due − {} sent",
                    figure(s.window),
                    figure(due),
                    figure(sent)
                );
                say("held_back_total", Some((due - sent).max(0.0)), "events", because);
                let because = format!(
                    "W / μ = {} / {}/s: if the way to the ack and back takes longer, the window starves the sink, and \
                     more is held back than is said here",
                    figure(s.window),
                    figure(s.steady)
                );
                say("round_trip_max", Some(s.window / s.steady), "s", because);
            }
        }
    }

    pub(super) fn figures(
        &self,
        scenario: &Scenario,
        fatal: Option<f64>,
        empty_s: Option<f64>,
    ) -> Vec<Figure> {
        let s = scenario;
        let mut figures = Vec::new();
        let mut say = |name: &str, value: Option<f64>, unit, because: String| {
            figures.push(Figure { name: name.into(), value, unit, because });
        };
        let bytes = |value: f64| scaled(value, "B");
        let most = |of: fn(&Row) -> f64| self.phases.iter().map(of).fold(0.0, f64::max);

        say("ceiling", Some(s.steady), "events/s", format!("μ: {}", s.steady_because));
        let alive = self.phases.iter().filter(|row| !self.is_dead(row.to_s));
        let steepest = alive.max_by(|a, b| a.lag_slope.total_cmp(&b.lag_slope));
        if let Some(row) = steepest {
            let because = match row.lag_slope > 0.0 {
                true => format!("λ − μ = {} − {}", figure(row.offered), figure(row.ceiling)),
                false => "λ is never above μ".into(),
            };
            say("lag_slope", Some(row.lag_slope.max(0.0)), "events/s", because);
        }
        let (peak_s, peak) = self.course.peak();
        let when = format!("offered less served, largest after {} s", figure(peak_s));
        say("lag_peak", Some(peak), "events", when);
        let even = format!("over {} partitions of equal load", figure(s.partitions));
        say("lag_peak_per_partition", Some(peak / s.partitions), "events", even);

        let queue = self.moments().into_iter().map(|t| self.queue(s, t)).fold(0.0, f64::max);
        let each = if s.members > 1.0 {
            format!(" of {} members", figure(s.members))
        } else {
            String::new()
        };
        let held = match s.capacity {
            0.0 => "no queue: the rest of the lag waits in the log".into(),
            c if s.standing < c => {
                format!(
                    "lag, at most what shedding leaves of {}: {}{each}",
                    figure(c),
                    figure(s.standing)
                )
            }
            c if c.is_finite() => format!("lag, at most the capacity of {}{each}", figure(c)),
            _ => "the lag while the processor lives: the queue has no limit".into(),
        };
        say("queue_peak", Some(queue), "events", held);
        let share =
            "its share of a channel block, its payload and the allocator's records of both".into();
        say("event_bytes", Some(s.event_bytes), "B", share);
        let sum = format!(
            "{} resident when empty + one answer of every broker, {} + b × queue = {} × {}",
            bytes(s.base_bytes),
            bytes(s.fetch_bytes),
            bytes(s.event_bytes),
            figure(queue / s.members)
        );
        let rss = model::rss_bytes(s.empty_bytes(), s.event_bytes, queue / s.members);
        say("rss_peak", Some(rss), "B", sum);
        if let (Some(limit), Some(fits)) = (s.limit_bytes, s.fits()) {
            let because = match fatal {
                Some(fatal) => format!(
                    "the queue that fills the limit: ({} − {}) / {} = {} events",
                    bytes(limit),
                    bytes(s.empty_bytes()),
                    bytes(s.event_bytes),
                    figure(fatal / s.members)
                ),
                None => format!("a full queue stays below the limit of {}", bytes(limit)),
            };
            say("killed_at", self.killed_s, "s", because);
            let because = format!(
                "the queue that fits the memory: ({} − {}) / {}",
                bytes(limit),
                bytes(s.empty_bytes()),
                bytes(s.event_bytes)
            );
            say("capacity_by_memory", Some(fits.floor()), "events", because);
        }
        let (rate, in_flight) = (s.steady / s.members, s.in_flight / s.members);
        let promise_s = s.promise_s;
        let timely_s = promise_s * (1.0 - model::TIMELY_REST);
        let timely = model::timely_capacity(rate, timely_s, in_flight);
        let because = format!(
            "with --policy shed: a member's, so that the last of a full queue is acked in --p99-target {promise_s} s: its μ × \
             {promise_s} s × 0.95 − 2 W B = {} − {}",
            figure(rate * timely_s),
            figure(2.0 * in_flight)
        );
        say("capacity_by_wait", Some(timely.floor().max(0.0)), "events", because);

        let (wait_s, wait) = self.longest_wait;
        let fifo = format!(
            "what a user feels, from due to acked, log included, of those that are served: t − A⁻¹(D(t)), largest at t = {} s",
            figure(wait_s)
        );
        say("wait_peak", Some(wait), "s", fifo);
        let alive = || self.moments().into_iter().filter(|t| !self.is_dead(*t));
        let stays = alive().filter_map(|t| Some((t, self.sojourn(s, t)?)));
        let longest = |a: (f64, f64), b: (f64, f64)| if b.1 > a.1 { b } else { a };
        let (stays_s, sojourn) = stays.fold((0.0, 0.0), longest);
        let spilled = alive().map(|t| self.spilled(s, t)).fold(0.0, f64::max);
        let inside = format!(
            "inside the processor alone, for the last that is queued: the lag, at most queue + W B in flight + disk = {} + \
             {} + {}, by the μ of then, longest from t = {} s on",
            figure(s.standing),
            figure(s.in_flight),
            figure(s.on_disk),
            figure(stays_s)
        );
        say("queue_sojourn", Some(sojourn), "s", inside);
        if s.on_disk > 0.0 {
            let because = format!(
                "lag less the {} in memory and {} in flight, at most --spill-max: {} × {} an event",
                figure(s.standing),
                figure(s.in_flight),
                figure(spilled),
                bytes(s.spilled_bytes)
            );
            say("spill_peak", Some(spilled * s.spilled_bytes), "B", because);
            // Rounding must not keep what is shed from reaching it.
            let full = (s.standing + s.in_flight + s.on_disk) * (1.0 - 1e-9);
            let because = format!("the lag is {}: from then on --policy decides", figure(full));
            let full_s = self.course.rises_to(full).filter(|at| !self.is_dead(*at));
            say("spill_full_at", full_s, "s", because);
        }
        self.say_policy(s, &mut say);

        for (n, stall) in (1..).zip(&s.stalls) {
            let (before, after) = (self.lag(stall.from), self.lag(stall.to));
            if stall.to > self.until() || self.is_dead(stall.to) {
                continue; // it ends after the forecast
            }
            let gained = format!("lag at the stall's end, {} s", figure(stall.to));
            say(&format!("stall_{n}_lag"), Some(after), "events", gained);
            let again = if after <= before {
                Some(stall.to)
            } else {
                self.course.falls_to(before, stall.to)
            };
            let (offered, ceiling) = (self.offered.at(stall.to), self.ceiling.at(stall.to));
            let because = format!(
                "until the lag is what it was before, {}: {} / (μ − λ), at first {} − {}",
                figure(before),
                figure((after - before).max(0.0)),
                figure(ceiling),
                figure(offered)
            );
            say(&format!("stall_{n}_recovery"), again.map(|t| t - stall.to), "s", because);
        }
        let (end, left) = (s.end_s(), self.lag(s.end_s()));
        for (n, at) in (1..).zip(self.caught_up().take(CAUGHT_UP_MAX)) {
            say(&format!("caught_up_{n}"), Some(at), "s", "the lag is gone".into());
        }
        let because = match self.killed_s {
            Some(at) => format!(
                "the processor is killed at {} s, and the other events wait in the log; restarted, it reads the same \
                 backlog from its last commit, and is killed again: its queue has to be smaller than the lag",
                figure(at)
            ),
            None => format!("after the schedule's end at {} s: {} / μ", figure(end), figure(left)),
        };
        say("drain", empty_s.map(|t| t - end), "s", because);

        let offered = s.due.total(end);
        say("offered_total", Some(offered), "events", "the sum of rate × time".into());
        let fastest = s.steps.iter().map(|step| step.rate).fold(0.0, f64::max);
        let layout = format!(
            "of the fastest step: record of {} B payload, 1/{} of a batch's header",
            s.payload_bytes,
            figure(s.wire.batch_events(fastest))
        );
        say("log_bytes_per_event", Some(s.wire.log_bytes(fastest)), "B", layout);
        let disk = most(|row| row.disk_bytes);
        let copies = format!(
            "offered × bytes in the log, each step's own, × {} copies",
            figure(s.wire.replication)
        );
        say("disk", Some(disk), "B", copies);
        let each =
            |what: &str| format!("{what}, {} brokers of equal share", figure(s.wire.brokers));
        say("disk_per_broker", Some(disk / s.wire.brokers), "B", each("the same"));
        let came = "λ × bytes in the log × replication, largest".to_owned();
        let went = "(fetches + λ × (replication − 1)) × bytes in the log, largest".to_owned();
        say("network_in", Some(most(|row| row.network_in)), "B/s", came);
        say("network_out", Some(most(|row| row.network_out)), "B/s", went);
        let busiest = most(|row| row.network_in.max(row.network_out)) / s.wire.brokers;
        say("network_per_broker", Some(busiest), "B/s", each("the larger direction"));
        figures
    }
}
