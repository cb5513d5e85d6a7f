//! `lab predict --listen`: a page whose sliders ask the model, beside a recorded arm on the same axes.
//!
//! - `GET /forecast`   the answer to the flags that the command was given
//! - `POST /forecast`  the answer to other flags, by name: `{"schedule": ["1500:60s,8000:10m"]}`
//!
//! It changes nothing and makes no request: an answer follows from the flags and the recorded arm
//! alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::forecast::Forecast;
use super::recorded::Recorded;
use super::scenario::Scenario;
use super::words::Words;
use crate::failure::Failure;
use crate::http::{Limits, Request, Response, Server};
use crate::lab::live::Point;
use crate::lab::web::{self, File};
use crate::threads::Stop;

const FILES: [File; 2] = [
    File::html("/", concat!(include_str!("../web/head.html"), include_str!("page/predict.html"))),
    File::script("/predict.js", include_str!("page/predict.js")),
];

/// Serves it until a signal comes.
///
/// # Errors
/// When the address is not of the loopback or not free, or the flags make no forecast.
pub fn serve(listen: SocketAddr, words: Words, beside: Option<Recorded>) -> Result<(), Failure> {
    if !listen.ip().is_loopback() {
        let why = "expected an address of the loopback, such as 127.0.0.1:9904: the page asks for no token";
        return Err(Failure::flag("--listen", listen, why));
    }
    let page = Page { words, beside };
    page.forecast(&page.words)?;
    let stop = Stop::default();
    stop.on_signals()?;
    let answer = Arc::new(move |request: Request| page.answer(&request));
    let server = Server::start(listen, Limits::default(), answer)?;
    log::info!(addr = server.addr().to_string(); "listening");
    while !stop.wait(Duration::from_secs(3600)) {}
    stop.outcome()
}

struct Page {
    words: Words,
    beside: Option<Recorded>,
}

#[derive(Serialize)]
struct Answer<'a> {
    /// The flags as the command understood them.
    flags: &'a Words,
    /// The shell command for the same forecast.
    command: String,
    /// In one sentence.
    given: String,
    /// The positions of the sliders.
    stands: Stands,
    /// `exp1/bounded`.
    beside: Option<&'a str>,
    figures: Vec<Shown<'a>>,
    moments: Vec<Moment<'a>>,
}

/// The values that the sliders change, in their units.
#[derive(Serialize)]
struct Stands {
    /// Events/s of the busiest step.
    offered: f64,
    /// (events/s, s) of each step.
    steps: Vec<(f64, f64)>,
    /// Tokens/s.
    ceiling: f64,
    /// Events.
    capacity: usize,
    /// MiB.
    memory: Option<f64>,
    /// s.
    stall: f64,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    says: String,
    because: &'a str,
}

#[derive(Serialize)]
struct Moment<'a> {
    /// s since the first event was due.
    at: f64,
    /// Absent after the prediction's end.
    predicted: Option<Model>,
    /// Absent where nothing was recorded.
    measured: Option<&'a Point>,
}

/// Rates are events/s, memory is bytes, wait s.
#[derive(Serialize)]
struct Model {
    offered_model: f64,
    ceiling_model: f64,
    lag_model: f64,
    queue_model: f64,
    rss_model: f64,
    wait_model: Option<f64>,
    memory_limit: Option<f64>,
}

impl Page {
    fn answer(&self, request: &Request) -> Response {
        let own = || match (request.path.as_str(), request.method.as_str()) {
            ("/forecast", "POST") => self.asked(request),
            ("/forecast", _) if web::reads(request) => self.told(&self.words),
            ("/forecast", _) => web::refuse_method("GET, HEAD, POST"),
            _ => Response::text(404, "try /"),
        };
        web::guarded(web::file(&FILES, request).unwrap_or_else(own))
    }

    fn asked(&self, request: &Request) -> Response {
        if let Err(refusal) = web::only_json(request) {
            return refusal;
        }
        match serde_json::from_slice(&request.body) {
            Ok(words) => self.told(&words),
            Err(why) => Response::text(400, format_args!("flags: {why}")),
        }
    }

    fn told(&self, words: &Words) -> Response {
        let (settings, scenario, forecast) = match self.forecast(words) {
            Ok(all) => all,
            Err(why) => return Response::text(400, why),
        };
        let steps: Vec<_> = scenario.steps.iter().map(|step| (step.rate, step.length())).collect();
        Response::json(
            200,
            &Answer {
                flags: words,
                command: words.command(),
                given: forecast.given.clone(),
                stands: Stands {
                    offered: steps.iter().fold(0.0, |most, step| step.0.max(most)),
                    steps,
                    ceiling: settings.rate_limit,
                    capacity: settings.queue_cap.get(),
                    memory: settings.memory_limit.map(|bytes| bytes as f64 / MIB),
                    stall: settings.stall.first().map_or(0.0, |stall| stall.length()),
                },
                beside: self.beside.as_ref().map(|recorded| recorded.name.as_str()),
                figures: (forecast.figures.iter())
                    .map(|f| Shown { name: &f.name, says: f.says(), because: &f.because })
                    .collect(),
                moments: self.moments(&scenario, &forecast),
            },
        )
    }

    fn forecast(&self, words: &Words) -> Result<(super::Settings, Scenario, Forecast), Failure> {
        let settings = words.settings()?;
        let scenario = Scenario::new(&settings)?;
        let forecast = Forecast::of(&scenario);
        Ok((settings, scenario, forecast))
    }

    /// The times of the record, and after it the times where the model may bend.
    fn moments(&self, scenario: &Scenario, forecast: &Forecast) -> Vec<Moment<'_>> {
        let until = forecast.until();
        let predicted = |t: f64| {
            (t <= until).then(|| Model {
                offered_model: scenario.due.at(t),
                ceiling_model: forecast.ceiling_at(t),
                lag_model: forecast.lag(t),
                queue_model: forecast.queue(scenario, t),
                rss_model: forecast.rss(scenario, t),
                wait_model: forecast.wait(t),
                memory_limit: scenario.limit_bytes,
            })
        };
        let recorded = self.beside.iter().flat_map(|recorded| &recorded.points);
        let recorded = recorded.map(|point| (point.at, Some(point)));
        let last = recorded.clone().next_back().map_or(f64::NEG_INFINITY, |(at, _)| at);
        let beyond = forecast.moments().into_iter().filter(|t| *t > last).map(|t| (t, None));
        recorded
            .chain(beyond)
            .map(|(at, measured)| Moment { at, predicted: predicted(at), measured })
            .collect()
    }
}

const MIB: f64 = (1u64 << 20) as f64;

#[cfg(test)]
mod tests;
