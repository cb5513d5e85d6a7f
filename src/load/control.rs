//! The HTTP side of the rate control: `POST /rate` grants a lease, `GET /rate` shows it,
//! `DELETE /rate` ends one. The caller's right is checked before; [`super::rate`] has the bodies.

use super::leases::Lease;
use super::rate::{Held, RateLease, RateState, check_holder};
use super::sender::Shared;
use crate::clock;
use crate::http::{Request, Response};

/// Answers a request to [`super::rate::RATE`]; `None`: the run has not begun.
pub fn answer(run: Option<&Shared>, request: &Request) -> Response {
    let Some(run) = run else {
        return Response::text(503, "the schedule has not begun: still waiting for the brokers");
    };
    match request.method.as_str() {
        "GET" => {}
        "POST" => {
            let lease = serde_json::from_slice::<RateLease>(&request.body);
            let lease = lease.map_err(|e| e.to_string()).and_then(RateLease::check);
            if let Err(why) = lease.and_then(|lease| grant(run, &lease)) {
                let shape = r#"{"rate": events/s, "lease_ms": ms, "holder": name}"#;
                return Response::text(400, format_args!("expected {shape}: {why}"));
            }
        }
        "DELETE" => match holder(&request.query) {
            Ok(holder) => {
                run.pacer.lock().end_lease(holder, clock::now_us(), run.done_below());
            }
            Err(why) => return Response::text(400, why),
        },
        _ => {
            return Response::text(405, "expected GET, POST or DELETE")
                .with_header("Allow", "GET, POST, DELETE");
        }
    }
    Response::json(200, &state(run))
}

/// The holder whose lease is to end.
fn holder(query: &str) -> Result<&str, String> {
    match query.strip_prefix("holder=") {
        Some(holder) => check_holder(holder),
        None if query.is_empty() => Ok(""),
        None => Err(format!("{query}: expected holder=NAME")),
    }
}

fn grant(run: &Shared, lease: &RateLease) -> Result<(), String> {
    let mut pacer = run.pacer.lock();
    let now_us = clock::now_us();
    let RateLease { rate, lease_ms, ref holder, follows } = *lease;
    // `RateLease::check` bounds it to ten minutes.
    let expires_us = now_us + lease_ms as i64 * 1000;
    if !follows && pacer.leases().leading(now_us) == 0 {
        log::info!(rate = rate, lease_ms = lease_ms, holder = holder.as_str(); "lease begins");
    }
    let lease = Lease { rate, expires_us, follows };
    pacer.grant(holder, lease, now_us, run.done_below())
}

fn state(run: &Shared) -> RateState {
    let now_us = clock::now_us();
    let pacer = run.pacer.lock();
    let leases = pacer.leases();
    let left_us = leases.until(now_us).map_or(0, |until| until - now_us);
    RateState {
        schedule_rate: pacer.schedule_rate(now_us),
        lease: leases.ceiling(now_us).map(|rate| Held {
            rate,
            lease_ms: left_us.unsigned_abs() / 1000,
            leading: leases.leading(now_us),
        }),
        effective_rate: pacer.rate(now_us),
    }
}
