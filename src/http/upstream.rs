//! tiny_http behind the guard: one server for each handler thread, with one connection each.
//!
//! tiny_http's pool of connection threads can leave a connection unserved, and its accept loop
//! takes anybody. A lane has neither trouble: its listener is shut for good behind its one
//! connection, which is then proven served. Invariant: only the guard writes to a lane, one request
//! at a time, and every request is answered. It deliberately sets no time limit on a handler.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Handler, Request, Response, Taken};
use crate::failure::Failure;
use crate::threads;

/// How long a new lane may take to answer its first request.
const PROOF_WAIT: Duration = Duration::from_secs(5);
/// Bodies up to this size travel in one write with their head.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// The fixed set of lanes; a request borrows one.
pub(super) struct Upstream {
    handler: Handler,
    wait: Duration,
    /// Holds a place for every lane; `None` where a lane broke and was not yet replaced.
    free: (Sender<Option<Lane>>, Receiver<Option<Lane>>),
}

/// What became of a request.
pub(super) enum Exchange {
    /// The whole answer is in the buffer, its head this long; with the turn that it holds.
    Answered { head_len: usize, turn: Option<Taken> },
    /// No handler came free in time.
    Busy,
    /// The client closed its connection while the request waited for a handler.
    Gone,
    /// The lane broke; whether the request was handled is not known.
    Lost,
}

impl Upstream {
    pub fn open(handlers: usize, wait: Duration, handler: Handler) -> Result<Self, Failure> {
        let free = crossbeam_channel::bounded(handlers);
        let upstream = Self { handler, wait, free };
        for _ in 0..handlers {
            let lane = Lane::open(upstream.handler.clone())?;
            upstream.give_back(Some(lane));
        }
        Ok(upstream)
    }

    /// Has a request handled; `answer` is overwritten. `is_gone` says whether the client has
    /// left: a request that nobody waits for is not worth a handler.
    pub fn exchange(
        &self,
        request: &mut Outbound<'_>,
        answer: &mut Vec<u8>,
        is_gone: impl Fn() -> bool,
    ) -> Exchange {
        let lane = match self.free.1.try_recv() {
            Ok(lane) => lane,
            Err(_) => match self.free.1.recv_timeout(self.wait) {
                Err(_) => return Exchange::Busy,
                Ok(lane) if is_gone() => {
                    self.give_back(lane);
                    return Exchange::Gone;
                }
                Ok(lane) => lane,
            },
        };
        let lane = lane.map_or_else(|| Lane::open(self.handler.clone()), Ok);
        let (lane, outcome) = match lane {
            Err(failure) => {
                log::error!(error = failure.to_string().as_str(); "no connection to a handler");
                (None, Exchange::Busy)
            }
            Ok(mut lane) => match lane.call(request, answer) {
                Ok(head_len) => {
                    let turn = lane.turn.lock().take();
                    (Some(lane), Exchange::Answered { head_len, turn })
                }
                Err(e) => {
                    log::error!(error = e.to_string().as_str(); "connection to a handler broke");
                    (None, Exchange::Lost)
                }
            },
        };
        self.give_back(lane);
        outcome
    }

    fn give_back(&self, lane: Option<Lane>) {
        // One place a lane: the channel is never full, and it lives as long as `self`.
        let _always_room = self.free.0.try_send(lane);
    }

    /// Ends the handler threads as they come free; false when some were not free by `deadline`.
    pub fn close(&self, deadline: Instant) -> bool {
        let places = self.free.0.capacity().unwrap_or(0);
        (0..places).all(|_| match self.free.1.recv_deadline(deadline) {
            Ok(lane) => {
                lane.into_iter().for_each(Lane::close);
                true
            }
            Err(_) => false,
        })
    }
}

/// A request on its way to a handler.
pub(super) struct Outbound<'a> {
    /// The head; a small body is appended to it.
    pub head: &'a mut Vec<u8>,
    pub body: &'a [u8],
    /// The answer will have no body whatever its length says.
    pub is_head: bool,
}

struct Lane {
    stream: UnixStream,
    /// Never dropped: tiny_http's `drop` asks a Unix socket for its path and panics when the name
    /// is abstract. All that its `drop` would end has ended by then; the empty queue that stays
    /// behind takes about 1 KiB a lane.
    server: Arc<ManuallyDrop<tiny_http::Server>>,
    thread: Option<JoinHandle<()>>,
    /// The turn of the answer that is on its way: it is here before the answer's first byte.
    turn: Arc<Mutex<Option<Taken>>>,
}

impl Lane {
    fn open(handler: Handler) -> Result<Self, Failure> {
        Self::try_open(handler)
            .map_err(|e| Failure::Failed(format!("cannot open a connection to a handler: {e}")))
    }

    fn try_open(handler: Handler) -> io::Result<Self> {
        let (listener, mut stream) = shut_behind_one()?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let server = Arc::new(ManuallyDrop::new(server));
        prove(&server, &mut stream)?;
        let turn = Arc::new(Mutex::new(None));
        let (served, taken) = (server.clone(), Arc::clone(&turn));
        let thread = threads::spawn("http-handler", move || serve(&served, &handler, &taken))
            .map_err(io::Error::other)?;
        Ok(Self { stream, server, thread: Some(thread), turn })
    }

    /// Writes a request, reads the whole answer, returns the length of its head.
    fn call(&mut self, request: &mut Outbound<'_>, answer: &mut Vec<u8>) -> io::Result<usize> {
        let apart = request.body.len() > JOINED_BYTES_MAX;
        if !apart {
            request.head.extend_from_slice(request.body);
        }
        self.stream.write_all(request.head)?;
        if apart {
            self.stream.write_all(request.body)?;
        }
        read_answer(&mut self.stream, request.is_head, answer)
    }

    fn close(mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // The thread catches its handler's panics; a join error has nothing to add.
            let _caught_inside = thread.join();
        }
    }
}

impl Drop for Lane {
    /// The handler thread ends when it is done; it is not waited for.
    fn drop(&mut self) {
        self.server.unblock();
    }
}

/// A listener that one connection waits at, this stream, and that takes no other. Everybody on the
/// machine may connect to an abstract name, and read it in `/proc/net/unix`; but with a backlog of 0
/// a single one can wait (unix(7), listen(2)): it is this one, or `connect` fails with `WouldBlock`.
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

/// Sends a first request through a new lane and answers it: the connection has its thread. That the
/// accept loop has ended, it reports as an error, before that request or after it.
fn prove(server: &tiny_http::Server, stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let (mut answered, mut shut) = (false, false);
    while !(answered && shut) {
        match server.recv_timeout(PROOF_WAIT) {
            Ok(Some(request)) => {
                request.respond(tiny_http::Response::empty(204))?;
                answered = true;
            }
            Ok(None) => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => shut = true,
        }
    }
    read_answer(stream, true, &mut Vec::new()).map(drop)
}

fn read_answer(stream: &mut UnixStream, is_head: bool, out: &mut Vec<u8>) -> io::Result<usize> {
    out.clear();
    let mut filled = 0;
    let (head_len, body_len) = loop {
        out.resize(filled + 4096, 0);
        let read = match stream.read(out.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        filled += read;
        out.truncate(filled);
        if let Some(lengths) = answer_lengths(out, is_head)? {
            break lengths;
        }
    };
    let total = head_len + body_len;
    if filled > total {
        return Err(io::Error::other("more bytes than the answer's length"));
    }
    out.resize(total, 0);
    stream.read_exact(out.get_mut(filled..).unwrap_or_default())?;
    Ok(head_len)
}

/// Lengths of an answer's head and body; `None` when the head has not all arrived.
fn answer_lengths(bytes: &[u8], is_head: bool) -> io::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = answer.parse(bytes).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    if is_head || matches!(answer.code, Some(204 | 304)) {
        return Ok(Some((head_len, 0)));
    }
    let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    length
        .and_then(|h| std::str::from_utf8(h.value).ok()?.parse().ok())
        .map(|body_len| Some((head_len, body_len)))
        .ok_or_else(|| io::Error::other("an answer without a length"))
}

/// A handler thread: takes requests from its lane until it is unblocked.
fn serve(server: &tiny_http::Server, handler: &Handler, turn: &Mutex<Option<Taken>>) {
    while let Ok(mut request) = server.recv() {
        let mut answer = match take(&mut request) {
            Ok(request) => std::panic::catch_unwind(AssertUnwindSafe(|| handler(request)))
                .unwrap_or_else(|panic| {
                    log::error!(panic = threads::message(&*panic); "a handler panicked");
                    Response::text(500, "the handler failed; see the log")
                }),
            Err(e) => Response::text(500, format_args!("cannot read the request: {e}")),
        };
        if let Some(taken) = answer.turn.take() {
            *turn.lock() = Some(taken);
        }
        if let Err(e) = request.respond(outgoing(answer)) {
            log::error!(error = e.to_string().as_str(); "cannot answer a request");
        }
    }
}

fn take(request: &mut tiny_http::Request) -> io::Result<Request> {
    let mut body = Vec::with_capacity(request.body_length().unwrap_or(0));
    request.as_reader().read_to_end(&mut body)?;
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    let mut headers: HashMap<String, String> = HashMap::new();
    for header in request.headers() {
        let name = header.field.as_str().as_str().to_ascii_lowercase();
        let value = header.value.as_str();
        headers
            .entry(name)
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    Ok(Request {
        method: request.method().as_str().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body,
    })
}

fn outgoing(answer: Response) -> tiny_http::Response<io::Cursor<Vec<u8>>> {
    let Some(headers) = checked_headers(&answer) else {
        log::error!(status = answer.status; "an answer with a malformed status or header");
        return tiny_http::Response::from_string("malformed answer; see the log\n")
            .with_status_code(500);
    };
    let body = if matches!(answer.status, 204 | 304) { Vec::new() } else { answer.body };
    let length = body.len();
    let status = tiny_http::StatusCode(answer.status);
    tiny_http::Response::new(status, headers, io::Cursor::new(body), Some(length), None)
        .with_chunked_threshold(usize::MAX)
}

/// The answer's headers, unless one could forge another or the status ends no request.
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
    use super::*;

    /// Prevents a way past the guard for others on the machine, while a server starts.
    #[test]
    fn a_lane_lets_in_the_one_that_opened_it_and_nobody_else() {
        let (listener, mut stream) = shut_behind_one().expect("a lane");
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
