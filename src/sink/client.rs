//! One worker's client of the sink: it posts events and returns their fate.
//!
//! It makes one attempt; the worker decides whether and when to try again. `fate` has the meaning
//! of an answer.

use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

use super::control::Status;
use super::fate::{
    NotNow, Posted, Trouble, is_beginning, retry_after, retry_after_seconds, says_when, understood,
};
use super::pace::{Ended, Outcome};
use super::quota::{self, Quota};
use crate::http::client;
use crate::sink::wire;
use crate::transform::Transform;

/// The fate of the posted events, and what the answer says of the sink's limit.
#[derive(Debug)]
pub struct Answered {
    /// Their fate.
    pub posted: Posted,
    quota: Quota,
    after_seconds: Option<Duration>,
}

impl Answered {
    /// Without any header.
    fn bare(posted: Posted) -> Self {
        Self { posted, quota: Quota::default(), after_seconds: None }
    }

    /// The same for those who decide on the next call.
    pub fn outcome(&self) -> Outcome {
        let (ended, after) = match &self.posted {
            Posted::Acked(_) => (Ended::Acked, None),
            Posted::Refused { .. } => (Ended::Rejected, None),
            Posted::NotNow(NotNow { trouble: Trouble::Limit | Trouble::Closed, after, .. }) => {
                (Ended::Limited, *after)
            }
            Posted::NotNow(NotNow { after, .. }) => (Ended::Failed, *after),
        };
        Outcome { ended, quota: self.quota, after, after_seconds: self.after_seconds }
    }
}

/// A kept-alive connection to the sink; one a worker.
pub struct Client {
    agent: ureq::Agent,
    timeout: Duration,
    write: String,
    batch: String,
}

impl Client {
    /// A client of the sink at `url` (`http://127.0.0.1:9900`), each call at most `timeout`; it
    /// tells the sink which `transform` the events have.
    pub fn new(url: &str, timeout: Duration, transform: Transform) -> Self {
        let base = url.trim_end_matches('/');
        let query = transform.query();
        Self {
            agent: client::agent(timeout),
            timeout,
            write: format!("{base}{}{query}", wire::WRITE),
            batch: format!("{base}{}{query}", wire::BATCH),
        }
    }

    /// The next call is made on a new connection: behind a balancer that is perhaps another server.
    pub fn reconnect(&mut self) {
        self.agent = client::agent(self.timeout);
    }

    /// Posts one event.
    pub fn write(&self, value: &[u8]) -> Answered {
        post(&self.agent, &self.write, value, 1)
    }

    /// Posts a framed batch of `sent` events.
    pub fn batch(&self, frames: &[u8], sent: usize) -> Answered {
        post(&self.agent, &self.batch, frames, sent)
    }
}

fn post(agent: &ureq::Agent, url: &str, body: &[u8], sent: usize) -> Answered {
    let mut answer = match agent.post(url).content_type("application/octet-stream").send(body) {
        Ok(answer) => answer,
        Err(e) => return Answered::bare(broken(url, &e)),
    };
    let status = answer.status().as_u16();
    let now = SystemTime::now();
    let after = retry_after(answer.headers(), now);
    let after_seconds = retry_after_seconds(answer.headers(), now);
    let quota = quota::read(answer.headers());
    let is_success = answer.status().is_success();
    let has_end = has_end(status, answer.headers());
    let mut text = Vec::new();
    // A success is parsed; of any other text the beginning is shown.
    let read = match is_success {
        true => client::read_parsed(answer.body_mut(), &mut text),
        false => client::read_beginning(answer.body_mut(), &mut text),
    };
    let when = (says_when(answer.headers()), after);
    let posted = match read {
        // What is missing of the words of a refusal changes nothing of it.
        Err(e) if is_success => {
            let why = format!("{url}: status {status}, then {e}");
            Posted::NotNow(NotNow { trouble: trouble(&e), after: None, why })
        }
        // Where the end of the connection is the end of the answer, nobody knows whether it is whole.
        Ok(()) if is_success && !has_end && is_beginning(&text) => {
            let trouble = if text.is_empty() { Trouble::Endless } else { Trouble::Cut };
            let why = format!(
                "{url}: status {status} names no end of its body, and the connection ended before a count of acks; a \
                 sink without a count sends 204, or Content-Length: 0"
            );
            Posted::NotNow(NotNow { trouble, after: None, why })
        }
        _ => understood(url, status, when, &text, sent),
    };
    Answered { posted, quota, after_seconds }
}

/// Whether the answer itself says where it ends (RFC 9112 6.3).
fn has_end(status: u16, headers: &HeaderMap) -> bool {
    matches!(status, 204 | 205)
        || headers.contains_key("content-length")
        || headers.contains_key("transfer-encoding")
}

/// The trouble of a connection that failed.
fn trouble(error: &io::Error) -> Trouble {
    // A body that outlasts the call.
    let of_ureq = error.get_ref().and_then(|inner| inner.downcast_ref());
    if matches!(of_ureq, Some(ureq::Error::Timeout(_))) {
        return Trouble::Slow;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Trouble::Other,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Trouble::Slow,
        _ => Trouble::Cut,
    }
}

/// No answer: too late, cut off, or nothing listens.
fn broken(url: &str, error: &ureq::Error) -> Posted {
    let trouble = match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Trouble::Other,
        ureq::Error::Timeout(_) => Trouble::Slow,
        ureq::Error::Io(e) => trouble(e),
        ureq::Error::Protocol(_) => Trouble::Cut,
        _ => Trouble::Other,
    };
    Posted::NotNow(NotNow { trouble, after: None, why: format!("{url}: {error}") })
}

/// The sink's status with its rate; `None` where the answer has no such status, as from another
/// sink than the lab's, or from one that is not up yet.
pub fn ask_rate(url: &str) -> Option<Status> {
    /// It is asked once, before the run begins.
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut answer = client::agent(PATIENCE).get(format!("{url}{}", wire::CONTROL)).call().ok()?;
    let mut text = Vec::new();
    client::read_beginning(answer.body_mut(), &mut text).ok()?;
    (answer.status() == 200).then(|| serde_json::from_slice(&text).ok())?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::{Limits, Request, Response, Server};

    /// Prevents: a refusal of 10 MB that is read whole and logged for every event; and one that is
    /// tried again for ever because it was too long to read.
    #[test]
    fn of_a_long_answer_the_beginning_is_read() {
        let handler = |request: Request| {
            let status = request.query.parse().expect("a status");
            Response::text(status, "no ".repeat(1 << 20))
        };
        let listen = ([127, 0, 0, 1], 0).into();
        let server = Server::start(listen, Limits::default(), Arc::new(handler)).expect("a sink");
        let agent = client::agent(Duration::from_secs(10));
        let answer = |status: u16| {
            let url = format!("http://{}/write?{status}", server.addr());
            post(&agent, &url, b"x", 1).posted
        };
        let short = |why: &str| why.contains("no no") && why.chars().count() < 1000;
        for status in [200, 400, 413] {
            let answer = answer(status);
            let Posted::Refused { status: given, why } = &answer else { panic!("{answer:?}") };
            assert!(*given == status && short(why), "{answer:?}");
        }
        let answer = answer(500);
        let Posted::NotNow(NotNow { trouble: Trouble::Other, after: None, why }) = &answer else {
            panic!("{answer:?}")
        };
        assert!(short(why), "{why}");
    }

    /// A server that gives these bytes to whoever asks, and ends the connection a while later.
    fn says(bytes: &'static [u8], after: Duration) -> String {
        use std::io::{BufRead as _, BufReader, Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/write", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut asked = BufReader::new(&stream);
            let (mut line, mut length) = (String::new(), 0);
            while asked.read_line(&mut line).expect("a head") > 2 {
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                line.clear();
            }
            asked.read_exact(&mut vec![0; length]).expect("a body");
            (&stream).write_all(bytes).expect("answered");
            std::thread::sleep(after);
        });
        url
    }

    /// Prevents: events that count as acked because the connection broke before the sink said how many; and a refusal, or
    /// its time, that is lost with the end of its words.
    #[test]
    fn an_answer_that_breaks_off_acks_nothing_and_refuses_all_the_same() {
        let fate = |bytes: &'static [u8]| {
            let url = says(bytes, Duration::ZERO);
            post(&client::agent(Duration::from_secs(10)), &url, b"x", 3).posted
        };
        for cut in [
            &b"HTTP/1.1 200 OK\r\n\r\n{\"ack"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"acked\":3}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ack",
        ] {
            let posted = fate(cut);
            let is_cut = matches!(posted, Posted::NotNow(NotNow { trouble: Trouble::Cut, .. }));
            assert!(is_cut, "{}: {posted:?}", String::from_utf8_lossy(cut));
        }
        let empty = fate(b"HTTP/1.0 200 OK\r\n\r\n");
        let is_endless = matches!(empty, Posted::NotNow(NotNow { trouble: Trouble::Endless, .. }));
        assert!(is_endless, "{empty:?}");
        assert_eq!(fate(b"HTTP/1.0 200 OK\r\n\r\n{\"acked\":2}"), Posted::Acked(2));
        assert_eq!(fate(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Posted::Acked(3));
        assert_eq!(fate(b"HTTP/1.1 204 No Content\r\n\r\n"), Posted::Acked(3));
        let page = fate(b"HTTP/1.0 200 OK\r\n\r\n<html>");
        assert!(matches!(page, Posted::Refused { status: 200, .. }), "{page:?}");
        let refused = fate(b"HTTP/1.1 422 Odd\r\nContent-Length: 100\r\n\r\nnot this");
        assert!(matches!(refused, Posted::Refused { status: 422, .. }), "{refused:?}");
        let limit =
            fate(b"HTTP/1.1 429 Many\r\nRetry-After: 30\r\nContent-Length: 100\r\n\r\nlater");
        let Posted::NotNow(NotNow { trouble: Trouble::Limit, after, .. }) = limit else {
            panic!("{limit:?}")
        };
        assert_eq!(after, Some(Duration::from_secs(30)));
    }

    /// Prevents: a batch whose answer never ends, and that is sent whole again for ever.
    #[test]
    fn an_answer_that_does_not_end_in_time_is_slow() {
        let url =
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ack", Duration::from_secs(2));
        let posted = post(&client::agent(Duration::from_millis(200)), &url, b"x", 3).posted;
        let is_slow = matches!(posted, Posted::NotNow(NotNow { trouble: Trouble::Slow, .. }));
        assert!(is_slow, "{posted:?}");
    }

    /// Prevents: a long answer with a status for each event that is taken for a refusal: all of it would be sent again.
    #[test]
    fn a_count_of_acks_may_stand_in_a_long_answer() {
        let handler = |_: Request| {
            let rest = format!("{{\"acked\":200,\"results\":[{}0]}}", "0,".repeat(10_000));
            Response::bytes(200, "application/json", rest.into_bytes())
        };
        let listen = ([127, 0, 0, 1], 0).into();
        let server = Server::start(listen, Limits::default(), Arc::new(handler)).expect("a sink");
        let url = format!("http://{}/batch", server.addr());
        let posted = post(&client::agent(Duration::from_secs(10)), &url, b"x", 200).posted;
        assert_eq!(posted, Posted::Acked(200));
    }

    /// Prevents: a sink that is down and is taken for a slow one, whose batches must shrink.
    #[test]
    fn nobody_there_is_not_slow() {
        let answer =
            post(&client::agent(Duration::from_secs(2)), "http://127.0.0.1:1/write", b"x", 1)
                .posted;
        assert!(
            matches!(answer, Posted::NotNow(NotNow { trouble: Trouble::Other, .. })),
            "{answer:?}"
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/write", listener.local_addr().expect("an address"));
        let answer = post(&client::agent(Duration::from_millis(200)), &url, b"x", 1).posted;
        assert!(
            matches!(answer, Posted::NotNow(NotNow { trouble: Trouble::Slow, .. })),
            "{answer:?}"
        );
    }
}
