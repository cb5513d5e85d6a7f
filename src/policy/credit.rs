//! Lets the producer send up to a position: explicit credit, from the sink's acks to the source.
//!
//! Of each epoch a holder grants `settled + window − debt` events: what the sink acked of it (or what was given up), the
//! window, less what still waits from before the epoch. So its window bounds all that waits for it, in the log, in the
//! queue and in flight, where an implicit channel fills the queue. A window carries `window / round trip` events/s.
//!
//! A grant is a position (RFC 9000, 4.1): lost, doubled or late ones are healed by the next, which comes with the next
//! acks ([`PACE`]), and at the latest after [`PERIOD`]. It expires after [`book::LEASE`]: a processor that dies leaves no
//! stopped producer behind. The other end is [`crate::load::account`]; `orders` tries every order of both.
//!
//! With a new assignment the count begins anew, under another generation: what others settled is not known here.

pub mod book;
#[cfg(test)]
mod orders;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::http::client::{CallError, Peer};
use crate::load::credit::{CREDIT, CreditState};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;
use book::Book;

/// How often a grant is announced while acks come, at most: a quarter of a round trip of 20 ms, so that it adds little.
pub const PACE: Duration = Duration::from_millis(5);

/// How often it is announced in any case.
pub const PERIOD: Duration = Duration::from_millis(100);

/// Longest call of the producer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// After a new assignment, the time until a fetch has told how far its logs reach: it waits for 100 ms for events.
const SETTLE: Duration = Duration::from_millis(500);

/// How often gaps begin the count anew: each time it is silent for [`SETTLE`], and a grant holds for longer.
const GAPS_EVERY: Duration = Duration::from_secs(5);

/// What workers tell about the events that they are done with; nothing where no credit is given.
#[derive(Clone, Default)]
pub struct Settled(Option<Arc<Mutex<Book>>>);

impl Settled {
    /// For a processor that lets `window` events wait.
    pub fn new(window: u64) -> Self {
        // Nobody else's name: a processor that is started again has another one.
        let holder = format!("{}-{}", std::process::id(), clock::now_us());
        Self(Some(Arc::new(Mutex::new(Book::new(holder, window)))))
    }

    /// The count, if there is one. Whoever marks events as done holds it meanwhile, so that what waits and what is
    /// settled are never read apart.
    pub fn lock(&self) -> Option<MutexGuard<'_, Book>> {
        self.0.as_ref().map(|book| book.lock())
    }
}

/// Announces grants to the producer until the run stops; `waiting` are the events of this member's partitions that are in
/// the log and not settled, `changes` how often these partitions, or their logs, became others.
pub fn run(
    producer: &Peer,
    settled: &Settled,
    waiting: impl Fn() -> u64,
    changes: impl Fn() -> usize,
    metrics: &ProcessorMetrics,
    stop: &Stop,
) {
    let (mut seen, mut since, mut at) = (None, Instant::now(), None::<Instant>);
    let (mut reachable, mut holds, mut gaps) = (true, false, (0, Instant::now()));
    let end = || {
        let Some(holder) = settled.lock().map(|book| book.holder().to_owned()) else { return };
        // What is not heard expires.
        let _told = producer.delete::<CreditState>(&format!("{CREDIT}?holder={holder}"));
    };
    while !stop.wait(PACE) {
        // With other partitions the count is worth nothing, and what retention or compaction deletes will never be settled.
        // A log full of gaps must not silence it for good.
        let deleted = |by| metrics.lost.with_label_values(&[by]).get();
        if gaps.1.elapsed() >= GAPS_EVERY {
            gaps = (deleted("gap"), Instant::now());
        }
        let changes = (metrics.rebalances.get(), changes(), deleted("retention"), gaps.0);
        if seen != Some(changes) {
            (seen, since, at) = (Some(changes), Instant::now(), None);
            settled.lock().iter_mut().for_each(|book| book.reassigned());
        }
        // A member that has nothing to do must hold nobody up.
        if metrics.partitions.get() == 0 {
            if std::mem::take(&mut holds) {
                end();
            }
            continue;
        }
        if since.elapsed() < SETTLE {
            continue;
        }
        let grant = {
            let Some(mut book) = settled.lock() else { return };
            if at.is_some_and(|at| at.elapsed() < PERIOD) && !book.has_news() {
                continue;
            }
            book.announce(waiting())
        };
        at = Some(Instant::now());
        let told: Result<CreditState, CallError> = producer.post(CREDIT, &grant);
        let result = if told.is_ok() { "ok" } else { "failed" };
        metrics.grants.with_label_values(&[result]).inc();
        match told {
            Ok(state) => {
                holds = true;
                if let Some(mut book) = settled.lock() {
                    book.hear(&state, waiting());
                    metrics.granted_events.set(book.granted());
                }
                if !reachable {
                    log::info!("producer takes credit again");
                }
                reachable = true;
            }
            Err(why) => {
                if reachable {
                    log::warn!(why = why.to_string().as_str(); "producer does not take credit");
                }
                reachable = false;
            }
        }
    }
    metrics.granted_events.set(-1);
    if holds && reachable {
        end();
    }
}
