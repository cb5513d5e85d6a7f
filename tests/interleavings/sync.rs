//! `crate::sync` as the included files find it here: parking_lot's and crossbeam's interfaces over
//! shuttle's primitives, so that every operation is a point at which another thread may go on.

#[path = "channel.rs"]
pub mod channel;

use std::ops::{Deref, DerefMut};
use std::time::Instant;

pub use shuttle::sync::atomic;

/// parking_lot's mutex: `lock` without a `Result`.
#[derive(Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect("not poisoned")))
    }
}

/// Empty only inside [`Condvar::wait_until`].
pub struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

/// parking_lot's condition variable, whose timeout never comes: a missed wake-up leaves every
/// thread waiting, which shuttle reports as a deadlock.
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _never: Instant) -> Waited {
        let held = guard.0.take().expect("held");
        guard.0 = Some(self.0.wait(held).expect("not poisoned"));
        Waited
    }
}

/// What came first: always the wake-up.
pub struct Waited;

impl Waited {
    pub fn timed_out(&self) -> bool {
        false
    }
}
