//! Lag in seconds: lag over the rate of what is committed (acked, where samples hold no committed offsets), as the
//! recording rules of `docker/prometheus/rules.yml` have it.
//!
//! At a rate of 0 the quotient is infinite: a lag above 0 fires, and a lag of 0 is quiet. So a group that stands
//! still is found once the window is empty; and the first events after an idle time, which nobody can have
//! committed yet, fire too. Where a counter went back there is no rate, and nothing is said.

use serde::{Deserialize, Serialize};

use super::{Detector, Look, SECONDS_MAX, State, each, within};
use crate::lab::detect::recording::{done, last};
use crate::lab::stats;
use crate::lab::text::figure;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LagSeconds {
    /// Fires above it, s.
    pub above_s: f64,
    /// The rate is that of the time before, s.
    pub over_s: f64,
}

impl Default for LagSeconds {
    /// Those of the alert `LagInSeconds`, but for its `for: 1m`.
    fn default() -> Self {
        Self { above_s: 30.0, over_s: 60.0 }
    }
}

impl LagSeconds {
    fn fires(&self, seen: &[Look]) -> Option<bool> {
        let lag = seen.last()?.lag()?;
        if lag <= 0.0 {
            return Some(false);
        }
        let rate = stats::overall_rate(&done(last(seen, self.over_s)))?;
        Some(lag / rate > self.above_s)
    }
}

impl Detector for LagSeconds {
    fn name(&self) -> &'static str {
        "lag_seconds"
    }

    fn label(&self) -> String {
        format!("lag / rate of {} s > {} s", figure(self.over_s), figure(self.above_s))
    }

    fn needs(&self) -> &'static str {
        "the lag, and committed offsets or events acked"
    }

    fn check(&self) -> Result<(), String> {
        within("above_s", self.above_s, 0.0..=SECONDS_MAX)?;
        within("over_s", self.over_s, 2.0..=SECONDS_MAX)
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        each(looks, |seen| State::if_known(self.fires(seen)))
    }
}
