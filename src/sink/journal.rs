//! What was delivered, kept in a file, so that a sink that was killed and started again still knows
//! it: one JSON line a request, `{"at_us":…,"events":[[id,key],…]}`.
//!
//! Invariant: a request's line is in the file, whole, before the request is answered 200; a line
//! that was cut short (the sink was killed in the middle of it) was never answered, and is taken
//! away when the file is opened. It survives the process, not the machine: nothing is synced.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::event::Event;
use crate::failure::Failure;

/// One request.
#[derive(Serialize, Deserialize)]
struct Line {
    /// When it was delivered, µs since the epoch.
    at_us: i64,
    /// (id, key) of each of its events.
    events: Vec<(u64, u64)>,
}

/// An open journal.
pub struct Journal {
    file: File,
    /// Bytes that are whole lines: where a write that failed is taken back to.
    whole: u64,
}

impl Journal {
    /// Opens the file or makes it; gives the ledger of what it holds.
    ///
    /// # Errors
    /// When it cannot be opened or read, or a line before the last is no request.
    pub fn open(path: &Path) -> Result<(Ledger, Self), Failure> {
        let failed = |why: String| Failure::Failed(format!("--journal {}: {why}", path.display()));
        let io = |e: std::io::Error| failed(e.to_string());
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(io)?;
        let (mut ledger, mut whole) = (Ledger::default(), 0);
        let mut lines = BufReader::new(&file);
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            let bytes = lines.read_until(b'\n', &mut text).map_err(io)?;
            if bytes == 0 {
                break;
            }
            if text.last() != Some(&b'\n') {
                log::warn!(line = number, bytes = bytes; "journal: the last line is cut short");
                break;
            }
            let line: Line = serde_json::from_slice(&text)
                .map_err(|e| failed(format!("line {number} is no request: {e}")))?;
            let event = |&(id, key): &(u64, u64)| Event {
                id,
                key,
                ts_us: line.at_us,
                payload: Box::default(),
            };
            let events: Vec<Event> = line.events.iter().map(event).collect();
            ledger.record(&events, line.at_us);
            whole += bytes as u64;
        }
        file.set_len(whole).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok((ledger, Self { file, whole }))
    }

    /// Keeps a request; only then may it be answered.
    ///
    /// # Errors
    /// When it cannot be written whole: the file is then as it was before.
    pub fn keep(&mut self, events: &[Event], at_us: i64) -> std::io::Result<()> {
        let events = events.iter().map(|event| (event.id, event.key)).collect();
        let mut line = serde_json::to_vec(&Line { at_us, events })?;
        line.push(b'\n');
        if let Err(e) = self.file.write_all(&line) {
            self.file.set_len(self.whole)?;
            self.file.seek(SeekFrom::End(0))?;
            return Err(e);
        }
        self.whole += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
        ids.map(|id| Event { id, key: id % 3, ts_us: 0, payload: Box::default() }).collect()
    }

    /// Prevents: a sink that forgets what it acked, or takes for acked what it never answered.
    #[test]
    fn what_was_kept_comes_back_and_a_line_cut_short_does_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal.jsonl");
        let (mut expected, mut journal) = Journal::open(&path).expect("made");
        for (ids, at_us) in [(0..5, 1_000_000), (3..9, 2_000_000)] {
            journal.keep(&events(ids.clone()), at_us).expect("written");
            expected.record(&events(ids), at_us);
        }
        drop(journal);
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, [&whole[..], br#"{"at_us":3,"events":[[9,"#].concat()).expect("cut");
        let (found, mut journal) = Journal::open(&path).expect("opened");
        assert_eq!(found.totals(), expected.totals());
        // What comes next stands on a line of its own.
        journal.keep(&events(9..10), 3_000_000).expect("written");
        expected.record(&events(9..10), 3_000_000);
        assert_eq!(Journal::open(&path).expect("opened").0.totals(), expected.totals());
        std::fs::write(&path, [&b"nonsense\n"[..], &whole].concat()).expect("written");
        let why = Journal::open(&path).err().expect("damaged").to_string();
        assert!(why.contains("line 1") && why.contains("journal.jsonl"), "{why}");
    }
}
