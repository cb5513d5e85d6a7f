//! Joins source, queue, policy and workers into threads: the one place that shows the whole.
//!
//! ```text
//! seat ─ holds partitions ─► Holdings ◄─ asks what to fetch ─ fetch-N (one a broker)
//!   ▲                           │                                │ decode, admit (policy)
//!   │ commits the acked prefix  │ ack                            ▼
//!   └───────────────────────────┴──────── worker-0..W-1 ◄──── queue
//! ```
//!
//! Stop order: fetchers, queue closes, workers drain, seat commits and leaves, metrics last. A full
//! queue blocks fetchers, never the seat; with `keepalive` off, fetching, pushing and the seat's
//! poll share one thread, as naive consumers do.

pub mod flags;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backoff::Backoff;
use crate::brokers::View;
use crate::failure::Failure;
use crate::http::access::Token;
use crate::http::client::Peer;
use crate::http::{self, Access, Limits, Request, Response};
use crate::policy::shed_ids::ShedIds;
use crate::policy::{Admission, Policy, slow_source};
use crate::queue::{self, Kind, Occupancy};
use crate::sink::client::Client;
use crate::sink::workers::{Drain, Mode, Pulse, Worker};
use crate::source::crew::{self, Shared};
use crate::source::fetcher::{FetchSettings, Fetcher, Turn};
use crate::source::seat::{Seat, SeatSettings};
use crate::source::{HandOver, Holdings, Item, LeftLog};
use crate::telemetry::latency::Latency;
use crate::telemetry::metrics::{Metrics, ProcessorMetrics};
use crate::telemetry::{self, latency};
use crate::threads::{Crew, Stop};

/// Which worker gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// Workers take turns on one shared queue; two events of a key may overtake each other.
    RoundRobin,
    /// A key always goes to the same worker, over that worker's own queue.
    Key,
}

/// Everything a run needs, validated; nothing is open yet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The group seat.
    pub seat: SeatSettings,
    /// How much a fetch asks for.
    pub fetch: FetchSettings,
    /// What a full queue means.
    pub queue: Kind,
    /// Which worker gets an event.
    pub assignment: Assignment,
    /// Workers.
    pub workers: NonZeroUsize,
    /// One event a call, or batches.
    pub mode: Mode,
    /// What to do about a full queue.
    pub policy: Policy,
    /// The producer's control endpoint, for slow-source.
    pub producer: String,
    /// The sink.
    pub sink: String,
    /// Longest call of the sink.
    pub sink_timeout: Duration,
    /// How long queued events may still be delivered after a stop.
    pub drain_timeout: Duration,
    /// A worker that has not moved for so long stops the poll clock.
    pub stuck_after: Duration,
    /// Whether the seat polls on a thread of its own.
    pub keepalive: bool,
    /// Where metrics and profiles are served.
    pub listen: SocketAddr,
    /// Opens the profiles off loopback, and the producer's control.
    pub token: Option<Token>,
    /// Where interval latency logs go.
    pub hlog: Option<PathBuf>,
    /// Where the ids that are shed are written.
    pub shed_ids: Option<PathBuf>,
}

/// The figures of a run, printed at its end.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Records taken from the log.
    pub fetched: u64,
    /// Events acked by the sink.
    pub acked: u64,
    /// Events dropped at a full queue.
    pub shed: u64,
    /// Records that are no event.
    pub invalid: u64,
    /// Fetched events given back to the log.
    pub returned: u64,
    /// Offsets that were not there to be fetched; of `logs_left`, as many as it knew of.
    pub lost: u64,
    /// Logs that were gone, and how far they had been fetched.
    pub logs_left: Vec<LeftLog>,
    /// Times the group took the partitions away.
    pub evictions: u64,
    /// Length of the run, s.
    pub seconds: f64,
}

/// How long the seat may take to commit and leave at the end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest poll of the seat: commits and revocations wait no longer than this.
const SEAT_POLL: Duration = Duration::from_millis(100);

/// Poll of the seat between two fetches: short, so that it costs no rate; long enough that what
/// waits for it (an eviction is three events) is heard in one turn on a busy machine too.
const NAIVE_POLL: Duration = Duration::from_millis(20);

/// How often depth and partitions are shown.
const GAUGES: Duration = Duration::from_millis(200);

/// Runs the processor until a signal or a failure.
pub fn run(settings: Settings) -> Result<Summary, Failure> {
    let started = Instant::now();
    let stop = Stop::default();
    stop.on_signals()?;
    let registry = Metrics::new()?;
    let metrics = ProcessorMetrics::register(&registry)?;
    let access = Access::new(settings.listen, settings.token.clone())?;
    metrics.granted_rate.set(-1.0);
    metrics.queue_capacity.set(settings.queue.capacity().map_or(-1, |c| c as i64));

    let (intake, outlets, occupancy) = match settings.assignment {
        Assignment::RoundRobin => queue::shared(settings.queue, settings.workers),
        Assignment::Key => queue::by_lane(settings.queue, settings.workers),
    };
    let gate = intake.gate();
    let (policy, kind) = (settings.policy, settings.queue);
    let shed_ids = settings.shed_ids.as_deref().map(ShedIds::open).transpose()?;
    let latency = Latency::new(settings.workers.get());
    let reporter = latency::Reporter::new(latency.clone(), settings.hlog.as_deref())?;
    let admission = Arc::new(Admission::new(policy, kind, intake, metrics.clone(), shed_ids));
    let server = serve(&settings, registry, access)?;
    log::info!(addr = server.addr().to_string().as_str(); "listening");

    let topic = settings.seat.topic.as_str();
    let Some(view) = settings.seat.brokers.await_topic(topic, &stop).map_err(Failure::failed)?
    else {
        return Ok(summary(&metrics, &Holdings::default(), started));
    };
    let shared = Shared {
        brokers: settings.seat.brokers.clone(),
        topic: topic.to_owned(),
        holdings: Holdings::default(),
        settings: settings.fetch,
        hand_over: Arc::clone(&admission) as Arc<dyn HandOver>,
        metrics: metrics.clone(),
        stop: stop.clone(),
        view: View::new(view),
    };

    let [mut workers, mut instruments, mut seat, mut source] =
        std::array::from_fn(|_| Crew::new(stop.clone()));
    let (drain, leave, measured) = Default::default();
    let ends = Ends { stop, gate, drain, leave, measured };
    let pulses = start_workers(&mut workers, &settings, outlets, &latency, &shared, &ends.drain)?;
    start_instruments(&mut instruments, &settings, &shared, occupancy, reporter, &ends.measured)?;
    start_seat(&mut seat, &settings, shared.clone(), pulses, ends.leave.clone())?;
    if settings.keepalive {
        let shared = shared.clone();
        source.spawn("brokers", move || crew::run(&shared))?;
    }

    while !ends.stop.wait(Duration::from_secs(3600)) {}
    log::info!(queued = metrics.queue_depth.get(); "stopping: no more fetches, draining the queue");
    ends.drain.start(settings.drain_timeout);
    ends.gate.close();
    // A worker may be inside a call that the sink does not answer; it is not waited for longer.
    let in_time = workers.join_within(settings.drain_timeout + settings.sink_timeout);
    ends.leave.set();
    let in_time = seat.join_within(LEAVE_TIMEOUT) && in_time;
    source.join();
    ends.measured.set();
    instruments.join();
    drop(server);
    if !in_time {
        log::warn!(
            "workers or the group seat did not end in time; what was not acked is in the log"
        );
    }
    ends.stop.outcome()?;
    Ok(summary(&metrics, &shared.holdings, started))
}

/// What the threads end by. A start that fails half-way drops it, before the crews wait for those that
/// run already.
struct Ends {
    stop: Stop,
    gate: queue::Gate,
    drain: Drain,
    /// The seat may commit and leave.
    leave: Stop,
    /// Instruments outlive the run's stop signal, so that the last events are measured too.
    measured: Stop,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.stop.set();
        self.gate.close();
        self.drain.start(Duration::ZERO);
        self.leave.set();
        self.measured.set();
    }
}

fn serve(settings: &Settings, registry: Metrics, access: Access) -> Result<http::Server, Failure> {
    let telemetry = telemetry::endpoint(registry, access);
    let handler = move |request: Request| {
        telemetry(&request).unwrap_or_else(|| {
            let path = &request.path;
            Response::text(
                404,
                format_args!("no {path} here; try /metrics, /healthz, /debug/pprof/"),
            )
        })
    };
    http::Server::start(settings.listen, Limits::default(), Arc::new(handler))
}

fn start_workers(
    crew: &mut Crew,
    settings: &Settings,
    outlets: Vec<queue::Outlet<Item>>,
    latency: &Latency,
    shared: &Shared,
    drain: &Drain,
) -> Result<Vec<Pulse>, Failure> {
    let mut pulses = Vec::new();
    for (n, outlet) in outlets.into_iter().enumerate() {
        let pulse = Pulse::default();
        pulses.push(pulse.clone());
        let worker = Worker {
            outlet,
            client: Client::new(&settings.sink, settings.sink_timeout),
            mode: settings.mode,
            stop: shared.stop.clone(),
            drain: drain.clone(),
            pulse,
            metrics: shared.metrics.clone(),
            latency: latency.recorder(n),
        };
        crew.spawn(&format!("worker-{n}"), move || {
            worker.run();
            Ok(())
        })?;
    }
    Ok(pulses)
}

fn start_instruments(
    crew: &mut Crew,
    settings: &Settings,
    shared: &Shared,
    occupancy: Occupancy,
    mut reporter: latency::Reporter,
    measured: &Stop,
) -> Result<(), Failure> {
    let (metrics, stop) = (shared.metrics.clone(), measured.clone());
    crew.spawn("gauges", move || {
        while !stop.wait(GAUGES) {
            metrics.queue_depth.set(occupancy.depth() as i64);
        }
        Ok(())
    })?;
    let (metrics, stop) = (shared.metrics.clone(), measured.clone());
    crew.spawn("latency", move || reporter.run(&metrics.latency_quantiles, &stop))?;
    if settings.policy == Policy::SlowSource {
        let (url, token) = (&settings.producer, settings.token.clone());
        let producer = Peer::new("--producer", url, token, slow_source::CALL_TIMEOUT)?;
        let shared = shared.clone();
        crew.spawn("flow", move || {
            let Shared { holdings, metrics, stop, .. } = &shared;
            slow_source::run(&producer, holdings, metrics, stop);
            Ok(())
        })?;
    }
    Ok(())
}

fn start_seat(
    crew: &mut Crew,
    settings: &Settings,
    shared: Shared,
    pulses: Vec<Pulse>,
    leave: Stop,
) -> Result<(), Failure> {
    let (seat, keepalive) = (settings.seat.clone(), settings.keepalive);
    let stuck_after = settings.stuck_after;
    crew.spawn("seat", move || {
        let (holdings, view) = (shared.holdings.clone(), shared.view.clone());
        let mut seat = Seat::take(seat, holdings, view, shared.metrics.clone())?;
        if keepalive {
            poll_while_workers_live(&mut seat, &pulses, stuck_after, &leave);
        } else {
            poll_between_fetches(&mut seat, &shared, &leave);
        }
        seat.leave();
        Ok(())
    })
}

/// Keeps the poll clock while the workers live. When one has not moved for `stuck_after`, the
/// clock stops: a deadlock must not hold its partitions for ever.
fn poll_while_workers_live(seat: &mut Seat, pulses: &[Pulse], stuck_after: Duration, leave: &Stop) {
    let mut told = false;
    while !leave.is_set() {
        let stuck = pulses.iter().map(Pulse::age).max().unwrap_or_default() > stuck_after;
        if stuck != told {
            told = stuck;
            if stuck {
                log::error!(
                    stuck_after = crate::units::show(stuck_after).as_str();
                    "a worker does not move, the group seat stops polling"
                );
            } else {
                log::info!("workers move again, the group seat polls");
            }
        }
        if stuck {
            leave.wait(SEAT_POLL);
        } else {
            seat.turn(SEAT_POLL);
        }
    }
}

/// The fetcher of one broker on the thread that polls; it must not wait there.
struct Naive {
    address: String,
    fetcher: Fetcher,
    backoff: Backoff,
    not_before: Instant,
}

/// As naive consumers do: poll, fetch, push, and poll again when all of it is pushed.
fn poll_between_fetches(seat: &mut Seat, shared: &Shared, leave: &Stop) {
    let mut fetchers: BTreeMap<i32, Naive> = BTreeMap::new();
    while !leave.is_set() {
        seat.turn(NAIVE_POLL);
        if shared.stop.is_set() {
            leave.wait(SEAT_POLL);
            continue;
        }
        let view = shared.view.get();
        // A broker that moved is fetched from at its new address.
        fetchers.retain(|id, naive| view.addresses.get(id) == Some(&naive.address));
        let mut idle = true;
        for (id, address) in &view.addresses {
            let holdings = shared.led_by(*id);
            if holdings.is_empty() {
                continue;
            }
            idle = false;
            let naive = fetchers.entry(*id).or_insert_with(|| Naive {
                address: address.clone(),
                fetcher: shared.fetcher(address, &Arc::default()),
                backoff: Backoff::standard(),
                not_before: Instant::now(),
            });
            if Instant::now() < naive.not_before {
                continue;
            }
            match naive.fetcher.turn(&holdings) {
                Turn::Failed(why) => {
                    naive.not_before = Instant::now() + naive.backoff.wait();
                    shared.complain(*id, &why);
                    shared.view.refresh(&shared.brokers, &shared.topic, 0);
                }
                Turn::Fatal(why) => shared.stop.fail(why),
                Turn::Progress | Turn::Idle | Turn::Unwanted => naive.backoff.reset(),
            }
        }
        if idle {
            shared.stop.wait(Duration::from_millis(10));
        }
    }
}

fn summary(metrics: &ProcessorMetrics, holdings: &Holdings, started: Instant) -> Summary {
    Summary {
        fetched: metrics.fetched.get(),
        acked: metrics.acked.get(),
        shed: telemetry::metrics::sum(&metrics.shed),
        invalid: telemetry::metrics::sum(&metrics.invalid),
        returned: metrics.returned.get(),
        lost: telemetry::metrics::sum(&metrics.lost),
        logs_left: holdings.left(),
        evictions: metrics.evictions.get(),
        seconds: started.elapsed().as_secs_f64(),
    }
}
