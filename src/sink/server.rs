//! The sink: a server that acks events no faster than its bucket allows and remembers what it
//! acked.
//!
//! ```text
//! request ─► route ─► decode ─► gate (tokens, latency) ─► ledger ─► 200 {"acked": n}
//!                        │         └ 429, 503: nothing is recorded
//!                        └ 400, 413, 415: costs no tokens
//! ```
//! Invariant: an event is in the ledger, and in its journal where there is one, if and only if its
//! request was answered 200 with a count that covers it. A request is acked whole or not at all,
//! unless chaos asks for half of it. An event whose payload does not match its digest is counted
//! and delivered: this is the ground truth, not a filter. A client that gave up waiting, or whose
//! answer was cut off, is served all the same: it does not know the outcome, and what it sends
//! again is a duplicate, as with any at-least-once sink.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::control::{Command, Costs, Failing, Scheduled};
use super::gate::{Gate, Refusal, Terms};
use super::journal::Journal;
use super::ledger::{Ledger, Recorded};
use super::quota;
use super::settings::Settings;
use super::wire::{self, Acked, BadEvent, View};
use crate::event::Invalid;
use crate::failure::Failure;
use crate::http::{Access, Limits, Request, Response, Server, Turn};
use crate::load::resends::{LEDGER_MISSING, MISSING_IDS_MAX, Missing};
use crate::telemetry;
use crate::telemetry::metrics::{Metrics, SinkMetrics};
use crate::threads::{Stop, ThreadGroup};
use crate::transform::Transform;
use crate::{cli, clock, units};

/// Handlers beyond those that may wait for tokens, so that control, ledger and metrics answer
/// while all the others wait.
const HANDLERS_SPARE: usize = 4;

/// What `POST /control` takes, for a caller that sent something else.
const COMMANDS: &str = concat!(
    r#"{"do":"stall","rate":200,"for":"90s"}, {"do":"pause","for":"30s"}, "#,
    r#"{"do":"fail","how":"500|429|cut|partial","for":"10s"}, {"do":"rate","rate":2000}, "#,
    r#"{"do":"restore"}"#
);

/// Runs the sink until SIGINT or SIGTERM: requests that wait then are answered 503 and not acked.
/// At the end the ledger's sums are one JSON line on stdout.
///
/// # Errors
/// When the address cannot be bound, or a thread cannot be started or panics.
pub fn run(settings: Settings) -> Result<(), Failure> {
    let stop = Stop::default();
    stop.on_signals()?;
    let registry = Metrics::new()?;
    let access = Access::new(settings.listen, settings.token.clone())?;
    let sink = Arc::new(Sink::new(&settings, SinkMetrics::register(&registry)?, access.clone())?);
    let answer = {
        let (sink, telemetry) =
            (Arc::clone(&sink), telemetry::endpoint(registry, access, telemetry::Answers));
        move |request: Request| telemetry(&request).unwrap_or_else(|| sink.answer(&request))
    };
    let mut timekeeper = ThreadGroup::new(stop.clone());
    let server = Server::start(settings.listen, settings.limits(), Arc::new(answer))?;
    {
        let sink = Arc::clone(&sink);
        timekeeper.spawn("timekeeper", move || {
            sink.gate.keep_time();
            Ok(())
        })?;
    }
    settings.log(server.addr());
    while !stop.wait(Duration::from_secs(3600)) {}
    sink.gate.close();
    drop(server);
    timekeeper.join();
    let totals = sink.book.lock().ledger.totals();
    log::info!(events = totals.events, duplicates = totals.duplicates; "sink stopped");
    cli::say_json(&totals)?;
    stop.outcome()
}

impl Settings {
    fn limits(&self) -> Limits {
        let handlers = self.handlers.get() + HANDLERS_SPARE;
        Limits {
            handlers,
            // Twice as many connections as can be handled, and room for 64 more at once. Their
            // bodies are the sink's largest memory: 200 × 4 MiB by default, if all were hostile, and
            // 68 × 8 MiB for the views of those that are handled.
            connections_max: 2 * handlers + 64,
            body_bytes_max: wire::BODY_BYTES_MAX,
            ..Limits::default()
        }
    }

    fn log(&self, addr: SocketAddr) {
        log::info!(
            addr = addr.to_string().as_str(), rate = self.rate, call_cost = self.call_cost,
            event_cost = self.event_cost, on_limit:? = self.on_limit;
            "listening"
        );
        if let Some(stall) = self.stall {
            log::info!(
                rate = stall.rate, after = units::show(stall.after).as_str(),
                for_time = units::show(stall.time).as_str();
                "stall scheduled"
            );
        }
    }
}

struct Sink {
    gate: Gate,
    book: Mutex<Book>,
    metrics: SinkMetrics,
    access: Access,
    /// Only one copy of the ids at a time, however many callers ask.
    ids_turn: Turn,
}

/// The deliveries, and their journal.
#[derive(Default)]
struct Book {
    ledger: Ledger,
    journal: Option<Journal>,
}

impl Sink {
    fn new(settings: &Settings, metrics: SinkMetrics, access: Access) -> Result<Self, Failure> {
        let now = Instant::now();
        let terms = Terms {
            costs: Costs { call_cost: settings.call_cost, event_cost: settings.event_cost },
            on_limit: settings.on_limit,
            per: settings.per,
            latency: settings.latency,
            waiting_max: settings.handlers.get(),
        };
        let stall = settings.stall.map(|stall| Scheduled {
            at: now + stall.after,
            rate: stall.rate,
            time: stall.time,
        });
        let gate = Gate::new(terms, settings.rate, settings.burst, stall, metrics.clone(), now);
        let mut book = Book::default();
        if let Some(path) = &settings.journal {
            let (ledger, journal) = Journal::open(path)?;
            let kept = ledger.totals();
            metrics.count(
                kept.writes,
                kept.events,
                kept.duplicates,
                kept.order_violations,
                kept.corrupt,
            );
            log::info!(
                journal = path.display().to_string().as_str(), events = kept.events,
                requests = kept.writes; "journal read"
            );
            book = Book { ledger, journal: Some(journal) };
        }
        Ok(Self { gate, book: Mutex::new(book), metrics, access, ids_turn: Turn::default() })
    }

    fn answer(&self, request: &Request) -> Response {
        let allowed = match request.path.as_str() {
            wire::WRITE | wire::BATCH => "POST",
            wire::CONTROL => "GET, HEAD, POST",
            wire::LEDGER | wire::LEDGER_IDS | LEDGER_MISSING => "GET, HEAD",
            path => {
                return Response::text(
                    404,
                    format_args!(
                        "no {path} here: POST /write or /batch; GET /ledger, /ledger/ids, \
                         /ledger/missing, /control, /metrics, /healthz, /readyz, /debug/pprof/"
                    ),
                );
            }
        };
        let method = request.method.as_str();
        match (request.path.as_str(), method) {
            (wire::WRITE | wire::BATCH, "POST") => self.write(request),
            (wire::CONTROL, "GET") => Response::json(200, &self.gate.status()),
            (wire::CONTROL, "POST") => self.control(request),
            (wire::LEDGER, "GET") => Response::json(200, &self.book.lock().ledger.totals()),
            (wire::LEDGER_IDS, "GET") => self.ids(),
            (LEDGER_MISSING, "GET") => self.missing(&request.query),
            (path, _) => Response::text(405, format_args!("{path} takes {allowed}, not {method}"))
                .with_header("Allow", allowed),
        }
    }

    fn write(&self, request: &Request) -> Response {
        let answer = match decode(request) {
            Ok((events, transform)) => self.serve(&events, transform, request.peer),
            Err(answer) => answer,
        };
        if answer.status != 200 {
            self.metrics.rejected.with_label_values(&[&answer.status.to_string()]).inc();
        }
        let Some(now) = self.gate.quota(request.peer) else { return answer };
        let (policy, remaining) = now.written();
        answer.with_header(quota::POLICY, policy).with_header(quota::REMAINING, remaining)
    }

    fn serve(
        &self,
        events: &[View<'_>],
        transform: Transform,
        peer: Option<SocketAddr>,
    ) -> Response {
        let failing = self.gate.failing();
        let served = match failing {
            Some(Failing::Broken) => return Response::text(500, "chaos: requests fail"),
            Some(Failing::Limited) => return refused(Refusal::Limit(RESTART_TIME)),
            Some(Failing::Partial) => events.get(..events.len().div_ceil(2)).unwrap_or(events),
            Some(Failing::Cut) | None => events,
        };
        // Before the wait for tokens, which is longer: it takes 50 ns an event.
        let corrupt = served.iter().filter(|event| !transform.fits(event.payload, event.trailer));
        let corrupt = corrupt.count() as u64;
        match self.gate.pass(served.len(), peer) {
            // The wait for tokens may have outlived the fault.
            Ok(()) if failing == Some(Failing::Cut) && self.gate.failing() == failing => {
                self.deliver(served, corrupt).cut()
            }
            Ok(()) => self.deliver(served, corrupt),
            Err(refusal) => refused(refusal),
        }
    }

    /// The moment of delivery: the tokens are paid and the answer is next.
    fn deliver(&self, events: &[View<'_>], corrupt: u64) -> Response {
        let ids_and_keys = || events.iter().map(|event| (event.id, event.key));
        let now_us = clock::now_us();
        let mut book = self.book.lock();
        // First to the journal, which survives this process: a sink that dies after that has
        // delivered.
        let journal = book.journal.as_mut();
        let kept = journal.map_or(Ok(()), |journal| journal.keep(ids_and_keys(), corrupt, now_us));
        if let Err(e) = kept {
            log::error!(why = e.to_string().as_str(); "not delivered: the journal takes nothing");
            return Response::text(503, "the journal cannot be written; nothing was delivered")
                .with_header("Retry-After", "1");
        }
        let Recorded { duplicates, order_violations, keys_full } =
            book.ledger.record(ids_and_keys(), corrupt, now_us);
        drop(book);
        if keys_full {
            log::warn!(keys = super::ledger::KEYS_MAX; "order is not watched for further keys");
        }
        let acked = events.len() as u64;
        let metrics = &self.metrics;
        metrics.count(1, acked, duplicates, order_violations, corrupt);
        Response::json(200, &Acked { acked })
    }

    fn control(&self, request: &Request) -> Response {
        if let Err(answer) = self.access.check(request) {
            return answer;
        }
        let command = match serde_json::from_slice::<Command>(&request.body) {
            Ok(command) => command,
            Err(why) => {
                return Response::text(400, format_args!("{why}; expected one of {COMMANDS}"));
            }
        };
        match self.gate.command(&command) {
            Ok(status) => Response::json(200, &status),
            Err(why) => Response::text(400, why),
        }
    }

    fn missing(&self, query: &str) -> Response {
        match asked_ids(query) {
            Ok(ids) => {
                let missing = self.book.lock().ledger.missing(ids);
                Response::json(200, &Missing { missing })
            }
            Err(why) => Response::text(400, why),
        }
    }

    fn ids(&self) -> Response {
        let Some(turn) = self.ids_turn.take() else {
            return Response::text(503, "another client reads the ids; one at a time, try again")
                .with_header("Retry-After", "1");
        };
        // Copied under the lock (a few ms at 100 M dense ids), written out after it.
        let ids = self.book.lock().ledger.ids();
        let mut body = Vec::with_capacity(ids.serialized_size());
        match ids.serialize_into(&mut body) {
            Ok(()) => Response::bytes(200, "application/octet-stream", body).holding(turn),
            Err(e) => Response::text(500, format_args!("cannot write the ids: {e}")),
        }
    }
}

/// The ids that a query asks for: `from=0&to=1000`.
fn asked_ids(query: &str) -> Result<Range<u64>, String> {
    let ids = query.split_once('&').and_then(|(from, to)| {
        let from = from.strip_prefix("from=")?.parse::<u64>().ok()?;
        let to = to.strip_prefix("to=")?.parse::<u64>().ok()?;
        let many = to.checked_sub(from)?;
        (many <= MISSING_IDS_MAX).then_some(from..to)
    });
    ids.ok_or_else(|| format!("{query:?}: expected from=ID&to=ID, at most {} ids", MISSING_IDS_MAX))
}

/// The request's events, in place in its body, and their transform; all of them, or an answer that
/// says which one is wrong and why.
fn decode<'a>(request: &'a Request<'_>) -> Result<(Vec<View<'a>>, Transform), Response> {
    if let Some(given) = request.headers.get("content-encoding")
        && !given.trim().eq_ignore_ascii_case("identity")
    {
        let why = format_args!("content encoding {given}: expected none");
        return Err(Response::text(415, why));
    }
    if let Some(given) = request.headers.get("content-type") {
        let essence = given.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/octet-stream") {
            return Err(Response::text(
                415,
                format_args!("content type {given}: expected application/octet-stream"),
            ));
        }
    }
    let malformed = |why: &dyn std::fmt::Display| Response::text(400, why);
    let transform = wire::transform_of(&request.query).map_err(|why| malformed(&why))?;
    if request.path == wire::BATCH {
        let events = wire::unframe(&request.body, transform).map_err(|why| malformed(&why))?;
        return Ok((events, transform));
    }
    match View::read(&request.body, transform) {
        Ok(event) => Ok((vec![event], transform)),
        Err(_) if request.body.is_empty() => Err(malformed(&"the body is empty, not an event")),
        Err(why @ BadEvent::Event(Invalid::TooLong(_))) => Err(Response::text(413, why)),
        Err(why) => Err(malformed(&why)),
    }
}

fn refused(refusal: Refusal) -> Response {
    let (status, why, after) = match refusal {
        Refusal::Limit(after) => (429, "the rate limit is reached", after),
        Refusal::Busy(after) => (503, "too many requests are here", after),
        Refusal::Stopping => (503, "the sink stops; nothing of this was delivered", RESTART_TIME),
    };
    // RFC 9110 knows whole seconds only, so the exact time has a header of its own. Both round up:
    // a client that waits so long finds the tokens there.
    let millis = after.as_nanos().div_ceil(1_000_000);
    Response::text(status, why)
        .with_header("Retry-After", millis.div_ceil(1_000).to_string())
        .with_header("Retry-After-Ms", millis.to_string())
}

/// When to try again at a sink that stops: it may be back by then.
const RESTART_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use argh::FromArgs as _;

    use super::*;
    use crate::http::Headers;
    use crate::sink::settings::Flags;

    /// Prevents: as many copies of the ids as there are connections. `tests/http.rs` checks that
    /// the turn is kept until the answer is written.
    #[test]
    fn the_ids_are_copied_for_one_at_a_time() {
        let flags = Flags::from_args(&["sink"], &[]).map_err(|e| e.output).expect("defaults");
        let settings = flags.settings().expect("valid");
        let metrics = SinkMetrics::register(&Metrics::default()).expect("names");
        let access = Access::new(settings.listen, None).expect("loopback");
        let sink = Sink::new(&settings, metrics, access).expect("no journal to open");
        let ids = Request {
            method: "GET".into(),
            path: wire::LEDGER_IDS.into(),
            query: String::new(),
            headers: Headers::default(),
            peer: None,
            body: Vec::new().into(),
        };
        let first = sink.answer(&ids);
        assert_eq!(first.status, 200);
        let second = sink.answer(&ids);
        assert_eq!(second.status, 503);
        assert!(second.headers.contains(&("Retry-After", "1".to_owned())), "{second:?}");
        assert_eq!(sink.answer(&ids).status, 503, "a refusal gives no turn back");
        drop(first);
        assert_eq!(sink.answer(&ids).status, 200);
    }
}
