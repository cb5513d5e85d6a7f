//! The load: an open model that decides when each event is due, whatever the brokers do, and the
//! producer that follows it.
//!
//! - `schedule` when each event is due
//! - `keys`     which key an event has, and which partition a key
//! - `rate`     what travels to slow the source down
//! - `leases`   what the leases of a group of processors come to
//! - `settings` the producer's flags, checked
//! - `batch`    events made from their ids, one request's worth
//! - `cursors`  how far each partition has been sent, and by whom
//! - `logs`     how far each log was acknowledged, and which of them went
//! - `sender`   one broker's thread: batch, send, advance what was confirmed
//! - `senders`  the senders, replaced when one is stuck, and the metadata they go by
//! - `control`  the rate control's HTTP end
//! - `producer` joins them: runs the schedule to its end and says what became of it

mod batch;
mod control;
mod cursors;
pub mod keys;
pub mod leases;
pub mod logs;
pub mod producer;
pub mod rate;
pub mod schedule;
mod sender;
mod senders;
pub mod settings;

pub use batch::{KEY_BYTES, Limits};
