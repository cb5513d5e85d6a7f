//! What batches carry, and the batch that is large enough, by rule.
//!
//! Calls of B events that cost c + e B tokens at r tokens/s carry r B / (c + e B) events/s
//! ([`crate::lab::model::ceiling`]). That is
//! Hockney's law r∞ B / (n½ + B) (Hockney and Jesshope, Parallel Computers 2, 1988) with r∞ = r / e,
//! which no batch reaches, and n½ = c / e, the batch that reaches half of it. The batch that reaches
//! a share q of r∞ is n½ q / (1 − q): 9 n½ for 90 %.

use super::Call;

/// Where the knee lies, as a share of r∞.
pub const KNEE_SHARE: f64 = 0.9;

/// Throughputs this close count as equal in a recommendation: the smaller batch is taken.
const AS_GOOD: f64 = 0.95;

/// Hockney's law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchLaw {
    /// r∞, events/s.
    pub asymptote: f64,
    /// n½, events.
    pub half_size: f64,
}

impl BatchLaw {
    /// The law of a sink that earns `rate` tokens/s.
    pub fn of(rate: f64, call: Call) -> Self {
        Self { asymptote: rate / call.event_cost, half_size: call.cost / call.event_cost }
    }

    /// The law through measured (size, events/s): B / T = n½ / r∞ + B / r∞ is a straight line, each
    /// point's relative error counting the same. `None` for fewer than two sizes.
    pub fn fitted(points: &[(f64, f64)]) -> Option<Self> {
        let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (x, rate) in points.iter().filter(|p| p.1 > 0.0) {
            let y = x / rate;
            let weight = 1.0 / (y * y);
            w += weight;
            wx += weight * x;
            wy += weight * y;
            wxx += weight * x * x;
            wxy += weight * x * y;
        }
        let slope = (w * wxy - wx * wy) / (w * wxx - wx * wx);
        let at_zero = (wy - slope * wx) / w;
        (slope.is_finite() && slope > 0.0)
            .then(|| Self { asymptote: 1.0 / slope, half_size: at_zero / slope })
    }

    /// The batch that carries [`KNEE_SHARE`] of r∞, events.
    pub fn knee(self) -> f64 {
        self.half_size * KNEE_SHARE / (1.0 - KNEE_SHARE)
    }

    /// The smallest of `points` (size, events/s), ascending, that carries [`KNEE_SHARE`] of r∞.
    pub fn knee_among(self, points: &[(f64, f64)]) -> Option<f64> {
        points.iter().find(|(_, rate)| *rate >= KNEE_SHARE * self.asymptote).map(|p| p.0)
    }
}

/// The size to take for a stated p99: among those of `sizes` (size, events/s, p99 in s), ascending,
/// that keep it, the smallest that is as good as the best.
pub fn recommended(sizes: &[(f64, f64, f64)], stated_s: f64) -> Option<(f64, f64, f64)> {
    let kept = || sizes.iter().copied().filter(|(_, _, p99)| *p99 <= stated_s);
    let best = kept().map(|(_, rate, _)| rate).fold(0.0, f64::max);
    kept().find(|(_, rate, _)| *rate >= AS_GOOD * best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::model;

    const SIZES: [f64; 4] = [1.0, 50.0, 200.0, 1000.0];

    // Prevents: a fit that the large sizes rule alone, so that a knee far off still passes.
    #[test]
    fn the_fit_gives_the_law_back_and_one_bad_size_moves_the_knee() {
        let carries = |size| model::ceiling(2000.0, 0.9, 0.1, size);
        let points = SIZES.map(|size| (size, carries(size)));
        let fit = BatchLaw::fitted(&points).expect("a fit");
        assert!((fit.asymptote - 20_000.0).abs() < 1e-6 && (fit.half_size - 9.0).abs() < 1e-9);
        assert_eq!(fit.knee_among(&points), Some(200.0));
        let slow_calls = SIZES.map(|size| match size {
            1.0 => (size, 0.7 * carries(size)),
            _ => (size, carries(size)),
        });
        let fit = BatchLaw::fitted(&slow_calls).expect("a fit");
        assert!(fit.knee() > 1.2 * 81.0, "{fit:?}");
        assert_eq!(BatchLaw::fitted(&[]), None);
        assert_eq!(BatchLaw::fitted(&[(1.0, 2000.0)]), None);
    }

    #[test]
    fn the_smallest_size_as_good_as_the_best_is_recommended() {
        let sizes = [(1.0, 2e3, 0.03), (50.0, 17e3, 0.1), (200.0, 19.1e3, 0.3), (1e3, 19.8e3, 0.6)];
        let size = |stated| recommended(&sizes, stated).map(|r| r.0);
        assert_eq!([size(0.01), size(0.05), size(0.1)], [None, Some(1.0), Some(50.0)]);
        assert_eq!([size(0.5), size(1.0)], [Some(200.0), Some(200.0)]);
    }
}
