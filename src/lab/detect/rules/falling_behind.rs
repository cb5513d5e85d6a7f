//! The rule that we recommend: the group falls behind. Either of two things fires, and both are measured in what
//! the group itself commits, so no threshold is a topic's own:
//!
//! - the lag is above its least of the last 30 s by more than is done in two commit intervals, at the busiest of
//!   that time. A reading meets the saw of the commits anywhere, so it may be one interval's worth higher than
//!   another without any trouble; two are none. A load that comes in bursts, or begins, makes the saw as high as the
//!   burst, which is what counts then; and one look is no gain yet. It is a gain and no level, so a lag that stays or falls is quiet.
//! - a partition stands still: it held something at each look of five commit intervals, and nothing of it was
//!   committed. One partition of twelve gains too little to be seen in the sum. Or its lag could not be read for
//!   as long: what has no leader cannot be fetched either.
//!
//! An overload of x times the ceiling is found after about 2 / (x − 1) intervals: 1.2 times after 10 to 15 s, four
//! times after 1 s and two looks. One of less than 1.07 times gains less than two intervals in 30 s and is not found.

use serde::{Deserialize, Serialize};

use super::{Detector, EVENTS_MAX, Look, SECONDS_MAX, State, each, within};
use crate::lab::detect::recording::{Log, committed, done, lags, last};
use crate::lab::stats;
use crate::lab::text::figure;

/// Looks are a little late or early, so one is an interval after another from this share of it on.
const ALMOST: f64 = 0.9;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FallingBehind {
    /// Of the consumer, s.
    pub commit_interval_s: f64,
    /// Fires at a gain above so many intervals' worth of what is done.
    pub gain_intervals: f64,
    /// The gain is above the least lag of the time before, s.
    pub over_s: f64,
    /// A smaller gain is none, events.
    pub floor: f64,
    /// Fires when a partition stands still for so many intervals.
    pub still_intervals: f64,
}

impl Default for FallingBehind {
    /// The floor is what four workers with batches of 200 have in flight, and some.
    fn default() -> Self {
        Self {
            commit_interval_s: 1.0,
            gain_intervals: 2.0,
            over_s: 30.0,
            floor: 1_000.0,
            still_intervals: 5.0,
        }
    }
}

/// (s, lag, events done).
type Points = Vec<(f64, f64, f64)>;

impl FallingBehind {
    fn state(&self, seen: &[Look]) -> State {
        if self.is_blind(seen) {
            return State::Firing;
        }
        let Some(now) = seen.last().filter(|look| look.lag().is_some()) else {
            return State::Unknown;
        };
        if self.stands(seen) {
            return State::Firing;
        }
        // A load that begins is not served yet at the first look that shows it.
        let before = now.at - ALMOST * self.commit_interval_s;
        let before = seen.partition_point(|look| look.at <= before);
        match self.gains(seen) {
            Some(true) => State::if_known(self.gains(seen.get(..before).unwrap_or_default())),
            gains => State::if_known(gains),
        }
    }

    /// Whether a partition's lag could not be read for so long: nobody leads it, and nobody can fetch it either.
    fn is_blind(&self, seen: &[Look]) -> bool {
        let logs = seen.iter().filter_map(|look| Some((look, look.log.as_ref()?)));
        let Some((_, Log { lag: None, .. })) = logs.clone().next_back() else { return false };
        let read = logs.rev().find(|(_, log)| log.lag.is_some());
        let now = seen.last().map_or(f64::NAN, |look| look.at);
        read.is_some_and(|(look, _)| now - look.at >= self.still_intervals * self.commit_interval_s)
    }

    /// Whether the lag gained too much; `None` while nothing moves.
    fn gains(&self, seen: &[Look]) -> Option<bool> {
        let window = last(seen, self.over_s);
        let lags = lags(window);
        let lag = lags.last()?.1;
        let gain = lag - lags.iter().map(|point| point.1).fold(lag, f64::min);
        if gain <= self.floor {
            return Some(false);
        }
        let worth = self.gain_intervals * self.commit_interval_s;
        busiest(&done(window)).map(|rate| gain > worth * rate)
    }

    /// Whether a partition stands still; all of them together, where samples do not tell them apart.
    fn stands(&self, seen: &[Look]) -> bool {
        let seconds = self.still_intervals * self.commit_interval_s;
        // And the look before, however far apart looks are: a window that is to hold a time begins before it.
        let begin = seen.len().saturating_sub(last(seen, seconds).len() + 1);
        let window = seen.get(begin..).unwrap_or_default();
        let logs = || window.iter().filter_map(|look| look.log.as_ref());
        let Some(newest) = logs().next_back() else { return false };
        let of = |partition: &i32| -> Points {
            let row = logs().filter_map(|log| Some((log.at, log.partitions.get(partition)?)));
            row.filter_map(|(at, row)| Some((at, row.lag? as f64, committed(row)? as f64)))
                .collect()
        };
        if newest.partitions.is_empty() {
            let all = |look: &Look| Some((look.at, look.lag()?, look.done?.1));
            return stands(&window.iter().filter_map(all).collect::<Points>(), seconds);
        }
        newest.partitions.keys().any(|partition| stands(&of(partition), seconds))
    }
}

/// Whether something waited for `seconds`, and nothing of it was done.
fn stands(points: &[(f64, f64, f64)], seconds: f64) -> bool {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return false };
    last.0 - first.0 >= seconds && points.iter().all(|p| p.1 > 0.0 && p.2 == first.2)
}

/// The most that was done in two steps of the looks, events/s; `None` while nothing moves. One step may meet two commits
/// and the next one none.
fn busiest(done: &[(f64, f64)]) -> Option<f64> {
    // A reading that is too low for one look, as of a new leader that does not know its log's end yet, is no work done
    // when it is right again.
    let mut most = f64::NEG_INFINITY;
    let done: Vec<(f64, f64)> = done
        .iter()
        .map(|&(at, done)| {
            most = most.max(done);
            (at, most)
        })
        .collect();
    let two_steps = done.windows(done.len().clamp(1, 3)).filter_map(stats::overall_rate);
    two_steps.max_by(f64::total_cmp).filter(|rate| *rate > 0.0)
}

impl Detector for FallingBehind {
    fn name(&self) -> &'static str {
        "falling_behind"
    }

    fn label(&self) -> String {
        let (gain, still) = (figure(self.gain_intervals), figure(self.still_intervals));
        let interval = figure(self.commit_interval_s);
        format!("falling behind: gain > {gain}, still > {still} × {interval} s")
    }

    fn needs(&self) -> &'static str {
        "the lag, and committed offsets or events acked"
    }

    fn check(&self) -> Result<(), String> {
        within("commit_interval_s", self.commit_interval_s, 0.001..=3_600.0)?;
        within("gain_intervals", self.gain_intervals, 1.0..=1_000.0)?;
        within("over_s", self.over_s, 3.0..=SECONDS_MAX)?;
        within("floor", self.floor, 0.0..=EVENTS_MAX)?;
        within("still_intervals", self.still_intervals, 1.0..=1_000.0)
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        each(looks, |seen| self.state(seen))
    }
}
