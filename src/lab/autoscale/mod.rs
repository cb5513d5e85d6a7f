//! `lab autoscale`: as many members of a consumer group as help, by its lag.
//!
//! ```text
//! every interval:  the group's lag and commits ─► rule ─► members wanted ─► /metrics, for KEDA or an alert
//!                                                                └────────► copies of a command, started and stopped
//! ```
//! - `rules`   when a member is added or taken back, without any of the rest
//! - `members` the copies of the command: started, watched, stopped
//! - `flags`   the command's flags
//!
//! Invariant: what could not be read changes nothing: a look without the lag of every partition is no look. No copy
//! outlives the command, however it ends.

mod flags;
mod members;
pub mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::failure::Failure;
use crate::http::{Access, Limits, Request, Response, Server};
use crate::lab::lag::LagReader;
use crate::lab::samples::LogReading;
use crate::telemetry;
use crate::telemetry::metrics::{AutoscaleMetrics, Metrics};
use crate::threads::Stop;

pub use flags::{Flags, Settings};
use members::Members;
use rules::{Decision, Look, Rule, Said};

/// Looks in a row that could not be used before that is logged: a group does not exist before its first member.
const PATIENT_LOOKS: u32 = 10;

/// Scales until a signal comes.
///
/// # Errors
/// When the flags cannot be used, the address is taken, or the command does not stay up.
pub fn run(flags: Flags) -> Result<(), Failure> {
    let settings = flags.settings()?;
    let stop = Stop::default();
    stop.on_signals()?;
    settings.brokers.let_us_in(&settings.topic)?;
    let metrics = Metrics::new()?;
    let exported = AutoscaleMetrics::register(&metrics)?;
    let server = serve(&settings, metrics)?;
    log::info!(addr = server.addr().to_string().as_str(), group = settings.group.as_str(); "listening");
    let mut members = settings.command.clone().map(Members::new);
    let scaled = scale(&settings, &mut members, &exported, &stop);
    let ended = members.map_or(Ok(()), Members::end);
    scaled.and(ended)
}

fn serve(settings: &Settings, metrics: Metrics) -> Result<Server, Failure> {
    let access = Access::new(settings.listen, settings.token.clone())?;
    let answer = telemetry::endpoint(metrics, access, telemetry::Answers);
    let answer = move |request: Request| {
        let none = || Response::text(404, format_args!("no {} here; try /metrics", request.path));
        answer(&request).unwrap_or_else(none)
    };
    Server::start(settings.listen, Limits::default(), Arc::new(answer))
}

fn scale(
    settings: &Settings,
    members: &mut Option<Members>,
    exported: &AutoscaleMetrics,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut reader =
        LagReader::new(&settings.brokers, &settings.topic, &settings.group, settings.isolation);
    let (mut rule, mut committed) =
        (Rule::new(&settings.plan, settings.bounds), Committed::default());
    let (start, mut tick, mut unusable) = (Instant::now(), 0_u32, 0_u32);
    let mut wanted = settings.bounds.min.get();
    loop {
        if let Some(members) = members {
            members.look()?;
            members.want(wanted)?;
        }
        let due = start + settings.interval * tick;
        if stop.wait(due.saturating_duration_since(Instant::now())) {
            return Ok(());
        }
        let reading = reader.read();
        // A look that took longer leaves others out.
        tick =
            ((start.elapsed().as_nanos() / settings.interval.as_nanos()) as u32).saturating_add(1);
        let Some((lags, running)) = usable(&reading, members.as_ref()) else {
            unusable = unusable.saturating_add(1);
            if unusable == PATIENT_LOOKS {
                log::warn!(why = reading.unread.join("; ").as_str(); "the lag cannot be read; the number of members stays");
            }
            continue;
        };
        unusable = 0;
        let delivered = committed.add(&reading);
        let at_s = start.elapsed().as_secs_f64();
        let look = Look { at_s, lags: &lags, delivered, members: running };
        let decision = rule.decide(&look);
        say(&look, decision, wanted);
        wanted = decision.wanted;
        export(exported, &look, &rule, wanted);
    }
}

/// The lag of each partition and the members that run; `None` where one of these is not known.
fn usable(reading: &LogReading, members: Option<&Members>) -> Option<(Vec<i64>, usize)> {
    let lags: Option<Vec<i64>> = reading.partitions.values().map(|row| row.lag).collect();
    let lags = lags.filter(|lags| !lags.is_empty())?;
    Some((lags, members.map_or(reading.members, |members| Some(members.running()))?))
}

/// What a group has committed, counted up: an offset that goes back, or is of another log, takes nothing away.
#[derive(Default)]
struct Committed {
    last: BTreeMap<i32, i64>,
    total: f64,
}

impl Committed {
    fn add(&mut self, reading: &LogReading) -> f64 {
        for (partition, row) in &reading.partitions {
            let Some(now) = row.committed else { continue };
            // The first commit of a partition says where it is, not what was done.
            let before = self.last.insert(*partition, now).unwrap_or(now);
            self.total += (now - before).max(0) as f64;
        }
        self.total
    }
}

fn say(look: &Look<'_>, decision: Decision, before: usize) {
    let (wanted, lag, of) = (decision.wanted, look.lag(), look.lagging());
    match decision.said {
        Said::Nothing => {}
        Said::Kept { before: without, after } => log::info!(
            members = before, wanted = wanted, delivered_before = without.round(), delivered = after.round(),
            lag = lag; "the added member stays"
        ),
        Said::SinkIsTheLimit { before: without, after } => log::warn!(
            members = before, wanted = wanted, delivered_before = without.round(), delivered = after.round(),
            lag = lag; "the sink is the limit"
        ),
        Said::PartitionsAreTheLimit => log::warn!(
            members = before, partitions_with_lag = of, lag = lag; "the partitions are the limit"
        ),
        Said::Added | Said::Fewer => {}
    }
    if wanted != before {
        log::info!(members = before, wanted = wanted, partitions_with_lag = of, lag = lag; "members wanted");
    }
}

fn export(exported: &AutoscaleMetrics, look: &Look<'_>, rule: &Rule, wanted: usize) {
    exported.wanted.set(wanted as i64);
    exported.members.set(look.members as i64);
    exported.lag.set(look.lag());
    exported.lagging.set(look.lagging() as i64);
    exported.delivered.set(look.delivered);
    exported.sink_is_the_limit.set(i64::from(rule.found_the_sink_the_limit()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::samples::PartitionReading;

    fn reading(rows: &[(i32, Option<i64>, Option<i64>)]) -> LogReading {
        let row = |(p, committed, lag): &(i32, Option<i64>, Option<i64>)| {
            (*p, PartitionReading { end: None, committed: *committed, lag: *lag })
        };
        let partitions = rows.iter().map(row).collect();
        LogReading { partitions, members: Some(3), ..LogReading::default() }
    }

    /// Prevents: an old topic whose first commit passes for a million deliveries; an offset that was set back
    /// for deliveries that were taken back.
    #[test]
    fn only_what_commits_go_forward_is_delivered() {
        let mut committed = Committed::default();
        let totals: Vec<f64> = [
            reading(&[(0, Some(1_000_000), None), (1, None, None)]),
            reading(&[(0, Some(1_000_010), None), (1, Some(500), None)]),
            reading(&[(0, None, None), (1, Some(600), None)]),
            reading(&[(0, Some(1_000_030), None), (1, Some(100), None)]),
            reading(&[(0, Some(1_000_030), None), (1, Some(150), None)]),
        ]
        .iter()
        .map(|reading| committed.add(reading))
        .collect();
        assert_eq!(totals, [0.0, 10.0, 110.0, 130.0, 180.0]);
    }

    /// Prevents: a lag that is not known and counts as none.
    #[test]
    fn a_look_without_the_lag_of_every_partition_is_no_look() {
        assert_eq!(usable(&reading(&[]), None), None);
        assert_eq!(usable(&reading(&[(0, None, Some(4)), (1, None, None)]), None), None);
        let whole = reading(&[(0, None, Some(4)), (1, None, Some(0))]);
        assert_eq!(usable(&whole, None), Some((vec![4, 0], 3)));
        let no_coordinator = LogReading { members: None, ..whole };
        assert_eq!(usable(&no_coordinator, None), None);
    }
}
