//! Both ends of the sink contract.
//!
//! - `wire`    what travels: paths, the batch frame, the answer
//! - `bucket`  the token bucket that makes the sink slower than its source
//! - `gate`    holds a request until its tokens are there: the bucket, the clock and the faults
//! - `control` what chaos may do to rate and answers, and until when
//! - `ledger`  the ground truth: ids delivered, duplicates, order per key
//! - `journal` the ground truth in a file, for a sink that is killed and comes back
//! - `server`  the sink itself
//! - `settings` its flags and what they make
//! - `client`  one worker's way to the sink: one attempt, and what it came to
//! - `workers` the threads that take events from the queue, batch them, post until acked or given back

pub mod bucket;
pub mod client;
pub mod control;
pub mod gate;
pub mod journal;
pub mod ledger;
pub mod server;
pub mod settings;
pub mod wire;
pub mod workers;
