//! Burrow's rules, partition by partition over its last ten commits, in Burrow's order (`evaluator/caching.go`,
//! `storage/inmemory.go`): a lag of 0 anywhere is OK; an offset that went back is a rewind; a silence longer than
//! the commits' own span is a stop; the same offset in all of them is a stall; a lag that never fell is a warning.
//!
//! Its miss is kept (its issues 738 and 155). Burrow asks the brokers for the high watermark every 10 s and takes the lag
//! of each commit by the last answer. Between two answers every commit lowers that lag, so a group that commits
//! more often than that has a saw for a lag, "never fell" is never true, and a lag of 200,000 that climbs is OK.
//!
//! A commit shows in samples by its offset: of several within a second the last is known, and one that repeats its
//! offset is seen only where `repeats` says that the consumer makes such.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Detector, Look, SECONDS_MAX, State, within};
use crate::lab::text::figure;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Burrow {
    /// Commits in the window: Burrow's `intervals`.
    pub commits: u32,
    /// Time between two looks at the high watermarks, s: Burrow's `offset-refresh`.
    pub end_refresh_s: f64,
    /// Whether the consumer commits also what it has committed before, as Java's auto-commit does; the lab's does
    /// not.
    pub repeats: bool,
}

impl Default for Burrow {
    /// Burrow's own.
    fn default() -> Self {
        Self { commits: 10, end_refresh_s: 10.0, repeats: false }
    }
}

/// What Burrow says of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Whatever is not one of the others.
    Ok,
    /// The lag never fell.
    Warning,
    /// It commits no more.
    Stop,
    /// It commits the same offset.
    Stall,
    /// It went back.
    Rewind,
}

struct Commit {
    at: f64,
    offset: i64,
    lag: i64,
}

#[derive(Default)]
struct Partition {
    /// The log's end as it was asked for last.
    end: Option<i64>,
    commits: VecDeque<Commit>,
}

impl Partition {
    fn commit(&mut self, rule: &Burrow, at: f64, offset: i64) {
        let Some(end) = self.end else { return };
        let again = self.commits.back().is_some_and(|last| last.offset == offset);
        if again && !rule.repeats {
            return;
        }
        if self.commits.len() >= rule.commits as usize {
            self.commits.pop_front();
        }
        self.commits.push_back(Commit { at, offset, lag: end.saturating_sub(offset).max(0) });
    }

    fn status(&self, now: f64) -> Status {
        let (Some(end), Some(first), Some(last)) =
            (self.end, self.commits.front(), self.commits.back())
        else {
            return Status::Ok;
        };
        let all = |holds: fn(&Commit, &Commit) -> bool| {
            self.commits.iter().zip(self.commits.iter().skip(1)).all(|(a, b)| holds(a, b))
        };
        if end <= last.offset || self.commits.iter().any(|commit| commit.lag == 0) {
            Status::Ok
        } else if !all(|a, b| b.offset >= a.offset) {
            Status::Rewind
        } else if now - last.at > last.at - first.at {
            Status::Stop
        } else if all(|a, b| b.offset == a.offset) {
            Status::Stall
        } else if all(|a, b| b.lag >= a.lag) {
            Status::Warning
        } else {
            Status::Ok
        }
    }
}

impl Burrow {
    /// The worst status of all partitions at each look; `None` where it does not tell them.
    pub fn worst(&self, looks: &[Look]) -> Vec<Option<Status>> {
        let mut partitions: BTreeMap<i32, Partition> = BTreeMap::new();
        let mut asked = f64::NEG_INFINITY;
        let mut worst = Vec::with_capacity(looks.len());
        for look in looks {
            let Some(log) = look.log.as_ref().filter(|log| !log.partitions.is_empty()) else {
                worst.push(None);
                continue;
            };
            let asks = log.at - asked >= self.end_refresh_s;
            if asks {
                asked = log.at;
            }
            for (partition, row) in &log.partitions {
                let partition = partitions.entry(*partition).or_default();
                if asks {
                    partition.end = row.end.or(partition.end);
                }
                if let Some(offset) = row.committed {
                    partition.commit(self, log.at, offset);
                }
            }
            worst.push(partitions.values().map(|partition| partition.status(log.at)).max());
        }
        worst
    }
}

impl Detector for Burrow {
    fn name(&self) -> &'static str {
        "burrow"
    }

    fn label(&self) -> String {
        format!("Burrow, {} commits, ends every {} s", self.commits, figure(self.end_refresh_s))
    }

    fn needs(&self) -> &'static str {
        "high watermarks and committed offsets by partition"
    }

    fn check(&self) -> Result<(), String> {
        within("commits", self.commits.into(), 2.0..=1_000.0)?;
        within("end_refresh_s", self.end_refresh_s, 0.0..=SECONDS_MAX)
    }

    fn states(&self, looks: &[Look]) -> Vec<State> {
        let fires = |worst: Option<Status>| worst.map(|status| status > Status::Ok);
        self.worst(looks).into_iter().map(|worst| State::if_known(fires(worst))).collect()
    }
}
