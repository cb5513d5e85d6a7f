//! What chaos may change in the sink's rate and answers, and until when.
//!
//! Invariant: a fault always has an end, and the sink itself ends it; a chaos command that is
//! interrupted, killed or cut off cannot leave the sink slow. One fault at a time: a later one
//! replaces the one before. Pure state: time is a parameter, `gate` passes it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::units;

/// Largest rate that can be asked for, tokens/s: the limit of `--rate-limit` too.
const RATE_MAX: f64 = 1e9;

/// Longest fault: a day is longer than any experiment, and limits every mistake.
pub const FAULT_MAX: Duration = Duration::from_secs(86_400);

/// The body of `POST /control`: `{"do":"stall","rate":200,"for":"90s"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Command {
    /// Sets the base rate, which holds while there is no fault.
    Rate {
        /// Tokens/s, above 0.
        rate: f64,
    },
    /// Lowers (or raises) the rate for a time.
    Stall {
        /// Tokens/s; 0 is a pause.
        rate: f64,
        /// How long, at most [`FAULT_MAX`].
        #[serde(rename = "for", with = "written")]
        time: Duration,
    },
    /// Acks nothing for a time.
    Pause {
        /// How long, at most [`FAULT_MAX`].
        #[serde(rename = "for", with = "written")]
        time: Duration,
    },
    /// Fails requests for a time, at the base rate.
    Fail {
        /// In which way.
        how: Failing,
        /// How long, at most [`FAULT_MAX`].
        #[serde(rename = "for", with = "written")]
        time: Duration,
    },
    /// Ends the fault now.
    Restore {
        /// Ends the fault only if it has this id; without an id, any fault.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<u64>,
    },
}

/// How a request fails while [`Command::Fail`] is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failing {
    /// Answered 500: nothing of it is delivered.
    #[serde(rename = "500")]
    Broken,
    /// Answered 429 with `Retry-After`: nothing of it is delivered.
    #[serde(rename = "429")]
    Limited,
    /// Delivered whole, and the connection is closed in the middle of the answer: its caller cannot
    /// know, and what it sends again is a duplicate.
    #[serde(rename = "cut")]
    Cut,
    /// The first half of its events is delivered and acked; a single event is.
    #[serde(rename = "partial")]
    Partial,
}

impl Failing {
    const ALL: [(Self, &str); 4] = [
        (Self::Broken, "500"),
        (Self::Limited, "429"),
        (Self::Cut, "cut"),
        (Self::Partial, "partial"),
    ];

    /// Its name in flags and JSON.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }
}

impl std::str::FromStr for Failing {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(one, _)| *one).ok_or("expected 500, 429, cut or partial")
    }
}

/// Times in JSON as in flags: `90s`.
mod written {
    use super::Duration;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&humantime::format_duration(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::fault_time(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// The cost of a call: for n events `call_cost + n × event_cost` tokens, so that it is served in
/// that many / rate seconds if no request is before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Tokens of a call, whatever its events.
    pub call_cost: f64,
    /// Tokens of each event.
    pub event_cost: f64,
}

impl Costs {
    /// Tokens of a call of `events` events.
    pub fn of(self, events: usize) -> f64 {
        self.call_cost + self.event_cost * events as f64
    }
}

/// The answer to `GET /control` and `POST /control`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The rate without a fault, tokens/s.
    pub base_rate: f64,
    /// The rate now, tokens/s.
    pub rate: f64,
    /// What a call costs, in the same object: `call_cost`, `event_cost`.
    #[serde(flatten)]
    pub costs: Costs,
    /// The current fault.
    pub fault: Option<FaultStatus>,
    /// Requests that wait for their tokens.
    pub waiting: usize,
    /// Whether a request without tokens is refused at once, and whether each connection has a rate of its own.
    #[serde(default)]
    pub rejects: bool,
    /// See there.
    #[serde(default)]
    pub per_connection: bool,
}

/// A fault as seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultStatus {
    /// Names it in [`Command::Restore`]; counts from 1.
    pub id: u64,
    /// `stall`, `pause`, or `fail` and how.
    pub kind: String,
    /// The rate while it lasts, tokens/s.
    pub rate: f64,
    /// Seconds from its start to its end.
    pub for_seconds: f64,
    /// Seconds left.
    pub left_seconds: f64,
}

/// A fault scheduled by the sink's own flags.
#[derive(Debug, Clone, Copy)]
pub struct Scheduled {
    /// When it starts.
    pub at: Instant,
    /// Tokens/s while it lasts.
    pub rate: f64,
    /// How long it lasts.
    pub time: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    id: u64,
    /// Tokens/s while it lasts; `None` leaves the base rate in force.
    rate: Option<f64>,
    failing: Option<Failing>,
    since: Instant,
    until: Instant,
}

/// Base rate, fault and schedule.
#[derive(Debug)]
pub struct Control {
    base_rate: f64,
    fault: Option<Fault>,
    scheduled: Option<Scheduled>,
    faults: u64,
}

/// A change of the rate in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// When it was due.
    pub at: Instant,
    /// Tokens/s from then on.
    pub rate: f64,
    /// What happened, for the log.
    pub what: &'static str,
}

impl Control {
    /// A sink of `base_rate` tokens/s.
    pub fn new(base_rate: f64, scheduled: Option<Scheduled>) -> Self {
        Self { base_rate, fault: None, scheduled, faults: 0 }
    }

    /// The rate in force, tokens/s.
    pub fn rate(&self) -> f64 {
        self.fault.and_then(|fault| fault.rate).unwrap_or(self.base_rate)
    }

    /// How requests fail now.
    pub fn failing(&self) -> Option<Failing> {
        self.fault.and_then(|fault| fault.failing)
    }

    /// Whether a fault is in force.
    pub fn is_disturbed(&self) -> bool {
        self.fault.is_some()
    }

    /// When the rate changes by itself next.
    pub fn next_change(&self) -> Option<Instant> {
        let end = self.fault.map(|fault| fault.until);
        let start = self.scheduled.map(|scheduled| scheduled.at);
        end.into_iter().chain(start).min()
    }

    /// The earliest change that is due by `now`; call it until there is none.
    pub fn advance(&mut self, now: Instant) -> Option<Change> {
        let at = self.next_change().filter(|at| *at <= now)?;
        let what = match self.scheduled {
            Some(stall) if stall.at == at => {
                self.scheduled = None;
                self.begin(Some(stall.rate), None, stall.time, at);
                "scheduled stall begins"
            }
            _ => {
                self.fault = None;
                "fault ends, base rate restored"
            }
        };
        Some(Change { at, rate: self.rate(), what })
    }

    /// Does what `command` says at `now`.
    ///
    /// # Errors
    /// When a rate or a time is outside its range: the message names it.
    pub fn apply(&mut self, command: &Command, now: Instant) -> Result<Change, String> {
        let what = match *command {
            Command::Rate { rate } => {
                if !(rate > 0.0 && rate <= RATE_MAX) {
                    return Err(format!("rate {rate}: from above 0 to {RATE_MAX} events/s"));
                }
                self.base_rate = rate;
                "base rate set"
            }
            Command::Stall { rate, time } => {
                if !(0.0..=RATE_MAX).contains(&rate) {
                    return Err(format!("rate {rate}: from 0 to {RATE_MAX} events/s"));
                }
                self.begin(Some(rate), None, checked(time)?, now);
                "stall begins"
            }
            Command::Pause { time } => {
                self.begin(Some(0.0), None, checked(time)?, now);
                "pause begins"
            }
            Command::Fail { how, time } => {
                self.begin(None, Some(how), checked(time)?, now);
                "requests fail from now on"
            }
            Command::Restore { fault } => {
                let ended = self.fault.take_if(|current| fault.is_none_or(|id| id == current.id));
                if ended.is_some() { "fault ended" } else { "nothing to restore" }
            }
        };
        Ok(Change { at: now, rate: self.rate(), what })
    }

    /// The status at `now`, with these `costs` of calls and `waiting` requests.
    pub fn status(&self, now: Instant, costs: Costs, waiting: usize) -> Status {
        let kind = |fault: Fault| match (fault.failing, fault.rate) {
            (Some(how), _) => format!("fail {}", how.name()),
            (None, Some(0.0)) => "pause".to_owned(),
            (None, _) => "stall".to_owned(),
        };
        let fault = self.fault.map(|fault| FaultStatus {
            id: fault.id,
            kind: kind(fault),
            rate: self.rate(),
            for_seconds: (fault.until - fault.since).as_secs_f64(),
            left_seconds: fault.until.saturating_duration_since(now).as_secs_f64(),
        });
        Status {
            base_rate: self.base_rate,
            rate: self.rate(),
            costs,
            fault,
            waiting,
            rejects: false,
            per_connection: false,
        }
    }

    fn begin(
        &mut self,
        rate: Option<f64>,
        failing: Option<Failing>,
        time: Duration,
        since: Instant,
    ) {
        self.faults += 1;
        self.fault = Some(Fault { id: self.faults, rate, failing, since, until: since + time });
    }
}

/// A fault's time as flags and JSON write it: `90s`, above 0 and at most [`FAULT_MAX`].
///
/// # Errors
/// What was expected.
pub fn fault_time(text: &str) -> Result<Duration, String> {
    checked(units::duration(text)?)
}

fn checked(time: Duration) -> Result<Duration, String> {
    if time.is_zero() || time > FAULT_MAX {
        return Err(format!(
            "a fault of {}: expected a time above 0 and at most {}",
            humantime::format_duration(time),
            humantime::format_duration(FAULT_MAX)
        ));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command() -> impl Strategy<Value = Command> {
        let time = || (1u64..100).prop_map(Duration::from_secs);
        // Quarters are exact in text: the last bit of a rate is no concern of this test.
        let rate = || (1u32..40_000).prop_map(|quarters| f64::from(quarters) / 4.0);
        prop_oneof![
            rate().prop_map(|rate| Command::Rate { rate }),
            (rate(), time()).prop_map(|(rate, time)| Command::Stall { rate, time }),
            time().prop_map(|time| Command::Pause { time }),
            (0usize..4, time())
                .prop_map(|(n, time)| Command::Fail { how: Failing::ALL[n].0, time }),
            proptest::option::of(0u64..20).prop_map(|fault| Command::Restore { fault }),
        ]
    }

    proptest! {
        /// Prevents: a sink that stays slow. Whatever commands came and in which order, once no
        /// more come the base rate is back after the longest requested time.
        #[test]
        fn every_fault_ends_by_itself(
            commands in proptest::collection::vec((command(), 0u64..50), 0..40),
        ) {
            let mut now = Instant::now();
            let stall = Scheduled { at: now + Duration::from_secs(30), rate: 7.0,
                time: Duration::from_secs(60) };
            let mut control = Control::new(2_000.0, Some(stall));
            for (command, pass) in &commands {
                let change = control.apply(command, now).expect("all in range");
                prop_assert_eq!(change.rate, control.rate());
                now += Duration::from_secs(*pass);
                while let Some(change) = control.advance(now) {
                    prop_assert!(change.at <= now);
                }
            }
            while control.advance(now + Duration::from_secs(100 + 90)).is_some() {}
            prop_assert_eq!(control.rate(), control.base_rate);
            prop_assert_eq!((control.next_change(), control.failing()), (None, None));
        }

        #[test]
        fn commands_travel_as_json(command in command()) {
            let text = serde_json::to_string(&command).expect("json");
            prop_assert_eq!(&serde_json::from_str::<Command>(&text).expect("json"), &command);
            if let Command::Fail { how, .. } = command {
                prop_assert_eq!(how.name().parse(), Ok(how));
                let written = format!(r#""how":"{}""#, how.name());
                prop_assert!(text.contains(&written), "{}", text);
            }
        }
    }

    #[test]
    fn a_late_restore_does_not_end_somebody_elses_fault() {
        let now = Instant::now();
        let mut control = Control::new(2_000.0, None);
        let pause = |s| Command::Pause { time: Duration::from_secs(s) };
        control.apply(&pause(5), now).expect("in range");
        control.apply(&pause(9), now).expect("in range");
        control.apply(&Command::Restore { fault: Some(1) }, now).expect("in range");
        assert_eq!(control.status(now, Costs::default(), 0).fault.map(|f| f.id), Some(2));
        control.apply(&Command::Restore { fault: Some(2) }, now).expect("in range");
        assert_eq!(control.rate(), 2_000.0);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_value_and_range() {
        let now = Instant::now();
        let mut control = Control::new(2_000.0, None);
        let time = Duration::from_secs(1);
        for rate in [-1.0, f64::NAN, f64::INFINITY, 2e9] {
            let why = control.apply(&Command::Stall { rate, time }, now).expect_err("refused");
            assert!(why.contains(&rate.to_string()) && why.contains("1000000000"), "{why}");
            assert!(control.apply(&Command::Rate { rate }, now).is_err());
        }
        assert!(control.apply(&Command::Rate { rate: 0.0 }, now).is_err());
        for time in [Duration::ZERO, FAULT_MAX + time] {
            let why = control.apply(&Command::Pause { time }, now).expect_err("refused");
            assert!(why.contains("1day"), "{why}");
        }
        assert_eq!(control.rate(), 2_000.0);
        for text in [
            "{}",
            "[]",
            r#"{"do":"melt"}"#,
            r#"{"do":"pause"}"#,
            r#"{"do":"pause","for":30}"#,
            r#"{"do":"pause","for":"0s"}"#,
            r#"{"do":"stall","rate":1,"for":"1s","x":1}"#,
            r#"{"do":"fail","how":"502","for":"1s"}"#,
            r#"{"do":"fail","for":"1s"}"#,
        ] {
            assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
        }
    }
}
