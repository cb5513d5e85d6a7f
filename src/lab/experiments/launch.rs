//! The flags of each arm's processes, and what the programs themselves make of them: the setup that
//! a prediction reads. A number that stands in a flag stands nowhere else.
//!
//! Invariant: the flags go through the parsers of the programs that are started with them, so a
//! setup holds their defaults as well, and an unknown flag gives no setup.

use std::fmt;
use std::time::Duration;

use argh::FromArgs;
use serde::{Deserialize, Serialize};

use super::setup::Scaled;
use super::{ArmSetup, Call, Phase, Setup};
use crate::failure::Failure;
use crate::lab::{autoscale, layout};
use crate::load::resends::Ages;
use crate::pipeline::{self, Sharding};
use crate::planes::Client;
use crate::sink::buckets::Per;
use crate::sink::workers::Mode;
use crate::{cli, load, sink};

/// How long a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A run of minutes; it shows what a minute can show.
    Quick,
    /// As long as the targets ask for.
    Full,
}

impl Form {
    /// One of two values, as for most numbers of an experiment.
    pub fn of<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.of("quick", "full"))
    }
}

/// The processes of an arm with their flags, as a user could type them. The runner adds addresses,
/// topic, group and files.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Which arm of the experiment's.
    pub arm: String,
    /// Of its topic.
    pub partitions: u32,
    /// The topic's settings, `segment.bytes=1048576`.
    pub topic: Vec<String>,
    /// Of the one producer: the load.
    pub producer: String,
    /// Of the one sink.
    pub sink: String,
    /// The members of the group, by name: `processor`, or `processor-1` and on. With an autoscaler, the one that it starts
    /// copies of.
    pub processors: Vec<(String, String)>,
    /// The flags of `lab autoscale`, where that starts and stops the members.
    pub autoscaler: Option<String>,
    /// Time between two samples.
    pub look: Duration,
    /// The sink's stall, s from the start of the load.
    pub stall: Option<Phase>,
    /// Memory at which the processor is killed, B.
    pub memory_limit: Option<u64>,
}

impl Launch {
    /// An arm of one processor on a topic of 12 partitions.
    pub fn new(arm: &str, producer: &str, sink: &str, processor: &str) -> Self {
        Self {
            arm: arm.into(),
            partitions: 12,
            topic: Vec::new(),
            producer: producer.into(),
            sink: sink.into(),
            processors: vec![("processor".into(), processor.into())],
            autoscaler: None,
            look: Duration::from_secs(1),
            stall: None,
            memory_limit: None,
        }
    }

    /// Whether its processors need folders to spill to.
    pub fn spills(&self) -> bool {
        self.processors.iter().any(|(_, flags)| spills(flags))
    }

    /// A setting of the topic, ms; 0 where it has none of its own.
    fn topic_ms(&self, name: &str) -> Result<f64, Failure> {
        let mut values =
            self.topic.iter().filter_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        values.next().map_or(Ok(0.0), |ms| {
            ms.parse().map_err(|e| Failure::Failed(format!("topic setting {name}={ms}: {e}")))
        })
    }

    /// The arm as its programs understand it.
    fn setup(&self) -> Result<ArmSetup, Failure> {
        let producer: load::settings::Flags = parsed("producer", &self.producer)?;
        let (keys, key_skew, seed) = (producer.keys, producer.key_skew, producer.seed);
        let (payload_bytes, linger) = (producer.msg_size, producer.linger);
        let resend_after_s = producer.resend_after.as_ref().map(Ages::seconds).unwrap_or_default();
        let counts = producer.count.is_some();
        let schedule = producer.settings()?.schedule;
        let Some(schedule) = schedule.timed_steps().filter(|_| !counts) else {
            let why = "expected a load that ends by its time: a run ends with it; a step with a time, or --duration, and no \
                       --count";
            return Err(Failure::flag("--schedule", &self.producer, why));
        };
        let mut members = Vec::new();
        for (name, flags) in &self.processors {
            // The runner knows where the producer listens and where is room on disk; some processors must be told. A load of
            // one's own may say it.
            let own = |flag: &str, value: &str| match has(flags, flag) {
                true => String::new(),
                false => format!(" {flag} {value}"),
            };
            let room = if spills(flags) { own("--spill-dir", "spill") } else { String::new() };
            let flags = format!("{flags}{}{room}", own("--producer", "http://127.0.0.1:9901"));
            // Of the copies that an autoscaler starts, the first.
            let flags = flags.replace("{n}", "1");
            members.push((name, parsed::<pipeline::flags::Flags>(name, &flags)?.settings()?));
        }
        let Some((_, first)) = members.first() else {
            return Err(Failure::Failed(format!("arm {} has no processor", self.arm)));
        };
        let (batch, linger_s) = match first.mode {
            Mode::Single => (1, 0.0),
            Mode::Batch { sizing, linger } => (sizing.events_max(), linger.as_secs_f64()),
        };
        let scaled = self.autoscaler.as_deref().map(scaled).transpose()?;
        let sink = parsed::<sink::settings::Flags>("sink", &self.sink)?.settings()?;
        let fetches_ahead = first.fetch.client == Client::Rdkafka;
        Ok(ArmSetup {
            name: self.arm.clone(),
            schedule,
            payload_bytes,
            producer_linger_s: linger.as_secs_f64(),
            resend_after_s,
            keys,
            key_skew,
            seed,
            partitions: self.partitions,
            retention_s: self.topic_ms("retention.ms")? / 1000.0,
            segment_s: self.topic_ms("segment.ms")? / 1000.0,
            queue_cap: first.queue.capacity().map(|cap| cap as f64),
            spill_max: first.spill.as_ref().map(|spill| spill.bytes_max as f64),
            workers: first.workers.get() as u32,
            pace: first.pace,
            by_key: first.sharding == Sharding::Key,
            policy: first.policy,
            credit_window: first.credit_window.unwrap_or(0) as f64,
            shed: first.shed,
            high_share: first.classes.high_share,
            fetch_bytes: f64::from(first.fetch.bytes),
            prefetch_events: if fetches_ahead {
                f64::from(first.fetch.prefetch_events)
            } else {
                0.0
            },
            prefetch_bytes: if fetches_ahead { first.fetch.prefetch_bytes as f64 } else { 0.0 },
            batch: batch as f64,
            linger_s,
            commit_interval_s: first.member.commit_interval.as_secs_f64(),
            poll_intervals_s: members
                .iter()
                .map(|(_, settings)| settings.member.max_poll_interval.as_secs_f64())
                .collect(),
            session_timeout_s: first.member.session_timeout.as_secs_f64(),
            protocol: first.member.protocol,
            is_static: first.member.instance_id.is_some(),
            scaled,
            per_connection: sink.per == Per::Connection,
        })
    }
}

impl Setup {
    /// The setup by the programs of these arms. Sink and payload are those of the first arm,
    /// which the others share, and so is the load, which they may not share; queue, memory limit and stall are those of the first arm that has
    /// one.
    ///
    /// # Errors
    /// When a program would not take its flags.
    pub fn of(form: Form, arms: &[Launch]) -> Result<Self, Failure> {
        let given = arms.iter().map(Launch::setup).collect::<Result<Vec<_>, _>>()?;
        let (Some(first), Some(arm)) = (arms.first(), given.first()) else {
            return Err(Failure::Failed("an experiment without an arm has no setup".into()));
        };
        let sink = parsed::<sink::settings::Flags>("sink", &first.sink)?.settings()?;
        let fastest = arm.schedule.iter().fold(0.0_f64, |most, (rate, _)| most.max(*rate));
        let run_events =
            layout::run_events(fastest, arm.producer_linger_s, f64::from(arm.partitions));
        // It counts from the sink's start, which is taken for the load's.
        let of_the_sink = sink.stall.map(|stall| {
            let from = stall.after.as_secs_f64();
            Phase { rate: stall.rate, from, to: from + stall.time.as_secs_f64() }
        });
        let limited = given.iter().filter_map(|arm| arm.queue_cap).find(|cap| *cap > 0.0);
        Ok(Self {
            form,
            schedule: arm.schedule.clone(),
            ceiling: sink.rate,
            call: Call {
                cost: sink.call_cost,
                event_cost: sink.event_cost,
                latency_s: sink.latency.as_secs_f64(),
            },
            burst: sink.burst,
            payload_bytes: arm.payload_bytes,
            event_bytes: layout::queued_event_bytes(arm.payload_bytes, run_events),
            resident_bytes: layout::resident_event_bytes(arm.payload_bytes, run_events),
            queue_cap: limited.unwrap_or(0.0),
            memory_limit: arms.iter().find_map(|arm| arm.memory_limit).map(|bytes| bytes as f64),
            stall: arms.iter().find_map(|arm| arm.stall).or(of_the_sink),
            arms: given,
        })
    }
}

/// What `lab autoscale` makes of its flags.
///
/// # Errors
/// When it would not take them.
pub fn scaled(flags: &str) -> Result<Scaled, Failure> {
    let settings = parsed::<autoscale::Flags>("lab autoscale", flags)?.settings()?;
    let interval_s = settings.interval.as_secs_f64();
    Ok(Scaled { plan: settings.plan, bounds: settings.bounds, interval_s })
}

/// Whether a processor with these flags needs a folder to spill to.
pub fn spills(flags: &str) -> bool {
    words(flags).windows(2).any(|pair| pair == ["--queue", "spill"])
}

/// Whether `flag` is among them.
fn has(flags: &str, flag: &str) -> bool {
    words(flags).iter().any(|word| word == flag)
}

fn words(flags: &str) -> Vec<String> {
    cli::normalise(flags.split_whitespace().map(str::to_owned))
}

/// Whether a producer with these flags asks the sink what it has.
pub fn resends(flags: &str) -> bool {
    has(flags, "--resend-after")
}

/// The flags of `program`, as it reads them itself.
fn parsed<T: FromArgs>(program: &str, flags: &str) -> Result<T, Failure> {
    cli::parsed(program, flags.split_whitespace().map(str::to_owned))
        .map_err(|why| Failure::Failed(format!("{program} {flags}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::experiments::ALL;

    /// Prevents: a flag that its program does not take; an arm that is reported and never run, or run and
    /// never reported; arms of one experiment with different sinks, of which the prediction knows one.
    #[test]
    fn every_declared_arm_can_be_started_and_shares_its_sink() {
        for experiment in ALL {
            for form in [Form::Quick, Form::Full] {
                let arms = (experiment.launches)(form);
                Setup::of(form, &arms).expect(experiment.name);
                let names: Vec<&str> = experiment.arms.iter().map(|arm| arm.name).collect();
                if !names.is_empty() {
                    assert_eq!(arms.iter().map(|arm| arm.arm.as_str()).collect::<Vec<_>>(), names);
                }
                // Whose limit it is, is a setting of the arm.
                let shared = |arm: &Launch| arm.sink.replace(" --limit-per connection", "");
                let first = shared(&arms[0]);
                assert!(arms.iter().all(|arm| shared(arm) == first), "{}", experiment.name);
            }
        }
    }

    /// Prevents: a margin for the workers' events in flight that does not match the programs'
    /// defaults.
    #[test]
    fn what_workers_hold_by_default_is_what_margins_take_it_for() {
        use crate::lab::experiments::{asking::IN_FLIGHT, exp1};
        let setup = Setup::quick(&exp1::EXPERIMENT);
        assert_eq!(setup.arm("bounded").map(ArmSetup::in_flight), Some(IN_FLIGHT));
    }

    /// Prevents: a setup that does not follow the flags.
    #[test]
    fn a_setup_is_what_the_programs_make_of_the_flags() {
        let processor = "--queue-cap 70 --sink-workers 3 --batch-size 9 --batch-linger 7ms \
                         --worker-assignment key --max-poll-interval 50s --session-timeout 10s";
        let load = "--schedule 100:5s,900:1m --msg-size 64 --keys 11 --key-skew 1.5 --seed 4";
        let arm = Launch::new("a", load, "--rate-limit 300 --call-cost 2 --latency 5ms", processor);
        let pull = Launch { arm: "b".into(), memory_limit: Some(1 << 20), ..arm.clone() };
        let setup = Setup::of(Form::Quick, &[arm, pull]).expect("flags");
        assert_eq!(setup.schedule, [(100.0, 5.0), (900.0, 60.0)]);
        assert_eq!((setup.ceiling, setup.queue_cap, setup.payload_bytes), (300.0, 70.0, 64));
        assert_eq!(
            (setup.call.cost, setup.call.event_cost, setup.call.latency_s),
            (2.0, 1.0, 5e-3)
        );
        assert_eq!(setup.memory_limit, Some((1 << 20) as f64));
        let arm = setup.arm("a").expect("it");
        assert_eq!((arm.workers, arm.batch, arm.linger_s, arm.by_key), (3, 9.0, 7e-3, true));
        assert_eq!((arm.keys, arm.key_skew, arm.seed), (11, 1.5, 4));
        assert_eq!((arm.in_flight(), arm.poll_intervals_s[0]), (27.0, 50.0));
        for (load, processor) in
            [("--schedule 100", ""), ("--rate 5", ""), ("--schedule 1:1s", "-x")]
        {
            let arm = Launch::new("a", load, "", processor);
            assert!(Setup::of(Form::Full, &[arm]).is_err(), "{load} {processor}");
        }
    }
}
