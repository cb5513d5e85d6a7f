//! The primitives with which threads hand over to each other, in one place.
//!
//! `source::holding`, `queue::ends` and `threads::stop` name theirs through here, so that
//! `tests/interleavings.rs` compiles the very same files over primitives that try every order of
//! the threads' steps. It holds no logic.

pub use crossbeam_channel as channel;
pub use parking_lot::{Condvar, Mutex};
pub use std::sync::atomic;
