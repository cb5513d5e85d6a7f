//! What a browser is answered: the page and its files, `GET /live`, `POST /chaos`.
//!
//! Everything comes from this binary and the page may load nothing else (its Content-Security-
//! Policy says so). Reading is as open as `/metrics`; chaos goes through [`crate::http::Access`] and takes
//! JSON alone, which no page from elsewhere can send without being asked first.

use serde::Serialize;

use super::history::POINTS_MAX;
use super::point::Point;
use super::story::{SoFar, Story};
use super::{Live, State};
use crate::clock;
use crate::http::{Request, Response};
use crate::sink::control::Command;

/// No inline script or style, nothing from elsewhere, in nobody's frame.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// (path, content type, bytes)
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("page/live.html")),
    ("/live.css", "text/css; charset=utf-8", include_str!("page/live.css")),
    ("/live.js", "text/javascript; charset=utf-8", include_str!("page/live.js")),
    ("/charts.js", "text/javascript; charset=utf-8", include_str!("page/charts.js")),
    ("/uplot.css", "text/css; charset=utf-8", include_str!("uplot/uPlot.min.css")),
    ("/uplot.js", "text/javascript; charset=utf-8", include_str!("uplot/uPlot.iife.min.js")),
];

/// `GET /live`.
#[derive(Serialize)]
struct Answer<'a> {
    /// Another watch has another one: its points are not the continuation of those before.
    watch: i64,
    /// This machine's time, s since the epoch.
    now: f64,
    /// Time between two points, s.
    interval_s: f64,
    /// How many points there are at most.
    points_max: usize,
    name: &'a str,
    phase: Option<String>,
    /// Seconds of the schedule left.
    left_s: Option<f64>,
    /// Whether there is a sink to disturb.
    chaos: bool,
    /// Whether that takes the token.
    token: bool,
    points: Vec<&'a Point>,
    unread: &'a [String],
    notes: &'a [String],
    /// Absent without a plan.
    verdicts: Option<&'a [SoFar]>,
}

impl Live {
    /// Answers whatever is not an instrument's.
    pub fn answer(&self, request: &Request) -> Response {
        let reads = matches!(request.method.as_str(), "GET" | "HEAD");
        let file = FILES.iter().find(|(path, ..)| *path == request.path);
        let answer = match (request.path.as_str(), file) {
            (_, Some((_, kind, text))) if reads => Response::bytes(200, kind, (*text).into()),
            ("/live", _) if reads => self.points(&request.query),
            ("/chaos", _) if request.method == "POST" => self.disturb(request),
            ("/chaos", _) => refuse_method("POST"),
            ("/live", _) | (_, Some(_)) => refuse_method("GET, HEAD"),
            _ => Response::text(404, "try / or /metrics"),
        };
        answer
            .with_header("Content-Security-Policy", POLICY)
            .with_header("X-Content-Type-Options", "nosniff")
            .with_header("Referrer-Policy", "no-referrer")
            .with_header("Cache-Control", "no-store")
    }

    fn points(&self, query: &str) -> Response {
        let since = match query.strip_prefix("since=").map_or(Ok(0), str::parse) {
            Ok(since) => since,
            Err(_) => return Response::text(400, format_args!("{query}: expected since=NUMBER")),
        };
        let mut state = self.state.lock();
        let now = clock::now_us();
        let standing = state.story.as_ref().map(|story| story.standing(now));
        state.check();
        Response::json(
            200,
            &Answer {
                watch: self.began_us,
                now: now as f64 / 1e6,
                interval_s: self.interval.as_secs_f64(),
                points_max: POINTS_MAX,
                name: &self.name,
                left_s: standing.as_ref().and_then(|standing| standing.left_s),
                phase: standing.map(|standing| standing.phase),
                chaos: self.chaos.is_some(),
                token: self.access.wants_token(),
                points: state.history.since(since),
                unread: &state.unread,
                notes: &state.notes,
                verdicts: state.checks.as_ref().map(|(_, checks)| checks.as_slice()),
            },
        )
    }

    fn disturb(&self, request: &Request) -> Response {
        let Some(chaos) = &self.chaos else {
            return Response::text(404, "no sink to disturb: start the watch with --sink");
        };
        if let Err(refusal) = self.access.check(request) {
            return refusal;
        }
        let kind = request.headers.get("content-type").unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON) {
            return Response::text(415, format_args!("content type '{kind}': expected {JSON}"));
        }
        let command = match serde_json::from_slice::<Command>(&request.body) {
            Ok(Command::Rate { .. }) => {
                return Response::text(400, "a rate has no end: take stall, pause or restore");
            }
            Ok(command) => command,
            Err(why) => return Response::text(400, why),
        };
        // A run that was disturbed by hand says so in its log.
        log::warn!(command = String::from_utf8_lossy(&request.body); "chaos from the live page");
        match chaos.command(&command) {
            Ok(status) => Response::json(200, &status),
            Err(why) => Response::text(502, why),
        }
    }
}

const JSON: &str = "application/json";

fn refuse_method(allowed: &'static str) -> Response {
    Response::text(405, format_args!("only {allowed}")).with_header("Allow", allowed)
}

impl State {
    /// Brings the checks up to the newest point.
    fn check(&mut self) {
        let newest = self.history.last();
        if self.checks.as_ref().is_none_or(|(at, _)| *at != newest) {
            self.checks = self.story.as_ref().map(Story::checks).map(|checks| (newest, checks));
        }
    }
}

#[cfg(test)]
mod tests;
