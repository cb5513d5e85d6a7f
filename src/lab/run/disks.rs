//! Folders that can be filled to the last byte. This process is root in a mount namespace of its
//! own (`unshare --mount`).
//!
//! A tmpfs with a copy of the folder's files is mounted over the folder; the folder below stays as
//! it was. So the real disk always holds a whole folder, and once the namespace is gone, only that
//! one is left. It fills no real disk.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::lab::tools;

/// The file that fills it.
const BALLAST: &str = "ballast";
/// Pages are written until one is refused, as others write there too.
const PAGE: [u8; 4096] = [0; 4096];

/// A folder on a disk of its own. If dropped, it stays until the namespace ends: what was written
/// on it since is lost.
pub struct SmallFolder {
    dir: PathBuf,
    is_laid: bool,
}

impl SmallFolder {
    /// Mounts a disk of `size` (as tmpfs has it: `64m`) over `dir`, which is made if it does not
    /// exist.
    ///
    /// # Errors
    /// When it cannot be mounted, or this process shares the machine's mounts.
    pub fn lay(dir: &Path, size: &str) -> Result<Self, Failure> {
        let same = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        if same("self").is_none() || same("self") == same("1") {
            return Err(Failure::Failed(
                "a small folder needs a mount namespace of its own: run it by run/faults.sh".into(),
            ));
        }
        let aside = beside(dir);
        for folder in [dir, &aside] {
            fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
        }
        let options = format!("size={size},mode=755");
        let (at, to) = (dir.display().to_string(), aside.display().to_string());
        tools::run(&["mount", "-t", "tmpfs", "-o", &options, "small-folder", &to])?;
        tools::run(&["cp", "-a", "--sparse=always", &format!("{at}/."), &to])?;
        tools::run(&["mount", "--move", &to, &at])?;
        fs::remove_dir(&aside).map_err(|e| failed(&aside, &e))?;
        Ok(Self { dir: dir.to_owned(), is_laid: true })
    }

    /// Fills it to the last byte, most of it in one step.
    ///
    /// # Errors
    /// When nothing can be written there at all.
    pub fn fill(&self) -> Result<(), Failure> {
        let path = self.dir.join(BALLAST);
        let mut file = File::create(&path).map_err(|e| failed(&path, &e))?;
        let space = rustix::fs::statvfs(&self.dir).map_err(|e| failed(&self.dir, &e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let at_once =
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free.max(1));
        if at_once.is_ok() {
            let end = io::Seek::seek(&mut file, io::SeekFrom::End(0));
            end.map_err(|e| failed(&path, &e))?;
        }
        while file.write_all(&PAGE).is_ok() {}
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the file that filled it cannot be removed.
    pub fn free(&self) -> Result<(), Failure> {
        let path = self.dir.join(BALLAST);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&path, &e)),
            _ => Ok(()),
        }
    }

    /// Puts the folder back onto the disk below, with its current files. No file in it may be open.
    ///
    /// # Errors
    /// When a step of it fails.
    pub fn gone(mut self) -> Result<(), Failure> {
        self.free()?;
        let aside = beside(&self.dir);
        let (at, to) = (self.dir.display().to_string(), aside.display().to_string());
        tools::run(&["cp", "-a", "--sparse=always", &at, &to])?;
        tools::run(&["umount", &at])?;
        self.is_laid = false;
        fs::remove_dir_all(&self.dir).map_err(|e| failed(&self.dir, &e))?;
        fs::rename(&aside, &self.dir).map_err(|e| failed(&aside, &e))
    }
}

impl Drop for SmallFolder {
    fn drop(&mut self) {
        if self.is_laid {
            let _with_the_namespace =
                tools::run(&["umount", "--lazy", &self.dir.display().to_string()]);
        }
    }
}

fn beside(dir: &Path) -> PathBuf {
    let mut name: OsString = dir.as_os_str().to_owned();
    name.push(".small");
    name.into()
}

fn failed(path: &Path, e: &io::Error) -> Failure {
    Failure::Failed(format!("{}: {e}", path.display()))
}
