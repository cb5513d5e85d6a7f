//! One row of the matrix: a fault under one queue and one load, read from the folder that the run
//! left. Nothing is judged here.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::matrix::{FAULTS, Fault, PROCESSORS};
use crate::lab::charts::Ink;
use crate::lab::experiments::{ArmSpec, Phase};
use crate::lab::read_json;
use crate::lab::run_folder::Arm;
use crate::lab::samples::Sample;
use crate::lab::stats::{self, Series};
use crate::units;

/// What the run writes down of a row.
pub const FILE: &str = "fault.json";

/// Seconds over which a rate is taken: before the fault, and to see that it is over.
const WINDOW_S: f64 = 3.0;
/// Half of the time between two samples: a window holds as many of them wherever it begins, s.
const HALF_LOOK_S: f64 = 0.5;
/// The share of the rate before that counts as served again.
const SERVED_AGAIN: f64 = 0.9;

/// When a fault began and ended, and what was seen of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    /// Its name.
    pub fault: String,
    /// The processor's queue.
    pub queue: String,
    /// The load's name.
    pub load: String,
    /// On average, events/s.
    pub offered: f64,
    /// µs since the epoch.
    pub began_us: i64,
    /// µs since the epoch.
    pub ended_us: i64,
    /// What the run saw.
    pub note: String,
}

/// A row.
pub struct Row {
    /// Its folder's name.
    pub name: String,
    /// What was done.
    pub fault: &'static Fault,
    /// The processor's queue.
    pub queue: String,
    /// The load's name.
    pub load: String,
    /// The load on average, events/s.
    pub offered: f64,
    /// What the run saw.
    pub note: String,
    /// Samples, logs and ledger.
    pub arm: Arm,
    /// From the fault's begin to its end, s of the arm.
    phase: Phase,
}

/// A row, or the name of one that did not run to its end, and why.
pub type Read = Result<Row, (String, String)>;

/// File name of the number of rows that are to run, written down before the first.
pub const MEANT_FILE: &str = "rows";

/// How many rows were to run.
pub fn meant(dir: &Path) -> Option<f64> {
    std::fs::read_to_string(dir.join(MEANT_FILE)).ok()?.trim().parse().ok()
}

/// Every row in the folder, by the time of its fault.
pub fn all(dir: &Path) -> Vec<Read> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut rows: Vec<(i64, Read)> = folders
        .map(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match Row::read(&name, &folder) {
                Ok((began_us, row)) => (began_us, Ok(row)),
                Err(why) => (i64::MAX, Err((name, why))),
            }
        })
        .collect();
    rows.sort_by_key(|(began_us, _)| *began_us);
    rows.into_iter().map(|(_, row)| row).collect()
}

impl Row {
    /// The row in `dir`, and when its fault began, µs since the epoch.
    ///
    /// # Errors
    /// What is absent: it did not run to its end.
    pub fn read(name: &str, dir: &Path) -> Result<(i64, Self), String> {
        let text = |e: crate::failure::Failure| e.to_string();
        let mark: Mark = read_json(&dir.join(FILE)).map_err(text)?;
        let fault = FAULTS.iter().find(|fault| fault.name == mark.fault);
        let fault = fault.ok_or_else(|| format!("no fault is called {}", mark.fault))?;
        let spec = ArmSpec::new(fault.name, fault.name, Ink::Blue);
        let arm = Arm::read(dir, spec).map_err(text)?;
        if arm.ledger.is_none() {
            return Err("it was not audited".into());
        }
        let phase =
            Phase { rate: mark.offered, from: arm.at(mark.began_us), to: arm.at(mark.ended_us) };
        let row = Self {
            name: name.to_owned(),
            fault,
            queue: mark.queue,
            load: mark.load,
            offered: mark.offered,
            note: mark.note,
            arm,
            phase,
        };
        Ok((mark.began_us, row))
    }

    /// How long the fault lasted, s.
    pub fn seconds(&self) -> f64 {
        self.phase.length()
    }

    /// Ids that are nowhere, or in two places. Invalid events explain none of them: all that is
    /// produced here is an event.
    pub fn missing(&self) -> Option<f64> {
        self.arm.ledger.as_ref().map(|ledger| (ledger.missing + ledger.two_fates) as f64)
    }

    /// Deliveries whose payload does not match its digest.
    pub fn corrupt(&self) -> Option<f64> {
        self.arm.ledger.as_ref().map(|ledger| ledger.corrupt as f64)
    }

    /// What processors and producers counted as gone with the log.
    pub fn counted_as_lost(&self) -> Option<f64> {
        self.arm.ledger.as_ref().map(|ledger| ledger.lost as f64)
    }

    /// Deliveries of an id that was delivered before.
    pub fn duplicates(&self) -> Option<f64> {
        self.arm.ledger.as_ref().map(|ledger| ledger.duplicates as f64)
    }

    /// Events that the sink took after a later one of their key.
    pub fn overtaken(&self) -> Option<f64> {
        stats::max(&self.arm.metric("sink", "sink_order_violations_total"))
    }

    /// Ids that are acked or given up, and still in the log.
    pub fn uncommitted(&self) -> Option<f64> {
        self.arm.ledger.as_ref().map(|ledger| ledger.again as f64)
    }

    /// Events/s at the sink in the last window before the fault.
    pub fn before(&self) -> Option<f64> {
        let acked = stats::between(&self.arm.delivered(), f64::NEG_INFINITY, self.phase.from);
        let end = acked.last()?.0;
        stats::overall_rate(&stats::between(&acked, end - WINDOW_S - HALF_LOOK_S, end))
    }

    /// When the producer was seen last, s: after that the row itself ends.
    fn loaded_until(&self) -> Option<f64> {
        Some(self.arm.metric("producer", "producer_events_due").last()?.0)
    }

    /// Whether the sink is served as before, from each look after `from` on. A queue may serve it for a while though
    /// nothing comes in.
    fn served(&self, from: f64) -> Option<Vec<(f64, bool)>> {
        let wanted = self.before().filter(|rate| *rate > 0.0)? * SERVED_AGAIN;
        let acked = self.arm.delivered();
        let acked = stats::between(&acked, from, self.loaded_until()?);
        let served = |at: f64| {
            let window = stats::between(&acked, at, at + WINDOW_S + HALF_LOOK_S);
            window.last().filter(|last| last.0 >= at + WINDOW_S - HALF_LOOK_S)?;
            Some((at, stats::overall_rate(&window).is_some_and(|rate| rate >= wanted)))
        };
        Some(acked.iter().filter_map(|(at, _)| served(*at)).collect())
    }

    /// From the fault's end until the sink is served as before, and stays so; 0 when it always was.
    pub fn recovery_s(&self) -> Option<f64> {
        let looks = self.served(self.phase.to)?;
        let since = looks.iter().rev().take_while(|(_, served)| *served).last();
        // The first sample after the end is up to a second late.
        since.map(|(at, _)| (at - self.phase.to - 1.0).max(0.0))
    }

    /// From the fault's begin until the sink is served as before; `None` where it always was. A sink that does not tell
    /// is not served.
    pub fn unserved(&self) -> Option<Phase> {
        let looks = self.served(self.phase.from)?;
        let Phase { from, to, .. } = self.phase;
        let again = match looks.iter().rposition(|(_, served)| !served) {
            Some(last) => looks.get(last + 1).map_or(f64::INFINITY, |look| look.0),
            None => {
                let within = self.arm.samples.iter();
                let mut within = within.filter(|s| (from..=to).contains(&self.arm.at(s.due_us)));
                within.find(|s| s.delivered().is_none()).map(|_| to)?
            }
        };
        Some(Phase { to: again.max(to), ..self.phase })
    }

    /// The longest time, from the fault's begin on, in which a partition stood still though it had
    /// more events, s: what a user calls the outage. Less the second between two samples.
    pub fn outage_s(&self) -> Option<f64> {
        let (from, to) = (self.phase.from, self.loaded_until()?);
        let mut at: BTreeMap<i32, (f64, f64)> = BTreeMap::new();
        let mut longest: f64 = 0.0;
        for sample in &self.arm.samples {
            let now = self.arm.at(sample.due_us);
            if !(from..=to).contains(&now) {
                continue;
            }
            for (partition, row) in sample.log.iter().flat_map(|log| &log.partitions) {
                let key = format!("processor_position_offset{{partition=\"{partition}\"}}");
                let of = |member: &&str| sample.metric(member, &key);
                let position: f64 = PROCESSORS.iter().filter_map(of).sum();
                let furthest = PROCESSORS.iter().filter_map(of).fold(0.0, f64::max);
                // A partition that came later, as when a topic grows, begins when it is first seen.
                let (since, before) = at.entry(*partition).or_insert((now, position));
                let holds_more = row.end.is_none_or(|end| furthest < end as f64);
                // The position may also fall: then another log is read, from its start.
                if position != *before || !holds_more {
                    *since = now;
                }
                *before = position;
                longest = longest.max(now - *since);
            }
        }
        (!at.is_empty()).then(|| (longest - 1.0).max(0.0))
    }

    /// Partitions that stand still although the sink is served again.
    pub fn standing_still(&self) -> Option<f64> {
        self.standing_still_in(self.phase.to + self.recovery_s()?, self.loaded_until()?)
    }

    /// Partitions that stand still from `after_s` of the fault on until its end.
    pub fn held_up(&self, after_s: f64) -> Option<f64> {
        self.standing_still_in(self.phase.from + after_s, self.phase.to)
    }

    /// Partitions that have more events than were fetched, and of which nothing is fetched between
    /// two times; `None` where the end of one was never read. An end that cannot be read, as on a
    /// dead broker, is at least where it was.
    fn standing_still_in(&self, from: f64, to: f64) -> Option<f64> {
        let mut ends: BTreeMap<i32, Option<i64>> = BTreeMap::new();
        let looks = self.arm.samples.iter().filter(|s| self.arm.at(s.due_us) <= to);
        for (partition, row) in looks.filter_map(|s| s.log.as_ref()).flat_map(|l| &l.partitions) {
            let end = ends.entry(*partition).or_default();
            *end = row.end.or(*end);
        }
        let mut standing = 0.0;
        for (partition, end) in &ends {
            let end = (*end)? as f64;
            let key = format!("processor_position_offset{{partition=\"{partition}\"}}");
            let of = |member: &&str| stats::between(&self.arm.metric(member, &key), from, to);
            let members: Vec<Series> = PROCESSORS.iter().map(of).collect();
            let reached = members.iter().flatten().any(|point| point.1 >= end);
            if !reached && !members.iter().any(|of| goes_on(of, f64::midpoint(from, to))) {
                standing += 1.0;
            }
        }
        (!ends.is_empty()).then_some(standing)
    }

    /// Events/s at the sink while the fault lasted.
    pub fn meanwhile(&self) -> Option<f64> {
        self.arm.delivered_in(self.phase)
    }

    /// Events/s at the sink from a sample before the fault to one after it, in case there is none
    /// during the fault.
    pub fn across(&self) -> Option<f64> {
        let acked = self.arm.delivered();
        let begin = acked.iter().rfind(|(at, _)| *at <= self.phase.from)?.0;
        let turns = ((self.seconds() + 2.0) / WINDOW_S).ceil();
        stats::overall_rate(&stats::between(&acked, begin, begin + turns * WINDOW_S + HALF_LOOK_S))
    }

    /// By how much the committed offsets rose, all together, from `after_s` of the fault on until its end.
    pub fn committed_meanwhile(&self, after_s: f64) -> Option<f64> {
        let sum = |s: &Sample| {
            let committed = s.log.as_ref()?.partitions.values().map(|row| row.committed);
            committed.sum::<Option<i64>>().filter(|sum| *sum > 0).map(|sum| sum as f64)
        };
        let all = stats::between(&self.arm.series(sum), self.phase.from + after_s, self.phase.to);
        Some(all.last()?.1 - all.first()?.1)
    }

    /// A metric since the fault's end.
    pub fn afterwards(&self, source: &str, key: &str) -> Series {
        stats::between(&self.arm.metric(source, key), self.phase.to, f64::INFINITY)
    }

    /// The largest value of a metric, summed over its labels, that any of `sources` showed.
    pub fn most(&self, sources: &[&str], metric: &str) -> f64 {
        let largest =
            |source: &&str| stats::max(&self.arm.series(|s| s.metric_sum(source, metric)));
        sources.iter().filter_map(largest).fold(0.0, f64::max)
    }

    /// How many lines of `process`'s log hold `text`.
    pub fn lines(&self, process: &str, text: &str) -> usize {
        self.lines_from(f64::NEG_INFINITY, process, text)
    }

    /// How many of them it wrote since the fault's end.
    pub fn lines_after(&self, process: &str, text: &str) -> usize {
        self.lines_from(self.phase.to, process, text)
    }

    fn lines_from(&self, from: f64, process: &str, text: &str) -> usize {
        let log = self.arm.log_of(process);
        log.iter().filter(|(at, line)| *at >= from && line.contains(text)).count()
    }

    /// How long `process` waits, by its log's lines that hold `text`.
    pub fn waits(&self, process: &str, text: &str) -> Vec<Duration> {
        let wait = |(_, line): &(f64, String)| {
            let (_, wait) = line.split_once(" wait=").filter(|_| line.contains(text))?;
            // In quotes where it is two words: 1s, "1s 20ms".
            let wait = match wait.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => wait.split(' ').next(),
            };
            units::duration(wait?).ok()
        };
        self.arm.log_of(process).iter().filter_map(wait).collect()
    }

    /// The longest step back between two lines of `process`'s log, s.
    pub fn step_back_s(&self, process: &str) -> f64 {
        let log = self.arm.log_of(process);
        let steps = log.iter().zip(log.iter().skip(1)).map(|(a, b)| a.0 - b.0);
        steps.fold(0.0, f64::max)
    }
}

/// Whether one member's positions of a partition rise, and again after `half`. Positions of two
/// members must not be mixed: one that lost the partition still shows its last position. One that
/// is assigned it again does too, and its first rise may be no fetch.
fn goes_on(positions: &[(f64, f64)], half: f64) -> bool {
    let mut rises = stats::rates(positions);
    rises.retain(|(_, rate)| *rate > 0.0);
    rises.len() > 1 && rises.last().is_some_and(|(at, _)| *at > half)
}
