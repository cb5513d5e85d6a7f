//! One worker's way to the sink: posts a run of events and says what became of it.
//!
//! It makes one attempt; whether and when to try again is the worker's decision.

use std::time::Duration;

use crate::http::client;
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
        /// Its words.
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
        let text = match answer.body_mut().read_to_string() {
            Ok(text) => text,
            Err(e) => return not_now(format!("{url}: status {status}, then {e}")),
        };
        match status {
            200 => match serde_json::from_str::<Acked>(&text) {
                Ok(Acked { acked }) => {
                    Posted::Acked(usize::try_from(acked).unwrap_or(usize::MAX).min(sent))
                }
                Err(e) => not_now(format!("{url}: status 200 without a count of acks: {e}")),
            },
            400 | 413 => Posted::Rejected { status, why: text.trim().to_owned() },
            _ => Posted::NotNow { after, why: format!("{url}: status {status} {}", text.trim()) },
        }
    }
}

/// The exact milliseconds where the sink gives them, else the standard's whole seconds.
fn retry_after(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("retry-after-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
        .map(|wait| wait.min(RETRY_AFTER_MAX))
}
