//! State shared by fetchers, workers, committer and revoker, under many orders of their steps:
//! shuttle runs the threads one step at a time and chooses which one goes on.
//!
//! The files under proof are the production files, compiled here over `interleavings/sync.rs`.
//! Small models run under every order there is (`every_order`), larger ones under thousands drawn
//! by chance and by PCT (`many_orders`); a failure prints the schedule that repeats it. No model
//! has a time that passes, so a missed wake-up is a deadlock, which shuttle reports.
//!
//! What this cannot show: an `Ordering` that is too weak. Shuttle's memory is sequentially
//! consistent, so each operation is seen by all at once (its warning about that is expected).

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use backpressure_lab::failure;
use backpressure_lab::planes;
use backpressure_lab::source::tracker;

#[path = "../src/source/assigned.rs"]
#[allow(dead_code, reason = "models use what threads share; gauges read the rest")]
mod assigned;
#[path = "../src/queue/ends.rs"]
#[allow(dead_code, reason = "models use what threads share; gauges read the rest")]
mod ends;
#[path = "../src/queue/room.rs"]
mod room;
#[path = "../src/threads/stop.rs"]
mod stop;
#[path = "interleavings/sync.rs"]
mod sync;

#[path = "interleavings/partitions.rs"]
mod partitions;
#[path = "interleavings/stops.rs"]
mod stops;

use shuttle::Runner;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};

/// Runs `model` under every order of its steps.
fn every_order(model: impl Fn() + Send + Sync + 'static) {
    let orders = Runner::new(DfsScheduler::new(None, false), Default::default()).run(model);
    println!("{orders} orders, all there are");
    assert!(orders > 10, "threads that never meet: {orders} orders");
}

/// Runs `model` under orders drawn by chance, and under orders that need at most 3 changes of
/// thread to fail (PCT, Burckhardt 2010), where chance alone seldom goes.
fn many_orders(model: impl Fn() + Send + Sync + Clone + 'static) {
    Runner::new(RandomScheduler::new(2000), Default::default()).run(model.clone());
    Runner::new(PctScheduler::new(3, 2000), Default::default()).run(model);
}
