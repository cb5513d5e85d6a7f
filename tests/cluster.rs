//! `lab cluster` as a user runs it: real brokers of its own on free ports, and what is left after
//! its end.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

#[path = "cluster/apart.rs"]
mod apart;
mod common;
#[path = "cluster/wan.rs"]
mod wan;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::{Ended, PATIENCE, Running};

const LAB: &str = env!("CARGO_BIN_EXE_lab");

/// A cluster's folder and port; dropping it removes the cluster, however the test ends.
struct Place {
    _dir: tempfile::TempDir,
    data: PathBuf,
    port: u16,
}

impl Place {
    /// The port is the first of nine free ones, below those that the system gives to connections.
    fn free() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let data = fs::canonicalize(dir.path()).expect("path").join("cluster");
        let is_free = |port: &u16| {
            let all = [0, 1, 2, 10, 11, 12, 100, 101, 102].map(|n| port + n);
            all.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        };
        let seed =
            data.as_os_str().as_encoded_bytes().iter().fold(std::process::id(), |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
            });
        let from = 20_000 + (seed % 11_000) as u16;
        let port = (from..32_000).step_by(3).find(is_free).expect("nine free ports");
        Self { _dir: dir, data, port }
    }

    fn start(&self, words: &str) -> Running {
        let data = self.data.display().to_string();
        let flags = ["--data", data.as_str()];
        Running::start(LAB, ["cluster"].into_iter().chain(words.split_whitespace()).chain(flags))
    }

    fn run(&self, words: &str) -> Ended {
        self.start(words).end(PATIENCE)
    }

    /// Its answer; the command must succeed.
    fn answer(&self, words: &str) -> String {
        let ended = self.run(words);
        assert_eq!(ended.status.code(), Some(0), "{words}: {ended:?}");
        ended.stdout.trim().to_owned()
    }

    fn start_up(&self, flags: &str) -> Running {
        let port = self.port;
        let mut up = self.start(&format!("up --mode jvm --port {port} {flags}"));
        up.await_log("msg=\"broker starting\" broker=3");
        up
    }

    /// Processes that belong to it.
    fn processes(&self) -> Vec<String> {
        let tag = format!("-Dbackpressure.lab.broker={}", self.data.display());
        let all = fs::read_dir("/proc").expect("proc").flatten();
        all.filter_map(|entry| {
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&words)
                .contains(&tag)
                .then(|| entry.path().display().to_string())
        })
        .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run("down");
        assert!(std::thread::panicking() || self.processes().is_empty());
    }
}

/// Prevents: a mistyped command that touches a cluster; an error message that does not help.
#[test]
fn what_is_wrong_is_named_before_anything_is_touched() {
    let place = Place::free();
    for (words, said) in [
        ("", "no verb given; allowed: fetch up"),
        ("lift", "unknown verb 'lift'"),
        ("up now", "up takes no 'now'"),
        ("up --nosuch", "--nosuch"),
        ("up --port 80", "1024 to 65335"),
        ("up --partitions 1001", "1 to 1000"),
        ("up --version 2.8.0", "3.9.x or 4.x.y"),
        ("up --host kafka.example", "an IPv4 address"),
        ("up --mode podman", "auto, docker, jvm"),
        ("up --id short", "22 letters and digits"),
        ("up --secure --mode docker", "--mode jvm, auto"),
        ("up --min-disk much", "512MiB"),
        ("up --topic no/topic", "1 to 249 letters"),
        ("down --port 19092", "--port is a flag of 'up', not of 'down'"),
        ("topic create t --version 4.4.0", "--version is a flag of 'up' and 'fetch'"),
        ("topic grow t", "needs --partitions"),
        ("topic create t --config a=b;c", "KEY=VALUE"),
        ("topic delete", "allowed: create NAME"),
        ("kill 4", "1, 2 or 3"),
        ("stop", "1, 2 or 3"),
        ("coordinator", "one GROUP"),
    ] {
        let ended = place.run(words);
        assert_eq!(ended.status.code(), Some(2), "{words}: {ended:?}");
        assert!(ended.stderr.contains(said), "{words}: {said}: {ended:?}");
    }
    let help = Running::start(LAB, ["cluster", "--help"]).end(PATIENCE);
    assert!(
        help.status.success() && help.stdout.contains("topic grow NAME --partitions N"),
        "{help:?}"
    );
    assert!(!place.data.exists());
}

/// Prevents: brokers beside another process's on a port; a user's files deleted.
#[test]
fn what_is_somebody_elses_is_said_and_left_alone() {
    let place = Place::free();
    let _foreign = TcpListener::bind(("127.0.0.1", place.port + 1)).expect("free");
    let up = format!("up --mode jvm --topic t --port {}", place.port);
    let ended = place.run(&up);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let named = format!("port in use: 127.0.0.1:{} (\"cluster", place.port + 1);
    let pid = format!("pid={}", std::process::id());
    assert!(ended.stderr.contains(&named) && ended.stderr.contains(&pid), "{ended:?}");
    assert!(!place.data.exists());

    for (words, said) in [
        ("down", "nothing is deleted"),
        (up.as_str(), "is no cluster's folder"),
        ("status", "no cluster in"),
        ("topic list", "run/cluster.sh up --data"),
    ] {
        fs::create_dir_all(&place.data).expect("made");
        fs::write(place.data.join("thesis.txt"), "mine").expect("written");
        let ended = place.run(words);
        assert_eq!(ended.status.code(), Some(1), "{words}: {ended:?}");
        assert!(ended.stderr.contains(said), "{words}: {ended:?}");
    }
    fs::remove_dir_all(&place.data).expect("removed");
    let disk = place.run("up --mode jvm --min-disk 1TiB");
    assert!(disk.stderr.contains("not enough disk for"), "{disk:?}");
}

/// Prevents: a broker or a folder left after a Ctrl-C.
#[test]
fn an_up_that_is_interrupted_leaves_nothing() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let place = Place::free();
        let up = place.start_up("");
        up.signal(signal);
        let ended = up.end(PATIENCE);
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(!place.data.exists() && place.processes().is_empty(), "{ended:?}");
    }
}

/// Prevents: a cluster that is taken for a user's, and stays, because its run was killed while its brokers started.
#[test]
fn a_run_that_is_killed_while_its_brokers_start_is_known_by_the_next() {
    let place = Place::free();
    let (data, port) = (place.data.display().to_string(), place.port.to_string());
    let out = place.data.with_file_name("out").display().to_string();
    let words = ["run", "exp2", "--quick", "--data", &data, "--port", &port, "--out", &out];
    let mut run = Running::start(LAB, words);
    run.await_log("msg=\"broker starting\"");
    run.signal(libc::SIGKILL);
    run.end(PATIENCE);
    let marker = fs::read_to_string(place.data.join("backpressure-lab.cluster")).expect("a marker");
    let lock = fs::read_to_string(place.data.with_file_name("cluster.lock")).expect("a lock");
    assert!(marker.contains(&format!("cluster_id={}\n", lock.trim())), "{marker}{lock}");
    assert_eq!(lock.trim().len(), 22);
}

/// Prevents: a second cluster beside one that a killed `up` left; a password that others can read;
/// a dead broker that is not restarted; a cluster that is taken for another; a folder left by
/// `down`.
#[test]
fn a_cluster_lives_once_however_often_it_is_started() {
    let place = Place::free();
    let mut killed = place.start_up("--secure --partitions 3");
    killed.await_log("broker up");
    killed.signal(libc::SIGKILL);
    killed.end(PATIENCE);
    assert!(!place.processes().is_empty(), "brokers outlive their `up`");

    let port = place.port;
    let list = [10, 11, 12].map(|n| format!("127.0.0.1:{}", port + n)).join(",");
    assert_eq!(place.answer("up"), list);
    let status = place.answer("status");
    let again = place.run("up --mode auto --secure");
    assert_eq!((again.status.code(), again.stdout.trim()), (Some(0), list.as_str()), "{again:?}");
    assert!(again.stderr.contains("cluster already up"), "{again:?}");
    assert_eq!(place.processes().len(), 3);
    let pids = |status: &str| -> Vec<String> {
        status.lines().map(|line| line.split(' ').nth(2).expect("a pid").to_owned()).collect()
    };
    assert_eq!(pids(&status), pids(&place.answer("status")), "the same brokers");
    assert!(status.starts_with("broker=1 state=up pid="), "{status}");
    let other = place.run("up --port 1024");
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert!(other.stderr.contains(&format!("port={port} host=127.0.0.1 secure=yes")), "{other:?}");

    let password = fs::read_to_string(place.data.join("secure/password")).expect("a password");
    for (name, mode) in [("secure", 0o700), ("broker-1", 0o700), ("broker-3", 0o700)] {
        let found = fs::metadata(place.data.join(name)).expect("there").permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    for process in place.processes() {
        let words = fs::read(Path::new(&process).join("cmdline")).expect("running");
        assert!(!String::from_utf8_lossy(&words).contains(&password));
    }

    assert_eq!(place.answer("topic list"), "events");
    place.answer("topic create t --partitions 2 --config retention.ms=60000");
    place.answer("topic create t --partitions 2");
    let differs = place.run("topic create t --partitions 4");
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    assert!(differs.stderr.contains("t exists with 2 partitions, not 4"), "{differs:?}");
    place.answer("topic grow t --partitions 4");
    let shrunk = place.run("topic grow t --partitions 1");
    assert!(shrunk.stderr.contains("does not grow to 1"), "{shrunk:?}");
    assert_eq!(place.answer("topic list"), "events\nt");
    place.answer("topic delete t");
    place.answer("topic delete t");
    assert_eq!(place.answer("topic list"), "events");
    assert!(["1", "2", "3"].contains(&place.answer("coordinator somebody").as_str()));

    place.answer("kill 2");
    let status = place.run("status");
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    let line = format!("broker=2 state=down pid=- port={} rss_mib=0", port + 1);
    assert!(status.stdout.contains(&line), "{status:?}");
    assert_eq!(place.answer("up"), list);
    place.answer("status");

    fs::write(place.data.join("notes.txt"), "mine").expect("written");
    let down = place.run("down");
    assert!(down.status.success() && down.stderr.contains("folder kept"), "{down:?}");
    assert_eq!(fs::read_dir(&place.data).expect("there").count(), 1);
    fs::remove_dir_all(&place.data).expect("mine");
    let down = place.run("down");
    assert!(down.status.success() && down.stderr.contains("already down"), "{down:?}");
}

/// Stands in for Docker, with an engine: containers are files. It cannot show what a container does.
const DOCKER: &str = r#"#!/bin/sh
dir=$(dirname "$0"); echo "$KAFKA_PORT_3 $*" >>"$dir/asked"
for last; do :; done
case "$*" in
  'compose -f'*) cat >"$dir/compose.yaml" ;;
esac
case "$*" in
  *' up -d --no-deps '*) touch "$dir/$last" ;;
  *' ps -q --status running '*) [ ! -e "$dir/$last" ] || echo "id-$last" ;;
  *' kill '*) rm "$dir/$last" ;;
  *' down '*) rm -f "$dir"/broker-* ;;
  *State.Pid*) echo "4194$(echo "$last" | tail -c 2)" ;;
  *Health*) echo healthy ;;
esac
"#;

/// Prevents: containers that are started with the wrong arguments, or twice, or left.
#[test]
fn containers_are_started_asked_and_deleted_by_compose() {
    let (place, bin) = (Place::free(), tempfile::tempdir().expect("dir"));
    let docker = bin.path().join("docker");
    fs::write(&docker, DOCKER).expect("written");
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).expect("executable");
    let path = format!("PATH={}:{}", bin.path().display(), std::env::var("PATH").expect("a path"));
    let data = place.data.display().to_string();
    let run = |words: &str| {
        let all = [path.as_str(), LAB, "cluster", "--data", &data];
        Running::start("env", all.into_iter().chain(words.split(' '))).end(PATIENCE)
    };
    let up = format!("up --mode docker --port {} --topic=", place.port);
    for _ in 0..2 {
        let ended = run(&up);
        let list = [0, 1, 2].map(|n| format!("127.0.0.1:{}", place.port + n)).join(",");
        assert_eq!(
            (ended.status.code(), ended.stdout.trim()),
            (Some(0), list.as_str()),
            "{ended:?}"
        );
    }
    assert_eq!(run("kill 2").status.code(), Some(0));
    let status = run("status");
    assert!(status.stdout.contains("broker=1 state=up pid=41941 "), "{status:?}");
    assert!(status.stdout.contains("broker=2 state=down pid=- "), "{status:?}");
    let elsewhere = run("up --mode docker --host 127.0.0.2");
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    let ended = run("down");
    assert!(ended.status.success() && !place.data.exists(), "{ended:?}");
    let asked = fs::read_to_string(bin.path().join("asked")).expect("asked");
    let starts = asked.lines().filter(|line| line.contains(" up -d --no-deps broker-")).count();
    assert_eq!(starts, 3, "{asked}");
    assert!(
        asked.contains(&format!("{} compose -f - -p backpressure-lab-", place.port + 2)),
        "{asked}"
    );
    let compose = fs::read_to_string(bin.path().join("compose.yaml")).expect("given");
    assert!(compose.contains("apache/kafka:${KAFKA_VERSION"), "{compose}");
}
