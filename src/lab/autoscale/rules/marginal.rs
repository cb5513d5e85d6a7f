//! Ours: one member more while there is lag, and it stays only if more is delivered with it.
//!
//! ```text
//!            lag for a whole window              settled, a window later
//!   steady ───────────────────────────► trying ─────────────────────────► steady, one more   it rose by the least gain
//!      ▲                                   │
//!      └────────── one fewer, limit ◄──────┘  it did not: the sink is the limit
//! ```
//! KEDA's users ask for this (kedacore/keda #7092: more consumers "often actually reduces the throughput", and a
//! scale-up that did not help should be reversed).
//!
//! If nobody follows, what runs counts as what is wanted after [`FOLLOWED`] times the time of a step.
//!
//! Invariant: no step is taken before the one before it was judged. A step that was taken back is not tried again before
//! the lag was gone, what is delivered has changed by more than the least gain, or [`Settings::again_s`] has passed.

use serde::{Deserialize, Serialize};

use super::{Bounds, Decision, Look, Said, Window};

/// The rule's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// By what share what is delivered must rise with a member; see [`Settings::least_gain`].
    pub min_gain: f64,
    /// The lag above which a member is added, in seconds of what is delivered.
    pub lag_s: f64,
    /// From a change of the members until they deliver what they can, s.
    pub settle_s: f64,
    /// How long what is delivered is measured, s.
    pub window_s: f64,
    /// How long nothing waits before a member goes, s.
    pub idle_s: f64,
    /// After how long a step that was taken back is tried again, if nothing has changed, s.
    pub again_s: f64,
}

/// From here on, less than the setting is asked for: half of what a member has on average.
const HALF_A_MEMBER: f64 = 0.5;
/// A number of members that is not the wanted one and does not change for so many settlings and windows will not: nobody
/// follows.
const FOLLOWED: f64 = 10.0;
/// A member goes only if the others have so much more than what comes, at least.
const ROOM: f64 = 1.25;

impl Settings {
    /// The share by which the delivered rate must rise when one is added to `members`. An eleventh member can bring a tenth at
    /// best: beyond five, half of what a member has on average is asked for, so that a sink which serves each member alike
    /// never counts as the limit.
    pub fn least_gain(&self, members: usize) -> f64 {
        self.min_gain.min(HALF_A_MEMBER / members.max(1) as f64)
    }
}

/// A step that was taken back.
#[derive(Debug, Clone, Copy)]
struct Limit {
    members: usize,
    /// Events/s with so many.
    rate: f64,
    at_s: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Marginal {
    settings: Settings,
    bounds: Bounds,
    wanted: Option<usize>,
    /// How many run instead, and since when.
    instead: Option<(usize, f64)>,
    /// Since when as many members run as are wanted.
    since_s: f64,
    /// Events/s before the member that is being tried.
    trying: Option<f64>,
    limit: Option<Limit>,
    /// Since when nothing waits.
    idle_since_s: Option<f64>,
    /// Events/s of a member when all of them were busy.
    of_a_member: Option<f64>,
    partitions_said: bool,
    window: Window,
}

impl Marginal {
    /// A rule that has seen nothing. It begins with the members that run at its first look.
    pub fn new(settings: Settings, bounds: Bounds) -> Self {
        Self {
            settings,
            bounds,
            wanted: None,
            instead: None,
            since_s: 0.0,
            trying: None,
            limit: None,
            idle_since_s: None,
            of_a_member: None,
            partitions_said: false,
            window: Window::default(),
        }
    }

    /// What it wants after this look.
    pub fn decide(&mut self, look: &Look<'_>) -> Decision {
        let wanted = match self.wanted {
            Some(wanted) => wanted,
            None => {
                self.since_s = look.at_s;
                *self.wanted.insert(self.bounds.clamp(look.members))
            }
        };
        if look.members != wanted {
            // One is starting, stopping or was lost: what is delivered meanwhile says nothing.
            self.since_s = look.at_s;
            self.window.forget();
            let since_s = match self.instead {
                Some((members, since_s)) if members == look.members => since_s,
                _ => look.at_s,
            };
            self.instead = Some((look.members, since_s));
            if look.at_s - since_s >= FOLLOWED * (self.settings.settle_s + self.settings.window_s) {
                (self.instead, self.trying) = (None, None);
                let wanted = self.bounds.clamp(look.members);
                return self.step_to(wanted, look, Said::Nothing);
            }
        } else {
            self.instead = None;
        }
        if look.at_s < self.since_s + self.settings.settle_s {
            return Decision { wanted, said: Said::Nothing };
        }
        self.window.add(look, self.settings.window_s);
        if self.window.length_s() < self.settings.window_s {
            return Decision { wanted, said: Said::Nothing };
        }
        let rate = self.window.rate();
        let is_busy = self.window.least_lag() > self.settings.lag_s * rate;
        let each = rate / wanted as f64;
        // Whatever was delivered, they can deliver; a sink that stood still says nothing of them.
        match &mut self.of_a_member {
            Some(of_a_member) if !is_busy => *of_a_member = of_a_member.max(each),
            of_a_member if is_busy && rate > 0.0 => *of_a_member = Some(each),
            _ => {}
        }
        let judged =
            self.trying.take().map(|before| self.judged(look, wanted, before, rate, is_busy));
        if let Some(said @ Said::SinkIsTheLimit { .. }) = judged {
            return self.step_to(wanted - 1, look, said);
        }
        let next = match self.next(look, wanted, rate, is_busy) {
            Next::Add => {
                self.trying = Some(rate);
                self.step_to(wanted + 1, look, Said::Added)
            }
            Next::Take => self.step_to(wanted - 1, look, Said::Fewer),
            Next::Stay(said) => Decision { wanted, said },
        };
        // What became of the last step comes first; that there is a next one is seen by the number.
        judged.map_or(next, |said| Decision { said, ..next })
    }

    /// What became of the member that was tried.
    fn judged(
        &mut self,
        look: &Look<'_>,
        wanted: usize,
        before: f64,
        after: f64,
        is_busy: bool,
    ) -> Said {
        let members = wanted - 1;
        let least = before * (1.0 + self.settings.least_gain(members));
        // Without lag they deliver what comes, which is no measure of what they could.
        if !is_busy || (after > before && after >= least) {
            return Said::Kept { before, after };
        }
        self.limit = Some(Limit { members, rate: after, at_s: look.at_s });
        Said::SinkIsTheLimit { before, after }
    }

    fn next(&mut self, look: &Look<'_>, wanted: usize, rate: f64, is_busy: bool) -> Next {
        self.note_idle(look, rate);
        if is_busy && wanted < self.bounds.max.get() && !self.is_limited(look, wanted, rate) {
            if wanted < look.lagging() {
                return Next::Add;
            }
            let is_said = std::mem::replace(&mut self.partitions_said, true);
            return Next::Stay(if is_said { Said::Nothing } else { Said::PartitionsAreTheLimit });
        }
        let is_idle =
            self.idle_since_s.is_some_and(|since| look.at_s - since >= self.settings.idle_s);
        let fewer = wanted as f64 - 1.0;
        let is_enough = |each: f64| fewer * each >= ROOM * rate;
        if is_idle && wanted > self.bounds.min.get() && self.of_a_member.is_none_or(is_enough) {
            return Next::Take;
        }
        Next::Stay(Said::Nothing)
    }

    /// Whether a member that was tried brought nothing, and that still counts.
    pub fn found_the_sink_the_limit(&self) -> bool {
        self.limit.is_some()
    }

    fn note_idle(&mut self, look: &Look<'_>, rate: f64) {
        if self.window.most_lag() > self.settings.lag_s / 2.0 * rate {
            self.idle_since_s = None;
            return;
        }
        self.idle_since_s.get_or_insert(look.at_s);
        self.partitions_said = false;
        // The burst is over: the next one is tried anew.
        self.limit = None;
    }

    fn is_limited(&mut self, look: &Look<'_>, wanted: usize, rate: f64) -> bool {
        let Some(limit) = self.limit else { return false };
        let has_changed =
            (rate - limit.rate).abs() > self.settings.least_gain(limit.members) * limit.rate;
        if has_changed || look.at_s - limit.at_s >= self.settings.again_s {
            self.limit = None;
            return false;
        }
        wanted >= limit.members
    }

    fn step_to(&mut self, wanted: usize, look: &Look<'_>, said: Said) -> Decision {
        self.wanted = Some(wanted);
        self.since_s = look.at_s;
        self.idle_since_s = None;
        self.window.forget();
        Decision { wanted, said }
    }
}

enum Next {
    Add,
    Take,
    Stay(Said),
}
