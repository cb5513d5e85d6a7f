//! `lab predict`: the fluid model's figures for any load, sink, queue and memory limit, without
//! running anything, also at sizes that no machine here has.
//!
//! - here        flags, and the ways to show a forecast: table, JSON, charts, page
//! - `scenario`  the flags checked: the input
//! - `forecast`  the result: phase by phase, and figure by figure with its formula
//! - `wire`      bytes of an event in a request, in the log, between brokers
//! - `drawing`   the charts
//! - `page`      sliders that ask the model, in a browser
//! - `words`     the flags by name, which the page changes
//! - `recorded`  an arm of a run beside it
//!
//! Invariant: a figure is finite, or absent where the thing never happens.

mod drawing;
mod forecast;
mod page;
mod recorded;
mod scenario;
#[cfg(test)]
mod tests;
pub(super) mod wire;
mod words;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::cli;
use crate::failure::Failure;
use crate::lab::experiments::{Prediction, Setup};
use crate::lab::model::Phase;
use crate::lab::text::{aligned, figure, scaled};
use crate::load::schedule::Schedule;
use crate::policy::Policy;
use crate::policy::shed::Who;
use crate::queue;
use crate::queue::spill;
use crate::sink::settings::cost;
use crate::units;

use forecast::{Figure, Forecast, Row};
use recorded::Recorded;
use scenario::Scenario;
use words::Words;

/// Say what the fluid model predicts for a load, a sink, a queue and a memory limit.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "predict")]
pub struct Settings {
    /// offered load, RATE:TIME[,RATE:TIME…]; needed unless --beside has one
    #[argh(option)]
    schedule: Option<Schedule>,
    /// tokens/s of the sink (2000)
    #[argh(option, default = "2000.0", from_str_fn(units::rate))]
    rate_limit: f64,
    /// tokens that a call of the sink costs (0)
    #[argh(option, default = "0.0", from_str_fn(cost))]
    call_cost: f64,
    /// tokens that each event of a call costs (1)
    #[argh(option, default = "1.0", from_str_fn(cost))]
    event_cost: f64,
    /// events in a call (200)
    #[argh(option, default = "at_least_1(200)", from_str_fn(units::count))]
    batch_size: NonZeroUsize,
    /// a stall of the sink, RATE@AT:TIME such as 200@600s:90s; may be given more than once
    #[argh(option, from_str_fn(Phase::parse))]
    stall: Vec<Phase>,
    /// between fetch and workers: bounded, unbounded, pull, spill (bounded)
    #[argh(option, default = "queue::Name::Bounded", from_str_fn(queue::Name::parse))]
    queue: queue::Name,
    /// events that a bounded queue holds, and one that spills in memory (10000)
    #[argh(option, default = "at_least_1(10_000)", from_str_fn(units::count))]
    queue_cap: NonZeroUsize,
    /// size of all that --queue spill may have on disk, a member; above that --policy decides (2GiB)
    #[argh(option, from_str_fn(spill::Settings::bytes_max))]
    spill_max: Option<u64>,
    /// at a full queue: buffer, shed (with --queue bounded or spill), slow-source, credit (buffer)
    #[argh(option, default = "Policy::Buffer", from_str_fn(Policy::parse))]
    policy: Policy,
    /// events that may wait for a member with --policy credit; the prediction takes it that a round trip is short enough
    /// for it, and says how short
    #[argh(option, from_str_fn(units::count))]
    credit_window: Option<NonZeroUsize>,
    /// who is dropped with --policy shed: newest, priority, sojourn, pid (newest); by exp12, what stays waits
    /// C / λ where the oldest go
    #[argh(option, default = "Who::Newest", from_str_fn(shed))]
    shed: Who,
    /// members of the group: each has this queue, these workers and this memory, and an equal share
    /// of the load (1)
    #[argh(option, default = "at_least_1(1)", from_str_fn(units::count))]
    members: NonZeroUsize,
    /// threads of a member that call the sink: each has a batch in flight (4)
    #[argh(option, default = "at_least_1(4)", from_str_fn(units::count))]
    sink_workers: NonZeroUsize,
    /// the wait, from due to acked, that a capacity is asked for: capacity_by_wait (2s)
    #[argh(option, default = "Duration::from_secs(2)", from_str_fn(units::duration_above_zero))]
    p99_target: Duration,
    /// memory at which a processor is killed, such as 512MiB (none)
    #[argh(option, from_str_fn(units::size))]
    memory_limit: Option<u64>,
    /// resident memory of a processor with an empty queue (20MiB)
    #[argh(option, default = "20 << 20", from_str_fn(units::size))]
    base_rss: u64,
    /// payload bytes of an event (512)
    #[argh(option, default = "512", from_str_fn(scenario::payload))]
    msg_size: u64,
    /// time between two requests of the producer to a broker (20ms)
    #[argh(option, default = "Duration::from_millis(20)", from_str_fn(units::duration_above_zero))]
    linger: Duration,
    /// bytes that a fetch asks for, each partition (1MiB)
    #[argh(option, default = "1 << 20", from_str_fn(units::size))]
    fetch_bytes: u64,
    /// bytes of a whole answer at most, each broker (4MiB)
    #[argh(option, default = "4 << 20", from_str_fn(units::size))]
    answer_bytes: u64,
    /// partitions of the topic (12)
    #[argh(option, default = "at_least_1(12)", from_str_fn(units::count))]
    partitions: NonZeroUsize,
    /// copies of a partition (3)
    #[argh(option, default = "at_least_1(3)", from_str_fn(units::count))]
    replication: NonZeroUsize,
    /// brokers (3)
    #[argh(option, default = "at_least_1(3)", from_str_fn(units::count))]
    broker_count: NonZeroUsize,
    /// go on after the schedule's end until the backlog is gone
    #[argh(switch)]
    drain: bool,
    /// print JSON instead of a table
    #[argh(switch)]
    json: bool,
    /// folder for charts (SVG)
    #[argh(option)]
    chart: Option<PathBuf>,
    /// folder of a recorded arm, such as results/exp1/bounded: it is predicted, and drawn beside
    /// the prediction; other flags change its input
    #[argh(option)]
    beside: Option<PathBuf>,
    /// serve a page whose sliders ask the model, such as 127.0.0.1:9904
    #[argh(option)]
    listen: Option<SocketAddr>,
}

/// Those that the model has.
fn shed(text: &str) -> Result<Who, String> {
    let known = [Who::Newest, Who::Priority, Who::Sojourn, Who::Pid];
    units::one_of(text, &known.map(|who| (who.name(), who)))
}

fn at_least_1(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN)
}

/// Predicts; prints to stdout, or serves a page until a signal comes.
///
/// # Errors
/// [`Failure::Usage`] for flags that contradict each other; [`Failure::Failed`] when a chart cannot
/// be written, or the page's address is not free.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let beside = settings.beside.as_deref().map(Recorded::read).transpose()?;
    let words = || match &beside {
        Some(recorded) => Words::typed().over(&recorded.words),
        None => Words::typed(),
    };
    match (settings.listen, &beside) {
        (Some(listen), _) => page::serve(listen, words(), beside),
        (None, Some(_)) => show(settings, &Scenario::new(&words().settings()?)?),
        (None, None) => show(settings, &Scenario::new(settings)?),
    }
}

/// The model's predictions for arm `name` of a setup.
///
/// # Errors
/// When the model does not cover it.
pub fn of(setup: &Setup, name: &str) -> Result<Vec<Prediction>, Failure> {
    let words = Words::of_arm(setup, name)
        .ok_or_else(|| Failure::Failed(format!("the setup has no arm {name}")))?;
    let forecast = Forecast::of(&Scenario::new(&words.settings()?)?);
    let known = |f: Figure| Some(Prediction::new(&f.name, f.value?, f.unit, f.because));
    Ok(forecast.figures.into_iter().filter_map(known).collect())
}

fn show(settings: &Settings, scenario: &Scenario) -> Result<(), Failure> {
    let forecast = Forecast::of(scenario);
    if settings.json {
        cli::say(serde_json::to_string_pretty(&forecast).map_err(Failure::failed)?)?;
    } else {
        cli::say(table(&forecast).trim_end())?;
    }
    let Some(dir) = &settings.chart else { return Ok(()) };
    std::fs::create_dir_all(dir)
        .map_err(|e| Failure::Failed(format!("--chart {}: {e}", dir.display())))?;
    drawing::charts(scenario, &forecast).iter().try_for_each(|chart| chart.write(dir))
}

/// A column of the table: its head and its cell.
type Column = (&'static str, fn(&Row) -> String);

/// The forecast for a terminal.
fn table(forecast: &Forecast) -> String {
    const COLUMNS: [Column; 13] = [
        ("from s", |r| figure(r.from_s)),
        ("to s", |r| figure(r.to_s)),
        ("offered/s", |r| figure(r.offered)),
        ("ceiling/s", |r| figure(r.ceiling)),
        ("lag slope/s", |r| figure(r.lag_slope)),
        ("lag", |r| figure(r.lag)),
        ("a partition", |r| figure(r.lag_per_partition)),
        ("in queue", |r| figure(r.queue)),
        ("RSS", |r| scaled(r.rss_bytes, "B")),
        ("wait s", |r| r.wait_s.map_or("killed".into(), figure)),
        ("on disk", |r| scaled(r.disk_bytes, "B")),
        ("brokers in", |r| scaled(r.network_in, "B/s")),
        ("brokers out", |r| scaled(r.network_out, "B/s")),
    ];
    let head = COLUMNS.map(|(name, _)| name.to_owned()).to_vec();
    let rows = forecast.phases.iter().map(|row| COLUMNS.map(|(_, cell)| cell(row)).to_vec());
    let figures =
        forecast.figures.iter().map(|f| vec![f.name.clone(), f.says(), f.because.clone()]);
    format!(
        "{}\n\nRates hold from .. to; all else is at the end of that time.\n\n{}\n{}",
        forecast.given,
        aligned(std::iter::once(head).chain(rows).collect(), true),
        aligned(figures.collect(), false)
    )
}
