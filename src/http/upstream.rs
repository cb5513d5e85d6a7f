//! tiny_http behind the guard: one server for each request that may be handled at once, with one
//! connection each.
//!
//! ```text
//! connection's thread ─ head ─► slot ─► tiny_http's reader
//!        ▲                                    │
//!        └──── tiny_http::Request ◄───────────┘    then, without another thread: the handler,
//!                                                  tiny_http's head of the answer, the client
//! ```
//! tiny_http's pool of connection threads can leave a connection unserved, its accept loop takes
//! every client, and it reads bodies without a limit. A slot has none of these troubles: its
//! listener is shut for good after its one connection, a first request proves that this connection
//! is served, and only heads travel on it; bodies stay where the guard read them. Invariant: only
//! the guard writes to a slot, one request at a time. It deliberately sets no time limit on a
//! handler.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{Handler, Request, Response, Taken};
use crate::failure::Failure;
use crate::threads;

/// How long tiny_http may take to read a head: on an idle machine it takes some 10 us.
const READ_WAIT: Duration = Duration::from_secs(5);
/// How often to check meanwhile whether it refused the head or is gone.
const READ_LOOK: Duration = Duration::from_millis(50);
/// First size of an answer's head: the sink's to a write has 150 B.
const HEAD_BYTES: usize = 256;

/// The fixed set of slots; a request borrows one.
pub(super) struct Upstream {
    handler: Handler,
    wait: Duration,
    slots: usize,
    /// The slot that was used last is the next one: its thread's memory is still in the caches.
    /// `None` where one broke and was not yet replaced.
    free: Mutex<Vec<Option<Slot>>>,
    came_free: Condvar,
}

/// The outcome of a request.
pub(super) enum Exchange {
    /// It was handled.
    Answered(Answer),
    /// No handler came free in time.
    Busy,
    /// The client closed its connection while the request waited for a handler.
    Gone,
    /// tiny_http did not take the head. The request was not handled.
    Lost,
}

/// An answer as it is sent.
#[derive(Default)]
pub(super) struct Answer {
    /// Status line and headers, as tiny_http writes them.
    pub head: Vec<u8>,
    /// Empty where the request or the status wants none.
    pub body: Vec<u8>,
    /// Its turn, released when the answer is dropped: after its client has it.
    _turn: Option<Taken>,
    /// Its sender asked for the connection to end in the middle of it.
    pub cut: bool,
}

impl From<Vec<u8>> for Answer {
    /// An answer that is written out already, its body included.
    fn from(bytes: Vec<u8>) -> Self {
        Self { head: bytes, ..Self::default() }
    }
}

impl Upstream {
    pub fn open(handlers: usize, wait: Duration, handler: Handler) -> Result<Self, Failure> {
        let slots = (0..handlers).map(|_| Slot::open().map(Some)).collect::<Result<_, _>>()?;
        let (free, came_free) = (Mutex::new(slots), Condvar::new());
        Ok(Self { handler, wait, slots: handlers, free, came_free })
    }

    /// Has a request handled, on this thread. `is_gone` says whether the client has left: then the
    /// request gets no handler.
    pub fn exchange(
        &self,
        head: &[u8],
        body: &[u8],
        peer: Option<SocketAddr>,
        is_gone: impl Fn() -> bool,
    ) -> Exchange {
        let Some((place, waited)) = self.take() else { return Exchange::Busy };
        if waited && is_gone() {
            self.give_back(place);
            return Exchange::Gone;
        }
        let (place, outcome) = match place.map_or_else(Slot::open, Ok) {
            Err(failure) => {
                log::error!(error = failure.to_string().as_str(); "no connection to tiny_http");
                (None, Exchange::Busy)
            }
            Ok(mut slot) => match slot.read(head) {
                Ok(request) => (Some(slot), Exchange::Answered(self.answer(request, body, peer))),
                Err(e) => {
                    log::error!(error = e.to_string().as_str(); "tiny_http did not take a head");
                    (None, Exchange::Lost)
                }
            },
        };
        self.give_back(place);
        outcome
    }

    fn answer(&self, request: tiny_http::Request, body: &[u8], peer: Option<SocketAddr>) -> Answer {
        let handled = || (self.handler)(handed_on(&request, body, peer));
        let response =
            std::panic::catch_unwind(AssertUnwindSafe(handled)).unwrap_or_else(|panic| {
                log::error!(panic = threads::message(&*panic); "a handler panicked");
                Response::text(500, "the handler failed; see the log")
            });
        let answer = written(&request, response);
        // tiny_http would answer 500 for a request that is dropped with its writer.
        drop(request.into_writer());
        answer
    }

    /// A free slot's place, and whether it was waited for; `None` when none came free in time.
    fn take(&self) -> Option<(Option<Slot>, bool)> {
        let mut free = self.free.lock();
        if let Some(place) = free.pop() {
            return Some((place, false));
        }
        let deadline = Instant::now() + self.wait;
        loop {
            let late = self.came_free.wait_until(&mut free, deadline).timed_out();
            match free.pop() {
                Some(place) => return Some((place, true)),
                None if late => return None,
                None => {} // a newer request took it
            }
        }
    }

    fn give_back(&self, place: Option<Slot>) {
        self.free.lock().push(place);
        self.came_free.notify_one();
    }

    /// Ends the slots as they come free; false when some were not free by `deadline`.
    pub fn close(&self, deadline: Instant) -> bool {
        let mut free = self.free.lock();
        while free.len() < self.slots {
            if self.came_free.wait_until(&mut free, deadline).timed_out() {
                return false;
            }
        }
        free.clear();
        true
    }
}

struct Slot {
    /// The end that the guard writes to; tiny_http's reader ends when it is closed.
    stream: UnixStream,
    /// Never dropped: tiny_http's `drop` asks a Unix socket for its path and panics when the name
    /// is abstract. All that its `drop` would end has ended by then; the empty queue that stays
    /// behind takes about 1 KiB a slot.
    server: ManuallyDrop<tiny_http::Server>,
}

impl Slot {
    /// tiny_http gives its threads no name; on Linux they have that of the thread that starts them.
    fn open() -> Result<Self, Failure> {
        let opened = threads::spawn("http-reader", Self::try_open)?.join();
        opened
            .unwrap_or_else(|panic| Err(io::Error::other(threads::message(&*panic).to_owned())))
            .map_err(|e| Failure::Failed(format!("cannot open a connection to tiny_http: {e}")))
    }

    fn try_open() -> io::Result<Self> {
        let (listener, stream) = shut_behind_one()?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let mut slot = Self { stream, server: ManuallyDrop::new(server) };
        slot.prove()?;
        Ok(slot)
    }

    /// Sends a first request through a new slot, to prove that the connection has its thread. The
    /// end of tiny_http's accept loop is reported as an error, before that request or after it.
    fn prove(&mut self) -> io::Result<()> {
        self.stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let (mut read, mut shut) = (false, false);
        while !(read && shut) {
            match self.server.recv_timeout(READ_WAIT) {
                Ok(Some(request)) => {
                    drop(request.into_writer());
                    read = true;
                }
                Ok(None) => return Err(io::ErrorKind::TimedOut.into()),
                Err(_) => shut = true,
            }
        }
        Ok(())
    }

    /// Has tiny_http read a head.
    fn read(&mut self, head: &[u8]) -> io::Result<tiny_http::Request> {
        self.stream.write_all(head)?;
        let deadline = Instant::now() + READ_WAIT;
        loop {
            match self.server.recv_timeout(READ_LOOK)? {
                Some(request) => return Ok(request),
                None if self.has_refused() => return Err(io::ErrorKind::ConnectionAborted.into()),
                None if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
                None => {}
            }
        }
    }

    /// Whether tiny_http answered by itself, or its reader ended: it writes nothing otherwise.
    fn has_refused(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        SockRef::from(&self.stream).recv_with_flags(&mut byte, flags).is_ok()
    }
}

/// A listener at which one connection waits, this stream, and which takes no other. Every process
/// on the machine can read an abstract name in `/proc/net/unix` and connect to it; but with a
/// backlog of 0 only one connection can wait (unix(7), listen(2)): it is this one, or `connect`
/// fails with `WouldBlock`.
fn shut_behind_one() -> io::Result<(UnixListener, UnixStream)> {
    let unique = RandomState::new().hash_one(std::process::id());
    let addr = SockAddr::unix(format!("\0backpressure-lab-{unique:016x}"))?;
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listener.bind(&addr)?;
    listener.listen(0)?;
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_nonblocking(true)?;
    stream.connect(&addr)?;
    stream.set_nonblocking(false)?;
    listener.shutdown(Shutdown::Both)?;
    Ok((OwnedFd::from(listener).into(), OwnedFd::from(stream).into()))
}

/// What the handler sees of a request.
fn handed_on<'a>(
    request: &tiny_http::Request,
    body: &'a [u8],
    peer: Option<SocketAddr>,
) -> Request<'a> {
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    Request {
        method: match request.method() {
            tiny_http::Method::Head => "GET".to_owned(),
            method => method.as_str().to_owned(),
        },
        path: path.to_owned(),
        query: query.to_owned(),
        headers: (request.headers().iter())
            .map(|header| (header.field.as_str().as_str(), header.value.as_str()))
            .collect(),
        peer,
        body: Cow::Borrowed(body),
    }
}

/// The answer, its head as tiny_http writes it.
fn written(request: &tiny_http::Request, response: Response) -> Answer {
    let (headers, mut response) = match checked_headers(&response) {
        Some(headers) => (headers, response),
        None => {
            log::error!(status = response.status; "an answer with a malformed status or header");
            let instead = Response::text(500, "malformed answer; see the log");
            (checked_headers(&instead).unwrap_or_default(), instead)
        }
    };
    if matches!(response.status, 204 | 304) {
        response.body.clear();
    }
    let (status, length) = (tiny_http::StatusCode(response.status), Some(response.body.len()));
    let out = tiny_http::Response::new(status, headers, io::empty(), length, None)
        .with_chunked_threshold(usize::MAX);
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let version = request.http_version().clone();
    // Without the body, which is sent from where the handler left it.
    if let Err(e) = out.raw_print(&mut head, version, request.headers(), true, None) {
        log::error!(error = e.to_string().as_str(); "cannot write an answer's head");
    }
    if *request.method() == tiny_http::Method::Head {
        response.body.clear();
    }
    let (_turn, cut) = (response.turn, response.cut);
    Answer { head, body: response.body, _turn, cut }
}

/// The answer's headers; `None` if one could forge another, or the status does not end a request.
fn checked_headers(answer: &Response) -> Option<Vec<tiny_http::Header>> {
    if !(200..=599).contains(&answer.status) {
        return None;
    }
    std::iter::once(("Content-Type", answer.content_type))
        .chain(answer.headers.iter().map(|(name, value)| (*name, value.as_str())))
        .map(|(name, value)| {
            let plain = value.bytes().all(|b| matches!(b, b' '..=b'~'));
            plain.then(|| tiny_http::Header::from_bytes(name, value).ok()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;
    use crate::http::{Limits, head};

    /// The heads that the guard accepts, out of anything that looks like one.
    fn guarded() -> impl Strategy<Value = (String, Vec<u8>)> {
        let name = "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}";
        let header =
            (name, "[ -~\t]{0,20}").prop_map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers = proptest::collection::vec(header, 0..8);
        ("[A-Z]{1,8}", "/[!-~]{0,30}", headers).prop_filter_map(
            "refused",
            |(method, target, headers)| {
                let text =
                    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{}\r\n", headers.concat());
                let mut forward = Vec::new();
                head::parse(text.as_bytes(), &Limits::default(), &mut forward).ok()??;
                Some((format!("{method} {target}"), forward))
            },
        )
    }

    proptest! {
        // Each has a slot of its own, five threads that last 5 s; and 20 heads on average.
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Prevents: a request that the guard takes and tiny_http does not, or reads differently,
        /// which would cost a slot.
        #[test]
        fn tiny_http_reads_whatever_the_guard_takes(
            heads in proptest::collection::vec(guarded(), 1..40),
        ) {
            let mut slot = Slot::open().expect("a slot");
            for (line, head) in heads {
                let request = slot.read(&head).expect("taken");
                prop_assert_eq!(format!("{} {}", request.method(), request.url()), line);
                let read = request.headers().iter();
                let again: String = read.map(|h| format!("{}: {}\r\n", h.field, h.value)).collect();
                let sent = String::from_utf8(head).expect("ASCII");
                let sent = sent.split_once("\r\n").expect("a line").1.replace(": \t", ": ");
                let squeezed = |text: &str| text.replace([' ', '\t'], "");
                prop_assert_eq!(squeezed(&again) + "\r\n", squeezed(&sent));
                drop(request.into_writer());
            }
        }
    }

    /// Prevents a head that tiny_http refuses, if there were one, from holding a slot for long.
    #[test]
    fn a_head_that_is_refused_is_noticed_at_once() {
        let mut slot = Slot::open().expect("a slot");
        let begun = Instant::now();
        slot.read(b"nonsense\r\n\r\n").expect_err("no head");
        assert!(begun.elapsed() < READ_WAIT / 2, "{:?}", begun.elapsed());
    }

    /// Prevents: a way past the guard for other processes on the machine, while a server starts.
    #[test]
    fn a_lane_lets_in_the_one_that_opened_it_and_nobody_else() {
        let (listener, mut stream) = shut_behind_one().expect("a slot");
        let name = listener.local_addr().expect("its name");
        let late = UnixStream::connect_addr(&name).expect_err("it is shut");
        assert_eq!(late.kind(), io::ErrorKind::ConnectionRefused);
        let (mut ours, _) = listener.accept().expect("the one that waited");
        stream.write_all(b"1").expect("written");
        let mut byte = [0];
        ours.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"1");
        listener.accept().expect_err("no second one");
    }
}
