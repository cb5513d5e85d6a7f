//! The loop of a naive consumer: poll, fetch, push and poll again on one thread. A slow sink then
//! stops the group's clock, and the member is evicted: experiment 6.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keepalive::POLL;
use crate::backoff::Backoff;
use crate::source::fetcher::{Fetcher, Turn};
use crate::source::member::Member;
use crate::source::supervisor::Shared;
use crate::threads::Stop;

/// Poll between two fetches: short, so that it costs no rate; long enough that pending events (an
/// eviction is three) are handled in one turn on a busy machine too.
const NAIVE_POLL: Duration = Duration::from_millis(20);

/// The fetcher of one broker on the thread that polls; it must not wait there.
struct Naive {
    address: String,
    fetcher: Fetcher,
    backoff: Backoff,
    not_before: Instant,
}

/// Polls, fetches and pushes in turn, until `leave` is set.
pub(super) fn poll_between_fetches(member: &mut Member, shared: &Shared, leave: &Stop) {
    let (stop, view) = (&shared.fetching.stop, &shared.fetching.view);
    let mut fetchers: BTreeMap<i32, Naive> = BTreeMap::new();
    while !leave.is_set() {
        member.turn(NAIVE_POLL);
        if stop.is_set() {
            leave.wait(POLL);
            continue;
        }
        let known = view.get();
        // A broker that moved gets a new fetcher at its new address.
        fetchers.retain(|id, naive| known.addresses.get(id) == Some(&naive.address));
        let mut idle = true;
        for (id, address) in &known.addresses {
            let assigned = shared.led_by(*id);
            if assigned.is_empty() {
                if let Some(naive) = fetchers.get_mut(id) {
                    naive.fetcher.turn(&assigned); // it lets go of what it had
                }
                continue;
            }
            idle = false;
            let naive = fetchers.entry(*id).or_insert_with(|| Naive {
                address: address.clone(),
                fetcher: shared.fetcher(address, &Arc::default()),
                backoff: Backoff::standard(),
                not_before: Instant::now(),
            });
            if Instant::now() < naive.not_before {
                continue;
            }
            match naive.fetcher.turn(&assigned) {
                Turn::Failed(why) => {
                    naive.not_before = Instant::now() + naive.backoff.wait();
                    shared.complain(*id, &why);
                    view.refresh(&shared.fetching.brokers, &shared.fetching.topic, 0);
                }
                Turn::Throttled(time) => naive.not_before = Instant::now() + time,
                Turn::Fatal(why) => stop.fail(why),
                Turn::Progress | Turn::Idle | Turn::Unwanted => naive.backoff.reset(),
            }
            if view.is_asked(Duration::ZERO) {
                view.refresh(&shared.fetching.brokers, &shared.fetching.topic, 0);
            }
        }
        if idle {
            stop.wait(Duration::from_millis(10));
        }
    }
}
