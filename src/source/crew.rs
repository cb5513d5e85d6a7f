//! One fetcher a broker: starts them, renews the metadata when one of them asks, and gives up on
//! one that is stuck in a dead socket.
//!
//! Crate `kafka` waits up to 120 s on a broker that is stopped or cut off. A fetcher that has been
//! in one call for longer than [`STUCK_AFTER`] is given up: a fresh one takes its place at once,
//! the old thread ends by itself when its socket does, and its answer is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fetcher::{FetchSettings, Fetcher, Turn};
use super::{HandOver, Holding, Holdings};
use crate::backoff::Backoff;
use crate::brokers::{Brokers, Busy, View};
use crate::failure::Failure;
use crate::telemetry::{self, metrics::ProcessorMetrics};
use crate::threads::{self, Stop};

/// Longest call of a fetcher. A broker answers within the fetch wait (100 ms) when it is alive;
/// reading a header and reconnecting add at most three bounded waits of 3 s.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How often the crew looks after its fetchers.
const LOOK: Duration = Duration::from_millis(200);

/// Metadata is renewed at least this often, to notice brokers and leaders that moved quietly.
const RENEW: Duration = Duration::from_secs(30);

/// How long a fetcher that leads nothing sleeps.
const NOTHING_TO_DO: Duration = Duration::from_millis(20);

/// What every fetcher shares.
#[derive(Clone)]
pub struct Shared {
    /// The bootstrap list.
    pub brokers: Brokers,
    /// The topic.
    pub topic: String,
    /// The partitions held now.
    pub holdings: Holdings,
    /// How much a fetch asks for.
    pub settings: FetchSettings,
    /// Where records go.
    pub hand_over: Arc<dyn HandOver>,
    /// What is counted.
    pub metrics: ProcessorMetrics,
    /// The run's stop signal.
    pub stop: Stop,
    /// The topic's leaders as last heard.
    pub view: View,
}

struct Member {
    address: String,
    busy: Arc<Busy>,
    retire: Arc<AtomicBool>,
}

/// Looks after the fetchers until the run stops.
pub fn run(shared: &Shared) -> Result<(), Failure> {
    let mut members: BTreeMap<i32, Member> = BTreeMap::new();
    let mut renewed = Instant::now();
    let mut whole = true;
    let mut tries = 0;
    let mut backoff = Backoff::standard();
    while !shared.stop.is_set() {
        let asked = shared.view.is_asked(LOOK);
        if asked || !whole || renewed.elapsed() > RENEW {
            tries += 1;
            whole = shared.view.refresh(&shared.brokers, &shared.topic, tries);
            renewed = Instant::now();
            if whole {
                backoff.reset();
            } else {
                shared.stop.wait(backoff.wait());
            }
        }
        let view = shared.view.get();
        for (id, address) in &view.addresses {
            let stale = members.get(id).is_none_or(|m| {
                let stuck = m.busy.give_up_after(STUCK_AFTER);
                if stuck {
                    log::warn!(
                        broker = *id, address = m.address.as_str(), seconds = STUCK_AFTER.as_secs();
                        "broker does not answer, giving up on this connection"
                    );
                    shared.view.renew();
                }
                stuck || m.address != *address
            });
            if stale {
                let member = start(shared, *id, address)?;
                if let Some(old) = members.insert(*id, member) {
                    old.retire.store(true, Ordering::SeqCst);
                }
            }
        }
    }
    Ok(())
}

fn start(shared: &Shared, id: i32, address: &str) -> Result<Member, Failure> {
    let member =
        Member { address: address.to_owned(), busy: Arc::default(), retire: Arc::default() };
    let fetcher = shared.fetcher(address, &member.busy);
    let (shared, retire) = (shared.clone(), Arc::clone(&member.retire));
    let stop = shared.stop.clone();
    threads::spawn_watched(&format!("fetch-{id}"), stop, move || {
        fetch_loop(&shared, id, fetcher, &retire);
        Ok(())
    })?;
    Ok(member)
}

impl Shared {
    /// A fetcher of the broker at `address`.
    pub fn fetcher(&self, address: &str, busy: &Arc<Busy>) -> Fetcher {
        let hand_over = Arc::clone(&self.hand_over);
        let (settings, metrics) = (self.settings, self.metrics.clone());
        Fetcher::new(address, &self.topic, settings, hand_over, metrics, Arc::clone(busy))
    }

    /// The partitions held now that broker `id` leads. One whose topic was made anew is none of
    /// them until the seat has started it anew: its position is another log's.
    pub fn led_by(&self, id: i32) -> Vec<Arc<Holding>> {
        let view = self.view.get();
        self.holdings.among(view.id, view.led_by(id))
    }
}

fn fetch_loop(shared: &Shared, id: i32, mut fetcher: Fetcher, retire: &AtomicBool) {
    telemetry::block_profiler_signal();
    let mut backoff = Backoff::standard();
    while !shared.stop.is_set() && !retire.load(Ordering::SeqCst) {
        let holdings = shared.led_by(id);
        if holdings.is_empty() {
            shared.stop.wait(NOTHING_TO_DO);
            continue;
        }
        match fetcher.turn(&holdings) {
            Turn::Progress | Turn::Idle => backoff.reset(),
            Turn::Failed(why) => {
                if !shared.complain(id, &why) {
                    break;
                }
                shared.stop.wait(backoff.wait());
            }
            Turn::Fatal(why) => shared.stop.fail(why),
            Turn::Unwanted => {
                // Given up, stopping, or a partition was just revoked: look again.
                shared.stop.wait(Duration::from_millis(1));
            }
        }
    }
}

impl Shared {
    /// Says that broker `id` failed and asks for newer metadata; false when the run stops anyway.
    pub fn complain(&self, id: i32, why: &str) -> bool {
        if self.stop.is_set() {
            return false;
        }
        self.metrics.fetch_retries.inc();
        log::warn!(broker = id, why = why; "fetch failed, trying again");
        self.view.renew();
        true
    }
}
