//! The one way to make an HTTP client: every wait has a limit, the environment's proxy settings
//! are ignored, and a status is an answer with a body, not an error.
//!
//! It deliberately does not retry: only the caller knows which calls may be repeated.

use std::io::{self, Read as _};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use ureq::unversioned::transport::DefaultConnector;

use super::access::Token;
use super::addresses::Addresses;
use crate::failure::Failure;
use crate::logging::said;

/// Longest wait for a connection: peers are on loopback or one hop away, and a listener that
/// does not answer a SYN in this time is down or its backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client whose calls take at most `timeout`, from the lookup of a name to the last byte
/// (connecting at most 2 s of it). One per thread: its pool is small. Calling an address starts no
/// thread; a name, one in 5 s (`http/addresses.rs`).
pub fn agent(timeout: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(timeout.min(CONNECT_TIMEOUT)))
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .user_agent(concat!("backpressure-lab/", env!("CARGO_PKG_VERSION")))
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::default(), Addresses::default())
}

/// Checks the address of another binary, `http://127.0.0.1:9900`, that `flag` gives; returns it without
/// a trailing slash.
///
/// # Errors
/// Usage, when `url` is not of that form: says what was expected, and repeats no password.
pub fn base_url(flag: &str, url: &str) -> Result<String, Failure> {
    let base = url.trim_end_matches('/');
    if plain(base).is_some_and(|uri| uri.path() == "/" && uri.query().is_none()) {
        return Ok(base.to_owned());
    }
    let allowed = "expected a URL such as http://127.0.0.1:9900 (no https, no path, no password)";
    Err(Failure::flag(flag, without_password(url), allowed))
}

/// Checks the address of one page of another binary, `http://127.0.0.1:9900/metrics`.
///
/// # Errors
/// When `url` is not of that form: the message says what was expected.
pub fn check_page_url(url: &str) -> Result<(), String> {
    match plain(url) {
        Some(_) => Ok(()),
        None => Err("expected a URL such as http://127.0.0.1:9900/metrics (no https, no password)"
            .to_owned()),
    }
}

/// An address without encryption, and without a user name and a password: `ps` and every message
/// about the address would show those.
fn plain(url: &str) -> Option<ureq::http::Uri> {
    let uri: ureq::http::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    // An invalid port would be taken for the default one.
    let has_port = match authority.port_u16() {
        Some(port) => port > 0,
        None => authority.as_str() == authority.host(),
    };
    let bare = !authority.as_str().contains('@') && !url.contains('#');
    (bare && has_port && uri.scheme_str() == Some("http")).then_some(uri)
}

/// The text of a refused address as a message may repeat it: without the part before `@`.
pub fn without_password(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://…@{host}"),
        None => format!("…@{host}"),
    }
}

/// Limit of what is read of an answer that is shown, not parsed: [`said`] cuts it further.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// The beginning of an answer.
///
/// # Errors
/// When the connection breaks off; `words` then has what came before.
pub fn read_beginning(answer: &mut ureq::Body, words: &mut Vec<u8>) -> io::Result<()> {
    read_some(answer, WORDS_BYTES_MAX, words)
}

/// An answer that is parsed, up to [`ANSWER_BYTES_MAX`].
///
/// # Errors
/// As [`read_beginning`].
pub fn read_parsed(answer: &mut ureq::Body, text: &mut Vec<u8>) -> io::Result<()> {
    read_some(answer, ANSWER_BYTES_MAX, text)
}

fn read_some(answer: &mut ureq::Body, most: u64, text: &mut Vec<u8>) -> io::Result<()> {
    answer.as_reader().take(most).read_to_end(text).map(drop)
}

/// Largest answer that is parsed: control and ledger answers are below 1 KB, a sink's acks may name each event.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A client of the JSON endpoints of another of the lab's binaries.
pub struct Peer {
    agent: ureq::Agent,
    base: String,
    token: Option<Token>,
}

/// Why a call of a [`Peer`] gave no value.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer: nothing listens, or it took too long.
    #[error("no answer from {url}: {why}")]
    Unreachable {
        /// What was called.
        url: String,
        /// Why there is none.
        why: String,
    },
    /// An answer with another status than 200.
    #[error("{url} answered {status}: {text}")]
    Refused {
        /// What was called.
        url: String,
        /// The answer's status.
        status: u16,
        /// The beginning of the answer's words.
        text: String,
    },
    /// An answer that cannot be parsed as the expected value.
    #[error("{url} gave an unexpected answer: {why}")]
    Garbled {
        /// What was called.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Peer {
    /// The binary at `url` (`http://127.0.0.1:9900`), which `flag` gives, called with `token` where
    /// there is one, each call at most `timeout`.
    ///
    /// # Errors
    /// As [`base_url`].
    pub fn new(
        flag: &str,
        url: &str,
        token: Option<Token>,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        Ok(Self { agent: agent(timeout), base: base_url(flag, url)?, token })
    }

    /// `GET` of `path`, read as JSON.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(bearer) = self.bearer() {
            request = request.header("Authorization", bearer);
        }
        read(url, request.call())
    }

    /// `POST` of `body` as JSON to `path`, the answer read as JSON.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(&url).content_type("application/json");
        if let Some(bearer) = self.bearer() {
            request = request.header("Authorization", bearer);
        }
        match serde_json::to_vec(body) {
            Ok(body) => read(url, request.send(&body)),
            Err(e) => Err(CallError::Garbled { url, why: e.to_string() }),
        }
    }

    /// `DELETE` of `path`, the answer read as JSON.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.delete(&url);
        if let Some(bearer) = self.bearer() {
            request = request.header("Authorization", bearer);
        }
        read(url, request.call())
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(Token::bearer)
    }
}

fn read<T: DeserializeOwned>(
    url: String,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, CallError> {
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(e) => return Err(CallError::Unreachable { url, why: e.to_string() }),
    };
    let status = answer.status().as_u16();
    match answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec() {
        Ok(body) => value(url, status, &body),
        Err(e) => Err(CallError::Unreachable { url, why: e.to_string() }),
    }
}

/// The value of an answer of this status and body; the body may be anything.
pub(crate) fn value<T: DeserializeOwned>(
    url: String,
    status: u16,
    body: &[u8],
) -> Result<T, CallError> {
    if status != 200 {
        return Err(CallError::Refused { url, status, text: said(body) });
    }
    // The parser repeats the string that it did not expect.
    serde_json::from_slice(body)
        .map_err(|e| CallError::Garbled { url, why: said(e.to_string().as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents an error as long as the answer.
    #[test]
    fn an_answers_words_are_cut() {
        let long = "x".repeat(1 << 20);
        let refused = value::<u64>("u".into(), 500, long.as_bytes());
        let garbled = value::<u64>("u".into(), 200, format!("\"{long}\"").as_bytes());
        for error in [refused, garbled] {
            let error = error.expect_err("no number").to_string();
            assert!(error.len() < 400 && error.contains("xxx"), "{error}");
        }
        assert_eq!(value::<u64>("u".into(), 200, b"7").expect("a number"), 7);
    }

    #[test]
    fn only_plain_base_urls_are_peers() {
        let peer = |url| Peer::new("--peer", url, None, Duration::from_secs(1));
        for url in ["http://127.0.0.1:9900", "http://sink:9900/", "http://[::1]:9900"] {
            assert!(peer(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:9900",
            "https://sink",
            "http://sink/path",
            "http://",
            "sink",
            "http://a:b@sink:9900",
            "http://a@sink:9900",
            "http://sink:99999",
            "http://sink:0",
            "http://sink:9900#top",
        ] {
            assert!(peer(url).is_err(), "{url}");
        }
        for url in ["http://127.0.0.1:9900/metrics", "http://[::1]:9900/metrics?a=b", "http://sink"]
        {
            assert!(check_page_url(url).is_ok(), "{url}");
        }
        for url in
            ["", "sink", "https://sink/metrics", "http:///metrics", "http://a:b@sink/metrics"]
        {
            assert!(check_page_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_refused_address_is_named_without_its_password() {
        for (url, shown) in [
            ("http://a:b@sink:9900", "http://…@sink:9900"),
            ("sink=http://a:p@b@sink/metrics", "sink=http://…@sink/metrics"),
            ("a:b@sink:9900", "…@sink:9900"),
            ("https://sink", "https://sink"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
