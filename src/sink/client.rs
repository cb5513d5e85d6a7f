//! One worker's way to the sink: posts a run of events and says what became of it.
//!
//! It makes one attempt; whether and when to try again is the worker's decision.

use std::time::Duration;

use crate::http::client;
use crate::logging::said;
use crate::sink::wire::{self, Acked};
use crate::source::Item;

/// What one call came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Posted {
    /// The first so many events are delivered.
    Acked(usize),
    /// The sink will not take these bytes, however often: 400 or 413.
    Rejected {
        /// Its status.
        status: u16,
        /// The beginning of its words.
        why: String,
    },
    /// Not now: busy, failing or out of reach. Some events may have been delivered all the same.
    NotNow {
        /// How long the sink asks to wait, where it says so (`Retry-After`, RFC 9110 10.2.3).
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
}

/// A kept-alive connection to the sink; one a worker.
pub struct Client {
    agent: ureq::Agent,
    write: String,
    batch: String,
    body: Vec<u8>,
}

/// Longest wait that a `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

impl Client {
    /// A client of the sink at `url` (`http://127.0.0.1:9900`), each call at most `timeout`.
    pub fn new(url: &str, timeout: Duration) -> Self {
        let base = url.trim_end_matches('/');
        Self {
            agent: client::agent(timeout),
            write: format!("{base}{}", wire::WRITE),
            batch: format!("{base}{}", wire::BATCH),
            body: Vec::new(),
        }
    }

    /// Posts one event.
    pub fn write(&mut self, item: &Item) -> Posted {
        self.body.clear();
        item.event.encode(&mut self.body);
        Self::post(&self.agent, &self.write, &self.body, 1)
    }

    /// Posts a framed batch.
    pub fn batch<'a>(&mut self, items: impl Iterator<Item = &'a Item>) -> Posted {
        self.body.clear();
        let mut sent = 0;
        for item in items {
            wire::frame(&item.event, &mut self.body);
            sent += 1;
        }
        Self::post(&self.agent, &self.batch, &self.body, sent)
    }

    fn post(agent: &ureq::Agent, url: &str, body: &[u8], sent: usize) -> Posted {
        let not_now = |why: String| Posted::NotNow { after: None, why };
        let mut answer = match agent.post(url).content_type("application/octet-stream").send(body) {
            Ok(answer) => answer,
            Err(e) => return not_now(format!("{url}: {e}")),
        };
        let status = answer.status().as_u16();
        let after = retry_after(answer.headers());
        let mut text = Vec::new();
        // A count of acks is below 40 B; of other words the beginning is told.
        match client::read_beginning(answer.body_mut(), &mut text) {
            Ok(()) => understood(url, status, after, &text, sent),
            Err(e) => not_now(format!("{url}: status {status}, then {e}")),
        }
    }
}

/// What an answer to `sent` events means. It may say anything.
pub(crate) fn understood(
    url: &str,
    status: u16,
    after: Option<Duration>,
    text: &[u8],
    sent: usize,
) -> Posted {
    match status {
        200 => match serde_json::from_slice::<Acked>(text) {
            Ok(Acked { acked }) => {
                Posted::Acked(usize::try_from(acked).unwrap_or(usize::MAX).min(sent))
            }
            Err(e) => {
                let e = said(e.to_string().as_bytes());
                let why = format!("{url}: status 200 without a count of acks: {e}");
                Posted::NotNow { after: None, why }
            }
        },
        400 | 413 => Posted::Rejected { status, why: said(text) },
        _ => Posted::NotNow { after, why: format!("{url}: status {status} {}", said(text)) },
    }
}

/// The exact milliseconds where the sink gives them, else the standard's whole seconds.
pub(crate) fn retry_after(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
        .map(|wait| wait.min(RETRY_AFTER_MAX))
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
        let post = |status: u16| {
            let url = format!("http://{}/write?{status}", server.addr());
            Client::post(&agent, &url, b"x", 1)
        };
        let short = |why: &str| why.contains("no no") && why.chars().count() < 400;
        assert!(matches!(post(400), Posted::Rejected { status: 400, why } if short(&why)));
        assert!(matches!(post(413), Posted::Rejected { status: 413, why } if short(&why)));
        assert!(matches!(post(500), Posted::NotNow { after: None, why } if short(&why)));
        assert!(matches!(post(200), Posted::NotNow { after: None, .. }));
    }

    #[test]
    fn no_more_is_acked_than_was_sent() {
        let acked = |text: &str| understood("u", 200, None, text.as_bytes(), 3);
        assert_eq!(acked(r#"{"acked":2}"#), Posted::Acked(2));
        assert_eq!(acked(r#"{"acked":18446744073709551615}"#), Posted::Acked(3));
        for none in ["", "{}", r#"{"acked":-1}"#, r#"{"acked":1}x"#] {
            assert!(matches!(acked(none), Posted::NotNow { .. }), "{none}");
        }
    }
}
