//! `processor`: reads events from the log, sends them to the sink, and commits what was acked.

#[path = "../program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::run("processor")
}
