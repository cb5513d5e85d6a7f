//! The codecs: their names, their bits in a batch's attributes, and how they pack records.
//!
//! Packing matches Kafka's Java client with its defaults: brokers of every version read it, and
//! clients in other languages do too. Levels are not a setting: this lab does not tune compression.
//! Reading is in `unpack`.

use std::io::{self, Write as _};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

/// Start of the framing of snappy-java ("xerial"), which Kafka's Java client writes and reads.
pub(super) const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// The framing's version and the lowest one that reads it, i32 each.
const XERIAL_VERSIONS: &[u8; 8] = b"\0\0\0\x01\0\0\0\x01";
/// Bytes of records in one of its blocks: snappy-java's default.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// zlib's own default, and Kafka's `compression.gzip.level` (-1).
const GZIP_LEVEL: u32 = 6;
/// zstd's own default, and Kafka's `compression.zstd.level`.
const ZSTD_LEVEL: i32 = 3;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// snappy, in the framing of snappy-java; raw blocks are read too.
    Snappy,
    /// One lz4 frame.
    Lz4,
    /// zstd (RFC 8878, KIP-110).
    Zstd,
}

impl Codec {
    /// Every codec, in the order of its bits.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Reads a name as Kafka's `compression.type` has it.
    ///
    /// # Errors
    /// A sentence that names the allowed words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| {
            format!("'{text}' is no codec, expected {}", Self::ALL.map(Self::name).join(", "))
        })
    }

    /// Its name, as Kafka's `compression.type` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of a batch's attribute bits 0 to 2 ([`super::BatchHeader::codec`]).
    pub fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.get(usize::from(bits)).copied()
    }

    /// Its attribute bits.
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Appends `records`, packed, to `out`.
    ///
    /// # Errors
    /// None is known, except that a codec may run out of memory.
    pub(super) fn pack(self, records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::None => out.extend_from_slice(records),
            Self::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(out, level);
                encoder.write_all(records)?;
                encoder.finish()?;
            }
            Self::Snappy => pack_snappy(records, out)?,
            Self::Lz4 => {
                // Java reads only independent blocks; it writes 64 KiB ones.
                let frame = FrameInfo::new()
                    .block_size(BlockSize::Max64KB)
                    .block_mode(BlockMode::Independent);
                let mut encoder = FrameEncoder::with_frame_info(frame, out);
                encoder.write_all(records)?;
                encoder.finish()?;
            }
            Self::Zstd => {
                let start = out.len();
                out.reserve(zstd::zstd_safe::compress_bound(records.len()));
                let mut behind = io::Cursor::new(out);
                behind.set_position(start as u64);
                zstd::bulk::Compressor::new(ZSTD_LEVEL)?
                    .compress_to_buffer(records, &mut behind)?;
            }
        }
        Ok(())
    }
}

fn pack_snappy(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        let length = i32::try_from(packed.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_are_kafkas() {
        for (bits, name) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
            let codec = Codec::parse(name).expect("a codec");
            assert_eq!((codec.name(), usize::from(codec.bits())), (name, bits));
            assert_eq!(Codec::from_bits(codec.bits()), Some(codec));
        }
        assert_eq!((5..=255).find_map(Codec::from_bits), None);
        let why = Codec::parse("Gzip").expect_err("names are in small letters");
        assert_eq!(why, "'Gzip' is no codec, expected none, gzip, snappy, lz4, zstd");
    }

    /// Prevents: a format that Java does not read: linked lz4 blocks, bare snappy.
    #[test]
    fn the_formats_start_as_java_writes_them() {
        let starts: [&[u8]; 4] = [
            b"\x1f\x8b\x08",
            b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01",
            // Version 1, independent blocks, no checksums, no size; 64 KiB; the header's checksum.
            b"\x04\x22\x4d\x18\x60\x40\x82",
            b"\x28\xb5\x2f\xfd",
        ];
        for (codec, start) in Codec::ALL.into_iter().skip(1).zip(starts) {
            let mut out = b"before".to_vec();
            codec.pack(&[7; 100_000], &mut out).expect("memory");
            let packed = out.strip_prefix(b"before").expect("it appends");
            assert_eq!(packed.get(..start.len()), Some(start), "{codec:?}");
            assert!(packed.len() < 10_000, "{codec:?}: {} bytes", packed.len());
        }
    }
}
