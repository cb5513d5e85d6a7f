//! How fast what was spilled comes back, against the disk's own sequential read; how long a full folder takes to open; what
//! an append costs. `cargo bench --bench spill -- [DIR] [GiB]` (the target folder's disk, 2 GiB)
//!
//! Runs of 100 events of 536 B, as they are spilled under load. Before each read the pages of the files are dropped from
//! memory, so both read the disk: in turn, three rounds, the median. Reading includes the CRC-32C and the building of runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a benchmark fails")]

use std::fs::{self, File};
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backpressure_lab::event::Event;
use backpressure_lab::queue::spill::disk::Folder;
use backpressure_lab::queue::spill::log::{Appended, Limits, Log};
use backpressure_lab::queue::spill::segment::SEGMENT_BYTES;
use backpressure_lab::queue::spill::{Commit, Keeper as _};
use backpressure_lab::source::Assigned;
use backpressure_lab::source::run::Builder;
use backpressure_lab::source::spilled::Keeper;
use backpressure_lab::telemetry::metrics::{Metrics, ProcessorMetrics};
use backpressure_lab::transform::Transform;

const EVENTS: usize = 100;
const ROUNDS: usize = 3;
const OWNER: &str = "topic bench, group bench";

fn main() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let dir = words.first().map_or_else(|| PathBuf::from("target/spill-bench"), PathBuf::from);
    let gib: f64 = words.get(1).map_or(2.0, |word| word.parse().expect("GiB"));
    let bytes_max = (gib * (1_u64 << 30) as f64) as u64;
    let limits = Limits { bytes_max, segment_bytes: SEGMENT_BYTES };
    let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
    let keeper =
        Keeper::new(Commit::Spilled, Transform::Digest, NonZeroUsize::MIN, EVENTS, metrics);

    let open = || {
        let folder = Folder::open(&dir).expect("a folder");
        Log::open(Box::new(folder), limits, Commit::Spilled, OWNER).expect("it opens")
    };
    let mut log = open();
    let payload = payload(&keeper);
    let begun = Instant::now();
    let mut records = 0_u64;
    while let Appended::Yes(_) = log.append(&payload, EVENTS as u32).expect("appended") {
        records += 1;
    }
    let (file, _) = log.unsynced().expect("something");
    file.sync().expect("synced");
    let written = begun.elapsed();
    let bytes = log.bytes() as f64;
    drop((log, file));
    println!(
        "written: {:.2} GB in {records} records of {EVENTS} events, a sync each 8 MiB: {:.0} MB/s",
        bytes / 1e9,
        rate(bytes, written)
    );

    let mut opened = Vec::new();
    let (mut plain, mut drained) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        forget(&dir);
        plain.push(rate(bytes, read_plainly(&dir)));
        forget(&dir);
        let begun = Instant::now();
        let mut log = open();
        opened.push(begun.elapsed().as_secs_f64() * 1000.0);
        let begun = Instant::now();
        let mut events = 0;
        while let Some(record) = log.read_next().expect("read") {
            let runs = keeper.load(record.payload).expect("a run");
            events += runs.iter().map(|(_, run)| run.len()).sum::<usize>();
        }
        assert_eq!(events as u64, records * EVENTS as u64);
        drained.push(rate(bytes, begun.elapsed()));
    }
    let (plain, drained, opened) = (median(plain), median(drained), median(opened));
    println!("opened: {opened:.1} ms");
    println!("read plainly: {plain:.0} MB/s");
    println!("drained: {drained:.0} MB/s, {:.2} of it", drained / plain);
    fs::remove_dir_all(&dir).expect("removed");
}

/// A run as it stands on disk.
fn payload(keeper: &Keeper) -> Vec<u8> {
    let assigned = Arc::new(Assigned::new(1, 0, 0));
    let mut builder = Builder::new(1, EVENTS, Transform::Digest);
    for id in 0..EVENTS as u64 {
        let (mut value, payload) = (Vec::new(), vec![id as u8; 512].into());
        Event { id, key: id, ts_us: 0, payload }.encode(&mut value);
        assert!(builder.push(0, id as i64, &value, (&assigned, 0)));
    }
    let (_, run) = builder.finish().next().expect("a run");
    let mut bytes = Vec::new();
    assert!(keeper.store(0, &run, &mut bytes));
    bytes
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("read").map(|entry| entry.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "spilled"));
    files.sort();
    files
}

/// Drops the files' pages from memory.
fn forget(dir: &Path) {
    for path in segments(dir) {
        let file = File::open(path).expect("opened");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("dropped");
    }
}

/// Reads every file from its first byte to its last, a mebibyte at a time.
fn read_plainly(dir: &Path) -> Duration {
    let mut bytes = vec![0; 1 << 20];
    let begun = Instant::now();
    for path in segments(dir) {
        let mut file = File::open(path).expect("opened");
        while file.read(&mut bytes).expect("read") > 0 {}
    }
    begun.elapsed()
}

fn rate(bytes: f64, time: Duration) -> f64 {
    bytes / 1e6 / time.as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().expect("some")
}
