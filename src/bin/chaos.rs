//! `chaos`: makes the sink slow, silent or faulty for a time.

#[path = "../program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::run("chaos")
}
