//! `processor`: takes events from the log, hands them to the sink, commits what was acked.

use std::process::ExitCode;

use backpressure_lab::cli;
use backpressure_lab::pipeline::{self, flags::Flags};

fn main() -> ExitCode {
    cli::main(option_env!("LAB_REVISION"), |flags: Flags| {
        let summary = pipeline::run(flags.settings()?)?;
        cli::say_json(&summary)
    })
}
