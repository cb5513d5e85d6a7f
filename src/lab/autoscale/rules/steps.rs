//! So many members for so long, by the clock, from the first event that is delivered on; the last number stays.

use super::{Bounds, Decision, Look, Said};

/// See the module.
#[derive(Debug)]
pub struct Steps {
    /// (members, s).
    steps: Vec<(usize, f64)>,
    bounds: Bounds,
    /// What was delivered at the first look.
    at_first: Option<f64>,
    begun_s: Option<f64>,
    wanted: Option<usize>,
}

impl Steps {
    /// A rule that has seen nothing.
    pub fn new(steps: Vec<(usize, f64)>, bounds: Bounds) -> Self {
        Self { steps, bounds, at_first: None, begun_s: None, wanted: None }
    }

    /// What it wants after this look.
    pub fn decide(&mut self, look: &Look<'_>) -> Decision {
        if look.delivered > *self.at_first.get_or_insert(look.delivered) {
            self.begun_s.get_or_insert(look.at_s);
        }
        let passed_s = self.begun_s.map_or(0.0, |begun| look.at_s - begun);
        let ends = self.steps.iter().scan(0.0, |end, (members, time_s)| {
            *end += time_s;
            Some((*members, *end))
        });
        let mut members = self.bounds.min.get();
        for (of_step, end) in ends {
            members = of_step;
            if passed_s < end {
                break;
            }
        }
        let wanted = self.bounds.clamp(members);
        let said = match self.wanted.replace(wanted) {
            Some(before) if before < wanted => Said::Added,
            Some(before) if before > wanted => Said::Fewer,
            _ => Said::Nothing,
        };
        Decision { wanted, said }
    }
}
