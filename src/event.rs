//! The event and its byte layout: big-endian `id u64 | key u64 | ts i64 (µs since the epoch) |
//! payload`. It is the Kafka record's value; the record's key is `key` as 8 bytes.
//!
//! Invariant: payload and key are pure functions of (seed, id), so a lost or forged byte shows.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Bytes before the payload: three 8-byte fields.
pub const HEADER_BYTES: usize = 24;

/// Largest encoded event: what fits a 1 MB produce request (Kafka's `message.max.bytes` default
/// is 1,048,588) beside record and batch overhead.
pub const EVENT_BYTES_MAX: usize = 1_000_000;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Dense from 0 within one producer's run; the ledger counts by it.
    pub id: u64,
    /// Ordering holds per key.
    pub key: u64,
    /// When the event is due by the schedule, µs since the epoch: not the time of the call.
    pub ts_us: i64,
    /// Opaque bytes.
    pub payload: Box<[u8]>,
}

/// The fields of an event before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// [`Event::id`].
    pub id: u64,
    /// [`Event::key`].
    pub key: u64,
    /// [`Event::ts_us`].
    pub ts_us: i64,
}

impl Head {
    /// Reads the head of an event's bytes.
    ///
    /// # Errors
    /// When they are no event.
    pub fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > EVENT_BYTES_MAX {
            return Err(Invalid::TooLong(bytes.len()));
        }
        let short = || Invalid::TooShort(bytes.len());
        let (id, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let (key, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let ts = rest.first_chunk().ok_or_else(short)?;
        Ok(Self {
            id: u64::from_be_bytes(*id),
            key: u64::from_be_bytes(*key),
            ts_us: i64::from_be_bytes(*ts),
        })
    }
}

/// Why bytes are no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The record has no value (a tombstone of a compacted topic).
    #[error("no value (a tombstone)")]
    Tombstone,
    /// Shorter than the header.
    #[error("{0} bytes, an event has at least {HEADER_BYTES}")]
    TooShort(usize),
    /// Longer than [`EVENT_BYTES_MAX`].
    #[error("{0} bytes, an event has at most {EVENT_BYTES_MAX}")]
    TooLong(usize),
}

impl Invalid {
    /// The value of the `reason` label in `processor_events_invalid_total`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::TooShort(_) => "too_short",
            Self::TooLong(_) => "too_long",
        }
    }
}

impl Event {
    /// Reads an event from its bytes.
    ///
    /// # Errors
    /// When they are no event.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let Head { id, key, ts_us } = Head::read(bytes)?;
        let payload = bytes.get(HEADER_BYTES..).unwrap_or_default().into();
        Ok(Self { id, key, ts_us, payload })
    }

    /// Appends the event's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.key.to_be_bytes());
        out.extend_from_slice(&self.ts_us.to_be_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// Bytes that [`Event::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// The random stream that belongs to one event: everything random about event `id` of a run with
/// `seed` is drawn from it, key first, payload next.
pub fn stream(seed: u64, id: u64) -> Xoshiro256PlusPlus {
    // SplitMix64 inside `seed_from_u64` spreads neighbouring inputs; the odd constant (2^64 / φ)
    // keeps (seed, id) and (seed + 1, id - 1) apart.
    Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(id))
}

/// `len` payload bytes drawn from an event's stream.
pub fn payload(stream: &mut Xoshiro256PlusPlus, len: usize) -> Box<[u8]> {
    let mut bytes = vec![0; len].into_boxed_slice();
    stream.fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encode_then_decode_is_identity(
            id: u64, key: u64, ts_us: i64, payload in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let event = Event { id, key, ts_us, payload: payload.into() };
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), event.encoded_len());
            prop_assert_eq!(Event::decode(&bytes), Ok(event));
        }

        #[test]
        fn decode_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let decoded = Event::decode(&bytes);
            prop_assert_eq!(decoded.is_ok(), bytes.len() >= HEADER_BYTES);
        }
    }

    #[test]
    fn the_same_seed_and_id_give_the_same_bytes() {
        let draw = |seed, id| payload(&mut stream(seed, id), 512);
        assert_eq!(draw(7, 42), draw(7, 42));
        assert_ne!(draw(7, 42), draw(8, 42));
        assert_ne!(draw(7, 42), draw(7, 43));
    }
}
