//! What a run needs, validated, and what can be refused of it before anything is open.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::brokers::{BrokerError, TopicView};
use crate::failure::Failure;
use crate::http::access::Token;
use crate::planes::{self, FetchSettings};
use crate::policy::Policy;
use crate::policy::dead_letters::Destination;
use crate::policy::shed::Who;
use crate::policy::shed::class::Classes;
use crate::queue::{Kind, spill};
use crate::sink::client::ask_rate;
use crate::sink::control::Status;
use crate::sink::pace::Pace;
use crate::sink::workers::Mode;
use crate::source::member::MemberSettings;
use crate::transform::Transform;

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
    /// Where a queue that spills does so.
    pub spill: Option<spill::Settings>,
    /// Which worker gets an event.
    pub sharding: Sharding,
    /// Workers.
    pub workers: NonZeroUsize,
    /// When the next call begins.
    pub pace: Pace,
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
    /// Events that may wait for this processor, with credit; none with another policy.
    pub credit_window: Option<u64>,
    /// The producer's control endpoint, for slow-source and credit.
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

impl Settings {
    /// How many parts the queue has.
    pub(super) fn shards(&self) -> NonZeroUsize {
        match self.sharding {
            Sharding::Shared => NonZeroUsize::MIN,
            Sharding::Key => self.workers,
        }
    }

    /// The queue's whole capacity: its shards' capacities are rounded up.
    pub(super) fn capacity(&self) -> Option<usize> {
        let shards = self.shards();
        self.queue.shard_capacity(shards).map(|capacity| capacity * shards.get())
    }

    /// Refuses workers and batches that the sink's own rate cannot answer within the time of a
    /// call: they would be sent again for ever. A fault that slows the sink for a while is not the
    /// flags' mistake. A sink that does not report its rate is not asked twice.
    pub(super) fn can_be_served_in_time(&self) -> Result<(), Failure> {
        // A call that is refused takes no time.
        let waits = |sink: &Status| sink.base_rate > 0.0 && !sink.rejects;
        let Some(sink) = ask_rate(&self.sink).filter(waits) else {
            return Ok(());
        };
        let batch = self.mode.events_max() as f64;
        let workers = if sink.per_connection { 1.0 } else { self.workers.get() as f64 };
        let call = sink.costs.of(self.mode.events_max());
        let seconds = workers * call / sink.base_rate;
        let timeout = self.sink_timeout.as_secs_f64();
        if seconds <= timeout {
            return Ok(());
        }
        let (what, lower) = if sink.per_connection {
            (format!("a batch of {batch} costs"), "--batch-size")
        } else {
            let what = format!("--sink-workers {workers} with batches of {batch} cost");
            (what, "--sink-workers or --batch-size")
        };
        Err(Failure::Usage(format!(
            "{what} {:.0} tokens at once, which the sink \
             serves in {seconds:.1} s at its {} tokens/s; a call has {timeout:.1} s (--sink-timeout): \
             lower {lower}, or raise --sink-timeout",
            workers * call,
            sink.base_rate
        )))
    }

    /// Whether the data plane works with the brokers that lead the topic now.
    pub(super) fn plane_speaks_with(&self, view: &TopicView) -> Result<(), Failure> {
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
