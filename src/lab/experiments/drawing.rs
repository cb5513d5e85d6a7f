//! What every experiment's charts share: one line an arm in the arm's own ink, the model beside it,
//! the load's phases behind it, time from the schedule's start to its end.

use crate::lab::charts::{Axis, Chart, Ink, Line, Span};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats::{self, Series};
use crate::lab::text::figure;

/// What a chart over ratios says besides its lines.
pub struct Words {
    /// File name without extension.
    pub name: &'static str,
    /// The finding.
    pub title: String,
    /// What is drawn, how it was measured.
    pub subtitle: &'static str,
    /// Quantity and unit.
    pub y_label: &'static str,
}

/// A chart over the sizes or numbers that the arms were given, `ticks`, on an axis of ratios.
pub fn over_ratios(x_label: &'static str, ticks: &[f64], words: Words, lines: Vec<Line>) -> Chart {
    let Words { name, title, subtitle, y_label } = words;
    Chart {
        name,
        title,
        subtitle: subtitle.to_owned(),
        x_axis: Axis::Ratios(ticks.into()),
        x_label,
        y_label,
        lines,
        spans: Vec::new(),
    }
}

/// Makes the charts of one run.
pub struct Drawing<'a> {
    run: &'a Run,
    end_s: f64,
}

impl<'a> Drawing<'a> {
    /// Of the whole schedule.
    pub fn new(run: &'a Run) -> Self {
        Self::until(run, run.plan.setup.end_s())
    }

    /// Of the schedule's first `end_s` seconds.
    pub fn until(run: &'a Run, end_s: f64) -> Self {
        Self { run, end_s }
    }

    /// A line for one arm, labelled with its title and `what`.
    pub fn arm(&self, arm: &Arm, what: &str, series: &[(f64, f64)]) -> Line {
        Line {
            label: format!("{}{what}", arm.spec.title),
            ink: arm.spec.ink,
            points: stats::between(series, 0.0, self.end_s),
        }
    }

    /// A line for each arm.
    pub fn arms(&self, what: &str, of: impl Fn(&Arm) -> Series) -> Vec<Line> {
        self.run.arms.iter().map(|arm| self.arm(arm, what, &of(arm))).collect()
    }

    /// A line of the model, with two points a second.
    pub fn model(&self, label: impl Into<String>, of: impl Fn(f64) -> Option<f64>) -> Line {
        let points = (0..=self.end_s as u32 * 2)
            .map(|half| f64::from(half) / 2.0)
            .filter_map(|t| Some((t, of(t)?)));
        Line { label: label.into(), ink: Ink::Predicted, points: points.collect() }
    }

    /// A level that something should keep to.
    pub fn limit(&self, label: impl Into<String>, value: f64) -> Line {
        let points = vec![(0.0, value), (self.end_s, value)];
        Line { label: label.into(), ink: Ink::Limit, points }
    }

    /// A chart over time.
    pub fn chart(
        &self,
        name: &'static str,
        title: String,
        subtitle: &str,
        y_label: &'static str,
        lines: Vec<Line>,
    ) -> Chart {
        let setup = &self.run.plan.setup;
        let span = |p: super::Phase| Span {
            label: format!("{}/s offered", figure(p.rate)),
            from: p.from,
            to: p.to,
        };
        Chart {
            name,
            title,
            subtitle: subtitle.to_owned(),
            x_axis: Axis::Even,
            x_label: "time since the first event was due, s",
            y_label,
            lines,
            spans: setup
                .phases()
                .filter(|p| p.from < self.end_s && setup.shares_load())
                .map(span)
                .collect(),
        }
    }

    /// A figure of arm `name` for a title; `?` when the run does not show it.
    pub fn figure(&self, name: &str, of: impl Fn(&Arm) -> Option<f64>) -> String {
        self.run.arm(name).and_then(of).map_or("?".to_owned(), figure)
    }

    /// The last value that is drawn.
    pub fn last(&self, series: &[(f64, f64)]) -> Option<f64> {
        stats::between(series, 0.0, self.end_s).last().map(|p| p.1)
    }
}
