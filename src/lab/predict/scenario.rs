//! What is given: the flags of `lab predict`, checked against each other. Opens nothing.

use crate::failure::Failure;
use crate::lab::model::{self, Rates};
use crate::lab::text::{figure, scaled};
use crate::units;

use super::Settings;
use super::wire::Wire;

/// What is between fetch and workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    Bounded,
    Unbounded,
    Pull,
}

/// A time in which the sink serves less.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stall {
    /// Tokens/s meanwhile.
    pub rate: f64,
    /// Start, s.
    pub from: f64,
    /// End, s.
    pub to: f64,
}

/// A step of the offered load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Events/s.
    pub rate: f64,
    /// Start, s.
    pub from: f64,
    /// End, s.
    pub to: f64,
}

/// Everything that the forecast follows from. Rates in events/s, times in s, sizes in B.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub steps: Vec<Step>,
    pub offered: Rates,
    /// With its stalls.
    pub ceiling: Rates,
    /// Between stalls, and how it comes about.
    pub steady: f64,
    pub steady_because: String,
    /// In events/s.
    pub stalls: Vec<Stall>,
    /// Infinite for an unbounded queue, 0 for none.
    pub capacity: f64,
    pub payload_bytes: usize,
    pub event_bytes: f64,
    pub base_bytes: f64,
    /// One fetch of every partition.
    pub fetch_bytes: f64,
    pub limit_bytes: Option<f64>,
    pub partitions: f64,
    pub wire: Wire,
    pub drain: bool,
    /// In one sentence.
    pub given: String,
}

impl Scenario {
    /// Checks what no single flag's range can say.
    ///
    /// # Errors
    /// `Usage`, naming the flags.
    pub fn new(flags: &Settings) -> Result<Self, Failure> {
        let mut steps = Vec::new();
        let mut from = 0.0;
        for (rate, time) in flags.schedule.steps() {
            let time = time.ok_or_else(|| {
                Failure::Usage("--schedule: its last step needs a time, such as 8000:10m".into())
            })?;
            let to = from + time.as_secs_f64();
            steps.push(Step { rate, from, to });
            from = to;
        }
        let offered =
            Rates::schedule(flags.schedule.steps().map(|(r, t)| (r, t.unwrap_or_default())));
        if flags.replication > flags.broker_count {
            let limit = format!("expected at most --broker-count {}", flags.broker_count);
            return Err(Failure::flag("--replication", flags.replication, &limit));
        }
        let (call, event) = (flags.call_cost, flags.event_cost);
        if call + event <= 0.0 {
            let limit = "expected --call-cost or --event-cost above 0: else there is no ceiling";
            return Err(Failure::flag("--event-cost", event, limit));
        }
        let batch = flags.batch_size.get() as f64;
        let per_token = model::ceiling(1.0, call, event, batch);
        let steady = flags.rate_limit * per_token;
        let mut ceiling = Rates::constant(steady);
        let mut stalls = flags.stall.clone();
        stalls.sort_by(|a, b| a.from.total_cmp(&b.from));
        let mut before = 0.0;
        for stall in &mut stalls {
            if stall.from < before || stall.from >= from {
                let limit =
                    "expected a start after the stall before it and before the schedule's end";
                return Err(Failure::flag("--stall", written(*stall), limit));
            }
            before = stall.to;
            stall.rate *= per_token;
            ceiling = ceiling.but(stall.rate, stall.from, stall.to);
        }
        let payload_bytes = usize::try_from(flags.msg_size).map_err(Failure::failed)?;
        let base_bytes = flags.base_rss as f64;
        let partitions = flags.partitions.get() as f64;
        let mut scenario = Self {
            offered,
            ceiling,
            steady,
            steady_because: match call {
                0.0 if event == 1.0 => "the sink's rate limit".into(),
                _ => format!(
                    "R B / (c + e B) = {} × {} / ({call} + {event} × {})",
                    figure(flags.rate_limit),
                    figure(batch),
                    figure(batch)
                ),
            },
            capacity: match flags.queue {
                QueueKind::Bounded => flags.queue_cap.get() as f64,
                QueueKind::Unbounded => f64::INFINITY,
                QueueKind::Pull => 0.0,
            },
            payload_bytes,
            event_bytes: crate::lab::resident_event_bytes(payload_bytes),
            base_bytes,
            fetch_bytes: flags.fetch_bytes as f64 * partitions,
            limit_bytes: flags.memory_limit.map(|bytes| bytes as f64),
            partitions,
            wire: Wire {
                payload_bytes,
                linger_s: flags.linger.as_secs_f64(),
                partitions,
                replication: flags.replication.get() as f64,
                brokers: flags.broker_count.get() as f64,
            },
            drain: flags.drain,
            given: String::new(),
            steps,
            stalls,
        };
        if scenario.limit_bytes.is_some_and(|limit| limit <= scenario.empty_bytes()) {
            let limit = format!(
                "expected more than --base-rss and one fetch of every partition, {}",
                scaled(scenario.empty_bytes(), "B")
            );
            let value = scaled(scenario.limit_bytes.unwrap_or_default(), "B");
            return Err(Failure::flag("--memory-limit", value, &limit));
        }
        scenario.given = scenario.sentence(flags);
        Ok(scenario)
    }

    /// When the schedule ends, s.
    pub fn end_s(&self) -> f64 {
        self.offered.end_s()
    }

    /// Resident bytes with an empty queue.
    pub fn empty_bytes(&self) -> f64 {
        self.base_bytes + self.fetch_bytes
    }

    fn sentence(&self, flags: &Settings) -> String {
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|s| format!("{}/s for {} s", figure(s.rate), figure(s.to - s.from)))
            .collect();
        let stalls: String =
            self.stalls.iter().map(|s| format!(", stalled: {}", written(*s))).collect();
        let queue = match flags.queue {
            QueueKind::Bounded => format!("a queue of {} events", figure(self.capacity)),
            QueueKind::Unbounded => "a queue without limit".into(),
            QueueKind::Pull => "no queue (pull)".into(),
        };
        let limit =
            flags.memory_limit.map(|bytes| format!(", killed at {}", scaled(bytes as f64, "B")));
        format!(
            "Offered {}; served {}/s{stalls}; {queue}{}; events of {} B payload over {} partitions, \
             {} copies on {} brokers.",
            steps.join(", then "),
            figure(self.steady),
            limit.unwrap_or_default(),
            self.payload_bytes,
            figure(self.partitions),
            flags.replication,
            flags.broker_count
        )
    }
}

fn written(stall: Stall) -> String {
    format!("{}/s from {} s to {} s", figure(stall.rate), figure(stall.from), figure(stall.to))
}

/// `200@600s:90s`: a rate, when it begins, how long it lasts.
pub fn stall(text: &str) -> Result<Stall, String> {
    let shape = "expected RATE@AT:TIME such as 200@600s:90s";
    let (rate, when) = text.split_once('@').ok_or(shape)?;
    let (at, time) = when.split_once(':').ok_or(shape)?;
    let why = |e: String| format!("{shape} ({e})");
    let from = units::duration(at).map_err(why)?.as_secs_f64();
    let time = units::duration_above_zero(time).map_err(why)?.as_secs_f64();
    Ok(Stall { rate: units::rate_or_zero(rate).map_err(why)?, from, to: from + time })
}

/// As `--queue` of the processor.
pub fn queue(text: &str) -> Result<QueueKind, String> {
    let kinds = [
        ("bounded", QueueKind::Bounded),
        ("unbounded", QueueKind::Unbounded),
        ("pull", QueueKind::Pull),
    ];
    units::one_of(text, &kinds)
}

/// Tokens, as the sink takes them.
pub fn cost(text: &str) -> Result<f64, String> {
    let cost = text.parse().ok().filter(|cost| (0.0..=1e6).contains(cost));
    cost.ok_or_else(|| "expected tokens from 0 to 1000000".into())
}

/// A payload that the producer takes.
pub fn payload(text: &str) -> Result<u64, String> {
    let max = (crate::event::EVENT_BYTES_MAX - crate::event::HEADER_BYTES) as u64;
    let bytes = units::size(text)?;
    if bytes > max { Err(format!("expected a size of at most {max} bytes")) } else { Ok(bytes) }
}
