//! Opens what a process left, and notes how far the sink has acked, so that little of it comes twice.
//!
//! Invariant: the note only spares duplicates. One that is lost, old or torn costs some, and no event: a segment that is
//! there is read from its first record, unless a whole note says otherwise.

use super::disk::Disk;
use super::log::{Limits, Log, Position, Segment, is_full, read_all};
use super::segment::{self, Found, HEADER_BYTES_MAX, Header, RECORD_HEADER_BYTES};
use super::{Commit, SpillError};

/// The file of the note, and the name under which it is written first.
const ACKED: &str = "acked";
const ACKED_NEW: &str = "acked.new";
/// The note is framed as a record of this segment, which is none.
const NOTE: u64 = 0;

impl Log {
    /// Opens the folder for events of `owner`, a topic and a group. What a log that is not durable left is deleted: Kafka
    /// has it. What a durable one left is to be read first. It reads a header of each segment, and the newest whole.
    ///
    /// # Errors
    /// When the disk fails, durable events are damaged, or they are another owner's; and, where this log is not durable,
    /// when there are any.
    pub fn open(
        disk: Box<dyn Disk>,
        limits: Limits,
        commit: Commit,
        owner: &str,
    ) -> Result<Self, SpillError> {
        let mut log = Self::empty(disk, limits, commit, owner);
        let names = log.disk.names().map_err(|why| log.folder_failed("read", why))?;
        for name in &names {
            if segment::number(name, Commit::Acked.ext()).is_some() {
                let removed = log.disk.remove(name);
                removed.map_err(|why| SpillError::disk(log.disk.path(name), "deleted", why))?;
            }
        }
        let of_durable = |name: &String| segment::number(name, Commit::Spilled.ext());
        let mut numbers: Vec<u64> = names.iter().filter_map(of_durable).collect();
        numbers.sort_unstable();
        if commit == Commit::Acked {
            return match numbers.first() {
                None => Ok(log),
                Some(first) => Err(SpillError::Refused(format!(
                    "{} holds events that were let go from the log: run with --spill-commit spilled until it has delivered \
                     them and ended, or name another --spill-dir",
                    log.disk.path(&segment::name(*first, Commit::Spilled.ext()))
                ))),
            };
        }
        let noted = log.noted(&names);
        log.drop_torn(&mut numbers, noted)?;
        for number in numbers {
            log.found(number)?;
        }
        log.scan_newest()?;
        log.start_at(noted)?;
        log.durable = log.written;
        Ok(log)
    }

    /// Deletes the newest segment if a crash tore its header: nothing in it was ever durable.
    fn drop_torn(
        &mut self,
        numbers: &mut Vec<u64>,
        noted: Option<Position>,
    ) -> Result<(), SpillError> {
        if let Some(newest) = numbers.last().copied()
            && self.header(newest)?.is_none()
        {
            numbers.pop();
            let file = self.disk.path(&self.name(newest));
            log::warn!(file = file.as_str(); "the newest segment was torn while it was made: nothing in it was durable");
            let removed = self.disk.remove(&self.name(newest)).and_then(|()| self.disk.sync());
            removed.map_err(|why| self.failed(newest, "deleted", why))?;
        }
        // The next one follows those that stay, and has no number that the note could mean.
        let newest = numbers.last().copied().unwrap_or(0);
        self.next_number = newest.max(noted.map_or(0, |noted| noted.segment)) + 1;
        Ok(())
    }

    /// The header of segment `number`, and its length; `None` when there is no whole one.
    fn header(&self, number: u64) -> Result<Option<(Header, u64)>, SpillError> {
        let opened = self.disk.open(&self.name(number));
        let file = opened.map_err(|why| self.failed(number, "opened", why))?;
        let mut head = vec![0; HEADER_BYTES_MAX];
        let read = read_all(file.as_ref(), &mut head, 0);
        head.truncate(read.map_err(|why| self.failed(number, "read", why))?);
        let Found::Record { events, payload } = segment::parse(number, 0, &head) else {
            return Ok(None);
        };
        let begins = payload.end as u64;
        // It is whole, so no crash tore it: it is another program's.
        let header = Header::read(head.get(payload).unwrap_or_default())
            .filter(|_| events == 0)
            .ok_or_else(|| {
                self.broken(number, 0, "its first record is no header that is known here")
            })?;
        Ok(Some((header, begins)))
    }

    /// Takes up a segment that is there.
    fn found(&mut self, number: u64) -> Result<(), SpillError> {
        let Some((header, begins)) = self.header(number)? else {
            return Err(self.broken(number, 0, "it has no header"));
        };
        if header.owner != self.owner {
            return Err(SpillError::Refused(format!(
                "{} holds events of {}, not of {}: name another --spill-dir",
                self.disk.path(&self.name(number)),
                header.owner,
                self.owner
            )));
        }
        if let Some(before) = self.segments.back().filter(|before| before.number + 1 != number) {
            let why = format!("it follows segment {}: what was between is missing", before.number);
            return Err(self.broken(number, 0, &why));
        }
        let opened = self.disk.open(&self.name(number)).and_then(|file| file.length());
        let length = opened.map_err(|why| self.failed(number, "opened", why))?;
        let first = header.first;
        self.segments.push_back(Segment { number, first, file: None, begins, length });
        self.bytes += length;
        Ok(())
    }

    /// Counts the newest segment's events, and cuts off what a crash tore: it was not durable, so Kafka has it. The rest is
    /// durable afterwards, also if it was not before, because another segment will follow it.
    fn scan_newest(&mut self) -> Result<(), SpillError> {
        let Some(newest) = self.segments.back() else { return Ok(()) };
        let Segment { number, length, begins, first, .. } = *newest;
        let opened = self.disk.open(&self.name(number));
        let file = opened.map_err(|why| self.failed(number, "opened", why))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = read_all(file.as_ref(), &mut bytes, 0);
        bytes.truncate(read.map_err(|why| self.failed(number, "read", why))?);
        let mut end = begins;
        self.written = first;
        while let Found::Record { events, payload } =
            segment::parse(number, end, bytes.get(end as usize..).unwrap_or_default())
        {
            end += payload.end as u64;
            self.written += u64::from(events);
        }
        if end < length {
            log::warn!(
                file = self.disk.path(&self.name(number)).as_str(), offset = end, bytes = length - end;
                "the end of the newest segment is cut off: what a crash tore was not durable, and Kafka has its events; what was \
                 damaged otherwise is gone"
            );
            file.cut(end).map_err(|why| self.failed(number, "cut", why))?;
        }
        let synced = file.sync().and_then(|()| self.disk.sync());
        synced.map_err(|why| self.failed(number, "synced", why))?;
        self.bytes -= length - end;
        if let Some(newest) = self.segments.back_mut() {
            newest.length = end;
        }
        Ok(())
    }

    /// Reading begins behind what is noted as acked, where that is here; else at the oldest record.
    fn start_at(&mut self, noted: Option<Position>) -> Result<(), SpillError> {
        let noted = noted.unwrap_or_default();
        while self.segments.front().is_some_and(|oldest| oldest.number < noted.segment) {
            self.remove_oldest()?;
        }
        let Some(oldest) = self.segments.front() else {
            self.written = self.written.max(noted.event);
            self.read = Position { event: self.written, ..noted };
            return Ok(());
        };
        let Segment { number, begins, length, first, .. } = *oldest;
        let is_newest = self.segments.len() == 1;
        let is_noted = noted.segment == number;
        if is_noted && (begins..=length).contains(&noted.at) {
            self.read = noted;
        } else if is_noted && noted.at > length && is_newest {
            // What the sink acked was not durable, and is torn off: nothing of it is left to read. Another segment will
            // follow, so the note is corrected.
            self.read = Position { segment: number, at: length, event: self.written };
            self.note_acked(self.read)?;
        } else {
            self.read = Position { segment: number, at: begins, event: first };
        }
        Ok(())
    }

    /// Notes that the sink acked all below `below`: durable, in place of the note before. On a full disk that one stays.
    ///
    /// # Errors
    /// When the disk fails otherwise.
    pub fn note_acked(&mut self, below: Position) -> Result<(), SpillError> {
        let mut payload = below.segment.to_be_bytes().to_vec();
        payload.extend_from_slice(&below.at.to_be_bytes());
        payload.extend_from_slice(&below.event.to_be_bytes());
        let mut bytes = Vec::new();
        segment::record(NOTE, 0, 0, &payload, &mut bytes);
        let noted = self.disk.create(ACKED_NEW).and_then(|file| {
            file.write_all_at(&bytes, 0)?;
            file.sync()?;
            self.disk.rename(ACKED_NEW, ACKED)?;
            self.disk.sync()
        });
        match noted {
            Err(why) if !is_full(&why) => {
                Err(SpillError::disk(self.disk.path(ACKED), "written", why))
            }
            _ => Ok(()),
        }
    }

    /// The note, if there is a whole one.
    fn noted(&self, names: &[String]) -> Option<Position> {
        names.iter().find(|name| *name == ACKED)?;
        let file = self.disk.open(ACKED).ok()?;
        let mut bytes = vec![0; RECORD_HEADER_BYTES + 24];
        let read = read_all(file.as_ref(), &mut bytes, 0).ok()?;
        bytes.truncate(read);
        let Found::Record { payload, .. } = segment::parse(NOTE, 0, &bytes) else { return None };
        let (segment, rest) = bytes.get(payload)?.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let event = rest.first_chunk()?;
        Some(Position {
            segment: u64::from_be_bytes(*segment),
            at: u64::from_be_bytes(*at),
            event: u64::from_be_bytes(*event),
        })
    }

    fn folder_failed(&self, what: &'static str, why: std::io::Error) -> SpillError {
        SpillError::disk(self.disk.path(""), what, why)
    }
}
