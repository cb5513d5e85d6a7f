//! How each fault shows in the records of its row, with the other things that are expected of the
//! row. `None`: it does not show, or not all of it.

use std::time::Duration;

use super::matrix::{LED_AGAIN_S, PROCESSORS};
use super::row::Row;
use crate::lab::stats;
use crate::lab::text::{figure, thousands};

/// Partitions of a row's topic, before more are added.
const PARTITIONS: f64 = 12.0;
/// The share of the rate before the fault that counts as going on, however slowly.
const GOING_ON: f64 = 0.1;
/// How long the sink's 429 asks a caller to wait.
const TOLD: Duration = Duration::from_secs(1);
/// Backoff doubles from 50 ms to 2 s, half of it by chance: within 8 s it has waited that long.
const BACKED_OFF: Duration = Duration::from_secs(1);

/// `text` with the value in place of `{}`, where that is at least `least`.
fn at_least(value: f64, least: f64, text: &str) -> Option<String> {
    (value >= least).then(|| text.replace("{}", &thousands(value)))
}

fn calls(row: &Row, result: &str, text: &str) -> Option<String> {
    let key = format!("processor_sink_calls_total{{result=\"{result}\"}}");
    at_least(stats::max(&row.arm.metric("processor", &key))?, 1.0, text)
}

/// Calls of the sink were tried again.
pub fn retried(row: &Row) -> Option<String> {
    calls(row, "retried", "{} calls tried again")
}

/// Calls were acked in part.
pub fn in_part(row: &Row) -> Option<String> {
    calls(row, "partial", "{} calls acked in part")
}

/// Fetches were tried again.
pub fn fetches(row: &Row) -> Option<String> {
    at_least(row.most(PROCESSORS, "processor_fetch_retries_total"), 1.0, "{} fetches tried again")
}

fn refusals(row: &Row, status: &str) -> Option<String> {
    let key = format!("sink_rejected_total{{status=\"{status}\"}}");
    let refused = stats::max(&row.arm.metric("sink", &key))?;
    at_least(refused, 1.0, &format!("{{}} requests answered {status}"))
}

/// Workers wait longer and longer while the sink answers 500.
pub fn backed_off(row: &Row) -> Option<String> {
    let text = refusals(row, "500")?;
    let longest = row.waits("processor", "status 500").into_iter().max()?;
    let says = || format!("{text}; waits up to {} s", figure(longest.as_secs_f64()));
    (longest >= BACKED_OFF).then(says)
}

/// Workers wait as long as the sink's 429 tells them.
pub fn waited_as_told(row: &Row) -> Option<String> {
    let text = refusals(row, "429")?;
    let shortest = row.waits("processor", "status 429").into_iter().min()?;
    let says = || format!("{text}; waits from {} s on", figure(shortest.as_secs_f64()));
    (shortest >= TOLD).then(says)
}

/// The note of the run, which it writes only when it saw the fault.
pub fn noted(row: &Row) -> Option<String> {
    let meanwhile = row.meanwhile().map(|rate| format!("; {}/s meanwhile", thousands(rate)));
    (!row.note.is_empty()).then(|| row.note.clone() + &meanwhile.unwrap_or_default())
}

/// The same, and the sink is served while the fault lasts.
pub fn noted_going_on(row: &Row) -> Option<String> {
    let least = row.before()? * GOING_ON;
    noted(row).filter(|_| row.meanwhile().is_some_and(|rate| rate >= least))
}

/// Another processor got the partitions.
pub fn taken_up(row: &Row) -> Option<String> {
    let again = row.lines("processor-2", "partition starts");
    at_least(again as f64, 1.0, "{} partitions taken up again")
}

/// The member was evicted, the other one had every partition, and it came back.
pub fn evicted_and_back(row: &Row) -> Option<String> {
    let evicted = row.most(&["processor"], "processor_evictions_total");
    let others = row.most(&["processor-2"], "processor_partitions");
    let back = row.lines_after("processor", "partition starts");
    Some(format!(
        "{}; {}; {}",
        at_least(evicted, 1.0, "{} eviction")?,
        at_least(others, PARTITIONS, "{} partitions at the other")?,
        at_least(back as f64, 1.0, "{} taken back")?
    ))
}

/// The group has another coordinator, and commits arrive there while the old one is dead.
pub fn new_coordinator(row: &Row) -> Option<String> {
    let evicted = row.most(PROCESSORS, "processor_evictions_total");
    let committed = at_least(row.committed_meanwhile(LED_AGAIN_S)?, 1.0, "{} committed there")?;
    noted(row).filter(|_| evicted == 0.0).map(|text| format!("{text}; {committed}"))
}

/// The producer waited, and sent unconfirmed batches again.
pub fn waited_and_resent(row: &Row) -> Option<String> {
    let backlog = row.most(&["producer"], "producer_backlog_events");
    let resent = row.most(&["producer"], "producer_retries_total");
    let text = at_least(backlog, 2.0 * row.offered, "{} events waited at the producer")?;
    Some(format!("{text}; {}", at_least(resent, 1.0, "{} requests sent again")?))
}

/// The sink that replaced another read its journal.
pub fn on_its_journal(row: &Row) -> Option<String> {
    retried(row).filter(|_| row.lines("sink-2", "journal read") == 1)
}

/// Connections without any packets were given up.
pub fn given_up(row: &Row) -> Option<String> {
    let given_up = row.lines("processor", "no answer within");
    let text = at_least(given_up as f64, 1.0, "{} connections given up")?;
    Some(format!("{text}; {}", noted(row)?))
}

/// Calls were tried again, and the run's note says why.
pub fn retried_and_noted(row: &Row) -> Option<String> {
    Some(format!("{}; {}", retried(row)?, noted(row)?))
}

/// Samples were left out, the log says so, and the sink was served as before.
pub fn left_out(row: &Row) -> Option<String> {
    let said: u64 = row.arm.samples.iter().map(|sample| sample.left_out).sum();
    let (rate, before) = (row.across()?, row.before()?);
    let says = || format!("{}, and said so; {}/s meanwhile", row.note, thousands(rate));
    (!row.note.is_empty() && said > 0 && rate >= 0.9 * before).then(says)
}

/// The processor's clock went back, and no latency shows it: none is cut to 0, none has the step in
/// it.
pub fn clock_went_back(row: &Row) -> Option<String> {
    let step_s = row.step_back_s("processor");
    let text = at_least(step_s, 3000.0, "its log steps back {} s")?;
    let quantile = |stage: &str, q: &str| {
        let key = format!("latency_quantile_seconds{{quantile=\"{q}\",stage=\"{stage}\"}}");
        row.afterwards("processor", &key)
    };
    let least = quantile("log", "0.5").iter().map(|point| point.1).reduce(f64::min)?;
    let most = stats::max(&quantile("end_to_end", "1"))?;
    let says = || format!("{text}; latencies of {} s to {} s", figure(least), figure(most));
    (least > 0.0 && most < step_s / 10.0).then(says)
}

/// Every partition is assigned, the new ones too.
pub fn new_partitions(row: &Row) -> Option<String> {
    at_least(row.most(PROCESSORS, "processor_partitions"), 1.5 * PARTITIONS, "{} partitions held")
}

/// The log reports the loss of a deleted topic.
pub fn started_anew(row: &Row) -> Option<String> {
    let said = row.lines("processor", "reason=topic_deleted");
    at_least(said as f64, 1.0, "{} partitions started anew")
}

/// The log reports the loss to retention.
pub fn overtaken(row: &Row) -> Option<String> {
    let said = row.lines("processor", "retention deleted events");
    at_least(said as f64, 1.0, "{} times overtaken")
}
