//! One client's connection: reads a whole request, writes its answer, and goes on until either side
//! is done.
//!
//! Every wait for the client has a deadline and every buffer a limit. A handler is borrowed only
//! for a whole request, and released before its answer is sent, so a slow client holds only its own
//! connection, and its answer's turn where that has one. Bytes after a request stay in the buffer
//! for the next one.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::head::{self, Head, Refusal};
use super::upstream::{Answer, Exchange};
use super::{Limits, guard};

/// First size of the read buffer; it doubles as bytes arrive.
const BUFFER_BYTES: usize = 8 << 10;
/// Bytes that are read and thrown away after a refusal, so that the client can read the answer
/// before the close resets its connection.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_MAX: Duration = Duration::from_secs(1);

const BUSY: Refusal = Refusal { status: 503, why: Cow::Borrowed("every handler is busy") };
const LOST: Refusal = Refusal { status: 500, why: Cow::Borrowed("the handler was lost") };

/// Why no request came.
enum Closed {
    /// The client left, stayed idle, or was cut off: nothing to answer.
    Silently,
    /// Its request is refused.
    Refused(Refusal),
}

impl From<Refusal> for Closed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Serves a client until its connection ends.
pub(super) fn serve(stream: &TcpStream, ticket: &guard::Ticket<'_>, limits: &Limits) {
    let mut inbound = Inbound {
        stream,
        limits,
        buffer: Vec::new(),
        filled: 0,
        timeout: Duration::ZERO,
        forward: Vec::new(),
    };
    let peer = stream.peer_addr().ok();
    loop {
        let head = match inbound.request() {
            Ok(head) => head,
            Err(Closed::Silently) => return,
            Err(Closed::Refused(refusal)) => return inbound.refuse(&refusal),
        };
        // Cut off to make room, or the server stops: the client sends it again on another
        // connection.
        if !ticket.begin() {
            return;
        }
        let total = head.len + head.body_len;
        let body = inbound.buffer.get(head.len..total).unwrap_or_default();
        let outcome = ticket.upstream().exchange(&inbound.forward, body, peer, || is_gone(stream));
        let stays = ticket.end() && head.keep_alive;
        let answer = match outcome {
            Exchange::Answered(mut answer) => {
                mark(&mut answer.head, &head, stays);
                answer
            }
            Exchange::Busy => Answer::from(BUSY.answer(head.is_head, stays)),
            Exchange::Lost => Answer::from(LOST.answer(head.is_head, stays)),
            Exchange::Gone => return,
        };
        let deadline = Instant::now() + limits.request_deadline;
        if answer.cut {
            let half = answer.body.get(..answer.body.len() / 2).unwrap_or_default();
            let _the_client_expects_no_better = write_by(stream, [&answer.head, half], deadline);
            return;
        }
        // The answer's turn, where it has one, is kept until the answer is written.
        let written = write_by(stream, [&answer.head, &answer.body], deadline);
        if written.is_err() || !stays {
            return;
        }
        drop(answer);
        inbound.consume(total);
    }
}

struct Inbound<'a> {
    stream: &'a TcpStream,
    limits: &'a Limits,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that hold data.
    filled: usize,
    /// The read timeout that the socket has now.
    timeout: Duration,
    /// The head for tiny_http.
    forward: Vec<u8>,
}

impl Inbound<'_> {
    /// Reads until the buffer starts with a whole request.
    fn request(&mut self) -> Result<Head, Closed> {
        if self.filled == 0 {
            let idle_until = Instant::now() + self.limits.idle_timeout;
            match self.fill(BUFFER_BYTES, idle_until) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Closed::Silently),
            }
        }
        let deadline = Instant::now() + self.limits.request_deadline;
        let head = self.head(deadline)?;
        let total = head.len + head.body_len;
        if head.expects_continue && self.filled < total {
            let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
            write_by(self.stream, [go_on, &[]], deadline).map_err(|_| Closed::Silently)?;
        }
        while self.filled < total {
            self.more(total, deadline)?;
        }
        Ok(head)
    }

    fn head(&mut self, deadline: Instant) -> Result<Head, Closed> {
        let mut parsed = 0;
        loop {
            let bytes = self.buffer.get(..self.filled).unwrap_or_default();
            // A head ends with a line: without a new one it is not worth parsing again.
            let has_line = bytes.get(parsed..).is_some_and(|new| new.contains(&b'\n'));
            if (has_line || self.filled >= self.limits.head_bytes_max)
                && let Some(head) = head::parse(bytes, self.limits, &mut self.forward)?
            {
                return Ok(head);
            }
            parsed = self.filled;
            self.more(self.limits.head_bytes_max, deadline)?;
        }
    }

    /// Reads at least one byte of a request that has begun and will take up to `wanted` bytes.
    fn more(&mut self, wanted: usize, deadline: Instant) -> Result<(), Closed> {
        match self.fill(wanted, deadline) {
            Ok(1..) => Ok(()),
            Ok(0) => Err(Closed::Silently),
            Err(e) if is_timeout(&e) => {
                let limit = crate::units::show(self.limits.request_deadline);
                let why = format!("the request did not arrive within {limit}");
                Err(Refusal::new(408, why).into())
            }
            Err(_) => Err(Closed::Silently),
        }
    }

    /// One read; 0 when the client has ended its side.
    fn fill(&mut self, wanted: usize, deadline: Instant) -> io::Result<usize> {
        if self.buffer.len() == self.filled {
            // Memory follows what has arrived, not what was announced.
            let size = (2 * self.filled).max(BUFFER_BYTES).min(wanted.max(self.filled + 1));
            self.buffer.resize(size, 0);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // The kernel counts in ticks of some ms: a busy connection keeps the timeout it has.
            if self.timeout.abs_diff(left) > Duration::from_millis(10) || self.timeout.is_zero() {
                self.stream.set_read_timeout(Some(left))?;
                self.timeout = left;
            }
            let mut stream = self.stream;
            match stream.read(self.buffer.get_mut(self.filled..).unwrap_or_default()) {
                Ok(read) => {
                    self.filled += read;
                    return Ok(read);
                }
                // A timeout that came early for the reason above, or a profiler's signal.
                Err(e) if is_timeout(&e) || e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Drops a handled request; what came after it moves to the front.
    fn consume(&mut self, total: usize) {
        self.buffer.copy_within(total..self.filled, 0);
        self.filled -= total;
    }

    /// Answers, ends our side, and lets the client read the answer before the connection is closed.
    fn refuse(&mut self, refusal: &Refusal) {
        let answer = refusal.answer(false, false);
        let deadline = Instant::now() + LINGER_MAX;
        if write_by(self.stream, [&answer, &[]], deadline).is_err()
            || self.stream.shutdown(Shutdown::Write).is_err()
        {
            return;
        }
        let mut thrown = 0;
        while thrown < LINGER_BYTES_MAX {
            self.filled = 0;
            match self.fill(LINGER_BYTES_MAX, deadline) {
                Ok(read @ 1..) => thrown += read,
                Ok(0) | Err(_) => return,
            }
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Whether the client has closed its side with nothing left to read.
fn is_gone(stream: &TcpStream) -> bool {
    let flags = libc::MSG_DONTWAIT;
    let mut byte = [std::mem::MaybeUninit::uninit()];
    matches!(
        socket2::SockRef::from(stream).recv_with_flags(&mut byte, flags | libc::MSG_PEEK),
        Ok(0)
    )
}

/// Writes both parts, however slowly the client reads, or fails at the deadline.
pub(super) fn write_by(
    mut stream: &TcpStream,
    parts: [&[u8]; 2],
    deadline: Instant,
) -> io::Result<()> {
    let mut slices = parts.map(IoSlice::new);
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0); // past what is empty
    while !rest.is_empty() {
        // The socket has a write timeout of its own (see `guard`), so the deadline is looked at.
        match stream.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(e) if is_timeout(&e) || e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if !rest.is_empty() && Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// Says in an answer that the connection ends, or that it stays although the request was HTTP/1.0:
/// the client cannot know this by itself.
fn mark(answer_head: &mut Vec<u8>, request: &Head, stays: bool) {
    let line: &[u8] = match (stays, request.http_1_0) {
        (true, false) => return,
        (true, true) => b"Connection: keep-alive\r\n",
        (false, _) => b"Connection: close\r\n",
    };
    // Before the empty line that ends the head.
    answer_head.truncate(answer_head.len().saturating_sub(2));
    answer_head.extend_from_slice(line);
    answer_head.extend_from_slice(b"\r\n");
}
