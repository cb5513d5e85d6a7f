//! Steps the wall clock that one program sees, and no other, while it runs. The monotonic clock
//! stays true, as it does when an administrator sets the time. Dynamically linked programs only;
//! `run/clock.c` has the method.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::lab::tools;

/// See the module.
pub struct OwnClock {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl OwnClock {
    /// A clock without a step so far; its file is in `dir`, its library beside the programs.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub fn new(dir: &Path, programs: &Path) -> Result<Self, Failure> {
        let here = std::env::current_dir().unwrap_or_default();
        // Not in `dir`: the loader ends a path at a blank or a colon.
        let library = here.join(programs).join("clock.so");
        let name = library.display().to_string();
        if name.contains([' ', ':']) {
            return Err(Failure::Failed(format!(
                "the loader cannot use {name}: choose a CARGO_TARGET_DIR without blanks and colons"
            )));
        }
        let flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", &name, "run/clock.c"];
        tools::run(&[&["cc"][..], &flags].concat())?;
        let path = here.join(dir).join("clock");
        let failed = |e| Failure::Failed(format!("{}: {e}", path.display()));
        let file = File::create(&path).map_err(failed)?;
        let clock = Self { file, path, library };
        clock.step(0)?;
        Ok(clock)
    }

    /// The prefix of a command that is to see this clock.
    pub fn prefix(&self) -> Vec<String> {
        let preload = format!("LD_PRELOAD={}", self.library.display());
        vec!["env".into(), preload, format!("STEPPED_CLOCK={}", self.path.display())]
    }

    /// Sets the clock so many seconds off the true time from now on. The file is overwritten, never
    /// created anew or emptied: it is mapped into the program.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn step(&self, seconds: i64) -> Result<(), Failure> {
        self.file
            .write_all_at(format!("{seconds:020}\n").as_bytes(), 0)
            .map_err(|e| Failure::Failed(format!("{}: {e}", self.path.display())))?;
        log::info!(seconds = seconds; "clock stepped");
        Ok(())
    }
}
