//! One worker's client of the sink: it posts events and returns their fate.
//!
//! It makes one attempt; the worker decides whether and when to try again. `fate` has the meaning
//! of an answer.

use std::time::{Duration, SystemTime};

use super::control::Status;
use super::fate::{NotNow, Posted, Trouble, retry_after, retry_after_seconds, understood};
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
            Posted::NotNow(NotNow { trouble: Trouble::Limit, after, .. }) => {
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
            write: format!("{base}{}{query}", wire::WRITE),
            batch: format!("{base}{}{query}", wire::BATCH),
        }
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
    let mut text = Vec::new();
    // A count of acks is below 40 B; of any other text the beginning is shown.
    let posted = match client::read_beginning(answer.body_mut(), &mut text) {
        Ok(()) => understood(url, status, after, &text, sent),
        Err(e) => {
            let why = format!("{url}: status {status}, then {e}");
            Posted::NotNow(NotNow { trouble: Trouble::Cut, after: None, why })
        }
    };
    Answered { posted, quota, after_seconds }
}

/// No answer: too late, cut off, or nothing listens.
fn broken(url: &str, error: &ureq::Error) -> Posted {
    use std::io::ErrorKind;
    let trouble = match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Trouble::Other,
        ureq::Error::Timeout(_) => Trouble::Slow,
        ureq::Error::Io(e) => match e.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Trouble::Other,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Trouble::Slow,
            _ => Trouble::Cut,
        },
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
