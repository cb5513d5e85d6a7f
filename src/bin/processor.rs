//! `processor`: takes events from the log, hands them to the sink, commits what was acked.

#[path = "../program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::run("processor")
}
