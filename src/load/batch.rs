//! One produce request's worth of events: made from their ids just before they are sent.
//!
//! Invariant: it holds every due event of its partitions from `start` up to `end`, in order of
//! id, and nothing else. The same ids give the same bytes, so a resend repeats the first try.

use std::ops::Range;

use kafka::client::ProduceMessage;

use super::keys::{self, Keys};
use super::schedule::Curve;
use crate::event::{self, Event, HEADER_BYTES};

/// What makes events out of ids.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The run's seed.
    pub seed: u64,
    /// Id of the first event.
    pub first_id: u64,
    /// Which keys there are.
    pub keys: Keys,
    /// Bytes of payload.
    pub payload_bytes: usize,
    /// Partitions of the topic.
    pub partitions: u32,
}

/// Bytes of a message beside its key and value in message format 0, which crate `kafka` writes:
/// offset 8, size 4, crc 4, magic 1, attributes 1, key length 4, value length 4.
const MESSAGE_OVERHEAD: usize = 26;
/// Bytes of a record's key.
pub const KEY_BYTES: usize = 8;

/// Bytes of one event with a payload of `payload_bytes` in message format 0: in a produce request,
/// and in a fetch by crate `kafka`, whose Fetch v0 is answered in the same format.
pub fn message_bytes(payload_bytes: usize) -> usize {
    MESSAGE_OVERHEAD + KEY_BYTES + HEADER_BYTES + payload_bytes
}

/// How many ids a batch looks at, at most: with more partitions than events a sender would else
/// search a long backlog for an event of its own without a sign of life. 1 M ids take about 50 ms.
const SCAN_MAX: u64 = 1_000_000;

/// Events to be sent together.
pub struct Batch {
    /// The first position not looked at.
    pub end: u64,
    bytes: Vec<u8>,
    records: Vec<Record>,
}

struct Record {
    partition: u32,
    ts_us: i64,
    /// Where its value is in `bytes`.
    value: Range<usize>,
}

impl Recipe {
    /// Bytes that one event takes in a request.
    pub fn record_bytes(&self) -> usize {
        message_bytes(self.payload_bytes)
    }

    /// Makes the events of `partitions` among the positions `start..due`: as many as fit into
    /// `bytes_max`, and at least one.
    pub fn batch(
        &self,
        partitions: &[u32],
        start: u64,
        due: u64,
        curve: &Curve,
        bytes_max: usize,
    ) -> Batch {
        let mut wanted = vec![false; self.partitions as usize];
        for &partition in partitions {
            if let Some(flag) = wanted.get_mut(partition as usize) {
                *flag = true;
            }
        }
        let records_max = (bytes_max / self.record_bytes()).max(1);
        let mut batch = Batch { end: start, bytes: Vec::new(), records: Vec::new() };
        let due = due.min(start.saturating_add(SCAN_MAX));
        while batch.end < due && batch.records.len() < records_max {
            let id = self.first_id.wrapping_add(batch.end);
            let mut stream = event::stream(self.seed, id);
            let key = self.keys.draw(&mut stream);
            let partition = keys::partition(key, self.partitions);
            if wanted.get(partition as usize) == Some(&true) {
                // A due event has a due time for as long as its cursor may ask for it.
                let Some(ts_us) = curve.due_at(batch.end) else { break };
                let payload = event::payload(&mut stream, self.payload_bytes);
                let from = batch.bytes.len();
                Event { id, key, ts_us, payload }.encode(&mut batch.bytes);
                let value = from..batch.bytes.len();
                batch.records.push(Record { partition, ts_us, value });
            }
            batch.end += 1;
        }
        batch
    }
}

impl Batch {
    /// Whether none of the events looked at is of its partitions.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of its records in a request.
    pub fn request_bytes(&self) -> usize {
        self.bytes.len() + self.records.len() * (MESSAGE_OVERHEAD + KEY_BYTES)
    }

    /// How many events of `partition` it holds.
    pub fn count(&self, partition: u32) -> u64 {
        self.due_times(partition).count() as u64
    }

    /// When each event of `partition` was due, µs since the epoch.
    pub fn due_times(&self, partition: u32) -> impl Iterator<Item = i64> + '_ {
        self.records.iter().filter(move |r| r.partition == partition).map(|r| r.ts_us)
    }

    /// The records as crate `kafka` sends them: the value is the event, the key its `key` field.
    pub fn messages<'a>(&'a self, topic: &'a str) -> Vec<ProduceMessage<'a, 'a>> {
        let message = |record: &'a Record| ProduceMessage {
            // The second of the event's fields.
            key: self.bytes.get(record.value.clone()).and_then(|v| v.get(8..8 + KEY_BYTES)),
            value: self.bytes.get(record.value.clone()),
            topic,
            partition: record.partition as i32,
        };
        self.records.iter().map(message).collect()
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
        let messages = batch.messages("t");
        messages.iter().map(|m| Event::decode(m.value.expect("a value")).expect("valid")).collect()
    }

    /// However small the requests, the partitions together get every id once and in order.
    #[test]
    fn batches_cover_every_id_exactly_once() {
        let recipe = recipe();
        let mut ids = Vec::new();
        for group in [&[0, 2][..], &[1], &[3]] {
            let (mut next, mut last) = (0, None);
            while next < 500 {
                let batch = recipe.batch(group, next, 500, &curve(), 1500);
                assert!(batch.end > next, "no progress");
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
        let batch = recipe().batch(&[0, 1, 2, 3], 0, 50, &curve(), usize::MAX);
        for (n, (message, event)) in batch.messages("t").iter().zip(events(&batch)).enumerate() {
            assert_eq!(message.key, Some(&event.key.to_be_bytes()[..]));
            assert_eq!(message.partition as u32, keys::partition(event.key, PARTITIONS));
            assert_eq!(event.ts_us, n as i64 * 1000, "due times, not send times");
            assert_eq!(event.payload.len(), 64);
        }
    }

    /// An event larger than the limit still travels, alone: else its partition would never move.
    #[test]
    fn at_least_one_event_is_sent() {
        let batch = recipe().batch(&[0, 1, 2, 3], 0, 50, &curve(), 1);
        assert_eq!(batch.messages("t").len(), 1);
    }
}
