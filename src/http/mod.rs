//! HTTP serving for every binary: tiny_http behind a guard.
//!
//! tiny_http reads each request's head and writes each answer's. The guard in front of it accepts,
//! reads a whole request within a deadline and a size, and forwards only well-formed ones. Handlers
//! see bytes that were already checked.
//!
//! - `guard`      the public listener: accepts, bounds the connections, stops in order
//! - `connection` one client: a request in, an answer out, each within its deadline
//! - `head`       checks a request's head
//! - `upstream`   tiny_http, and the calls of the handler
//! - `turn`       a permit for one answer at a time
//! - `access`     who may use control and pprof
//! - `client`     the other end
//! - `addresses`  the addresses that the client calls

pub mod access;
mod addresses;
pub mod client;
mod connection;
mod guard;
pub(crate) mod head;
mod turn;
mod upstream;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use access::Access;
pub use turn::{Taken, Turn};

use crate::failure::Failure;

/// A whole request: its head was checked and its body read before the handler sees it.
#[derive(Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, …; a `HEAD` arrives as `GET`, and of its answer no body is sent.
    pub method: String,
    /// The path without the query: `/metrics`.
    pub path: String,
    /// The query without the `?`; empty when there is none.
    pub query: String,
    /// Its headers.
    pub headers: Headers,
    /// The client's end of its connection, which no two have at once; `None` where there is no connection.
    pub peer: Option<SocketAddr>,
    /// The whole body, borrowed from the connection's buffer in a server.
    pub body: Cow<'a, [u8]>,
}

/// A request's headers. There are few (`head` bounds them), so looking through them is faster than
/// a table by name.
#[derive(Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header by its name in lower case; a repeated header gives all values with a
    /// comma between (RFC 9110 5.3).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn add(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, all)) => {
                all.push_str(", ");
                all.push_str(value);
            }
            None => self.0.push((name.to_ascii_lowercase(), value.to_owned())),
        }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(given: T) -> Self {
        let mut headers = Self::default();
        given.into_iter().for_each(|(name, value)| headers.add(name, value));
        headers
    }
}

/// What a handler answers.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Released once the client has the answer.
    turn: Option<Taken>,
    /// The connection ends in the middle of it.
    cut: bool,
}

impl Response {
    /// Plain text; a newline is appended.
    pub fn text(status: u16, text: impl std::fmt::Display) -> Self {
        Self::bytes(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
    }

    /// A value as JSON.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::bytes(status, "application/json", body),
            Err(e) => Self::text(500, format_args!("cannot write JSON: {e}")),
        }
    }

    /// Any bytes.
    pub fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, headers: Vec::new(), body, turn: None, cut: false }
    }

    /// Closes the connection in the middle of this answer, as a server that dies does. For chaos.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    /// Keeps a turn until the client has this answer, or is gone.
    #[must_use]
    pub fn holding(mut self, turn: Taken) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The bounds of one server. Requests take at most `connections_max × (2 × head_bytes_max +
/// body_bytes_max)` bytes beside the handlers' own copies; threads are at most `connections_max +
/// handlers + 1`, eight more that are about to end, and four more a handler while the server
/// starts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests handled at once; a request that finds no free handler within `handler_wait` is
    /// answered 503.
    pub handlers: usize,
    /// How long a request may wait for a handler.
    pub handler_wait: Duration,
    /// Open connections. One more replaces the one that has gone longest without a whole request,
    /// so that idle and slow clients lock no other out; when all are busy it is answered 503 and
    /// closed.
    pub connections_max: usize,
    /// Request line and headers; more is answered 431.
    pub head_bytes_max: usize,
    /// Body; more is answered 413.
    pub body_bytes_max: usize,
    /// From the first byte of a request to its last; slower is answered 408.
    pub request_deadline: Duration,
    /// How long a kept-alive connection may stay idle.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handlers: 4,
            handler_wait: Duration::from_secs(10),
            connections_max: 64,
            head_bytes_max: 16 << 10,
            body_bytes_max: 64 << 10,
            request_deadline: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Answers a request; called on the thread of the request's connection.
pub type Handler = Arc<dyn Fn(Request<'_>) -> Response + Send + Sync>;

/// A running server; it stops and joins its threads when dropped.
pub struct Server {
    running: guard::Running,
}

impl Server {
    /// Listens on `listen` (port 0 picks one) and serves until dropped.
    ///
    /// # Errors
    /// When the address cannot be bound: the message names it and what to do.
    pub fn start(listen: SocketAddr, limits: Limits, handler: Handler) -> Result<Self, Failure> {
        guard::start(listen, limits, handler).map(|running| Self { running })
    }

    /// Stops, and waits for requests that are being handled no longer than `most`.
    pub fn stop_within(mut self, most: Duration) {
        self.running.grace = self.running.grace.min(most);
    }

    /// The address that is listened on, with the port that was picked.
    pub fn addr(&self) -> SocketAddr {
        self.running.addr()
    }
}
