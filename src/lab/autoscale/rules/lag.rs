//! KEDA's rule: ⌈lag / threshold⌉ members, at once. Fewer only when it has been so for a while.
//!
//! It is what a ScaledObject with a lag trigger does (its `lagThreshold`, and the average value of its target): no more than there are partitions, and
//! nothing asked of the sink. Beside [`super::marginal`] it is the baseline.

use serde::{Deserialize, Serialize};

use super::{Bounds, Decision, Look, Said};

/// The rule's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Events of lag that are worth a member: KEDA's `lagThreshold`.
    pub threshold: f64,
    /// How long fewer are enough before they go, s: KEDA's and the autoscaler's `stabilizationWindowSeconds`.
    pub idle_s: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Proportional {
    settings: Settings,
    bounds: Bounds,
    wanted: Option<usize>,
    /// Since when fewer are enough.
    fewer_since_s: Option<f64>,
}

impl Proportional {
    /// A rule that has seen nothing.
    pub fn new(settings: Settings, bounds: Bounds) -> Self {
        Self { settings, bounds, wanted: None, fewer_since_s: None }
    }

    /// What it wants after this look.
    pub fn decide(&mut self, look: &Look<'_>) -> Decision {
        let of_lag = (look.lag() / self.settings.threshold).ceil() as usize;
        let of_lag = self.bounds.clamp(of_lag.min(look.lags.len()));
        let wanted = *self.wanted.get_or_insert(self.bounds.clamp(look.members));
        if of_lag >= wanted {
            self.fewer_since_s = None;
            self.wanted = Some(of_lag);
            let said = if of_lag > wanted { Said::Added } else { Said::Nothing };
            return Decision { wanted: of_lag, said };
        }
        let since = *self.fewer_since_s.get_or_insert(look.at_s);
        if look.at_s - since < self.settings.idle_s {
            return Decision { wanted, said: Said::Nothing };
        }
        self.fewer_since_s = None;
        self.wanted = Some(of_lag);
        Decision { wanted: of_lag, said: Said::Fewer }
    }
}
