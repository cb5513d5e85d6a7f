//! Lag above a small floor and rising: a straight line through the last seconds has a positive slope. It knows a
//! backlog that grows from one that is being worked off, whatever their size. Above the floor, a lag that wanders
//! is one that rises half of the time.

use serde::{Deserialize, Serialize};

use super::{Detector, EVENTS_MAX, Look, SECONDS_MAX, State, each, within};
use crate::lab::detect::recording::{lags, last};
use crate::lab::stats;
use crate::lab::text::{figure, thousands};

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LagSlope {
    /// The floor, events.
    pub above: f64,
    /// Fires above this slope, events/s.
    pub slope_above: f64,
    /// The line is through the time before, s.
    pub over_s: f64,
}

impl Default for LagSlope {
    /// The floor is what is committed in a second at the lab's ceiling: a commit interval leaves as much, and the
    /// lag wanders below it. Ten looks make the line.
    fn default() -> Self {
        Self { above: 2_000.0, slope_above: 0.0, over_s: 10.0 }
    }
}

impl LagSlope {
    fn fires(&self, seen: &[Look]) -> Option<bool> {
        if seen.last()?.lag()? <= self.above {
            return Some(false);
        }
        let line = stats::line(&lags(last(seen, self.over_s)))?;
        Some(line.slope > self.slope_above)
    }
}

impl Detector for LagSlope {
    fn name(&self) -> &'static str {
        "lag_slope"
    }

    fn label(&self) -> String {
        let (over, slope) = (figure(self.over_s), figure(self.slope_above));
        format!("lag > {}, slope of {over} s > {slope}/s", thousands(self.above))
    }

    fn needs(&self) -> &'static str {
        "the lag, three times in its window"
    }

    fn check(&self) -> Result<(), String> {
        within("above", self.above, 0.0..=EVENTS_MAX)?;
        within("slope_above", self.slope_above, 0.0..=EVENTS_MAX)?;
        within("over_s", self.over_s, 3.0..=SECONDS_MAX)
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        each(looks, |seen| State::if_known(self.fires(seen)))
    }
}
