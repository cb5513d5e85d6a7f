//! What was delivered, kept in a file, so that a sink that was killed and started again still knows
//! it: one JSON line a request, `{"at_us":…,"events":[[id,key],…]}`.
//!
//! Invariant: a request's line is in the file, whole, before the request is answered 200; a line
//! that was cut short was never answered.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::event::Event;
use crate::failure::Failure;
use crate::lines::Lines;

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
    lines: Lines,
}

impl Journal {
    /// Opens the file or makes it; gives the ledger of what it holds.
    ///
    /// # Errors
    /// When it cannot be opened or read, or a whole line is no request.
    pub fn open(path: &Path) -> Result<(Ledger, Self), Failure> {
        let failed = |why: String| Failure::Failed(format!("--journal {}: {why}", path.display()));
        let (lines, text) = Lines::open(path).map_err(|e| failed(e.to_string()))?;
        let mut ledger = Ledger::default();
        for (n, line) in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let Line { at_us, events } = serde_json::from_slice(line)
                .map_err(|e| failed(format!("line {} is no request: {e}", n + 1)))?;
            let event = |(id, key)| Event { id, key, ts_us: at_us, payload: Box::default() };
            let events: Vec<Event> = events.into_iter().map(event).collect();
            ledger.record(&events, at_us);
        }
        Ok((ledger, Self { lines }))
    }

    /// Keeps a request; only then may it be answered.
    ///
    /// # Errors
    /// When it cannot be written whole: the file is then as it was before.
    pub fn keep(&mut self, events: &[Event], at_us: i64) -> io::Result<()> {
        let events = events.iter().map(|event| (event.id, event.key)).collect();
        let mut line = serde_json::to_vec(&Line { at_us, events })?;
        line.push(b'\n');
        self.lines.append(&line)
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
        drop(journal);
        assert_eq!(Journal::open(&path).expect("opened").0.totals(), expected.totals());
        std::fs::write(&path, [&b"nonsense\n"[..], &whole].concat()).expect("written");
        let why = Journal::open(&path).err().expect("damaged").to_string();
        assert!(why.contains("line 1") && why.contains("journal.jsonl"), "{why}");
    }
}
