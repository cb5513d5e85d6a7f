//! What a browser is answered: the page and its files, `GET /live`, `POST /chaos`.
//!
//! Reading is as open as `/metrics`; chaos goes through [`crate::http::Access`] and takes JSON alone.

use serde::Serialize;

use super::history::POINTS_MAX;
use super::point::Point;
use super::story::{SoFar, Story};
use super::{Live, State};
use crate::clock;
use crate::http::{Request, Response};
use crate::lab::web::{self, File};
use crate::sink::control::Command;

const FILES: [File; 2] = [
    File::html("/", concat!(include_str!("../web/head.html"), include_str!("page/live.html"))),
    File::script("/live.js", include_str!("page/live.js")),
];

/// `GET /live`.
#[derive(Serialize)]
struct Answer<'a> {
    /// Another watch has another one: its points do not continue the earlier ones.
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
    /// Whether chaos needs the token.
    token: bool,
    points: Vec<&'a Point>,
    unread: &'a [String],
    notes: &'a [String],
    /// Absent without a plan.
    verdicts: Option<&'a [SoFar]>,
}

impl Live {
    /// Answers each request that no instrument answers.
    pub fn answer(&self, request: &Request) -> Response {
        let own = || match request.path.as_str() {
            "/live" if web::reads(request) => self.points(&request.query),
            "/live" => web::refuse_method(web::READ),
            "/chaos" if request.method == "POST" => self.disturb(request),
            "/chaos" => web::refuse_method("POST"),
            _ => Response::text(404, "try / or /metrics"),
        };
        web::guarded(web::file(&FILES, request).unwrap_or_else(own))
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
        if let Err(refusal) = web::only_json(request) {
            return refusal;
        }
        let command = match serde_json::from_slice::<Command>(&request.body) {
            Ok(Command::Rate { .. }) => {
                return Response::text(400, "a rate has no end: take stall, pause or restore");
            }
            Ok(command) => command,
            Err(why) => return Response::text(400, why),
        };
        // A run that was disturbed by hand must show it in its log.
        log::warn!(command = String::from_utf8_lossy(&request.body); "chaos from the live page");
        match chaos.command(&command) {
            Ok(status) => Response::json(200, &status),
            Err(why) => Response::text(502, why),
        }
    }
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
