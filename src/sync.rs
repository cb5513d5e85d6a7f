//! The primitives that threads share, in one place.
//!
//! `source::assigned`, `queue::ends`, `queue::room` and `threads::stop` name theirs through here, so that
//! `tests/interleavings.rs` compiles the very same files over primitives that try every order of
//! the threads' steps. It holds no logic.

pub use crossbeam_channel as channel;
pub use parking_lot::{Condvar, Mutex};
pub use std::sync::atomic;
