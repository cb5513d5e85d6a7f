//! The backpressure lab: a Kafka → processor → sink pipeline whose sink is slower than its
//! source on purpose, with the instruments that show where the difference goes.
//!
//! ARCHITECTURE.md is the map. Binaries in `src/bin/` are shells around this library: flags →
//! settings → one call → exit code.

pub mod backoff;
pub mod brokers;
pub mod chaos;
pub mod cli;
pub mod clock;
pub mod event;
pub mod failure;
#[cfg(test)]
#[path = "../tests/fuzz/mod.rs"]
mod fuzz;
pub mod http;
pub mod lab;
pub mod lines;
pub mod load;
pub mod logging;
pub mod packed;
pub mod pipeline;
pub mod planes;
pub mod policy;
pub mod queue;
pub mod records;
pub mod sink;
pub mod source;
mod sync;
pub mod telemetry;
pub mod threads;
pub mod transform;
pub mod units;
