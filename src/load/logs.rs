//! How far the brokers acknowledged each partition's log, and which of the logs are gone.
//!
//! A log's offsets only grow. An acknowledgement below an earlier one means that the log began anew
//! (its topic was deleted and another created in its place) or was cut back (acks below all). The
//! events that were acknowledged up to the earlier offset may be gone with it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A log that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneLog {
    /// The partition's number.
    pub partition: i32,
    /// Offset up to which events were acknowledged, exclusive.
    pub acked_below: i64,
}

/// The logs of one topic.
#[derive(Debug, Default)]
pub struct Logs {
    ends: HashMap<i32, i64>,
    gone: Vec<GoneLog>,
}

impl Logs {
    /// Notes that `count` events were acknowledged from offset `first` on; returns the log before,
    /// if it is gone.
    pub fn acked(&mut self, partition: i32, first: i64, count: u64) -> Option<GoneLog> {
        let end = first.saturating_add_unsigned(count);
        let acked_below = self.ends.insert(partition, end).filter(|before| first < *before)?;
        let gone = GoneLog { partition, acked_below };
        self.gone.push(gone);
        Some(gone)
    }

    /// The logs that are gone, the earliest first.
    pub fn gone(&self) -> &[GoneLog] {
        &self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_goes_back_says_that_the_log_before_it_went() {
        let mut logs = Logs::default();
        assert_eq!(logs.acked(3, 0, 10), None);
        assert_eq!(logs.acked(3, 12, 10), None, "a resend stands between");
        assert_eq!(logs.acked(4, 0, 10), None, "another partition");
        let gone = GoneLog { partition: 3, acked_below: 22 };
        assert_eq!(logs.acked(3, 0, 5), Some(gone));
        assert_eq!(logs.acked(3, 5, 5), None);
        assert_eq!(logs.gone(), [gone]);
    }
}
