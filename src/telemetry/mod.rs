//! The instruments.
//!
//! - `metrics`   every metric's name, once
//! - `latency`   where each event's time goes, by stage
//! - `hlog`      the latency record on disk
//! - `allocator` jemalloc with its profiler on, and its gauges
//! - `profile`   heap and CPU profiles for `go tool pprof`
//! - `pprof`     the messages of a profile
//! - `cpu`       the sampler behind CPU profiles
//! - `symbols`   function names for both
//! - `tasks`     the threads as a table
//! - `endpoint`  the endpoints that serve these

pub mod allocator;
mod cpu;
mod endpoint;
pub mod hlog;
pub mod latency;
pub mod metrics;
pub mod pprof;
pub mod profile;
mod symbols;
pub mod tasks;

pub use endpoint::{Answers, Health, endpoint};
pub use profile::block_profiler_signal;
