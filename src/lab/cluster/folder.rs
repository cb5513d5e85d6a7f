//! The data folder and its marker. The marker makes the folder ours to delete, and has what the
//! cluster in it was started with.
//!
//! Invariant: nothing is deleted from a folder without the marker. The marker is `key=value` lines,
//! which scripts read too; it is read, never executed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::Cluster;
use crate::failure::Failure;
use crate::units;

const MARKER: &str = "backpressure-lab.cluster";

/// How brokers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As processes of this machine.
    Jvm,
    /// In containers.
    Docker,
}

impl Mode {
    /// As the flag and the marker have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jvm => "jvm",
            Self::Docker => "docker",
        }
    }
}

impl Cluster {
    /// The cluster in `data`, if there is one: a folder with our marker. It may be down.
    ///
    /// # Errors
    /// When the marker cannot be read.
    pub fn open(data: &Path) -> Result<Option<Self>, Failure> {
        let data = usable(data)?;
        let path = data.join(MARKER);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(&path, &e)),
        };
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let read = || {
            Some(Self {
                data,
                mode: units::one_of(
                    value("mode")?,
                    &[("jvm", Mode::Jvm), ("docker", Mode::Docker)],
                )
                .ok()?,
                version: value("version")?.to_owned(),
                port: value("port")?.parse().ok()?,
                // An older marker has none.
                host: value("host").unwrap_or("127.0.0.1").parse().ok()?,
                secure: value("secure") == Some("yes"),
                topic: value("topic")?.to_owned(),
                partitions: value("partitions")?.parse().ok()?,
                id: value("cluster_id")?.to_owned(),
            })
        };
        let broken = || Failure::Failed(format!("{}: is no marker of ours", path.display()));
        read().map(Some).ok_or_else(broken)
    }

    /// Writes the marker, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let secure = if self.secure { "yes" } else { "" };
        let text = format!(
            "mode={}\nversion={}\nport={}\nhost={}\nsecure={secure}\ntopic={}\npartitions={}\ncluster_id={}\n",
            self.mode.name(),
            self.version,
            self.port,
            self.host,
            self.topic,
            self.partitions,
            self.id,
        );
        let (new, path) = (self.data.join(format!("{MARKER}.new")), self.data.join(MARKER));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(|e| failed(&path, &e))
    }

    /// Deletes what `up` made, the marker last, so that an interrupted `down` can be run again. Other files, and
    /// then the folder, are left alone.
    pub(super) fn remove_files(data: &Path) -> Result<(), Failure> {
        let of_brokers = super::BROKERS.map(|n| format!("broker-{n}"));
        let folders = of_brokers.iter().map(String::as_str).chain(["secure", "secure.new"]);
        let new = format!("{MARKER}.new");
        let gone = |path: &Path, removed: io::Result<()>| match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(path, &e)),
            _ => Ok(()),
        };
        for path in folders.map(|name| data.join(name)) {
            gone(&path, fs::remove_dir_all(&path))?;
        }
        for path in [new.as_str(), MARKER].map(|name| data.join(name)) {
            gone(&path, fs::remove_file(&path))?;
        }
        if data.exists() && fs::remove_dir(data).is_err() {
            log::warn!(data = data.display().to_string(), reason = "other files in it"; "folder kept");
        }
        Ok(())
    }
}

/// Whether `up` may make a cluster there: a folder that is not there yet, or an empty one.
pub(super) fn is_free(data: &Path) -> bool {
    !data.exists() || fs::read_dir(data).is_ok_and(|mut files| files.next().is_none())
}

/// The one path of a data folder.
///
/// # Errors
/// Usage, when Kafka cannot use it.
pub(super) fn usable(data: &Path) -> Result<PathBuf, Failure> {
    let wrong =
        |allowed: &str| Failure::flag("--data", format_args!("'{}'", data.display()), allowed);
    if data.as_os_str().is_empty() {
        return Err(wrong("not a folder; allowed: a path"));
    }
    let path =
        std::path::absolute(data).and_then(|path| real(&path)).map_err(|e| failed(data, &e))?;
    let is_plain = |c: char| (' '..='~').contains(&c) && c != ',' && c != '\\';
    match path.to_str().is_some_and(|path| path.chars().all(is_plain)) {
        true => Ok(path),
        false => Err(wrong(
            "Kafka cannot use this path; allowed: printable ASCII without comma or backslash",
        )),
    }
}

/// The one path of a folder that may not exist yet: two runs must not take two paths of one folder
/// for two folders.
///
/// # Errors
/// When a part of it cannot be read.
pub fn real(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(real(parent)?.join(name)),
            _ => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// The id of a new cluster.
///
/// # Errors
/// When there is no chance to be had.
pub fn new_id() -> Result<String, Failure> {
    random::<16>()
}

/// So many random bytes, as letters and digits.
pub(super) fn random<const BYTES: usize>() -> Result<String, Failure> {
    let (mut bytes, path) = ([0; BYTES], Path::new("/dev/urandom"));
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| failed(path, &e))?;
    Ok(STANDARD_NO_PAD.encode(bytes).replace('+', "a").replace('/', "b"))
}

/// What went wrong with a file.
pub(super) fn failed(path: &Path, e: &io::Error) -> Failure {
    Failure::Failed(format!("{}: cannot be used: {e}", path.display()))
}
