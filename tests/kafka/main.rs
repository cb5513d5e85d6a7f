//! Tests that need brokers and do not break them: each has a topic and a group of its own.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

#[path = "../common/browser.rs"]
mod browser;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/sink.rs"]
mod sinks;

mod broken;
mod lab;
mod live;
mod members;
mod odd_records;
mod policies;
mod predict;
mod probes;
mod processor;
mod producer;
mod refusals;
mod run;
mod spill;
