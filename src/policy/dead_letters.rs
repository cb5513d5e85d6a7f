//! Where events go that will never be delivered: counted, and kept with the reason where somebody asked
//! for that: one JSON object a line of a file, or a record of a topic.
//!
//! Invariant: a letter is kept before its offset counts as done, so what was committed as invalid is
//! there, whoever is killed when. A file or topic that takes nothing holds up who reads the letter's partition,
//! where the letter is of a record that is no event; one of an event that the sink refused waits by itself.

mod topic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use roaring::RoaringTreemap;
use serde::Serialize;

use crate::backoff::Backoff;
use crate::brokers::Brokers;
use crate::cli;
use crate::clock;
use crate::failure::Failure;
use crate::lines::{self, Lines};
use crate::source::Rejected;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Stop;
use topic::{Refused, Topic};

/// How long a letter waits for another that is being kept.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Where letters are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A file, behind what it holds.
    File(PathBuf),
    /// A topic, which must exist.
    Topic(String),
}

/// See the module.
pub struct DeadLetters {
    keeper: Option<Mutex<Keeper>>,
    metrics: ProcessorMetrics,
}

enum Keeper {
    File(Lines),
    Topic(Topic),
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
    /// Its value in Base64, where it could be read, and the topic has room for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// The ids in the letters of a file. What is no event has no id.
///
/// # Errors
/// When it cannot be read, or a whole line is no letter.
pub fn ids(path: &Path) -> Result<RoaringTreemap, Failure> {
    #[derive(serde::Deserialize)]
    struct Given {
        id: Option<u64>,
    }
    let failed = |why: String| Failure::Failed(format!("--dead-letter {}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let mut ids = RoaringTreemap::new();
    for (n, line) in lines::whole(&text).split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let given: Given = serde_json::from_slice(line)
            .map_err(|e| failed(format!("line {} is no letter: {e}", n + 1)))?;
        ids.extend(given.id);
    }
    Ok(ids)
}

impl Destination {
    /// Reads a file's path, or `topic:NAME`.
    ///
    /// # Errors
    /// Usage: the name is no topic's.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let Some(name) = text.strip_prefix("topic:") else { return Ok(Self::File(text.into())) };
        cli::check_topic(name)
            .map_err(|why| Failure::Usage(format!("--dead-letter topic:{name}: {why}")))?;
        Ok(Self::Topic(name.to_owned()))
    }
}

impl DeadLetters {
    /// Counts by `metrics`; keeps letters where `to` says, if it says so.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(
        to: Option<&Destination>,
        brokers: &Brokers,
        metrics: ProcessorMetrics,
    ) -> Result<Self, Failure> {
        let open = |to: &Destination| match to {
            Destination::File(path) => Lines::open(path)
                .map(Keeper::File)
                .map_err(|e| Failure::Failed(format!("--dead-letter {}: {e}", path.display()))),
            Destination::Topic(name) => Ok(Keeper::Topic(Topic::new(brokers, name))),
        };
        Ok(Self { keeper: to.map(open).transpose()?.map(Mutex::new), metrics })
    }

    /// Whether letters are kept, not only counted.
    pub fn are_kept(&self) -> bool {
        self.keeper.is_some()
    }

    /// Keeps and counts what is given up, however long that takes. False when the run stopped before it
    /// could be kept: it is not done then.
    pub fn keep(&self, rejected: &Rejected<'_>, stop: &Stop) -> bool {
        let mut backoff = Backoff::standard();
        while !self.try_keep(rejected, stop) {
            if stop.wait(backoff.wait()) {
                return false;
            }
        }
        true
    }

    /// As [`DeadLetters::keep`], once: false when it could not be kept now. Where it never will be, it ends the run.
    pub fn try_keep(&self, rejected: &Rejected<'_>, stop: &Stop) -> bool {
        if let Some(keeper) = &self.keeper {
            // Somebody else's letter waits for the same file or topic: so does this one.
            let kept = match keeper.try_lock_for(LOCK_WAIT) {
                Some(mut keeper) => keeper.append(rejected),
                None => return false,
            };
            match kept {
                Ok(()) => {}
                Err(Refused::Never(why)) => {
                    stop.fail(format!("--dead-letter takes no letter, and never will: {why}"));
                    return false;
                }
                Err(Refused::Now(why) | Refused::TooLarge(why)) => {
                    log::error!(
                        partition = rejected.partition, offset = rejected.offset, why = why.as_str();
                        "--dead-letter takes nothing, trying again"
                    );
                    return false;
                }
            }
        }
        self.metrics.invalid.with_label_values(&[rejected.reason]).inc_by(rejected.offsets());
        true
    }
}

fn line(rejected: &Rejected<'_>, with_value: bool) -> Vec<u8> {
    let letter = Letter {
        at_us: clock::now_us(),
        partition: rejected.partition,
        offset: rejected.offset,
        last_offset: (rejected.last_offset > rejected.offset).then_some(rejected.last_offset),
        id: rejected.id,
        reason: rejected.reason,
        why: rejected.why,
        value: rejected.value.filter(|_| with_value).map(|value| BASE64.encode(value)),
    };
    // Numbers and strings: nothing of it can be refused.
    serde_json::to_vec(&letter).unwrap_or_default()
}

impl Keeper {
    fn append(&mut self, rejected: &Rejected<'_>) -> Result<(), Refused> {
        match self {
            Self::File(lines) => {
                let mut line = line(rejected, true);
                line.push(b'\n');
                lines.append(&line).map_err(|e| Refused::Now(format!("{e}; free some disk")))
            }
            Self::Topic(topic) => match topic.append(&line(rejected, true)) {
                Err(Refused::TooLarge(_)) => topic.append(&line(rejected, false)),
                sent => sent,
            }
            .map_err(|refused| match refused {
                Refused::TooLarge(why) => {
                    Refused::Never(format!("a letter without its value is too large for it: {why}"))
                }
                other => other,
            }),
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

    fn letters(path: &Path, metrics: &ProcessorMetrics) -> DeadLetters {
        let brokers = Brokers::parse("127.0.0.1:1").expect("a list");
        DeadLetters::open(Some(&Destination::File(path.into())), &brokers, metrics.clone())
            .expect("made")
    }

    #[test]
    fn a_place_is_a_file_or_a_topic() {
        assert_eq!(
            Destination::parse("a/topic:b").expect("a file"),
            Destination::File("a/topic:b".into())
        );
        assert_eq!(
            Destination::parse("topic:dead").expect("a topic"),
            Destination::Topic("dead".into())
        );
        let why = Destination::parse("topic:a/b").expect_err("no topic's name").to_string();
        assert!(why.contains("--dead-letter topic:a/b"), "{why}");
    }

    /// Prevents: an event that is committed as invalid and is found nowhere.
    #[test]
    fn a_letter_says_what_where_and_why() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("dead.jsonl");
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        let letters = letters(&path, &metrics);
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
        assert_eq!(ids(&path).expect("read").into_iter().collect::<Vec<_>>(), [7]);
    }

    /// Prevents: an offset that is done although its letter is nowhere, on a full disk.
    #[test]
    fn a_file_that_takes_nothing_leaves_the_event_open() {
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        let letters = letters(Path::new("/dev/full"), &metrics);
        let stop = Stop::default();
        stop.set();
        assert!(!letters.keep(&rejected(5, 5, "no"), &stop));
        assert_eq!(metrics.invalid.with_label_values(&["sink_422"]).get(), 0);
    }
}
