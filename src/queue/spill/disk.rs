//! The file system as the spill uses it: a seam, so that tests put one of their own in its place, which forgets what
//! was not synced.
//!
//! It knows names and bytes; what they mean is `segment`'s and `log`'s business.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One folder. A change of its entries is durable after [`Disk::sync`].
pub trait Disk: Send {
    /// The whole path of `name`, for messages.
    fn path(&self, name: &str) -> String;

    /// Its files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes a file, or empties it.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in place of one that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes what was created, deleted and renamed durable.
    fn sync(&self) -> io::Result<()>;
}

/// One file. What is written is durable after [`DiskFile::sync`].
pub trait DiskFile: Send + Sync {
    /// Its length, B.
    fn length(&self) -> io::Result<u64>;

    /// Reads what is at `at`; returns how many bytes, 0 at its end.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `at`; after an error a part of them may be there.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts it to `length`.
    fn cut(&self, length: u64) -> io::Result<()>;

    /// Makes its bytes durable.
    fn sync(&self) -> io::Result<()>;
}

/// The name of the file whose lock says that a process uses the folder.
const LOCK: &str = "lock";

/// A real folder, of this process alone while it lives: the lock is the kernel's and goes with the process.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder, if it is not there, and locks it.
    ///
    /// # Errors
    /// When it cannot be made or written to, or another process uses it.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        // A folder that was just made is durable once the one above is, which may be another user's.
        let whole = path.canonicalize()?;
        let _as_far_as_allowed = File::open(whole.parent().unwrap_or(path)).map(|it| it.sync_all());
        let mut options = File::options();
        let lock = options.write(true).create(true).truncate(false).open(path.join(LOCK))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => {
                io::Error::other("another process uses it; give each a folder of its own")
            }
            TryLockError::Error(e) => e,
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Disk for Folder {
    fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        names(&self.path)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        // What is in it is the topic's: for its owner alone.
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = File::options().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// A folder as the process that opens it next finds it. Nothing in it is changed: what is asked to be, is not done.
pub struct View {
    path: PathBuf,
    _lock: File,
}

impl View {
    /// Looks at a folder that no process uses, until it is dropped.
    ///
    /// # Errors
    /// When it is no folder of a queue that spills, or a process uses it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let lock = File::open(path.join(LOCK))?;
        lock.try_lock_shared().map_err(|e| match e {
            TryLockError::WouldBlock => io::Error::other("a process uses it; stop it first"),
            TryLockError::Error(e) => e,
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Disk for View {
    fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        names(&self.path)
    }

    fn create(&self, _name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Seen(None)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(Seen(Some(File::open(self.path.join(name))?))))
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of a [`View`]; none where it would have been made.
struct Seen(Option<File>);

impl DiskFile for Seen {
    fn length(&self) -> io::Result<u64> {
        self.0.as_ref().map_or(Ok(0), DiskFile::length)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.as_ref().map_or(Ok(0), |file| DiskFile::read_at(file, bytes, at))
    }

    fn write_all_at(&self, _bytes: &[u8], _at: u64) -> io::Result<()> {
        Ok(())
    }

    fn cut(&self, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, at)
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    /// Its bytes, and as much of its metadata as is needed to read them.
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// Prevents: two processors that write into one folder, and deliver each other's events.
    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("made/by/it");
        let first = Folder::open(&path).expect("made");
        let why = Folder::open(&path).err().expect("locked").to_string();
        assert!(why.contains("another process uses it"), "{why}");
        drop(first);
        let again = Folder::open(&path).expect("free");
        again.create("x").expect("made");
        let mode = path.join("x").metadata().expect("made").mode();
        assert_eq!(mode & 0o077, 0, "its payloads are for its owner alone");
    }
}
