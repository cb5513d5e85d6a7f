//! No more in flight than keeps the sink from starving: Linux's dynamic queue limits (`lib/dynamic_queue_limits.c`,
//! Herbert, 2011), whose device is the sink here, whose objects are batches, and whose bytes are events.
//!
//! The limit grows by what was sent when the sink starved although the limit held something back, and shrinks by the
//! least slack of a second. It measures no latency, so none can be measured wrongly.

use std::time::{Duration, Instant};

use super::SIZE_MAX;

/// `slack_hold_time`, its default.
const HOLD: Duration = Duration::from_secs(1);

/// The state, its names as in Linux. Counts are events since the start.
#[derive(Debug)]
pub struct Dql {
    limit: u64,
    queued: u64,
    completed: u64,
    last_object: u64,
    /// As of the completion before.
    prev_queued: u64,
    prev_over_limit: u64,
    prev_last_object: u64,
    lowest_slack: u64,
    slack_start: Instant,
}

impl Dql {
    /// Nothing in flight, and a limit of 0.
    pub fn new(now: Instant) -> Self {
        Self {
            limit: 0,
            queued: 0,
            completed: 0,
            last_object: 0,
            prev_queued: 0,
            prev_over_limit: 0,
            prev_last_object: 0,
            lowest_slack: u64::MAX,
            slack_start: now,
        }
    }

    /// Events that may still be sent (`dql_avail`).
    pub fn room(&self) -> usize {
        (self.limit + self.completed).saturating_sub(self.queued) as usize
    }

    /// `events` are sent (`dql_queued`).
    pub fn posted(&mut self, events: usize) {
        self.last_object = events as u64;
        self.queued += events as u64;
    }

    /// `events` of them are done (`dql_completed`).
    pub fn answered(&mut self, events: usize, now: Instant) {
        let completed = (self.completed + events as u64).min(self.queued);
        let mut limit = self.limit;
        let mut over_limit = (self.queued - self.completed).saturating_sub(limit);
        let in_progress = self.queued - completed;
        let prev_in_progress = self.prev_queued.saturating_sub(self.completed);
        let all_prev_completed = completed >= self.prev_queued;
        if (over_limit > 0 && in_progress == 0) || (self.prev_over_limit > 0 && all_prev_completed)
        {
            // It starved.
            limit += completed.saturating_sub(self.prev_queued) + self.prev_over_limit;
            (self.slack_start, self.lowest_slack) = (now, u64::MAX);
        } else if in_progress > 0 && prev_in_progress > 0 && !all_prev_completed {
            // It was busy for the whole time: what was held above need is slack.
            let twice = 2 * (completed - self.completed);
            let slack = (limit + self.prev_over_limit).saturating_sub(twice);
            let of_last = if self.prev_over_limit > 0 {
                self.prev_last_object.saturating_sub(self.prev_over_limit)
            } else {
                0
            };
            self.lowest_slack = self.lowest_slack.min(slack.max(of_last));
            if now.saturating_duration_since(self.slack_start) > HOLD {
                limit = limit.saturating_sub(self.lowest_slack);
                (self.slack_start, self.lowest_slack) = (now, u64::MAX);
            }
        }
        // The kernel's bound is some GB; here no batch is larger.
        let limit = limit.min(64 * SIZE_MAX as u64);
        if limit != self.limit {
            self.limit = limit;
            over_limit = 0;
        }
        self.prev_over_limit = over_limit;
        self.prev_last_object = self.last_object;
        self.completed = completed;
        self.prev_queued = self.queued;
    }
}
