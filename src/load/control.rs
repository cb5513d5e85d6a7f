//! The HTTP side of the control of the source: `POST /rate` grants a lease, `GET /rate` shows it,
//! `DELETE /rate` ends one; the same of `/credit`. The caller's right is checked before; [`super::rate`]
//! and [`super::credit`] have the bodies.

use super::account::{Account, Begun};
use super::credit::{CREDIT, CreditState, Epoch, Grant};
use super::leases::Lease;
use super::rate::{Held, RateLease, RateState, check_holder};
use super::sender::Shared;
use super::settings::SHARE_IDS;
use crate::clock;
use crate::http::{Request, Response};

/// Answers a request to [`super::rate::RATE`] or [`CREDIT`]; `None`: the run has not begun.
pub fn answer(run: Option<&Shared>, request: &Request) -> Response {
    match run {
        None => Response::text(503, "the schedule has not begun: still waiting for the brokers"),
        Some(run) if request.path == CREDIT => credit(run, request),
        Some(run) => rate(run, request),
    }
}

fn credit(run: &Shared, request: &Request) -> Response {
    if run.resends.is_some() {
        // What is sent again would be settled, and so granted, twice.
        return Response::text(
            409,
            "with --resend-after there is no credit: use --policy slow-source",
        );
    }
    let changed = match request.method.as_str() {
        "GET" => Ok(()),
        "POST" => {
            let grant = serde_json::from_slice::<Grant>(&request.body).map_err(|e| e.to_string());
            grant.and_then(Grant::check).and_then(|grant| {
                change(run, |account, now_us, due| account.grant(&grant, now_us, due))
            })
        }
        "DELETE" => holder(&request.query).map(|holder| {
            change(run, |account, now_us, due| account.end(holder, now_us, due));
        }),
        _ => return other_method(),
    };
    match changed {
        Ok(()) => Response::json(200, &credit_state(run)),
        Err(why) => {
            let shape = r#"{"holder": name, "generation": n, "epoch": µs, "granted": events, "waiting": events, "lease_ms": ms}"#;
            Response::text(400, format_args!("expected {shape}: {why}"))
        }
    }
}

fn change<T>(run: &Shared, apply: impl FnOnce(&mut Account, i64, u64) -> T) -> T {
    run.pacer.lock().credit(clock::now_us(), run.done_below(), apply)
}

/// Lets time pass for the credit.
pub fn look_at_credit(run: &Shared) {
    let sent: u64 = run.cursors.acked().iter().sum();
    let mut pacer = run.pacer.lock();
    let now_us = clock::now_us();
    let ended = pacer.ended(now_us);
    let look =
        |account: &mut Account, now_us, due| account.look(now_us, due, sent >= due && !ended);
    pacer.credit(now_us, run.done_below(), look);
}

/// How the credit stands.
pub fn credit_state(run: &Shared) -> CreditState {
    let pacer = run.pacer.lock();
    let due = pacer.curve().due_count(clock::now_us());
    let (account, first_id) = (pacer.account(), run.recipe.first_id);
    CreditState {
        epoch: account.epoch().map(|Begun { at_us, first }| Epoch {
            at_us,
            first_id: first_id.saturating_add(first),
            end_id: first_id.saturating_add(SHARE_IDS),
        }),
        holders: account.holders(),
        left: account.limit().map_or(0, |limit| limit.saturating_sub(due)),
    }
}

fn other_method() -> Response {
    Response::text(405, "expected GET, HEAD, POST or DELETE")
        .with_header("Allow", "GET, HEAD, POST, DELETE")
}

fn rate(run: &Shared, request: &Request) -> Response {
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
        _ => return other_method(),
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
