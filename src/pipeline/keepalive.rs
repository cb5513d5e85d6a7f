//! A member that polls on a thread of its own: a full queue delays no poll, a stuck worker does.

use std::time::Duration;

use crate::source::member::Member;
use crate::threads::{Pulse, Stop};
use crate::units;

/// Longest poll of the member: commits and revocations wait no longer than this.
pub const POLL: Duration = Duration::from_millis(100);

/// Keeps the poll clock while the workers live. When one has not moved for `stuck_after`, the
/// clock stops: a deadlock must not hold its partitions for ever.
pub fn poll_while_workers_live(
    member: &mut Member,
    pulses: &[Pulse],
    stuck_after: Duration,
    leave: &Stop,
) {
    let mut told = false;
    while !leave.is_set() {
        let stuck = pulses.iter().map(Pulse::age).max().unwrap_or_default() > stuck_after;
        if stuck != told {
            told = stuck;
            if stuck {
                log::error!(
                    stuck_after = units::show(stuck_after).as_str();
                    "a worker does not move, the member stops polling"
                );
            } else {
                log::info!("workers move again, the member polls");
            }
        }
        if stuck {
            leave.wait(POLL);
        } else {
            member.turn(POLL);
        }
    }
}
