//! The flags of `lab autoscale`: plain data, then checked into [`Settings`]. Opens nothing but the token's file.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::members;
use super::rules::{Bounds, Plan, lag, marginal};
use crate::brokers::Brokers;
use crate::failure::Failure;
use crate::http::access::{self, Token};
use crate::planes::Isolation;
use crate::{cli, units};

/// Looks that a window has at least: with two, and one of them late, there is no line.
const LOOKS_OF_A_WINDOW: u32 = 3;
/// Most copies of a command: each is a process.
const MEMBERS_MAX: usize = 1_000;

/// Scale the members of a consumer group on its lag: one that does not raise what is delivered is taken back.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "autoscale",
    example = "{command_name} --topic events --group yours --max 6 -- your-consumer --instance-id c-{{n}} --port 808{{n}}\n\
               {command_name} --topic events --group yours --max 6   # without a command: it only says, on /metrics, for KEDA",
    note = "Behind -- is the consumer with its flags. In each word {{n}} is the copy's number, from 1 up, which another gets when it \
            has ended (for ports and instance ids), and {{start}} counts the starts (for files)."
)]
pub struct Flags {
    /// bootstrap list (LAB_BROKERS, else where run/cluster.sh listens)
    #[argh(option)]
    pub brokers: Option<String>,
    /// properties file of a Kafka client: TLS and SASL (LAB_COMMAND_CONFIG)
    #[argh(option)]
    pub command_config: Option<String>,
    /// topic that the group reads (events)
    #[argh(option, default = "String::from(\"events\")")]
    pub topic: String,
    /// the group; it is not joined (lab)
    #[argh(option, default = "String::from(\"lab\")")]
    pub group: String,
    /// as the consumer's: read-uncommitted, read-committed (read-uncommitted)
    #[argh(option, default = "Isolation::ReadUncommitted", from_str_fn(Isolation::parse))]
    pub isolation: Isolation,
    /// members at least (1)
    #[argh(option, default = "NonZeroUsize::MIN", from_str_fn(members))]
    pub min: NonZeroUsize,
    /// members at most (6)
    #[argh(option, default = "NonZeroUsize::MIN.saturating_add(5)", from_str_fn(members))]
    pub max: NonZeroUsize,
    /// marginal (one more while there is lag; it stays only if more is delivered with it), lag (lag / --lag-threshold,
    /// as KEDA does), steps (--steps) (marginal)
    #[argh(option, default = "RuleName::Marginal", from_str_fn(rule))]
    pub rule: RuleName,
    /// of marginal: by how much what is delivered must rise with a member; beyond five members half of what one has
    /// on average is enough (10%)
    #[argh(option, default = "0.1", from_str_fn(units::share))]
    pub min_gain: f64,
    /// of marginal: the lag above which a member is added, as the time that the group needs for it at its rate (10s)
    #[argh(option, default = "Duration::from_secs(10)", from_str_fn(units::duration_above_zero))]
    pub lag_max: Duration,
    /// of marginal: time from the start or end of a member until the group delivers what it can: its start, and a rebalance (20s)
    #[argh(option, default = "Duration::from_secs(20)", from_str_fn(units::duration))]
    pub settle: Duration,
    /// of marginal: how long what is delivered is measured, by commits: some of the consumer's commit intervals (20s)
    #[argh(option, default = "Duration::from_secs(20)", from_str_fn(units::duration_above_zero))]
    pub window: Duration,
    /// of marginal and lag: how long fewer members are enough before one goes (5m)
    #[argh(option, default = "Duration::from_secs(300)", from_str_fn(units::duration))]
    pub idle: Duration,
    /// of marginal: when a step that was taken back is tried again, if neither lag nor delivered has changed (10m)
    #[argh(option, default = "Duration::from_secs(600)", from_str_fn(units::duration))]
    pub again_after: Duration,
    /// of lag: events of lag that are worth a member
    #[argh(option, from_str_fn(units::rate))]
    pub lag_threshold: Option<f64>,
    /// of steps: members for a time, MEMBERS:TIME[,MEMBERS:TIME…], from the first delivery on
    #[argh(option, from_str_fn(steps))]
    pub steps: Option<Steps>,
    /// time between two looks (1s)
    #[argh(option, default = "Duration::from_secs(1)", from_str_fn(units::duration_above_zero))]
    pub interval: Duration,
    /// how long a copy may take to end after SIGTERM, before it is killed (60s)
    #[argh(option, default = "Duration::from_secs(60)", from_str_fn(units::duration))]
    pub stop_within: Duration,
    /// folder for what the copies print: NAME-START.json is stdout, NAME-START.log stderr; without it they share ours
    #[argh(option)]
    pub logs: Option<PathBuf>,
    /// the NAME of these files (member)
    #[argh(option, default = "String::from(\"member\")")]
    pub name: String,
    /// where /metrics is served (127.0.0.1:9905); port 0 picks one
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 9905))")]
    pub listen: SocketAddr,
    /// file with the token that opens profiles off loopback (LAB_TOKEN)
    #[argh(option)]
    pub token_file: Option<PathBuf>,
    /// behind --, the consumer with its flags; without it, the command only says how many it wants. A copy's number, from
    /// 1 up, stands in for n in braces, and the count of starts for start in braces
    #[argh(positional, greedy)]
    pub command: Vec<String>,
}

/// Which rule, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleName {
    /// See [`marginal`].
    Marginal,
    /// See [`lag`].
    Lag,
    /// See [`super::rules::steps`].
    Steps,
}

/// (members, s).
type Steps = Vec<(usize, f64)>;

/// The checked settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bootstrap list.
    pub brokers: Brokers,
    /// Its topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// Which end of a log counts.
    pub isolation: Isolation,
    /// The rule.
    pub plan: Plan,
    /// Its bounds.
    pub bounds: Bounds,
    /// Between two looks.
    pub interval: Duration,
    /// Where /metrics is served.
    pub listen: SocketAddr,
    /// Opens profiles.
    pub token: Option<Token>,
    /// The command to run copies of; without one it only says how many.
    pub command: Option<members::Settings>,
}

impl Flags {
    /// Checks the flags together, beyond each flag's own range.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the flag and what it may be.
    pub fn settings(self) -> Result<Settings, Failure> {
        cli::check_topic(&self.topic)?;
        cli::check_group(&self.group)?;
        if self.min > self.max {
            return Err(Failure::flag(
                "--min",
                self.min,
                &format!("expected at most --max {}", self.max),
            ));
        }
        if !units::is_name(&self.name) || self.name.is_empty() {
            return Err(Failure::flag(
                "--name",
                &self.name,
                "expected letters, digits, '.', '_' or '-'",
            ));
        }
        let plan = self.plan()?;
        let command = (!self.command.is_empty()).then(|| members::Settings {
            command: self.command,
            most: self.max.get(),
            logs: self.logs,
            name: self.name,
            stop_within: self.stop_within,
        });
        Ok(Settings {
            brokers: Brokers::of_flags(self.brokers, self.command_config)?,
            topic: self.topic,
            group: self.group,
            isolation: self.isolation,
            plan,
            bounds: Bounds { min: self.min, max: self.max },
            interval: self.interval,
            listen: self.listen,
            token: access::token(self.token_file.as_deref())?,
            command,
        })
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let only = |flag: &str, rule: &str| Failure::Usage(format!("{flag} needs --rule {rule}"));
        if self.lag_threshold.is_some() && self.rule != RuleName::Lag {
            return Err(only("--lag-threshold", "lag"));
        }
        if self.steps.is_some() && self.rule != RuleName::Steps {
            return Err(only("--steps", "steps"));
        }
        let missing = |flag: &str, such: &str| {
            Failure::Usage(format!("{flag} is missing: the rule needs it, such as {flag} {such}"))
        };
        let least = LOOKS_OF_A_WINDOW * self.interval;
        if self.rule == RuleName::Marginal && self.window < least {
            let allowed = format!(
                "expected at least {}, {LOOKS_OF_A_WINDOW} times --interval: a rate is a line through its looks",
                units::show(least)
            );
            return Err(Failure::flag("--window", units::show(self.window), &allowed));
        }
        Ok(match self.rule {
            RuleName::Marginal => Plan::Marginal(marginal::Settings {
                min_gain: self.min_gain,
                lag_s: self.lag_max.as_secs_f64(),
                settle_s: self.settle.as_secs_f64(),
                window_s: self.window.as_secs_f64(),
                idle_s: self.idle.as_secs_f64(),
                again_s: self.again_after.as_secs_f64(),
            }),
            RuleName::Lag => Plan::Lag(lag::Settings {
                threshold: self.lag_threshold.ok_or_else(|| missing("--lag-threshold", "1000"))?,
                idle_s: self.idle.as_secs_f64(),
            }),
            RuleName::Steps => {
                Plan::Steps(self.steps.clone().ok_or_else(|| missing("--steps", "1:5m,3:1h"))?)
            }
        })
    }
}

fn rule(text: &str) -> Result<RuleName, String> {
    let names =
        [("marginal", RuleName::Marginal), ("lag", RuleName::Lag), ("steps", RuleName::Steps)];
    units::one_of(text, &names)
}

fn members(text: &str) -> Result<NonZeroUsize, String> {
    let allowed = format!("expected 1 to {MEMBERS_MAX}");
    units::count(text).ok().filter(|n| n.get() <= MEMBERS_MAX).ok_or(allowed)
}

fn steps(text: &str) -> Result<Steps, String> {
    let step = |part: &str| {
        let (members, time) = part.split_once(':')?;
        Some((units::count(members).ok()?.get(), units::duration(time).ok()?.as_secs_f64()))
    };
    let steps: Option<Steps> = text.split(',').map(step).collect();
    steps.ok_or_else(|| "expected MEMBERS:TIME[,MEMBERS:TIME…], such as 1:5m,3:1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        let words = line.split_whitespace().map(str::to_owned);
        let flags = cli::parsed::<Flags>("lab", words)?;
        flags.settings().map_err(|why| why.to_string())
    }

    /// Prevents: a flag of the consumer that is taken for one of ours, or rewritten.
    #[test]
    fn what_is_behind_the_dashes_is_the_consumers_own() {
        let line = "--max 3 -- java -Dx=y -cp a.jar Main --group=mine --min 9 {n}";
        let settings = settings(line).expect("flags");
        assert_eq!((settings.bounds.min.get(), settings.bounds.max.get()), (1, 3));
        let command = settings.command.expect("a command").command.join(" ");
        assert_eq!(command, "java -Dx=y -cp a.jar Main --group=mine --min 9 {n}");
        assert!(self::settings("--max 3").expect("flags").command.is_none());
    }

    #[test]
    fn flags_that_do_not_go_together_are_named() {
        for (line, says) in [
            ("--min 4 --max 3", "--min 4: expected at most --max 3"),
            ("--rule lag", "--lag-threshold is missing"),
            ("--rule steps", "--steps is missing"),
            ("--lag-threshold 5", "--lag-threshold needs --rule lag"),
            ("--rule lag --lag-threshold 5 --steps 1:5s", "--steps needs --rule steps"),
            ("--rule steps --steps 0:5s", "expected MEMBERS:TIME"),
            ("--rule other", "expected marginal, lag, steps"),
            ("--max 0", "expected 1 to 1000"),
            ("--name a/b", "--name a/b"),
        ] {
            let why = settings(line).expect_err(line);
            assert!(why.contains(says), "{line}: {why}");
        }
        let steps = settings("--rule steps --steps 2:10s,3:1m").expect("flags").plan;
        assert_eq!(steps, Plan::Steps(vec![(2, 10.0), (3, 60.0)]));
    }
}
