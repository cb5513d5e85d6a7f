//! Reads the answer to a Fetch of version 4 to 17 in place: the fields of each partition, and where
//! in the answer that partition's record batches are.
//!
//! This is the one message that is read by hand. Crate `kafka-protocol` reserves memory for as many
//! elements as an array announces, before it has read one, so a few bytes on the wire can ask for
//! gigabytes. Here a count reserves nothing, and each element is read from bytes that are there.
//! Layout: Kafka's `FetchResponse.json`; compact arrays and tagged fields are KIP-482's.

use std::ops::Range;

/// Versions that are read.
pub const VERSION_MIN: i16 = 4;
/// See [`VERSION_MIN`]. Version 18 adds nothing that a consumer reads.
pub const VERSION_MAX: i16 = 17;
/// From here on a topic is named by its id alone (KIP-516).
pub const TOPIC_ID_SINCE: i16 = 13;

/// From here on sizes are varints and structures end in tagged fields (KIP-482).
const FLEXIBLE_SINCE: i16 = 12;

/// The fields of an answer besides its partitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Time for which the client must send nothing (KIP-219), ms.
    pub throttle_ms: i32,
    /// Error of the whole request; 0 is none.
    pub error_code: i16,
}

/// The fields of an answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Its number.
    pub partition: i32,
    /// 0 is none.
    pub error_code: i16,
    /// High watermark: what is below it is on all replicas.
    pub high_watermark: i64,
    /// First offset of an open transaction, or the high watermark; -1 unknown.
    pub last_stable_offset: i64,
    /// First offset that is still there; -1 unknown.
    pub log_start_offset: i64,
    /// Where the log diverges from what the consumer has read: (epoch, end offset) (KIP-320).
    pub diverging: Option<(i32, i64)>,
    /// The partition's current leader and its epoch, where the refusal names them (KIP-951).
    pub leader: Option<(i32, i32)>,
    /// Transactions that were aborted: (producer id, first offset).
    pub aborted: Vec<(i64, i64)>,
    /// Where its record batches are in the answer.
    pub records: Range<usize>,
}

/// A broker that a refusal names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub broker: i32,
    /// `host:port`.
    pub address: String,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchAnswer {
    /// Its other fields.
    pub head: Head,
    /// Its partitions.
    pub partitions: Vec<Answered>,
    /// Addresses of the leaders that it names (version 16 and above).
    pub endpoints: Vec<Endpoint>,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends inside a field.
    #[error("the answer to a fetch is cut short at byte {0}")]
    CutShort(usize),
    /// A length or a count that no field can have.
    #[error("the answer to a fetch has an impossible length at byte {0}")]
    Length(usize),
    /// The lab sends no request of this version.
    #[error("answers to a fetch of version {0} are not read")]
    Version(i16),
}

/// Reads `bytes`, a whole answer from its correlation id on, in `version`.
///
/// # Errors
/// When it does not match the version's layout.
pub fn read(bytes: &[u8], version: i16) -> Result<FetchAnswer, Malformed> {
    if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
        return Err(Malformed::Version(version));
    }
    let mut reader = Reader { bytes, at: 0, flexible: version >= FLEXIBLE_SINCE };
    let _correlation_id = reader.i32()?;
    reader.skip_tags()?; // the header's own
    let mut answer = FetchAnswer::default();
    answer.head.throttle_ms = reader.i32()?;
    if version >= 7 {
        answer.head.error_code = reader.i16()?;
        let _session_id = reader.i32()?;
    }
    for _ in 0..reader.count()? {
        if version >= TOPIC_ID_SINCE {
            reader.take(16)?;
        } else {
            let length = reader.string_length()?;
            reader.take(length)?;
        }
        for _ in 0..reader.count()? {
            answer.partitions.push(partition(&mut reader, version)?);
        }
        reader.skip_tags()?;
    }
    reader.tags(|reader, tag| {
        if tag == 0 && version >= 16 {
            for _ in 0..reader.count()? {
                answer.endpoints.push(endpoint(reader)?);
            }
        }
        Ok(())
    })?;
    Ok(answer)
}

fn partition(reader: &mut Reader<'_>, version: i16) -> Result<Answered, Malformed> {
    let mut answered = Answered {
        partition: reader.i32()?,
        error_code: reader.i16()?,
        high_watermark: reader.i64()?,
        last_stable_offset: reader.i64()?,
        log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
        diverging: None,
        leader: None,
        aborted: Vec::new(),
        records: 0..0,
    };
    for _ in 0..reader.count()? {
        answered.aborted.push((reader.i64()?, reader.i64()?));
        reader.skip_tags()?;
    }
    if version >= 11 {
        let _preferred_read_replica = reader.i32()?;
    }
    let length = reader.bytes_length()?;
    let start = reader.at;
    reader.take(length)?;
    answered.records = start..reader.at;
    reader.tags(|reader, tag| {
        match tag {
            0 => {
                let (epoch, end) = (reader.i32()?, reader.i64()?);
                reader.skip_tags()?;
                answered.diverging = (epoch >= 0 && end >= 0).then_some((epoch, end));
            }
            1 => {
                let (leader, epoch) = (reader.i32()?, reader.i32()?);
                reader.skip_tags()?;
                answered.leader = (leader >= 0 && epoch >= 0).then_some((leader, epoch));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(answered)
}

fn endpoint(reader: &mut Reader<'_>) -> Result<Endpoint, Malformed> {
    let broker = reader.i32()?;
    let length = reader.string_length()?;
    let host = String::from_utf8_lossy(reader.take(length)?).into_owned();
    let port = reader.i32()?;
    let rack = reader.string_length()?;
    reader.take(rack)?;
    reader.skip_tags()?;
    Ok(Endpoint { broker, address: format!("{host}:{port}") })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed::Length(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed::CutShort(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.at;
        self.take(N)?.first_chunk().copied().ok_or(Malformed::CutShort(at))
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.fixed().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    fn unsigned_varint(&mut self) -> Result<usize, Malformed> {
        let at = self.at;
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map(|v| v as usize).map_err(|_| Malformed::Length(at));
            }
        }
        Err(Malformed::Length(at))
    }

    /// Number of elements of an array; null has none. Each element takes at least a byte, so a
    /// count above the remaining bytes is refused at once.
    fn count(&mut self) -> Result<usize, Malformed> {
        let at = self.at;
        let count = if self.flexible {
            self.unsigned_varint()?.saturating_sub(1)
        } else {
            usize::try_from(self.i32()?.max(0)).unwrap_or(0)
        };
        if count > self.bytes.len() - self.at { Err(Malformed::Length(at)) } else { Ok(count) }
    }

    /// Length of a string; null has none.
    fn string_length(&mut self) -> Result<usize, Malformed> {
        if self.flexible {
            return Ok(self.unsigned_varint()?.saturating_sub(1));
        }
        Ok(usize::try_from(self.i16()?.max(0)).unwrap_or(0))
    }

    /// Length of a byte field; null has none.
    fn bytes_length(&mut self) -> Result<usize, Malformed> {
        if self.flexible {
            return Ok(self.unsigned_varint()?.saturating_sub(1));
        }
        Ok(usize::try_from(self.i32()?.max(0)).unwrap_or(0))
    }

    /// Shows each tagged field to `field`, which reads as much of it as it knows.
    fn tags(
        &mut self,
        mut field: impl FnMut(&mut Self, usize) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let length = self.unsigned_varint()?;
            let start = self.at;
            let end = start.checked_add(length).filter(|end| *end <= self.bytes.len());
            let end = end.ok_or(Malformed::CutShort(start))?;
            field(self, tag)?;
            if self.at > end {
                return Err(Malformed::Length(start));
            }
            self.at = end;
        }
        Ok(())
    }

    fn skip_tags(&mut self) -> Result<(), Malformed> {
        self.tags(|_, _| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
        PartitionData,
    };
    use kafka_protocol::messages::{ApiKey, FetchResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Encodable as _, StrBytes};
    use proptest::prelude::*;

    use super::*;

    /// An answer as crate `kafka-protocol` writes it.
    fn written(version: i16, partitions: &[(i32, i16, Vec<u8>)]) -> Vec<u8> {
        let part = |(partition, error, records): &(i32, i16, Vec<u8>)| {
            let mut part = PartitionData::default()
                .with_partition_index(*partition)
                .with_error_code(*error)
                .with_high_watermark(1000 + i64::from(*partition))
                .with_last_stable_offset(900)
                .with_records(Some(Bytes::from(records.clone())));
            part.aborted_transactions = Some(vec![
                AbortedTransaction::default().with_producer_id(7.into()).with_first_offset(40),
            ]);
            if version >= 5 {
                part.log_start_offset = 12;
            }
            if version >= 12 {
                part.diverging_epoch = EpochEndOffset::default().with_epoch(3).with_end_offset(77);
                part.current_leader =
                    LeaderIdAndEpoch::default().with_leader_id(2.into()).with_leader_epoch(9);
            }
            part
        };
        let mut topic = FetchableTopicResponse::default();
        topic.partitions = partitions.iter().map(part).collect();
        if version < TOPIC_ID_SINCE {
            topic.topic = TopicName(StrBytes::from_static_str("events"));
        }
        let mut answer = FetchResponse::default().with_throttle_time_ms(5);
        answer.responses = vec![topic];
        if version >= 16 {
            answer.node_endpoints = vec![
                NodeEndpoint::default()
                    .with_node_id(2.into())
                    .with_host(StrBytes::from_static_str("there"))
                    .with_port(9092),
            ];
        }
        let mut out = BytesMut::new();
        let header_version = ApiKey::Fetch.response_header_version(version);
        ResponseHeader::default().encode(&mut out, header_version).expect("encodes");
        answer.encode(&mut out, version).expect("encodes");
        out.to_vec()
    }

    /// Prevents: a field read as its neighbour in one of the versions.
    #[test]
    fn every_version_is_read_as_it_is_written() {
        for version in VERSION_MIN..=VERSION_MAX {
            let given = [(3, 0, vec![1, 2, 3]), (4, 6, vec![]), (5, 0, vec![9; 300])];
            let bytes = written(version, &given);
            let answer = read(&bytes, version).expect("valid");
            assert_eq!(answer.head, Head { throttle_ms: 5, error_code: 0 }, "{version}");
            for (answered, (partition, error, records)) in answer.partitions.iter().zip(&given) {
                assert_eq!((answered.partition, answered.error_code), (*partition, *error));
                assert_eq!(answered.high_watermark, 1000 + i64::from(*partition), "{version}");
                assert_eq!(answered.last_stable_offset, 900, "{version}");
                assert_eq!(answered.log_start_offset, if version >= 5 { 12 } else { -1 });
                assert_eq!(&bytes[answered.records.clone()], &records[..], "{version}");
                assert_eq!(answered.aborted, [(7, 40)], "{version}");
                let tagged = (version >= 12).then_some(((3, 77), (2, 9)));
                assert_eq!(answered.diverging.zip(answered.leader), tagged, "{version}");
            }
            assert_eq!(answer.partitions.len(), given.len(), "{version}");
            assert_eq!(answer.endpoints.len(), usize::from(version >= 16), "{version}");
            for end in 0..bytes.len() {
                assert!(read(&bytes[..end], version).is_err(), "{version}: cut at {end}");
            }
        }
    }

    /// Prevents: gigabytes reserved for an array that is only announced.
    #[test]
    fn a_count_above_the_bytes_that_are_there_is_refused() {
        let mut bytes = vec![0; 4 + 4 + 2 + 4];
        bytes.extend(i32::MAX.to_be_bytes());
        bytes.extend([0; 40]);
        assert_eq!(read(&bytes, 11), Err(Malformed::Length(14)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), version in 0i16..20,
        ) {
            let _any_answer = read(&bytes, version);
        }
    }
}
