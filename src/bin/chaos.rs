//! `chaos`: makes the sink slow or deaf for a time.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;
use backpressure_lab::chaos::Chaos;
use backpressure_lab::failure::Failure;
use backpressure_lab::http::access;
use backpressure_lab::sink::control::{Command, fault_time};
use backpressure_lab::threads::Stop;
use backpressure_lab::{cli, units};

/// Makes the sink slow (stall) or deaf (pause) for a time, and restores it. The sink ends the
/// fault by itself, whatever becomes of this command.
#[derive(FromArgs)]
#[argh(example = "chaos stall --rate 200 --for 90s\nchaos pause --for 30s\nchaos restore\n\
                  chaos status")]
struct Flags {
    /// stall, pause, restore or status
    #[argh(positional)]
    action: Action,
    /// tokens per second during a stall; 0 is a pause
    #[argh(option, from_str_fn(units::rate_or_zero))]
    rate: Option<f64>,
    /// how long a stall or a pause lasts, at most 1day
    #[argh(option, long = "for", from_str_fn(fault_time))]
    time: Option<Duration>,
    /// the sink (LAB_SINK, else http://127.0.0.1:9900)
    #[argh(option)]
    sink: Option<String>,
    /// file with the sink's token (LAB_TOKEN)
    #[argh(option)]
    token_file: Option<PathBuf>,
}

enum Action {
    Stall,
    Pause,
    Restore,
    Status,
}

impl std::str::FromStr for Action {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stall" => Ok(Self::Stall),
            "pause" => Ok(Self::Pause),
            "restore" => Ok(Self::Restore),
            "status" => Ok(Self::Status),
            _ => Err("expected stall, pause, restore or status"),
        }
    }
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(flags: Flags) -> Result<(), Failure> {
    let url = cli::or_env(flags.sink, "LAB_SINK", "http://127.0.0.1:9900");
    let chaos = Chaos::new(&url, access::token(flags.token_file.as_deref())?)?;
    let stop = Stop::default();
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    match (flags.action, flags.rate, flags.time) {
        (Action::Stall, Some(rate), Some(time)) => {
            stop.on_signals()?;
            chaos.hold(&Command::Stall { rate, time }, time, &stop)
        }
        (Action::Pause, None, Some(time)) => {
            stop.on_signals()?;
            chaos.hold(&Command::Pause { time }, time, &stop)
        }
        (Action::Restore, None, None) => chaos.restore(),
        (Action::Status, None, None) => chaos.status(),
        (Action::Stall, ..) => {
            usage("stall needs --rate and --for: chaos stall --rate 200 --for 90s")
        }
        (Action::Pause, ..) => {
            usage("pause needs --for and takes no --rate: chaos pause --for 30s")
        }
        (Action::Restore | Action::Status, ..) => {
            usage("restore and status take no --rate or --for")
        }
    }
}
