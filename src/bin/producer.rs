//! `producer`: offers events to a Kafka topic at the rate of a schedule, however slow the brokers
//! are.

#[path = "../program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::run("producer")
}
