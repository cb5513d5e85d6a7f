//! The last known leaders of a topic, shared by the threads that use them.
//!
//! A thread that finds them wrong rings the bell; the supervisor of the threads asks the brokers. A
//! failed request changes nothing: old leaders are better than none. A broker that lags behind one
//! that was heard before (by the leader's epoch, KIP-320) changes nothing either.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::{BrokerError, Brokers, TopicView};

/// The newest metadata, and the bell that asks for a refresh.
#[derive(Clone)]
pub struct View {
    topic: Arc<Mutex<Arc<TopicView>>>,
    /// Ids of deleted topics of this name: an id never comes back.
    former: Arc<Mutex<BTreeSet<u128>>>,
    gone: Arc<AtomicBool>,
    bell: (Sender<()>, Receiver<()>),
}

impl View {
    /// A view that starts with `topic`.
    pub fn new(topic: TopicView) -> Self {
        let topic = Arc::new(Mutex::new(Arc::new(topic)));
        Self { topic, former: Arc::default(), gone: Arc::default(), bell: bounded(1) }
    }

    /// The metadata as last heard.
    pub fn get(&self) -> Arc<TopicView> {
        Arc::clone(&self.topic.lock())
    }

    /// Whether the brokers' last answer was that there is no such topic.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Takes the new leader of `partition` that a broker's refusal names (KIP-951), if it is newer
    /// than the known one and its broker is known.
    pub fn leader_moved(&self, partition: i32, leader: i32, epoch: i32) {
        let mut current = self.topic.lock();
        let known = current.epochs.get(&partition).copied().unwrap_or(-1);
        if epoch > known && current.addresses.contains_key(&leader) {
            let newer = Arc::make_mut(&mut current);
            newer.leaders.insert(partition, Some(leader));
            newer.epochs.insert(partition, epoch);
        }
    }

    /// Asks for a refresh soon.
    pub fn renew(&self) {
        // A full channel means that a refresh is requested already.
        let _asked_already = self.bell.0.try_send(());
    }

    /// Waits at most `time` until a refresh is requested.
    pub fn is_asked(&self, time: Duration) -> bool {
        self.bell.1.recv_timeout(time).is_ok()
    }

    /// Asks the brokers, those that were heard of among them, from position `first` on. True when the view is whole.
    pub fn refresh(&self, brokers: &Brokers, topic: &str, first: usize) -> bool {
        let brokers = &brokers.and(&self.get());
        let newer = match brokers.describe(topic, first) {
            Ok(newer) => newer,
            Err(e @ BrokerError::MissingTopic { .. }) => {
                // One broker may hear of a topic later than the others.
                let gone = brokers.all_miss(topic);
                self.gone.store(gone, Ordering::SeqCst);
                log::error!(
                    topic = topic, all_brokers_say_so = gone, why = e.to_string().as_str();
                    "topic is gone, waiting for it"
                );
                return false;
            }
            Err(e) => {
                log::warn!(topic = topic, why = e.to_string().as_str(); "no metadata, trying again");
                return false;
            }
        };
        self.gone.store(false, Ordering::SeqCst);
        let whole = newer.is_whole();
        let mut current = self.topic.lock();
        let mut newer = newer;
        if current.id == newer.id {
            newer.keep_newer_leaders(&current);
        }
        let mut former = self.former.lock();
        if former.contains(&newer.id) {
            log::warn!(topic = topic; "a broker still reports a deleted topic, asking again");
            return false;
        }
        if current.id != newer.id {
            former.insert(current.id);
        }
        if **current != newer {
            let leaderless = newer.leaders.values().filter(|l| l.is_none()).count();
            log::info!(
                topic = topic, partitions = newer.leaders.len(), leaderless = leaderless,
                brokers = newer.addresses.len(); "metadata changed"
            );
            *current = Arc::new(newer);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::fake::{Cluster, Model, Partition, TOPIC};

    /// Prevents: partitions that stand still because the one broker of the list died, though the others live.
    #[test]
    fn brokers_that_were_heard_of_are_asked_when_the_list_is_down() {
        let partitions = [(0, Partition { leader: 0, ..Partition::default() })].into();
        let cluster = Cluster::start(2, Model { topic_id: 7, partitions, ..Model::default() });
        let listed = cluster.brokers().at(cluster.brokers().hosts().next().map(str::to_owned));
        let view = View::new(listed.describe(TOPIC, 0).expect("it answers"));
        {
            let mut model = cluster.model.lock();
            model.down.insert(0);
            model.partitions.entry(0).and_modify(|partition| partition.leader = 1);
        }
        view.refresh(&listed, TOPIC, 0);
        assert_eq!(view.get().leaders.get(&0), Some(&Some(1)), "the other one told");
    }
}
