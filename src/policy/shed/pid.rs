//! A share of what comes goes, set by a controller that holds the queue at a depth: after Uber's Cinnamon ("PID
//! Controller for Cinnamon", 2023). The share is spread over cohorts of ids, and the high class loses nothing while
//! there are others.
//!
//! Proportional and integral; the derivative's weight is 0, as theirs: the depth moves with every answer of a broker.
//! The depth that is held is twice what workers hold, a wait of 2 held / μ whatever μ is. Below what they hold
//! nothing is shed: the sink must not wait, and when it stands still (μ = 0) somebody has to find out that it goes again.

use std::time::{Duration, Instant};

use super::Classes;
use crate::source::Run;

/// How often the share is set.
const PERIOD: Duration = Duration::from_millis(20);
/// The proportional part's weight. With the depth λ T away from where it should be (T: the wait that is held, 2 held / μ)
/// the share moves by so much at once. q' = λ (1 − share) − μ makes that a loop of second order, critically damped where
/// the integral's weight is proportional² / 4 T. It settles in some 2 T / proportional: 0.3 s for T = 80 ms.
const PROPORTIONAL: f64 = 0.5;
/// Weight of the newest period in the smoothed depth (puffs of the log: some 0.1 s) and in the rate that comes
/// and that goes (some 0.4 s).
const NEWEST_DEPTH: f64 = 0.2;
const NEWEST_RATE: f64 = 0.05;
/// Bounds of T, s: a period, and what a sink that takes nothing is given.
const WAIT_S: std::ops::RangeInclusive<f64> = 0.02..=0.5;

/// The controller.
#[derive(Debug)]
pub struct Pid {
    held: f64,
    began: Option<Instant>,
    /// Events that came since then.
    came: usize,
    /// Of these, those that came in, by the share that went.
    entered: f64,
    /// Events/s that come, smoothed; and that the workers take.
    rate: f64,
    served: f64,
    /// Events in the queue, smoothed; and as they were last.
    depth: f64,
    depth_before: f64,
    integral: f64,
    share: f64,
}

/// What goes, of what comes, 0 to 1 each.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shares {
    /// The share of all.
    all: f64,
    /// What of it the integral has: an overload that lasts, and no puff.
    standing: f64,
}

impl Pid {
    /// For workers that hold `held` events at most.
    pub fn new(held: usize) -> Self {
        Self {
            held: held as f64,
            began: None,
            came: 0,
            entered: 0.0,
            rate: 0.0,
            served: 0.0,
            depth: 0.0,
            depth_before: 0.0,
            integral: 0.0,
            share: 0.0,
        }
    }

    /// `events` come to a queue of `depth`: the share of them that goes.
    pub fn shares(&mut self, now: Instant, events: usize, depth: usize) -> Shares {
        let began = *self.began.get_or_insert(now);
        let time = now.saturating_duration_since(began);
        if time >= PERIOD {
            self.set(time.as_secs_f64(), depth as f64);
            (self.began, self.came, self.entered) = (Some(now), 0, 0.0);
        }
        let shares = if (depth as f64) < self.held {
            Shares::default()
        } else {
            Shares { all: self.share, standing: self.integral.min(self.share) }
        };
        self.came += events;
        self.entered += events as f64 * (1.0 - shares.all);
        shares
    }

    fn set(&mut self, seconds: f64, depth: f64) {
        // A period may be longer than meant, when nothing came: as many as would have been.
        let periods = seconds / PERIOD.as_secs_f64();
        let weight = |newest: f64| 1.0 - (1.0 - newest).powf(periods);
        self.rate += weight(NEWEST_RATE) * (self.came as f64 / seconds - self.rate);
        let gone = (self.entered - (depth - self.depth_before)).max(0.0);
        self.served += weight(NEWEST_RATE) * (gone / seconds - self.served);
        self.depth_before = depth;
        self.depth += weight(NEWEST_DEPTH) * (depth - self.depth);
        let wait_s = (2.0 * self.held / self.served.max(1.0)).clamp(*WAIT_S.start(), *WAIT_S.end());
        let away = (self.depth - 2.0 * self.held) / (self.rate * wait_s).max(self.held);
        let integral = PROPORTIONAL * PROPORTIONAL / (4.0 * wait_s);
        self.integral = (self.integral + integral * away * seconds.min(1.0)).clamp(0.0, 1.0);
        self.share = (self.integral + PROPORTIONAL * away).clamp(0.0, 1.0);
    }
}

/// Which of the run's events come in.
pub fn kept(run: &Run, classes: Classes, shares: Shares) -> Vec<bool> {
    let (normal, _) = by_class(shares.all, classes.high_share);
    // A puff is no reason to shed the high class: only what stands is.
    let (_, high) = by_class(shares.standing, classes.high_share);
    let stays = |id| Classes::cohort(id) >= if classes.is_high(id) { high } else { normal };
    (0..run.len()).map(|n| stays(run.head(n).id)).collect()
}

/// The shares of the normal and of the high class that go, so that `ratio` of all does and the high class last.
fn by_class(ratio: f64, high_share: f64) -> (f64, f64) {
    let normal_share = 1.0 - high_share;
    if ratio < normal_share {
        return (ratio / normal_share, 0.0);
    }
    let left = if high_share > 0.0 { (ratio - normal_share) / high_share } else { 0.0 };
    (1.0, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_class_goes_last() {
        assert_eq!(by_class(0.0, 0.1), (0.0, 0.0));
        let (normal, high) = by_class(0.75, 0.1);
        assert!((normal - 0.75 / 0.9).abs() < 1e-9 && high == 0.0);
        let (normal, high) = by_class(0.95, 0.1);
        assert!(normal == 1.0 && (high - 0.5).abs() < 1e-9);
        assert_eq!(by_class(0.5, 0.0), (0.5, 0.0));
        assert_eq!(by_class(1.0, 0.0), (1.0, 0.0));
    }

    /// A fluid queue in steps of 1 ms, with puffs of 20 ms as a producer's linger makes them: shares by the end of
    /// each second, and the wait, s; and the largest share that stands.
    fn fluid(rates: &[(f64, f64)], mu: f64) -> (Vec<(f64, f64)>, f64) {
        let (mut pid, start) = (Pid::new(80), Instant::now());
        let (mut queue, mut puff, mut seconds) = (0.0_f64, 0.0, Vec::new());
        let (mut offered, mut shed, mut most) = (0.0, 0.0, 0.0_f64);
        let mut ms = 0_u32;
        for &(rate, time) in rates {
            for _ in 0..(time * 1e3) as u32 {
                ms += 1;
                puff += rate / 1e3;
                if ms.is_multiple_of(20) {
                    let now = start + Duration::from_millis(ms.into());
                    let Shares { all: ratio, standing } =
                        pid.shares(now, puff as usize, queue as usize);
                    most = standing.max(most);
                    offered += puff;
                    shed += puff * ratio;
                    queue += puff * (1.0 - ratio);
                    puff = 0.0;
                }
                queue = (queue - mu / 1e3).max(0.0);
                if ms.is_multiple_of(1000) {
                    seconds.push((shed / offered, queue / mu));
                    (offered, shed) = (0.0, 0.0);
                }
            }
        }
        (seconds, most)
    }

    /// Prevents: a controller that swings, that needs seconds to find the share, or that sheds below the ceiling.
    #[test]
    fn the_share_is_found_within_a_second_and_stays() {
        let (seconds, most) =
            fluid(&[(1500.0, 10.0), (2800.0, 10.0), (8000.0, 20.0), (1800.0, 10.0)], 2000.0);
        assert!(seconds[1..10].iter().all(|(share, _)| *share == 0.0), "{seconds:?}");
        for (from, to, share) in [(12, 20, 0.286), (22, 40, 0.75)] {
            for (at, wait) in &seconds[from..to] {
                assert!((at - share).abs() < 0.05 * share, "{at} of {share}: {seconds:?}");
                assert!(*wait < 0.15, "{wait} s: {seconds:?}");
            }
        }
        assert!(most < 0.9, "{most}: a tenth of high priority would be shed");
        assert!(seconds[43..].iter().all(|(share, _)| *share < 0.01), "{seconds:?}");
    }

    /// Prevents: weights that fit one sink alone: on a slow one the share overshoots, and the high class pays.
    #[test]
    fn a_sink_of_a_quarter_of_the_speed_finds_its_share_without_overshoot() {
        let (seconds, most) = fluid(&[(375.0, 5.0), (2000.0, 25.0)], 500.0);
        for (at, wait) in &seconds[11..] {
            assert!((at - 0.75).abs() < 0.05 * 0.75, "{at}: {seconds:?}");
            assert!(*wait < 0.6, "{wait} s: {seconds:?}");
        }
        assert!(most < 0.9, "{most}: a tenth of high priority would be shed");
    }

    /// Prevents: a queue that stays shut after the sink stood still.
    #[test]
    fn after_a_standstill_it_lets_in_again() {
        let (mut pid, start) = (Pid::new(80), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ratios: Vec<f64> = (0..500).map(|n| pid.shares(at(n * 20), 160, 10_000).all).collect();
        assert_eq!(ratios.last(), Some(&1.0));
        assert_eq!(pid.shares(at(10_020), 160, 40), Shares::default(), "the sink took all");
    }
}
