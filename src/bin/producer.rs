//! `producer`: offers events to a Kafka topic at the rate of a schedule, whatever the brokers do.

#[path = "../program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::run("producer")
}
