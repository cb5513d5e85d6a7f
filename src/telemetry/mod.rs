//! The instruments.
//!
//! - `metrics` every metric's name, once
//! - `latency` where each event's time goes, by stage
//! - `hlog`    the latency record on disk

pub mod hlog;
pub mod latency;
pub mod metrics;
