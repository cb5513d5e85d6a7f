//! Tests that break brokers: one at a time, with no other test beside it.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

#[path = "../common/mod.rs"]
mod common;

mod processor;
mod producer;
