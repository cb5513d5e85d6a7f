//! The one way to make an HTTP client: every wait has a limit, the environment's proxy settings
//! are ignored, and a status is an answer with a body, not an error.
//!
//! It deliberately does not retry: who may repeat a call is the caller's knowledge.

use std::time::Duration;

/// Longest wait for a connection: peers are on loopback or one hop away, and a listener that
/// does not answer a SYN in this time is down or its backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client whose calls take at most `timeout` from first to last byte (connecting at most 2 s of
/// it). One per thread: its pool is small.
pub fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .timeout_connect(Some(timeout.min(CONNECT_TIMEOUT)))
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .user_agent(concat!("backpressure-lab/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}
