//! Topics of a cluster that is up, and who coordinates a group.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::{BROKERS, Cluster, UP_WITHIN, ms};
use crate::brokers::topics::NewTopic;
use crate::brokers::{Brokers, group};
use crate::failure::Failure;
use crate::lab::interrupt::Interrupt;

/// Limit for live brokers to answer: leaders and coordinators move when one dies.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Limit for every broker to learn of a topic that replaced another.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Creates a topic unless it exists, and waits until all of its replicas are in sync; a cluster
/// that just started needs time.
///
/// # Errors
/// When it cannot be created, exists with another number of partitions, or is not in sync in time;
/// [`Failure::Interrupted`].
pub fn create(brokers: &Brokers, new: &NewTopic<'_>, interrupt: &Interrupt) -> Result<(), Failure> {
    let (mut attempt, mut last, mut differs_since) = (0, String::new(), None);
    let made = interrupt.patiently(&format!("topic {}", new.name), UP_WITHIN, || {
        attempt += 1;
        let why = match brokers.make_topic(new, attempt) {
            Ok(()) => return Ok(Some(())),
            Err(why) => why,
        };
        let differs = (why.kind() == ErrorKind::AlreadyExists)
            .then(|| *differs_since.get_or_insert_with(Instant::now));
        if why.kind() == ErrorKind::InvalidInput
            || differs.is_some_and(|since| since.elapsed() > HEARD_WITHIN)
        {
            let hint = differs.map_or(String::new(), |_| {
                format!(": 'run/cluster.sh topic delete {}' first", new.name)
            });
            return Err(Failure::Failed(format!("{why}{hint}")));
        }
        last = why.to_string();
        Ok(None)
    })?;
    made.ok_or_else(|| {
        let (name, seconds) = (new.name, UP_WITHIN.as_secs());
        Failure::Failed(format!("topic {name} is not in sync after {seconds} s: {last}"))
    })
}

impl Cluster {
    /// Makes a topic with these settings, each `KEY=VALUE`.
    pub(super) fn create(
        &self,
        name: &str,
        partitions: i32,
        settings: &[String],
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let since = Instant::now();
        let mut all = vec!["min.insync.replicas=2".to_owned()];
        all.extend_from_slice(settings);
        let new = NewTopic { name, partitions, replication: BROKERS.len() as i16, settings: &all };
        create(&self.admin()?, &new, interrupt)?;
        log::info!(topic = name, partitions = partitions, in_sync_replicas = 3, ms = ms(since); "topic ready");
        Ok(())
    }

    /// Adds partitions to a topic, up to `partitions`.
    pub(super) fn grow(
        &self,
        name: &str,
        partitions: i32,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let what = format!("topic {name} does not grow to {partitions} partitions");
        self.asked(&what, interrupt, |brokers| brokers.grow_topic(name, partitions))?;
        if name == self.topic {
            Self { partitions, ..self.clone() }.save()?;
        }
        self.create(name, partitions, &[], interrupt)
    }

    /// Deletes a topic; a topic that does not exist is no error.
    pub(super) fn delete(&self, name: &str, interrupt: &Interrupt) -> Result<(), Failure> {
        let since = Instant::now();
        let what = format!("topic {name} is not deleted");
        self.asked(&what, interrupt, |brokers| brokers.delete_topic(name))?;
        log::info!(topic = name, ms = ms(since); "topic deleted");
        Ok(())
    }

    /// Names of all topics.
    pub(super) fn list(&self, interrupt: &Interrupt) -> Result<Vec<String>, Failure> {
        self.asked("topics are not listed", interrupt, Brokers::topics)
    }

    /// The number of the broker that coordinates `group`.
    pub(super) fn coordinator(&self, group: &str, interrupt: &Interrupt) -> Result<i32, Failure> {
        let what = format!("group {group} has no coordinator");
        Ok(self.asked(&what, interrupt, |brokers| group::coordinator(brokers, group))?.0)
    }

    /// Asks until there is an answer; `what` is said when there is none in time.
    fn asked<T>(
        &self,
        what: &str,
        interrupt: &Interrupt,
        ask: impl Fn(&Brokers) -> io::Result<T>,
    ) -> Result<T, Failure> {
        self.lives()?;
        let (brokers, mut last) = (self.admin()?, String::new());
        let answer = interrupt.patiently(what, ANSWER_WITHIN, || match ask(&brokers) {
            Ok(answer) => Ok(Some(answer)),
            Err(e) if e.kind() == ErrorKind::InvalidInput => {
                Err(Failure::Failed(format!("{what}: {e}")))
            }
            Err(e) => {
                last = e.to_string();
                Ok(None)
            }
        })?;
        answer.ok_or_else(|| Failure::Failed(format!("{what}: {last}")))
    }
}
