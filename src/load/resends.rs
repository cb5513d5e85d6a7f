//! Clients that wait for an answer: an event that the sink has not delivered by a given age is sent again, with
//! the id, key and payload that it had, and with the time at which it was due first.
//!
//! Invariant: an event is sent again at most once for each age, and only while the sink does not have it. It is
//! asked for by position, so nothing is kept for an event: the open model stays a number. What is sent again
//! stands in the log twice, in no order with its key, and may be delivered twice: that is what clients do who
//! give up waiting (retries outlive the overload that began them: Huang et al., OSDI 2022, "Metastable failures
//! in the wild").

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::sender::{Shared, too_large};
use crate::backoff::Backoff;
use crate::clock;
use crate::failure::Failure;
use crate::http::client::{CallError, Peer};
use crate::planes::{Lost, Parcel, Produces, Unsent};
use crate::records::ProducerStamp;
use crate::telemetry;
use crate::units;

/// Path of the ids from `from` to below `to` that are not delivered: `?from=0&to=1000`; at most
/// [`MISSING_IDS_MAX`] of them are looked at.
pub const LEDGER_MISSING: &str = "/ledger/missing";
/// Most ids of one question: 0.4 MB of digits at most, and a millisecond under the ledger's lock.
pub const MISSING_IDS_MAX: u64 = 20_000;

/// The answer to [`LEDGER_MISSING`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The ids that are not delivered, ascending.
    pub missing: Vec<u64>,
}

/// Longest call of the sink.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of records that are sent again in one request, so that no topic finds its batches too large.
const REQUEST_BYTES: usize = 256 << 10;

/// Most ages: an event is sent once more for each.
const AGES_MAX: usize = 8;

/// The ages, ascending, at which an event that is not delivered is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ages(Vec<Duration>);

impl std::str::FromStr for Ages {
    type Err = String;

    /// `1s,3s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let ages = text.split(',').map(|age| units::duration_above_zero(age.trim()));
        let ages: Vec<Duration> = ages.collect::<Result<_, _>>()?;
        let ascend = ages.iter().zip(ages.iter().skip(1)).all(|(a, b)| a < b);
        if ascend && ages.len() <= AGES_MAX {
            return Ok(Self(ages));
        }
        Err(format!("expected up to {AGES_MAX} ages, each above the last, such as 1s,3s"))
    }
}

impl Ages {
    /// In seconds, for a prediction.
    pub fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(Duration::as_secs_f64).collect()
    }
}

/// What is sent again, and how far that is.
pub struct Resends {
    sink: Peer,
    ages: Ages,
    /// No event below this position will be sent again.
    done_below: AtomicU64,
}

impl Resends {
    /// Events that the sink at `sink` does not have at these ages.
    ///
    /// # Errors
    /// Usage: `sink` is no address.
    pub fn new(sink: &str, ages: Ages) -> Result<Self, Failure> {
        let sink = Peer::new("--sink", sink, None, CALL_TIMEOUT)?;
        Ok(Self { sink, ages, done_below: AtomicU64::new(0) })
    }

    /// No event below this position will be sent again.
    pub fn done_below(&self) -> u64 {
        self.done_below.load(Ordering::SeqCst)
    }

    /// Sends again what is not delivered, until the run is done.
    ///
    /// # Errors
    /// When the brokers refuse the events for good.
    pub fn run(&self, shared: &Shared) -> Result<(), Failure> {
        telemetry::block_profiler_signal();
        let mut asked = vec![0; self.ages.0.len()];
        let mut carrier = Carrier { shared, links: BTreeMap::new() };
        let mut backoff = Backoff::standard();
        let mut answers = true;
        // As often as events are sent for the first time: what is sent again comes in runs of the same size, so
        // that it finds room in a queue no more and no less often.
        let period = shared.linger;
        let mut wait = period;
        while !shared.done.wait(wait) {
            let answered = std::mem::replace(&mut answers, true);
            wait = match self.turn(&mut carrier, &mut asked) {
                Ok(()) => {
                    if !answered {
                        backoff.reset();
                        log::info!("the sink says again what it has");
                    }
                    period
                }
                Err(Trouble::Brokers(why)) => return Err(why),
                Err(Trouble::Sink(why)) => {
                    if answered {
                        log::warn!(why = why.to_string().as_str(); "the sink does not say what it has, asking again");
                    }
                    answers = false;
                    backoff.wait()
                }
            };
        }
        Ok(())
    }

    /// Every age once.
    fn turn(&self, carrier: &mut Carrier<'_>, asked: &mut [u64]) -> Result<(), Trouble> {
        let shared = carrier.shared;
        for (age, asked) in self.ages.0.iter().zip(asked.iter_mut()) {
            // What was never sent is not sent again.
            let of_age = shared.due_by(clock::now_us() - age.as_micros() as i64);
            let to = of_age.min(shared.cursors.acked_below(of_age));
            while *asked < to {
                let end = to.min(*asked + MISSING_IDS_MAX);
                let missing = self.missing(shared.recipe.first_id, *asked, end);
                let positions = missing.map_err(Trouble::Sink)?;
                if !carrier.send(&positions).map_err(Trouble::Brokers)? {
                    return Ok(());
                }
                *asked = end;
            }
        }
        self.done_below.store(asked.iter().copied().min().unwrap_or(0), Ordering::SeqCst);
        Ok(())
    }

    /// The positions from `from` to below `to` whose events the sink does not have.
    fn missing(&self, first_id: u64, from: u64, to: u64) -> Result<Vec<u64>, CallError> {
        let (from, to) = (first_id.wrapping_add(from), first_id.wrapping_add(to));
        let path = format!("{LEDGER_MISSING}?from={from}&to={to}");
        let Missing { missing } = self.sink.get(&path)?;
        let asked_for = missing.into_iter().filter(|id| (from..to).contains(id));
        Ok(asked_for.map(|id| id.wrapping_sub(first_id)).collect())
    }
}

enum Trouble {
    /// The sink does not answer now.
    Sink(CallError),
    /// The brokers refuse the events for good.
    Brokers(Failure),
}

/// Carries events to the brokers that lead their partitions.
struct Carrier<'a> {
    shared: &'a Shared,
    /// By broker: the plane, and the address that it was made for.
    links: BTreeMap<i32, (Box<dyn Produces>, String)>,
}

impl Carrier<'_> {
    /// Sends the events at `positions`; false when the run was done before all were taken.
    fn send(&mut self, positions: &[u64]) -> Result<bool, Failure> {
        let recipe = &self.shared.recipe;
        let curve = self.shared.pacer.lock().curve();
        let together = (REQUEST_BYTES / recipe.record_bytes()).max(1);
        for some in positions.chunks(together) {
            let batch = recipe.again(some, &curve);
            let mut left: Vec<u32> = (0..recipe.partitions).collect();
            left.retain(|partition| batch.count(*partition) > 0);
            let mut backoff = Backoff::standard();
            loop {
                left = self.try_send(&batch, &left)?;
                if left.is_empty() {
                    break;
                }
                self.shared.view.renew();
                if self.shared.done.wait(backoff.wait()) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// One request to each leader; returns the partitions whose events were not taken.
    fn try_send(&mut self, batch: &Batch, partitions: &[u32]) -> Result<Vec<u32>, Failure> {
        let view = self.shared.view.get();
        let mut by_leader: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        let mut left = Vec::new();
        for &partition in partitions {
            match view.leaders.get(&(partition as i32)) {
                Some(Some(leader)) => by_leader.entry(*leader).or_default().push(partition),
                _ => left.push(partition),
            }
        }
        for (leader, led) in by_leader {
            let Some(address) = view.addresses.get(&leader) else {
                left.extend(led);
                continue;
            };
            // A resend of an event has no sequence number: a broker shall take it, although it has the first.
            let parcels: Vec<Parcel<'_>> = led
                .iter()
                .map(|&partition| Parcel {
                    partition: partition as i32,
                    stamp: ProducerStamp::NONE,
                    events: batch.of(partition),
                })
                .collect();
            match self.link(leader, address).produce(&parcels) {
                Ok(produced) => {
                    for (partition, verdict) in produced.verdicts {
                        let partition = partition as u32;
                        match verdict {
                            Ok(_) => self.shared.metrics.resent.inc_by(batch.count(partition)),
                            Err(unsent) => left.push(self.refused(partition, unsent)?),
                        }
                    }
                }
                Err(Lost::Connection(why)) => {
                    log::debug!(broker = leader, why = why.as_str(); "not sent again yet");
                    self.links.remove(&leader);
                    left.extend(led);
                }
                Err(Lost::Never(why)) => return Err(Failure::Failed(why)),
            }
        }
        Ok(left)
    }

    fn link(&mut self, leader: i32, address: &str) -> &mut dyn Produces {
        if self.links.get(&leader).is_some_and(|(_, at)| at != address) {
            self.links.remove(&leader);
        }
        let made = || (self.shared.plane(address), address.to_owned());
        self.links.entry(leader).or_insert_with(made).0.as_mut()
    }

    /// The partition, if its events may be taken later.
    fn refused(&self, partition: u32, unsent: Unsent) -> Result<u32, Failure> {
        let topic = &self.shared.topic;
        match unsent {
            Unsent::Never(why) => {
                Err(Failure::Failed(format!("{topic}-{partition}: the broker answered {why}")))
            }
            Unsent::TooLarge(why) => Err(Failure::Failed(too_large(self.shared, partition, &why))),
            Unsent::Moved { leader, .. } => {
                if let Some((leader, epoch)) = leader {
                    self.shared.view.leader_moved(partition as i32, leader, epoch);
                }
                Ok(partition)
            }
            Unsent::NotNow(_) | Unsent::Sequence(_) => Ok(partition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_ascend() {
        assert_eq!("1s,3s".parse::<Ages>().expect("valid").seconds(), [1.0, 3.0]);
        for text in ["", "0s", "3s,1s", "1s,1s", "1", "1s,2s,3s,4s,5s,6s,7s,8s,9s"] {
            assert!(text.parse::<Ages>().is_err(), "{text}");
        }
    }
}
