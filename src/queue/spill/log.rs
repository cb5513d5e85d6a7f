//! The spill's log: segments in order, written at one end, read behind it, released as they drain.
//!
//! Invariants. A segment is never appended to by a process that did not make it, and no number is used twice, so a
//! position always means the same bytes. A durable segment goes before the next one does, so those that are there follow
//! each other; one that is missing is a damage and no gap to pass over. What cannot be read ends the run by file and
//! offset, except at the end of the newest segment, where a crash tore what was never durable.
//!
//! `open` is in `recovery`. It knows no threads, and nothing of what it keeps.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};
use super::segment::{self, Found, Header, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES};
use super::{Commit, SpillError};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// How large it may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All segments, B.
    pub bytes_max: u64,
    /// A segment, B.
    pub segment_bytes: u64,
}

/// The place behind a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Offset in its file, B.
    pub at: u64,
    /// Events before it, ever.
    pub event: u64,
}

/// The result of an append.
#[derive(Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is written; so many events were, ever.
    Yes(u64),
    /// The limit is reached.
    Full,
    /// The disk is full before the limit is reached: nothing is written.
    DiskFull,
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What was appended.
    pub payload: &'a [u8],
    /// Its events.
    pub events: u32,
    /// The place behind it.
    pub end: Position,
}

pub(super) struct Segment {
    pub number: u64,
    /// Events before its first, ever.
    pub first: u64,
    /// Opened when it is needed.
    pub file: Option<Arc<dyn DiskFile>>,
    /// Length of its header record.
    pub begins: u64,
    /// Its length, up to the last whole record.
    pub length: u64,
}

/// Syncs, one at a time. After one that failed all fail: what it was for may be gone, and Linux tells that once
/// (fsyncgate, LWN 752063).
#[derive(Default)]
pub struct Syncs(Mutex<bool>);

impl Syncs {
    /// Makes what was written to `file` durable.
    ///
    /// # Errors
    /// When the disk fails, or has failed.
    pub fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        let mut has_failed = self.0.lock();
        if *has_failed {
            return Err(io::Error::other("a sync before this one failed"));
        }
        let synced = file.sync();
        *has_failed = synced.is_err();
        synced
    }

    fn have_failed(&self) -> bool {
        *self.0.lock()
    }
}

/// See the module.
pub struct Log {
    pub(super) disk: Box<dyn Disk>,
    pub(super) limits: Limits,
    pub(super) commit: Commit,
    pub(super) owner: String,
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Whether the newest was made by this process, so that it may be appended to.
    pub(super) appends: bool,
    pub(super) next_number: u64,
    pub(super) bytes: u64,
    /// Events written, ever.
    pub(super) written: u64,
    /// Of these, durable.
    pub(super) durable: u64,
    syncs: Arc<Syncs>,
    /// The place of the next read.
    pub(super) read: Position,
    /// Bytes of the segment that is read, from `buffered_at` on.
    buffer: Vec<u8>,
    buffered_at: (u64, u64),
    scratch: Vec<u8>,
}

impl Log {
    pub(super) fn empty(disk: Box<dyn Disk>, limits: Limits, commit: Commit, owner: &str) -> Self {
        Self {
            disk,
            limits,
            commit,
            owner: owner.to_owned(),
            segments: VecDeque::new(),
            appends: false,
            next_number: 1,
            bytes: 0,
            written: 0,
            durable: 0,
            syncs: Arc::default(),
            read: Position::default(),
            buffer: Vec::new(),
            buffered_at: (0, 0),
            scratch: Vec::new(),
        }
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Events written and not read.
    pub fn unread(&self) -> u64 {
        self.written.saturating_sub(self.read.event)
    }

    /// Events below which all are durable; counted from the first ever.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The place of the next read.
    pub fn read_position(&self) -> Position {
        self.read
    }

    /// What ends at `end` is whole, and still not what it should be.
    pub fn misread(&self, end: Position, why: &str) -> SpillError {
        self.broken(end.segment, end.at, &format!("what ends here cannot be read: {why}"))
    }

    /// Appends a record of so many events.
    ///
    /// # Errors
    /// When the disk fails otherwise than by being full.
    pub fn append(&mut self, payload: &[u8], events: u32) -> Result<Appended, SpillError> {
        debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX && events > 0);
        let bytes = (RECORD_HEADER_BYTES + payload.len()) as u64;
        let fits = |segment: &Segment| segment.length + bytes <= self.limits.segment_bytes;
        let goes_on = self.appends && self.segments.back().is_some_and(fits);
        if !goes_on {
            let header = Header { first: self.written, owner: self.owner.clone() }.payload();
            let begins = (RECORD_HEADER_BYTES + header.len()) as u64;
            if self.bytes + begins + bytes > self.limits.bytes_max {
                return Ok(Appended::Full);
            }
            if !self.begin(&header)? {
                return Ok(Appended::DiskFull);
            }
        } else if self.bytes + bytes > self.limits.bytes_max {
            return Ok(Appended::Full);
        }
        let Some(last) = self.segments.back_mut() else { return Ok(Appended::Full) };
        let Some(file) = last.file.clone() else { return Ok(Appended::Full) };
        let (number, at) = (last.number, last.length);
        self.scratch.clear();
        segment::record(number, at, events, payload, &mut self.scratch);
        if let Err(why) = file.write_all_at(&self.scratch, at) {
            if !is_full(&why) {
                return Err(self.failed(number, "written to", why));
            }
            // A part of it may be there, which would be a damage once another segment follows.
            file.cut(at).map_err(|why| self.failed(number, "cut", why))?;
            return Ok(Appended::DiskFull);
        }
        last.length += bytes;
        self.bytes += bytes;
        self.written += u64::from(events);
        Ok(Appended::Yes(self.written))
    }

    /// Begins a segment; false when the disk is full. The one before is durable first, so only the newest can be torn.
    fn begin(&mut self, header: &[u8]) -> Result<bool, SpillError> {
        let number = self.next_number;
        if self.is_durable()
            && self.appends
            && let Some(last) = self.segments.back()
            && let Some(file) = &last.file
        {
            self.syncs
                .sync(file.as_ref())
                .map_err(|why| self.failed(last.number, "synced", why))?;
            self.durable = self.written;
        }
        let name = self.name(number);
        let mut bytes = Vec::new();
        segment::record(number, 0, 0, header, &mut bytes);
        let made = self.disk.create(&name).and_then(|file| {
            file.write_all_at(&bytes, 0)?;
            if self.is_durable() {
                self.disk.sync()?;
            }
            Ok(file)
        });
        let file = match made {
            Ok(file) => file,
            Err(why) if is_full(&why) => {
                // It may not even be there.
                let _left_for_the_next = self.disk.remove(&name);
                return Ok(false);
            }
            Err(why) => return Err(self.failed(number, "created", why)),
        };
        let length = bytes.len() as u64;
        let first = self.written;
        // What waits to be read is opened again by its name: there may be more segments than a process may have files.
        let reads = self.read.segment;
        if let Some(last) = self.segments.back_mut().filter(|last| last.number != reads) {
            last.file = None;
        }
        self.segments.push_back(Segment {
            number,
            first,
            file: Some(file),
            begins: length,
            length,
        });
        (self.appends, self.next_number) = (true, number + 1);
        self.bytes += length;
        if self.segments.len() == 1 {
            self.read = Position { segment: number, at: length, event: self.read.event };
        }
        Ok(true)
    }

    /// Files that it holds open.
    #[cfg(test)]
    pub fn open_files(&self) -> usize {
        self.segments.iter().filter(|segment| segment.file.is_some()).count()
    }

    /// The file whose sync makes all durable that is written so far, and how much that is; `None` when all is. Tell
    /// [`Log::synced`] afterwards: the sync itself needs no access to the log.
    pub fn unsynced(&self) -> Option<(Arc<dyn DiskFile>, u64)> {
        let file = self.segments.back()?.file.clone()?;
        let is_behind = self.durable < self.written && !self.syncs.have_failed();
        is_behind.then_some((file, self.written))
    }

    /// What syncs it.
    pub fn syncs(&self) -> Arc<Syncs> {
        Arc::clone(&self.syncs)
    }

    /// So many events are durable.
    pub fn synced(&mut self, events: u64) {
        self.durable = self.durable.max(events);
    }

    /// A sync of the newest segment failed.
    pub fn not_synced(&self, why: io::Error) -> SpillError {
        self.failed(self.next_number - 1, "synced", why)
    }

    /// Reads the next record, in the order in which they were appended; `None` when there is none yet.
    ///
    /// # Errors
    /// When the disk fails, or what is there is not what was written: with file and offset.
    pub fn read_next(&mut self) -> Result<Option<Record<'_>>, SpillError> {
        loop {
            let Some((at, segment)) = self.reading() else { return Ok(None) };
            let (number, length) = (segment.number, segment.length);
            if self.read.at >= length {
                let Some(next) = self.segments.get(at + 1) else { return Ok(None) };
                self.read = Position { segment: next.number, at: next.begins, ..self.read };
                if let Some(passed) = self.segments.get_mut(at) {
                    passed.file = None;
                }
                continue;
            }
            let place = self.read.at;
            let buffered = self.buffered(number, place);
            match segment::parse(number, place, self.buffer.get(buffered..).unwrap_or_default()) {
                Found::Record { events, payload } => {
                    let end = place + payload.end as u64;
                    self.read.at = end;
                    self.read.event += u64::from(events);
                    let range = buffered + payload.start..buffered + payload.end;
                    let payload = self.buffer.get(range).unwrap_or_default();
                    return Ok(Some(Record { payload, events, end: self.read }));
                }
                Found::Needs(bytes) if place + bytes as u64 <= length => {
                    self.fill(at, place, bytes, length)?;
                }
                Found::Needs(_) => {
                    return Err(self.broken(number, place, "it ends inside a record"));
                }
                Found::Broken(why) => return Err(self.broken(number, place, why)),
            }
        }
    }

    /// The segment that is read, and where it stands.
    fn reading(&self) -> Option<(usize, &Segment)> {
        let at = self.segments.partition_point(|segment| segment.number < self.read.segment);
        Some((at, self.segments.get(at)?))
    }

    /// Where the bytes of `place` stand in the buffer; its end when they are not in it.
    fn buffered(&self, number: u64, place: u64) -> usize {
        let (of, from) = self.buffered_at;
        let skip = if of == number { place.checked_sub(from) } else { None };
        skip.and_then(|skip| usize::try_from(skip).ok())
            .map_or(self.buffer.len(), |skip| skip.min(self.buffer.len()))
    }

    /// Reads at least `bytes` from `place` on, of a segment of `length`, into the buffer.
    fn fill(&mut self, at: usize, place: u64, bytes: usize, length: u64) -> Result<(), SpillError> {
        let Some(segment) = self.segments.get(at) else { return Ok(()) };
        let number = segment.number;
        let file = match &segment.file {
            Some(file) => Arc::clone(file),
            None => {
                let opened = self.disk.open(&self.name(number));
                opened.map_err(|why| self.failed(number, "opened", why))?
            }
        };
        if let Some(segment) = self.segments.get_mut(at) {
            segment.file = Some(Arc::clone(&file));
        }
        let rest = usize::try_from(length - place).unwrap_or(usize::MAX);
        let wanted = bytes.max(READ_BYTES).min(rest);
        // Keeps its memory; what is in it of this place is read again, from the page cache.
        self.buffer.resize(wanted, 0);
        self.buffered_at = (number, place);
        let read = read_all(file.as_ref(), &mut self.buffer, place);
        let read = read.map_err(|why| self.failed(number, "read", why))?;
        self.buffer.truncate(read);
        if read < bytes {
            return Err(self.broken(number, place, "the file is shorter than what was written"));
        }
        Ok(())
    }

    /// Releases every segment before that of `below`: nothing before it is needed any more. The newest one stays.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn give_back(&mut self, below: Position) -> Result<bool, SpillError> {
        let mut some = false;
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|oldest| oldest.number < below.segment)
        {
            self.remove_oldest()?;
            some = true;
        }
        Ok(some)
    }

    /// Deletes the oldest segment. Where segments are durable, so is this before the next goes: those that a crash leaves
    /// follow each other.
    pub(super) fn remove_oldest(&mut self) -> Result<(), SpillError> {
        let Some(oldest) = self.segments.pop_front() else { return Ok(()) };
        self.bytes -= oldest.length;
        let removed = self.disk.remove(&self.name(oldest.number));
        let durably =
            removed.and_then(|()| if self.is_durable() { self.disk.sync() } else { Ok(()) });
        durably.map_err(|why| self.failed(oldest.number, "deleted", why))
    }

    /// Ends it: what is below `below` is not needed any more, and where the log is not durable, nothing is.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn close(&mut self, below: Position) -> Result<(), SpillError> {
        let all = self.commit == Commit::Acked || below.event == self.written;
        if self.is_durable() {
            self.note_acked(below)?;
        }
        while all && !self.segments.is_empty() {
            self.remove_oldest()?;
        }
        Ok(())
    }

    pub(super) fn is_durable(&self) -> bool {
        self.commit == Commit::Spilled
    }

    pub(super) fn name(&self, number: u64) -> String {
        segment::name(number, self.commit.ext())
    }

    pub(super) fn failed(&self, number: u64, what: &'static str, why: io::Error) -> SpillError {
        SpillError::disk(self.disk.path(&self.name(number)), what, why)
    }

    pub(super) fn broken(&self, number: u64, at: u64, why: &str) -> SpillError {
        let file = self.disk.path(&self.name(number));
        SpillError::Broken { file, at, why: why.to_owned() }
    }
}

/// Reads until `bytes` is full or the file ends; returns how many.
pub(super) fn read_all(file: &dyn DiskFile, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

/// Whether the disk, or the user's share of it, is full: that passes when others delete something.
pub(super) fn is_full(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
