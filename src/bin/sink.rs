//! `sink`: acks events at a limited rate, and remembers what it acked.

#[path = "../program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::run("sink")
}
