//! The topic of an arm, or of a race.

use std::path::Path;

use super::cluster::Cluster;
use super::commands;
use crate::brokers::Brokers;
use crate::brokers::topics::NewTopic;
use crate::failure::Failure;
use crate::lab::cluster::create_topic;
use crate::lab::interrupt::Interrupt;

/// Its replicas, on three brokers.
const REPLICATION: i16 = 3;

/// A topic that is deleted, with its data on disk, however its user ends.
pub struct Topic<'a> {
    cluster: &'a Cluster,
    interrupt: &'a Interrupt,
    brokers: Brokers,
    /// Its name.
    pub name: String,
    is_there: bool,
}

impl<'a> Topic<'a> {
    /// Creates it, with all replicas in sync: two must confirm. The command for the same is noted
    /// in `dir`.
    ///
    /// # Errors
    /// When it cannot be made, or is not whole in time; [`Failure::Interrupted`].
    pub fn create(
        (cluster, interrupt): (&'a Cluster, &'a Interrupt),
        dir: &Path,
        name: String,
        partitions: u32,
        settings: &[String],
    ) -> Result<Self, Failure> {
        commands::note(dir, &commands::line(&commands::topic(&name, partitions, settings)))?;
        let brokers = Brokers::of_flags(Some(cluster.brokers().to_owned()), None)?;
        let topic = Self { cluster, interrupt, brokers, name, is_there: true };
        let settings = [&["min.insync.replicas=2".to_owned()], settings].concat();
        let new = NewTopic {
            name: &topic.name,
            partitions: i32::try_from(partitions).map_err(Failure::failed)?,
            replication: REPLICATION,
            settings: &settings,
        };
        create_topic(&topic.brokers, &new, interrupt)?;
        Ok(topic)
    }

    /// Deletes it and its data on disk.
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
        // A cluster that this run started is deleted whole.
        let whole = self.cluster.is_fresh() && self.interrupt.check().is_err();
        if self.is_there
            && !whole
            && let Err(why) = self.delete()
        {
            log::error!(topic = self.name.as_str(), why = why.to_string(); "the topic stays");
        }
    }
}
