//! What has waited longest goes, for what finds the queue full: who reads the result wants news. An event that is
//! served has waited as long as the queue takes to be pushed through by what comes, C / λ, not C / μ.

use std::time::Duration;

use super::Shedder;
use crate::policy::Door;
use crate::queue::Dequeued;

/// Sheds runs from the queue's head until `events` have room, or it is empty.
pub fn make_room(shedder: &Shedder, door: &Door<'_>, events: usize) {
    let Some(head) = door.head else { return };
    while door.room() < events {
        let Dequeued::Run(run) = head.dequeue(Duration::ZERO) else { return };
        // Of a partition that was taken away: the log has it.
        if !run.assigned.acquire() {
            shedder.metrics.returned.inc_by(run.len() as u64);
            continue;
        }
        shedder.shed(&run, 0..run.len());
        run.assigned.release();
    }
}
