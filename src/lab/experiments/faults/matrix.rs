//! Every fault: what is done, what the pipeline must do, what it may cost.

use super::row::Row;
use super::seen;
use super::strike::{Harm, Link, Strike};

/// The events that a fault may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// At-least-once: no id may be missing.
    Nothing,
    /// The log itself is cut or gone: the processor's and the producer's counts say how many are
    /// missing.
    Counted,
}

/// How many events may come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// None: the caller learns of each delivery, and what the producer sends again is the same
    /// batch (idempotent, KIP-98).
    None,
    /// So many times the events that the workers had in flight.
    InFlight(u32),
    /// The events delivered since the last commit, and those that the workers had in flight.
    Uncommitted,
    /// Everything that is served while the fault lasts.
    Unacked,
}

/// A fault and its expected result.
pub struct Fault {
    /// Its name, for users too.
    pub name: &'static str,
    /// What is done.
    pub strike: Strike,
    /// What is expected of the pipeline.
    pub expected: &'static str,
    /// The events that it may lose.
    pub lost: Lost,
    /// The events that may come twice.
    pub duplicates: Duplicates,
    /// From the fault's end, which is when its cure begins, until the sink gets events again, s.
    pub recovery_s: f64,
    /// Seconds into the fault from which every partition must go on, though the fault lasts.
    pub goes_on_after_s: Option<f64>,
    /// How the fault shows in the records; `None` when it does not, or not as expected.
    pub seen: fn(&Row) -> Option<String>,
}

/// A broker is taken for dead 9 s after its last heartbeat (`broker.session.timeout.ms`). Six
/// seconds later its partitions have new leaders, all clients know them, and a full queue has had
/// its turn.
pub const LED_AGAIN_S: f64 = 9.0 + 6.0;

/// What the processors of a row are called.
pub const PROCESSORS: &[&str] = &["processor", "processor-2"];

/// Every fault, in the order of the table.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "processor-killed",
        strike: Strike::ProcessorKilled,
        expected: "goes on at the last commit, once its session (6 s) is over",
        lost: Lost::Nothing,
        duplicates: Duplicates::Uncommitted,
        recovery_s: 15.0,
        goes_on_after_s: None,
        seen: seen::taken_up,
    },
    Fault {
        name: "processor-frozen",
        strike: Strike::ProcessorFrozen(10),
        expected: "evicted; the other takes over; it comes back",
        lost: Lost::Nothing,
        duplicates: Duplicates::Uncommitted,
        recovery_s: 15.0,
        goes_on_after_s: None,
        seen: seen::evicted_and_back,
    },
    Fault {
        name: "broker-1-killed",
        strike: Strike::BrokersKilled(&[1], 25),
        expected: "new leaders; everybody goes on there",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 15.0,
        goes_on_after_s: Some(LED_AGAIN_S),
        seen: seen::fetches,
    },
    Fault {
        name: "broker-2-killed",
        strike: Strike::BrokersKilled(&[2], 25),
        expected: "new leaders; everybody goes on there",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 15.0,
        goes_on_after_s: Some(LED_AGAIN_S),
        seen: seen::fetches,
    },
    Fault {
        name: "broker-3-killed",
        strike: Strike::BrokersKilled(&[3], 25),
        expected: "new leaders; everybody goes on there",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 15.0,
        goes_on_after_s: Some(LED_AGAIN_S),
        seen: seen::fetches,
    },
    Fault {
        name: "coordinator-killed",
        strike: Strike::CoordinatorKilled(25),
        expected: "commits wait and go on at the new coordinator; no eviction",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 15.0,
        goes_on_after_s: Some(LED_AGAIN_S),
        seen: seen::new_coordinator,
    },
    Fault {
        name: "two-brokers-killed",
        strike: Strike::BrokersKilled(&[1, 2], 6),
        expected: "the producer waits and resends; commits go on when they are back",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 25.0,
        goes_on_after_s: None,
        seen: seen::waited_and_resent,
    },
    Fault {
        name: "broker-disk-full",
        strike: Strike::BrokerDiskFull(2, 8),
        expected: "the broker halts itself; as if it were killed",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 15.0,
        goes_on_after_s: None,
        seen: seen::noted,
    },
    Fault {
        name: "sink-killed",
        strike: Strike::SinkKilled(3),
        expected: "workers wait and send again",
        lost: Lost::Nothing,
        duplicates: Duplicates::InFlight(1),
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::on_its_journal,
    },
    Fault {
        name: "answers-500",
        strike: Strike::SinkTold("fail --how 500", "answers 500", 8),
        expected: "workers back off and send again",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::backed_off,
    },
    Fault {
        name: "answers-429",
        strike: Strike::SinkTold("fail --how 429", "answers 429 with Retry-After", 8),
        expected: "workers wait as told and send again",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::waited_as_told,
    },
    Fault {
        name: "answers-hang",
        strike: Strike::SinkTold("pause", "answers nothing", 8),
        expected: "given up, sent again",
        lost: Lost::Nothing,
        // Calls that hang for 8 s, one every 3 s and backoff, are all served then.
        duplicates: Duplicates::InFlight(3),
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::retried,
    },
    Fault {
        name: "answers-cut",
        strike: Strike::SinkTold(
            "fail --how cut",
            "delivers, and closes in the middle of each answer",
            8,
        ),
        expected: "sent again until an answer is whole",
        lost: Lost::Nothing,
        duplicates: Duplicates::Unacked,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::retried,
    },
    Fault {
        name: "answers-partial",
        strike: Strike::SinkTold("fail --how partial", "takes the first half of each batch", 8),
        expected: "the rest is sent again, nothing twice",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::in_part,
    },
    Fault {
        name: "broker-link-cut",
        strike: Strike::LinkHarmed(Harm::Cut, Link::Brokers, 12),
        expected: "connections are given up after 10 s and made anew",
        lost: Lost::Nothing,
        duplicates: Duplicates::Uncommitted,
        recovery_s: 20.0,
        goes_on_after_s: None,
        seen: seen::given_up,
    },
    Fault {
        name: "broker-link-delayed",
        strike: Strike::LinkHarmed(Harm::Delay, Link::Brokers, 10),
        expected: "goes on, slower at most",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::noted_going_on,
    },
    Fault {
        name: "broker-link-lossy",
        strike: Strike::LinkHarmed(Harm::Lose, Link::Brokers, 10),
        expected: "goes on",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::noted_going_on,
    },
    Fault {
        name: "sink-link-cut",
        strike: Strike::LinkHarmed(Harm::Cut, Link::Sink, 12),
        expected: "given up, sent again",
        lost: Lost::Nothing,
        // 12 s of cut are four calls of 3 s; the first may have been delivered, and each of the
        // others is delivered late, when TCP gets it through.
        duplicates: Duplicates::InFlight(4),
        recovery_s: 20.0,
        goes_on_after_s: None,
        seen: seen::retried_and_noted,
    },
    Fault {
        name: "sink-link-delayed",
        strike: Strike::LinkHarmed(Harm::Delay, Link::Sink, 10),
        expected: "goes on, slower; what is given up is sent again",
        lost: Lost::Nothing,
        // A call may lose its race for the bottleneck and be given up, up to four in 10 s, each of them
        // delivered when TCP gets it through.
        duplicates: Duplicates::InFlight(4),
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::noted_going_on,
    },
    Fault {
        name: "sink-link-lossy",
        strike: Strike::LinkHarmed(Harm::Lose, Link::Sink, 10),
        expected: "goes on",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::noted_going_on,
    },
    Fault {
        name: "results-disk-full",
        strike: Strike::ResultsDiskFull(8),
        expected: "samples are left out and said so; the pipeline goes on",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::left_out,
    },
    Fault {
        name: "clock-back",
        strike: Strike::ClockBack(&[60, 120, 180, 3600]),
        expected: "goes on; latencies are carried by the monotonic clock",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::clock_went_back,
    },
    Fault {
        name: "partitions-added",
        strike: Strike::PartitionsAdded(18),
        expected: "the new ones are taken up and read from their start",
        lost: Lost::Nothing,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::new_partitions,
    },
    Fault {
        name: "topic-anew",
        strike: Strike::TopicAnew(2),
        expected: "what was in the log is lost, counted and said; the new log is read from its start",
        lost: Lost::Counted,
        duplicates: Duplicates::None,
        recovery_s: 25.0,
        goes_on_after_s: None,
        seen: seen::started_anew,
    },
    Fault {
        name: "retention",
        strike: Strike::Retention(20),
        expected: "what retention took is counted and said; goes on behind it",
        lost: Lost::Counted,
        duplicates: Duplicates::None,
        recovery_s: 8.0,
        goes_on_after_s: None,
        seen: seen::overtaken,
    },
];
