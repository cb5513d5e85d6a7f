//! The input of a forecast: the flags of `lab predict`, checked against each other. Opens nothing.

use crate::failure::Failure;
use crate::lab::experiments::Load;
use crate::lab::model::{self, Phase, Rates};
use crate::lab::text::{figure, scaled};
use crate::planes::wire::debloat;
use crate::policy::shed::Who;
use crate::policy::{Policy, slow_source};
use crate::queue;
use crate::queue::spill::BYTES_MAX;
use crate::units;

use super::Settings;
use super::wire::Wire;
use crate::lab::layout;

/// Everything that the forecast follows from. Rates in events/s, times in s, sizes in B.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub steps: Vec<Phase>,
    /// The events that the producer is to send.
    pub due: Rates,
    /// Those of them that are not dropped.
    pub offered: Rates,
    pub policy: Policy,
    /// Events that may wait with credit, for all members; 0 with another policy.
    pub window: f64,
    /// Members of the group. Capacity and events in flight are those of all members, memory is that
    /// of each.
    pub members: f64,
    /// Events in the workers' batches.
    pub in_flight: f64,
    /// With its stalls.
    pub ceiling: Rates,
    /// The ceiling between stalls, and how it comes about.
    pub steady: f64,
    pub steady_because: String,
    /// In events/s.
    pub stalls: Vec<Phase>,
    /// Infinite for an unbounded queue, 0 for none.
    pub capacity: f64,
    /// What the queue holds while events are dropped; its capacity where that is not the policy.
    pub standing: f64,
    /// Events that the members' disks hold; 0 where the queue does not spill.
    pub on_disk: f64,
    /// Bytes of each there.
    pub spilled_bytes: f64,
    pub payload_bytes: usize,
    pub event_bytes: f64,
    pub base_bytes: f64,
    /// One answer of every broker.
    pub fetch_bytes: f64,
    pub limit_bytes: Option<f64>,
    pub partitions: f64,
    /// The wait that the capacity is to keep, s.
    pub promise_s: f64,
    pub wire: Wire,
    pub drain: bool,
    /// In one sentence.
    pub given: String,
}

impl Scenario {
    /// Checks the flags together, beyond each flag's own range.
    ///
    /// # Errors
    /// `Usage`, naming the flags.
    pub fn new(flags: &Settings) -> Result<Self, Failure> {
        let Some(schedule) = &flags.schedule else {
            let why =
                "--schedule is missing: expected RATE:TIME[,RATE:TIME…] such as 1500:60s,8000:10m";
            return Err(Failure::Usage(why.into()));
        };
        let Some(timed) = schedule.timed_steps() else {
            let why = "--schedule: its last step needs a time, such as 8000:10m";
            return Err(Failure::Usage(why.into()));
        };
        let load = Load::of(&timed);
        let (offered, steps) = (load.offered(), load.phases().collect::<Vec<Phase>>());
        if flags.replication > flags.broker_count {
            let limit = format!("expected at most --broker-count {}", flags.broker_count);
            return Err(Failure::flag("--replication", flags.replication, &limit));
        }
        if flags.members > flags.partitions {
            let limit = format!(
                "expected at most --partitions {}: a partition has one member",
                flags.partitions
            );
            return Err(Failure::flag("--members", flags.members, &limit));
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
            if stall.from < before || stall.from >= load.end_s() {
                let limit =
                    "expected a start after the stall before it and before the schedule's end";
                return Err(Failure::flag("--stall", written(*stall), limit));
            }
            if stall.rate >= flags.rate_limit {
                let limit = format!("expected a rate below --rate-limit {}", flags.rate_limit);
                return Err(Failure::flag("--stall", written(*stall), &limit));
            }
            before = stall.to;
            stall.rate *= per_token;
            ceiling = ceiling.but(stall.rate, stall.from, stall.to);
        }
        flags.policy.check(flags.queue, flags.shed, flags.credit_window)?;
        let spills = flags.queue == queue::Name::Spill;
        if spills && flags.policy.holds_the_source() {
            let why = "with --queue spill expected buffer or shed: the model has no source that waits for a disk";
            return Err(Failure::flag("--policy", flags.policy.name(), why));
        }
        if let (false, Some(bytes)) = (spills, flags.spill_max) {
            let why = "limits what is on disk: it needs --queue spill";
            return Err(Failure::flag("--spill-max", scaled(bytes as f64, "B"), why));
        }
        let members = flags.members.get() as f64;
        let in_flight = batch * flags.sink_workers.get() as f64 * members;
        let capacity = flags
            .queue
            .with_capacity(flags.queue_cap)
            .capacity()
            .map_or(f64::INFINITY, |c| c as f64 * members);
        let standing = match flags.policy {
            Policy::Shed => flags.shed.standing_depth(capacity, in_flight).unwrap_or(capacity),
            _ => capacity,
        };
        let window = flags.credit_window.map_or(0.0, |window| window.get() as f64 * members);
        let payload_bytes = usize::try_from(flags.msg_size).map_err(Failure::failed)?;
        let spilled_bytes = layout::spilled_event_bytes(payload_bytes);
        let on_disk = match spills {
            true => members * flags.spill_max.unwrap_or(BYTES_MAX) as f64 / spilled_bytes,
            false => 0.0,
        };
        let due = offered;
        let room = match flags.policy {
            Policy::Shed => standing + in_flight + on_disk,
            // The source holds back what the lease does not allow, and never sends it.
            Policy::SlowSource => steady * slow_source::TARGET.as_secs_f64(),
            // A window that the round trip does not starve.
            Policy::Credit => window,
            Policy::Buffer => f64::INFINITY,
        };
        let offered = due.admitted(&ceiling, room);
        let base_bytes = flags.base_rss as f64;
        let partitions = flags.partitions.get() as f64;
        let fastest = steps.iter().fold(0.0_f64, |most, step| most.max(step.rate));
        let brokers = flags.broker_count.get() as f64;
        let wire = Wire {
            payload_bytes,
            linger_s: flags.linger.as_secs_f64(),
            partitions,
            replication: flags.replication.get() as f64,
            brokers,
        };
        // An answer holds the records that are taken in that time, and no more is taken than
        // arrives.
        let drained = fastest / members * wire.record_bytes() * debloat::TARGET.as_secs_f64();
        let mut scenario = Self {
            due,
            offered,
            policy: flags.policy,
            window,
            members,
            in_flight,
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
            capacity,
            standing,
            on_disk,
            spilled_bytes,
            payload_bytes,
            event_bytes: layout::resident_event_bytes(
                payload_bytes,
                layout::run_events(fastest, flags.linger.as_secs_f64(), partitions),
            ),
            base_bytes,
            fetch_bytes: (flags.fetch_bytes as f64 * partitions / members)
                .min(flags.answer_bytes as f64 * brokers)
                .min(drained.max(f64::from(debloat::LEAST) * brokers)),
            limit_bytes: flags.memory_limit.map(|bytes| bytes as f64),
            partitions,
            promise_s: flags.p99_target.as_secs_f64(),
            wire,
            drain: flags.drain,
            given: String::new(),
            steps,
            stalls,
        };
        if scenario.limit_bytes.is_some_and(|limit| limit <= scenario.empty_bytes()) {
            let limit = format!(
                "expected more than --base-rss and one answer of every broker, {}",
                scaled(scenario.empty_bytes(), "B")
            );
            let value = scaled(scenario.limit_bytes.unwrap_or_default(), "B");
            return Err(Failure::flag("--memory-limit", value, &limit));
        }
        scenario.given = scenario.sentence(flags);
        Ok(scenario)
    }

    /// What is offered if the processor is killed at `at` s, and `ceiling` is what is served: nobody sheds any more, and
    /// a lease ends; credit stays as it was granted.
    pub fn offered_to_the_dead(&self, at: f64, ceiling: &Rates) -> Rates {
        match self.policy {
            Policy::Credit => self.due.admitted(ceiling, self.window),
            Policy::Shed | Policy::SlowSource | Policy::Buffer => self.offered.until(at, &self.due),
        }
    }

    /// When the schedule ends, s.
    pub fn end_s(&self) -> f64 {
        self.offered.end_s()
    }

    /// Resident bytes of a member with an empty queue.
    pub fn empty_bytes(&self) -> f64 {
        self.base_bytes + self.fetch_bytes
    }

    /// Events whose queue fills a member's memory limit, where there is one.
    pub fn fits(&self) -> Option<f64> {
        self.limit_bytes.map(|limit| (limit - self.empty_bytes()) / self.event_bytes)
    }

    fn sentence(&self, flags: &Settings) -> String {
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|s| format!("{}/s for {} s", figure(s.rate), figure(s.length())))
            .collect();
        let stalls: String =
            self.stalls.iter().map(|s| format!(", stalled: {}", written(*s))).collect();
        let queue = match flags.queue {
            queue::Name::Bounded => {
                format!("a queue of {} events", figure(self.capacity / self.members))
            }
            queue::Name::Unbounded => "a queue without limit".into(),
            queue::Name::Pull => "no queue (pull)".into(),
            queue::Name::Spill => {
                let events = figure(self.capacity / self.members);
                format!(
                    "a queue of {events} events in memory, the rest of the lag on disk, up to {}",
                    scaled(self.on_disk / self.members * self.spilled_bytes, "B")
                )
            }
        };
        let members = match flags.members.get() {
            1 => String::new(),
            n => format!("{n} members, each with "),
        };
        let limit =
            flags.memory_limit.map(|bytes| format!(", memory up to {}", scaled(bytes as f64, "B")));
        let shed = match flags.shed {
            Who::Newest | Who::Oldest => ", dropped when it is full",
            Who::Priority => ", dropped by priority when its part is full",
            Who::Sojourn | Who::Pid => ", dropped above a wait of twice the workers' batches",
        };
        let policy = match flags.policy {
            Policy::Buffer => "",
            Policy::Shed => shed,
            Policy::SlowSource => ", the source told to send no more than is served",
            Policy::Credit => {
                ", the source given credit for no more than a window ahead of the acks"
            }
        };
        format!(
            "Offered {}; served {}/s{stalls}; {members}{queue}{policy}{}; events of {} B payload over {} partitions, \
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

fn written(stall: Phase) -> String {
    format!("{}/s from {} s to {} s", figure(stall.rate), figure(stall.from), figure(stall.to))
}

/// A payload that the producer takes.
pub fn payload(text: &str) -> Result<u64, String> {
    let max = (crate::event::EVENT_BYTES_MAX - crate::event::HEADER_BYTES) as u64;
    let bytes = units::size(text)?;
    if bytes > max { Err(format!("expected a size of at most {max} bytes")) } else { Ok(bytes) }
}
