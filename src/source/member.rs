//! A member of the consumer group: librdkafka joins, sends heartbeats, rebalances and commits;
//! every partition is paused, so it fetches nothing.
//!
//! - `context` librdkafka's callbacks: assign, revoke, count commits
//! - `starts`  where a newly assigned partition starts
//! - here      the poll and the commits
//!
//! Invariant: only the contiguous acked prefix of a partition is committed: periodically, on revoke
//! and at the end. A commit names the topic's own id (KIP-516) in its metadata, so an offset of a
//! deleted topic is never taken for one of the topic that replaced it. The poll is the
//! `max.poll.interval.ms` clock (KIP-62): its thread does nothing else.

mod context;
mod starts;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use serde::{Deserialize, Serialize};

pub use self::starts::Reset;

use self::context::{Callbacks, Context, commit_in_background};
use self::starts::Joining;
use super::Assignment;
use crate::brokers::{Brokers, View};
use crate::failure::Failure;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::{Pulse, Stop, ThreadGroup};

/// Kafka's default `heartbeat.interval.ms`: a rebalance is noticed within it.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How often the member checks librdkafka's queue, and how often it wakes librdkafka.
const LOOK: Duration = Duration::from_millis(10);
const WAKE: Duration = Duration::from_secs(1);

/// How long the group may refuse the member, or its commits, before that ends the run: other members may be about to
/// leave, as in a rolling upgrade.
const REFUSED_MAX: Duration = Duration::from_secs(10);

/// How the members of a group agree on who has which partition. All of a group have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// JoinGroup (Kafka's `classic`), and only the partitions that move are revoked (KIP-429). A member hears of a rebalance at
    /// its next heartbeat, and it takes two rounds.
    #[default]
    Cooperative,
    /// JoinGroup, and every partition is revoked: one round, in which nobody reads.
    Eager,
    /// The coordinator assigns (KIP-848, Kafka 4.0 and above). Each member hears of it at its own heartbeat, whose interval is the
    /// broker's (`group.consumer.heartbeat.interval.ms`, 5 s), as is the session timeout.
    Consumer,
}

/// A member's `heartbeat.interval.ms`: at most a third of the session, so that two heartbeats may be lost.
pub fn heartbeat(session_timeout: Duration) -> Duration {
    HEARTBEAT.min(session_timeout / 3)
}

/// How the membership is kept.
#[derive(Debug, Clone)]
pub struct MemberSettings {
    /// The bootstrap list.
    pub brokers: Brokers,
    /// The topic.
    pub topic: String,
    /// Kafka's `group.id`.
    pub group: String,
    /// Kafka's `group.instance.id` (KIP-345): a member that returns with it within the session has
    /// its partitions at once, and one that stops does not leave the group.
    pub instance_id: Option<String>,
    /// Kafka's `group.protocol` and, for the classic one, its assignor.
    pub protocol: Protocol,
    /// Kafka's `max.poll.interval.ms`.
    pub max_poll_interval: Duration,
    /// Kafka's `session.timeout.ms`. It should outlast the failover of a dead coordinator
    /// (`broker.session.timeout.ms`, 9 s, and the election), or each such failover is an eviction.
    pub session_timeout: Duration,
    /// How often the acked prefix is committed.
    pub commit_interval: Duration,
    /// How long a revocation waits for the workers' events in flight.
    pub revoke_wait: Duration,
    /// Where a partition without a committed offset starts.
    pub reset: Reset,
}

/// The membership itself; used by one thread.
pub struct Member {
    consumer: BaseConsumer<Callbacks>,
    settings: MemberSettings,
    stop: Stop,
    polls: Pulse,
    /// When librdkafka's main thread was last woken.
    woken: Option<Instant>,
    next_commit: Instant,
    /// Since when the group refuses the member, and when it did last.
    refused: Option<(Instant, Instant)>,
    /// Ends `starts`.
    left: Stop,
    starts: ThreadGroup,
}

impl Member {
    /// Joins the group; each poll is a beat of `polls`. A refusal that waiting does not cure ends
    /// the run by `stop`.
    ///
    /// # Errors
    /// When librdkafka refuses the settings, or a thread cannot be started.
    pub fn join(
        settings: MemberSettings,
        assignment: Assignment,
        view: View,
        metrics: ProcessorMetrics,
        stop: Stop,
        polls: Pulse,
    ) -> Result<Self, Failure> {
        let context = Arc::new(Context {
            brokers: settings.brokers.clone(),
            topic: settings.topic.clone(),
            revoke_wait: settings.revoke_wait,
            assignment,
            metrics,
            view,
            newly: Default::default(),
            assignments: Default::default(),
            committed: Default::default(),
            committing: Default::default(),
            refused: Default::default(),
        });
        let consumer: BaseConsumer<Callbacks> = settings
            .client_config()
            .create_with_context(Callbacks(Arc::clone(&context)))
            .map_err(|e| Failure::Failed(format!("cannot become a member of the group: {e}")))?;
        consumer
            .subscribe(&[&settings.topic])
            .map_err(|e| Failure::Failed(format!("cannot subscribe to {}: {e}", settings.topic)))?;
        log::info!(group = settings.group.as_str(), topic = settings.topic.as_str(); "joining the group");
        let (left, mut starts) = (Stop::default(), ThreadGroup::new(stop.clone()));
        let (group, reset, until) = (settings.group.clone(), settings.reset, left.clone());
        let joining = (settings.protocol == Protocol::Consumer).then(Joining::default);
        starts.spawn("starts", move || starts::run(&context, &group, reset, joining, &until))?;
        let next_commit = Instant::now() + settings.commit_interval;
        // Poll gaps are measured from here on.
        polls.beat();
        Ok(Self {
            consumer,
            settings,
            stop,
            polls,
            woken: None,
            next_commit,
            refused: None,
            left,
            starts,
        })
    }

    /// One turn: commit when due, poll for at most `time`.
    ///
    /// The commit comes first: a member that was away for longer than the interval commits late,
    /// and sees the refusal before it learns of its eviction.
    pub fn turn(&mut self, time: Duration) {
        let (now, gap) = (Instant::now(), self.polls.age().as_secs_f64());
        self.polls.beat();
        if now >= self.next_commit {
            self.commit_acked();
            self.next_commit = now + self.settings.commit_interval;
        }
        let context = self.consumer.context();
        if gap > context.metrics.poll_gap.get() {
            context.metrics.poll_gap.set(gap);
        }
        self.poll(time);
        self.consumer.context().leave_logs_that_are_gone();
        self.commits_refused();
    }

    /// Ends the run when its commits are refused for too long: its deliveries would be delivered
    /// again.
    fn commits_refused(&self) {
        let refused = self.consumer.context().refused.lock().clone();
        let Some(refused) = refused.filter(|refused| refused.since.elapsed() >= REFUSED_MAX) else {
            return;
        };
        let (group, topic) = (&self.settings.group, &self.settings.topic);
        self.stop.fail(format!(
            "group {group} takes no commits of {topic}: {}; {}",
            refused.error, refused.advice
        ));
    }

    /// Polls until librdkafka has an event, for at most `time`.
    ///
    /// librdkafka waits on the wall clock (`cnd_timedwait`, its issue 2145). If the clock steps back 1 h,
    /// such a wait lasts 1 h more, and heartbeats stop. So the poll never waits inside librdkafka, and its
    /// main thread is woken every second.
    fn poll(&mut self, time: Duration) {
        let end = Instant::now() + time;
        if self.woken.is_none_or(|before| before.elapsed() >= WAKE) {
            self.woken = Some(Instant::now());
            // Any question wakes it; the answer is not needed.
            let _answer = self.consumer.assignment();
        }
        loop {
            let mut heard = Vec::new();
            // An eviction arrives as an error first and as a revocation next: one turn's both.
            while let Some(event) = self.consumer.poll(Duration::ZERO) {
                heard.push(note(event, self.settings.max_poll_interval));
            }
            let rest = end.saturating_duration_since(Instant::now());
            if !heard.is_empty() {
                heard.into_iter().flatten().for_each(|error| self.refused(&error));
                return;
            }
            if rest.is_zero() {
                return;
            }
            std::thread::sleep(rest.min(LOOK));
        }
    }

    /// Ends the run when the group refuses the member for too long, for a reason that waiting does
    /// not cure.
    fn refused(&mut self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        let (group, topic) = (&self.settings.group, &self.settings.topic);
        // Such as a fenced member: the client never works again.
        let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let advice = match error.rdkafka_error_code() {
            Some(Code::InconsistentGroupProtocol) => {
                "its members assign partitions in another way than this one (cooperative-sticky unless \
                 --assignor or --group-protocol says otherwise): give all the same, or choose \
                 another --group"
            }
            Some(Code::UnsupportedFeature) => {
                "--group-protocol consumer needs brokers that have it: Kafka 4.0 or later"
            }
            Some(Code::FencedInstanceId) => {
                "another member has the same --instance-id: give each its own"
            }
            Some(Code::GroupMaxSizeReached) => "it has group.max.size members: stop one",
            Some(Code::InvalidGroupId) => "choose another --group",
            Some(Code::InvalidSessionTimeout) => {
                "--session-timeout is outside the brokers' group.min.session.timeout.ms and \
                 group.max.session.timeout.ms"
            }
            Some(Code::GroupAuthorizationFailed) => "its ACLs do not let this user read",
            _ if is_fatal => "start it again",
            _ => return,
        };
        if is_fatal {
            // Its partitions are assigned to another member by now.
            self.consumer.context().revoke_all();
            self.stop.fail(format!(
                "group {group} has done with this member of {topic}: {error}; {advice}"
            ));
            return;
        }
        if !self.consumer.context().assignment.all().is_empty() {
            self.refused = None;
            return;
        }
        let now = Instant::now();
        // A refusal of another day is not the beginning of today's: the member was taken in between.
        let in_a_row = self.refused.filter(|(_, last)| last.elapsed() < REFUSED_MAX);
        let since = in_a_row.map_or(now, |(since, _)| since);
        self.refused = Some((since, now));
        if since.elapsed() >= REFUSED_MAX {
            self.stop.fail(format!(
                "group {group} does not take this member of {topic}: {error}; {advice}"
            ));
        }
    }

    /// Commits a last time and leaves the group.
    pub fn leave(self) {
        self.left.set();
        let assigned = self.consumer.context().revoke_all();
        self.consumer.context().commit_now(&self.consumer, &assigned);
        log::info!(group = self.settings.group.as_str(); "leaving the group");
        // Dropping the consumer sends LeaveGroup, except for a static member. It does not wait for
        // `starts`, which may wait for a broker that does not answer.
        drop(self.consumer);
        std::mem::forget(self.starts);
    }

    fn commit_acked(&self) {
        let context = self.consumer.context();
        let Some(list) = context.uncommitted(&context.assignment.all()) else { return };
        if context.committing.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Err(e) = commit_in_background(&self.consumer, &list) {
            context.committing.store(false, Ordering::SeqCst);
            context.count_commit(&Err(e), &list);
        }
    }
}

impl MemberSettings {
    fn client_config(&self) -> ClientConfig {
        let ms = |time: Duration| time.as_millis().to_string();
        let mut config = self.brokers.librdkafka();
        config
            .set("client.id", "backpressure-lab-member")
            .set("group.id", &self.group)
            .set("max.poll.interval.ms", ms(self.max_poll_interval))
            .set("auto.offset.reset", "earliest")
            // Between assignment and pause a fetch may slip through; keep it to one small one.
            .set("queued.max.messages.kbytes", "1")
            .set("fetch.message.max.bytes", "1024")
            .set("topic.metadata.refresh.interval.ms", "10000");
        let classic = |config: &mut ClientConfig, assignor| {
            config
                .set("partition.assignment.strategy", assignor)
                .set("session.timeout.ms", ms(self.session_timeout))
                .set("heartbeat.interval.ms", ms(heartbeat(self.session_timeout)));
        };
        match self.protocol {
            Protocol::Cooperative => classic(&mut config, "cooperative-sticky"),
            Protocol::Eager => classic(&mut config, "range"),
            // Here librdkafka refuses all three: they are the broker's.
            Protocol::Consumer => drop(config.set("group.protocol", "consumer")),
        }
        if let Some(id) = &self.instance_id {
            config.set("group.instance.id", id);
        }
        config
    }
}

/// Logs an event of the poll; returns it if it is an error. With every partition paused, no record
/// is expected.
fn note(
    event: KafkaResult<BorrowedMessage<'_>>,
    max_poll_interval: Duration,
) -> Option<KafkaError> {
    match event {
        // From the short time between assignment and pause; the fetcher gets it as well.
        Ok(message) => {
            let (partition, offset) = (message.partition(), message.offset());
            log::debug!(partition = partition, offset = offset; "member fetched");
            None
        }
        Err(e @ KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded)) => {
            log::warn!(
                interval = crate::units::show(max_poll_interval).as_str();
                "max.poll.interval exceeded, the group took the partitions away"
            );
            Some(e)
        }
        Err(e) => {
            log::warn!(why = e.to_string().as_str(); "group membership");
            Some(e)
        }
    }
}
