//! Both ends of the sink contract.
//!
//! - `wire`    the protocol: paths, the batch frame, the answer
//! - `quota`   its rate limit in the headers of its answers
//! - `bucket`  the token bucket that makes the sink slower than its source
//! - `buckets` whose limit it is: of all clients, or of each connection
//! - `gate`    holds a request until its tokens are there: the bucket, the clock and the faults
//! - `control` what chaos may change in rate and answers, and until when
//! - `ledger`  the ground truth: ids delivered, duplicates, order per key
//! - `journal` the ground truth in a file, for a sink that is killed and comes back
//! - `server`  the sink itself
//! - `settings` its flags and the settings made from them
//!
//! And the processor's side of it:
//! - `client`   one worker's client of the sink: one attempt
//! - `fate`     the meaning of an answer for the posted events
//! - `window`   the events in flight of a worker: dequeued, and not acked by the sink
//! - `aside`    what a worker posts, and events that the sink fails for: they hold up no others
//! - `drain`    the end of a run: until when workers dequeue, and when they let go
//! - `refusals` events that the sink refuses for good, and when the sink is at fault for that
//! - `sizing`   how many events a call may carry
//! - `timely`   how many, so that a call is answered in time
//! - `pace`     when the next call begins, before a sink that refuses by its rate limit
//! - `workers`  the threads that dequeue runs, batch, post until acked or released

mod aside;
pub mod bucket;
pub mod buckets;
pub mod client;
pub mod control;
pub mod drain;
pub mod fate;
pub mod gate;
pub mod journal;
pub mod ledger;
pub mod pace;
pub mod quota;
pub mod refusals;
pub mod server;
pub mod settings;
pub mod sizing;
pub mod timely;
pub mod window;
pub mod wire;
pub mod workers;
