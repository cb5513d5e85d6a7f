//! The flags of `chaos`, and what they ask for.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::Chaos;
use crate::failure::Failure;
use crate::http::access;
use crate::sink::control::{Command, Failing, fault_time};
use crate::threads::Stop;
use crate::{cli, units};

/// Makes the sink slow (stall), silent (pause) or faulty (fail) for a time, and restores it. The
/// sink ends the fault by itself, also when this command is killed.
#[derive(FromArgs, ArgsInfo)]
#[argh(example = "chaos stall --rate 200 --for 90s\nchaos pause --for 30s\n\
                  chaos fail --how cut --for 10s\nchaos restore\nchaos status")]
pub struct Flags {
    /// stall, pause, fail, restore or status
    #[argh(positional)]
    action: Action,
    /// tokens per second during a stall; 0 is a pause
    #[argh(option, from_str_fn(units::rate_or_zero))]
    rate: Option<f64>,
    /// how requests fail: 500, 429, cut (delivered, the answer is cut off), partial (half a batch)
    #[argh(option)]
    how: Option<Failing>,
    /// how long a stall, a pause or a failure lasts, at most 1day
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
    Fail,
    Restore,
    Status,
}

impl std::str::FromStr for Action {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stall" => Ok(Self::Stall),
            "pause" => Ok(Self::Pause),
            "fail" => Ok(Self::Fail),
            "restore" => Ok(Self::Restore),
            "status" => Ok(Self::Status),
            _ => Err("expected stall, pause, fail, restore or status"),
        }
    }
}

/// Does what the flags say.
///
/// # Errors
/// `Usage` for flags that do not go together, and what the sink says.
pub fn run(flags: Flags) -> Result<(), Failure> {
    let url = cli::or_env(flags.sink, "LAB_SINK", "http://127.0.0.1:9900");
    let chaos = Chaos::new(&url, access::token(flags.token_file.as_deref())?)?;
    let stop = Stop::default();
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    let (command, time) = match (flags.action, flags.rate, flags.how, flags.time) {
        (Action::Stall, Some(rate), None, Some(time)) => (Command::Stall { rate, time }, time),
        (Action::Pause, None, None, Some(time)) => (Command::Pause { time }, time),
        (Action::Fail, None, Some(how), Some(time)) => (Command::Fail { how, time }, time),
        (Action::Restore, None, None, None) => return chaos.restore(),
        (Action::Status, None, None, None) => return chaos.status(),
        (Action::Stall, ..) => {
            return usage("stall needs --rate and --for: chaos stall --rate 200 --for 90s");
        }
        (Action::Pause, ..) => return usage("pause needs --for alone: chaos pause --for 30s"),
        (Action::Fail, ..) => {
            return usage("fail needs --how and --for: chaos fail --how 500 --for 10s");
        }
        (Action::Restore | Action::Status, ..) => {
            return usage("restore and status take no --rate, --how or --for");
        }
    };
    stop.on_signals()?;
    chaos.hold(&command, time, &stop)
}
