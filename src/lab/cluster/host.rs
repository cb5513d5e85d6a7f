//! What this machine must have before brokers are started: programs, free ports, room on the disk.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use super::Cluster;
use super::folder::{self, Mode};
use crate::failure::Failure;
use crate::lab::tools;

/// The oldest Java that Kafka 4 runs on.
const JAVA_MIN: u32 = 17;
/// For a listener on this machine to accept.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Checks that these programs exist. A missing one is named with its package on Debian or Ubuntu;
/// nothing is installed.
///
/// # Errors
/// When one is missing, or too old.
pub fn require(programs: &[&str]) -> Result<(), Failure> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| env::split_paths(&paths).any(|dir| dir.join(program).is_file());
    let missing: Vec<String> = programs
        .iter()
        .filter(|program| match **program {
            "java" => !has_java(),
            program => !is_there(program),
        })
        .map(|program| match *program {
            "java" => format!("java >= {JAVA_MIN} (apt-get install -y default-jre-headless)"),
            "keytool" => "keytool (apt-get install -y default-jre-headless)".into(),
            "mvn" => "mvn (apt-get install -y maven)".into(),
            "docker" => "docker (apt-get install -y docker.io docker-compose-v2)".into(),
            other => format!("{other} (apt-get install -y util-linux)"),
        })
        .collect();
    match missing.len() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} missing; on Debian or Ubuntu: {}",
            missing.join(", ")
        ))),
    }
}

/// Whether there is a Java that Kafka runs on.
pub fn has_java() -> bool {
    java_release().is_some_and(|release| release >= JAVA_MIN)
}

/// Of `version "17.0.2"` or `version "1.8.0"`.
fn java_release() -> Option<u32> {
    let said = Command::new("java").arg("-version").output().ok()?.stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    let version = said.split_once("version \"")?.1;
    let version = version.strip_prefix("1.").unwrap_or(version);
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Checks that there is room for the cluster's data.
///
/// # Errors
/// When there is less than `wanted` B.
pub fn check_disk(data: &Path, wanted: u64) -> Result<(), Failure> {
    let at = data.ancestors().find(|at| at.is_dir()).unwrap_or(data);
    let space = rustix::fs::statvfs(at).map_err(|e| folder::failed(at, &e.into()))?;
    let free = space.f_bavail * space.f_frsize;
    if free >= wanted {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "not enough disk for {}: {} free, {} needed; free some, choose another --data, or lower --min-disk",
        data.display(),
        ByteSize(free),
        ByteSize(wanted)
    )))
}

/// What is said of a port whose process may not be known.
const UNKNOWN: &str = "holder unknown";

/// A process that was killed has no name any more while the kernel ends its threads, and its ports are still open.
const CLOSES_WITHIN: Duration = Duration::from_secs(2);

/// Checks that the ports of these brokers are free.
///
/// # Errors
/// Names the process that listens there; or says that the host is no address of this machine.
pub fn check_ports(cluster: &Cluster, brokers: &[u32]) -> Result<(), Failure> {
    // Of this network namespace: those of another one can be reached, but not bound.
    let host = cluster.host;
    if TcpListener::bind((host, 0)).is_err() {
        return Err(Failure::Failed(format!(
            "--host {host}: no address of this machine: take one of 'ip -4 address', or leave it out"
        )));
    }
    let mut listeners = Vec::new();
    for n in brokers {
        listeners.push((cluster.plain_host(), cluster.broker_port(*n)));
        listeners.extend(cluster.secure.then(|| (host, cluster.secure_port(*n))));
        let is_jvm = cluster.mode == Mode::Jvm;
        listeners.extend(is_jvm.then(|| (Ipv4Addr::LOCALHOST, cluster.controller_port(*n))));
    }
    let since = Instant::now();
    loop {
        let busy = listeners.iter().filter(|(host, port)| answers(*host, *port));
        let busy: Vec<(Ipv4Addr, u16, String)> =
            busy.map(|(host, port)| (*host, *port, holder(*port))).collect();
        if busy.is_empty() {
            return Ok(());
        }
        let is_nobodys = busy.iter().all(|(.., holder)| holder == UNKNOWN);
        if is_nobodys && since.elapsed() < CLOSES_WITHIN {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let busy: Vec<String> =
            busy.iter().map(|(host, port, holder)| format!("{host}:{port} ({holder})")).collect();
        return Err(Failure::Failed(format!(
            "port in use: {}; free it or choose another --port",
            busy.join(" ")
        )));
    }
}

/// Whether a process listens there.
pub fn answers(host: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((host, port)), ANSWER_WITHIN).is_ok()
}

/// `"java",pid=123` of `users:(("java",pid=123,fd=4))`, where we may know it.
fn holder(port: u16) -> String {
    let shown = tools::run(&["ss", "-Hltnp", &format!("sport = :{port}")]).unwrap_or_default();
    let named = shown.split_once("users:((").and_then(|(_, users)| users.split_once(",fd="));
    named.map_or(UNKNOWN, |(holder, _)| holder).to_owned()
}
