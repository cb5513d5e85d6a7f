//! The instruments.
//!
//! - `metrics`   every metric's name, once
//! - `latency`   where each event's time goes, by stage
//! - `hlog`      the latency record on disk
//! - `allocator` jemalloc with its profiler on, and its gauges
//! - `profile`   heap and CPU profiles for `go tool pprof`
//! - `tasks`     the threads as a table
//! - `endpoint`  what every binary serves of these

pub mod allocator;
mod endpoint;
pub mod hlog;
pub mod latency;
pub mod metrics;
pub mod profile;
pub mod tasks;

pub use endpoint::endpoint;
pub use profile::block_profiler_signal;
