//! How a line is drawn: colour, dash and marker say the same thing three times.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::Drawn;

/// What a line stands for: decides colour, dash and marker together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Measured, first arm: blue, round marks.
    Blue,
    /// Measured, second arm: vermilion, triangles.
    Vermilion,
    /// Measured, third: green, squares.
    Green,
    /// Measured, fourth: purple, crosses.
    Purple,
    /// Measured, fifth: sky blue, diamonds.
    Sky,
    /// Measured, sixth: orange, triangles that hang.
    Orange,
    /// Measured, seventh: brown, rings.
    Brown,
    /// Predicted by the model: black dashes.
    Predicted,
    /// Predicted, for one of several measured lines: dashes of its colour. See [`Ink::predicted`].
    PredictedOf(&'static Ink),
    /// A limit or a target: grey dots.
    Limit,
}

impl Ink {
    /// The ink of the prediction for a line of this ink.
    pub fn predicted(self) -> Self {
        match self {
            Self::Blue => Self::PredictedOf(&Self::Blue),
            Self::Vermilion => Self::PredictedOf(&Self::Vermilion),
            Self::Green => Self::PredictedOf(&Self::Green),
            Self::Purple => Self::PredictedOf(&Self::Purple),
            Self::Sky => Self::PredictedOf(&Self::Sky),
            Self::Orange => Self::PredictedOf(&Self::Orange),
            Self::Brown => Self::PredictedOf(&Self::Brown),
            Self::Predicted | Self::PredictedOf(_) | Self::Limit => Self::Predicted,
        }
    }

    /// Whether it is a prediction or a limit, which hold between the points as well.
    pub(super) fn is_of_a_model(self) -> bool {
        matches!(self, Self::Predicted | Self::PredictedOf(_) | Self::Limit)
    }

    fn colour(self) -> RGBColor {
        match self {
            Self::Blue => RGBColor(0x00, 0x72, 0xB2),
            Self::Vermilion => RGBColor(0xD5, 0x5E, 0x00),
            Self::Green => RGBColor(0x00, 0x9E, 0x73),
            Self::Purple => RGBColor(0xCC, 0x79, 0xA7),
            Self::Sky => RGBColor(0x56, 0xB4, 0xE9),
            Self::Orange => RGBColor(0xE6, 0x9F, 0x00),
            Self::Brown => RGBColor(0x7F, 0x4F, 0x24),
            Self::Predicted => RGBColor(0, 0, 0),
            Self::PredictedOf(ink) => ink.colour(),
            Self::Limit => RGBColor(0x77, 0x77, 0x77),
        }
    }

    fn stroke(self) -> ShapeStyle {
        let width = if self.is_of_a_model() { 2 } else { 3 };
        self.colour().stroke_width(width)
    }

    /// (dash, gap) in pixels; a gap of 0 is a full line.
    fn dash(self) -> (i32, i32) {
        match self {
            Self::Predicted | Self::PredictedOf(_) => (9, 6),
            Self::Limit => (2, 4),
            _ => (0, 0),
        }
    }

    pub(super) fn draw<DB: DrawingBackend>(
        self,
        area: &DrawingArea<DB, Shift>,
        path: &[(i32, i32)],
    ) -> Drawn<DB> {
        let pieces = match self.dash() {
            (_, 0) => vec![path.to_vec()],
            (dash, gap) => dashes(path, dash.into(), gap.into()),
        };
        pieces.into_iter().try_for_each(|piece| area.draw(&PathElement::new(piece, self.stroke())))
    }

    pub(super) fn mark<DB: DrawingBackend>(
        self,
        area: &DrawingArea<DB, Shift>,
        at: (i32, i32),
    ) -> Drawn<DB> {
        let fill = self.colour().filled();
        match self {
            Self::Blue => area.draw(&Circle::new(at, 5, fill)),
            Self::Vermilion => area.draw(&TriangleMarker::new(at, 7, fill)),
            Self::Green => {
                let corners = [(at.0 - 5, at.1 - 5), (at.0 + 5, at.1 + 5)];
                area.draw(&Rectangle::new(corners, fill))
            }
            Self::Purple => area.draw(&Cross::new(at, 5, self.colour().stroke_width(3))),
            Self::Sky => {
                area.draw(&Polygon::new(around(at, [(0, -6), (6, 0), (0, 6), (-6, 0)]), fill))
            }
            Self::Orange => area.draw(&Polygon::new(around(at, [(-6, -4), (6, -4), (0, 6)]), fill)),
            Self::Brown => area.draw(&Circle::new(at, 5, self.colour().stroke_width(2))),
            Self::Predicted | Self::PredictedOf(_) | Self::Limit => Ok(()),
        }
    }
}

fn around<const N: usize>(at: (i32, i32), tips: [(i32, i32); N]) -> Vec<(i32, i32)> {
    tips.map(|(x, y)| (at.0 + x, at.1 + y)).to_vec()
}

/// Cuts a path into dashes, along its length.
fn dashes(path: &[(i32, i32)], dash: f64, gap: f64) -> Vec<Vec<(i32, i32)>> {
    let (mut pieces, mut piece) = (Vec::new(), Vec::new());
    let (mut inked, mut left) = (true, dash);
    for (&from, &to) in path.iter().zip(path.iter().skip(1)) {
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy);
        let at = |s: f64| {
            let share = if length > 0.0 { s / length } else { 0.0 };
            (from.0 + (dx * share).round() as i32, from.1 + (dy * share).round() as i32)
        };
        let mut walked = 0.0;
        while walked < length {
            let step = left.min(length - walked);
            if inked {
                piece.push(at(walked));
                piece.push(at(walked + step));
            }
            (walked, left) = (walked + step, left - step);
            if left <= 0.0 {
                pieces.push(std::mem::take(&mut piece));
                inked = !inked;
                left = if inked { dash } else { gap };
            }
        }
    }
    pieces.push(piece);
    // A dash that rounding left without length cannot be stroked.
    pieces.iter_mut().for_each(Vec::dedup);
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_leave_their_gaps_run_round_corners_and_have_length() {
        let corner = [(0, 0), (10, 0), (10, 10)];
        let cut = dashes(&corner, 8.0, 4.0);
        assert_eq!(cut, [vec![(0, 0), (8, 0)], vec![(10, 2), (10, 10)]]);
        assert!(dashes(&[(5, 5), (5, 5)], 8.0, 4.0).is_empty());
        assert!(dashes(&[], 8.0, 4.0).is_empty());
    }
}
