//! The senders, one a broker: started when a broker appears, replaced when one is stuck.
//!
//! Crate `kafka` waits up to 120 s on a broker that is stopped or cut off. A sender that has been
//! in one call for longer than [`STUCK_AFTER`] is given up: its partitions are free for others at
//! once, a fresh sender takes its place, and the old thread, detached, ends with its socket. What
//! its request still brings into the log is a duplicate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender as Bell, bounded};
use parking_lot::Mutex;

use super::cursors::SenderId;
use super::sender::{Sender, Shared};
use crate::backoff::Backoff;
use crate::brokers::{Brokers, TopicView};
use crate::clock;
use crate::failure::Failure;
use crate::threads::{self, Stop};

/// Longest call of a sender: above the 5 s that a broker waits for its followers, and the 3 s of
/// each step of a connection.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Metadata is renewed at least this often, to notice leaders that moved quietly: back to a broker
/// that was restarted, say.
const RENEW: Duration = Duration::from_secs(3);

/// The newest metadata, and the bell that asks for newer.
pub struct View {
    topic: Mutex<Arc<TopicView>>,
    bell: (Bell<()>, Receiver<()>),
}

impl View {
    /// A view that starts with `topic`.
    pub fn new(topic: TopicView) -> Self {
        Self { topic: Mutex::new(Arc::new(topic)), bell: bounded(1) }
    }

    /// The metadata as last heard.
    pub fn get(&self) -> Arc<TopicView> {
        Arc::clone(&self.topic.lock())
    }

    /// Takes newer metadata; true when every partition has a leader.
    fn put(&self, newer: TopicView) -> bool {
        let leaderless = newer.leaders.values().filter(|leader| leader.is_none()).count();
        let mut topic = self.topic.lock();
        if **topic != newer {
            log::info!(
                partitions = newer.leaders.len(), leaderless = leaderless,
                brokers = newer.addresses.len(); "metadata changed"
            );
            *topic = Arc::new(newer);
        }
        leaderless == 0
    }

    /// Asks for newer metadata soon.
    pub fn renew(&self) {
        // Full means that somebody asked already.
        let _asked_already = self.bell.0.try_send(());
    }
}

/// What a sender shows of itself: whether it is in a call that may hang, and since when.
#[derive(Default)]
pub struct Watch {
    /// µs since the epoch; 0 when in none.
    busy_since_us: AtomicI64,
    given_up: AtomicBool,
}

impl Watch {
    /// Runs a call that may hang.
    pub fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.busy_since_us.store(clock::now_us(), Ordering::SeqCst);
        let out = call();
        self.busy_since_us.store(0, Ordering::SeqCst);
        out
    }

    /// Whether another sender has taken over.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    fn is_stuck(&self, now_us: i64) -> bool {
        let since = self.busy_since_us.load(Ordering::SeqCst);
        since != 0 && now_us - since > STUCK_AFTER.as_micros() as i64
    }
}

/// The senders at work.
pub struct Fleet {
    shared: Arc<Shared>,
    stop: Stop,
    members: BTreeMap<i32, (SenderId, Arc<Watch>)>,
    next_id: SenderId,
}

impl Fleet {
    /// A fleet without senders yet, whose failures stop the run; starts renewing the metadata.
    pub fn start(shared: Arc<Shared>, brokers: Brokers, stop: Stop) -> Result<Self, Failure> {
        let asker = Arc::clone(&shared);
        start_thread("metadata", stop.clone(), move || {
            keep_asking(&asker, &brokers);
            Ok(())
        })?;
        Ok(Self { shared, stop, members: BTreeMap::new(), next_id: 0 })
    }

    /// Starts a sender for each broker without one, and replaces those that are stuck.
    pub fn look_after(&mut self) -> Result<(), Failure> {
        let now_us = clock::now_us();
        self.members.retain(|broker, (id, watch)| {
            let stuck = watch.is_stuck(now_us);
            if stuck {
                log::warn!(
                    broker = *broker, after_s = STUCK_AFTER.as_secs();
                    "broker does not answer, its connection is given up"
                );
                watch.given_up.store(true, Ordering::SeqCst);
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
            let (id, watch) = (self.next_id, Arc::<Watch>::default());
            self.next_id += 1;
            let sender = Sender::new(id, broker, Arc::clone(&self.shared), Arc::clone(&watch));
            start_thread(&format!("send-{broker}"), self.stop.clone(), || sender.run())?;
            self.members.insert(broker, (id, watch));
        }
        Ok(())
    }
}

/// Renews the metadata when somebody asks, and now and then.
fn keep_asking(shared: &Shared, brokers: &Brokers) {
    let mut backoff = Backoff::standard();
    let mut tries = 0;
    while !shared.done.is_set() {
        let _asked_or_time = shared.view.bell.1.recv_timeout(RENEW);
        tries += 1;
        let whole = match brokers.describe(&shared.topic, tries) {
            Ok(newer) => shared.view.put(newer),
            Err(e) => {
                log::warn!(why = e.to_string().as_str(); "no metadata, trying again");
                false
            }
        };
        if whole {
            backoff.reset();
        } else {
            shared.view.renew();
        }
        // Senders may ask all the time while a broker is down.
        shared.done.wait(backoff.wait());
    }
}

/// A detached thread: the run's end must not wait for a socket that takes 120 s to die. A panic
/// (broken bytes from a broker) or an error stops the run by name.
fn start_thread(
    name: &str,
    stop: Stop,
    body: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let label = name.to_owned();
    threads::spawn(name, move || {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => stop.fail(failure.to_string()),
            Err(_) => stop.fail(format!("thread {label} panicked")),
        }
    })
    .map(drop)
}
