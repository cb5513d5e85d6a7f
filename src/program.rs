//! Becomes the program `lab` beside this one, under this one's name. `lab` is all five programs, linked once; the other
//! four are their names (`src/bin/lab.rs` goes by the name that it is called by).

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Runs `name` with this process's arguments; returns only when there is no `lab`.
pub fn run(name: &str) -> ExitCode {
    // If the system does not give this program's path, the `lab` of PATH.
    let lab = std::env::current_exe().unwrap_or_default().with_file_name("lab");
    let why = Command::new(&lab).arg0(name).args(std::env::args_os().skip(1)).exec();
    eprintln!(
        "error: {name} is a part of {}: {why}; install the five programs side by side",
        lab.display()
    );
    ExitCode::from(1)
}
