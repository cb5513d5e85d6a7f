//! A check: what was predicted or required, what was measured, and how far they may be apart.
//!
//! Invariant: what was not measured does not pass.

use serde::{Deserialize, Serialize};

/// How far the measured figure may be from the predicted one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// Off by at most this share of the prediction.
    Share(f64),
    /// Off by at most so much, in the figure's unit.
    Absolute(f64),
    /// At most the prediction.
    AtMost,
    /// At least the prediction.
    AtLeast,
}

/// The reason for a margin of nothing: a promise. A broken promise is a failure on any machine.
pub const PROMISE: &str = "a promise";

/// What a check asks for: the figure, how far off it may be, and where that margin comes from.
pub type Wanted = (f64, Margin, &'static str);

/// One verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Short, unique.
    pub name: String,
    /// What is asked.
    pub question: String,
    /// What was predicted or required.
    pub predicted: f64,
    /// What was measured; absent when the run does not show it, which is a failure.
    pub measured: Option<f64>,
    /// Unit of both.
    pub unit: String,
    /// How far they may be apart.
    pub margin: Margin,
    /// Where that comes from.
    #[serde(default)]
    pub because: String,
    /// Whether it holds.
    pub pass: bool,
}

impl Check {
    /// Compares; what was not measured does not pass.
    pub fn new(
        name: &str,
        question: &str,
        (predicted, margin, because): Wanted,
        measured: Option<f64>,
        unit: &str,
    ) -> Self {
        let measured = measured.filter(|m| m.is_finite());
        let pass = measured.is_some_and(|measured| match margin {
            Margin::Share(share) => (measured - predicted).abs() <= share * predicted.abs(),
            Margin::Absolute(by) => (measured - predicted).abs() <= by,
            Margin::AtMost => measured <= predicted,
            Margin::AtLeast => measured >= predicted,
        });
        Self {
            name: name.into(),
            question: question.into(),
            predicted,
            measured,
            unit: unit.into(),
            margin,
            because: because.into(),
            pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_hold_at_their_edge_and_not_beyond_and_no_measurement_is_no_pass() {
        let check = |predicted, margin, measured| {
            Check::new("n", "q", (predicted, margin, "w"), measured, "u").pass
        };
        assert!(check(100.0, Margin::Share(0.1), Some(110.0)));
        assert!(!check(100.0, Margin::Share(0.1), Some(111.0)));
        assert!(!check(100.0, Margin::Share(0.1), Some(80.0)));
        assert!(check(0.0, Margin::Absolute(1.0), Some(-1.0)));
        assert!(
            check(64.0, Margin::AtMost, Some(64.0)) && !check(64.0, Margin::AtMost, Some(64.1))
        );
        assert!(check(9.0, Margin::AtLeast, Some(9.0)) && !check(9.0, Margin::AtLeast, Some(8.9)));
        assert!(!check(100.0, Margin::AtMost, None));
        assert!(!check(100.0, Margin::AtMost, Some(f64::NAN)));
    }
}
