//! Wall-clock time that never goes back: the wall clock is read once and carried on by the
//! monotonic clock, so a clock step during a run changes no latency.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn anchor() -> (Instant, i64) {
    static ANCHOR: OnceLock<(Instant, i64)> = OnceLock::new();
    *ANCHOR.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (Instant::now(), i64::try_from(wall.as_micros()).unwrap_or(i64::MAX))
    })
}

/// Now, in µs since the epoch; after the first call only the monotonic clock moves it.
pub fn now_us() -> i64 {
    at_us(Instant::now())
}

/// The instant `at`, in µs since the epoch.
pub fn at_us(at: Instant) -> i64 {
    let (origin, wall_us) = anchor();
    match at.checked_duration_since(origin) {
        Some(after) => wall_us.saturating_add(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
        None => {
            let before = origin.duration_since(at);
            wall_us.saturating_sub(i64::try_from(before.as_micros()).unwrap_or(i64::MAX))
        }
    }
}
