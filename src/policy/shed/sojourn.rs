//! What has waited too long when a worker takes it goes: CoDel (Nichols and Jacobson, ACM Queue 10(5), 2012) as Facebook's
//! folly has it (`folly/executors/Codel`): the queue is overloaded while the *least* wait of an interval is above a
//! target, and then all that waited for twice the target goes.
//!
//! The target is scaled to the service: what the sink needs for the events that workers hold, held / μ, with μ as it
//! is measured. A fixed one of 5 ms, folly's, is shorter than one batch here: whatever came would go.

use std::time::{Duration, Instant};

/// As folly's.
const INTERVAL: Duration = Duration::from_millis(100);
/// Shortest target, folly's, and longest: a sink that acks nothing has no service time.
const TARGET_MIN: Duration = Duration::from_millis(5);
const TARGET_MAX: Duration = Duration::from_secs(1);
/// How often the sink's rate is taken, and the weight of the newest: a memory of about a second.
const PERIOD: Duration = Duration::from_millis(200);
const NEWEST: f64 = 0.2;

/// The state of the queue's head.
#[derive(Debug)]
pub struct Sojourn {
    held: f64,
    /// Of acks: when the period began, and how many since then.
    period: Option<(Instant, usize)>,
    /// Events/s that the sink takes; `None` before the first.
    rate: Option<f64>,
    interval_ends: Option<Instant>,
    /// Least wait of the interval.
    least: Duration,
    overloaded: bool,
}

impl Sojourn {
    /// For workers that hold `held` events at most.
    pub fn new(held: usize) -> Self {
        Self {
            held: held as f64,
            period: None,
            rate: None,
            interval_ends: None,
            least: Duration::MAX,
            overloaded: false,
        }
    }

    /// What an event may wait while the queue is not overloaded.
    fn target(&self) -> Duration {
        let Some(rate) = self.rate.filter(|rate| *rate > 0.0) else { return TARGET_MAX };
        let target = Duration::try_from_secs_f64(self.held / rate).unwrap_or(TARGET_MAX);
        target.clamp(TARGET_MIN, TARGET_MAX)
    }

    /// The sink acked `events`.
    pub fn acked(&mut self, now: Instant, events: usize) {
        let (began, so_far) = self.period.get_or_insert((now, 0));
        let time = now.saturating_duration_since(*began);
        if time >= PERIOD {
            let newest = *so_far as f64 / time.as_secs_f64();
            let rate = self.rate.get_or_insert(newest);
            *rate += NEWEST * (newest - *rate);
            self.period = Some((now, events));
        } else {
            *so_far += events;
        }
    }

    /// An event is taken after it has `waited`: whether it goes.
    pub fn is_too_late(&mut self, now: Instant, waited: Duration) -> bool {
        let target = self.target();
        self.least = self.least.min(waited);
        let ends = self.interval_ends.get_or_insert(now + INTERVAL);
        if now >= *ends {
            *ends = now + INTERVAL;
            self.overloaded = self.least > target;
            self.least = waited;
        }
        self.overloaded && waited > 2 * target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at_2000_per_second() -> (Sojourn, Instant) {
        let (mut sojourn, start) = (Sojourn::new(80), Instant::now());
        for n in 0..400_u32 {
            sojourn.acked(start + n * 10 * MS, 20);
        }
        (sojourn, start + 4000 * MS)
    }

    /// Prevents: a target in ms for a sink of any speed.
    #[test]
    fn the_target_is_what_the_sink_needs_for_what_workers_hold() {
        let (sojourn, _) = at_2000_per_second();
        let ms = sojourn.target().as_secs_f64() * 1e3;
        assert!((ms - 40.0).abs() < 1.0, "{ms} ms for 80 events at 2,000/s");
        assert_eq!(Sojourn::new(1).target(), TARGET_MAX);
    }

    /// Prevents: a burst that is shed although the queue runs empty in between; a standing queue that is kept.
    #[test]
    fn a_burst_passes_and_a_standing_queue_is_cut_to_twice_the_target() {
        let (mut burst, start) = at_2000_per_second();
        // Each interval sees an event that did not wait.
        let late = (0..100_u32).filter(|n| {
            let waited = if n % 10 == 0 { MS } else { 300 * MS };
            burst.is_too_late(start + *n * 10 * MS, waited)
        });
        assert_eq!(late.count(), 0);
        let (mut standing, start) = at_2000_per_second();
        let late = (0..40_u32).map(|n| standing.is_too_late(start + n * 10 * MS, 300 * MS));
        let late: Vec<bool> = late.collect();
        assert!(!late[0] && late[11..].iter().all(|late| *late), "{late:?}");
        assert!(!standing.is_too_late(start + 400 * MS, 79 * MS), "below twice the target");
    }
}
