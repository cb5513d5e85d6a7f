//! The fault matrix: what breaks, what must follow, and the ledger after it.
//!
//! - `strike` what is done, in words too
//! - `matrix` every fault: what is done, what is expected, what it may cost
//! - `seen`   how each fault shows in the records of its run
//! - `row`    one fault under one queue and one load, as its run left it
//! - here     the bounds written down before the run, the checks, the table
//!
//! Invariant: a row in which the fault does not show does not pass, whatever its ledger says. This
//! module runs nothing: `lab::run` does, and leaves a folder a row.

pub mod matrix;
pub mod row;
mod seen;
pub mod strike;

use super::asking::IN_FLIGHT;
use super::{Check, Experiment, Form, Launch, Margin, PROMISE, Prediction, Setup, Table};
use crate::lab::run_folder::Run;
use crate::lab::text::{figure, thousands};
use matrix::{Duplicates, FAULTS, Fault, Lost};
use row::Row;
use strike::Strike;

/// The declaration.
pub const EXPERIMENT: Experiment = Experiment {
    name: "faults",
    title: "what breaks, and what it costs",
    question: "Everything around a running pipeline breaks, one thing at a time. Is any event lost? \
               How many come twice, and how long until the sink is served again?",
    held: "sink of 2,000/s, payload, seed, 4 workers (by key below the ceiling) of batches of 200, commit interval of 1 s, \
           three brokers with three replicas (two must confirm), machine",
    varied: "the fault; the queue between poll and sink; the load: 1,500/s or 8,000/s, or by --case in bursts or hardly any",
    arms: &[],
    launches,
    warm_up: false,
    predict,
    checks,
    charts: |_| Vec::new(),
    tables,
    limits: "One machine: brokers, links and hosts are processes, veth pairs and network namespaces, \
             and one disk. One run a row. Recovery is from when the cure begins, seen at one look a \
             second, over three seconds; the outage is the longest time from the fault on in which a \
             partition that holds more stood still.",
};

/// Faults whose rows do not check the order: a sink that replaces another does not know the earlier
/// keys, and with more partitions a key moves to another one. Above the ceiling order is not
/// checked either: workers there are not by key ([`launch`]).
const UNORDERED: [&str; 2] = ["sink-killed", "partitions-added"];
/// Faults that hardly any load does not feel: a call of one event has no half, and 20/s do not fill a bottleneck.
const UNFELT_IDLE: [&str; 3] = ["answers-partial", "broker-link-delayed", "sink-link-delayed"];
/// Seconds of deliveries that no commit covers: the interval, and as long for the commit itself.
pub(super) const UNCOMMITTED_S: f64 = 1.0 + 1.0;

/// The sink's ceiling, events/s.
const CEILING: u32 = 2000;

/// A load.
#[derive(Debug, PartialEq)]
pub struct Load {
    /// In the name of a row.
    pub name: &'static str,
    /// `--schedule`; longer than any row.
    schedule: &'static str,
    /// On average, events/s.
    pub offered: f64,
}

/// Three quarters of the ceiling.
const BELOW: Load = Load { name: "1500", schedule: "1500", offered: 1500.0 };
/// Four times the ceiling.
const ABOVE: Load = Load { name: "8000", schedule: "8000", offered: 8000.0 };
/// Almost the ceiling for a second, then little: once in the time that a row's rates are taken over.
const BURSTY: Load = Load { name: "bursty", schedule: "1900:1s,250:2s,x200", offered: 800.0 };
/// A producer that hardly sends.
const IDLE: Load = Load { name: "idle", schedule: "20", offered: 20.0 };

/// A queue and a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// `--queue`.
    pub queue: &'static str,
    /// What is offered.
    pub load: &'static Load,
}

const fn case(queue: &'static str, load: &'static Load) -> Case {
    Case { queue, load }
}

/// Every queue and load, in such an order that neighbours differ in both.
pub const CASES: [Case; 6] = [
    case("bounded", &ABOVE),
    case("pull", &BELOW),
    case("unbounded", &ABOVE),
    case("bounded", &BELOW),
    case("pull", &ABOVE),
    case("unbounded", &BELOW),
];

/// More loads for who wants to know how soon a fault is noticed (`lab detect`).
const UNEVEN: [Case; 2] = [case("bounded", &BURSTY), case("bounded", &IDLE)];

impl Case {
    /// Reads `bounded:8000`.
    ///
    /// # Errors
    /// Says which there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all = || CASES.into_iter().chain(UNEVEN);
        let named = |case: Case| format!("{}:{}", case.queue, case.load.name);
        all().find(|case| named(*case) == text).ok_or_else(|| {
            let all: Vec<String> = all().map(named).collect();
            format!("allowed: {}", all.join(", "))
        })
    }
}

/// The rows of a run, in its order: only the faults of `only` (all, where it is empty), under `one`
/// case where that is given. In the quick form a fault has the case of its place in the table,
/// whichever faults are run.
pub fn rows(form: Form, only: &[String], one: Option<Case>) -> Vec<(&'static Fault, Case)> {
    let mut rows = Vec::new();
    for (place, fault) in FAULTS.iter().enumerate() {
        if !only.is_empty() && !only.iter().any(|name| name == fault.name) {
            continue;
        }
        if one.is_some_and(|case| *case.load == IDLE) && UNFELT_IDLE.contains(&fault.name) {
            continue;
        }
        let [first, ..] = CASES;
        let cases: Vec<Case> = match (fault.lost, one, form) {
            // Only events that wait in the log are lost with it.
            (Lost::Counted, ..) => vec![first],
            (_, Some(one), _) => vec![one],
            (_, None, Form::Quick) => CASES.into_iter().cycle().skip(place).take(1).collect(),
            (_, None, Form::Full) => CASES.into(),
        };
        rows.extend(cases.into_iter().map(|case| (fault, case)));
    }
    rows
}

/// Whether a row's workers are by key: below the ceiling.
fn is_by_key(offered: f64, ceiling: f64) -> bool {
    offered < ceiling
}

/// What the processes of a row are started with. Fetches are small, so that within seconds each
/// partition is seen to have its turn.
pub fn launch(fault: &Fault, case: Case) -> Launch {
    let sink = format!("--rate-limit {CEILING}");
    let mut processor =
        format!("--queue {} --queue-cap 10000 --sink-timeout 3s --fetch-bytes 64KiB", case.queue);
    // By key, so that the order of each key can be checked; above the ceiling from one queue, so
    // that the commits can be checked.
    if is_by_key(case.load.offered, CEILING.into()) {
        processor += " --worker-assignment key";
    }
    let mut topic = Vec::new();
    match fault.strike {
        Strike::ProcessorKilled => processor += " --session-timeout 6s",
        Strike::ProcessorFrozen(_) => processor += " --session-timeout 6s --max-poll-interval 6s",
        Strike::Retention(_) => {
            topic = ["segment.bytes=1048576", "retention.bytes=2000000"].map(str::to_owned).into();
        }
        _ => {}
    }
    // Retention may delete events that are not acked at the end: there the queue is drained.
    if !matches!(fault.strike, Strike::Retention(_)) {
        processor += " --drain-timeout 3s";
    }
    let load = format!("--schedule {} --msg-size 512 --seed 1", case.load.schedule);
    let name = format!("{}-{}-{}", fault.name, case.queue, case.load.name);
    Launch { topic, ..Launch::new(&name, &load, &sink, &processor) }
}

/// What every row shares, for the plan.
fn launches(_: Form) -> Vec<Launch> {
    let load = "--schedule 8000:30s --msg-size 512 --seed 1";
    let sink = format!("--rate-limit {CEILING}");
    vec![Launch::new("row", load, &sink, "--queue bounded --queue-cap 10000")]
}

fn predict(setup: &Setup) -> Vec<Prediction> {
    let served = setup.ceiling * UNCOMMITTED_S;
    let p = Prediction::new;
    vec![
        p("in_flight", IN_FLIGHT, "events", "4 workers × 200 events of a batch".into()),
        p(
            "uncommitted",
            served + IN_FLIGHT,
            "events",
            format!(
                "commit interval and the commit's own way, 1 s each, × {}/s + in flight",
                figure(setup.ceiling)
            ),
        ),
    ]
}

fn checks(run: &Run) -> Vec<Check> {
    let mut checks = Vec::new();
    let rows = row::all(&run.dir);
    let whole = rows.iter().filter(|row| row.is_ok()).count();
    checks.push(Check::new(
        "rows",
        "Did every row run to its end?",
        (row::meant(&run.dir).unwrap_or(f64::NAN), Margin::AtLeast, "all that were to run"),
        Some(whole as f64),
        "rows",
    ));
    for row in rows.into_iter().flatten() {
        checks.extend(of_row(&row, run.plan.setup.ceiling));
    }
    checks
}

fn of_row(row: &Row, ceiling: f64) -> Vec<Check> {
    let ask = |name: &str, question: &str, wanted, measured, unit: &str| {
        Check::new(&format!("{}_{name}", row.name), question, wanted, measured, unit)
    };
    let (missing, counted) = (row.missing(), row.counted_as_lost());
    let (question, wanted) = match row.fault.lost {
        Lost::Nothing => ("Ids without a fate, or with two", (0.0, Margin::AtMost, PROMISE)),
        Lost::Counted => (
            "Are the ids that are gone as many as were counted?",
            (counted.unwrap_or(f64::NAN), Margin::Absolute(0.0), PROMISE),
        ),
    };
    let mut checks = vec![ask("lost", question, wanted, missing, "ids")];
    let question = "Deliveries whose payload does not match its digest";
    let none = (0.0, Margin::AtMost, PROMISE);
    checks.push(ask("corrupt", question, none, row.corrupt(), "events"));
    if row.fault.lost == Lost::Counted {
        let question = "Do processor and producer report the loss, with its count?";
        checks.push(ask(
            "loss_said",
            question,
            (1.0, Margin::AtLeast, "yes or no"),
            counted,
            "events",
        ));
    }
    // By key each worker has a queue of its own: what one leaves in its queue at the end comes
    // before what another has delivered, so the latter comes again.
    if is_by_key(row.offered, ceiling) {
        if !UNORDERED.contains(&row.fault.name) {
            let question = "Events delivered after a later one of their key (one that comes twice counts once)";
            let kept = (0.0, Margin::AtMost, "a promise: a new member may repeat, never overtake");
            checks.push(ask("order", question, kept, row.overtaken(), "events"));
        }
    } else {
        let question = "Done, and still in the log: was all that is done committed at the end?";
        let all = (0.0, Margin::AtMost, PROMISE);
        checks.push(ask("committed", question, all, row.uncommitted(), "ids"));
    }
    checks.push(ask(
        "duplicates",
        "Deliveries of an id that was delivered before",
        (
            row.fault.duplicates.bound(ceiling, row.seconds()),
            Margin::AtMost,
            row.fault.duplicates.because(),
        ),
        row.duplicates(),
        "events",
    ));
    let question =
        "From the fault's end until the sink is served at 90 % of its rate before, for good";
    let why = "a session or an election, the longest backoff, and three seconds to tell";
    let wanted = (row.fault.recovery_s, Margin::AtMost, why);
    checks.push(ask("recovery", question, wanted, row.recovery_s(), "s"));
    let question = "Partitions with more events, of which nothing is fetched after that";
    checks.push(ask(
        "still",
        question,
        (0.0, Margin::AtMost, PROMISE),
        row.standing_still(),
        "partitions",
    ));
    if let Some(after_s) = row.fault.goes_on_after_s {
        let question =
            "Partitions with more events, of which nothing was fetched while the fault lasted";
        checks.push(ask(
            "goes_on",
            question,
            (0.0, Margin::AtMost, PROMISE),
            row.held_up(after_s),
            "partitions",
        ));
    }
    let shows = (row.fault.seen)(row).map(|_| 1.0);
    checks.push(ask(
        "shows",
        "Does the fault show, and what is expected with it?",
        (1.0, Margin::AtLeast, "yes or no"),
        shows,
        "",
    ));
    checks
}

impl Duplicates {
    /// The most that may come twice, for a fault of `seconds`.
    fn bound(self, ceiling: f64, seconds: f64) -> f64 {
        match self {
            Self::None => 0.0,
            Self::InFlight(times) => f64::from(times) * IN_FLIGHT,
            Self::Uncommitted => ceiling * UNCOMMITTED_S + IN_FLIGHT,
            Self::Unacked => ceiling * seconds + IN_FLIGHT,
        }
    }

    fn because(self) -> &'static str {
        match self {
            Self::None => PROMISE,
            Self::InFlight(1) => "in flight",
            Self::InFlight(_) => "in flight, each try",
            Self::Uncommitted => "uncommitted",
            Self::Unacked => "unacked meanwhile",
        }
    }

    fn says(self, bound: f64) -> String {
        match self {
            Self::None => "0".into(),
            _ => format!("{} ({})", thousands(bound), self.because()),
        }
    }
}

fn tables(run: &Run) -> Vec<Table> {
    let count = |n: Option<f64>| n.map_or("?".to_owned(), thousands);
    let rows = row::all(&run.dir).into_iter().map(|row| match row {
        Ok(row) => {
            let bound = row.fault.duplicates.bound(run.plan.setup.ceiling, row.seconds());
            let of = match row.fault.lost {
                Lost::Nothing => String::new(),
                _ => format!(" ({} counted)", count(row.counted_as_lost())),
            };
            let recovery = row.recovery_s().map_or("never".to_owned(), |s| format!("{s:.0} s"));
            let outage = row.outage_s().map_or("?".to_owned(), |s| format!("{s:.0} s"));
            vec![
                row.fault.name.to_owned(),
                row.queue.clone(),
                row.load.clone(),
                row.fault.expected.to_owned(),
                (row.fault.seen)(&row).unwrap_or_else(|| "**it does not show as expected**".into()),
                count(row.missing()) + &of,
                format!("{} of {}", count(row.duplicates()), row.fault.duplicates.says(bound)),
                outage,
                recovery,
            ]
        }
        Err((name, why)) => {
            let mut cells = vec![name, String::new(), String::new(), String::new(), why];
            cells.resize(9, String::new());
            cells
        }
    });
    let head =
        ["fault", "queue", "load", "expected", "seen", "lost", "duplicates", "outage", "recovery"];
    let what = FAULTS.iter().map(|fault| vec![fault.name.to_owned(), fault.strike.what()]);
    vec![
        Table::new("Faults", &head, rows),
        Table::new("What is done", &["fault", "what is done"], what),
    ]
}

#[cfg(test)]
mod tests;
