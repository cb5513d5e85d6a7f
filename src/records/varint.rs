//! Zigzag varints: 7 bits a byte, the lowest first, the sign in bit 0 (protocol buffers' `sint`).
//!
//! A number that does not fit its type is refused, never cut. An encoding that is longer than
//! necessary, but not longer than its type allows, is accepted, as in Kafka's Java client.

use super::error::Malformed;

/// Most bytes of a 32-bit varint: 32 / 7, rounded up.
pub(super) const I32_BYTES_MAX: usize = 5;
/// Most bytes of a 64-bit varint: 64 / 7, rounded up.
pub(super) const I64_BYTES_MAX: usize = 10;

/// Takes a 32-bit number off the front of `bytes`.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Result<i32, Malformed> {
    let number = take_unsigned(bytes, I32_BYTES_MAX)?;
    let number = u32::try_from(number).map_err(|_| Malformed::Number { bits: u32::BITS })?;
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

/// Takes a 64-bit number off the front of `bytes`.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Result<i64, Malformed> {
    let number = take_unsigned(bytes, I64_BYTES_MAX)?;
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

#[inline]
fn take_unsigned(bytes: &mut &[u8], bytes_max: usize) -> Result<u64, Malformed> {
    match bytes.split_first() {
        // Most numbers of a record are small.
        Some((&byte, rest)) if byte < 0x80 => {
            *bytes = rest;
            Ok(u64::from(byte))
        }
        _ => take_long(bytes, bytes_max),
    }
}

fn take_long(bytes: &mut &[u8], bytes_max: usize) -> Result<u64, Malformed> {
    let (mut number, mut shift) = (0_u64, 0_u32);
    for (at, &byte) in bytes.iter().enumerate().take(bytes_max) {
        let part = u64::from(byte & 0x7f);
        // The tenth byte has room for one more bit.
        if (part << shift) >> shift != part {
            break;
        }
        number |= part << shift;
        shift += 7;
        if byte < 0x80 {
            *bytes = bytes.get(at + 1..).unwrap_or_default();
            return Ok(number);
        }
    }
    let left = bytes.len();
    Err(if left < bytes_max && bytes.iter().all(|byte| *byte >= 0x80) {
        Malformed::CutShort { needed: left + 1, left }
    } else {
        Malformed::Number { bits: if bytes_max == I32_BYTES_MAX { u32::BITS } else { u64::BITS } }
    })
}

/// Appends `number`.
pub(super) fn put(number: i64, out: &mut Vec<u8>) {
    let mut rest = zigzag(number);
    while rest >= 0x80 {
        let [low, ..] = rest.to_le_bytes();
        out.push(low | 0x80);
        rest >>= 7;
    }
    let [low, ..] = rest.to_le_bytes();
    out.push(low);
}

/// Bytes that `number` takes.
pub(super) fn len(number: i64) -> usize {
    let bits = (u64::BITS - zigzag(number).leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn i64_of(mut bytes: &[u8]) -> (Result<i64, Malformed>, usize) {
        let whole = bytes.len();
        (take_i64(&mut bytes), whole - bytes.len())
    }

    fn i32_of(mut bytes: &[u8]) -> (Result<i32, Malformed>, usize) {
        let whole = bytes.len();
        (take_i32(&mut bytes), whole - bytes.len())
    }

    /// The examples of the protocol buffers' encoding guide, and the ends of both types.
    #[test]
    fn known_numbers() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (-64, &[127]),
            (64, &[0x80, 1]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            put(number, &mut out);
            assert_eq!((&out[..], len(number)), (bytes, bytes.len()), "{number}");
            assert_eq!(i32_of(bytes), (Ok(number as i32), bytes.len()));
        }
        for number in [i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put(number, &mut out);
            assert_eq!(out.len(), I64_BYTES_MAX);
            assert_eq!(i64_of(&out), (Ok(number), I64_BYTES_MAX));
        }
    }

    /// Prevents: a number cut to its type, or a read after the end.
    #[test]
    fn what_does_not_fit_is_refused() {
        let number = |bits| Malformed::Number { bits };
        assert_eq!(i32_of(&[0xff, 0xff, 0xff, 0xff, 0x1f]).0, Err(number(32)));
        assert_eq!(i32_of(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]).0, Err(number(32)));
        assert_eq!(i32_of(&[0xff, 0xff, 0xff, 0xff, 0xff]).0, Err(number(32)));
        let mut long = [0xff; 10];
        assert_eq!(i64_of(&long).0, Err(number(64)));
        long[9] = 2;
        assert_eq!(i64_of(&long).0, Err(number(64)));
        long[9] = 1;
        assert_eq!(i64_of(&long), (Ok(i64::MIN), 10));
        assert_eq!(i32_of(&[0x80, 0]), (Ok(0), 2), "longer than it must be, as Java takes it");
        for left in 0..5 {
            let cut = Malformed::CutShort { needed: left + 1, left };
            assert_eq!(i32_of(&[0x80; 5][..left]).0, Err(cut));
        }
    }

    proptest! {
        #[test]
        fn numbers_round_trip(wide in any::<i64>(), narrow in any::<i32>(), shift in 0_u32..64) {
            let wide = wide >> shift;
            let mut out = Vec::new();
            put(wide, &mut out);
            prop_assert_eq!(out.len(), len(wide));
            prop_assert_eq!(i64_of(&out), (Ok(wide), out.len()));
            out.clear();
            put(i64::from(narrow), &mut out);
            prop_assert_eq!(i32_of(&out), (Ok(narrow), out.len()));
        }
    }
}
