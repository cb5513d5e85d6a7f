//! One produce request's worth of events: made from their ids just before they are sent.
//!
//! Invariant: it holds every due event of its partitions from `start` up to `end`, in order of
//! id, and nothing else. The same ids give the same bytes, so a resend repeats the first try.

use std::ops::Range;

use rand_xoshiro::Xoshiro256PlusPlus;

use super::keys::{self, Keys};
use super::schedule::Curve;
use crate::event::{self, Event, HEADER_BYTES};
use crate::planes::{Client, Outgoing};
use crate::records;

/// Makes events out of ids.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The run's seed.
    pub seed: u64,
    /// Id of the first event.
    pub first_id: u64,
    /// The keys of the load.
    pub keys: Keys,
    /// Bytes of payload.
    pub payload_bytes: usize,
    /// Partitions of the topic.
    pub partitions: u32,
}

/// Bytes of a record's key.
pub const KEY_BYTES: usize = 8;

/// Most ids that a batch examines: with more partitions than events a sender would otherwise search
/// a long backlog for an event of its own and report nothing meanwhile. 1 M ids take about 50 ms.
const SCAN_MAX: u64 = 1_000_000;

/// How much is sent together.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of records in one request.
    pub request_bytes: usize,
    /// Bytes of records of one partition in it, which become one batch of its log.
    pub batch_bytes: usize,
}

impl Limits {
    /// The limits of a plane. Brokers take batches up to `message.max.bytes`, 1,048,588 by default.
    /// The cost of a request at the broker grows little with its size; but crate `kafka` sends it
    /// with one `write`, which must not come back short.
    pub const fn of(client: Client) -> Self {
        let batch_bytes = 900_000;
        let batches = match client {
            Client::Wire | Client::Rdkafka => 4,
            Client::Kafka => 1,
        };
        Self { request_bytes: batches * batch_bytes, batch_bytes }
    }

    /// No limit: for events that were sent together before.
    pub const NONE: Self = Self { request_bytes: usize::MAX, batch_bytes: usize::MAX };
}

/// Events to be sent together.
pub struct Batch {
    /// The first position that was not examined.
    pub end: u64,
    bytes: Vec<u8>,
    records: Vec<Record>,
}

/// An event of which only the key was drawn: most are another partition's.
struct Drawn {
    id: u64,
    key: u64,
    partition: u32,
    stream: Xoshiro256PlusPlus,
}

struct Record {
    partition: u32,
    ts_us: i64,
    /// Where its value is in `bytes`.
    value: Range<usize>,
}

impl Recipe {
    /// Bytes that one event takes in a request, at most.
    pub fn record_bytes(&self) -> usize {
        records::record_bytes(KEY_BYTES, HEADER_BYTES + self.payload_bytes)
    }

    /// Makes the events of `partitions` among the positions `start..due`, up to the first that does not
    /// fit into `limits`, and at least one.
    pub fn batch(
        &self,
        partitions: &[u32],
        start: u64,
        due: u64,
        curve: &Curve,
        limits: Limits,
    ) -> Batch {
        let records = |bytes: usize| (bytes / self.record_bytes()).max(1);
        let records_max = records(limits.request_bytes);
        // How many more records each partition takes; `None` for those that are not wanted.
        let mut room: Vec<Option<usize>> = vec![None; self.partitions as usize];
        for &partition in partitions {
            if let Some(room) = room.get_mut(partition as usize) {
                *room = Some(records(limits.batch_bytes));
            }
        }
        let mut batch = Batch { end: start, bytes: Vec::new(), records: Vec::new() };
        let due = due.min(start.saturating_add(SCAN_MAX));
        while batch.end < due && batch.records.len() < records_max {
            let mut drawn = self.draw(batch.end);
            if let Some(Some(left)) = room.get_mut(drawn.partition as usize) {
                let Some(less) = left.checked_sub(1) else { break };
                *left = less;
                // A due event has a due time as long as its cursor may need it.
                let Some(ts_us) = curve.due_at(batch.end) else { break };
                self.make(&mut drawn, ts_us, &mut batch);
            }
            batch.end += 1;
        }
        batch
    }

    /// Makes the events at these positions again, which were made before.
    pub fn again(&self, positions: &[u64], curve: &Curve) -> Batch {
        let mut batch = Batch { end: 0, bytes: Vec::new(), records: Vec::new() };
        for &position in positions {
            if let Some(ts_us) = curve.due_at(position) {
                self.make(&mut self.draw(position), ts_us, &mut batch);
            }
        }
        batch
    }

    fn draw(&self, position: u64) -> Drawn {
        let id = self.first_id.wrapping_add(position);
        let mut stream = event::stream(self.seed, id);
        let key = self.keys.draw(&mut stream);
        Drawn { id, key, partition: keys::partition(key, self.partitions), stream }
    }

    fn make(&self, drawn: &mut Drawn, ts_us: i64, batch: &mut Batch) {
        let payload = event::payload(&mut drawn.stream, self.payload_bytes);
        let from = batch.bytes.len();
        Event { id: drawn.id, key: drawn.key, ts_us, payload }.encode(&mut batch.bytes);
        let value = from..batch.bytes.len();
        batch.records.push(Record { partition: drawn.partition, ts_us, value });
    }
}

impl Batch {
    /// Bytes of `partition`'s records in a request, at most.
    pub fn batch_bytes(&self, partition: u32) -> usize {
        let own = self.records.iter().filter(|record| record.partition == partition);
        own.map(|record| records::record_bytes(KEY_BYTES, record.value.len())).sum()
    }

    /// How many events of `partition` it holds.
    pub fn count(&self, partition: u32) -> u64 {
        self.due_times(partition).count() as u64
    }

    /// When each event of `partition` was due, µs since the epoch.
    pub fn due_times(&self, partition: u32) -> impl Iterator<Item = i64> + '_ {
        self.records.iter().filter(move |r| r.partition == partition).map(|r| r.ts_us)
    }

    /// The events of `partition` as records: the value is the event, the key its `key` field, the time
    /// when it was due.
    pub fn of(&self, partition: u32) -> Vec<Outgoing<'_>> {
        let outgoing = |record: &Record| {
            let value = self.bytes.get(record.value.clone()).unwrap_or_default();
            Outgoing {
                timestamp_ms: record.ts_us.div_euclid(1000),
                // The second of the event's fields.
                key: value.get(8..8 + KEY_BYTES).unwrap_or_default(),
                value,
            }
        };
        self.records.iter().filter(|r| r.partition == partition).map(outgoing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{Pacer, Schedule};
    use super::*;

    const PARTITIONS: u32 = 4;

    fn recipe() -> Recipe {
        let keys = Keys::new(100, 0.0).expect("valid");
        Recipe { seed: 7, first_id: 1000, keys, payload_bytes: 64, partitions: PARTITIONS }
    }

    fn curve() -> std::sync::Arc<Curve> {
        Pacer::new(Schedule::constant(1000.0), 0).curve()
    }

    fn events(batch: &Batch) -> Vec<Event> {
        let values = batch.records.iter().map(|record| &batch.bytes[record.value.clone()]);
        values.map(|value| Event::decode(value).expect("valid")).collect()
    }

    /// However small requests or batches, the partitions together get every id once and in order.
    #[test]
    fn batches_cover_every_id_exactly_once() {
        for limits in [
            Limits { request_bytes: 1500, ..Limits::NONE },
            Limits { batch_bytes: 300, ..Limits::NONE },
        ] {
            covers_every_id_exactly_once(limits);
        }
    }

    fn covers_every_id_exactly_once(limits: Limits) {
        let recipe = recipe();
        let mut ids = Vec::new();
        for group in [&[0, 2][..], &[1], &[3]] {
            let (mut next, mut last) = (0, None);
            while next < 500 {
                let batch = recipe.batch(group, next, 500, &curve(), limits);
                assert!(batch.end > next, "no progress");
                for partition in group {
                    let bytes = batch.batch_bytes(*partition);
                    assert!(bytes <= limits.batch_bytes.min(limits.request_bytes), "{bytes}");
                }
                for event in events(&batch) {
                    assert!(last.is_none_or(|last| last < event.id), "out of order");
                    last = Some(event.id);
                    ids.push(event.id);
                }
                next = batch.end;
            }
        }
        ids.sort_unstable();
        assert!(ids.into_iter().eq(1000..1500));
    }

    #[test]
    fn a_record_is_keyed_placed_and_stamped_as_documented() {
        let batch = recipe().batch(&[0, 1, 2, 3], 0, 50, &curve(), Limits::NONE);
        let mut ids = Vec::new();
        for partition in 0..PARTITIONS {
            for outgoing in batch.of(partition) {
                let event = Event::decode(outgoing.value).expect("valid");
                assert_eq!(outgoing.key, &event.key.to_be_bytes()[..]);
                assert_eq!(partition, keys::partition(event.key, PARTITIONS));
                let n = event.id as i64 - 1000;
                assert_eq!(event.ts_us, n * 1000, "due times, not send times");
                assert_eq!(outgoing.timestamp_ms, n);
                assert_eq!(event.payload.len(), 64);
                ids.push(event.id);
            }
        }
        ids.sort_unstable();
        assert!(ids.into_iter().eq(1000..1050));
    }

    /// Prevents: an event that is sent again as another one.
    #[test]
    fn what_is_sent_again_is_what_was_sent() {
        let all: Vec<u32> = (0..PARTITIONS).collect();
        let first = events(&recipe().batch(&all, 0, 50, &curve(), Limits::NONE));
        let again = recipe().again(&[3, 49, 7], &curve());
        assert_eq!(events(&again), [first[3].clone(), first[49].clone(), first[7].clone()]);
    }

    /// An event larger than the limit is still sent, alone: otherwise its partition would never
    /// move.
    #[test]
    fn at_least_one_event_is_sent() {
        let least = Limits { request_bytes: 1, batch_bytes: 1 };
        let batch = recipe().batch(&[0, 1, 2, 3], 0, 50, &curve(), least);
        assert_eq!(batch.records.len(), 1);
    }
}
