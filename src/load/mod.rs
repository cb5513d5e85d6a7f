//! The load: an open model that decides when each event is due, however slow the brokers are, and
//! the producer that follows it.
//!
//! - `schedule` when each event is due
//! - `keys`     the key of an event, and the partition of a key
//! - `rate`     the requests and answers that slow the source down
//! - `leases`   the sum of the leases of a group of processors
//! - `credit`   the grants and answers that let the source send up to a position
//! - `account`  the sum of the grants of a group of processors, and when their counts begin anew
//! - `settings` the producer's flags, checked
//! - `batch`    events made from their ids, one request's worth
//! - `cursors`  how far each partition has been sent, and by which sender
//! - `logs`     how far each log was acknowledged, and which of them are gone
//! - `sender`   one broker's thread: batch, send, advance what was confirmed
//! - `resends`  what is sent again because the sink does not have it
//! - `senders`  the senders, replaced when one is stuck, and the refresh of their metadata
//! - `control`  the HTTP side of rate and credit
//! - `producer` joins them: runs the schedule to its end and prints the summary

pub mod account;
mod batch;
mod control;
pub mod credit;
mod cursors;
pub mod keys;
pub mod leases;
pub mod logs;
pub mod producer;
pub mod rate;
pub mod resends;
pub mod schedule;
mod sender;
mod senders;
pub mod settings;

pub use batch::{KEY_BYTES, Limits};
