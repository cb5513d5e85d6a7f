//! Joins source, queue, policy and workers into threads: the one place that shows the whole.
//!
//! ```text
//! member ─ assigned partitions ─► Assignment ◄─ asks what to fetch ─ fetch-N (one a broker)
//!   ▲                                │                                │ runs, admitted (policy)
//!   │ commits the acked prefix       │ ack                            ▼
//!   └────────────────────────────────┴───── worker-0..W-1 ◄──── queue
//! ```
//!
//! Stop order: fetchers, queue closes, workers drain, member commits and leaves, metrics last. A
//! full queue blocks fetchers, never the member, which polls by `keepalive`. `naive` is what naive
//! consumers do instead. `spilling` is the disk in front of a queue that spills.

pub mod flags;
mod health;
mod keepalive;
mod naive;
mod settings;
mod spilling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::brokers::View;
use crate::failure::Failure;
use crate::http::client::Peer;
use crate::http::{self, Access, Limits, Request, Response};
use crate::policy::credit::{self, Settled};
use crate::policy::dead_letters::{DeadLetters, Destination};
use crate::policy::shed::{Shedder, Who};
use crate::policy::{Admission, Policy, slow_source};
use crate::queue::{self, Occupancy};
use crate::sink::client::Client;
use crate::sink::drain::Drain;
use crate::sink::pace::{Place, Throttle};
use crate::sink::refusals::{Refusals, Suspects};
use crate::sink::sizing::Sizer;
use crate::sink::workers::{Parts, Worker};
use crate::source::member::Member;
use crate::source::spilled::Spill;
use crate::source::supervisor::{self, Shared};
use crate::source::{Assignment, Downstream, LeftLog, Run, fetcher};
use crate::telemetry::latency::Latency;
use crate::telemetry::metrics::{Metrics, ProcessorMetrics};
use crate::telemetry::{self, latency};
use crate::threads::{Pulse, Stop, ThreadGroup};
use health::Health;
pub use settings::{Settings, Sharding};
pub use spilling::Spilled;
use spilling::Spilling;

/// The figures of a run, printed at its end.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Records taken from the log.
    pub fetched: u64,
    /// Events acked by the sink.
    pub acked: u64,
    /// Events shed.
    pub shed: u64,
    /// The share of the ids that were of high priority.
    pub high_priority_share: f64,
    /// Records that are no event.
    pub invalid: u64,
    /// Fetched events released, which the log still has.
    pub returned: u64,
    /// Offsets that could not be fetched because they no longer exist; for `logs_left`, as many as
    /// it knew of.
    pub lost: u64,
    /// Logs that were gone, and how far they had been fetched.
    pub logs_left: Vec<LeftLog>,
    /// Times the group took the partitions away.
    pub evictions: u64,
    /// Where the queue spills: what was on disk when it started, and what is when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spill: Option<Spilled>,
    /// Length of the run, s.
    pub seconds: f64,
}

/// After a stop the workers have `--drain-timeout`. On top of it come 1 s for a worker inside a
/// call to notice, 1 s for a disk that is written to, and 3 s for the last commit and to leave the group, whatever the
/// sink and the brokers do.
const WORKERS_GRACE: Duration = Duration::from_secs(1);
const DISK_GRACE: Duration = Duration::from_secs(1);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the gauges of depth and partitions are set.
const GAUGES: Duration = Duration::from_millis(200);

/// Runs the processor until a signal or a failure.
///
/// # Errors
/// When it cannot start, or on an error that waiting does not cure.
pub fn run(settings: Settings) -> Result<Summary, Failure> {
    let started = Instant::now();
    let stop = Stop::default();
    stop.on_signals()?;
    let registry = Metrics::new()?;
    let metrics = ProcessorMetrics::register(&registry)?;
    let access = Access::new(settings.listen, settings.token.clone())?;
    metrics.granted_rate.set(-1.0);
    metrics.granted_events.set(-1);
    metrics.sink_up.set(1);
    metrics.poll_interval.set(settings.member.max_poll_interval.as_secs_f64());
    metrics.queue_capacity.set(settings.capacity().map_or(-1, |c| c as i64));
    settings.can_be_served_in_time()?;

    let (intake, outlets, occupancy) = match settings.sharding {
        Sharding::Shared => queue::shared(settings.queue, settings.workers),
        Sharding::Key => queue::by_shard(settings.queue, settings.workers),
    };
    let gate = intake.gate();
    let spilling = Spilling::open(&settings, &intake, (&registry, &metrics), &stop)?;
    let brokers = &settings.member.brokers;
    let dead_letters = DeadLetters::open(settings.dead_letter.as_ref(), brokers, metrics.clone())?;
    let held = settings.workers.get() * settings.mode.events_max();
    let ids = settings.shed_ids.as_deref();
    let shedder = Shedder::new(settings.shed, settings.classes, held, ids, metrics.clone())?;
    let heads = match (settings.shed, settings.sharding) {
        (Who::Oldest, Sharding::Shared) => outlets.first().cloned().into_iter().collect(),
        (Who::Oldest, Sharding::Key) => outlets.clone(),
        _ => Vec::new(),
    };
    let latency = Latency::new(settings.workers.get());
    let reporter = latency::Reporter::new(latency.clone(), settings.hlog.as_deref())?;
    let admission = Arc::new(Admission {
        policy: settings.policy,
        kind: settings.queue,
        intake,
        spill: spilling.spill(),
        batch_events_max: settings.mode.events_max(),
        workers: settings.workers.get(),
        metrics: metrics.clone(),
        shedder: Arc::new(shedder),
        heads,
        dead_letters: Arc::new(dead_letters),
    });
    let health = Health::of(&settings, &metrics);
    let server = serve(&settings, registry, access, health.clone())?;
    log::info!(addr = server.addr().to_string().as_str(); "listening");

    let topic = settings.member.topic.as_str();
    if let Some(Destination::Topic(letters)) = &settings.dead_letter {
        let _found_or_stopped = brokers.await_topic(letters, &stop).map_err(Failure::failed)?;
    }
    let found = brokers.await_topic(topic, &stop).map_err(Failure::failed)?;
    let Some(view) = found else {
        return Ok(summary(&settings, &metrics, &Assignment::default(), None, started));
    };
    settings.plane_speaks_with(&view)?;
    let shared = Shared {
        assignment: Assignment::default(),
        fetching: fetcher::Context {
            brokers: brokers.clone(),
            topic: topic.into(),
            settings: settings.fetch,
            transform: settings.transform,
            skip_unreadable: settings.skip_unreadable,
            downstream: Arc::clone(&admission) as Arc<dyn Downstream>,
            metrics: metrics.clone(),
            stop: stop.clone(),
            view: View::new(view),
        },
    };

    let [mut workers, mut instruments, mut member, mut source, mut disk] =
        std::array::from_fn(|_| ThreadGroup::new(stop.clone()));
    let (drain, leave, measured) = Default::default();
    let ends = Ends { stop, gate, drain, leave, measured };
    let settled = settings.credit_window.map_or_else(Settled::default, Settled::new);
    let told = (&latency, &settled);
    let (pulses, throttle) =
        start_workers(&mut workers, &settings, outlets, told, &shared, &ends, &admission)?;
    spilling.start(&mut disk)?;
    let gauged = (occupancy, throttle);
    start_instruments(&mut instruments, &shared, gauged, reporter, &ends.measured)?;
    start_flow(&mut instruments, &settings, &shared, spilling.spill(), settled)?;
    let polls = Pulse::default();
    health.watch(&pulses, &polls);
    start_member(&mut member, &settings, shared.clone(), (pulses, polls), ends.leave.clone())?;
    if settings.keepalive {
        let shared = shared.clone();
        source.spawn("brokers", move || supervisor::run(&shared))?;
    }

    while !ends.stop.wait(Duration::from_secs(3600)) {}
    log::info!(queued = metrics.queue_depth.get(); "stopping: no more fetches, draining the queue");
    let stopping = Instant::now();
    ends.drain.start(settings.drain_timeout);
    ends.gate.close();
    // A worker may be inside a call that the sink does not answer; the stop does not wait for it.
    let in_time = workers.join_within(settings.drain_timeout + WORKERS_GRACE);
    // What it lets go is committed with the last commit.
    let is_quiet = disk.join_within(DISK_GRACE);
    let spilled = if is_quiet { spilling.finish(&metrics, &ends.stop) } else { None };
    ends.leave.set();
    let in_time = member.join_within(LEAVE_TIMEOUT) && is_quiet && in_time;
    ends.measured.set();
    instruments.join();
    // One limit for all of it: a page that takes long does not come on top.
    let most = settings.drain_timeout + WORKERS_GRACE + DISK_GRACE + LEAVE_TIMEOUT;
    server.stop_within(most.saturating_sub(stopping.elapsed()));
    if !in_time {
        log::warn!(
            "workers or the group membership did not end in time; events not acked are in the log"
        );
        // They hold only resources that the process's end frees.
        [workers, member, source, disk].into_iter().for_each(ThreadGroup::leave_behind);
    }
    ends.stop.outcome()?;
    Ok(summary(&settings, &metrics, &shared.assignment, spilled, started))
}

/// The stop signals of the threads. A start that fails half-way drops it, before it waits for the
/// threads that run already.
struct Ends {
    stop: Stop,
    gate: queue::Gate,
    drain: Drain,
    /// The member may commit and leave.
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

fn serve(
    settings: &Settings,
    registry: Metrics,
    access: Access,
    health: Health,
) -> Result<http::Server, Failure> {
    let telemetry = telemetry::endpoint(registry, access, health);
    let handler = move |request: Request| {
        telemetry(&request).unwrap_or_else(|| {
            let path = &request.path;
            Response::text(
                404,
                format_args!("no {path} here; try /metrics, /healthz, /readyz, /debug/pprof/"),
            )
        })
    };
    http::Server::start(settings.listen, Limits::default(), Arc::new(handler))
}

fn start_workers(
    threads: &mut ThreadGroup,
    settings: &Settings,
    outlets: Vec<queue::Outlet<Box<Run>>>,
    (latency, settled): (&Latency, &Settled),
    shared: &Shared,
    ends: &Ends,
    admission: &Admission,
) -> Result<(Vec<Pulse>, Arc<Throttle>), Failure> {
    let refusals = Arc::<Refusals>::default();
    let throttle = Throttle::new(settings.pace, outlets.len());
    let sizer = Sizer::new(settings.mode.sizing(), settings.workers.get(), Instant::now());
    let sizer = Arc::new(sizer);
    let (metrics, stop) = (&shared.fetching.metrics, &ends.stop);
    let mut pulses = Vec::new();
    for (n, outlet) in outlets.into_iter().enumerate() {
        let pulse = Pulse::default();
        pulses.push(pulse.clone());
        let letters = Arc::clone(&admission.dead_letters);
        let worker = Worker::new(Parts {
            outlet,
            client: Client::new(&settings.sink, settings.sink_timeout, settings.transform),
            mode: settings.mode,
            sizer: Arc::clone(&sizer),
            timeout: settings.sink_timeout,
            stop: stop.clone(),
            drain: ends.drain.clone(),
            pulse,
            place: Place::new(Arc::clone(&throttle), n),
            suspects: Suspects::new(
                Arc::clone(&refusals),
                letters,
                settled.clone(),
                metrics.clone(),
                stop.clone(),
            ),
            refusals: Arc::clone(&refusals),
            // One worker, or one for each key, keeps an order.
            sets_aside: settings.sharding == Sharding::Shared && settings.workers.get() > 1,
            shedder: Arc::clone(&admission.shedder),
            settled: settled.clone(),
            metrics: metrics.clone(),
            latency: latency.recorder(n),
        });
        threads.spawn(&format!("worker-{n}"), move || {
            worker.run();
            Ok(())
        })?;
    }
    Ok((pulses, throttle))
}

fn start_instruments(
    threads: &mut ThreadGroup,
    shared: &Shared,
    (occupancy, throttle): (Occupancy, Arc<Throttle>),
    mut reporter: latency::Reporter,
    measured: &Stop,
) -> Result<(), Failure> {
    let (metrics, stop) = (shared.fetching.metrics.clone(), measured.clone());
    threads.spawn("gauges", move || {
        while !stop.wait(GAUGES) {
            metrics.queue_depth.set(occupancy.depth() as i64);
            metrics.oldest_batch.set(throttle.oldest().as_secs_f64());
        }
        Ok(())
    })?;
    let (metrics, stop) = (shared.fetching.metrics.clone(), measured.clone());
    threads.spawn("latency", move || reporter.run(&metrics.latency_quantiles, &stop))
}

/// The thread that tells the producer what it may send, where the policy has one.
fn start_flow(
    threads: &mut ThreadGroup,
    settings: &Settings,
    shared: &Shared,
    spill: Option<Arc<Spill>>,
    settled: Settled,
) -> Result<(), Failure> {
    let timeout = match settings.policy {
        Policy::SlowSource => slow_source::CALL_TIMEOUT,
        Policy::Credit => credit::CALL_TIMEOUT,
        Policy::Buffer | Policy::Shed => return Ok(()),
    };
    let (url, token) = (&settings.producer, settings.token.clone());
    let producer = Peer::new("--producer", url, token, timeout)?;
    let (shared, policy) = (shared.clone(), settings.policy);
    threads.spawn("flow", move || {
        let fetcher::Context { metrics, stop, .. } = &shared.fetching;
        let assignment = &shared.assignment;
        if policy == Policy::Credit {
            let (waiting, changes) = (|| assignment.unsettled(), || assignment.changes());
            credit::run(&producer, &settled, waiting, changes, metrics, stop);
            return Ok(());
        }
        // While there is room on disk, it is no congestion.
        let backlog = || match spill {
            Some(_) => assignment.unfetched(),
            None => assignment.backlog(),
        };
        slow_source::run(&producer, backlog, metrics, stop);
        Ok(())
    })
}

fn start_member(
    threads: &mut ThreadGroup,
    settings: &Settings,
    shared: Shared,
    (pulses, polls): (Vec<Pulse>, Pulse),
    leave: Stop,
) -> Result<(), Failure> {
    let (member, keepalive) = (settings.member.clone(), settings.keepalive);
    let stuck_after = settings.stuck_after;
    threads.spawn("member", move || {
        let (assignment, fetching) = (shared.assignment.clone(), &shared.fetching);
        let (view, metrics) = (fetching.view.clone(), fetching.metrics.clone());
        let stop = fetching.stop.clone();
        let mut member = Member::join(member, assignment, view, metrics, stop, polls)?;
        if keepalive {
            keepalive::poll_while_workers_live(&mut member, &pulses, stuck_after, &leave);
        } else {
            naive::poll_between_fetches(&mut member, &shared, &leave);
        }
        member.leave();
        Ok(())
    })
}

fn summary(
    settings: &Settings,
    metrics: &ProcessorMetrics,
    assignment: &Assignment,
    spill: Option<Spilled>,
    started: Instant,
) -> Summary {
    Summary {
        fetched: metrics.fetched.get(),
        acked: metrics.acked.get(),
        shed: telemetry::metrics::sum(&metrics.shed),
        high_priority_share: settings.classes.high_share,
        invalid: telemetry::metrics::sum(&metrics.invalid),
        returned: metrics.returned.get(),
        lost: telemetry::metrics::sum(&metrics.lost),
        logs_left: assignment.left(),
        evictions: metrics.evictions.get(),
        spill,
        seconds: started.elapsed().as_secs_f64(),
    }
}
