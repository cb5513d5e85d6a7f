//! The flags of `lab predict` by name, as a user types them: a page changes one of them, a recorded
//! run gives some. They go through the command's own parser, so a page can ask only what the
//! command can.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::cli;
use crate::failure::Failure;
use crate::lab::experiments::Setup;
use crate::policy::Policy;
use crate::policy::shed::Who;

/// Name and values: none of a switch, several of a flag that was given more than once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Words(BTreeMap<String, Vec<String>>);

/// Flags that say how an answer is shown; they do not change it.
const SHOWN: [&str; 4] = ["beside", "chart", "json", "listen"];

impl Words {
    /// The flags that this process was started with.
    pub fn typed() -> Self {
        let all = cli::normalise(std::env::args().skip(1));
        Self::read(all.into_iter().skip_while(|word| word != "predict").skip(1))
    }

    /// The flags for arm `name` of a setup; `None` for one that the setup does not have.
    pub fn of_arm(setup: &Setup, name: &str) -> Option<Self> {
        let arm = setup.arm(name)?;
        let time = |s: f64| match s.fract() {
            0.0 => format!("{s}s"),
            _ => format!("{}us", (s * 1e6).round()),
        };
        let steps: Vec<String> =
            arm.schedule.iter().map(|(rate, s)| format!("{rate}:{}", time(*s))).collect();
        let limit = setup.tokens(arm, setup.ceiling);
        let mut words = Self::default()
            .with("schedule", steps.join(","))
            .with("rate-limit", limit)
            .with("call-cost", setup.call.cost)
            .with("event-cost", setup.call.event_cost)
            .with("batch-size", arm.batch)
            .with("sink-workers", arm.workers)
            .with("msg-size", arm.payload_bytes)
            .with("linger", time(arm.producer_linger_s))
            .with("partitions", arm.partitions)
            .with("members", arm.members().max(1));
        words = match arm.queue_cap {
            None => words.with("queue", "unbounded"),
            Some(0.0) => words.with("queue", "pull"),
            Some(cap) => words.with("queue", "bounded").with("queue-cap", cap),
        };
        if let Some(bytes) = arm.spill_max {
            words = words.with("queue", "spill").with("spill-max", format!("{bytes}B"));
        }
        if arm.policy != Policy::Buffer {
            words = words.with("policy", arm.policy.name());
        }
        if arm.policy == Policy::Shed && arm.shed != Who::Oldest {
            words = words.with("shed", arm.shed.name());
        }
        if arm.policy == Policy::Credit {
            words = words.with("credit-window", arm.credit_window);
        }
        // The limit is that of the arm which may reach it.
        if let (Some(limit), None) = (setup.memory_limit, arm.queue_cap) {
            words = words.with("memory-limit", format!("{limit}B"));
        }
        // One that slows nothing down, or comes after the load, is none.
        let stall = setup.stall.map(|stall| (stall, setup.tokens(arm, stall.rate)));
        let stall = stall.filter(|(stall, rate)| *rate < limit && stall.from < arm.load().end_s());
        Some(match stall {
            Some((stall, rate)) => {
                let when = format!("{}:{}", time(stall.from), time(stall.length()));
                words.with("stall", format!("{rate}@{when}"))
            }
            None => words,
        })
    }

    fn read(words: impl IntoIterator<Item = String>) -> Self {
        let mut found = Self::default();
        let mut last = None;
        for word in words {
            match (word.strip_prefix("--"), last.take()) {
                (Some(name), _) => {
                    found.0.entry(name.into()).or_default();
                    last = Some(name.to_owned());
                }
                (None, Some(name)) => found.0.entry(name).or_default().push(word),
                (None, None) => {}
            }
        }
        found.0.retain(|name, _| !SHOWN.contains(&name.as_str()));
        found
    }

    /// Gives flag `name` this one value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.into(), vec![value.to_string()]);
        self
    }

    /// These, and those of `base` that are not among them.
    #[must_use]
    pub fn over(mut self, base: &Self) -> Self {
        for (name, values) in &base.0 {
            self.0.entry(name.clone()).or_insert_with(|| values.clone());
        }
        self
    }

    /// The command's settings by these flags.
    ///
    /// # Errors
    /// `Usage`, with the parser's message.
    pub fn settings(&self) -> Result<Settings, Failure> {
        if let Some(name) = self.0.keys().find(|name| SHOWN.contains(&name.as_str())) {
            let why =
                format!("--{name} says how an answer is shown, and is no part of the question");
            return Err(Failure::Usage(why));
        }
        cli::parsed("lab predict", self.flat()).map_err(Failure::Usage)
    }

    /// The command for the same forecast.
    pub fn command(&self) -> String {
        ["lab".into(), "predict".into()]
            .into_iter()
            .chain(self.flat())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn flat(&self) -> Vec<String> {
        let mut flat = Vec::new();
        for (name, values) in &self.0 {
            let name = format!("--{name}");
            match &values[..] {
                [] => flat.push(name),
                values => flat.extend(values.iter().flat_map(|v| [name.clone(), v.clone()])),
            }
        }
        flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Words {
        Words::read(cli::normalise(line.split(' ').map(str::to_owned)))
    }

    /// Prevents: a page that loses a flag of its command, asks for files, or shows another command
    /// than the one it ran.
    #[test]
    fn words_are_the_command_less_how_it_is_shown() {
        let line =
            "--schedule=1500:9s --drain --stall 0@1s:2s -stall 5@4s:1s --listen 127.0.0.1:0 --json";
        let words = read(line);
        let command = "lab predict --drain --schedule 1500:9s --stall 0@1s:2s --stall 5@4s:1s";
        assert_eq!(words.command(), command);
        let settings = words.settings().expect("flags");
        assert!(settings.drain && settings.stall.len() == 2 && settings.listen.is_none());
        let other = read("--schedule 1:1s").over(&words.with("queue", "pull"));
        assert!(
            other
                .command()
                .ends_with("--queue pull --schedule 1:1s --stall 0@1s:2s --stall 5@4s:1s")
        );
        for bad in ["--nothing 1", "--queue pulled", "--chart /tmp", "--help"] {
            let words = Words::default().over(&read("--schedule 1:1s"));
            let (name, value) = bad.trim_start_matches('-').split_once(' ').unwrap_or((bad, "1"));
            let why = words.with(name.trim_start_matches('-'), value).settings().expect_err(bad);
            assert!(matches!(why, Failure::Usage(_)), "{bad}: {why}");
        }
    }
}
