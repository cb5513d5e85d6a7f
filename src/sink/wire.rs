//! What travels between a worker and the sink.
//!
//! `POST /write` takes one event, `POST /batch` a run of `u32 length | event`; both
//! `application/octet-stream`, answered by `{"acked": n}`: the first `n` events are delivered.

use serde::{Deserialize, Serialize};

use crate::event::{EVENT_BYTES_MAX, Event, Invalid};

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

/// Largest body: a batch of 1,000 events of 536 B is 1,000 × (4 + 536) = 540,000 B, the largest
/// event 1,000,004 B framed; 4 MiB holds four of these, or 1,000 events of 4,190 B.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// The answer to `/write` and `/batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// How many of the request's events, from its start, are delivered.
    pub acked: u64,
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
        why: Invalid,
    },
    /// No event at all.
    #[error("the batch is empty")]
    Empty,
}

/// Appends one framed event to a batch body.
pub fn frame(event: &Event, out: &mut Vec<u8>) {
    // EVENT_BYTES_MAX fits u32, and longer events were refused when they were decoded.
    let len = u32::try_from(event.encoded_len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    event.encode(out);
}

/// Reads a whole batch body; all of it or nothing.
pub fn unframe(body: &[u8]) -> Result<Vec<Event>, BadFrame> {
    let mut events = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let index = events.len();
        let Some((len, tail)) = rest.split_first_chunk() else {
            return Err(BadFrame::Truncated { index, left: rest.len(), needed: 4 });
        };
        let needed = u32::from_be_bytes(*len) as usize;
        if needed > EVENT_BYTES_MAX {
            return Err(BadFrame::Event { index, why: Invalid::TooLong(needed) });
        }
        let Some((bytes, tail)) = tail.split_at_checked(needed) else {
            return Err(BadFrame::Truncated { index, left: tail.len(), needed });
        };
        events.push(Event::decode(bytes).map_err(|why| BadFrame::Event { index, why })?);
        rest = tail;
    }
    if events.is_empty() { Err(BadFrame::Empty) } else { Ok(events) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_round_trip(sizes in proptest::collection::vec(0usize..600, 1..20)) {
            let events: Vec<Event> = sizes.iter().enumerate().map(|(i, &len)| Event {
                id: i as u64, key: 1, ts_us: 2, payload: vec![7; len].into(),
            }).collect();
            let mut body = Vec::new();
            events.iter().for_each(|e| frame(e, &mut body));
            prop_assert_eq!(unframe(&body), Ok(events));
            // Cut anywhere inside, it is refused whole.
            for cut in [1, 5, body.len() - 1] {
                let kept = body.get(..body.len() - cut).unwrap_or(&[]);
                prop_assert!(unframe(kept).is_err() || unframe(kept).is_ok_and(|e| e.len() < sizes.len()));
            }
        }

        #[test]
        fn unframe_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any_answer = unframe(&body);
        }
    }
}
