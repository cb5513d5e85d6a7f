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
//!
//! And the processor's side of it:
//! - `client`   one worker's way to the sink: one attempt
//! - `fate`     what an answer means for the events that were posted
//! - `window`   the events that a worker has taken and the sink has not acked
//! - `refusals` events that the sink refuses for good, and when that is the sink's trouble
//! - `line`     who calls next, before a sink that refuses by its rate limit
//! - `workers`  the threads that take runs from the queue, batch, post until acked or released

pub mod bucket;
pub mod client;
pub mod control;
pub mod fate;
pub mod gate;
pub mod journal;
pub mod ledger;
pub mod line;
pub mod refusals;
pub mod server;
pub mod settings;
pub mod window;
pub mod wire;
pub mod workers;
