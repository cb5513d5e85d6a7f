//! The worker's change to an event on its way to the sink, and the sink's check of it.
//!
//! Both ends use this file, so that they cannot differ in it. Invariant: the appended bytes are a
//! function of the payload alone, so if a worker mixes payloads up, or sends bytes that it was not
//! given, the sink counts that as `sink_corrupt_total`. Id, key and due time are not covered: of a changed id the ledger
//! misses the right one. It deliberately gives no protection from forgery: xxHash64 has no key.

use twox_hash::XxHash64;

use crate::event::HEADER_BYTES;

/// The query parameter of `/write` and `/batch` that names the transform.
pub const PARAMETER: &str = "transform";

/// The change to each event of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transform {
    /// None: events are sent as they are in the log, as other consumers send them.
    #[default]
    None,
    /// The [`digest`] of its payload follows each event: 8 bytes, big-endian.
    Digest,
}

impl Transform {
    /// All, by their names in flags and queries.
    pub const ALL: [(&'static str, Self); 2] = [("none", Self::None), ("digest", Self::Digest)];

    /// Its name in flags and queries.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Digest => "digest",
        }
    }

    /// Bytes that follow each event; a frame's length covers them.
    pub const fn trailer_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Digest => size_of::<u64>(),
        }
    }

    /// Appends the trailer of an event with this payload.
    pub fn append_trailer(self, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Digest => out.extend_from_slice(&digest(payload).to_be_bytes()),
        }
    }

    /// Fills in an event's trailer: the last bytes of `value`, which are room for it.
    pub fn fill_trailer(self, value: &mut [u8]) {
        if self == Self::Digest
            && let Some((event, trailer)) = value.split_last_chunk_mut()
        {
            *trailer = digest(event.get(HEADER_BYTES..).unwrap_or_default()).to_be_bytes();
        }
    }

    /// Whether `trailer` is the right one for this payload.
    pub fn fits(self, payload: &[u8], trailer: &[u8]) -> bool {
        match self {
            Self::None => trailer.is_empty(),
            Self::Digest => *trailer == digest(payload).to_be_bytes(),
        }
    }
}

impl Transform {
    /// The query of a request with this transform.
    pub fn query(self) -> String {
        match self {
            Self::None => String::new(),
            named => format!("?{PARAMETER}={}", named.name()),
        }
    }
}

impl std::str::FromStr for Transform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::units::one_of(text, &Self::ALL)
    }
}

/// xxHash64 of a payload, seed 0 (46 ns for 512 B).
pub fn digest(payload: &[u8]) -> u64 {
    XxHash64::oneshot(0, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a hash, seed or byte order that differs from the published xxHash64: values of the
    /// reference implementation.
    #[test]
    fn the_digest_is_the_published_one() {
        assert_eq!(digest(b""), 0xef46_db37_51d8_e999);
        assert_eq!(digest(b"abc"), 0x44bc_2cf5_ad77_0999);
        assert_eq!(digest(&[7; 512]), 0x7392_499f_c75d_c32e);
        let mut trailer = Vec::new();
        Transform::Digest.append_trailer(b"abc", &mut trailer);
        assert_eq!(trailer, [0x44, 0xbc, 0x2c, 0xf5, 0xad, 0x77, 0x09, 0x99]);
    }

    #[test]
    fn what_is_appended_fits_and_nothing_else_does() {
        for (name, transform) in Transform::ALL {
            assert_eq!(name.parse(), Ok(transform));
            assert_eq!(transform.name(), name);
            let mut trailer = Vec::new();
            transform.append_trailer(b"payload", &mut trailer);
            assert_eq!(trailer.len(), transform.trailer_bytes());
            assert!(transform.fits(b"payload", &trailer));
            assert!(transform.trailer_bytes() == 0 || !transform.fits(b"Payload", &trailer));
            trailer.push(0);
            assert!(!transform.fits(b"payload", &trailer));
        }
        let why = "md5".parse::<Transform>().expect_err("unknown");
        assert!(why.contains("none") && why.contains("digest"), "{why}");
    }
}
