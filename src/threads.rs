//! Named OS threads that are joined, and the one stop signal that all of them watch.
//!
//! Invariant: a thread that panics stops the whole pipeline with exit code 1; it never just goes
//! missing.

mod pulse;
mod stop;

pub use pulse::Pulse;
pub use stop::Stop;

use std::panic::AssertUnwindSafe;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::Failure;

impl Stop {
    /// Sets the signal on SIGINT and SIGTERM; a second one ends the process at once.
    pub fn on_signals(&self) -> Result<(), Failure> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
            .map_err(|e| Failure::Failed(format!("cannot watch SIGINT and SIGTERM: {e}")))?;
        let stop = self.clone();
        spawn("signals", move || {
            for (seen, signal) in signals.forever().enumerate() {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
                if seen > 0 {
                    log::warn!(signal = name; "second signal, ending at once");
                    std::process::exit(128 + signal);
                }
                log::info!(signal = name; "stopping in order");
                stop.set();
            }
        })
        .map(drop)
    }
}

/// Names this process, by its first thread, for `ps` and `pgrep`.
pub fn name_process(name: &str) {
    let Ok(name) = std::ffi::CString::new(name) else { return };
    // SAFETY: the name ends with a 0; the kernel copies at most 16 bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Starts a detached named thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|e| Failure::Failed(format!("cannot start thread {name}: {e}")))
}

/// Starts a named thread that stops the run when it fails, or panics: broken bytes make crate
/// `kafka` panic. No thread need wait for its end, because in a dead socket that takes up to 120 s.
pub fn spawn_watched(
    name: &str,
    stop: Stop,
    body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let label = name.to_owned();
    spawn(name, move || match std::panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => stop.fail(failure.to_string()),
        Err(panic) => stop.fail(format!("thread {label} panicked: {}", message(&*panic))),
    })
}

/// Threads that are joined when the group is dropped; a panic in one stops them all.
#[derive(Default)]
pub struct ThreadGroup {
    stop: Stop,
    members: Vec<JoinHandle<()>>,
}

impl ThreadGroup {
    /// A group that reports its threads' panics to `stop`.
    pub fn new(stop: Stop) -> Self {
        Self { stop, members: Vec::new() }
    }

    /// Starts a named member. Its body ends by itself when the signal is set or its channel
    /// closes; an `Err` stops the run with that failure.
    pub fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        self.members.push(spawn_watched(name, self.stop.clone(), body)?);
        Ok(())
    }

    /// Waits at most `time`; true when every member ended. The rest run on, detached: they hold
    /// only resources that the process's end frees.
    pub fn join_within(&mut self, time: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + time;
        while self.members.iter().any(|m| !m.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        let all = self.members.iter().all(JoinHandle::is_finished);
        self.members.retain(JoinHandle::is_finished);
        self.join();
        all
    }

    /// Waits for no member: the process ends.
    pub fn leave_behind(mut self) {
        self.members.clear();
    }

    /// Waits for every member to end.
    pub fn join(&mut self) {
        for member in self.members.drain(..) {
            // The body catches its own panic; a join error has nothing to add.
            let _caught_inside = member.join();
        }
    }
}

impl Drop for ThreadGroup {
    fn drop(&mut self) {
        self.join();
    }
}

/// The message of a caught panic.
pub fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_member_stops_the_run_and_names_itself() {
        let stop = Stop::default();
        let mut threads = ThreadGroup::new(stop.clone());
        threads.spawn("bad", || panic!("boom")).expect("thread");
        threads.join();
        assert!(stop.is_set());
        let why = stop.outcome().expect_err("a panic is a failure").to_string();
        assert!(why.contains("bad") && why.contains("boom"), "{why}");
    }

    #[test]
    fn set_wakes_a_waiter_and_stays_set() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        let other = stop.clone();
        let waiter = spawn("waiter", move || other.wait(Duration::from_secs(60))).expect("thread");
        stop.set();
        assert!(waiter.join().expect("no panic"));
        assert!(stop.is_set() && stop.outcome().is_ok());
    }
}
