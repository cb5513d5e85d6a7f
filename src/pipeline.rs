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
//! consumers do instead.

pub mod flags;
mod health;
mod keepalive;
mod naive;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::brokers::{BrokerError, TopicView, View};
use crate::failure::Failure;
use crate::http::access::Token;
use crate::http::client::Peer;
use crate::http::{self, Access, Limits, Request, Response};
use crate::planes::{self, FetchSettings};
use crate::policy::dead_letters::{DeadLetters, Destination};
use crate::policy::shed::class::Classes;
use crate::policy::shed::{Shedder, Who};
use crate::policy::{Admission, Policy, slow_source};
use crate::queue::{self, Kind, Occupancy};
use crate::sink::client::{Client, ask_rate};
use crate::sink::line::{Line, Place};
use crate::sink::refusals::{Refusals, Suspects};
use crate::sink::workers::{Drain, Mode, Parts, Worker};
use crate::source::member::{Member, MemberSettings};
use crate::source::supervisor::{self, Shared};
use crate::source::{Assignment, Downstream, LeftLog, Run, fetcher};
use crate::telemetry::latency::Latency;
use crate::telemetry::metrics::{Metrics, ProcessorMetrics};
use crate::telemetry::{self, latency};
use crate::threads::{Pulse, Stop, ThreadGroup};
use crate::transform::Transform;
use health::Health;

/// Which worker gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// Workers share one queue (work sharing), so two events of a key may overtake each other.
    /// `round-robin` in flags.
    Shared,
    /// A key always goes to the same worker, over that worker's own queue.
    Key,
}

/// Everything a run needs, validated; nothing is open yet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The group membership.
    pub member: MemberSettings,
    /// How much a fetch asks for.
    pub fetch: FetchSettings,
    /// Whether unreadable records are counted and skipped, instead of ending the run.
    pub skip_unreadable: bool,
    /// The kind of queue.
    pub queue: Kind,
    /// Which worker gets an event.
    pub sharding: Sharding,
    /// Workers.
    pub workers: NonZeroUsize,
    /// One event a call, or batches.
    pub mode: Mode,
    /// What the workers do to each event.
    pub transform: Transform,
    /// The policy at a full queue.
    pub policy: Policy,
    /// Who is shed, where that is the policy.
    pub shed: Who,
    /// Which events are of high priority.
    pub classes: Classes,
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
    /// Whether the member polls on a thread of its own.
    pub keepalive: bool,
    /// Where metrics and profiles are served.
    pub listen: SocketAddr,
    /// Opens the profiles off loopback, and the producer's control.
    pub token: Option<Token>,
    /// Where interval latency logs go.
    pub hlog: Option<PathBuf>,
    /// Where the ids that are shed are written.
    pub shed_ids: Option<PathBuf>,
    /// Where events that will never be delivered are kept.
    pub dead_letter: Option<Destination>,
}

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
    /// Length of the run, s.
    pub seconds: f64,
}

/// After a stop the workers have `--drain-timeout`. On top of it come 1 s for a worker inside a
/// call to notice, and 3 s for the last commit and to leave the group, whatever the sink and the
/// brokers do.
const WORKERS_GRACE: Duration = Duration::from_secs(1);
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
    metrics.sink_up.set(1);
    metrics.poll_interval.set(settings.member.max_poll_interval.as_secs_f64());
    metrics.queue_capacity.set(settings.capacity().map_or(-1, |c| c as i64));
    settings.can_be_served_in_time()?;

    let (intake, outlets, occupancy) = match settings.sharding {
        Sharding::Shared => queue::shared(settings.queue, settings.workers),
        Sharding::Key => queue::by_shard(settings.queue, settings.workers),
    };
    let gate = intake.gate();
    let brokers = &settings.member.brokers;
    let dead_letters = DeadLetters::open(settings.dead_letter.as_ref(), brokers, metrics.clone())?;
    let dead_letters = Arc::new(dead_letters);
    let held = settings
        .workers
        .saturating_mul(settings.mode.events_max().try_into().unwrap_or(NonZeroUsize::MIN));
    let ids = settings.shed_ids.as_deref();
    let shedder = Shedder::new(settings.shed, settings.classes, held, ids, metrics.clone())?;
    let shedder = Arc::new(shedder);
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
        batch_events_max: settings.mode.events_max(),
        workers: settings.workers.get(),
        metrics: metrics.clone(),
        shedder: Arc::clone(&shedder),
        heads,
        dead_letters: Arc::clone(&dead_letters),
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
        return Ok(summary(&settings, &metrics, &Assignment::default(), started));
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

    let [mut workers, mut instruments, mut member, mut source] =
        std::array::from_fn(|_| ThreadGroup::new(stop.clone()));
    let (drain, leave, measured) = Default::default();
    let ends = Ends { stop, gate, drain, leave, measured };
    let pulses = start_workers(
        &mut workers,
        &settings,
        outlets,
        &latency,
        &shared,
        &ends,
        &(dead_letters, shedder),
    )?;
    start_instruments(&mut instruments, &settings, &shared, occupancy, reporter, &ends.measured)?;
    let polls = Pulse::default();
    health.watch(&pulses, &polls);
    start_member(&mut member, &settings, shared.clone(), (pulses, polls), ends.leave.clone())?;
    if settings.keepalive {
        let shared = shared.clone();
        source.spawn("brokers", move || supervisor::run(&shared))?;
    }

    while !ends.stop.wait(Duration::from_secs(3600)) {}
    log::info!(queued = metrics.queue_depth.get(); "stopping: no more fetches, draining the queue");
    ends.drain.start(settings.drain_timeout);
    ends.gate.close();
    // A worker may be inside a call that the sink does not answer; the stop does not wait for it.
    let in_time = workers.join_within(settings.drain_timeout + WORKERS_GRACE);
    ends.leave.set();
    let in_time = member.join_within(LEAVE_TIMEOUT) && in_time;
    ends.measured.set();
    instruments.join();
    drop(server);
    if !in_time {
        log::warn!(
            "workers or the group membership did not end in time; events not acked are in the log"
        );
        // They hold only resources that the process's end frees.
        [workers, member, source].into_iter().for_each(ThreadGroup::leave_behind);
    }
    ends.stop.outcome()?;
    Ok(summary(&settings, &metrics, &shared.assignment, started))
}

impl Settings {
    /// The queue's whole capacity: its shards' capacities are rounded up.
    fn capacity(&self) -> Option<usize> {
        let shards = match self.sharding {
            Sharding::Shared => NonZeroUsize::MIN,
            Sharding::Key => self.workers,
        };
        self.queue.shard_capacity(shards).map(|capacity| capacity * shards.get())
    }

    /// Refuses workers and batches that the sink's own rate cannot answer within the time of a
    /// call: they would be sent again for ever. A sink that does not report its rate is not asked
    /// twice.
    fn can_be_served_in_time(&self) -> Result<(), Failure> {
        let Some(sink) = ask_rate(&self.sink).filter(|sink| sink.rate > 0.0) else { return Ok(()) };
        let (workers, batch) = (self.workers.get() as f64, self.mode.events_max() as f64);
        let call = sink.costs.of(self.mode.events_max());
        let seconds = workers * call / sink.rate;
        let timeout = self.sink_timeout.as_secs_f64();
        if seconds <= timeout {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "--sink-workers {workers} with batches of {batch} cost {:.0} tokens at once, which the sink \
             serves in {seconds:.1} s at its {} tokens/s; a call has {timeout:.1} s (--sink-timeout): \
             lower --sink-workers or --batch-size, or raise --sink-timeout",
            workers * call,
            sink.rate
        )))
    }

    /// Whether the data plane works with the brokers that lead the topic now.
    fn plane_speaks_with(&self, view: &TopicView) -> Result<(), Failure> {
        if self.fetch.client != planes::Client::Kafka {
            return Ok(());
        }
        let checks = view
            .addresses
            .values()
            .map(|address| planes::kafka::check(&self.member.brokers, address));
        match checks.filter_map(Result::err).find(|e| matches!(e, BrokerError::TooNew { .. })) {
            Some(too_new) => Err(Failure::failed(too_new)),
            None => Ok(()),
        }
    }
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
    latency: &Latency,
    shared: &Shared,
    ends: &Ends,
    (dead_letters, shedder): &(Arc<DeadLetters>, Arc<Shedder>),
) -> Result<Vec<Pulse>, Failure> {
    let (line, refusals) = (Arc::<Line>::default(), Arc::<Refusals>::default());
    let (metrics, stop) = (&shared.fetching.metrics, &ends.stop);
    let mut pulses = Vec::new();
    for (n, outlet) in outlets.into_iter().enumerate() {
        let pulse = Pulse::default();
        pulses.push(pulse.clone());
        let letters = Arc::clone(dead_letters);
        let worker = Worker::new(Parts {
            outlet,
            client: Client::new(&settings.sink, settings.sink_timeout, settings.transform),
            mode: settings.mode,
            timeout: settings.sink_timeout,
            stop: stop.clone(),
            drain: ends.drain.clone(),
            pulse,
            place: Place::new(Arc::clone(&line), n),
            suspects: Suspects::new(Arc::clone(&refusals), letters, metrics.clone(), stop.clone()),
            refusals: Arc::clone(&refusals),
            shedder: Arc::clone(shedder),
            metrics: metrics.clone(),
            latency: latency.recorder(n),
        });
        threads.spawn(&format!("worker-{n}"), move || {
            worker.run();
            Ok(())
        })?;
    }
    Ok(pulses)
}

fn start_instruments(
    threads: &mut ThreadGroup,
    settings: &Settings,
    shared: &Shared,
    occupancy: Occupancy,
    mut reporter: latency::Reporter,
    measured: &Stop,
) -> Result<(), Failure> {
    let (metrics, stop) = (shared.fetching.metrics.clone(), measured.clone());
    threads.spawn("gauges", move || {
        while !stop.wait(GAUGES) {
            metrics.queue_depth.set(occupancy.depth() as i64);
        }
        Ok(())
    })?;
    let (metrics, stop) = (shared.fetching.metrics.clone(), measured.clone());
    threads.spawn("latency", move || reporter.run(&metrics.latency_quantiles, &stop))?;
    if settings.policy == Policy::SlowSource {
        let (url, token) = (&settings.producer, settings.token.clone());
        let producer = Peer::new("--producer", url, token, slow_source::CALL_TIMEOUT)?;
        let shared = shared.clone();
        threads.spawn("flow", move || {
            let fetcher::Context { metrics, stop, .. } = &shared.fetching;
            slow_source::run(&producer, &shared.assignment, metrics, stop);
            Ok(())
        })?;
    }
    Ok(())
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
        seconds: started.elapsed().as_secs_f64(),
    }
}
