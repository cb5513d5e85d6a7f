//! One fetcher a broker: starts them, refreshes the metadata when one of them asks, and gives up
//! one that is stuck in a dead socket.
//!
//! Crate `kafka` waits up to 120 s on a broker that is stopped or cut off. A fetcher that has been
//! in one call for longer than [`STUCK_AFTER`] is given up: a fresh one replaces it at once, the
//! old thread ends by itself when its socket does, and its answer is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::fetcher::{self, Fetcher, Turn};
use super::{Assigned, Assignment};
use crate::backoff::Backoff;
use crate::brokers::Busy;
use crate::failure::Failure;
use crate::telemetry;
use crate::threads;

/// Longest call of a fetcher. A broker answers within the fetch wait (100 ms) when it is alive;
/// reading a header and reconnecting add at most three bounded waits of 3 s.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How often the supervisor checks its fetchers.
const LOOK: Duration = Duration::from_millis(200);

/// Metadata is renewed at least this often, to notice brokers and leaders that moved quietly.
const RENEW: Duration = Duration::from_secs(30);

/// How long a fetcher that has nothing to ask for sleeps.
const NOTHING_TO_DO: Duration = Duration::from_millis(20);

/// State shared by the fetchers and their supervisor.
#[derive(Clone)]
pub struct Shared {
    /// The partitions assigned now.
    pub assignment: Assignment,
    /// What the fetchers share.
    pub fetching: fetcher::Context,
}

struct Supervised {
    address: String,
    busy: Arc<Busy>,
    retire: Arc<AtomicBool>,
}

/// Supervises the fetchers until the run stops.
///
/// # Errors
/// When a thread cannot be started.
pub fn run(shared: &Shared) -> Result<(), Failure> {
    let (stop, view) = (&shared.fetching.stop, &shared.fetching.view);
    let mut fetchers: BTreeMap<i32, Supervised> = BTreeMap::new();
    let mut renewed = Instant::now();
    let mut whole = true;
    let mut tries = 0;
    let mut backoff = Backoff::standard();
    while !stop.is_set() {
        let asked = view.is_asked(LOOK);
        if asked || !whole || renewed.elapsed() > RENEW {
            tries += 1;
            whole = view.refresh(&shared.fetching.brokers, &shared.fetching.topic, tries);
            renewed = Instant::now();
            if whole {
                backoff.reset();
            } else {
                stop.wait(backoff.wait());
            }
        }
        let known = view.get();
        fetchers.retain(|id, fetcher| {
            let is_there = known.addresses.contains_key(id);
            if !is_there {
                fetcher.retire.store(true, Ordering::SeqCst);
            }
            is_there
        });
        for (id, address) in &known.addresses {
            let stale = fetchers.get(id).is_none_or(|fetcher| {
                let stuck = fetcher.busy.give_up_after(STUCK_AFTER);
                if stuck {
                    log::warn!(
                        broker = *id, address = fetcher.address.as_str(),
                        seconds = STUCK_AFTER.as_secs();
                        "broker does not answer, giving up on this connection"
                    );
                    view.renew();
                }
                stuck || fetcher.address != *address
            });
            if stale {
                let fetcher = start(shared, *id, address)?;
                if let Some(old) = fetchers.insert(*id, fetcher) {
                    old.retire.store(true, Ordering::SeqCst);
                }
            }
        }
    }
    Ok(())
}

fn start(shared: &Shared, id: i32, address: &str) -> Result<Supervised, Failure> {
    let supervised =
        Supervised { address: address.to_owned(), busy: Arc::default(), retire: Arc::default() };
    let fetcher = shared.fetcher(address, &supervised.busy);
    let (shared, retire) = (shared.clone(), Arc::clone(&supervised.retire));
    let stop = shared.fetching.stop.clone();
    threads::spawn_watched(&format!("fetch-{id}"), stop, move || {
        fetch_loop(&shared, id, fetcher, &retire);
        Ok(())
    })?;
    Ok(supervised)
}

fn fetch_loop(shared: &Shared, id: i32, mut fetcher: Fetcher, retire: &AtomicBool) {
    let stop = &shared.fetching.stop;
    telemetry::block_profiler_signal();
    let mut backoff = Backoff::standard();
    while !stop.is_set() && !retire.load(Ordering::SeqCst) {
        let assigned = shared.led_by(id);
        let begun = Instant::now();
        match fetcher.turn(&assigned) {
            Turn::Progress => backoff.reset(),
            Turn::Idle => {
                backoff.reset();
                // A delayed answer takes its time; a turn without a request takes none.
                stop.wait(NOTHING_TO_DO.saturating_sub(begun.elapsed()));
            }
            Turn::Throttled(time) => {
                log::debug!(broker = id, wait = crate::units::show(time).as_str(); "throttled");
                let until = Instant::now() + time;
                while !retire.load(Ordering::SeqCst) && !stop.is_set() {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    stop.wait(left.min(Duration::from_secs(1)));
                }
            }
            Turn::Failed(why) => {
                if !shared.complain(id, &why) {
                    break;
                }
                stop.wait(backoff.wait());
            }
            Turn::Fatal(why) => stop.fail(why),
            Turn::Unwanted => {
                // Given up, stopping, or a partition was just revoked: check again.
                stop.wait(Duration::from_millis(1));
            }
        }
    }
}

impl Shared {
    /// A fetcher of the broker at `address`.
    pub fn fetcher(&self, address: &str, busy: &Arc<Busy>) -> Fetcher {
        Fetcher::new(address, self.fetching.clone(), Arc::clone(busy))
    }

    /// The assigned partitions that broker `id` leads. A partition of a recreated topic is not
    /// among them until the member has started it anew: its position belongs to another log.
    pub fn led_by(&self, id: i32) -> Vec<Arc<Assigned>> {
        let view = self.fetching.view.get();
        self.assignment.among(view.id, view.led_by(id))
    }

    /// Logs that broker `id` failed and asks for a refresh; false when the run stops anyway.
    pub fn complain(&self, id: i32, why: &str) -> bool {
        if self.fetching.stop.is_set() {
            return false;
        }
        self.fetching.metrics.fetch_retries.inc();
        log::warn!(broker = id, why = why; "fetch failed, trying again");
        self.fetching.view.renew();
        true
    }
}
