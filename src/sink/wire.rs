//! The protocol between a worker and the sink.
//!
//! `POST /write` takes one event, `POST /batch` a run of `u32 length | event`; both
//! `application/octet-stream`, answered by `{"acked": n}`: the first `n` events are delivered. With
//! `?transform=digest` each event is followed by the digest of its payload, which a frame's length
//! covers. The sink reads a body in place: it copies no byte of it, and allocates nothing for an
//! event.

use serde::{Deserialize, Serialize};

use crate::event::{EVENT_BYTES_MAX, Event, HEADER_BYTES, Invalid};
use crate::transform::{PARAMETER, Transform};

/// Path of a single event.
pub const WRITE: &str = "/write";
/// Path of a framed batch.
pub const BATCH: &str = "/batch";
/// Path of the control endpoint that chaos calls.
pub const CONTROL: &str = "/control";
/// Path of the ground truth.
pub const LEDGER: &str = "/ledger";
/// Path of the delivered ids: a `roaring::RoaringTreemap` in its portable serialisation.
pub const LEDGER_IDS: &str = "/ledger/ids";

/// Bytes before each event of a batch: its length.
pub const FRAME_HEADER_BYTES: usize = 4;

/// Largest body: a batch of 1,000 events of 536 B is 1,000 × (4 + 536 + 8) = 548,000 B, the largest
/// event 1,000,012 B framed; 4 MiB holds four of these, or 1,000 events of 4,182 B.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// The answer to `/write` and `/batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// How many of the request's events, from its start, are delivered.
    pub acked: u64,
}

/// Why bytes are no event with this transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// They are no event.
    #[error("{0}")]
    Event(Invalid),
    /// Shorter than an event's header and its digest.
    #[error("{0} bytes, an event with its digest has at least {least}", least = HEADER_BYTES + 8)]
    NoTrailer(usize),
}

/// Why a batch body is no run of framed events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The body ends inside a length or an event.
    #[error("event {index} is cut short: {left} bytes left, {needed} needed")]
    Truncated {
        /// Position in the batch, from 0.
        index: usize,
        /// Bytes that are there.
        left: usize,
        /// Bytes that the frame announces.
        needed: usize,
    },
    /// A frame holds no event.
    #[error("event {index}: {why}")]
    Event {
        /// Position in the batch, from 0.
        index: usize,
        /// What is wrong with it.
        why: BadEvent,
    },
    /// No event at all.
    #[error("the batch is empty")]
    Empty,
}

/// Appends one framed event to a batch body, as it is.
pub fn frame(event: &Event, out: &mut Vec<u8>) {
    frame_transformed(event, Transform::None, out);
}

/// Appends one framed event to a batch body, and what `transform` adds to it.
pub fn frame_transformed(event: &Event, transform: Transform, out: &mut Vec<u8>) {
    // EVENT_BYTES_MAX + 8 fits u32, and longer events were refused when they were decoded.
    let len = u32::try_from(event.encoded_len() + transform.trailer_bytes()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    event.encode(out);
    transform.append_trailer(&event.payload, out);
}

/// An event where it lies in a request's body. A view takes 56 B and the shortest framed event 28 B:
/// the views of a body take at most twice its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View<'a> {
    /// [`Event::id`].
    pub id: u64,
    /// [`Event::key`].
    pub key: u64,
    /// [`Event::ts_us`].
    pub ts_us: i64,
    /// [`Event::payload`].
    pub payload: &'a [u8],
    /// The bytes that the transform appended.
    pub trailer: &'a [u8],
}

impl<'a> View<'a> {
    /// Reads one event and the bytes that `transform` appended to it.
    ///
    /// # Errors
    /// When `bytes` are too few or too many for that.
    pub fn read(bytes: &'a [u8], transform: Transform) -> Result<Self, BadEvent> {
        let trailer_bytes = transform.trailer_bytes();
        let Some(event_bytes) = bytes.len().checked_sub(trailer_bytes) else {
            return Err(BadEvent::NoTrailer(bytes.len()));
        };
        if event_bytes > EVENT_BYTES_MAX {
            return Err(BadEvent::Event(Invalid::TooLong(event_bytes)));
        }
        let short = || match transform {
            Transform::None => BadEvent::Event(Invalid::TooShort(event_bytes)),
            Transform::Digest => BadEvent::NoTrailer(bytes.len()),
        };
        let (event, trailer) = bytes.split_at_checked(event_bytes).ok_or_else(short)?;
        let (id, rest) = event.split_first_chunk().ok_or_else(short)?;
        let (key, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (ts, payload) = rest.split_first_chunk().ok_or_else(short)?;
        Ok(Self {
            id: u64::from_be_bytes(*id),
            key: u64::from_be_bytes(*key),
            ts_us: i64::from_be_bytes(*ts),
            payload,
            trailer,
        })
    }
}

/// Reads a whole batch body; all of it or nothing.
///
/// # Errors
/// The first event that is wrong, and why.
pub fn unframe(body: &[u8], transform: Transform) -> Result<Vec<View<'_>>, BadFrame> {
    let least = FRAME_HEADER_BYTES + HEADER_BYTES + transform.trailer_bytes();
    let mut events = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let index = events.len();
        let Some((len, tail)) = rest.split_first_chunk() else {
            return Err(BadFrame::Truncated {
                index,
                left: rest.len(),
                needed: FRAME_HEADER_BYTES,
            });
        };
        let needed = u32::from_be_bytes(*len) as usize;
        if needed > EVENT_BYTES_MAX + transform.trailer_bytes() {
            let why = BadEvent::Event(Invalid::TooLong(needed));
            return Err(BadFrame::Event { index, why });
        }
        let Some((bytes, tail)) = tail.split_at_checked(needed) else {
            return Err(BadFrame::Truncated { index, left: tail.len(), needed });
        };
        let event = View::read(bytes, transform).map_err(|why| BadFrame::Event { index, why })?;
        if events.is_empty() {
            // The events of a batch are mostly of one size; the count for the shortest events is
            // the maximum.
            events.reserve((body.len() / (FRAME_HEADER_BYTES + needed)).min(body.len() / least));
        }
        events.push(event);
        rest = tail;
    }
    if events.is_empty() { Err(BadFrame::Empty) } else { Ok(events) }
}

/// The transform that a request's query names; without a query there is none.
///
/// # Errors
/// What was expected.
pub fn transform_of(query: &str) -> Result<Transform, String> {
    if query.is_empty() {
        return Ok(Transform::None);
    }
    let named = query.split_once('=').filter(|(name, _)| *name == PARAMETER);
    named.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| {
        let allowed = Transform::ALL.map(|(name, _)| format!("{PARAMETER}={name}")).join(" or ");
        format!("query {query:.80}: expected {allowed}, or none")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(event: &Event) -> (u64, u64, i64, &[u8]) {
        (event.id, event.key, event.ts_us, &event.payload)
    }

    proptest! {
        #[test]
        fn frames_round_trip(
            sizes in proptest::collection::vec(0usize..600, 1..20),
            transform in prop_oneof![Just(Transform::None), Just(Transform::Digest)],
        ) {
            let events: Vec<Event> = sizes.iter().enumerate().map(|(i, &len)| Event {
                id: i as u64, key: 1, ts_us: 2, payload: vec![7; len].into(),
            }).collect();
            let mut body = Vec::new();
            events.iter().for_each(|e| frame_transformed(e, transform, &mut body));
            let views = unframe(&body, transform).expect("framed here");
            let found: Vec<_> = views.iter().map(|v| (v.id, v.key, v.ts_us, v.payload)).collect();
            prop_assert_eq!(found, events.iter().map(fields).collect::<Vec<_>>());
            prop_assert!(views.iter().all(|v| transform.fits(v.payload, v.trailer)));
            // Cut anywhere inside, it is refused whole.
            for cut in [1, 5, body.len() - 1] {
                let kept = unframe(body.get(..body.len() - cut).unwrap_or(&[]), transform);
                prop_assert!(kept.is_err() || kept.is_ok_and(|e| e.len() < sizes.len()));
            }
        }

        #[test]
        fn unframe_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, transform) in Transform::ALL {
                let _any_answer = unframe(&body, transform);
            }
        }
    }

    #[test]
    fn a_view_is_as_small_as_the_bound_of_the_sinks_memory_says() {
        assert_eq!(size_of::<View<'_>>(), 2 * (FRAME_HEADER_BYTES + HEADER_BYTES));
    }

    /// Prevents: a digest read as the end of a payload, or a payload's end read as a digest.
    #[test]
    fn an_event_has_as_many_bytes_as_its_transform_says() {
        let read = |len, transform| View::read(&[1; EVENT_BYTES_MAX + 9][..len], transform);
        for (transform, least) in [(Transform::None, 24), (Transform::Digest, 32)] {
            for len in [0, 7, 8, least - 1] {
                let why = read(len, transform).expect_err("too short").to_string();
                let said = format!("{len} bytes");
                assert!(why.contains(&said) && why.contains(&least.to_string()), "{why}");
            }
            let whole = read(least, transform).expect("the shortest");
            assert_eq!((whole.payload.len(), whole.trailer.len()), (0, transform.trailer_bytes()));
            let most = EVENT_BYTES_MAX + transform.trailer_bytes();
            assert!(read(most, transform).is_ok());
            assert_eq!(
                read(most + 1, transform),
                Err(BadEvent::Event(Invalid::TooLong(EVENT_BYTES_MAX + 1)))
            );
        }
    }

    #[test]
    fn a_query_names_a_transform_that_there_is() {
        assert_eq!(transform_of(""), Ok(Transform::None));
        assert_eq!(transform_of("transform=none"), Ok(Transform::None));
        assert_eq!(transform_of("transform=digest"), Ok(Transform::Digest));
        for bad in [
            "transform",
            "transform=",
            "transform=md5",
            "tranform=digest",
            "x",
            "transform=none&x=1",
        ] {
            let why = transform_of(bad).expect_err(bad);
            assert!(why.contains("transform=none") && why.contains("transform=digest"), "{why}");
        }
    }
}
