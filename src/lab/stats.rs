//! The few statistics behind the verdicts: a straight line through samples, rates between counters,
//! the mean. Times in s. No smoothing: charts show the samples.

/// A measured quantity over time: (s, value), ascending.
pub type Series = Vec<(f64, f64)>;

/// A least-squares line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Units per second.
    pub slope: f64,
    /// Value at 0 s.
    pub at_zero: f64,
}

impl Line {
    /// The value at `t` s.
    pub fn at(&self, t: f64) -> f64 {
        self.at_zero + self.slope * t
    }
}

/// The line through `points`; `None` below three points or without spread in time.
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    if points.len() < 3 {
        return None;
    }
    let n = points.len() as f64;
    let (mean_t, mean_v) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let spread: f64 = points.iter().map(|p| (p.0 - mean_t).powi(2)).sum();
    if spread <= 0.0 {
        return None;
    }
    let slope = points.iter().map(|p| (p.0 - mean_t) * (p.1 - mean_v)).sum::<f64>() / spread;
    Some(Line { slope, at_zero: mean_v - slope * mean_t })
}

/// Pearson's correlation of the two values of each point; `None` below three points or where one of
/// them never changes.
pub fn correlation(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    if n < 3.0 {
        return None;
    }
    let (x, y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let moment =
        |of: fn(f64, f64) -> f64| -> f64 { points.iter().map(|p| of(p.0 - x, p.1 - y)).sum() };
    let spread = (moment(|x, _| x * x) * moment(|_, y| y * y)).sqrt();
    (spread > 0.0).then(|| moment(|x, y| x * y) / spread)
}

/// The part of `series` from `from` to `to` s, both included.
pub fn between(series: &[(f64, f64)], from: f64, to: f64) -> Series {
    series.iter().copied().filter(|(t, _)| (from..=to).contains(t)).collect()
}

/// Units per second between successive readings of a counter, at the later one's time. A counter
/// that went back (its process was restarted) gives no rate for that step.
pub fn rates(counter: &[(f64, f64)]) -> Series {
    counter
        .iter()
        .zip(counter.iter().skip(1))
        .filter(|(a, b)| b.0 > a.0 && b.1 >= a.1)
        .map(|(a, b)| (b.0, (b.1 - a.1) / (b.0 - a.0)))
        .collect()
}

/// One counter's gain by another's, step by step: by time, as a counter that went back leaves a step out. Steps in which the
/// second gained nothing are left out.
pub fn ratios(gained: &[(f64, f64)], by: &[(f64, f64)]) -> Series {
    let by = rates(by);
    let at = |t: f64| by.iter().find(|rate| rate.0 == t && rate.1 > 0.0);
    let each = rates(gained).into_iter();
    each.filter_map(|(t, rate)| Some((t, rate / at(t)?.1))).collect()
}

/// A counter's gain a second from its first reading to its last.
pub fn overall_rate(counter: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (counter.first()?, counter.last()?);
    (last.0 > first.0 && last.1 >= first.1).then(|| (last.1 - first.1) / (last.0 - first.0))
}

/// The mean of the values.
pub fn mean(series: &[(f64, f64)]) -> Option<f64> {
    (!series.is_empty()).then(|| series.iter().map(|p| p.1).sum::<f64>() / series.len() as f64)
}

/// The middle of `values`; of an even number the higher one.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What a share `q`, 0 to 1, of `values` does not exceed.
pub fn quantile(values: impl Iterator<Item = f64>, q: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

/// The largest value.
pub fn max(series: &[(f64, f64)]) -> Option<f64> {
    series.iter().map(|p| p.1).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_is_1_along_a_line_minus_1_against_it_and_none_without_change() {
        let r = |points: &[(f64, f64)]| correlation(points);
        assert!((r(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]).expect("r") - 1.0).abs() < 1e-12);
        assert!((r(&[(0.0, 5.0), (1.0, 3.0), (2.0, 1.0)]).expect("r") + 1.0).abs() < 1e-12);
        assert_eq!(r(&[(0.0, 1.0), (1.0, 0.0), (2.0, 1.0)]), Some(0.0));
        assert_eq!(r(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]), None);
        assert_eq!(r(&[(0.0, 1.0), (1.0, 2.0)]), None);
    }

    #[test]
    fn a_line_gives_its_slope_back_and_noise_that_sums_to_nothing_does_not_move_it() {
        let noisy: Series =
            (0..60).map(f64::from).map(|t| (t, 5.0 + 3.5 * t + (t * 2.1).sin())).collect();
        let fit = line(&noisy).expect("points");
        assert!((fit.slope - 3.5).abs() < 0.01 && (fit.at(0.0) - 5.0).abs() < 0.5, "{fit:?}");
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let of = |values: &[f64], q| quantile(values.iter().copied(), q);
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.95, 0.96, 1.0].map(|q| of(&values, q)),
            [1.0, 10.0, 19.0, 20.0, 20.0].map(Some)
        );
        assert_eq!((of(&[7.0], 0.5), of(&[], 0.5)), (Some(7.0), None));
    }

    #[test]
    fn too_few_points_are_no_line() {
        assert_eq!(line(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(line(&[(1.0, 1.0); 5]), None);
    }

    #[test]
    fn a_counter_that_starts_anew_is_no_negative_rate() {
        let restarted = [(0.0, 10.0), (1.0, 20.0), (2.0, 5.0), (4.0, 25.0)];
        assert_eq!(rates(&restarted), [(1.0, 10.0), (4.0, 10.0)]);
        assert_eq!(overall_rate(&[(0.0, 10.0), (2.0, 30.0)]), Some(10.0));
        assert_eq!(overall_rate(&[(0.0, 10.0)]), None);
        let steady = [(0.0, 0.0), (1.0, 40.0), (2.0, 80.0), (4.0, 120.0)];
        assert_eq!(ratios(&restarted, &steady), [(1.0, 0.25), (4.0, 0.5)]);
        assert_eq!(ratios(&steady, &[(0.0, 7.0), (1.0, 7.0), (2.0, 8.0)]), [(2.0, 40.0)]);
    }
}
