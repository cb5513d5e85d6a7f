//! The instruments.
//!
//! - `metrics` every metric's name, once

pub mod metrics;
