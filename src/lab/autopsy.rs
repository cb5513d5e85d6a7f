//! `lab autopsy`: which call sites held the heap, from the last profile that a process left behind.
//!
//! The profile holds addresses (`heaps` takes it so); functions, inlined ones and lines are read
//! here, from the binary's debug information, so that naming costs the process nothing. A call site
//! is the innermost frame of a stack that is neither the allocator's nor the standard library's.
//! Invariant: every sampled byte belongs to exactly one call site, and to one of queue, payload and
//! rest.

mod names;
mod profile;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use argh::{ArgsInfo, FromArgs};
use serde::{Deserialize, Serialize};

use self::names::{Frame, Names};
use self::profile::{Heap, Stack};
use crate::cli;
use crate::failure::Failure;
use crate::logging::visible;
use crate::queue;
use crate::source::run::Builder;
use crate::telemetry::profile::{INUSE, RESIDENT};

/// File name inside an arm's folder, for what `--json` prints.
pub const FILE: &str = "autopsy.json";

/// Name the call sites that hold the bytes of a heap profile.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "autopsy")]
pub struct Settings {
    /// gzipped profile, as from /debug/pprof/heap
    #[argh(positional)]
    pub profile: PathBuf,
    /// the binary that ran, which is `lab` for each of the five programs (the file that the profile names)
    #[argh(option)]
    pub binary: Option<PathBuf>,
    /// call sites in the table, those with most bytes (10)
    #[argh(option, default = "10")]
    pub top: usize,
    /// print all of them as JSON instead
    #[argh(switch)]
    pub json: bool,
    /// also write the profile with its names here, for `go tool pprof` without the binary
    #[argh(option)]
    pub named: Option<PathBuf>,
}

/// What held the heap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Autopsy {
    /// When the profile was taken, µs since the epoch.
    pub taken_us: i64,
    /// Resident memory of the process just before; absent in a profile that does not say.
    pub resident_bytes: Option<u64>,
    /// Bytes in use by the allocator's own count, not sampled.
    pub heap_inuse_bytes: Option<u64>,
    /// Bytes in use as sampled: what the shares are of.
    pub total_bytes: u64,
    /// Share of the queue's own memory: channel blocks.
    pub queue_share: f64,
    /// Share of what runs of events allocate: payloads, and where each stands.
    pub payload_share: f64,
    /// Most bytes first.
    pub sites: Vec<Site>,
}

/// One call site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// The function, with its path.
    pub function: String,
    /// Its source file; empty when unknown.
    pub file: String,
    /// Line in it; 0 when unknown.
    pub line: u32,
    /// Whose memory it is.
    pub part: Part,
    /// Bytes in use.
    pub bytes: u64,
    /// Of all bytes, 0 to 1.
    pub share: f64,
    /// Objects in use, estimated as the bytes are; 0 when the profile does not count them.
    pub objects: u64,
}

/// Whose memory a call site's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The queue's channel.
    Queue,
    /// Runs of events.
    Payload,
    /// Everything else.
    Rest,
}

impl Part {
    fn of(frames: &[Frame]) -> Self {
        // By the names that the compiler itself gives, so that a renamed module is followed.
        let run = std::any::type_name::<Builder>().trim_end_matches("Builder");
        let queue = std::any::type_name::<queue::Kind>().trim_end_matches("Kind");
        let calls = |name: &str| frames.iter().any(|frame| frame.function.contains(name));
        if calls(run) {
            Self::Payload
        } else if calls(queue) {
            Self::Queue
        } else {
            Self::Rest
        }
    }
}

impl Autopsy {
    fn of(heap: &Heap, stacks: &[Stack]) -> Self {
        let total_bytes = stacks.iter().map(|stack| stack.bytes).sum();
        let share =
            |bytes: u64| if total_bytes == 0 { 0.0 } else { bytes as f64 / total_bytes as f64 };
        let mut held: BTreeMap<(&Frame, Part), (u64, u64)> = BTreeMap::new();
        for stack in stacks {
            let Some(site) = stack.frames.last() else { continue };
            let held = held.entry((site, Part::of(&stack.frames))).or_default();
            *held = (held.0 + stack.bytes, held.1 + stack.objects);
        }
        let site = |((frame, part), (bytes, objects)): ((&Frame, Part), (u64, u64))| Site {
            function: frame.function.clone(),
            file: frame.file.clone(),
            line: frame.line,
            part,
            bytes,
            share: share(bytes),
            objects,
        };
        let mut sites: Vec<Site> = held.into_iter().map(site).collect();
        sites.sort_by_key(|site| std::cmp::Reverse(site.bytes));
        let of = |part| share(sites.iter().filter(|s| s.part == part).map(|s| s.bytes).sum());
        Self {
            taken_us: heap.taken_us(),
            resident_bytes: heap.comment(RESIDENT),
            heap_inuse_bytes: heap.comment(INUSE),
            total_bytes,
            queue_share: of(Part::Queue),
            payload_share: of(Part::Payload),
            sites,
        }
    }

    /// For people: the first `top` call sites.
    fn table(&self, top: usize) -> String {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let or_unknown = |bytes: Option<u64>| bytes.map_or("?".into(), |b| format!("{:.1}", mb(b)));
        let taken = SystemTime::UNIX_EPOCH + Duration::from_micros(self.taken_us.unsigned_abs());
        let (queue, payload) = (100.0 * self.queue_share, 100.0 * self.payload_share);
        let mut text = format!(
            "taken {}; MB resident {}, in use {}, sampled {:.1}\n\
             queue {queue:.1} %, payload {payload:.1} %, rest {:.1} %\n\
             {:>10} {:>7} {:>10} {:>8}  call site\n",
            humantime::format_rfc3339_seconds(taken),
            or_unknown(self.resident_bytes),
            or_unknown(self.heap_inuse_bytes),
            mb(self.total_bytes),
            100.0 - queue - payload,
            "MB",
            "share",
            "objects",
            "B each",
        );
        for site in self.sites.iter().take(top) {
            let each = site.bytes as f64 / site.objects.max(1) as f64;
            let at = match site.file.as_str() {
                "" => String::new(),
                file => format!("  {}:{}", visible(file), site.line),
            };
            let _never_fails = writeln!(
                text,
                "{:>10.2} {:>5.1} % {:>10} {each:>8.0}  {}{at}",
                mb(site.bytes),
                100.0 * site.share,
                site.objects,
                visible(&site.function),
            );
        }
        text
    }
}

/// A profile comes from elsewhere and may name a file without an end, such as a device.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    std::fs::read(path)
}

/// Reads a profile, names its call sites.
///
/// # Errors
/// When the profile or the binary cannot be read, the binary is another build, or `--named` cannot
/// be written.
pub fn made(settings: &Settings) -> Result<Autopsy, Failure> {
    let heap = Heap::read(&settings.profile)?;
    let (of_profile, build_id) = heap.binary();
    let binary = settings.binary.as_deref().unwrap_or(of_profile);
    let data = read_file(binary).map_err(|e| {
        let binary = binary.display();
        Failure::Failed(format!("{binary}: cannot be read: {e}; give the binary with --binary"))
    })?;
    let stacks = heap.stacks(&Names::read(binary, &data, build_id)?)?;
    let autopsy = Autopsy::of(&heap, &stacks);
    if let Some(path) = &settings.named {
        profile::named(&stacks, &heap).and_then(|bytes| std::fs::write(path, bytes)).map_err(
            |e| Failure::Failed(format!("--named {}: cannot be written: {e}", path.display())),
        )?;
    }
    Ok(autopsy)
}

/// Reads a profile, names its call sites, prints them.
///
/// # Errors
/// As [`made`].
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let autopsy = made(settings)?;
    if settings.json {
        cli::say(serde_json::to_string_pretty(&autopsy).map_err(Failure::failed)?)?;
    } else {
        cli::say(autopsy.table(settings.top).trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents a profile, which is an answer from elsewhere, from commanding the terminal.
    #[test]
    fn names_command_no_terminal() {
        let site = Site {
            function: "[\u{1b}[2Jso]".into(),
            file: "a\r.rs".into(),
            line: 1,
            part: Part::Rest,
            bytes: 1,
            share: 1.0,
            objects: 1,
        };
        let autopsy = Autopsy {
            taken_us: 0,
            resident_bytes: None,
            heap_inuse_bytes: None,
            total_bytes: 1,
            queue_share: 0.0,
            payload_share: 0.0,
            sites: vec![site],
        };
        let table = autopsy.table(10);
        assert!(table.contains(r"[\u{1b}[2Jso]  a\r.rs:1"), "{table}");
        assert!(table.lines().flat_map(str::chars).all(|c| !c.is_control()), "{table:?}");
    }
}
