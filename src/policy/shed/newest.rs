//! What finds the queue full goes.

use super::Shedder;
use crate::policy::Door;
use crate::queue::{Load as _, Offer};
use crate::source::{Enqueued, Run};

/// Enqueues as many of the run's first events as there is room for, and sheds the rest.
pub fn enter(shedder: &Shedder, door: &Door<'_>, run: Box<Run>) -> Enqueued {
    let rest = match door.offer(run) {
        Offer::Queued => return Enqueued::Yes,
        Offer::Closed(_) => return Enqueued::Unwanted,
        Offer::Full(back) if back.assigned.is_revoked() => return Enqueued::Unwanted,
        Offer::Full(mut back) => {
            let rest = back.split_off(door.room().min(back.len()));
            if !back.is_empty() {
                match door.offer(back) {
                    Offer::Queued => {}
                    Offer::Closed(_) => return Enqueued::Unwanted,
                    // Another fetcher took the room.
                    Offer::Full(back) => shedder.shed(&back, 0..back.len()),
                }
            }
            rest
        }
    };
    shedder.shed(&rest, 0..rest.len());
    Enqueued::Yes
}
