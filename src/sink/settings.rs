//! The sink's flags as a user writes them, and the settings made from them.
//!
//! Invariant: a `Settings` can be run as it is; making one opens nothing but the token's file.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::buckets::Per;
use super::control::fault_time;
use super::gate::OnLimit;
use crate::cli;
use crate::failure::Failure;
use crate::http::access::{self, Token};
use crate::units;

/// Default of `--handlers`: each of 64 clients in a closed loop has its place.
pub const HANDLERS_DEFAULT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Largest `--handlers`: each holds one thread, five while the server starts.
pub const HANDLERS_MAX: usize = 256;

/// Where the groups of [`Flags`] begin.
pub const GROUPS: cli::Groups = &[
    ("--listen", "Where it is"),
    ("--rate-limit", "What it takes"),
    ("--stall-rate", "A stall of its own"),
    ("--latency", "What a call costs besides"),
    ("--journal", "What it keeps"),
];

/// The sink of the lab: POST /write and /batch are acked no faster than a token bucket allows.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    usage = "[flags]",
    example = "{command_name} --rate-limit 2000\n\
               {command_name} --rate-limit 2000 --on-limit reject --listen 127.0.0.1:9900"
)]
pub struct Flags {
    /// where /write, /batch, /ledger, /control, /metrics, … are served; port 0 picks one (127.0.0.1:9900)
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 9900))")]
    pub listen: SocketAddr,
    /// tokens per second (2000)
    #[argh(option, default = "2000.0", from_str_fn(units::rate))]
    pub rate_limit: f64,
    /// whose limit that is: all (of all clients together), connection (of each connection, as where each client has a
    /// quota) (all)
    #[argh(option, default = "Per::All")]
    pub limit_per: Per,
    /// tokens that each call costs (0)
    #[argh(option, default = "0.0", from_str_fn(cost))]
    pub call_cost: f64,
    /// tokens that each event costs (1)
    #[argh(option, default = "1.0", from_str_fn(cost))]
    pub event_cost: f64,
    /// tokens saved up while there are no requests, at least 1 (50 ms of the rate)
    #[argh(option, from_str_fn(burst))]
    pub burst: Option<f64>,
    /// at the limit: delay (wait) or reject (429 and Retry-After) (delay)
    #[argh(option, default = "OnLimit::Delay")]
    pub on_limit: OnLimit,
    /// tokens per second during the sink's own stall; 0 is a pause
    #[argh(option, from_str_fn(units::rate_or_zero))]
    pub stall_rate: Option<f64>,
    /// when that stall starts, from the sink's start
    #[argh(option, from_str_fn(units::duration))]
    pub stall_at: Option<Duration>,
    /// how long it lasts, at most 1day
    #[argh(option, from_str_fn(fault_time))]
    pub stall_for: Option<Duration>,
    /// time that each call takes besides its wait for tokens (0)
    #[argh(option, default = "Duration::ZERO", from_str_fn(units::duration))]
    pub latency: Duration,
    /// requests that may wait at once; one more is answered 503 (64)
    #[argh(option, default = "HANDLERS_DEFAULT", from_str_fn(handlers))]
    pub handlers: NonZeroUsize,
    /// file that keeps what was delivered; a sink that starts with it goes on where that one ended
    #[argh(option)]
    pub journal: Option<PathBuf>,
    /// file with the token that control asks for (LAB_TOKEN); needed beyond loopback
    #[argh(option)]
    pub token_file: Option<PathBuf>,
}

/// The sink's settings, already checked.
#[derive(Clone)]
pub struct Settings {
    /// Where it listens; port 0 picks one.
    pub listen: SocketAddr,
    /// Base rate, tokens/s.
    pub rate: f64,
    /// Whose limit that is.
    pub per: Per,
    /// Tokens that may be saved up; see [`super::bucket::Bucket::new`].
    pub burst: Option<f64>,
    /// Tokens of a call.
    pub call_cost: f64,
    /// Tokens of an event.
    pub event_cost: f64,
    /// What happens at the limit.
    pub on_limit: OnLimit,
    /// A stall of its own.
    pub stall: Option<Stall>,
    /// The time of each call besides its wait for tokens.
    pub latency: Duration,
    /// Requests that may wait at once.
    pub handlers: NonZeroUsize,
    /// The journal of deliveries, which survives the process.
    pub journal: Option<PathBuf>,
    /// The token for control and profiles; see [`access::Access`].
    pub token: Option<Token>,
}

/// A stall that the sink schedules by itself.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    /// From the start of the sink to the start of the stall.
    pub after: Duration,
    /// Tokens/s while it lasts.
    pub rate: f64,
    /// How long it lasts.
    pub time: Duration,
}

impl Flags {
    /// Checks the flags together, beyond each flag's own range.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the flag and what it may be.
    pub fn settings(self) -> Result<Settings, Failure> {
        let stall = match (self.stall_at, self.stall_rate, self.stall_for) {
            (None, None, None) => None,
            (Some(after), Some(rate), Some(time)) => Some(Stall { after, rate, time }),
            _ => {
                return Err(Failure::Usage(
                    "--stall-at, --stall-rate and --stall-for make one stall: give all three, \
                     such as --stall-at 60s --stall-rate 200 --stall-for 90s"
                        .to_owned(),
                ));
            }
        };
        if self.call_cost + self.event_cost == 0.0 {
            return Err(Failure::flag(
                "--event-cost",
                self.event_cost,
                "with --call-cost 0 nothing would cost a token; make one of them more than 0",
            ));
        }
        Ok(Settings {
            listen: self.listen,
            rate: self.rate_limit,
            per: self.limit_per,
            burst: self.burst,
            call_cost: self.call_cost,
            event_cost: self.event_cost,
            on_limit: self.on_limit,
            stall,
            latency: self.latency,
            handlers: self.handlers,
            journal: self.journal,
            token: access::token(self.token_file.as_deref())?,
        })
    }
}

/// Tokens of a call, or of each of its events.
pub fn cost(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1e6, "tokens")
}

fn burst(text: &str) -> Result<f64, String> {
    number(text, 1.0, 1e9, "tokens")
}

fn number(text: &str, min: f64, max: f64, unit: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("expected {unit} from {min} to {max}")),
    }
}

fn handlers(text: &str) -> Result<NonZeroUsize, String> {
    match units::count(text)? {
        handlers if handlers.get() <= HANDLERS_MAX => Ok(handlers),
        _ => Err(format!("expected a whole number from 1 to {}", HANDLERS_MAX)),
    }
}
