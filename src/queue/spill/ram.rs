//! A file system of the tests' own. What was written is durable after the file's sync, entries after the folder's; what
//! was not may survive a crash in any part: sector by sector, entry by entry, whatever the order in which it was
//! made.
//!
//! The machine stops at a chosen operation. Then [`Ram::after_crash`] is one of the disks that may be found.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};

/// See the module.
#[derive(Clone)]
pub struct Ram(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    sector: usize,
    files: Vec<Content>,
    entries: BTreeMap<String, usize>,
    durable_entries: BTreeMap<String, usize>,
    /// Of the entries, since the last sync.
    changes: Vec<Change>,
    operations: usize,
    /// The machine stops at this operation.
    stops_at: usize,
    /// Bytes of all files together, at most.
    room: usize,
    /// The next sync of a file fails.
    fails: bool,
    read: u64,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone)]
enum Change {
    Made(String, usize),
    Gone(String),
    Renamed(String, String, usize),
}

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

impl Ram {
    /// An empty one that tears writes at `sector` bytes.
    pub fn new(sector: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            sector,
            files: Vec::new(),
            entries: BTreeMap::new(),
            durable_entries: BTreeMap::new(),
            changes: Vec::new(),
            operations: 0,
            stops_at: usize::MAX,
            room: usize::MAX,
            fails: false,
            read: 0,
        })))
    }

    /// The machine stops at the operation of this number, counted from the first.
    pub fn stop_at(&self, operation: usize) {
        self.0.lock().stops_at = operation;
    }

    /// Operations so far: all but reads.
    pub fn operations(&self) -> usize {
        self.0.lock().operations
    }

    /// Whether the machine has stopped.
    pub fn is_off(&self) -> bool {
        let state = self.0.lock();
        state.operations >= state.stops_at
    }

    /// The next sync of a file fails, and those after it do not, as Linux has it: what the failed one was for is lost to
    /// them.
    pub fn fail_a_sync(&self) {
        self.0.lock().fails = true;
    }

    /// Bytes that all files together may have.
    pub fn set_room(&self, bytes: usize) {
        self.0.lock().room = bytes;
    }

    /// Bytes that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.0.lock().read
    }

    /// Flips a bit of a file, durably.
    pub fn damage(&self, name: &str, at: usize) {
        let mut state = self.0.lock();
        let file = state.entries[name];
        let content = &mut state.files[file];
        content.now[at] ^= 1;
        content.durable.clone_from(&content.now);
    }

    /// How many parts may each have survived a crash now, or not.
    pub fn parts(&self) -> usize {
        let state = self.0.lock();
        let sectors: usize = state.files.iter().map(|f| f.torn(state.sector).len()).sum();
        sectors + state.changes.len()
    }

    /// The disk after a crash that these parts survived; a file is as long as it was made, or as what survived.
    pub fn after_crash(&self, survives: impl Fn(usize) -> bool, whole_lengths: bool) -> Self {
        let mut state = self.0.lock().clone();
        let (mut part, sector) = (0, state.sector);
        for content in &mut state.files {
            let torn = content.torn(sector);
            let kept: Vec<usize> = torn
                .iter()
                .enumerate()
                .filter(|(n, _)| survives(part + n))
                .map(|(_, s)| *s)
                .collect();
            part += torn.len();
            let reached = kept.iter().map(|s| ((s + 1) * sector).min(content.now.len())).max();
            let length = if whole_lengths {
                content.now.len()
            } else {
                content.durable.len().max(reached.unwrap_or(0))
            };
            let mut found = content.durable.clone();
            found.resize(length, 0);
            for s in kept {
                let end = ((s + 1) * sector).min(content.now.len()).min(length);
                let range = (s * sector).min(end)..end;
                found[range.clone()].copy_from_slice(&content.now[range]);
            }
            *content = Content { now: found.clone(), durable: found };
        }
        let mut entries = state.durable_entries.clone();
        for change in &state.changes {
            if survives(part) {
                match change {
                    Change::Made(name, file) => drop(entries.insert(name.clone(), *file)),
                    Change::Gone(name) => drop(entries.remove(name)),
                    Change::Renamed(from, to, file) => {
                        entries.remove(from);
                        entries.insert(to.clone(), *file);
                    }
                }
            }
            part += 1;
        }
        state.entries.clone_from(&entries);
        state.durable_entries = entries;
        state.changes.clear();
        (state.operations, state.stops_at, state.room) = (0, usize::MAX, usize::MAX);
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Content {
    /// The sectors that differ from what is durable.
    fn torn(&self, sector: usize) -> Vec<usize> {
        let all = self.now.len().max(self.durable.len()).div_ceil(sector);
        let of = |bytes: &[u8], s: usize| {
            let end = ((s + 1) * sector).min(bytes.len());
            bytes[(s * sector).min(end)..end].to_vec()
        };
        (0..all).filter(|s| of(&self.now, *s) != of(&self.durable, *s)).collect()
    }
}

impl State {
    /// Counts an operation; whether the machine stops at it.
    fn operation(&mut self) -> io::Result<bool> {
        if self.operations >= self.stops_at {
            return Err(off());
        }
        self.operations += 1;
        Ok(self.operations >= self.stops_at)
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        if self.operations >= self.stops_at {
            return Err(off());
        }
        self.entries.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn done(stops: bool) -> io::Result<()> {
    if stops { Err(off()) } else { Ok(()) }
}

impl Disk for Ram {
    fn path(&self, name: &str) -> String {
        format!("ram/{name}")
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().entries.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        let stops = state.operation()?;
        let file = match state.entries.get(name) {
            Some(file) => *file,
            None => {
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                state.entries.insert(name.to_owned(), file);
                state.changes.push(Change::Made(name.to_owned(), file));
                file
            }
        };
        state.files[file].now.clear();
        done(stops)?;
        Ok(Arc::new(RamFile { ram: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.lock().find(name)?;
        Ok(Arc::new(RamFile { ram: self.clone(), file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.find(name)?;
        let stops = state.operation()?;
        state.entries.remove(name);
        state.changes.push(Change::Gone(name.to_owned()));
        done(stops)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = state.find(from)?;
        let stops = state.operation()?;
        state.entries.remove(from);
        state.entries.insert(to.to_owned(), file);
        state.changes.push(Change::Renamed(from.to_owned(), to.to_owned(), file));
        done(stops)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.operation()? {
            return Err(off());
        }
        state.changes.clear();
        state.durable_entries = state.entries.clone();
        Ok(())
    }
}

struct RamFile {
    ram: Ram,
    file: usize,
}

impl DiskFile for RamFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.ram.0.lock().files[self.file].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.ram.0.lock();
        if state.operations >= state.stops_at {
            return Err(off());
        }
        let now = &state.files[self.file].now;
        let rest = now.get(at as usize..).unwrap_or_default();
        let read = rest.len().min(bytes.len());
        bytes[..read].copy_from_slice(&rest[..read]);
        state.read += read as u64;
        Ok(read)
    }

    /// A full disk takes a part.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.ram.0.lock();
        let stops = state.operation()?;
        let used: usize = state.entries.values().map(|file| state.files[*file].now.len()).sum();
        let room = state.room.saturating_sub(used);
        let (at, content) = (at as usize, &mut state.files[self.file].now);
        let fits = bytes.len().min(room + content.len().saturating_sub(at));
        if content.len() < at + fits {
            content.resize(at + fits, 0);
        }
        content[at..at + fits].copy_from_slice(&bytes[..fits]);
        done(stops)?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        let mut state = self.ram.0.lock();
        let stops = state.operation()?;
        state.files[self.file].now.truncate(length as usize);
        done(stops)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.ram.0.lock();
        if state.operation()? {
            return Err(off());
        }
        if std::mem::take(&mut state.fails) {
            return Err(io::Error::other("a write was lost"));
        }
        let content = &mut state.files[self.file];
        content.durable.clone_from(&content.now);
        Ok(())
    }
}
