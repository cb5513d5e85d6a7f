//! Lag above so many events: what most alerts are. It knows no rate, so the same number is an hour of one topic
//! and a blink of another; and it goes on firing long after the group has begun to catch up.

use serde::{Deserialize, Serialize};

use super::{Detector, EVENTS_MAX, Look, State, each, within};
use crate::lab::text::thousands;

/// The parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LagEvents {
    /// Fires above it, events.
    pub above: f64,
}

impl Default for LagEvents {
    /// What the lab's bounded queue holds: with more, it is full.
    fn default() -> Self {
        Self { above: 10_000.0 }
    }
}

impl Detector for LagEvents {
    fn name(&self) -> &'static str {
        "lag_events"
    }

    fn label(&self) -> String {
        format!("lag > {} events", thousands(self.above))
    }

    fn needs(&self) -> &'static str {
        "the lag"
    }

    fn check(&self) -> Result<(), String> {
        within("above", self.above, 0.0..=EVENTS_MAX)
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        let newest = |seen: &[Look]| Some(seen.last()?.lag()? > self.above);
        each(looks, |seen| State::if_known(newest(seen)))
    }
}
