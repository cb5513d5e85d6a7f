//! The instruments.
//!
//! - `metrics` every metric's name, once
//! - `latency` where each event's time goes, by stage
//! - `hlog`    the latency record on disk

pub mod hlog;
pub mod latency;
pub mod metrics;
use crate::http::{Access, Request, Response};
/// stub
pub fn endpoint(m: metrics::Metrics, _a: Access) -> impl Fn(&Request) -> Option<Response> {
    move |r: &Request| {
        (r.path == "/metrics")
            .then(|| Response::bytes(200, "text/plain", m.text().unwrap_or_default()))
    }
}
/// stub
pub fn block_profiler_signal() {}
