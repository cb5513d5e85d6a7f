//! Decompresses the records of a batch into one kept buffer, never beyond its limit.
//!
//! The buffer grows with the real output, to twice its size or the limit, whichever is less. A size
//! that a packed batch announces counts only as far as the codec can reach from the bytes that are
//! there. While it grows, the old buffer and the new are there together. A batch is one stream:
//! bytes after its end are an error.
//!
//! Besides the buffer a codec works in memory of its own: gzip and zstd 0.2 MB, snappy none, lz4
//! two blocks of at most 4 MiB as the frame says (three and 64 KiB where they are linked), freed
//! after the batch. The output makes none of it larger.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;
use zstd::zstd_safe::{self, DCtx};

use super::codec::{Codec, XERIAL_MAGIC};
use super::error::Unreadable;

/// Bytes that the buffer starts with: some fifty records of 536 B with room for the first growth.
const FIRST_BYTES: usize = 64 << 10;

/// The most that one byte of snappy becomes: a copy takes 3 bytes for 64 of what it repeats.
const SNAPPY_GROWTH_MAX: usize = 64_usize.div_ceil(3);

/// The most that one byte of zstd becomes: a block of 4 bytes repeats one for 128 KiB.
const ZSTD_GROWTH_MAX: usize = (128 << 10) / 4;

/// Start of an lz4 frame. The legacy one has blocks of 8 MiB and no header; Kafka never wrote it.
const LZ4_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

/// The kept buffer that batches are unpacked into, and the contexts of the codecs.
pub struct Scratch {
    room: Room,
    snappy: snap::raw::Decoder,
    /// Made for the first zstd batch.
    zstd: Option<DCtx<'static>>,
}

impl Scratch {
    /// A buffer for batches of at most `unpacked_bytes_max` bytes of records. It takes no memory until
    /// the first compressed batch, and keeps what the largest one took.
    pub fn new(unpacked_bytes_max: usize) -> Self {
        Self {
            room: Room { bytes: Vec::new(), filled: 0, limit: unpacked_bytes_max },
            snappy: snap::raw::Decoder::new(),
            zstd: None,
        }
    }

    /// Bytes that the buffer takes now; never more than the limit.
    pub fn kept_bytes(&self) -> usize {
        self.room.bytes.capacity()
    }

    /// The records of a batch whose attributes name codec `bits`; `packed` itself where it is none.
    pub(super) fn unpack<'s>(
        &'s mut self,
        bits: u8,
        packed: &'s [u8],
    ) -> Result<&'s [u8], Unreadable> {
        let codec = Codec::from_bits(bits).ok_or(Unreadable::Codec(bits))?;
        self.room.filled = 0;
        let unpacked = match codec {
            Codec::None => return Ok(packed),
            // Compaction may leave a batch without records; it is empty, whatever its codec.
            _ if packed.is_empty() => Ok(()),
            Codec::Gzip => gzip(packed, &mut self.room),
            Codec::Snappy => snappy(packed, &mut self.snappy, &mut self.room),
            Codec::Lz4 => lz4(packed, &mut self.room),
            Codec::Zstd => zstd(packed, &mut self.zstd, &mut self.room),
        };
        let codec = codec.name();
        match unpacked {
            Ok(()) => Ok(self.room.bytes.get(..self.room.filled).unwrap_or_default()),
            Err(Stop::Limit) => Err(Unreadable::TooLarge { codec, limit: self.room.limit }),
            Err(Stop::Broken(why)) => Err(Unreadable::Unpack { codec, why }),
        }
    }
}

/// Why unpacking stopped.
enum Stop {
    Limit,
    Broken(String),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Broken(e.to_string())
    }
}

impl From<snap::Error> for Stop {
    fn from(e: snap::Error) -> Self {
        Self::Broken(e.to_string())
    }
}

/// The buffer: `filled` of `bytes` are records, the rest is room. Its length never passes `limit`.
struct Room {
    bytes: Vec<u8>,
    filled: usize,
    limit: usize,
}

impl Room {
    /// Makes the buffer at least `least` bytes long.
    fn grow(&mut self, least: usize) -> Result<(), Stop> {
        if least > self.limit {
            return Err(Stop::Limit);
        }
        if least > self.bytes.len() {
            let doubled = self.bytes.len().saturating_mul(2).max(FIRST_BYTES);
            let len = doubled.max(least).min(self.limit);
            self.bytes.reserve_exact(len - self.bytes.len());
            self.bytes.resize(len, 0);
        }
        Ok(())
    }

    /// The next `count` bytes of room.
    fn next(&mut self, count: usize) -> Result<&mut [u8], Stop> {
        let end = self.filled.checked_add(count).ok_or(Stop::Limit)?;
        self.grow(end)?;
        self.bytes.get_mut(self.filled..end).ok_or(Stop::Limit)
    }

    /// Reads to the end.
    fn fill(&mut self, from: &mut impl Read) -> Result<(), Stop> {
        loop {
            if self.filled == self.limit {
                // Only one more byte tells the end from an output that is too large.
                return if from.read(&mut [0])? == 0 { Ok(()) } else { Err(Stop::Limit) };
            }
            self.grow(self.filled + 1)?;
            match from.read(self.bytes.get_mut(self.filled..).unwrap_or_default())? {
                0 => return Ok(()),
                read => self.filled += read,
            }
        }
    }
}

fn nothing_behind(rest: &[u8]) -> Result<(), Stop> {
    match rest.len() {
        0 => Ok(()),
        more => Err(Stop::Broken(format!("{more} bytes follow its end"))),
    }
}

fn gzip(packed: &[u8], room: &mut Room) -> Result<(), Stop> {
    let mut decoder = flate2::bufread::GzDecoder::new(packed);
    room.fill(&mut decoder)?;
    nothing_behind(decoder.into_inner())
}

/// snappy-java's framing, magic and two versions and then i32 length | block, or else one raw block.
fn snappy(packed: &[u8], decoder: &mut snap::raw::Decoder, room: &mut Room) -> Result<(), Stop> {
    let cut = |what: &str| Stop::Broken(format!("it is cut short in {what}"));
    let Some(framed) = packed.strip_prefix(XERIAL_MAGIC) else {
        return snappy_block(packed, decoder, room);
    };
    // The two versions are skipped, as in librdkafka: there is only one framing.
    let mut rest = framed.get(8..).ok_or_else(|| cut("its header"))?;
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk().ok_or_else(|| cut("a block's length"))?;
        let length = i32::from_be_bytes(*length);
        let length = usize::try_from(length)
            .map_err(|_| Stop::Broken(format!("a block has a length of {length}")))?;
        let (block, behind) = behind.split_at_checked(length).ok_or_else(|| cut("a block"))?;
        snappy_block(block, decoder, room)?;
        rest = behind;
    }
    Ok(())
}

fn snappy_block(
    block: &[u8],
    decoder: &mut snap::raw::Decoder,
    room: &mut Room,
) -> Result<(), Stop> {
    let announced = snap::raw::decompress_len(block)?;
    if announced > block.len().saturating_mul(SNAPPY_GROWTH_MAX) {
        let len = block.len();
        return Err(Stop::Broken(format!("{len} bytes announce {announced}")));
    }
    room.filled += decoder.decompress(block, room.next(announced)?)?;
    Ok(())
}

fn lz4(packed: &[u8], room: &mut Room) -> Result<(), Stop> {
    if !packed.starts_with(&LZ4_MAGIC) {
        return Err(Stop::Broken("it does not start with a frame".to_owned()));
    }
    let mut decoder = FrameDecoder::new(packed);
    room.fill(&mut decoder)?;
    nothing_behind(decoder.into_inner())
}

/// In one call, into the buffer itself: a stream would keep a window of its own, up to 128 MiB if
/// the packed bytes ask for it. Where the frame does not give its unpacked size, the call is
/// repeated with twice the room: at most twice the work, and only until the buffer has the size of
/// its batches.
fn zstd(packed: &[u8], kept: &mut Option<DCtx<'static>>, room: &mut Room) -> Result<(), Stop> {
    let broken = |code| Stop::Broken(zstd_safe::get_error_name(code).to_owned());
    let no_context = || Stop::Broken("no memory for its context".to_owned());
    if kept.is_none() {
        *kept = DCtx::try_create();
    }
    let decoder = kept.as_mut().ok_or_else(no_context)?;
    match zstd_safe::get_frame_content_size(packed) {
        Ok(Some(announced)) => {
            let announced = usize::try_from(announced).map_err(|_| Stop::Limit)?;
            if announced > packed.len().saturating_mul(ZSTD_GROWTH_MAX) {
                let len = packed.len();
                return Err(Stop::Broken(format!("{len} bytes announce {announced}")));
            }
            room.grow(announced)?;
        }
        Ok(None) => room.grow(FIRST_BYTES.min(room.limit))?,
        Err(_) => return Err(Stop::Broken("it does not start with a frame".to_owned())),
    }
    loop {
        match decoder.decompress(room.bytes.as_mut_slice(), packed) {
            Ok(unpacked) => {
                room.filled = unpacked;
                return Ok(());
            }
            Err(code) if too_small(code) => room.grow(room.bytes.len() + 1)?,
            Err(code) => return Err(broken(code)),
        }
    }
}

fn too_small(code: zstd_safe::ErrorCode) -> bool {
    use zstd_safe::zstd_sys::ZSTD_ErrorCode;
    zstd_safe::is_error_kind(code, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::tests::{Raw, built};
    use super::super::{Malformed, batches};
    use super::*;

    /// Bytes that the bombs become; each codec packs them into some hundred KB at most.
    const BOMB_BYTES: usize = 100 << 20;
    const LIMIT: usize = 1 << 20;

    fn unpacked(bits: u8, packed: &[u8], limit: usize) -> Result<usize, Unreadable> {
        let mut scratch = Scratch::new(limit);
        let len = scratch.unpack(bits, packed).map(<[u8]>::len);
        keeps_at_most(limit, &scratch);
        len
    }

    fn keeps_at_most(limit: usize, scratch: &Scratch) {
        assert!(scratch.kept_bytes() <= limit, "{} bytes kept", scratch.kept_bytes());
    }

    fn packed(codec: Codec, records: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        codec.pack(records, &mut out).expect("memory");
        out
    }

    /// Prevents: a small batch that takes all memory.
    #[test]
    fn a_bomb_ends_at_the_limit() {
        let zeros = vec![0; BOMB_BYTES];
        let raw_snappy = snap::raw::Encoder::new().compress_vec(&zeros).expect("memory");
        let mut zstd_stream = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("memory");
        zstd_stream.write_all(&zeros).expect("memory");
        let zstd_stream = zstd_stream.finish().expect("memory");
        assert_eq!(zstd_safe::get_frame_content_size(&zstd_stream).ok(), Some(None));
        let bombs = Codec::ALL.map(|codec| (codec, packed(codec, &zeros)));
        let more = [(Codec::Snappy, raw_snappy), (Codec::Zstd, zstd_stream)];
        for (codec, bomb) in bombs.into_iter().skip(1).chain(more) {
            assert!(bomb.len() * 20 < BOMB_BYTES, "{codec:?}: {} bytes", bomb.len());
            let too_large = Err(Unreadable::TooLarge { codec: codec.name(), limit: LIMIT });
            assert_eq!(unpacked(codec.bits(), &bomb, LIMIT), too_large);
        }
    }

    /// Prevents: a batch of exactly the limit refused, or one byte more taken.
    #[test]
    fn the_limit_is_exact() {
        for codec in Codec::ALL.into_iter().skip(1) {
            for bytes in [1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1, 3 * FIRST_BYTES + 7] {
                let packed = packed(codec, &vec![5; bytes]);
                assert_eq!(unpacked(codec.bits(), &packed, bytes), Ok(bytes), "{codec:?}");
                let limit = bytes - 1;
                let too_large = Err(Unreadable::TooLarge { codec: codec.name(), limit });
                assert_eq!(unpacked(codec.bits(), &packed, limit), too_large);
            }
        }
    }

    /// Prevents: memory reserved for a size that was only announced.
    #[test]
    fn a_size_is_believed_as_far_as_the_bytes_reach() {
        let limit = usize::MAX;
        // Raw snappy that announces 2^28 bytes, and the same in a frame.
        let announced = [0x80, 0x80, 0x80, 0x80, 0x01, 0];
        let framed = [XERIAL_MAGIC, &[0; 8][..], &6_i32.to_be_bytes(), &announced].concat();
        // A zstd frame of one segment that announces 2^40 bytes.
        let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1_u64 << 40).to_le_bytes(), &[1, 0, 0]];
        for (codec, bytes) in [
            (Codec::Snappy, announced.to_vec()),
            (Codec::Snappy, framed),
            (Codec::Zstd, zstd.concat()),
        ] {
            let mut scratch = Scratch::new(limit);
            let refused = scratch.unpack(codec.bits(), &bytes).expect_err("a lie");
            assert!(refused.to_string().contains("announce"), "{refused}");
            assert_eq!(scratch.kept_bytes(), 0);
        }
    }

    /// Prevents: records lost in silence where a stream ends before its bytes do, or its bytes first.
    #[test]
    fn a_stream_that_is_cut_or_followed_is_refused() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
        for codec in Codec::ALL.into_iter().skip(1) {
            let whole = packed(codec, &plain);
            assert_eq!(unpacked(codec.bits(), &whole, LIMIT), Ok(plain.len()));
            for cut in (1..whole.len()).step_by(97) {
                let len = unpacked(codec.bits(), &whole[..cut], LIMIT);
                // Without its end mark, or between two blocks, it is shorter: records are missing then.
                assert!(
                    len.as_ref().map_or(true, |len| *len < plain.len() || codec == Codec::Lz4),
                    "{codec:?} cut at {cut}: {len:?}"
                );
            }
            let followed = [&whole[..], b"x"].concat();
            let refused = unpacked(codec.bits(), &followed, LIMIT).expect_err("a byte too many");
            assert_eq!(refused.reason(), codec.name(), "{refused}");
        }
    }

    #[test]
    fn what_is_no_stream_is_refused_by_name() {
        for codec in Codec::ALL.into_iter().skip(1) {
            for bytes in [&b"x"[..], &[0; 100], &[0xff; 100]] {
                let refused = unpacked(codec.bits(), bytes, LIMIT).expect_err("no stream");
                assert_eq!(refused.reason(), codec.name(), "{refused}");
                assert!(refused.to_string().contains(codec.name()), "{refused}");
            }
            assert_eq!(unpacked(codec.bits(), &[], LIMIT), Ok(0), "emptied by compaction");
        }
        for bits in 5..8 {
            assert_eq!(unpacked(bits, b"x", LIMIT), Err(Unreadable::Codec(bits)));
        }
        // The legacy lz4 frame has blocks of 8 MiB.
        let legacy = 0x184c_2102_u32.to_le_bytes();
        assert_eq!(unpacked(3, &legacy, LIMIT).expect_err("legacy").reason(), "lz4");
    }

    /// Prevents: batches of librdkafka, or of an old client, counted as broken.
    #[test]
    fn raw_snappy_and_unsized_or_linked_frames_are_read() {
        // Neither noise nor a run: literals and copies, over several growths of the buffer.
        let number = |n: u32| (n.wrapping_mul(0x9e37_79b1) >> (n % 29)).to_be_bytes();
        let plain: Vec<u8> = (0..50_000).flat_map(number).collect();
        let raw = snap::raw::Encoder::new().compress_vec(&plain).expect("memory");
        assert_eq!(unpacked(2, &raw, LIMIT), Ok(plain.len()));
        let frame = lz4_flex::frame::FrameInfo::new()
            .block_mode(lz4_flex::frame::BlockMode::Linked)
            .block_size(lz4_flex::frame::BlockSize::Max4MB)
            .content_checksum(true);
        let mut linked = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
        linked.write_all(&plain).expect("memory");
        assert_eq!(unpacked(3, &linked.finish().expect("memory"), LIMIT), Ok(plain.len()));
        let mut unsized_frame = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("memory");
        unsized_frame.write_all(&plain).expect("memory");
        assert_eq!(unpacked(4, &unsized_frame.finish().expect("memory"), LIMIT), Ok(plain.len()));
    }

    /// Prevents: an error of the codec, or of the limit, that loses the scratch for the next batch.
    #[test]
    fn a_scratch_outlives_what_it_refuses() {
        let mut scratch = Scratch::new(LIMIT);
        let good = built(Codec::Zstd, 30);
        for codec in Codec::ALL.into_iter().skip(1) {
            let broken =
                Raw { codec_bits: codec.bits(), ..Raw::default() }.bytes(1, &[0x28; 90]).batch();
            let bomb = Raw { codec_bits: codec.bits(), ..Raw::default() };
            let bomb = bomb.bytes(1, &packed(codec, &vec![0; 2 * LIMIT])).batch();
            let short = Raw { codec_bits: codec.bits(), ..Raw::default() };
            let short = short.bytes(1, &packed(codec, &[0; 1])).batch();
            let reasons = [(&broken, codec.name()), (&bomb, "too_large"), (&short, "malformed")];
            for (bytes, reason) in reasons {
                let batch = batches(bytes).next().expect("a batch").expect("a good header");
                let refused = match batch.records(&mut scratch) {
                    Ok(mut records) => records.next().expect("an answer").err(),
                    Err(refused) => Some(refused),
                };
                assert_eq!(refused.map(|refused| refused.reason()), Some(reason), "{codec:?}");
                let batch = batches(&good).next().expect("a batch").expect("a good header");
                assert_eq!(batch.records(&mut scratch).expect("good").count(), 30);
            }
        }
        let cut = Raw::default().bytes(1, &[4]).batch();
        let batch = batches(&cut).next().expect("a batch").expect("a good header");
        let refused = batch.records(&mut scratch).expect("the sum is good").next();
        let cut = Malformed::CutShort { needed: 2, left: 0 };
        assert_eq!(refused, Some(Err(cut.into())));
    }
}
