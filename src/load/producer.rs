//! The producer: runs a schedule to its end, sends the due events, prints a summary.
//!
//! Invariant: every id below `first_id + due` is acknowledged, or it is counted as unsent in the
//! summary and the exit code is 1. Ids are dense; the schedule starts when the topic is first seen
//! and then waits for nothing. The summary is one JSON line on stdout, everything else goes to
//! stderr.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;

use super::batch::Recipe;
use super::control;
use super::credit::CREDIT;
use super::cursors::Cursors;
use super::logs::{GoneLog, Logs};
use super::rate::RATE;
use super::resends::Resends;
use super::schedule::Pacer;
use super::sender::{Shared, Tally};
use super::senders::Senders;
use super::settings::Settings;
use crate::brokers::View;
use crate::failure::Failure;
use crate::http::access::{self, Access};
use crate::http::{Handler, Limits, Request, Response, Server};
use crate::telemetry::{
    self,
    metrics::{Metrics, ProducerMetrics},
};
use crate::threads::{self, Stop};
use crate::units;
use crate::{cli, clock};

/// How often the gauges, the progress line and the senders are updated.
const LOOK: Duration = Duration::from_millis(50);
/// A topic that has had fewer partitions than at the start for so long was made anew.
const FEWER_MAX: Duration = Duration::from_secs(5);
/// `producer_achieved_rate` is taken over this long.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Latencies up to an hour, in µs, to 3 digits: 0.2 MB.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// An event acknowledged this long after it was due is on time: the linger and a round trip. The
/// achieved rate forgives it once, at the end of the run, so that it measures falling behind.
const ON_TIME: Duration = Duration::from_millis(100);

/// The result of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The topic.
    pub topic: String,
    /// The run's seed.
    pub seed: u64,
    /// Id of the first event; they are dense from here.
    pub first_id: u64,
    /// Events that the schedule made due.
    pub due: u64,
    /// Events acknowledged by the brokers.
    pub produced: u64,
    /// Every id from `first_id` up to here, exclusive, is acknowledged; `first_id + due` unless
    /// events stayed unsent.
    pub acked_below: u64,
    /// Events acknowledged, by partition.
    pub partitions: Vec<u64>,
    /// Events that the schedule alone would have made due and slow-source leases or credit held back.
    pub held_back: u64,
    /// How long the schedule stood for want of credit, s.
    pub blocked_seconds: f64,
    /// How long the schedule ran, s.
    pub schedule_seconds: f64,
    /// From the start to the last acknowledgement, s.
    pub duration_seconds: f64,
    /// `due` over `schedule_seconds`, events/s.
    pub target_rate: f64,
    /// `produced` over the time that it took, events/s: the schedule's, or longer if the last
    /// acknowledgement came more than 100 ms after its end.
    pub achieved_rate: f64,
    /// Median of due → acknowledged, ms.
    pub latency_p50_ms: f64,
    /// 99th percentile of due → acknowledged, ms.
    pub latency_p99_ms: f64,
    /// Largest due → acknowledged, ms.
    pub latency_max_ms: f64,
    /// Produce requests, or partitions of them, that were sent again.
    pub retries: u64,
    /// Events that were sent again because the sink did not have them: --resend-after.
    pub resent: u64,
    /// Logs that are gone, with the offsets acknowledged in them.
    pub logs_gone: Vec<GoneLog>,
}

/// Runs the producer until its schedule ends or SIGTERM, then sends the backlog.
///
/// # Errors
/// When the topic does not exist, the brokers are too new or refuse the events, the address cannot
/// be listened on, or events stay unsent for `--drain-timeout`.
pub fn run(settings: Settings) -> Result<(), Failure> {
    let access = Access::new(settings.listen, access::token(settings.token_file.as_deref())?)?;
    let stop = Stop::default();
    stop.on_signals()?;
    let metrics = Metrics::new()?;
    let counts = ProducerMetrics::register(&metrics)?;
    let run = Arc::new(OnceLock::<Arc<Shared>>::new());
    let server = Server::start(settings.listen, Limits::default(), handler(metrics, access, &run))?;
    log::info!(
        addr = server.addr().to_string().as_str(), topic = settings.topic.as_str(),
        brokers = settings.brokers.list().as_str(); "listening"
    );

    let found = settings.brokers.await_topic(&settings.topic, &stop).map_err(Failure::failed)?;
    let Some(view) = found else {
        log::info!("stopped before the topic was found, nothing was sent");
        return stop.outcome();
    };
    let partitions = u32::try_from(view.leaders.len()).map_err(Failure::failed)?;
    let resends = settings.resends.map(|(sink, ages)| Resends::new(&sink, ages));
    let shared = Arc::new(Shared {
        brokers: settings.brokers,
        topic: settings.topic,
        recipe: Recipe {
            seed: settings.seed,
            first_id: settings.first_id,
            keys: settings.keys,
            payload_bytes: settings.payload_bytes,
            partitions,
        },
        settings: settings.produce,
        linger: settings.linger,
        pacer: Mutex::new(Pacer::new(settings.schedule, clock::now_us())),
        cursors: Cursors::new(partitions),
        view: View::new(view),
        tally: Mutex::new(Tally {
            latency_us: Histogram::new_with_max(LATENCY_MAX_US, 3).map_err(Failure::failed)?,
            last_ack_us: None,
            logs: Logs::default(),
        }),
        resends: resends.transpose()?,
        metrics: counts,
        done: Stop::default(),
    });
    let _set_once = run.set(Arc::clone(&shared));
    let started_us = clock::now_us();
    log::info!(partitions = partitions, rate = shared.pacer.lock().rate(started_us); "schedule begins");

    let senders = Senders::start(Arc::clone(&shared), stop.clone())?;
    if shared.resends.is_some() {
        let shared = Arc::clone(&shared);
        threads::spawn_watched("resend", stop.clone(), move || {
            shared.resends.as_ref().map_or(Ok(()), |resends| resends.run(&shared))
        })?;
    }
    follow(&shared, senders, &stop, settings.drain_timeout)?;
    shared.done.set();

    let summary = summary(&shared, started_us);
    if let Some(resends) = &shared.resends
        && let young = summary.due.saturating_sub(resends.done_below())
        && young > 0
    {
        log::warn!(
            events = young, drain_timeout = units::show(settings.drain_timeout).as_str();
            "the last events had not reached every age of --resend-after, or the sink did not say: nothing more is sent \
             again; --drain-timeout waits longer"
        );
    }
    cli::say_json(&summary)?;
    stop.outcome()?;
    match summary.due.saturating_sub(summary.produced) {
        0 => Ok(()),
        unsent => Err(Failure::Failed(format!(
            "{unsent} of {} events are unsent after a drain of {}; are the brokers up? \
             --drain-timeout waits longer",
            summary.due,
            units::show(settings.drain_timeout)
        ))),
    }
}

fn handler(metrics: Metrics, access: Access, run: &Arc<OnceLock<Arc<Shared>>>) -> Handler {
    let instruments = telemetry::endpoint(metrics, access.clone(), telemetry::Answers);
    let run = Arc::clone(run);
    Arc::new(move |request: Request| match request.path.as_str() {
        RATE | CREDIT => match access.check(&request) {
            Ok(()) => control::answer(run.get().map(Arc::as_ref), &request),
            Err(refusal) => refusal,
        },
        path => instruments(&request).unwrap_or_else(|| {
            Response::text(404, format_args!("no {path}; see {RATE}, {CREDIT}, /metrics"))
        }),
    })
}

/// Supervises the run until everything due is sent, and sent again where that is asked for, or the drain takes
/// too long.
fn follow(
    shared: &Shared,
    mut senders: Senders,
    stop: &Stop,
    drain: Duration,
) -> Result<(), Failure> {
    let mut gauges = Gauges::new();
    let mut draining: Option<Instant> = None;
    let first_id = shared.view.get().id;
    let mut fewer_since: Option<Instant> = None;
    loop {
        senders.look_after()?;
        let (view, had) = (shared.view.get(), shared.recipe.partitions);
        let has = view.leaders.len();
        // A broker that lags behind may describe the same topic with fewer.
        let is_fewer = has < had as usize && (view.id != first_id || view.id == 0);
        fewer_since = is_fewer.then(|| *fewer_since.get_or_insert_with(Instant::now));
        if fewer_since.is_some_and(|since| since.elapsed() >= FEWER_MAX) {
            stop.fail(format!(
                "topic {} was made anew with {has} partitions, and had {had}: events are spread over those; start \
                 the producer again",
                shared.topic
            ));
        }
        control::look_at_credit(shared);
        let now_us = clock::now_us();
        let backlog = gauges.update(shared, now_us);
        if stop.outcome().is_err() {
            return Ok(());
        }
        if stop.is_set() && draining.is_none() {
            let mut pacer = shared.pacer.lock();
            pacer.stop(clock::now_us(), shared.done_below());
        }
        let ended = shared.pacer.lock().ended(now_us);
        if ended && draining.is_none() {
            draining = Some(Instant::now());
            log::info!(backlog = backlog; "schedule ended, sending the backlog");
        }
        let all_sent = backlog == 0
            && shared.resends.as_ref().is_none_or(|r| r.done_below() >= shared.due_by(now_us));
        if ended && (all_sent || draining.is_some_and(|since| since.elapsed() >= drain)) {
            return Ok(());
        }
        match draining {
            Some(_) => std::thread::sleep(LOOK),
            None => drop(stop.wait(LOOK)),
        }
    }
}

/// The gauges and the progress line.
struct Gauges {
    line: ProgressBar,
    /// When the achieved rate was last taken, and how much was sent by then.
    since: (Instant, u64),
    leased: bool,
}

impl Gauges {
    fn new() -> Self {
        // Drawn to stderr, and only where that is a terminal.
        let line = ProgressBar::new_spinner();
        line.set_style(ProgressStyle::default_spinner());
        Self { line, since: (Instant::now(), 0), leased: false }
    }

    /// Sets the gauges; returns the backlog.
    fn update(&mut self, shared: &Shared, now_us: i64) -> u64 {
        let (due, rate, lease, limit, blocked_us) = {
            let pacer = shared.pacer.lock();
            let (due, rate) = (pacer.curve().due_count(now_us), pacer.rate(now_us));
            let (lease, limit) = (pacer.leases().ceiling(now_us), pacer.account().limit());
            (due, rate, lease, limit, pacer.blocked_us(now_us))
        };
        let (granted, left) = limit.map_or((-1, -1), |limit| {
            let gauge = |events: u64| i64::try_from(events).unwrap_or(i64::MAX);
            (gauge(limit), gauge(limit.saturating_sub(due)))
        });
        if self.leased && lease.is_none() {
            log::info!(rate = rate; "lease ended");
        }
        self.leased = lease.is_some();
        let sent: u64 = shared.cursors.acked().iter().sum();
        let backlog = due.saturating_sub(sent);
        let metrics = &shared.metrics;
        metrics.due.set(i64::try_from(due).unwrap_or(i64::MAX));
        metrics.target_rate.set(rate);
        metrics.backlog.set(i64::try_from(backlog).unwrap_or(i64::MAX));
        metrics.lease_rate.set(lease.unwrap_or(-1.0));
        metrics.credit_granted.set(granted);
        metrics.credit_left.set(left);
        metrics.credit_blocked.set(blocked_us as f64 / 1e6);
        let (since, before) = self.since;
        if since.elapsed() >= RATE_WINDOW {
            let achieved = (sent - before) as f64 / since.elapsed().as_secs_f64();
            metrics.achieved_rate.set(achieved);
            self.since = (Instant::now(), sent);
        }
        let achieved = metrics.achieved_rate.get();
        self.line.set_message(format!(
            "sent {sent}, target {rate:.0}/s, achieved {achieved:.0}/s, backlog {backlog}"
        ));
        self.line.tick();
        backlog
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}

fn summary(shared: &Shared, started_us: i64) -> Summary {
    let now_us = clock::now_us();
    let (due, held_back, blocked_us, ran_s) = {
        let pacer = shared.pacer.lock();
        let (due, held_back) = (pacer.curve().due_count(now_us), pacer.held_back(now_us));
        (due, held_back, pacer.blocked_us(now_us), pacer.ran_s(now_us))
    };
    let partitions = shared.cursors.acked();
    let produced: u64 = partitions.iter().sum();
    let tally = shared.tally.lock();
    let quantile_ms = |q| tally.latency_us.value_at_quantile(q) as f64 / 1e3;
    let took_s = tally.last_ack_us.map_or(0.0, |last| (last - started_us) as f64 / 1e6);
    let per_second = |events: u64, s: f64| if s > 0.0 { events as f64 / s } else { 0.0 };
    Summary {
        topic: shared.topic.clone(),
        seed: shared.recipe.seed,
        first_id: shared.recipe.first_id,
        due,
        produced,
        acked_below: shared.recipe.first_id + shared.cursors.acked_below(due),
        partitions,
        held_back,
        blocked_seconds: blocked_us as f64 / 1e6,
        schedule_seconds: ran_s,
        duration_seconds: took_s,
        target_rate: per_second(due, ran_s),
        achieved_rate: per_second(produced, ran_s.max(took_s - ON_TIME.as_secs_f64())),
        latency_p50_ms: quantile_ms(0.5),
        latency_p99_ms: quantile_ms(0.99),
        latency_max_ms: tally.latency_us.max() as f64 / 1e3,
        retries: shared.metrics.retries.get(),
        resent: shared.metrics.resent.get(),
        logs_gone: tally.logs.gone().to_vec(),
    }
}
