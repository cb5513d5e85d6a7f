//! The ledger as a table: one line an arm, the same for every experiment.

use crate::lab::audit::Ledger;
use crate::lab::text::thousands;

/// A column: its name, and its cell.
pub type Column = (&'static str, fn(&Ledger) -> String);

/// What the columns mean.
pub const EXPLAINED: &str = "By id, for every id that the brokers acknowledged to the producer, once the processor had \
     ended: produced = delivered + shed + in the log + on disk − again + invalid + unaccounted. In the \
     log: at or above the committed offset, read record by record. On disk: left where the queue \
     spills. Again: in one more of these places; a restart would take it up once more. Held: what the processor had in memory when \
     it ended; it was not committed, so it is in the log.";

/// The columns.
pub const COLUMNS: [Column; 10] = [
    ("produced", |l| count(l.produced)),
    ("delivered", |l| count(l.delivered)),
    ("shed", |l| count(l.shed)),
    ("in the log", |l| count(l.in_log)),
    ("of these held", |l| l.held.map_or("killed".into(), count)),
    ("on disk", |l| count(l.on_disk)),
    ("again", |l| count(l.again)),
    ("invalid", |l| count(l.invalid)),
    ("unaccounted", |l| count(l.wrong())),
    ("duplicates", |l| count(l.duplicates)),
];

fn count(n: u64) -> String {
    thousands(n as f64)
}
