//! The x axis: even steps for time, ratios for what is doubled rather than added to.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::lab::stats::Series;

/// How the x axis is divided.
#[derive(Debug, Clone)]
pub enum Axis {
    /// From 0 in even steps.
    Even,
    /// By ratios, with a tick at each of these values, all above 0: what varies is doubled, not
    /// added to (sizes, counts). Points at or below 0 have no place on it.
    Ratios(Vec<f64>),
}

impl Axis {
    /// Points where they lie along the axis; those without a place are left out.
    pub(super) fn place(&self, points: &[(f64, f64)]) -> Series {
        let at = |x: f64| match self {
            Self::Even => x,
            Self::Ratios(_) => x.log10(),
        };
        let placed = points.iter().map(|&(x, y)| (at(x), y));
        placed.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    }

    /// The value at a place: the inverse of [`Axis::place`].
    pub(super) fn value(&self, place: f64) -> f64 {
        match self {
            Self::Even => place,
            Self::Ratios(_) => 10f64.powf(place),
        }
    }

    /// The axis as it is drawn with `lines` on it.
    pub(super) fn along(&self, lines: &[Series]) -> Along {
        let ends = lines.iter().flatten().map(|p| p.0);
        match self {
            Self::Even => {
                let end = ends.fold(0.0, f64::max);
                let line = RangedCoordf64::from(0.0..if end > 0.0 { end } else { 1.0 });
                Along { ticks: line.key_points(10), line }
            }
            Self::Ratios(ticks) => {
                let ticks: Vec<f64> =
                    ticks.iter().map(|tick| tick.log10()).filter(|t| t.is_finite()).collect();
                let all = || ends.clone().chain(ticks.iter().copied());
                let low = all().fold(f64::INFINITY, f64::min);
                let high = all().fold(f64::NEG_INFINITY, f64::max);
                // Room beside the first and last mark; an axis of nothing still has a length.
                let range = if low <= high { low - 0.1..high + 0.1 } else { 0.0..1.0 };
                Along { line: range.into(), ticks }
            }
        }
    }
}

/// Places along an axis, with ticks where they are wanted. (plotters' own `with_key_points` cannot
/// have labels of the caller's.)
pub(super) struct Along {
    line: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Ranged for Along {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.line.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.line.range()
    }
}
