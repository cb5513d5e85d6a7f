//! The rate control's HTTP end: `POST /rate` grants a lease, `GET /rate` shows it, `DELETE /rate`
//! ends it. Who may call is decided before; see [`super::rate`] for what travels.

use super::rate::{RateLease, RateState};
use super::schedule::Lease;
use super::sender::Shared;
use crate::clock;
use crate::http::{Request, Response};

/// Answers a request to [`super::rate::RATE`]; `None` is a run that has not begun.
pub fn answer(run: Option<&Shared>, request: &Request) -> Response {
    let Some(run) = run else {
        return Response::text(503, "the schedule has not begun: still waiting for the brokers");
    };
    match request.method.as_str() {
        "GET" => {}
        "POST" => {
            let lease = serde_json::from_slice::<RateLease>(&request.body);
            match lease.map_err(|e| e.to_string()).and_then(RateLease::check) {
                Ok(lease) => grant(run, lease),
                Err(why) => {
                    let shape = r#"{"rate": events/s, "lease_ms": ms}"#;
                    return Response::text(400, format_args!("expected {shape}: {why}"));
                }
            }
        }
        "DELETE" => run.pacer.lock().end_lease(clock::now_us(), run.cursors.slowest()),
        _ => {
            return Response::text(405, "expected GET, POST or DELETE")
                .with_header("Allow", "GET, POST, DELETE");
        }
    }
    Response::json(200, &state(run))
}

fn grant(run: &Shared, lease: RateLease) {
    let mut pacer = run.pacer.lock();
    let now_us = clock::now_us();
    // `RateLease::check` bounds it to ten minutes.
    let expires_us = now_us + lease.lease_ms as i64 * 1000;
    if pacer.lease(now_us).is_none() {
        log::info!(rate = lease.rate, lease_ms = lease.lease_ms; "lease begins");
    }
    pacer.grant(Lease { rate: lease.rate, expires_us }, now_us, run.cursors.slowest());
}

fn state(run: &Shared) -> RateState {
    let now_us = clock::now_us();
    let pacer = run.pacer.lock();
    RateState {
        schedule_rate: pacer.schedule_rate(now_us),
        lease: pacer.lease(now_us).map(|lease| RateLease {
            rate: lease.rate,
            lease_ms: u64::try_from(lease.expires_us - now_us).unwrap_or(0) / 1000,
        }),
        effective_rate: pacer.rate(now_us),
    }
}
