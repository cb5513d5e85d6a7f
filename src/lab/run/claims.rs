//! The locks of a run: no other run uses its cluster or writes into its folder meanwhile.
//!
//! The locks are the files' own (flock), so the kernel releases them however the run ends. A
//! process that the run starts does not keep them: Rust's files are closed on exec.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::commands;
use crate::failure::Failure;
use crate::lab::{plan, report, verdict};

/// The presence of this file makes a folder ours to empty.
const RESULTS: &str = "backpressure-lab.results";

/// One run a cluster at a time: two would measure each other. The file says which cluster its run brought
/// up; where a run was killed, file and cluster are still there.
pub struct ClusterLock {
    file: File,
    path: PathBuf,
    /// The cluster of a run that was killed, until this run has seen to it.
    left_behind: String,
}

impl ClusterLock {
    /// Takes the lock beside the cluster's folder `data`.
    ///
    /// # Errors
    /// When another run has it, or it cannot be made.
    pub fn take(data: &Path) -> Result<Self, Failure> {
        let mut path = data.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |e: io::Error| {
            let path = path.display();
            Failure::Failed(format!("{path}: cannot be used: {e}; choose another --data"))
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut options = File::options();
        let open = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(failed)?;
        let locked = try_lock(&file).map_err(failed)?;
        // A run that is just ending deletes its file: a lock on a deleted file keeps no other run
        // out.
        if !locked || !is_still(&file, &path) {
            return Err(Failure::Failed(format!(
                "another run uses the cluster in {}: wait for it, or choose --data and --port",
                data.display()
            )));
        }
        let mut left_behind = String::new();
        file.read_to_string(&mut left_behind).map_err(failed)?;
        Ok(Self { file, path, left_behind: left_behind.trim().to_owned() })
    }

    /// Whether the cluster `id` was brought up by a run that was killed.
    pub fn left_behind(&self, id: &str) -> bool {
        !id.is_empty() && self.left_behind == id
    }

    /// Notes that this run brought up the cluster `id`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn brought_up(&mut self, id: &str) -> io::Result<()> {
        self.left_behind.clear();
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{id}")
    }

    /// The cluster stays up though this run brought it up: the file must tell the next run.
    pub fn leave_behind(&mut self, id: &str) {
        self.left_behind = id.to_owned();
    }
}

impl Drop for ClusterLock {
    /// If a run ends before it has replaced a killed run's cluster, the file keeps that cluster's
    /// id.
    fn drop(&mut self) {
        if self.left_behind.is_empty() {
            let _is_gone = fs::remove_file(&self.path);
        }
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    let id = |found: io::Result<fs::Metadata>| found.ok().map(|it| (it.dev(), it.ino()));
    id(file.metadata()).is_some_and(|own| id(fs::metadata(path)) == Some(own))
}

/// The lock on the results' folder, while this lives.
pub struct Claim {
    _folder: File,
}

impl Claim {
    /// Takes the lock: no other run writes into `out` meanwhile.
    ///
    /// # Errors
    /// When another does, or it cannot be written.
    pub fn folder(out: &Path) -> Result<Self, Failure> {
        let failed = |e| unusable(out, &e);
        fs::create_dir_all(out).map_err(failed)?;
        let folder = File::open(out).map_err(failed)?;
        if !try_lock(&folder).map_err(failed)? {
            let out = out.display();
            return Err(Failure::Failed(format!(
                "another run writes into {out}: wait for it, or choose --out"
            )));
        }
        Ok(Self { _folder: folder })
    }

    /// The same, and removes the report of an earlier run, of which some arms stay.
    ///
    /// # Errors
    /// The same.
    pub fn without_report(out: &Path) -> Result<Self, Failure> {
        let claim = Self::folder(out)?;
        let (plan, failed) = (out.join(plan::FILE), |e| unusable(out, &e));
        let there = entries(out).map_err(failed)?;
        let mut of_report = there.iter().filter(|path| path.is_file() && **path != plan);
        of_report.try_for_each(|path| remove_if_ours(path)).map_err(failed)?;
        Ok(claim)
    }

    /// The same, and removes what an earlier run left there, however it ended, so that no old
    /// figure can be taken for a new one. Only a folder that is empty or ours is written into.
    ///
    /// # Errors
    /// The same, and when the folder holds something else.
    pub fn emptied(out: &Path) -> Result<Self, Failure> {
        let claim = Self::folder(out)?;
        let failed = |e| unusable(out, &e);
        let there = entries(out).map_err(failed)?;
        let is_ours = [RESULTS, plan::FILE].iter().any(|name| out.join(name).exists());
        if !there.is_empty() && !is_ours {
            return Err(Failure::Failed(format!(
                "--out {} holds something else than a run of this experiment: choose another folder",
                out.display()
            )));
        }
        // It stays: a run that ends before its plan is written leaves a folder of ours too.
        fs::write(out.join(RESULTS), "").map_err(failed)?;
        there.iter().try_for_each(|path| remove_if_ours(path)).map_err(failed)?;
        Ok(claim)
    }
}

fn unusable(out: &Path, e: &io::Error) -> Failure {
    Failure::Failed(format!("--out {}: {e}", out.display()))
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// An arm's folder, or a file of a report. Anything else stays.
fn remove_if_ours(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        let is_empty = entries(path)?.is_empty();
        return if commands::is_arm(path) || is_repeat(path) || is_empty {
            fs::remove_dir_all(path)
        } else {
            Ok(())
        };
    }
    // Earlier versions drew PNG as well.
    let is_picture =
        path.extension().and_then(OsStr::to_str).is_some_and(|ext| matches!(ext, "svg" | "png"));
    let files = [plan::FILE, plan::HOST_FILE, verdict::FILE, report::FILE];
    let is_file =
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| files.contains(&name));
    if is_picture || is_file { fs::remove_file(path) } else { Ok(()) }
}

/// One of several runs, by --repeat.
fn is_repeat(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let numbered = name.strip_prefix("run-").is_some_and(|n| n.parse::<usize>().is_ok());
    numbered && path.join(plan::FILE).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: two runs on one cluster; a lock on a deleted file; a killed run's cluster that is forgotten.
    #[test]
    fn a_cluster_has_one_run_and_what_a_killed_one_left_stays_known() {
        let dir = tempfile::tempdir().expect("dir");
        let (data, file) = (dir.path().join("c"), dir.path().join("c.lock"));
        let lock = ClusterLock::take(&data).expect("free");
        let why = ClusterLock::take(&data).err().expect("taken").to_string();
        assert!(why.contains("another run uses the cluster"), "{why}");
        drop(lock);
        assert!(!file.exists());
        fs::write(&file, "id-of-a-cluster\n").expect("written");
        let lock = ClusterLock::take(&data).expect("its run is dead");
        assert!(lock.left_behind("id-of-a-cluster") && !lock.left_behind(""));
        drop(lock);
        assert!(file.exists(), "nobody has seen to it");
        let mut lock = ClusterLock::take(&data).expect("free");
        lock.brought_up("mine").expect("written");
        assert_eq!(fs::read_to_string(&file).expect("read"), "mine\n");
        drop(lock);
        assert!(!file.exists());
    }

    /// Prevents: a user's files deleted; an old figure that stays.
    #[test]
    fn only_what_is_ours_is_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("thesis.txt"), "mine").expect("written");
        assert!(Claim::emptied(dir.path()).is_err());
        fs::write(at(RESULTS), "").expect("ours");
        for name in ["pull", "notes"] {
            fs::create_dir(at(name)).expect("folder");
        }
        fs::write(at("pull/samples.jsonl"), "{}").expect("an arm");
        fs::write(at("notes/a.txt"), "mine").expect("not an arm");
        for name in ["plan.json", "verdict.json", "rss.svg", "data.csv"] {
            fs::write(at(name), "").expect("written");
        }
        let claim = Claim::emptied(dir.path()).expect("ours");
        assert!(Claim::folder(dir.path()).is_err(), "another run writes there");
        let mut left: Vec<String> = fs::read_dir(dir.path())
            .expect("read")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, [RESULTS, "data.csv", "notes", "thesis.txt"]);
        drop(claim);
        Claim::folder(dir.path()).expect("free again");
    }
}
