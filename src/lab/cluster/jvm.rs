//! Brokers as plain JVMs, from jars of Maven Central.
//!
//! Invariant: a broker is known by the tag on its own command line, from its first moment on. A pid file can go
//! stale, this cannot.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::folder::failed;
use super::{Cluster, Engine, UP_WITHIN, host, not_had, properties, secure};
use crate::failure::Failure;
use crate::lab::interrupt::Interrupt;
use crate::lab::tools;

/// The jars that Maven fetches. Kafka's release is pinned there.
pub const POM: &str = include_str!("pom.xml");
/// 200 MB over a slow line.
const FETCH_WITHIN: Duration = Duration::from_secs(900);

/// See the module.
pub struct Jvm;

impl Engine for Jvm {
    /// One folder of jars a version. It is filled elsewhere and renamed, so it is whole or absent.
    fn fetch(&self, version: &str, interrupt: &Interrupt) -> Result<(), Failure> {
        let jars = jars(version)?;
        if jars.is_dir() {
            return Ok(());
        }
        host::require(&["mvn"])?;
        let dir = jars.display().to_string();
        let filling = PathBuf::from(format!("{dir}.{}", std::process::id()));
        log::info!(version = version, dir = dir; "fetching jars");
        let _of_a_killed_run = fs::remove_dir_all(&filling);
        fs::create_dir_all(&filling).map_err(|e| failed(&filling, &e))?;
        let filled = fill(&filling, version, interrupt).and_then(|()| {
            let renamed = fs::rename(&filling, &jars);
            // Another run may have been first.
            renamed.or_else(|e| if jars.is_dir() { Ok(()) } else { Err(failed(&jars, &e)) })
        });
        let _nothing_left = fs::remove_dir_all(&filling);
        filled?;
        let count = fs::read_dir(&jars).map_or(0, |files| files.count());
        log::info!(version = version, count = count, dir = dir; "jars ready");
        Ok(())
    }

    fn pids(&self, cluster: &Cluster, n: u32) -> Vec<u32> {
        pids(&cluster.data, n)
    }

    fn is_ready(&self, cluster: &Cluster, n: u32) -> bool {
        host::answers(cluster.plain_host(), cluster.broker_port(n))
            && (!cluster.secure || host::answers(cluster.host, cluster.secure_port(n)))
    }

    fn launch(
        &self,
        cluster: &Cluster,
        brokers: &[u32],
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        keep_descriptors();
        let formats: Vec<Option<Child>> =
            brokers.iter().map(|n| begin_format(cluster, *n)).collect::<Result<_, _>>()?;
        for (n, child) in brokers.iter().zip(formats) {
            if let Some(mut child) = child
                && !tools::ended(&mut child, UP_WITHIN, interrupt)?.is_some_and(|end| end.success())
            {
                return Err(
                    cluster.died(*n, "ended while starting: its storage cannot be formatted")
                );
            }
            start(cluster, *n)?;
        }
        Ok(())
    }

    fn signal(&self, cluster: &Cluster, n: u32, with: Signal) {
        signal(&cluster.data, n, with);
    }

    fn last_words(&self, cluster: &Cluster, n: u32) -> String {
        tools::last_lines(&dir(cluster, n).join("broker.log"))
    }
}

/// The processes that carry the tag of broker `n` as a whole argument. One that ended has no arguments.
pub fn pids(data: &Path, n: u32) -> Vec<u32> {
    let tag = tag(data, n);
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let is_tagged = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == tag.as_bytes())
    };
    processes.flatten().filter_map(pid).filter(is_tagged).collect()
}

/// Signals broker `n`, if it is there.
pub fn signal(data: &Path, n: u32, with: Signal) {
    for pid in pids(data, n) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let _may_be_gone = kill_process(pid, with);
        }
    }
}

fn tag(data: &Path, n: u32) -> String {
    format!("-Dbackpressure.lab.broker={}/broker-{n}", data.display())
}

fn dir(cluster: &Cluster, n: u32) -> PathBuf {
    cluster.data.join(format!("broker-{n}"))
}

fn jars(version: &str) -> Result<PathBuf, Failure> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let nowhere =
        || Failure::Failed("no folder for Kafka's jars: set HOME or XDG_CACHE_HOME".into());
    Ok(cache.ok_or_else(nowhere)?.join(format!("backpressure-lab/kafka-{version}")))
}

fn fill(filling: &Path, version: &str, interrupt: &Interrupt) -> Result<(), Failure> {
    let pom = filling.join("pom.xml");
    fs::write(&pom, POM).map_err(|e| failed(&pom, &e))?;
    let (pom_at, to) =
        (pom.display().to_string(), format!("-DoutputDirectory={}", filling.display()));
    let fetched = tools::attend(
        &[
            "mvn",
            "-B",
            "-q",
            "-Dstyle.color=never",
            "-f",
            &pom_at,
            &format!("-Dkafka.version={version}"),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            &to,
        ],
        FETCH_WITHIN,
        interrupt,
    );
    fetched.map_err(not_had(
        "Maven could not supply",
        version,
        "'run/cluster.sh up' without one",
    ))?;
    fs::remove_file(&pom).map_err(|e| failed(&pom, &e))
}

/// The first arguments of both of a broker's JVMs.
fn java(cluster: &Cluster, n: u32) -> Result<Vec<String>, Failure> {
    let jars = format!("{}/*", jars(&cluster.version)?.display());
    let words = ["java", &tag(&cluster.data, n), "-cp", &jars];
    Ok(words.map(str::to_owned).into())
}

/// Formats the storage of broker `n`, if it has none. The tool gets the password by stdin, so that `ps` does not
/// show it; its stdout is dropped, because Kafka 4 prints the password's hashes.
fn begin_format(cluster: &Cluster, n: u32) -> Result<Option<Child>, Failure> {
    let dir = dir(cluster, n);
    // Its settings hold the password, its data the password's hashes.
    match cluster.secure {
        true => secure::make_private(&dir)?,
        false => fs::create_dir_all(&dir).map_err(|e| failed(&dir, &e))?,
    }
    let settings = dir.join("server.properties");
    let text = properties::of_broker(cluster, n, &dir)?;
    fs::write(&settings, text).map_err(|e| failed(&settings, &e))?;
    let log = dir.join("broker.log");
    let _there_may_be_none = fs::rename(&log, dir.join("broker.log.previous"));
    if dir.join("data/meta.properties").exists() {
        return Ok(None);
    }
    let mut words = java(cluster, n)?;
    words.extend(
        ["-Xmx128m", "-XX:TieredStopAtLevel=1", "@/dev/stdin", "--cluster-id"].map(str::to_owned),
    );
    words.extend([cluster.id.clone(), "--config".into(), settings.display().to_string()]);
    let users = if cluster.secure { secure::users(&cluster.data)? } else { String::new() };
    let mut command = tools::tied(&words);
    command.stdout(Stdio::null()).stderr(appended(&log)?);
    let child = tools::fed(&mut command, &format!("kafka.tools.StorageTool format\n{users}"));
    child.map(Some).map_err(|e| Failure::Failed(format!("setpriv java: {e}")))
}

/// Starts broker `n` in a session of its own, so that a Ctrl-C at the caller's terminal does not
/// reach it; and detached, so that it outlives us and leaves no zombie.
fn start(cluster: &Cluster, n: u32) -> Result<(), Failure> {
    let dir = dir(cluster, n);
    let log = dir.join("broker.log");
    let started = Command::new("setsid")
        .arg("--fork")
        .args(java(cluster, n)?)
        .args(["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Xms384m", "-Xmx384m"])
        .arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS")
        .arg("kafka.Kafka")
        .arg(dir.join("server.properties"))
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(appended(&log)?)
        .stderr(appended(&log)?)
        .status();
    started.map(drop).map_err(|e| Failure::Failed(format!("setsid java: {e}")))
}

fn appended(log: &Path) -> Result<File, Failure> {
    let file = File::options().append(true).create(true).open(log);
    file.map_err(|e| failed(log, &e))
}

/// A lock or a pipe of the caller must not live on in a broker. Our own files are closed in it anyway.
fn keep_descriptors() {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for fd in numbers.filter(|fd| *fd > 2) {
        // SAFETY: it sets a flag of a descriptor, or fails when that is closed by now; it closes none.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
