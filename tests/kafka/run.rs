//! `lab run` and `lab bench` as a user runs them, on the tests' brokers: what they print before a
//! run, and what is left after an interrupted one.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::cluster::cluster;
use crate::common::{PATIENCE, Running};

const LAB: &str = env!("CARGO_BIN_EXE_lab");

fn lab(flags: &str) -> Running {
    Running::start(LAB, flags.split_whitespace())
}

/// Prevents: a dry run that runs something, or shows other flags than the ones used.
#[test]
fn a_dry_run_prints_commands_and_prediction_and_touches_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let ended =
        lab(&format!("run all --quick --dry-run --out {}", dir.path().display())).end(PATIENCE);
    assert!(ended.status.success(), "{ended:?}");
    for what in
        ["# exp7 shed-2s", "--queue-cap 2200 --policy shed", "# exp2, predicted", "chaos stall"]
    {
        assert!(ended.stdout.contains(what), "{what}: {}", ended.stdout);
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
}

/// Prevents: an experiment that is started although it cannot run; an error message that does not
/// help.
#[test]
fn what_cannot_be_run_is_refused_before_anything_starts() {
    let (dir, other) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    std::fs::write(other.path().join("thesis.txt"), "mine").expect("written");
    let (data, foreign) = (dir.path().join("c").display().to_string(), other.path().display());
    for (flags, code, said) in [
        ("run exp0".to_owned(), 2, "allowed: all, ceiling"),
        ("run faults --quick nosuch".into(), 2, "processor-killed"),
        ("run exp2 sink-killed".into(), 2, "only faults"),
        ("run exp2 --arm bounded".into(), 2, "allowed: pull, unbounded"),
        ("run all --arm pull".into(), 2, "of one experiment"),
        ("run exp2 --repeat 0".into(), 2, "expected 1 to 20"),
        ("bench sprint".into(), 2, "race, producer, curve"),
        ("bench --rounds 0".into(), 2, "from 1 to 999"),
        ("bench curve --events 999".into(), 2, "from 1000 to 99999999"),
        ("bench --client wire,java".into(), 2, "wire, kafka, or both"),
        ("bench --kafka 3.8.0".into(), 2, "3.9.x or 4.x.y"),
        ("bench --port 80".into(), 2, "from 1024 to 65335"),
        (format!("bench --data {data} --out {foreign}"), 1, "holds something else"),
        (format!("run exp2 --quick --data {data} --source /nowhere"), 1, "/nowhere"),
        (format!("run all --quick --data {foreign} --out {data}-results"), 1, ""),
    ] {
        let ended = lab(&flags).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(code), "{flags}: {ended:?}");
        assert!(code == 1 || ended.stderr.contains(said), "{flags}: {ended:?}");
    }
    assert_eq!(std::fs::read_to_string(other.path().join("thesis.txt")).expect("there"), "mine");
}

/// Prevents: a Ctrl-C, and a second one in the middle of the clean-up, after which a process, a topic or a
/// lock is left; a second run on the same cluster meanwhile.
#[test]
fn a_run_that_is_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let (source, out) = (env!("CARGO_MANIFEST_DIR"), dir.path().join("out"));
    let data = std::env::var("LAB_CLUSTER_DATA").expect("run this through run/test.sh");
    let flags = format!("run exp2 --quick --source {source} --out {} --data {data}", out.display());
    // Where the cluster asks for a password.
    let config = format!("LAB_COMMAND_CONFIG={data}/secure/client.properties");
    let config = Path::new(&data).join("secure").exists().then_some(config);
    let words = config.as_deref().into_iter().chain([LAB]).chain(flags.split(' '));
    let mut run = Running::start("env", words);
    run.await_log("msg=\"live page\"");
    let second = lab(&flags).end(PATIENCE);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.stderr.contains("another run uses the cluster"), "{second:?}");

    let samples = out.join("pull/samples.jsonl");
    let end = Instant::now() + PATIENCE;
    while std::fs::metadata(&samples).map_or(0, |file| file.len()) < 2000 {
        assert!(Instant::now() < end, "nothing is sampled: {}", run.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let commands = std::fs::read_to_string(out.join("pull/commands.txt")).expect("commands");
    let watched = commands.split("--process ").nth(1).expect("a watch").split(' ').next();
    let pids: Vec<&str> = watched
        .expect("a list")
        .split(',')
        .filter(|process| !process.starts_with("broker"))
        .filter_map(|process| Some(process.split_once('=')?.1))
        .collect();
    assert_eq!(pids.len(), 3, "{commands}");
    let topic = format!("exp2-pull-{}", run.pid());
    assert!(cluster(&["topic", "list"]).contains(&topic));

    run.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    run.signal(libc::SIGINT);
    let ended = run.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let left: Vec<&&str> =
        pids.iter().filter(|pid| Path::new("/proc").join(pid).exists()).collect();
    assert!(left.is_empty(), "{left:?} still run");
    assert!(!cluster(&["topic", "list"]).contains(&topic));
    assert!(!Path::new(&format!("{data}.lock")).exists());
}
