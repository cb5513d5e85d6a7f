//! The forecast as charts: where the excess waits, what it costs in memory, what it costs in time.

use crate::lab::charts::{Axis, Chart, Ink, Line, Span};
use crate::lab::text::{figure, scaled};

use super::forecast::Forecast;
use super::scenario::Scenario;

/// All of them.
pub fn charts(scenario: &Scenario, forecast: &Forecast) -> Vec<Chart> {
    let draw = Draw { scenario, forecast, moments: forecast.moments() };
    vec![draw.lag(), draw.memory(), draw.wait()]
}

struct Draw<'a> {
    scenario: &'a Scenario,
    forecast: &'a Forecast,
    moments: Vec<f64>,
}

impl Draw<'_> {
    fn lag(&self) -> Chart {
        let (scenario, forecast) = (self.scenario, self.forecast);
        let lag = |t| Some(forecast.lag(t));
        let queue = |t| Some(forecast.queue(scenario, t));
        let log = |t| Some(forecast.lag(t) - forecast.queue(scenario, t));
        let title = format!("Predicted: consumer lag, {} events at most", self.most(lag));
        self.chart(
            "predicted-lag",
            title,
            "events",
            vec![
                self.line("in the log", Ink::Blue, log),
                self.line("in the processor's queue", Ink::Vermilion, queue),
                self.line("both: the consumer lag", Ink::Predicted, lag),
            ],
        )
    }

    fn memory(&self) -> Chart {
        let rss = |t| Some(self.forecast.rss(self.scenario, t) / 1e6);
        let mut lines = vec![self.line("resident memory", Ink::Predicted, rss)];
        if let Some(limit) = self.scenario.limit_bytes {
            let label = format!("limit, {}", scaled(limit, "B"));
            lines.push(self.line(&label, Ink::Limit, |_| Some(limit / 1e6)));
        }
        let title = match self.forecast.killed_s {
            Some(at) => format!("Predicted: the processor is killed after {} s", figure(at)),
            None => format!("Predicted: the processor takes {} MB at most", self.most(rss)),
        };
        self.chart("predicted-memory", title, "resident memory of the processor, MB", lines)
    }

    fn wait(&self) -> Chart {
        let wait = |t| self.forecast.wait(t);
        let title = format!("Predicted: an event waits {} s at most", self.most(wait));
        let line = self.line("wait of the event that is served", Ink::Predicted, wait);
        self.chart("predicted-wait", title, "time since the event was due, s", vec![line])
    }

    fn most(&self, of: impl Fn(f64) -> Option<f64>) -> String {
        figure(self.moments.iter().filter_map(|&t| of(t)).fold(0.0, f64::max))
    }

    fn line(&self, label: &str, ink: Ink, of: impl Fn(f64) -> Option<f64>) -> Line {
        let points = self.moments.iter().filter_map(|&t| Some((t, of(t)?))).collect();
        Line { label: label.into(), ink, points }
    }

    fn chart(
        &self,
        name: &'static str,
        title: String,
        y_label: &'static str,
        lines: Vec<Line>,
    ) -> Chart {
        let until = self.forecast.until();
        let span = |label: String, from: f64, to: f64| Span { label, from, to };
        let steps = self.scenario.steps.iter();
        let mut spans: Vec<Span> = steps
            .map(|step| span(format!("{}/s offered", figure(step.rate)), step.from, step.to))
            .collect();
        if until > self.scenario.end_s() {
            spans.push(span("drain".into(), self.scenario.end_s(), until));
        }
        Chart {
            name,
            title,
            subtitle: self.forecast.given.clone(),
            x_axis: Axis::Even,
            x_label: "time since the first event is due, s",
            y_label,
            lines,
            spans,
        }
    }
}
