//! A file of all deliveries, so that a sink that was killed and started again still knows them: one
//! JSON line a request, `{"at_us":…,"events":[[id,key],…]}`, with `"corrupt":n` where n of them did
//! not match their digest.
//!
//! Invariant: a request's line is in the file, whole, before the request is answered 200; a line
//! that was cut short was never answered.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use crate::failure::Failure;
use crate::lines::Lines;

/// One request.
#[derive(Serialize, Deserialize)]
struct Line {
    /// When it was delivered, µs since the epoch.
    at_us: i64,
    /// (id, key) of each of its events.
    events: Vec<(u64, u64)>,
    /// How many of them did not match their digest.
    #[serde(default, skip_serializing_if = "is_none")]
    corrupt: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// An open journal.
pub struct Journal {
    lines: Lines,
}

impl Journal {
    /// Opens or creates the file; returns the ledger of its content.
    ///
    /// # Errors
    /// When it cannot be opened or read, or a whole line is no request.
    pub fn open(path: &Path) -> Result<(Ledger, Self), Failure> {
        let failed = |why: String| Failure::Failed(format!("--journal {}: {why}", path.display()));
        let (mut ledger, mut n) = (Ledger::default(), 0);
        let lines = Lines::read(path, |line| {
            n += 1;
            if !line.is_empty() {
                let Line { at_us, events, corrupt } = serde_json::from_slice(line)
                    .map_err(|e| io::Error::other(format!("line {n} is no request: {e}")))?;
                ledger.record(events.into_iter(), corrupt, at_us);
            }
            Ok(())
        });
        let lines = lines.map_err(|e| failed(e.to_string()))?;
        Ok((ledger, Self { lines }))
    }

    /// Writes a request, with id and key of each of its events; it may be answered only after that.
    ///
    /// # Errors
    /// When it cannot be written whole: the file is then as it was before.
    pub fn keep(
        &mut self,
        events: impl Iterator<Item = (u64, u64)>,
        corrupt: u64,
        at_us: i64,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { at_us, events: events.collect(), corrupt })?;
        line.push(b'\n');
        self.lines.append(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(ids: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        ids.map(|id| (id, id % 3))
    }

    /// Prevents: a sink that forgets what it acked, or counts as acked what it never answered.
    #[test]
    fn what_was_kept_comes_back_and_a_line_cut_short_does_not() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("journal.jsonl");
        let (mut expected, mut journal) = Journal::open(&path).expect("made");
        for (ids, corrupt, at_us) in [(0..5, 0, 1_000_000), (3..9, 2, 2_000_000)] {
            journal.keep(events(ids.clone()), corrupt, at_us).expect("written");
            expected.record(events(ids), corrupt, at_us);
        }
        drop(journal);
        let whole = std::fs::read(&path).expect("read");
        // The first line is as a sink without a transform wrote it.
        assert!(
            whole.starts_with(br#"{"at_us":1000000,"events":[[0,0],[1,1],[2,2],[3,0],[4,1]]}"#)
        );
        std::fs::write(&path, [&whole[..], br#"{"at_us":3,"events":[[9,"#].concat()).expect("cut");
        let (found, mut journal) = Journal::open(&path).expect("opened");
        assert_eq!(found.totals(), expected.totals());
        // The next request is on a line of its own.
        journal.keep(events(9..10), 0, 3_000_000).expect("written");
        expected.record(events(9..10), 0, 3_000_000);
        drop(journal);
        assert_eq!(Journal::open(&path).expect("opened").0.totals(), expected.totals());
        std::fs::write(&path, [&b"nonsense\n"[..], &whole].concat()).expect("written");
        let why = Journal::open(&path).err().expect("damaged").to_string();
        assert!(why.contains("line 1") && why.contains("journal.jsonl"), "{why}");
    }
}
