//! The watch of an arm, in this process.

use std::path::Path;
use std::thread::JoinHandle;

use super::commands::{self, settings};
use crate::failure::Failure;
use crate::lab::watch;
use crate::threads::{self, Stop};

/// See the module.
pub struct Watch {
    stop: Stop,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Watch {
    /// Starts it from the flags of its command.
    ///
    /// # Errors
    /// When the command cannot be noted, or is not valid.
    pub fn start(dir: &Path, command: &[String]) -> Result<Self, Failure> {
        commands::note(dir, &commands::line(command))?;
        let (settings, stop) = (settings::<watch::Settings>(command)?, Stop::default());
        let thread = threads::spawn("watch", {
            let stop = stop.clone();
            move || watch::until(&settings, &stop)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Checks that it goes on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn alive(&self) -> Result<(), Failure> {
        match self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            true => Ok(()),
            false => Err(Failure::Failed("the watch ended too early (its words are above)".into())),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The watch's failure.
    pub fn end(mut self) -> Result<(), Failure> {
        self.stop.set();
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            // Its flags are ours, so this is no mistake of the user.
            Some(Ok(outcome)) => outcome.map_err(Failure::failed),
            _ => Err(Failure::Failed("the watch panicked (its words are above)".into())),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(Ok(Err(why))) = self.thread.take().map(JoinHandle::join) {
            log::error!(why = why.to_string(); "the watch failed");
        }
    }
}
