//! The public side of a server: accepts, bounds the connections, stops in order.
//!
//! Invariant: the accept loop outlives every error, and no client can keep another one out: at the
//! limit, the connection that has gone longest without a whole request is closed. Each connection
//! has one thread. It deliberately does not read requests; `connection` does.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::head::Refusal;
use super::upstream::Upstream;
use super::{Handler, Limits, connection};
use crate::failure::Failure;
use crate::logging::Limiter;
use crate::threads;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A connection that has waited less may be about to send: it is not cut off to make room.
const EVICTABLE_AFTER: Duration = Duration::from_millis(100);
/// Limit of threads whose connection is over, or was cut off, and that have not ended yet, however
/// fast clients come and go. They only have to wake.
const ENDING_MAX: usize = 8;
const ENDING_TICK: Duration = Duration::from_millis(1);
/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a blocked write looks at its deadline.
const WRITE_TICK: Duration = Duration::from_secs(1);
/// How long a stopping server waits for requests that are being handled.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A listening server; dropping it stops it.
pub struct Running {
    addr: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<Vec<JoinHandle<()>>>>,
    /// How long stopping waits for requests that are being handled.
    pub(super) grace: Duration,
}

struct Shared {
    limits: Limits,
    upstream: Upstream,
    connections: Mutex<Connections>,
    changed: Condvar,
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Connection>,
    next: u64,
    stopping: bool,
}

struct Connection {
    stream: Arc<TcpStream>,
    /// Since when it has not had a whole request; `None` while one is handled.
    waiting_since: Option<Instant>,
}

impl Running {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

pub fn start(listen: SocketAddr, limits: Limits, handler: Handler) -> Result<Running, Failure> {
    let refused = |e: io::Error| {
        Failure::Failed(format!(
            "cannot listen on {listen}: {e}; choose another address with --listen (port 0 picks \
             a free one) or stop the process that uses this one"
        ))
    };
    let listener = bind(listen).map_err(refused)?;
    let addr = listener.local_addr().map_err(refused)?;
    let accepting = listener.try_clone().map_err(refused)?;
    let upstream = Upstream::open(limits.handlers, limits.handler_wait, handler)?;
    let shared = Arc::new(Shared {
        limits,
        upstream,
        connections: Mutex::default(),
        changed: Condvar::new(),
    });
    let accept = {
        let shared = shared.clone();
        threads::spawn("http-accept", move || accept_loop(&accepting, &shared))?
    };
    Ok(Running { addr, listener, shared, accept: Some(accept), grace: STOP_GRACE })
}

fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: answers go out whole instead of waiting for an ACK.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the server stops; returns the connections' threads.
fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut complaints = Limiter::per_second(1);
    loop {
        let accepted = listener.accept();
        if shared.connections.lock().stopping {
            return threads;
        }
        match accepted {
            Ok((stream, _)) => {
                reap(&mut threads);
                while threads.len() > shared.connections.lock().open.len() + ENDING_MAX {
                    std::thread::sleep(ENDING_TICK);
                    reap(&mut threads);
                }
                match admit(stream, shared) {
                    Ok(thread) => threads.extend(thread),
                    Err(e) => {
                        log::error!(error = e.to_string().as_str(); "connection not served");
                    }
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
            Err(e) => {
                if let Some(suppressed) = complaints.allow() {
                    log::error!(
                        error = e.to_string().as_str(), lines_suppressed = suppressed;
                        "cannot accept connections, trying on"
                    );
                }
                // Out of descriptors, most likely: frees one.
                shared.connections.lock().evict(Instant::now());
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Joins those that are over. A detached thread keeps its stack and its place in the system for a
/// while, and there are many when clients come and go fast.
fn reap(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.extract_if(.., |thread| thread.is_finished()) {
        let _panic_was_printed = thread.join();
    }
}

/// Starts a connection's thread, or answers that there is no room for it.
fn admit(stream: TcpStream, shared: &Arc<Shared>) -> Result<Option<JoinHandle<()>>, Failure> {
    let now = Instant::now();
    stream.set_write_timeout(Some(WRITE_TICK)).map_err(Failure::failed)?;
    let stream = Arc::new(stream);
    let id = {
        let mut connections = shared.connections.lock();
        let full = connections.open.len() >= shared.limits.connections_max;
        if full && !connections.evict(now) {
            drop(connections);
            turn_away(&stream);
            return Ok(None);
        }
        let id = connections.next;
        connections.next += 1;
        let connection = Connection { stream: stream.clone(), waiting_since: Some(now) };
        connections.open.insert(id, connection);
        id
    };
    let served = shared.clone();
    let thread = threads::spawn("http-connection", move || {
        let ticket = Ticket { shared: &served, id };
        connection::serve(&stream, &ticket, &served.limits);
    });
    if thread.is_err() {
        shared.connections.lock().open.remove(&id);
    }
    thread.map(Some)
}

/// A fresh socket's send buffer takes the few bytes at once: the accept loop does not wait.
fn turn_away(stream: &TcpStream) {
    let answer = Refusal::new(503, "too many connections").answer(false, false);
    let _client_may_have_left = connection::write_by(stream, [&answer, &[]], Instant::now());
}

impl Connections {
    /// Cuts off the connection that has waited longest; false when none has waited for long.
    fn evict(&mut self, now: Instant) -> bool {
        let longest = self
            .open
            .iter()
            .filter_map(|(id, connection)| Some((connection.waiting_since?, *id)))
            .min()
            .filter(|(since, _)| now.saturating_duration_since(*since) >= EVICTABLE_AFTER);
        let Some(evicted) = longest.and_then(|(_, id)| self.open.remove(&id)) else {
            return false;
        };
        // Its thread sees the end of the stream and leaves.
        let _already_closed = evicted.stream.shutdown(Shutdown::Both);
        true
    }
}

/// A connection's place in the table; dropping it frees the place.
pub(super) struct Ticket<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Ticket<'_> {
    pub fn upstream(&self) -> &Upstream {
        &self.shared.upstream
    }

    /// A whole request is there. False when it must not be handled any more.
    pub fn begin(&self) -> bool {
        let mut connections = self.shared.connections.lock();
        let stopping = connections.stopping;
        match connections.open.get_mut(&self.id) {
            Some(connection) if !stopping => {
                connection.waiting_since = None;
                true
            }
            _ => false,
        }
    }

    /// The request is handled. False when the connection must end with its answer.
    pub fn end(&self) -> bool {
        let mut connections = self.shared.connections.lock();
        if let Some(connection) = connections.open.get_mut(&self.id) {
            connection.waiting_since = Some(Instant::now());
        }
        !connections.stopping
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.connections.lock().open.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

impl Drop for Running {
    /// Stops accepting, waits at most its grace for requests that are being handled, joins.
    fn drop(&mut self) {
        let deadline = Instant::now() + self.grace;
        {
            let mut connections = self.shared.connections.lock();
            connections.stopping = true;
            for connection in connections.open.values() {
                // Waiting for a request ends here; an answer on its way is still sent.
                let _already_closed = connection.stream.shutdown(Shutdown::Read);
            }
        }
        let _already_closed = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let threads = self.accept.take().and_then(|accept| accept.join().ok()).unwrap_or_default();
        {
            let mut connections = self.shared.connections.lock();
            while !connections.open.is_empty() {
                if self.shared.changed.wait_until(&mut connections, deadline).timed_out() {
                    break;
                }
            }
            for connection in connections.open.values() {
                let _already_closed = connection.stream.shutdown(Shutdown::Both);
            }
        }
        let all_free = self.shared.upstream.close(deadline.max(Instant::now() + ACCEPT_PAUSE));
        for thread in threads {
            // If no handler hangs, every thread is at its end; if one hangs, its own stays.
            if all_free || thread.is_finished() {
                let _panic_was_printed = thread.join();
            }
        }
        if !all_free {
            let grace = crate::units::show(self.grace);
            log::error!(grace = grace.as_str(); "a request is still being handled; leaving it");
        }
    }
}
