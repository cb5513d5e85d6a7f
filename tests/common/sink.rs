//! A real sink for a test: started on a free port, spoken to over HTTP, killed when dropped.
#![allow(dead_code, reason = "every test program compiles this module and uses a part of it")]

use std::time::{Duration, Instant};

use backpressure_lab::event::Event;
use backpressure_lab::http::client::agent;
use backpressure_lab::sink::control::{Command, Status};
use backpressure_lab::sink::ledger::Totals;
use backpressure_lab::sink::wire;
use serde::de::DeserializeOwned;

use crate::common::lab::{self, Served};
use crate::common::{PATIENCE, Running};

/// A running sink.
pub struct Sink {
    /// Its process.
    pub running: Running,
    /// `http://127.0.0.1:port`.
    pub url: String,
    agent: ureq::Agent,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }

    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Sink {
    pub fn start(flags: &[&str]) -> Self {
        let Served { process, url } = lab::sink(flags);
        Self { running: process, url, agent: agent(Duration::from_secs(30)) }
    }

    /// The part of the URL after `http://`.
    pub fn addr(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// A caller with a connection of its own.
    pub fn caller(&self) -> Caller {
        Caller { url: self.url.clone(), agent: agent(Duration::from_secs(30)) }
    }

    pub fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(format!("{}{path}", self.url)).call())
    }

    pub fn control(&self, command: &Command) -> Status {
        let body = serde_json::to_vec(command).unwrap();
        answer(self.agent.post(format!("{}{}", self.url, wire::CONTROL)).send(&body)).json()
    }

    pub fn status(&self) -> Status {
        self.get(wire::CONTROL).json()
    }

    /// Waits for a status for which `wanted` is true.
    pub fn await_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "the sink never is {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn totals(&self) -> Totals {
        self.get(wire::LEDGER).json()
    }
}

/// One client of a sink.
pub struct Caller {
    url: String,
    agent: ureq::Agent,
}

impl Caller {
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        let request = self.agent.post(format!("{}{path}", self.url));
        answer(request.content_type("application/octet-stream").send(body))
    }

    pub fn write(&self, event: &Event) -> Answer {
        let mut body = Vec::new();
        event.encode(&mut body);
        self.post(wire::WRITE, &body)
    }

    pub fn batch(&self, events: &[Event]) -> Answer {
        let mut body = Vec::new();
        events.iter().for_each(|e| wire::frame(e, &mut body));
        self.post(wire::BATCH, &body)
    }
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.unwrap_or_else(|e| panic!("no answer: {e}"));
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap(),
    }
}

/// An event of the lab's usual size, 536 B.
pub fn event(id: u64, key: u64) -> Event {
    Event { id, key, ts_us: 0, payload: vec![7; 512].into() }
}

/// Events with the ids of `ids`, each with a key of its own.
pub fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
    ids.map(|id| event(id, id)).collect()
}
