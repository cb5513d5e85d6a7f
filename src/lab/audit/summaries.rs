//! What producers and processors printed at their ends, as far as the audit needs it.

use std::path::{Path, PathBuf};

use roaring::RoaringTreemap;
use serde::Deserialize;

use super::IDS_BYTES_MAX;
use crate::failure::Failure;
use crate::lab::read_json;
use crate::load::logs::GoneLog;
use crate::pipeline::Spilled;
use crate::policy::shed::class::Classes;
use crate::source::LeftLog;

/// Most ids of the producers: as many as a bitmap from the sink can have.
const IDS_MAX: u64 = IDS_BYTES_MAX * 8;

/// What the audit needs of the producer's summary.
#[derive(Deserialize, Default)]
pub(super) struct Produced {
    pub(super) first_id: u64,
    pub(super) acked_below: u64,
    #[serde(default)]
    pub(super) logs_gone: Vec<GoneLog>,
    #[serde(default)]
    pub(super) resent: u64,
}

impl Produced {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let read: Self = read_json(path)?;
        let ids = read.acked_below.checked_sub(read.first_id);
        if ids.is_some_and(|ids| ids <= IDS_MAX) {
            return Ok(read);
        }
        Err(Failure::Failed(format!(
            "--producer {}: ids from {} to below {}: allowed: 0 to {IDS_MAX} ids of a producer",
            path.display(),
            read.first_id,
            read.acked_below
        )))
    }
}

/// What it needs of a processor's summary. One without its fetched and acked events is refused.
#[derive(Deserialize, Default)]
pub(super) struct Taken {
    pub(super) fetched: u64,
    pub(super) acked: u64,
    #[serde(default)]
    pub(super) shed: u64,
    #[serde(default)]
    pub(super) high_priority_share: f64,
    #[serde(default)]
    pub(super) invalid: u64,
    #[serde(default)]
    pub(super) evictions: u64,
    #[serde(default)]
    pub(super) lost: u64,
    #[serde(default)]
    pub(super) logs_left: Vec<LeftLog>,
    #[serde(default)]
    pub(super) spill: Option<Spilled>,
}

impl Taken {
    /// Read from its file; `None` when that is empty: the processor was killed before it could
    /// print anything. A missing file is an error, not a kill.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let failed = |why: String| {
            let path = path.display();
            Failure::Failed(format!(
                "--processor {path}: {why}; expected what the processor printed at its end, or an \
                 empty file if it was killed"
            ))
        };
        let text = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|e| failed(format!("is damaged: {e}")))
    }

    /// What it took and did not see to its end; what it left on disk is not in the log, and not among them.
    fn held(&self) -> u64 {
        let Spilled { found, left } = self.spill.unwrap_or_default();
        (self.fetched + found).saturating_sub(self.acked + self.shed + self.invalid + left)
    }
}

/// What all processors together held; `None` when one cannot say, or none was named.
pub(super) fn held(taken: &[Option<Taken>]) -> Option<u64> {
    let sum = taken.iter().map(|one| one.as_ref().map(Taken::held)).sum();
    if taken.is_empty() { None } else { sum }
}

/// How many of the ids are of high priority, for any of the processors.
pub(super) fn high(ids: &RoaringTreemap, taken: &[Option<Taken>]) -> u64 {
    let classes: Vec<Classes> = taken
        .iter()
        .flatten()
        .map(|taken| Classes { high_share: taken.high_priority_share })
        .filter(|classes| classes.high_share > 0.0)
        .collect();
    let is_high = |id: &u64| classes.iter().any(|classes| classes.is_high(*id));
    if classes.is_empty() { 0 } else { ids.iter().filter(is_high).count() as u64 }
}

/// The ids of all producers.
///
/// # Errors
/// When two had the same id: what one lost, the other would have delivered.
pub(super) fn ids_of(files: &[PathBuf], producers: &[Produced]) -> Result<RoaringTreemap, Failure> {
    let mut ids = RoaringTreemap::new();
    for (file, Produced { first_id, acked_below, .. }) in files.iter().zip(producers) {
        let shared = acked_below - first_id - ids.insert_range(*first_id..*acked_below);
        if shared > 0 {
            return Err(Failure::Failed(format!(
                "--producer {}: {shared} of its ids, {first_id} to below {acked_below}, are another producer's too: no \
                 audit can tell their events apart; give each producer its own (--first-id or --share)",
                file.display()
            )));
        }
    }
    Ok(ids)
}

/// Whether an event may have been taken up a second time. A consumer that leaves no summary cannot say.
pub(super) fn taken_again(taken: &[Option<Taken>]) -> bool {
    taken.len() != 1 || taken.iter().any(|one| one.as_ref().is_none_or(|one| one.evictions > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a mistyped path that counts as a kill, after which an id may have two fates.
    #[test]
    fn a_summary_that_cannot_be_read_is_a_failure_and_no_kill() {
        let dir = tempfile::tempdir().expect("dir");
        let damaged = dir.path().join("damaged");
        std::fs::write(&damaged, "{\"fetched\":").expect("written");
        let other = dir.path().join("other");
        std::fs::write(&other, "{}").expect("written");
        for path in [dir.path().join("absent"), dir.path().to_owned(), damaged, other] {
            let why = Taken::read(&path).err().expect("no summary");
            let said = why.to_string();
            assert!(matches!(why, Failure::Failed(_)), "{said}");
            assert!(said.contains(&format!("--processor {}", path.display())), "{said}");
        }
    }

    /// Prevents: a damaged summary whose ids fill the memory, or count as none.
    #[test]
    fn ids_that_nobody_can_have_produced_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("producer.json");
        for (first, below, is_read) in
            [(0, 0, true), (5, 9, true), (0, IDS_MAX, true), (0, IDS_MAX + 1, false), (9, 5, false)]
        {
            let text = format!("{{\"first_id\":{first},\"acked_below\":{below}}}");
            std::fs::write(&path, text).expect("written");
            assert_eq!(Produced::read(&path).is_ok(), is_read, "{first} to {below}");
        }
    }

    /// Prevents: an event that is lost and covered by another producer's of the same id.
    #[test]
    fn producers_with_the_same_ids_are_refused() {
        let files = ["a.json", "b.json"].map(PathBuf::from);
        let of = |ranges: [(u64, u64); 2]| {
            let all = ranges.map(|(first_id, acked_below)| Produced {
                first_id,
                acked_below,
                ..Produced::default()
            });
            ids_of(&files, &all)
        };
        assert_eq!(of([(0, 10), (10, 15)]).expect("apart").len(), 15);
        assert_eq!(of([(0, 10), (5, 5)]).expect("one sent nothing").len(), 10);
        let why = of([(0, 10), (7, 15)]).expect_err("three of both").to_string();
        assert!(why.contains("--producer b.json: 3 of its ids"), "{why}");
    }

    #[test]
    fn a_killed_processor_leaves_no_summary_and_what_it_took_may_come_again() {
        let dir = tempfile::tempdir().expect("dir");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").expect("written");
        assert!(Taken::read(&empty).expect("killed").is_none());
        let ended = Taken { fetched: 100, acked: 60, shed: 20, invalid: 1, ..Taken::default() };
        assert_eq!((held(&[None]), held(&[])), (None, None));
        assert!(taken_again(&[None]) && taken_again(&[Some(Taken::default()), None]));
        let evicted = Taken { evictions: 1, ..Taken::default() };
        assert!(taken_again(&[Some(evicted)]) && taken_again(&[]));
        let alone = [Some(ended)];
        assert_eq!((held(&alone), taken_again(&alone)), (Some(19), false));
    }
}
