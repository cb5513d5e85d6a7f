//! One rule over one recording: what it found, when, and how often it fired for nothing.

use serde::Serialize;

use super::recording::Recording;
use super::rules::{Rule, State};

/// The score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The rule's name.
    pub name: &'static str,
    /// What the rule watches, with its parameters.
    pub rule: String,
    /// When it fired first after the beginning, s from the first event due; absent where it did not until the load
    /// ended.
    pub first_s: Option<f64>,
    /// Of each trouble, how long after its begin it was firing, s; absent where it was not until the backlog
    /// was gone, or the load ended. A rule that fired already finds it at its first look: see its false alarms.
    pub found_after_s: Vec<Option<f64>>,
    /// How often it began to fire in quiet time, or was still firing when that began.
    pub false_alarms: usize,
    /// The same an hour of quiet time; absent where there was none.
    pub false_alarms_per_hour: Option<f64>,
    /// What the samples do not hold; the rest says nothing then.
    pub needs: Option<&'static str>,
}

impl Score {
    /// Scores it.
    pub fn of(rule: &Rule, recording: &Recording, beginning_s: f64) -> Self {
        let detector = rule.detector();
        let states = detector.states(&recording.looks);
        let states: Vec<(f64, State)> =
            recording.looks.iter().map(|look| look.at).zip(states).collect();
        let fires = |from: f64, to: f64| {
            let fires =
                |(at, state): &&(f64, State)| *state == State::Firing && (from..=to).contains(at);
            states.iter().find(fires).map(|(at, _)| *at)
        };
        let ended = recording.ended;
        let found = recording
            .troubles
            .iter()
            .map(|t| Some(fires(t.from, t.clear.min(ended))? - t.from))
            .collect();
        let (mut firing, mut false_alarms) = (false, 0);
        for (at, state) in &states {
            match state {
                _ if !recording.is_quiet(*at, beginning_s) => firing = false,
                State::Firing => {
                    false_alarms += usize::from(!firing);
                    firing = true;
                }
                State::Quiet => firing = false,
                State::Unknown => {}
            }
        }
        let hours = recording.quiet_s(beginning_s) / 3600.0;
        let told = states.iter().any(|(_, state)| *state != State::Unknown);
        Self {
            name: detector.name(),
            rule: detector.label(),
            first_s: fires(beginning_s, ended),
            found_after_s: found,
            false_alarms,
            false_alarms_per_hour: (hours > 0.0).then(|| false_alarms as f64 / hours),
            needs: (!told).then(|| detector.needs()),
        }
    }
}
