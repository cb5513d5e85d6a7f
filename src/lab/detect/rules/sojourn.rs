//! How long events waited, by the processor's own clock: a quantile of its last 10 s. It needs no lag and no rate,
//! and it knows only what came out at the other end: a backlog in the log is not in the queue, and while nothing
//! is acked nothing is said.

use serde::{Deserialize, Serialize};

use super::{Detector, Look, SECONDS_MAX, State, each, within};
use crate::lab::text::figure;
use crate::telemetry::latency::{QUANTILES, Stage};

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sojourn {
    /// Which part of an event's way: the label `stage` of `latency_quantile_seconds`.
    pub stage: String,
    /// Its label `quantile`.
    pub quantile: String,
    /// Fires above it, s.
    pub above_s: f64,
}

impl Default for Sojourn {
    /// Below the ceiling events wait in the queue for up to 0.2 s; a full queue of 10,000 is 5 s at 2,000/s.
    fn default() -> Self {
        Self { stage: Stage::Queue.name().into(), quantile: "0.99".into(), above_s: 1.0 }
    }
}

/// Refuses a label that the processor does not show.
fn one_of(name: &str, value: &str, allowed: &[&str]) -> Result<(), String> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(format!("{name} {value:?}: allowed: {}", allowed.join(", ")))
}

impl Detector for Sojourn {
    fn name(&self) -> &'static str {
        "sojourn"
    }

    fn label(&self) -> String {
        format!("latency {}, quantile {} > {} s", self.stage, self.quantile, figure(self.above_s))
    }

    fn needs(&self) -> &'static str {
        "the processor's latency_quantile_seconds"
    }

    fn check(&self) -> Result<(), String> {
        one_of("stage", &self.stage, &Stage::ALL.map(Stage::name))?;
        one_of("quantile", &self.quantile, &QUANTILES.map(|(_, label)| label))?;
        within("above_s", self.above_s, 0.0..=SECONDS_MAX)
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        let (quantile, stage) = (&self.quantile, &self.stage);
        let key = format!("latency_quantile_seconds{{quantile=\"{quantile}\",stage=\"{stage}\"}}");
        let waits = |seen: &[Look]| Some(seen.last()?.largest(&key)? > self.above_s);
        each(looks, |seen| State::if_known(waits(seen)))
    }
}
