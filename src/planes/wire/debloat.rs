//! The size of the next answer: as much as is taken downstream in a quarter of a second.
//!
//! The records in an answer are a queue like any other, but no gauge counts it. So its size follows
//! the rate at which it drains, as with Flink's buffers (FLIP-183, buffer debloating): behind a
//! full queue answers are small, flat out as large as allowed. The rate is measured over a second:
//! a full queue makes room in bursts, and an answer that fits into one burst would seem to be taken
//! at once.

use std::time::{Duration, Instant};

/// How long an answer should last.
pub const TARGET: Duration = Duration::from_millis(250);

/// The time over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// Smallest size: a request costs a broker much the same whatever its size.
pub const LEAST: i32 = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct Debloat {
    most: i32,
    now: i32,
    /// When the window began: with its first answer.
    since: Option<Instant>,
    /// Bytes that came in it.
    bytes: usize,
}

impl Debloat {
    /// Answers of at most `most` bytes, which is the first size.
    pub fn new(most: i32) -> Self {
        Self { most, now: most, since: None, bytes: 0 }
    }

    /// Notes an answer of `bytes`.
    pub fn came(&mut self, bytes: usize, at: Instant) {
        self.since.get_or_insert(at);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Notes that the whole answer was taken; returns how many bytes to request next.
    pub fn next(&mut self, at: Instant) -> i32 {
        let took = self.since.map_or(Duration::ZERO, |since| at.saturating_duration_since(since));
        if took >= WINDOW {
            let wanted = self.bytes as f64 * TARGET.as_secs_f64() / took.as_secs_f64();
            // The cast saturates.
            self.now = (wanted as i32).max(LEAST).min(self.most);
            (self.since, self.bytes) = (Some(at), 0);
        }
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: i32 = 4 << 20;

    /// Answers of the requested size, each taken at `rate(s)` bytes/s, from `begun` on for so many
    /// seconds; returns the size requested last.
    fn taken(
        debloat: &mut Debloat,
        (begun, seconds): (Instant, f64),
        rate: impl Fn(f64) -> f64,
    ) -> i32 {
        let mut s = 0.0;
        while s < seconds {
            let at = begun + Duration::from_secs_f64(s);
            let bytes = debloat.next(at) as usize;
            debloat.came(bytes, at);
            s += bytes as f64 / rate(s);
        }
        debloat.next(begun + Duration::from_secs_f64(s))
    }

    #[test]
    fn an_answer_lasts_for_the_target_and_follows_what_is_taken() {
        let (mut debloat, begun) = (Debloat::new(MOST), Instant::now());
        let minute = |n: u64| begun + Duration::from_secs(60 * n);
        assert_eq!(debloat.next(begun), MOST);
        let slow = taken(&mut debloat, (begun, 10.0), |_| 1e6);
        assert!((240_000..=260_000).contains(&slow), "{slow}");
        // The first window includes the minute between.
        assert_eq!(taken(&mut debloat, (minute(1), 3.0), |_| 1e8), MOST);
        assert_eq!(taken(&mut debloat, (minute(2), 60.0), |_| 1e5), LEAST);
        assert_eq!(taken(&mut Debloat::new(1000), (begun, 3.0), |_| 1e9), 1000);
    }

    /// Prevents: answers of megabytes behind a full queue, because a small one at once filled room
    /// that had just become free.
    #[test]
    fn a_burst_of_room_is_no_fast_sink() {
        let mut debloat = Debloat::new(MOST);
        // Every half second there is room for a while, 1 MB/s in the mean.
        let bursts = |s: f64| if s % 0.5 < 0.005 { 1e8 } else { 1e6 };
        let asked = taken(&mut debloat, (Instant::now(), 20.0), bursts);
        assert!(asked < 1_000_000, "{asked}");
    }
}
