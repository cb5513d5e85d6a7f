//! The ledger as a table: one line an arm, the same for every experiment.

use crate::lab::audit::Ledger;
use crate::lab::text::thousands;

/// A column: its name, and its cell.
pub type Column = (&'static str, fn(&Ledger) -> String);

/// What the columns mean.
pub const EXPLAINED: &str = "By id, for every id that the brokers acknowledged to the producer, once the processor had \
     ended: produced = delivered + shed + in the log − again + invalid + unaccounted. In the log: \
     at or above the committed offset, read record by record. Again: delivered or shed, and in the \
     log as well; a restart would take it up once more. Held: what the processor had in memory when \
     it ended; it was not committed, so it is in the log.";

/// The columns.
pub const COLUMNS: [Column; 9] = [
    ("produced", |l| count(l.produced)),
    ("delivered", |l| count(l.delivered)),
    ("shed", |l| count(l.shed)),
    ("in the log", |l| count(l.in_log)),
    ("of these held", |l| l.held.map_or("killed".into(), count)),
    ("again", |l| count(l.again)),
    ("invalid", |l| count(l.invalid)),
    ("unaccounted", |l| count(l.wrong())),
    ("duplicates", |l| count(l.duplicates)),
];

fn count(n: u64) -> String {
    thousands(n as f64)
}
