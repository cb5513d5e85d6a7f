//! At most `capacity` events in memory, the rest in segments on disk, in order; at the disk's limit a full queue as any other.
//!
//! ```text
//! fetch-N ─► offer ── acked, nothing on disk ──────► memory queue ─► worker-W
//!              └───── else: append ─► disk ─► spill ──────▲            │ sink
//!                                      ▲ releases ◄────────── acked ◄──┘
//! ```
//!
//! - `disk`     the file system, a seam for the tests' own
//! - `segment`  a record's form, with its CRC-32C
//! - `log`      segments in order: append, read, release
//! - `recovery` what a process left: opened, cut, begun at the note of what was acked
//! - `keeper`   what the owner of the runs does for it
//! - `settings` where, how much, and when offsets are let go
//! - here       the one thread that reads, and when offsets are let go
//!
//! Invariants. Runs enter the memory queue in the order in which they were offered: while a run is on disk, or in the
//! thread's hands, every other goes behind it. With [`Commit::Acked`] nothing is let go before its ack, so Kafka is the
//! durable copy: nothing is synced, what a process left is thrown away, and the disk is used only while memory is full. With
//! [`Commit::Spilled`] every run goes through the disk, is let go once it is durable, and its segment is released once the
//! sink acked all of it. (If some went by, the committed offset would stand still behind them while the sink does, and
//! they would be lost with the process.)
//!
//! It knows no events and no offsets: a [`Keeper`] does.

#[cfg(test)]
mod crash;
pub mod disk;
mod keeper;
pub mod log;
#[cfg(test)]
mod ram;
mod recovery;
pub mod segment;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::ends::{Intake, Load as _, Offer};
use crate::failure::Failure;
use crate::logging::Limiter;
use crate::telemetry::metrics::SpillMetrics;
use crate::threads::Stop;
use disk::Disk;
pub use keeper::{Keeper, Runs};
use log::{Appended, Limits, Log, Position};
pub use settings::{BYTES_MAX, Commit, SEGMENTS_MIN, Settings, SpillError};

/// How long the thread waits for something to read, or for room in memory, before it sees to the rest.
const LOOK: Duration = Duration::from_millis(20);
/// How often what was spilled is made durable: a revocation waits for it, and a commit is made once a second.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// How often it is noted how far the sink acked: so much comes twice after a crash. As often as offsets are committed.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Spill<K: Keeper> {
    intake: Intake<K::Run>,
    commit: Commit,
    keeper: K,
    metrics: SpillMetrics,
    stop: Stop,
    state: Mutex<State<K>>,
    /// Something is there to be read.
    filled: Condvar,
    /// A segment was released.
    freed: Condvar,
}

struct State<K: Keeper> {
    log: Log,
    /// A run that was read and did not enter the memory queue yet.
    is_lent: bool,
    /// Written and not yet durable, with the events written up to each. At most a segment of them: the next one begins
    /// with a sync.
    undurable: VecDeque<(u64, K::Run)>,
    /// Read and not known to be done, with the place behind each; as much as memory queue and workers hold.
    read: VecDeque<(Position, Option<K::Receipt>)>,
    /// Below it the sink acked all.
    acked: Position,
    noted: Position,
    /// Events that were read, and found the memory queue closed.
    dropped: u64,
    is_closed: bool,
    scratch: Vec<u8>,
    lines: Limiter,
}

/// What a spill leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Events that were not delivered: on disk for the next process with [`Commit::Spilled`], else in Kafka.
    pub events: u64,
}

impl<K: Keeper> Spill<K> {
    /// Opens the folder for the events of `owner`, in front of the memory queue `intake`; returns how many events it
    /// holds already.
    ///
    /// # Errors
    /// When it cannot be used; the message says why.
    pub fn open(
        disk: Box<dyn Disk>,
        (limits, commit, owner): (Limits, Commit, &str),
        intake: Intake<K::Run>,
        keeper: K,
        (metrics, stop): (SpillMetrics, Stop),
    ) -> Result<(Self, u64), SpillError> {
        let log = Log::open(disk, limits, commit, owner)?;
        let (found, acked) = (log.unread(), log.read_position());
        let state = State {
            log,
            is_lent: false,
            undurable: VecDeque::new(),
            read: VecDeque::new(),
            acked,
            noted: acked,
            dropped: 0,
            is_closed: false,
            scratch: Vec::new(),
            lines: Limiter::per(Duration::from_secs(10), 1),
        };
        let spill = Self {
            intake,
            commit,
            keeper,
            metrics,
            stop,
            state: Mutex::new(state),
            filled: Condvar::new(),
            freed: Condvar::new(),
        };
        spill.show(&spill.state.lock());
        Ok((spill, found))
    }

    /// Whether runs go behind others on disk now.
    pub fn is_used(&self) -> bool {
        !self.state.lock().is_empty()
    }

    /// Takes a run: into memory, if it may go there past the disk, there is room and nothing waits on disk; else to disk.
    /// Waits at most `time` for room there. A run that nobody wants any more comes back as if there were none.
    pub fn offer(&self, shard: usize, run: K::Run, time: Duration) -> Offer<K::Run> {
        let deadline = Instant::now() + time;
        let (mut run, mut state) = (run, self.state.lock());
        loop {
            if state.is_closed || self.intake.is_closed() {
                return Offer::Closed(run);
            }
            if self.commit == Commit::Acked && state.is_empty() {
                match self.intake.offer(shard, run, Duration::ZERO) {
                    Offer::Full(back) => run = back,
                    done => return done,
                }
            }
            match self.spill(&mut state, shard, &run) {
                Ok(Some(Appended::Yes(written))) => {
                    if self.commit == Commit::Spilled {
                        state.undurable.push_back((written, run));
                        self.let_go(&mut state);
                    }
                    self.show(&state);
                    self.filled.notify_all();
                    return Offer::Queued;
                }
                Ok(None) => return Offer::Full(run),
                Ok(Some(full)) => self.complain(&mut state, &full),
                Err(why) => {
                    state.is_closed = true;
                    self.stop.fail(why.to_string());
                    return Offer::Closed(run);
                }
            }
            if self.freed.wait_until(&mut state, deadline).timed_out() {
                return Offer::Full(run);
            }
        }
    }

    /// Writes a run to disk; `None` when nobody wants it.
    fn spill(
        &self,
        state: &mut State<K>,
        shard: usize,
        run: &K::Run,
    ) -> Result<Option<Appended>, SpillError> {
        let State { log, scratch, .. } = state;
        scratch.clear();
        if !self.keeper.store(shard, run, scratch) {
            return Ok(None);
        }
        let events = run.events();
        let appended = log.append(scratch, events as u32);
        match &appended {
            Ok(Appended::Yes(_)) => {
                self.metrics.written_bytes.inc_by(scratch.len() as u64);
                self.metrics.written_events.inc_by(events as u64);
            }
            _ => self.keeper.take_back(run),
        }
        appended.map(Some)
    }

    fn complain(&self, state: &mut State<K>, full: &Appended) {
        self.metrics.full.inc();
        let Some(suppressed) = state.lines.allow() else { return };
        let why = match full {
            Appended::DiskFull => "the disk is full",
            _ => "--spill-max is reached",
        };
        ::log::warn!(
            why = why, bytes = state.log.bytes(), events = state.log.unread(), lines_suppressed = suppressed;
            "the spill takes no more, the overload policy decides"
        );
    }

    /// Moves runs from disk to the memory queue, in order, until that is closed: the body of thread `spill`.
    ///
    /// # Errors
    /// When the disk fails or holds something else than was written.
    pub fn run(&self) -> Result<(), Failure> {
        self.moved().inspect_err(|_| self.state.lock().is_closed = true).map_err(Failure::failed)
    }

    fn moved(&self) -> Result<(), SpillError> {
        let mut due = Due::default();
        loop {
            self.attend(&mut due)?;
            let mut state = self.state.lock();
            if self.intake.is_closed() {
                drop(state);
                // No more is written: what was can go now, and a revocation need not wait for the end.
                return if self.commit == Commit::Spilled { self.sync() } else { Ok(()) };
            }
            let runs = self.read(&mut state)?;
            let Some(runs) = runs else {
                self.filled.wait_for(&mut state, LOOK);
                continue;
            };
            drop(state);
            for (shard, run) in runs {
                self.pass_on(shard, run, &mut due)?;
            }
            self.state.lock().is_lent = false;
        }
    }

    /// Reads the next record; `None` when there is none.
    fn read(&self, state: &mut State<K>) -> Result<Option<Runs<K::Run>>, SpillError> {
        let Some(record) = state.log.read_next()? else { return Ok(None) };
        let (end, bytes) = (record.end, record.payload.len());
        let runs = self.keeper.load(record.payload).map_err(|why| state.log.misread(end, &why))?;
        self.metrics.read_bytes.inc_by(bytes as u64);
        state.is_lent = true;
        match self.commit {
            // Kafka has it until the sink acks it.
            Commit::Acked => state.acked = end,
            Commit::Spilled => {
                let receipt = runs.first().map(|(_, run)| self.keeper.receipt(run));
                state.read.push_back((end, receipt));
            }
        }
        self.show(state);
        Ok(Some(runs))
    }

    /// Enqueues a run in memory, as soon as there is room.
    fn pass_on(&self, shard: usize, run: K::Run, due: &mut Due) -> Result<(), SpillError> {
        let mut run = run;
        loop {
            match self.intake.offer(shard, run, LOOK) {
                Offer::Queued => return Ok(()),
                Offer::Closed(back) => {
                    self.state.lock().dropped += back.events() as u64;
                    return Ok(());
                }
                Offer::Full(back) if !self.keeper.is_wanted(&back) => return Ok(()),
                Offer::Full(back) => run = back,
            }
            self.attend(due)?;
        }
    }

    /// What is due beside the reading: syncs, the note of what is acked, segments that are released.
    fn attend(&self, due: &mut Due) -> Result<(), SpillError> {
        if self.commit == Commit::Spilled && due.sync.is_over(SYNC_EVERY) {
            self.sync()?;
        }
        let mut state = self.state.lock();
        state.settle(&self.keeper);
        if self.commit == Commit::Spilled && due.note.is_over(NOTE_EVERY) {
            state.note()?;
        }
        let below = state.acked;
        if state.log.give_back(below)? {
            self.show(&state);
            self.freed.notify_all();
        }
        Ok(())
    }

    /// Makes all that is written durable, and lets it go. Others may write meanwhile.
    fn sync(&self) -> Result<(), SpillError> {
        let (unsynced, syncs) = {
            let mut state = self.state.lock();
            // What the end of a segment made durable may not have been let go.
            self.let_go(&mut state);
            (state.log.unsynced(), state.log.syncs())
        };
        let Some((file, events)) = unsynced else { return Ok(()) };
        let synced = syncs.sync(file.as_ref());
        let mut state = self.state.lock();
        synced.map_err(|why| state.log.not_synced(why))?;
        self.metrics.syncs.inc();
        state.log.synced(events);
        self.let_go(&mut state);
        Ok(())
    }

    fn let_go(&self, state: &mut State<K>) {
        let durable = state.log.durable();
        while let Some((_, run)) = state.undurable.pop_front_if(|(end, _)| *end <= durable) {
            self.keeper.durable(run);
        }
    }

    /// Ends it, once the thread and the workers have ended: what is written is made durable and let go, or thrown away.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(&self) -> Result<Left, SpillError> {
        self.state.lock().is_closed = true;
        if self.commit == Commit::Spilled {
            self.sync()?;
        }
        let mut state = self.state.lock();
        state.settle(&self.keeper);
        let unread = state.log.unread();
        let events = match self.commit {
            Commit::Acked => unread + state.dropped,
            Commit::Spilled => {
                let read = state.read.iter().filter_map(|(_, receipt)| receipt.as_ref());
                unread + read.map(|receipt| self.keeper.left(receipt) as u64).sum::<u64>()
            }
        };
        let below = state.acked;
        state.log.close(below)?;
        self.show(&state);
        Ok(Left { events })
    }

    fn show(&self, state: &State<K>) {
        self.metrics.bytes.set(state.log.bytes() as i64);
        self.metrics.events.set(state.log.unread() as i64);
        self.metrics.segments.set(state.log.segments() as i64);
    }

    #[cfg(test)]
    fn state(&self) -> parking_lot::MutexGuard<'_, State<K>> {
        self.state.lock()
    }
}

impl<K: Keeper> State<K> {
    fn is_empty(&self) -> bool {
        !self.is_lent && self.log.unread() == 0
    }

    /// Moves [`State::acked`] behind what is done.
    fn settle(&mut self, keeper: &K) {
        let is_done =
            |receipt: &Option<K::Receipt>| receipt.as_ref().is_none_or(|one| keeper.left(one) == 0);
        while let Some((end, _)) = self.read.pop_front_if(|(_, receipt)| is_done(receipt)) {
            self.acked = end;
        }
    }

    fn note(&mut self) -> Result<(), SpillError> {
        if self.acked != self.noted {
            self.log.note_acked(self.acked)?;
            self.noted = self.acked;
        }
        Ok(())
    }
}

/// When the thread did what it does now and then.
#[derive(Default)]
struct Due {
    sync: Since,
    note: Since,
}

struct Since(Instant);

impl Default for Since {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Since {
    /// Whether it is `time` since this was true.
    fn is_over(&mut self, time: Duration) -> bool {
        let is_over = self.0.elapsed() >= time;
        if is_over {
            self.0 = Instant::now();
        }
        is_over
    }
}
