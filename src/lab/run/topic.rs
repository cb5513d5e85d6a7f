//! The topic of an arm.

use std::path::Path;

use super::arm::Bench;
use super::commands;
use crate::brokers::Brokers;
use crate::brokers::topics::NewTopic;
use crate::failure::Failure;
use crate::lab::cluster::create_topic;
use crate::lab::experiments::Launch;

/// Its replicas, on three brokers.
const REPLICATION: i16 = 3;

/// The topic of an arm, deleted with what it took on disk, however the arm ends.
pub struct Topic<'a> {
    bench: &'a Bench<'a>,
    brokers: Brokers,
    /// Its name.
    pub name: String,
    is_there: bool,
}

impl<'a> Topic<'a> {
    /// All of its replicas are in sync: two must confirm.
    ///
    /// # Errors
    /// When it cannot be made, or is not whole in time; [`Failure::Interrupted`].
    pub fn create(bench: &'a Bench<'a>, launch: &Launch, dir: &Path) -> Result<Self, Failure> {
        let name = format!("{}-{}-{}", bench.experiment, launch.arm, std::process::id());
        commands::note(dir, &commands::line(&commands::topic(&name, launch)))?;
        let brokers = Brokers::of_flags(Some(bench.cluster.brokers().to_owned()), None)?;
        let topic = Self { bench, brokers, name, is_there: true };
        let mut settings = vec!["min.insync.replicas=2".to_owned()];
        settings.extend(launch.topic.iter().cloned());
        let new = NewTopic {
            name: &topic.name,
            partitions: i32::try_from(launch.partitions).map_err(Failure::failed)?,
            replication: REPLICATION,
            settings: &settings,
        };
        create_topic(&topic.brokers, &new, bench.interrupt)?;
        Ok(topic)
    }

    /// What it took on disk goes with it.
    ///
    /// # Errors
    /// When it is not deleted.
    pub fn delete(&mut self) -> Result<(), Failure> {
        self.is_there = false;
        let deleted = self.brokers.delete_topic(&self.name);
        deleted.map_err(|e| Failure::Failed(format!("the topic is not deleted: {e}")))
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // A cluster of this run's own is deleted whole.
        let whole = self.bench.cluster.is_fresh() && self.bench.interrupt.check().is_err();
        if self.is_there
            && !whole
            && let Err(why) = self.delete()
        {
            log::error!(topic = self.name.as_str(), why = why.to_string(); "the topic stays");
        }
    }
}
