//! A signal that ends a run in order. A second one changes nothing: half a clean-up is worse than a
//! slow one, and every wait in it has a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::backoff::Backoff;
use crate::failure::Failure;

/// How often a wait looks for a signal.
pub const LOOK: Duration = Duration::from_millis(20);
/// The first and the longest interval between the checks of a patient wait, and how often it says
/// that it still waits.
const PATIENT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Whether a signal came, and which.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Set by SIGINT, SIGTERM and SIGHUP, except those that the caller ignores, as nohup does.
    ///
    /// # Errors
    /// When the process cannot watch them.
    pub fn on_signals() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let ignored = ignored();
        let watched = [SIGINT, SIGTERM, SIGHUP].into_iter();
        for signal in watched.filter(|signal| ignored & (1 << (signal - 1)) == 0) {
            let number = usize::try_from(signal).map_err(Failure::failed)?;
            signal_hook::flag::register_usize(signal, interrupt.0.clone(), number)
                .map_err(|e| Failure::Failed(format!("signal {signal} cannot be watched: {e}")))?;
        }
        Ok(interrupt)
    }

    /// `Err` once a signal came.
    ///
    /// # Errors
    /// [`Failure::Interrupted`].
    pub fn check(&self) -> Result<(), Failure> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Failure::Interrupted(u8::try_from(signal).unwrap_or(u8::MAX))),
        }
    }

    /// Checks `ready` until it gives something, for at most `time`; `None` when the time is over.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], and what `ready` fails with.
    pub fn until<T>(
        &self,
        time: Duration,
        ready: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        self.look(time, ready, |_| {
            std::thread::sleep(LOOK);
            Ok(())
        })
    }

    /// As [`Interrupt::until`], for a costly check: it checks with backoff, and says now and then
    /// that it still waits for `what`.
    ///
    /// # Errors
    /// The same.
    pub fn patiently<T>(
        &self,
        what: &str,
        time: Duration,
        ready: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let (mut backoff, mut said) = (Backoff::new(PATIENT.0, PATIENT.1), Instant::now());
        self.look(time, ready, |begun| {
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                log::info!(what = what, seconds = begun.elapsed().as_secs(), at_most = time.as_secs(); "still waiting");
            }
            self.until(backoff.wait(), || Ok(None::<()>)).map(drop)
        })
    }

    /// Checks, and waits by `wait` between two checks; `wait` gets the time of the first one.
    fn look<T>(
        &self,
        time: Duration,
        mut ready: impl FnMut() -> Result<Option<T>, Failure>,
        mut wait: impl FnMut(Instant) -> Result<(), Failure>,
    ) -> Result<Option<T>, Failure> {
        let begun = Instant::now();
        loop {
            self.check()?;
            if let Some(value) = ready()? {
                return Ok(Some(value));
            }
            if begun.elapsed() >= time {
                return Ok(None);
            }
            wait(begun)?;
        }
    }
}

/// The signals that this process ignores, a bit each from signal 1 on.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_value_its_time_or_a_signal() {
        let interrupt = Interrupt::default();
        let mut looks = 0;
        let mut third = || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        };
        assert_eq!(
            interrupt.until(Duration::from_secs(60), &mut third).expect("no signal"),
            Some(3)
        );
        assert_eq!(interrupt.until(LOOK, || Ok(None::<()>)).expect("no signal"), None);
        interrupt.0.store(15, Ordering::SeqCst);
        let ended = interrupt.until(Duration::from_secs(60), || Ok(None::<()>));
        assert!(matches!(ended, Err(Failure::Interrupted(15))));
    }
}
