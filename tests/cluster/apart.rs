//! Brokers, producers, two processors and a sink on hosts of their own, 20 ms apart each way.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backpressure_lab::http::client;
use serde_json::Value;

use crate::common::{Ended, PATIENCE, Running, until};
use crate::wan::Wan;
use crate::{LAB, Place};

const DELAY: Duration = Duration::from_millis(20);
/// By number.
const BROKERS: usize = 1;
const PRODUCERS: usize = 2;
const PROCESSORS: [usize; 2] = [3, 4];
const SINK: usize = 5;
const EVENTS: i64 = 24_000;
const TOKEN: &str = "0123456789abcdef";

fn start(wan: &Wan, host: usize, binary: &str, line: &str) -> Running {
    let words = wan.on(host).into_iter().skip(1);
    let words = words.chain([binary.to_owned()]).chain(line.split_whitespace().map(str::to_owned));
    Running::start("nsenter", words)
}

fn well(ended: Ended, what: &str) -> Ended {
    assert!(ended.status.success(), "{what}: {ended:?}");
    ended
}

/// Its stdout, in a file.
fn kept(ended: &Ended, dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, &ended.stdout).expect("written");
    path
}

/// Prevents: an address that cannot be another host's; a client that gives up where an answer takes
/// 40 ms; producers of one load with the same ids; an audit that cannot join the summaries of two
/// producers and two processors.
#[test]
fn a_pipeline_whose_parts_are_on_hosts_of_their_own_loses_nothing() {
    let (wan, place) = (Wan::new(SINK, DELAY), Place::free());
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).expect("written");
    let token = format!("--token-file {}", file.display());
    let data = place.data.display();
    let cluster =
        |words: &str| start(&wan, BROKERS, LAB, &format!("cluster {words} --data {data}"));
    let host = Wan::address(BROKERS);
    let brokers = cluster(&format!("up --mode jvm --topic apart --host {host}")).end(PATIENCE * 2);
    let brokers = format!("--brokers {}", well(brokers, "brokers").stdout.trim());

    let at = |n: usize, port: u16| format!("{}:{port}", Wan::address(n));
    let to_sink = format!("http://{}", at(SINK, 9900));
    let listen = |n, port| format!("--listen {} {token}", at(n, port));
    let flags = format!("{} --rate-limit 4000", listen(SINK, 9900));
    let mut sink = start(&wan, SINK, env!("CARGO_BIN_EXE_sink"), &flags);
    sink.await_log("addr=");
    // They are as far apart as intended: a connection and an answer are two ways there and two
    // back.
    let asked = Instant::now();
    let probe = start(&wan, PRODUCERS, LAB, &format!("probe {to_sink}/readyz")).end(PATIENCE);
    well(probe, "the sink is asked");
    assert!(asked.elapsed() >= 4 * DELAY, "{:?}", asked.elapsed());

    let group = format!("{brokers} --topic apart --group apart");
    let processors = PROCESSORS.map(|n| {
        let flags = format!("{group} --sink {to_sink} {}", listen(n, 9902));
        let mut one = start(&wan, n, env!("CARGO_BIN_EXE_processor"), &flags);
        one.await_log("addr=");
        one
    });
    for n in PROCESSORS {
        let url = format!("http://{}/metrics", at(n, 9902));
        until(&format!("host {n} has half of the partitions"), || {
            let page = wan.within(n, || {
                client::agent(PATIENCE).get(&url).call().ok()?.body_mut().read_to_string().ok()
            });
            page.is_some_and(|page| page.lines().any(|line| line == "processor_partitions 6"))
        });
    }
    let producers = [(1, 9901), (2, 9911)].map(|(share, port)| {
        let load = format!("--schedule 3k:8s --share {share}/2 --topic apart");
        let flags = format!("{brokers} {load} {}", listen(PRODUCERS, port));
        start(&wan, PRODUCERS, env!("CARGO_BIN_EXE_producer"), &flags)
    });
    let said = producers.map(|one| well(one.end(PATIENCE), "a producer"));
    let summaries = [0, 1].map(|n| kept(&said[n], dir.path(), &format!("producer-{n}.json")));

    let delivered = || {
        let ledger = wan.within(SINK, || {
            let answer = client::agent(PATIENCE).get(format!("{to_sink}/ledger")).call();
            answer.ok()?.body_mut().read_to_string().ok()
        });
        serde_json::from_str::<Value>(&ledger?).ok()?["distinct"].as_i64()
    };
    until("every event is delivered", || delivered().is_some_and(|n| n >= EVENTS));
    let mut shares = Vec::new();
    let ended = processors.map(|one| {
        one.signal(libc::SIGTERM);
        well(one.end(PATIENCE), "a processor")
    });
    let processed = [0, 1].map(|n| {
        let summary: Value = serde_json::from_str(&ended[n].stdout).expect("a summary");
        shares.push(summary["acked"].as_i64().expect("a count"));
        kept(&ended[n], dir.path(), &format!("processor-{n}.json"))
    });
    assert!(shares.iter().all(|share| *share > EVENTS / 4), "{shares:?} of {EVENTS}");
    let files = |flag: &str, files: &[PathBuf]| {
        files.iter().map(|file| format!(" {flag} {}", file.display())).collect::<String>()
    };
    let line = format!(
        "audit {group} --sink {to_sink}{}{} --out {}",
        files("--producer", &summaries),
        files("--processor", &processed),
        dir.path().join("ledger.json").display()
    );
    well(start(&wan, BROKERS, LAB, &line).end(PATIENCE), "every id has one fate");
    well(cluster("down").end(PATIENCE), "down");
    sink.signal(libc::SIGTERM);
    well(sink.end(PATIENCE), "the sink");
}
