//! The load: an open model that decides when each event is due, whatever the brokers do, and the
//! producer that follows it.
//!
//! - `rate`     what travels to slow the source down
//! - `schedule` when each event is due
//! - `keys`     which key an event has, and which partition a key

pub mod keys;
pub mod rate;
pub mod schedule;
