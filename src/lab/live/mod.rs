//! The live page of `lab watch`: the last minutes, the model beside them, the checks so far, and
//! chaos by hand.
//!
//! - `point`    one sample in the page's figures
//! - `history`  the points that a page can ask for
//! - `story`    the plan of the watched run: its phases, its model, its checks so far
//! - `progress` the same in one line of a terminal
//! - `page`     the answers to a browser; `page/` its files
//!
//! Invariant: a value that was not read is absent here and on the page, never 0; memory has a bound
//! that does not grow with the run. It deliberately measures nothing: `watch` gives it its samples.

#[cfg(test)]
mod example;
mod history;
mod page;
mod point;
mod progress;
mod story;

use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;

use crate::chaos::Chaos;
use crate::clock;
use crate::failure::Failure;
use crate::http::Access;
use crate::lab::samples::Sample;
use history::History;
pub use point::{Point, Sources};
use story::{SoFar, Story};

/// What the page and the terminal's line are made from.
pub struct Live {
    sources: Sources,
    name: String,
    interval: Duration,
    /// Tells this watch from an earlier one at the same address, µs since the epoch.
    began_us: i64,
    state: Mutex<State>,
    chaos: Option<Chaos>,
    access: Access,
}

struct State {
    history: History,
    story: Option<Story>,
    before: Option<Sample>,
    /// The values that the last sample could not read.
    unread: Vec<String>,
    /// What the last sample shows that is probably not intended.
    notes: Vec<String>,
    /// The checks at the point of this number: made when a page asks, once a sample.
    checks: Option<(u64, Vec<SoFar>)>,
}

impl Live {
    /// A page without points yet. `plan` is the run's plan; without it, the `plan.json` beside the
    /// folder `out`, where there is one.
    ///
    /// # Errors
    /// When `plan` cannot be used.
    pub fn new(
        sources: Sources,
        (plan, out): (Option<&Path>, &Path),
        interval: Duration,
        chaos: Option<Chaos>,
        access: Access,
    ) -> Result<Self, Failure> {
        let story = Story::find(plan, out)?;
        let arm = out.file_name().map(|name| name.to_string_lossy().into_owned());
        let arm = arm.unwrap_or_default();
        let name = story.as_ref().map_or_else(|| arm.clone(), Story::name);
        let state = State {
            history: History::default(),
            story,
            before: None,
            unread: Vec::new(),
            notes: Vec::new(),
            checks: None,
        };
        let (began_us, state) = (clock::now_us(), Mutex::new(state));
        Ok(Self { sources, name, interval, began_us, state, chaos, access })
    }

    /// Adds the next sample; returns the terminal's line.
    pub fn add(&self, sample: &Sample) -> String {
        let mut state = self.state.lock();
        let mut point = self.sources.read(sample, state.before.as_ref());
        if let Some(story) = &mut state.story {
            story.add(sample);
            let model = story.model(sample.due_us, point.capacity);
            (point.lag_model, point.queue_model, point.wait_model) =
                (model.lag, model.queue, model.wait);
        }
        let standing = state.story.as_ref().map(|story| story.standing(sample.due_us));
        let line = progress::line(&self.name, standing.as_ref(), &point);
        state.history.push(point);
        state.unread = sample.all_unread().cloned().collect();
        state.notes = sample.notes();
        state.before = Some(sample.clone());
        line
    }
}
