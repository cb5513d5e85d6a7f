//! Bytes of an event on its way: from the layouts of Kafka's two formats, never from a measurement.
//!
//! Record batch v2 all the way: the producer sends one batch for each partition of a request, the leader
//! keeps it as it is, followers and consumers get it as it is. Not counted: request headers, TCP/IP,
//! and the log's indexes (22 B for each 4 KiB).

use crate::event::HEADER_BYTES;
use crate::load::{KEY_BYTES, Limits};
use crate::planes::Client;

/// Bytes of a record batch beside its records: base offset 8, length 4, leader epoch 4, magic 1,
/// crc 4, attributes 2, last offset delta 4, timestamps 8 and 8, producer 8, 2 and 4, count 4.
const BATCH_BYTES: f64 = 61.0;

/// The input of the layouts.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    pub payload_bytes: usize,
    pub linger_s: f64,
    pub partitions: f64,
    pub replication: f64,
    pub brokers: f64,
}

/// Bytes/s that cross the brokers' network, all together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    pub into: f64,
    pub out_of: f64,
}

impl Wire {
    /// Bytes of an event's record, alone in its batch.
    pub fn record_bytes(&self) -> f64 {
        record_bytes(self.payload_bytes, 1.0)
    }

    /// Events that a request brings for one partition, at `rate` events/s: those of one linger, at
    /// least one, and no more than the largest batch or the partitions' share of the largest request.
    pub fn batch_events(&self, rate: f64) -> f64 {
        let led = (self.partitions / self.brokers).max(1.0);
        let Limits { request_bytes, batch_bytes } = Limits::of(Client::Wire);
        let most = (batch_bytes as f64).min(request_bytes as f64 / led) / self.record_bytes();
        (rate * self.linger_s / self.partitions).min(most).max(1.0)
    }

    /// Bytes of an event in the log of one replica, with its share of its batch, at `rate`
    /// events/s. Partitions get the same share of the load.
    pub fn log_bytes(&self, rate: f64) -> f64 {
        let n = self.batch_events(rate);
        // The deltas 0 to 63 take one byte, those up to 8,191 two; a batch is smaller than that.
        let offset_delta = (n.min(64.0) + 2.0 * (n - 64.0).max(0.0)) / n;
        record_bytes(self.payload_bytes, offset_delta) + BATCH_BYTES / n
    }

    /// The network traffic of `offered` events/s in and `fetched` events/s out.
    pub fn network(&self, offered: f64, fetched: f64) -> Network {
        let each = self.log_bytes(offered.max(fetched));
        let copies = offered * each * (self.replication - 1.0);
        Network { into: offered * each + copies, out_of: fetched * each + copies }
    }
}

/// Bytes of an event in the log of one replica where it is alone in its batch, which is the most that it takes.
pub fn log_bytes_at_most(payload_bytes: usize) -> f64 {
    record_bytes(payload_bytes, 1.0) + BATCH_BYTES
}

/// A record of format v2: its length, attributes 1, timestamp delta 1 (a linger is shorter than 64 ms),
/// offset delta, key length 1 and key, value length and value, number of headers 1.
fn record_bytes(payload_bytes: usize, offset_delta: f64) -> f64 {
    let value = HEADER_BYTES + payload_bytes;
    let body = (1 + 1 + 1 + KEY_BYTES + varint_bytes(value) + value + 1) as f64 + offset_delta;
    body + varint_bytes(body.round() as usize) as f64
}

/// Bytes of a length as a zigzag varint: 7 bits a byte, one of them the sign.
fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - (value << 1).leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::records::{
        Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    };

    fn encoded(payload_bytes: usize, records: i64) -> usize {
        let record = |offset| Record {
            transactional: false,
            control: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: offset as i32,
            timestamp: -1,
            key: Some(vec![0; KEY_BYTES].into()),
            value: Some(vec![0; HEADER_BYTES + payload_bytes].into()),
            headers: Default::default(),
            delete_horizon: false,
        };
        let records: Vec<Record> = (0..records).map(record).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut bytes = BytesMut::new();
        RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("encoded");
        bytes.len()
    }

    // Guards the layout written down above against the format as another hand wrote it, at the
    // sizes where a varint grows by a byte.
    #[test]
    fn a_batch_takes_what_an_encoder_of_the_format_makes_of_it() {
        for payload_bytes in [0, 10, 24, 39, 40, 512, 8_100, 8_168, 100_000] {
            for records in [1_i64, 13, 64, 200] {
                let wire = Wire {
                    payload_bytes,
                    linger_s: 1.0,
                    partitions: 1.0,
                    replication: 3.0,
                    brokers: 3.0,
                };
                let n = wire.batch_events(records as f64);
                if n < records as f64 {
                    continue; // more than a request takes
                }
                let (model, real) = (wire.log_bytes(n) * n, encoded(payload_bytes, records));
                // A length that grows within the batch is the one thing that is rounded.
                let off = (model - real as f64).abs();
                assert!(off <= n, "{records} of {payload_bytes} B: {model} for {real}");
            }
        }
        assert_eq!(encoded(512, 13), 61 + 13 * 553);
    }

    #[test]
    fn requests_are_neither_empty_nor_larger_than_a_broker_takes() {
        let wire = Wire {
            payload_bytes: 512,
            linger_s: 0.02,
            partitions: 1200.0,
            replication: 3.0,
            brokers: 3.0,
        };
        assert_eq!(wire.batch_events(8_000.0), 1.0);
        assert!(wire.batch_events(8e9) * 400.0 * wire.record_bytes() <= 3_600_000.0);
        assert_eq!((wire.batch_events(0.0), wire.network(0.0, 0.0).into), (1.0, 0.0));
    }
}
