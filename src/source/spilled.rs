//! The runs of a queue that spills: their form on disk, and what becomes of their offsets.
//!
//! Invariant. Committed after the ack: a run that comes back is of the assignment that it was fetched for, and is dropped if
//! that was revoked meanwhile. Let go once durable: its offsets are done then, as if it had been acked, and a
//! revocation waits for that; what comes back is this process's own, is never revoked and outlives it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use roaring::RoaringTreemap;

use super::run::Builder;
use super::run::stored::Stored;
use super::{Assigned, Run};
use crate::failure::Failure;
use crate::queue;
use crate::queue::spill::disk::View;
use crate::queue::spill::log::{Limits, Log};
use crate::queue::spill::{self, Commit, SpillError};
use crate::telemetry::metrics::ProcessorMetrics;
use crate::transform::Transform;

/// The spill of this pipeline's runs.
pub type Spill = spill::Spill<Keeper>;

/// Bytes before a run's own: which assignment, shard, and of how many.
const HEAD_BYTES: usize = 8 + 4 + 4;
/// Longest name of topic and group together that a segment carries, B.
const OWNER_BYTES_MAX: usize = 2048;

/// Whose events they are, as each segment says it.
pub fn owner(topic: &str, group: &str) -> String {
    let mut owner = format!("topic {topic}, group {group}");
    owner.truncate(owner.floor_char_boundary(OWNER_BYTES_MAX));
    owner
}

/// The ids that a process of this topic and group left in `dir` for the next one to deliver. Nothing there is changed.
///
/// # Errors
/// When it cannot be read to its end, a process uses it, or it is another group's.
pub fn ids(dir: &Path, topic: &str, group: &str) -> Result<RoaringTreemap, Failure> {
    let failed = |why: String| {
        Failure::Failed(format!("--spill-dir {}: cannot be read: {why}", dir.display()))
    };
    let view = View::open(dir).map_err(|why| failed(why.to_string()))?;
    let any = Limits { bytes_max: u64::MAX, segment_bytes: u64::MAX };
    let broken = |why: SpillError| Failure::Failed(why.to_string());
    let opened = Log::open(Box::new(view), any, Commit::Spilled, &owner(topic, group));
    let mut log = opened.map_err(broken)?;
    let mut ids = RoaringTreemap::new();
    while let Some(record) = log.read_next().map_err(broken)? {
        let stored = record.payload.get(HEAD_BYTES..).and_then(Stored::read);
        let stored = stored.ok_or_else(|| failed("a record is no run".into()))?;
        let heads = stored.events().filter_map(|(_, value)| super::run::check(Some(value)).ok());
        ids.extend(heads.map(|(_, head)| head.id));
    }
    Ok(ids)
}

/// See the module.
pub struct Keeper {
    commit: Commit,
    transform: Transform,
    shards: usize,
    run_events_max: usize,
    metrics: ProcessorMetrics,
    /// The assignments of runs that are on disk, by their addresses, with the number of those runs: an entry keeps its
    /// assignment, so no other has the address.
    assignments: Mutex<HashMap<u64, (Arc<Assigned>, usize)>>,
}

impl Keeper {
    /// No run yet. What comes back has `transform`, and goes to one of `shards` in runs of at most `run_events_max`.
    pub fn new(
        commit: Commit,
        transform: Transform,
        shards: NonZeroUsize,
        run_events_max: usize,
        metrics: ProcessorMetrics,
    ) -> Self {
        let (shards, assignments) = (shards.get(), Mutex::default());
        Self { commit, transform, shards, run_events_max, metrics, assignments }
    }

    fn address(assigned: &Arc<Assigned>) -> u64 {
        Arc::as_ptr(assigned) as usize as u64
    }

    /// One run less is on disk; returns its assignment.
    fn leave(&self, address: u64) -> Option<Arc<Assigned>> {
        let mut assignments = self.assignments.lock();
        let (assigned, runs) = assignments.get_mut(&address)?;
        *runs -= 1;
        let (assigned, is_last) = (Arc::clone(assigned), *runs == 0);
        if is_last {
            assignments.remove(&address);
        }
        Some(assigned)
    }

    /// Runs of what is stored for other shards, or another transform, than this process has.
    fn rebuilt(&self, stored: &Stored<'_>, assigned: &Arc<Assigned>) -> spill::Runs<Box<Run>> {
        let mut builder = Builder::new(self.shards, self.run_events_max, self.transform);
        let mut runs = Vec::new();
        let of = (assigned, stored.fetched_us);
        for (offset, value) in stored.events() {
            let key = super::run::check(Some(value)).map_or(0, |(_, head)| head.key);
            let shard = queue::shard(key, self.shards);
            if !builder.push(shard, offset, value, of) {
                runs.extend(builder.finish());
                let _an_empty_run_takes_any = builder.push(shard, offset, value, of);
            }
        }
        runs.extend(builder.finish());
        runs
    }
}

impl spill::Keeper for Keeper {
    type Run = Box<Run>;
    type Receipt = Arc<Assigned>;

    fn store(&self, shard: usize, run: &Self::Run, bytes: &mut Vec<u8>) -> bool {
        let address = match self.commit {
            Commit::Acked if run.assigned.is_revoked() => return false,
            Commit::Acked => {
                let address = Self::address(&run.assigned);
                let mut assignments = self.assignments.lock();
                let entry = assignments.entry(address);
                entry.or_insert_with(|| (Arc::clone(&run.assigned), 0)).1 += 1;
                address
            }
            // A revocation waits until its offsets are done, and commits them.
            Commit::Spilled if !run.assigned.acquire() => return false,
            Commit::Spilled => 0,
        };
        bytes.extend_from_slice(&address.to_be_bytes());
        bytes.extend_from_slice(&(shard as u32).to_be_bytes());
        bytes.extend_from_slice(&(self.shards as u32).to_be_bytes());
        run.store(bytes);
        true
    }

    fn take_back(&self, run: &Self::Run) {
        match self.commit {
            Commit::Acked => drop(self.leave(Self::address(&run.assigned))),
            Commit::Spilled => run.assigned.release(),
        }
    }

    fn durable(&self, run: Self::Run) {
        run.assigned.done(run.offsets(0..run.len()));
        run.assigned.release();
    }

    fn load(&self, bytes: &[u8]) -> Result<spill::Runs<Self::Run>, String> {
        let head = bytes.split_at_checked(HEAD_BYTES).and_then(|(head, rest)| {
            let (address, head) = head.split_first_chunk()?;
            let (shard, head) = head.split_first_chunk()?;
            let shards = u32::from_be_bytes(*head.first_chunk()?) as usize;
            let shard = u32::from_be_bytes(*shard) as usize;
            Some((u64::from_be_bytes(*address), shard, shards, Stored::read(rest)?))
        });
        let (address, shard, shards, stored) = head.ok_or("it is no run")?;
        let assigned = match self.commit {
            Commit::Acked => self.leave(address).ok_or("its assignment is not known")?,
            Commit::Spilled => {
                let offsets = stored.offsets();
                Arc::new(Assigned::let_go(stored.topic_id, stored.partition, &offsets))
            }
        };
        if assigned.is_revoked() {
            self.metrics.returned.inc_by(stored.events().count() as u64);
            return Ok(Vec::new());
        }
        let is_same = stored.trailer_bytes == self.transform.trailer_bytes();
        Ok(if shards == self.shards && is_same {
            vec![(shard, stored.into_run(assigned, self.transform))]
        } else {
            self.rebuilt(&stored, &assigned)
        })
    }

    fn receipt(&self, run: &Self::Run) -> Arc<Assigned> {
        Arc::clone(&run.assigned)
    }

    fn left(&self, receipt: &Arc<Assigned>) -> usize {
        receipt.open_count()
    }

    fn is_wanted(&self, run: &Self::Run) -> bool {
        let is_wanted = !run.assigned.is_revoked();
        if !is_wanted {
            self.metrics.returned.inc_by(run.len() as u64);
        }
        is_wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::queue::spill::Keeper as _;
    use crate::telemetry::metrics::Metrics;

    fn keeper(commit: Commit, shards: usize, transform: Transform) -> Keeper {
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        let shards = NonZeroUsize::new(shards).expect("some");
        Keeper::new(commit, transform, shards, 4, metrics)
    }

    /// A run of 10 events at offsets from 100 on; each has its own key.
    fn run(assigned: &Arc<Assigned>) -> Box<Run> {
        let mut builder = Builder::new(1, 100, Transform::Digest);
        for id in 0..10_u64 {
            let mut value = Vec::new();
            Event { id, key: id, ts_us: 0, payload: [id as u8; 9].into() }.encode(&mut value);
            assert!(builder.push(0, 100 + id as i64, &value, (assigned, 5)));
        }
        assert!(assigned.open(builder.offsets()));
        builder.finish().next().expect("a run").1
    }

    fn ids(runs: &[(usize, Box<Run>)]) -> Vec<u64> {
        let mut ids: Vec<u64> =
            runs.iter().flat_map(|(_, run)| (0..run.len()).map(|n| run.head(n).id)).collect();
        ids.sort_unstable();
        ids
    }

    /// Prevents: a commit ahead of the ack where Kafka is the durable copy; events of a revoked partition that are
    /// delivered; an assignment that is kept for ever.
    #[test]
    fn committed_after_the_ack_a_run_keeps_its_assignment_and_goes_with_it() {
        let keeper = keeper(Commit::Acked, 1, Transform::Digest);
        let assigned = Arc::new(Assigned::new(7, 3, 100));
        let run = run(&assigned);
        let (mut first, mut second, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        assert!(keeper.store(0, &run, &mut first) && keeper.store(0, &run, &mut second));
        assert!(keeper.store(0, &run, &mut refused));
        keeper.take_back(&run);
        let back = keeper.load(&first).expect("a run");
        assert!(Arc::ptr_eq(&back[0].1.assigned, &assigned));
        assert_eq!((ids(&back), assigned.committable()), ((0..10).collect(), 100));
        assigned.revoke();
        assert!(keeper.load(&second).expect("a run").is_empty());
        assert_eq!(keeper.metrics.returned.get(), 10);
        assert!(keeper.assignments.lock().is_empty());
        assert!(!keeper.store(0, &run, &mut second), "nothing of a revoked one is stored");
    }

    /// Prevents: an offset that is let go before its event is durable; a revocation that does not commit what was;
    /// events that nobody delivers because the partition went.
    #[test]
    fn let_go_once_durable_a_run_is_this_processs_own() {
        let keeper = keeper(Commit::Spilled, 1, Transform::Digest);
        let assigned = Arc::new(Assigned::new(7, 3, 100));
        let run = run(&assigned);
        let mut bytes = Vec::new();
        assert!(keeper.store(0, &run, &mut bytes));
        assert_eq!(assigned.committable(), 100);
        assigned.revoke();
        assert!(!assigned.await_released(std::time::Instant::now()), "a revocation waits");
        keeper.durable(run);
        assert!(assigned.await_released(std::time::Instant::now()));
        assert_eq!(assigned.committable(), 110);
        let back = keeper.load(&bytes).expect("a run");
        let (own, receipt) = (&back[0].1.assigned, keeper.receipt(&back[0].1));
        assert!(own.is_let_go && own.acquire() && keeper.is_wanted(&back[0].1));
        assert_eq!((own.topic_id, own.partition, keeper.left(&receipt)), (7, 3, 10));
        own.done(100..107);
        assert_eq!(keeper.left(&receipt), 3);
    }

    /// Prevents: a restart with other workers, or another transform, that breaks the order of a key or a digest.
    #[test]
    fn a_process_with_other_shards_sorts_anew() {
        let before = keeper(Commit::Spilled, 1, Transform::Digest);
        let run = run(&Arc::new(Assigned::new(7, 3, 100)));
        let mut bytes = Vec::new();
        assert!(before.store(0, &run, &mut bytes));
        for (shards, transform) in [(3, Transform::Digest), (1, Transform::None)] {
            let runs = keeper(Commit::Spilled, shards, transform).load(&bytes).expect("runs");
            assert_eq!(ids(&runs), (0..10).collect::<Vec<_>>());
            for (shard, run) in &runs {
                assert!(run.len() <= 4);
                for n in 0..run.len() {
                    assert_eq!(queue::shard(run.head(n).key, shards), *shard);
                    assert_eq!(run.offsets(n..n + 1).next(), Some(100 + run.head(n).id as i64));
                }
            }
        }
        assert!(before.load(b"no run").is_err());
    }
}
