//! What the owner of the runs does for the spill, which knows no events and no offsets.

use super::super::ends::Load;

/// Runs, each with its shard.
pub type Runs<R> = Vec<(usize, R)>;

/// The owner of the runs: what they are, and what becomes of their offsets.
pub trait Keeper: Send + Sync {
    /// What the queue holds.
    type Run: Load + Send;
    /// What tells, of a record that came back from the disk, how much of it is done.
    type Receipt: Send;

    /// Writes a run that goes to disk. False when it is no longer wanted. After true the log holds it, unless
    /// [`Keeper::take_back`] follows.
    fn store(&self, shard: usize, run: &Self::Run, bytes: &mut Vec<u8>) -> bool;

    /// The disk did not take it.
    fn take_back(&self, run: &Self::Run);

    /// A stored run is durable: its offsets may go.
    fn durable(&self, run: Self::Run);

    /// Reads what was stored: its runs, each with its shard; none when nobody wants it any more.
    ///
    /// # Errors
    /// Says why it cannot be what was stored.
    fn load(&self, bytes: &[u8]) -> Result<Runs<Self::Run>, String>;

    /// The receipt of what was read, by any of its runs.
    fn receipt(&self, run: &Self::Run) -> Self::Receipt;

    /// Events of it that are not done.
    fn left(&self, receipt: &Self::Receipt) -> usize;

    /// Whether a run that was read is still wanted; it is counted where not.
    fn is_wanted(&self, run: &Self::Run) -> bool;
}
