//! The spill with its thread, its memory queue and a keeper whose runs are numbers; the log at its edges.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use super::super::{Dequeued, Kind, Load, Outlet, shared};
use super::disk::{Folder, View};
use super::log::Record;
use super::ram::Ram;
use super::segment::SEGMENT_BYTES;
use super::*;
use crate::telemetry::metrics::Metrics;

const LONG: Duration = Duration::from_secs(30);
const OWNER: &str = "topic t, group g";

/// A run of two events.
#[derive(Debug, PartialEq, Eq)]
struct Pair(u32);

impl Load for Pair {
    fn events(&self) -> usize {
        2
    }

    fn split_off(&mut self, _at: usize) -> Self {
        panic!("it is not cut")
    }
}

/// Which runs were let go, and which the sink acked.
#[derive(Clone, Default)]
struct Numbers {
    let_go: Arc<Mutex<Vec<u32>>>,
    acked: Arc<Mutex<BTreeSet<u32>>>,
    unwanted: Arc<Mutex<BTreeSet<u32>>>,
}

impl Keeper for Numbers {
    type Run = Pair;
    type Receipt = u32;

    fn store(&self, _shard: usize, run: &Pair, bytes: &mut Vec<u8>) -> bool {
        bytes.extend_from_slice(&run.0.to_be_bytes());
        bytes.resize(100, run.0 as u8);
        !self.unwanted.lock().contains(&run.0)
    }

    fn take_back(&self, _run: &Pair) {}

    fn durable(&self, run: Pair) {
        self.let_go.lock().push(run.0);
    }

    fn load(&self, bytes: &[u8]) -> Result<Vec<(usize, Pair)>, String> {
        let id = u32::from_be_bytes(*bytes.first_chunk().ok_or("too short")?);
        if bytes[4..] != [id as u8; 96] {
            return Err(format!("not the bytes of {id}"));
        }
        let is_wanted = !self.unwanted.lock().contains(&id);
        Ok(is_wanted.then_some((0, Pair(id))).into_iter().collect())
    }

    fn receipt(&self, run: &Pair) -> u32 {
        run.0
    }

    fn left(&self, receipt: &u32) -> usize {
        if self.acked.lock().contains(receipt) { 0 } else { 2 }
    }

    fn is_wanted(&self, run: &Pair) -> bool {
        !self.unwanted.lock().contains(&run.0)
    }
}

/// A spill of 10 events in memory, its worker's end, and how many events it found.
fn opened(
    disk: impl Disk + 'static,
    commit: Commit,
    keeper: &Numbers,
) -> (Arc<Spill<Numbers>>, Outlet<Pair>, u64) {
    let ten = Kind::Spill(NonZeroUsize::new(10).expect("not 0"));
    let (intake, mut outlets, _) = shared(ten, NonZeroUsize::MIN);
    let limits = Limits { bytes_max: 4000, segment_bytes: 1000 };
    let metrics = SpillMetrics::register(&Metrics::default()).expect("names");
    let (spill, found) = Spill::open(
        Box::new(disk),
        (limits, commit, OWNER),
        intake,
        keeper.clone(),
        (metrics, Stop::default()),
    )
    .expect("opens");
    (Arc::new(spill), outlets.remove(0), found)
}

fn started(spill: &Arc<Spill<Numbers>>) -> thread::JoinHandle<Result<(), Failure>> {
    let spill = Arc::clone(spill);
    thread::spawn(move || spill.run())
}

fn end(spill: &Spill<Numbers>, thread: thread::JoinHandle<Result<(), Failure>>) -> Left {
    spill.intake.gate().close();
    thread.join().expect("no panic").expect("no failure");
    spill.finish().expect("ends")
}

/// Dequeues so many runs, as a worker whose sink acks them at once.
fn served(outlet: &Outlet<Pair>, keeper: &Numbers, runs: usize) -> Vec<u32> {
    let one = |_| match outlet.dequeue(LONG) {
        Dequeued::Run(Pair(id)) => {
            keeper.acked.lock().insert(id);
            id
        }
        other => panic!("{other:?}"),
    };
    (0..runs).map(one).collect()
}

/// Prevents: a run that overtakes those on disk; more in memory than the capacity; a run that is lost between the two.
#[test]
fn runs_keep_their_order_through_the_disk_and_memory_keeps_its_limit() {
    for commit in [Commit::Acked, Commit::Spilled] {
        let (keeper, dir) = (Numbers::default(), tempfile::tempdir().expect("dir"));
        let folder = Folder::open(dir.path()).expect("made");
        let (spill, outlet, found) = opened(folder, commit, &keeper);
        assert_eq!(found, 0);
        let thread = started(&spill);
        let offering = Arc::clone(&spill);
        let offers = thread::spawn(move || {
            for id in 0..500 {
                assert_eq!(offering.offer(0, Pair(id), LONG), Offer::Queued, "{id}");
            }
        });
        while !offers.is_finished() && !spill.is_used() {
            thread::yield_now();
        }
        let mut ids = served(&outlet, &keeper, 100);
        assert!(spill.intake.room(0).is_some_and(|free| free <= 10));
        ids.extend(served(&outlet, &keeper, 400));
        offers.join().expect("no panic");
        assert!(ids.iter().copied().eq(0..500), "{ids:?}");
        assert!(spill.metrics.written_events.get() > 0, "nothing was on disk");
        assert!(spill.metrics.bytes.get() <= 4000);
        assert_eq!(end(&spill, thread), Left { events: 0 });
        // The disk is empty again, but for the lock and the note.
        assert_eq!((spill.metrics.bytes.get(), spill.metrics.segments.get()), (0, 0));
        let names = std::fs::read_dir(dir.path()).expect("read").count();
        assert!(names <= 2, "{names} files");
    }
}

/// Prevents: a full disk that blocks for ever, loses the run that it refuses, or stays full when a segment came back.
#[test]
fn a_full_disk_gives_the_run_back_and_takes_more_when_a_segment_is_given_back() {
    for commit in [Commit::Acked, Commit::Spilled] {
        let keeper = Numbers::default();
        let (spill, outlet, _) = opened(Ram::new(512), commit, &keeper);
        let thread = started(&spill);
        let mut taken = 0;
        while spill.offer(0, Pair(taken), Duration::from_millis(60)) == Offer::Queued {
            taken += 1;
        }
        // 5 in memory at most, and 112 B each on disk, beside the segments' headers.
        assert!((25..5 + 4000 / 112).contains(&taken), "{taken}");
        assert!(spill.metrics.full.get() > 0);
        let offering = Arc::clone(&spill);
        let waits = thread::spawn(move || offering.offer(0, Pair(taken), LONG));
        let ids = served(&outlet, &keeper, taken as usize + 1);
        assert!(ids.iter().copied().eq(0..=taken), "{ids:?}");
        assert_eq!(waits.join().expect("no panic"), Offer::Queued);
        end(&spill, thread);
    }
}

/// Prevents: a disk that is full of other things, below the limit, that ends the run or tears a record.
#[test]
fn a_disk_that_others_filled_is_full_and_no_failure() {
    let (keeper, ram) = (Numbers::default(), Ram::new(512));
    let (spill, outlet, _) = opened(ram.clone(), Commit::Spilled, &keeper);
    (0..8).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
    ram.set_room(spill.metrics.bytes.get() as usize + 50);
    assert_eq!(spill.offer(0, Pair(8), Duration::from_millis(1)), Offer::Full(Pair(8)));
    ram.set_room(usize::MAX);
    assert_eq!(spill.offer(0, Pair(8), LONG), Offer::Queued);
    let thread = started(&spill);
    assert!(served(&outlet, &keeper, 9).into_iter().eq(0..9));
    end(&spill, thread);
}

/// Prevents: an offset that is let go before its event is durable, or never; a process that is started again and
/// delivers new events first, or what was acked twice.
#[test]
fn what_was_let_go_is_delivered_first_by_the_next_process() {
    let (keeper, ram) = (Numbers::default(), Ram::new(512));
    let (spill, outlet, _) = opened(ram.clone(), Commit::Spilled, &keeper);
    (0..30).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
    let durable = spill.state().log.durable() / 2;
    assert!(durable < 30, "nothing is synced yet but by a segment that follows");
    assert_eq!(keeper.let_go.lock().len() as u64, durable);
    let thread = started(&spill);
    assert!(served(&outlet, &keeper, 12).into_iter().eq(0..12));
    let left = end(&spill, thread);
    assert!(keeper.let_go.lock().iter().copied().eq(0..30));
    assert_eq!(left, Left { events: 2 * (30 - 12) });
    drop(spill);

    let (spill, outlet, found) = opened(ram, Commit::Spilled, &keeper);
    assert_eq!(found, left.events);
    assert_eq!(spill.offer(0, Pair(30), LONG), Offer::Queued);
    let thread = started(&spill);
    assert!(served(&outlet, &keeper, 19).into_iter().eq(12..31));
    assert_eq!(end(&spill, thread), Left { events: 0 });
}

/// Prevents: offsets that are let go by a sync that succeeds after one that failed (fsyncgate): at the end of the process,
/// or when the next segment begins.
#[test]
fn after_a_sync_that_failed_nothing_is_let_go() {
    for first in [3, 30] {
        let (keeper, ram) = (Numbers::default(), Ram::new(512));
        let (spill, _outlet, _) = opened(ram.clone(), Commit::Spilled, &keeper);
        (0..3).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
        ram.fail_a_sync();
        // The one that begins a segment, or that of the thread.
        let taken = (3..first).take_while(|id| spill.offer(0, Pair(*id), LONG) == Offer::Queued);
        assert!(taken.count() < 27);
        spill.intake.gate().close();
        let ended = started(&spill).join().expect("no panic");
        assert_eq!(ended.is_err(), first == 3, "{ended:?}");
        spill.finish().expect("ends");
        assert!(keeper.let_go.lock().is_empty());
    }
}

/// Prevents: a revocation while the workers drain that waits for what was written and will not be synced before the end.
#[test]
fn a_closed_gate_lets_go_of_all_that_is_written() {
    let (keeper, ram) = (Numbers::default(), Ram::new(512));
    let (spill, _outlet, _) = opened(ram, Commit::Spilled, &keeper);
    (0..5).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
    spill.intake.gate().close();
    started(&spill).join().expect("no panic").expect("no failure");
    assert!(keeper.let_go.lock().iter().copied().eq(0..5));
}

/// Prevents: events that Kafka has delivered a second time from a folder that nobody synced; a folder that grows.
#[test]
fn committed_after_the_ack_nothing_is_let_go_and_what_is_left_is_thrown_away() {
    let (keeper, ram) = (Numbers::default(), Ram::new(512));
    let (spill, _outlet, _) = opened(ram.clone(), Commit::Acked, &keeper);
    (0..30).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
    assert!(keeper.let_go.lock().is_empty() && spill.metrics.syncs.get() == 0);
    let left = ram.after_crash(|_| true, true);
    assert!(left.names().expect("names").len() > 1);
    for disk in [left, ram.after_crash(|part| part % 3 == 1, true)] {
        for commit in [Commit::Acked, Commit::Spilled] {
            let (spill, _, found) = opened(disk.after_crash(|_| true, true), commit, &keeper);
            assert_eq!((found, spill.metrics.segments.get()), (0, 0));
        }
    }
    let thread = started(&spill);
    while spill.intake.room(0) != Some(0) {
        thread::yield_now();
    }
    // What is in memory, the workers return.
    assert_eq!(end(&spill, thread), Left { events: 2 * 25 });
    assert_eq!(ram.names().expect("names").len(), 0);
}

/// Prevents: events of a revoked partition that wait for the sink, or are offered for ever.
#[test]
fn what_nobody_wants_any_more_is_left_out() {
    let keeper = Numbers::default();
    let (spill, outlet, _) = opened(Ram::new(512), Commit::Acked, &keeper);
    (0..20).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
    keeper.unwanted.lock().extend(8..15);
    assert_eq!(spill.offer(0, Pair(9), LONG), Offer::Full(Pair(9)));
    let thread = started(&spill);
    assert!(served(&outlet, &keeper, 13).into_iter().eq((0..8).chain(15..20)));
    end(&spill, thread);
}

/// Prevents: a damaged record that is delivered, passed over, or read for ever.
#[test]
fn a_damaged_record_ends_the_run_by_file_and_offset() {
    let (keeper, ram) = (Numbers::default(), Ram::new(512));
    let (spill, outlet, _) = opened(ram.clone(), Commit::Spilled, &keeper);
    (0..30).for_each(|id| assert_eq!(spill.offer(0, Pair(id), LONG), Offer::Queued));
    let name = segment::name(1, "spilled");
    ram.damage(&name, 300);
    let thread = started(&spill);
    assert!(served(&outlet, &keeper, 2).into_iter().eq(0..2), "those before the damage");
    let why = thread.join().expect("no panic").expect_err("damaged").to_string();
    for word in ["--spill-dir", name.as_str(), "offset ", "CRC-32C"] {
        assert!(why.contains(word), "no {word:?} in {why}");
    }
    assert_eq!(spill.offer(0, Pair(30), LONG), Offer::Closed(Pair(30)), "nobody waits for it");
}

fn log(ram: &Ram, commit: Commit, owner: &str) -> Result<Log, SpillError> {
    let limits = Limits { bytes_max: 1 << 30, segment_bytes: 4096 };
    Log::open(Box::new(ram.clone()), limits, commit, owner)
}

/// Prevents: a long absence of the sink that ends the run, because there are more segments than it may have files.
#[test]
fn segments_that_wait_to_be_read_are_not_held_open() {
    for commit in [Commit::Acked, Commit::Spilled] {
        let mut log = log(&Ram::new(512), commit, OWNER).expect("opens");
        for n in 1..=400 {
            assert_eq!(log.append(&[7; 500], 1).expect("appends"), Appended::Yes(n));
        }
        assert!(log.open_files() <= 2, "{} files", log.open_files());
        let read = std::iter::from_fn(|| log.read_next().expect("reads").map(drop)).count();
        assert_eq!((read, log.unread()), (400, 0));
        assert!(log.open_files() <= 2, "{} files", log.open_files());
    }
}

/// Prevents: a segment of another program, or of a later version, that is deleted as a torn one.
#[test]
fn a_segment_with_another_header_is_refused_and_stays() {
    let ram = Ram::new(512);
    let name = segment::name(1, "spilled");
    let mut bytes = Vec::new();
    segment::record(1, 0, 0, b"another header", &mut bytes);
    ram.create(&name).expect("made").write_all_at(&bytes, 0).expect("written");
    let why = log(&ram, Commit::Spilled, OWNER).err().expect("refused").to_string();
    assert!(why.contains(&name) && why.contains("no header"), "{why}");
    assert_eq!(ram.names().expect("names"), [name]);
}

/// Prevents: events of another topic or group that are delivered to this sink; events that were let go and are thrown
/// away by a flag that changed.
#[test]
fn a_folder_of_others_and_one_that_kafka_does_not_back_are_refused() {
    let ram = Ram::new(512);
    let mut first = log(&ram, Commit::Spilled, OWNER).expect("opens");
    assert_eq!(first.append(b"run", 1).expect("appends"), Appended::Yes(1));
    for (commit, owner, words) in [
        (Commit::Spilled, "topic other, group g", ["topic other, group g", OWNER]),
        (Commit::Acked, OWNER, ["let go from the log", "--spill-commit spilled"]),
    ] {
        let why = log(&ram, commit, owner).err().expect("refused").to_string();
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    assert_eq!(log(&ram, Commit::Spilled, OWNER).expect("opens").unread(), 1);
}

/// Prevents: an audit that changes what it looks at, sees other events than the next process is given, or looks while
/// another writes.
#[test]
fn a_view_sees_what_the_next_process_is_given_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let limits = Limits { bytes_max: 1 << 20, segment_bytes: 1000 };
    let opened = |disk: Box<dyn Disk>| Log::open(disk, limits, Commit::Spilled, OWNER);
    let folder = || Box::new(Folder::open(dir.path()).expect("free"));
    let mut log = opened(folder()).expect("opens");
    assert!(View::open(dir.path()).err().expect("used").to_string().contains("stop it first"));
    for id in 0..20_u8 {
        assert!(matches!(log.append(&[id; 200], 1), Ok(Appended::Yes(_))));
    }
    // Noted in the middle: two segments before it are not given any more.
    let (mut below, mut given) = (Position::default(), Vec::new());
    for _ in 0..6 {
        below = log.read_next().expect("reads").expect("a record").end;
    }
    log.note_acked(below).expect("noted");
    drop(log);
    let files = || -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(dir.path()).expect("listed").map(|it| it.expect("entry"));
        entries
            .map(|it| (format!("{:?}", it.file_name()), std::fs::read(it.path()).expect("read")))
            .collect()
    };
    // A crash tore the end.
    let newest = dir.path().join(segment::name(5, "spilled"));
    let whole = std::fs::read(&newest).expect("the newest");
    std::fs::write(&newest, &whole[..whole.len() - 1]).expect("torn");
    let before = files();
    for views in [true, false] {
        let disk: Box<dyn Disk> = match views {
            true => Box::new(View::open(dir.path()).expect("free")),
            false => folder(),
        };
        let mut log = opened(disk).expect("opens");
        let mut ids = Vec::new();
        while let Some(record) = log.read_next().expect("reads") {
            ids.push(record.payload[0]);
        }
        assert_eq!(
            files() == before,
            views,
            "a view changes nothing, a process cuts off what is torn"
        );
        given.push(ids);
    }
    assert_eq!(given, [(6..19).collect::<Vec<_>>(), (6..19).collect()]);
    assert!(View::open(&dir.path().join("none")).is_err());
}

/// Prevents: a segment that is gone and is passed over in silence.
#[test]
fn a_segment_that_is_missing_is_a_damage() {
    let ram = Ram::new(512);
    let mut written = log(&ram, Commit::Spilled, OWNER).expect("opens");
    (0..20).for_each(|_| assert!(matches!(written.append(&[7; 1000], 1), Ok(Appended::Yes(_)))));
    ram.remove(&segment::name(3, "spilled")).expect("removed");
    let why = log(&ram, Commit::Spilled, OWNER).err().expect("damaged").to_string();
    assert!(why.contains("follows segment 2") && why.contains("missing"), "{why}");
}

/// Prevents: a start that takes as long as what is on disk is large.
#[test]
fn opening_reads_a_header_of_each_segment_and_the_newest_whole() {
    let ram = Ram::new(4096);
    let limits = Limits { bytes_max: 1 << 30, segment_bytes: 64 << 10 };
    let open = || Log::open(Box::new(ram.clone()), limits, Commit::Spilled, OWNER).expect("opens");
    let mut log = open();
    (0..1000).for_each(|_| assert!(matches!(log.append(&[7; 10_000], 4), Ok(Appended::Yes(_)))));
    let (segments, before) = (log.segments() as u64, ram.bytes_read());
    let log = open();
    let read = ram.bytes_read() - before;
    assert_eq!((log.unread(), log.segments() as u64), (4000, segments));
    assert!(read <= segments * 4096 + 4096 + (64 << 10), "{read} B read of {} B", log.bytes());
}

/// Prevents: a record that is cut in two by the reader's buffer.
#[test]
fn records_of_every_size_are_read_as_they_were_written() {
    let ram = Ram::new(4096);
    let limits = Limits { bytes_max: 1 << 30, segment_bytes: SEGMENT_BYTES };
    let mut log = Log::open(Box::new(ram), limits, Commit::Acked, OWNER).expect("opens");
    let sizes = [1, 100, 255 << 10, 256 << 10, 300_000, 7, 4 << 20, 5 << 20, 4 << 20, 1];
    for (n, size) in sizes.iter().enumerate() {
        let appended = log.append(&vec![n as u8; *size], 1).expect("appends");
        assert_eq!(appended, Appended::Yes(n as u64 + 1));
    }
    for (n, size) in sizes.iter().enumerate() {
        let Some(Record { payload, events: 1, end }) = log.read_next().expect("reads") else {
            panic!("no record {n}")
        };
        assert!(payload.len() == *size && payload.iter().all(|byte| *byte == n as u8), "{n}");
        assert!(log.give_back(end).is_ok());
    }
    assert_eq!(log.read_next().expect("reads"), None);
    assert_eq!(log.segments(), 1);
}
