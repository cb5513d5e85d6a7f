//! The member's poll gap against `max.poll.interval.ms`: the group takes the partitions of one that polls too
//! rarely. It sees the member's thread, so a pipeline that polls on a thread of its own may fall behind for ever.
//! The processor tells its largest gap so far: what fires once goes on firing.

use serde::{Deserialize, Serialize};

use super::{Detector, Look, SECONDS_MAX, State, each, within};
use crate::lab::text::figure;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollGap {
    /// Fires above this share of the interval.
    pub share: f64,
    /// The interval where the samples do not tell it, s.
    pub interval_s: Option<f64>,
}

impl Default for PollGap {
    /// Half, as the alert `PollGap` in `docker/prometheus/rules.yml`: the next gap may be twice as long.
    fn default() -> Self {
        Self { share: 0.5, interval_s: None }
    }
}

impl PollGap {
    /// Each member against its own interval.
    fn fires(&self, seen: &[Look]) -> Option<bool> {
        let pages = seen.last()?.metrics.values();
        let share = pages.filter_map(|page| {
            let told = page.get("processor_max_poll_interval_seconds").copied();
            Some(page.get("processor_poll_gap_seconds")? / told.or(self.interval_s)?)
        });
        Some(share.max_by(f64::total_cmp)? > self.share)
    }
}

impl Detector for PollGap {
    fn name(&self) -> &'static str {
        "poll_gap"
    }

    fn label(&self) -> String {
        format!("poll gap > {} of its interval", figure(self.share))
    }

    fn needs(&self) -> &'static str {
        "processor_poll_gap_seconds, and processor_max_poll_interval_seconds or interval_s"
    }

    fn check(&self) -> Result<(), String> {
        within("share", self.share, 0.0..=1.0)?;
        match self.interval_s {
            Some(interval) => within("interval_s", interval, 0.001..=SECONDS_MAX),
            None => Ok(()),
        }
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        each(looks, |seen| State::if_known(self.fires(seen)))
    }
}
