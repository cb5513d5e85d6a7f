//! The ids that were shed, kept in a file, one a line, so that the audit knows each of them however
//! the processor ends.
//!
//! Invariant: an id's line is in the file before its offset counts as done, so what was committed as
//! shed is in the file, whoever is killed when. A full disk leaves ids out, which is said, and which
//! the audit finds missing.

use std::path::Path;

use parking_lot::Mutex;
use roaring::RoaringTreemap;

use crate::failure::Failure;
use crate::lines::{self, Lines};

/// The open file.
pub struct ShedIds {
    lines: Mutex<Lines>,
}

impl ShedIds {
    /// Opens the file or makes it, and goes on behind the ids that it holds.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let lines = Lines::open(path)
            .map_err(|e| Failure::Failed(format!("--shed-ids {}: {e}", path.display())))?;
        Ok(Self { lines: Mutex::new(lines) })
    }

    /// Keeps ids, in one write.
    pub fn keep(&self, ids: impl Iterator<Item = u64>) {
        let lines: String = ids.map(|id| format!("{id}\n")).collect();
        self.lines.lock().append_or_go_on(lines.as_bytes());
    }
}

/// The ids in the file. A processor makes its file before it takes anything up, so that one which is not there
/// is a wrong path, and not a processor that shed nothing.
///
/// # Errors
/// When it cannot be read, or a whole line is no id.
pub fn read(path: &Path) -> Result<RoaringTreemap, Failure> {
    let failed = |why: String| Failure::Failed(format!("--shed-ids {}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let id = |(n, line): (usize, &[u8])| {
        let id = str::from_utf8(line).ok().and_then(|line| line.parse::<u64>().ok());
        id.ok_or_else(|| failed(format!("line {} is no id", n + 1)))
    };
    lines::whole(&text)
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii_end)
        .enumerate()
        .map(id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: shed ids that are gone with a killed processor, or with the one that follows it.
    #[test]
    fn what_was_kept_is_read_and_the_next_processor_goes_on_behind_it() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("shed.ids");
        let why = read(&path).expect_err("no file").to_string();
        assert!(why.contains("--shed-ids") && why.contains("cannot be read"), "{why}");
        ShedIds::open(&path).expect("made").keep([7].into_iter());
        assert_eq!(read(&path).expect("read"), [7].into());
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, text + "12").expect("cut short");
        assert_eq!(read(&path).expect("read"), [7].into());
        ShedIds::open(&path).expect("opened").keep([u64::MAX].into_iter());
        assert_eq!(read(&path).expect("read"), [7, u64::MAX].into());
        std::fs::write(&path, "7\nseven\n").expect("written");
        let why = read(&path).expect_err("damaged").to_string();
        assert!(why.contains("line 2") && why.contains("shed.ids"), "{why}");
    }
}
