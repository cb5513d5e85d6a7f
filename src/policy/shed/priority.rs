//! The queue's last part is for events of high priority alone: partial buffer sharing (Kröner, Hébuterne, Boyer and
//! Gravey, "Priority management in ATM switching nodes", IEEE JSAC 9(3), 1991).
//!
//! The class decides who comes in, never who goes first: the order of a key is kept. So the wait of the high class
//! is the queue's, and a queue that is to be short for it has a small capacity.

use super::Classes;
use crate::policy::Door;
use crate::source::Run;

/// The share of the capacity that others than the high class may not fill: room for what comes of that class while
/// the sink stands still for a moment.
pub const RESERVE: f64 = 0.25;

/// Which of the run's events may come in.
pub fn kept(run: &Run, classes: Classes, door: &Door<'_>) -> Vec<bool> {
    let reserve = (door.limit as f64 * RESERVE) as usize;
    among((0..run.len()).map(|n| classes.is_high(run.head(n).id)), door.room(), reserve)
}

/// Of events that come one after the other, high or not, the ones that find room.
fn among(high: impl Iterator<Item = bool>, room: usize, reserve: usize) -> Vec<bool> {
    let mut entered = 0;
    high.map(|is_high| {
        let room = if is_high { room } else { room.saturating_sub(reserve) };
        let enters = entered < room;
        entered += usize::from(enters);
        enters
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a low event in the reserve; a high one that is turned away while there is room.
    #[test]
    fn the_reserve_is_for_the_high_class_alone() {
        let run = [false, false, true, false, true];
        let kept = |room, reserve| among(run.into_iter(), room, reserve);
        assert_eq!(kept(9, 0), [true; 5]);
        assert_eq!(kept(5, 3), [true, true, true, false, true]);
        assert_eq!(kept(3, 3), [false, false, true, false, true]);
        assert_eq!(kept(1, 3), [false, false, true, false, false]);
        assert_eq!(kept(0, 3), [false; 5]);
    }
}
