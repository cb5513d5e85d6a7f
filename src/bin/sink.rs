//! `sink`: acks events at a limited rate, and remembers what it acked.

use std::process::ExitCode;

use backpressure_lab::cli;
use backpressure_lab::sink::server;
use backpressure_lab::sink::settings::Flags;

fn main() -> ExitCode {
    cli::main(option_env!("LAB_REVISION"), |flags: Flags| server::run(flags.settings()?))
}
