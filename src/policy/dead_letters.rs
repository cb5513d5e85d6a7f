//! Where events go that will never be delivered: counted, and kept with the reason where somebody asked
//! for that, one JSON object a line.
//!
//! Invariant: a letter is in the file before its offset counts as done, so what was committed as invalid
//! is in the file, whoever is killed when. A file that takes nothing makes its partition wait.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use serde::Serialize;

use crate::backoff::Backoff;
use crate::clock;
use crate::failure::Failure;
use crate::lines::Lines;
use crate::source::Rejected;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;

/// See the module.
pub struct DeadLetters {
    lines: Option<Mutex<Lines>>,
    metrics: ProcessorMetrics,
}

/// A line of the file.
#[derive(Serialize)]
struct Letter<'a> {
    /// When it was given up, µs since the epoch.
    at_us: i64,
    partition: i32,
    offset: i64,
    /// The last offset of a range that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    reason: &'a str,
    why: &'a str,
    /// Its value in Base64, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl DeadLetters {
    /// Counts by `metrics`; keeps letters in the file at `path`, where there is one.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: Option<&Path>, metrics: ProcessorMetrics) -> Result<Self, Failure> {
        let open = |path: &Path| {
            Lines::open(path)
                .map(|(lines, _earlier)| Mutex::new(lines))
                .map_err(|e| Failure::Failed(format!("--dead-letter {}: {e}", path.display())))
        };
        Ok(Self { lines: path.map(open).transpose()?, metrics })
    }

    /// Keeps and counts what is given up. False when the run stopped before it could be kept: it is not
    /// done then.
    pub fn keep(&self, rejected: &Rejected<'_>, stop: &Stop) -> bool {
        if let Some(lines) = &self.lines
            && !append(lines, &line(rejected), stop)
        {
            return false;
        }
        self.metrics.invalid.with_label_values(&[rejected.reason]).inc_by(rejected.offsets());
        true
    }
}

fn line(rejected: &Rejected<'_>) -> Vec<u8> {
    let letter = Letter {
        at_us: clock::now_us(),
        partition: rejected.partition,
        offset: rejected.offset,
        last_offset: (rejected.last_offset > rejected.offset).then_some(rejected.last_offset),
        id: rejected.id,
        reason: rejected.reason,
        why: rejected.why,
        value: rejected.value.map(|value| BASE64.encode(value)),
    };
    // Numbers and strings: nothing of it can be refused.
    let mut line = serde_json::to_vec(&letter).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Appends, however long that takes; false when the run stops first.
fn append(lines: &Mutex<Lines>, line: &[u8], stop: &Stop) -> bool {
    let mut backoff = Backoff::standard();
    loop {
        match lines.lock().append(line) {
            Ok(()) => return true,
            Err(e) => log::error!(
                why = e.to_string().as_str();
                "--dead-letter takes nothing, its partition waits; free some disk"
            ),
        }
        if stop.wait(backoff.wait()) {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn rejected<'a>(offset: i64, last_offset: i64, why: &'a str) -> Rejected<'a> {
        let (id, reason) = (Some(7), "sink_422");
        Rejected { partition: 3, offset, last_offset, id, reason, why, value: Some(b"abc") }
    }

    /// Prevents: an event that is committed as invalid and is found nowhere.
    #[test]
    fn a_letter_says_what_where_and_why() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("dead.jsonl");
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        let letters = DeadLetters::open(Some(&path), metrics.clone()).expect("made");
        assert!(letters.keep(&rejected(5, 5, "no\n\"such\" id"), &Stop::default()));
        assert!(letters.keep(&rejected(6, 9, "corrupt"), &Stop::default()));
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["why"], "no\n\"such\" id");
        assert_eq!((&lines[0]["offset"], &lines[0]["id"]), (&5.into(), &7.into()));
        assert_eq!(lines[0]["value"], BASE64.encode(b"abc"));
        assert!(lines[0].get("last_offset").is_none());
        assert_eq!(lines[1]["last_offset"], 9);
        assert_eq!(metrics.invalid.with_label_values(&["sink_422"]).get(), 1 + 4);
    }

    /// Prevents: an offset that is done although its letter is nowhere, on a full disk.
    #[test]
    fn a_file_that_takes_nothing_leaves_the_event_open() {
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        let letters =
            DeadLetters::open(Some(Path::new("/dev/full")), metrics.clone()).expect("opened");
        let stop = Stop::default();
        stop.set();
        assert!(!letters.keep(&rejected(5, 5, "no"), &stop));
        assert_eq!(metrics.invalid.with_label_values(&["sink_422"]).get(), 0);
    }
}
