//! A file that grows by whole lines, whatever happens. A process that is killed in the middle of a
//! write leaves at most one cut line, which the next write removes. A full disk takes nothing: the
//! written part of a failed write is removed.
//!
//! It syncs nothing: it survives the process, not the machine.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// See the module.
pub struct Lines {
    path: PathBuf,
    file: File,
    /// Bytes that are whole lines: a failed write is cut back to this length.
    whole: u64,
    /// Whether a cut line follows them, which the first write takes away: who opened the file may yet find that it is
    /// none of ours.
    is_cut: bool,
    /// Appends in a row that failed.
    failed: u64,
}

impl Lines {
    /// Opens or creates the file, and will append after its whole lines. It is locked
    /// until this is dropped: two writers would write over each other's lines.
    ///
    /// # Errors
    /// When it cannot be opened or read, or another process writes to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::read(path, |_| Ok(()))
    }

    /// The same; shows each whole line on the way, without its end. One line is in memory at a time.
    ///
    /// # Errors
    /// The same, and what `each` fails with.
    pub fn read(path: &Path, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let (mut whole, mut line) = (0, Vec::new());
        if file.metadata()?.is_file() {
            file.try_lock().map_err(|e| match e {
                TryLockError::WouldBlock => {
                    io::Error::other("another process writes to it; give each a file of its own")
                }
                TryLockError::Error(e) => e,
            })?;
            let mut reader = BufReader::new(&file);
            while reader.read_until(b'\n', &mut line)? > 0 {
                let Some(text) = line.strip_suffix(b"\n") else { break };
                whole += line.len() as u64;
                each(text)?;
                line.clear();
            }
        }
        let is_cut = !line.is_empty();
        if is_cut {
            // Without a whole line it is perhaps somebody else's, and the first write destroys it.
            let copy = if whole == 0 { keep_aside(path, &line) } else { String::new() };
            log::warn!(
                file = path.display().to_string().as_str(), bytes = line.len(), copy = copy.as_str();
                "the last line is cut short, and will be taken away"
            );
        }
        Ok(Self { path: path.to_owned(), file, whole, is_cut, failed: 0 })
    }

    /// Whether it has no whole line.
    pub fn is_empty(&self) -> bool {
        self.whole == 0
    }

    /// Appends lines, each with its end; all of them or none.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.take_back()?;
            self.is_cut = false;
        }
        let written = self.file.write_all(lines);
        match written {
            Ok(()) => self.whole += lines.len() as u64,
            Err(_) => {
                // Before the next write at the latest.
                self.is_cut = true;
                self.take_back()?;
                self.is_cut = false;
            }
        }
        written
    }

    /// As [`Lines::append`], for an instrument: lines that cannot be written are left out and
    /// logged once, and once more when the file takes lines again. True when they were written.
    pub fn append_or_go_on(&mut self, lines: &[u8]) -> bool {
        let file = self.path.display().to_string();
        match self.append(lines) {
            Ok(()) => {
                if self.failed > 0 {
                    log::warn!(file = file.as_str(), left_out = self.failed; "written again");
                }
                self.failed = 0;
            }
            Err(e) => {
                if self.failed == 0 {
                    log::error!(
                        file = file.as_str(), why = e.to_string().as_str();
                        "cannot be written, going on without; free some disk"
                    );
                }
                self.failed += 1;
            }
        }
        self.failed == 0
    }

    fn take_back(&mut self) -> io::Result<()> {
        // A device has no length: it cannot be cut back, and nothing follows its end.
        if self.file.metadata()?.is_file() {
            self.file.set_len(self.whole)?;
            self.file.seek(SeekFrom::Start(self.whole))?;
        }
        Ok(())
    }
}

/// Copies `text` beside `path`; says where to, or why not.
fn keep_aside(path: &Path, text: &[u8]) -> String {
    let aside = path.with_added_extension("cut");
    let kept = File::create_new(&aside).and_then(|mut copy| copy.write_all(text));
    kept.map_or_else(|e| format!("none: {e}"), |()| aside.display().to_string())
}

/// The part of `text` that is whole lines.
pub fn whole(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a line that is joined to a cut one.
    #[test]
    fn a_cut_line_is_taken_away_and_the_next_stands_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("lines");
        std::fs::write(&path, "one\ntwo\nthr").expect("written");
        let mut read = Vec::new();
        let each = |line: &[u8]| {
            read.push(line.to_vec());
            Ok(())
        };
        let mut lines = Lines::read(&path, each).expect("opened");
        assert_eq!(read, [b"one", b"two"]);
        let unchanged = std::fs::read_to_string(&path).expect("read");
        assert_eq!(unchanged, "one\ntwo\nthr", "it may be somebody else's");
        lines.append(b"four\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "one\ntwo\nfour\n");
    }

    /// Prevents: a file of somebody else that is emptied because it was named by mistake.
    #[test]
    fn of_a_file_without_a_whole_line_a_copy_is_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("settings.json");
        std::fs::write(&path, "{}").expect("written");
        let mut lines = Lines::open(&path).expect("opened");
        assert!(lines.is_empty());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "{}");
        lines.append(b"one\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "one\n");
        let copy = dir.path().join("settings.json.cut");
        assert_eq!(std::fs::read_to_string(copy).expect("kept"), "{}");
    }

    /// Prevents: two processes that write over each other's lines in one file.
    #[test]
    fn a_file_has_one_writer() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("lines");
        let first = Lines::open(&path).expect("opened");
        let why = Lines::open(&path).err().expect("it is taken").to_string();
        assert!(why.contains("another process"), "{why}");
        drop(first);
        Lines::open(&path).expect("free again");
    }

    #[test]
    fn a_full_disk_takes_nothing_and_stops_nobody() {
        let mut lines = Lines::open(Path::new("/dev/full")).expect("it is on every Linux");
        assert!(lines.append(b"x\n").is_err());
        assert!(!lines.append_or_go_on(b"x\n"));
        assert_eq!((lines.whole, lines.failed), (0, 1));
    }
}
