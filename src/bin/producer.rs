//! `producer`: offers events to a Kafka topic at the rate of a schedule, whatever the brokers do.

use std::process::ExitCode;

use backpressure_lab::cli;
use backpressure_lab::load::producer;
use backpressure_lab::load::settings::Flags;

fn main() -> ExitCode {
    cli::main(option_env!("LAB_REVISION"), |flags: Flags| producer::run(flags.settings()?))
}
