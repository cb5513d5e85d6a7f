//! The lag in seconds: how old the event is at which the committed offset stands. Estimators see high watermarks and
//! committed offsets, all partitions together; our events carry the time at which they were due, so what they
//! estimate was measured too. Errors are relative, at the looks of a trouble at which the truth is at least 1 s: the
//! commit interval and the interval of the looks are as long.

use serde::Serialize;

use super::recording::Recording;
use crate::lab::stats;

/// A smaller truth is not estimated, s.
const TRUTH_MIN_S: f64 = 1.0;
/// The rate of commits is that of so long, s: as in `docker/prometheus/rules.yml`.
const RATE_OVER_S: f64 = 60.0;
/// An extrapolation goes back no further than 10 min: Datadog's limit (its integrations-core 24167).
const BACK_MAX_S: f64 = 600.0;

/// A reading: when, high watermark, committed offset.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: f64,
    end: f64,
    committed: f64,
}

/// An estimate in s from the readings up to now; `None` where it has none.
type Estimator = fn(&[Reading]) -> Option<f64>;

/// Their names, and what others call them.
const ESTIMATORS: [(&str, Estimator); 4] = [
    ("high watermarks: when was the log as long as is committed", high_watermarks),
    ("lag / rate of commits, 60 s", lag_over_rate),
    ("straight line from the first high watermark to the last (Klag)", straight_line),
    ("back along the last two high watermarks, 10 min at most (Datadog)", extrapolated),
];

/// How the estimators did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimeLag {
    /// What the truth was read from.
    pub truth: &'static str,
    /// Why nothing was compared.
    pub why_not: Option<&'static str>,
    /// One each.
    pub estimates: Vec<Estimate>,
}

/// How one did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Its name.
    pub name: &'static str,
    /// Looks at which it had an estimate.
    pub looks: usize,
    /// Looks at which it could have had one.
    pub of: usize,
    /// Half of its relative errors are at most this; absent where it had no estimate.
    pub p50: Option<f64>,
    /// 95 % of them are.
    pub p95: Option<f64>,
}

impl TimeLag {
    /// Compares them over the troubles of a recording.
    pub fn of(recording: &Recording) -> Self {
        let logs = recording.looks.iter().filter_map(|look| look.log.as_ref());
        let read = logs.filter_map(|log| {
            Some(Reading { at: log.at, end: log.end?, committed: log.committed? })
        });
        let readings: Vec<Reading> = read.collect();
        let compared: Vec<(&[Reading], f64)> = (1..=readings.len())
            .filter_map(|seen| {
                let seen = readings.get(..seen)?;
                let at = seen.last()?.at;
                let within = recording.troubles.iter().any(|t| (t.from..=t.to).contains(&at));
                let truth = interpolated(&recording.truth, |p| p.0, |p| p.1, at)?;
                (within && truth >= TRUTH_MIN_S).then_some((seen, truth))
            })
            .collect();
        let why_not = if readings.is_empty() {
            Some("needs high watermarks and committed offsets by partition")
        } else if recording.truth.is_empty() {
            Some("needs the latencies of our own events: latency.hlog, or the processor's /metrics")
        } else if recording.troubles.is_empty() {
            Some("needs an overload")
        } else if compared.is_empty() {
            Some("needs an overload in which events are late by 1 s")
        } else {
            None
        };
        let estimates = match why_not {
            Some(_) => Vec::new(),
            None => ESTIMATORS.map(|(name, of)| Estimate::of(name, of, &compared)).into(),
        };
        Self { truth: recording.truth_from, why_not, estimates }
    }
}

impl Estimate {
    fn of(name: &'static str, of: Estimator, compared: &[(&[Reading], f64)]) -> Self {
        let error = |(seen, truth): &(&[Reading], f64)| Some((of(seen)? - truth).abs() / truth);
        let errors: Vec<f64> = compared.iter().filter_map(error).collect();
        let quantile = |q| stats::quantile(errors.iter().copied(), q);
        Self {
            name,
            looks: errors.len(),
            of: compared.len(),
            p50: quantile(0.50),
            p95: quantile(0.95),
        }
    }
}

/// What `y` is where `x`, which never falls, is `at`: along a straight line between two neighbours; `None` outside.
fn interpolated<T>(
    points: &[T],
    x: impl Fn(&T) -> f64,
    y: impl Fn(&T) -> f64,
    at: f64,
) -> Option<f64> {
    let after = points.partition_point(|point| x(point) <= at);
    let (a, b) = (points.get(after.checked_sub(1)?)?, points.get(after)?);
    Some(y(a) + (y(b) - y(a)) * (at - x(a)) / (x(b) - x(a)))
}

/// Since when the log had been longer than what is committed now. Exact up to the way from the source to the log, and
/// to the curve of the high watermark between two readings. `None` where that was before the first.
fn high_watermarks(seen: &[Reading]) -> Option<f64> {
    let now = seen.last()?;
    if now.committed >= now.end {
        return Some(0.0);
    }
    Some(now.at - interpolated(seen, |r| r.end, |r| r.at, now.committed)?)
}

/// How long the lag takes at the rate of now: the time until it is gone, rather than how old it is.
fn lag_over_rate(seen: &[Reading]) -> Option<f64> {
    let now = seen.last()?;
    let from = seen.partition_point(|reading| reading.at < now.at - RATE_OVER_S);
    let commits = seen.get(from..)?.iter().map(|reading| (reading.at, reading.committed));
    let rate = stats::overall_rate(&commits.collect::<Vec<_>>()).filter(|rate| *rate > 0.0)?;
    Some((now.end - now.committed) / rate)
}

/// As if the log had grown evenly: right as long as it did.
fn straight_line(seen: &[Reading]) -> Option<f64> {
    let (first, now) = (seen.first()?, seen.last()?);
    let grown = Some(now.end - first.end).filter(|grown| *grown > 0.0)?;
    Some((now.end - now.committed) * (now.at - first.at) / grown)
}

/// As if the log had always grown as since the last reading; a log that does not grow has no end in the past.
fn extrapolated(seen: &[Reading]) -> Option<f64> {
    let now = seen.last()?;
    let before = seen.get(seen.len().checked_sub(2)?)?;
    let (lag, grown) = (now.end - now.committed, now.end - before.end);
    Some(match lag * (now.at - before.at) / grown {
        _ if lag <= 0.0 => 0.0,
        back if grown > 0.0 => back.min(BACK_MAX_S),
        _ => BACK_MAX_S,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1,000/s for 10 s, then 8,000/s; 1,000/s are committed.
    fn overload(until: u32) -> Vec<Reading> {
        let reading = |t: u32| {
            let at = f64::from(t);
            let end = 1_000.0 * at + 7_000.0 * (at - 10.0).max(0.0);
            Reading { at, end, committed: 1_000.0 * at }
        };
        (0..=until).map(reading).collect()
    }

    /// Prevents: an estimate that is right on a log that grows evenly, and called right.
    #[test]
    fn estimators_are_told_apart_by_a_load_that_steps() {
        let seen = overload(90);
        // 90,000 are committed; the 10,000 of the first 10 s, and 80,000 in 10 s: due at 20 s.
        let is = |of: Estimator, s: f64| {
            let estimate = of(&seen).expect("an estimate");
            assert!((estimate - s).abs() < 1e-6, "{estimate} s instead of {s} s");
        };
        is(high_watermarks, 70.0);
        is(lag_over_rate, 560.0);
        is(straight_line, 560_000.0 * 90.0 / 650_000.0);
        is(extrapolated, 70.0);
    }

    /// Prevents: an estimate where there is none to be had, and "wildly overestimated" ones without a limit.
    #[test]
    fn an_idle_source_has_no_rate_and_an_extrapolation_its_limit() {
        let mut seen = overload(20);
        let stopped = Reading { at: 21.0, ..*seen.last().expect("one") };
        seen.push(stopped);
        assert_eq!(extrapolated(&seen), Some(600.0));
        assert_eq!(lag_over_rate(seen.get(20..).expect("two")), None, "nothing is committed");
        assert_eq!(high_watermarks(&seen).map(f64::round), Some(10.0));
        assert_eq!(high_watermarks(seen.get(20..).expect("two")), None, "before the first reading");
        assert_eq!(
            [lag_over_rate, straight_line, extrapolated].map(|of| of(&seen[..1])),
            [None; 3]
        );
        assert_eq!(high_watermarks(&[Reading { at: 1.0, end: 5.0, committed: 5.0 }]), Some(0.0));
    }
}
