//! The senders, one a broker: started when a broker appears, replaced when one is stuck.
//!
//! Crate `kafka` waits up to 120 s on a broker that is stopped or cut off. A sender that has been
//! in one call for longer than [`STUCK_AFTER`] is given up: other senders can claim its partitions
//! at once, a fresh sender replaces it, and the old thread, detached, ends with its socket. Events
//! that its request still brings into the log are duplicates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cursors::SenderId;
use super::sender::{Sender, Shared};
use crate::backoff::Backoff;
use crate::brokers::Busy;
use crate::failure::Failure;
use crate::threads::{self, Stop};

/// Longest call of a sender: above the 5 s that a broker waits for its followers, and the 3 s of
/// each step of a connection.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Metadata is refreshed at least this often, to notice a leader that moved without an error, such
/// as back to a restarted broker.
const RENEW: Duration = Duration::from_secs(3);

/// The senders at work.
pub struct Senders {
    shared: Arc<Shared>,
    stop: Stop,
    members: BTreeMap<i32, (SenderId, Arc<Busy>)>,
    next_id: SenderId,
}

impl Senders {
    /// No senders yet; their failures stop the run. Starts the refresh of the metadata.
    pub fn start(shared: Arc<Shared>, stop: Stop) -> Result<Self, Failure> {
        let asker = Arc::clone(&shared);
        threads::spawn_watched("metadata", stop.clone(), move || {
            keep_asking(&asker);
            Ok(())
        })?;
        Ok(Self { shared, stop, members: BTreeMap::new(), next_id: 0 })
    }

    /// Starts a sender for each broker without one, and replaces those that are stuck.
    pub fn look_after(&mut self) -> Result<(), Failure> {
        self.members.retain(|broker, (id, busy)| {
            let stuck = busy.give_up_after(STUCK_AFTER);
            if stuck {
                log::warn!(
                    broker = *broker, after_s = STUCK_AFTER.as_secs();
                    "broker does not answer, its connection is given up"
                );
                self.shared.cursors.release(*id);
                self.shared.metrics.retries.inc();
                self.shared.view.renew();
            }
            !stuck
        });
        for &broker in self.shared.view.get().addresses.keys() {
            if self.members.contains_key(&broker) {
                continue;
            }
            let (id, busy) = (self.next_id, Arc::<Busy>::default());
            self.next_id += 1;
            let sender = Sender::new(id, broker, Arc::clone(&self.shared), Arc::clone(&busy));
            threads::spawn_watched(&format!("send-{broker}"), self.stop.clone(), || sender.run())?;
            self.members.insert(broker, (id, busy));
        }
        Ok(())
    }
}

/// Refreshes the metadata on request, and now and then.
fn keep_asking(shared: &Shared) {
    let mut backoff = Backoff::standard();
    let mut tries = 0;
    while !shared.done.is_set() {
        let _asked_or_time = shared.view.is_asked(RENEW);
        tries += 1;
        let whole = shared.view.refresh(&shared.brokers, &shared.topic, tries);
        if whole {
            backoff.reset();
        } else {
            shared.view.renew();
        }
        // Senders may ask all the time while a broker is down.
        shared.done.wait(backoff.wait());
    }
}
