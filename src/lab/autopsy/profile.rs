//! Reads a heap profile into named stacks, and writes named stacks as a profile again.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use regex::Regex;

use super::names::{Frame, Names};
use crate::failure::Failure;
use crate::telemetry::pprof::{
    Function, Line, Location, Mapping, Message, Profile, Sample, ValueType,
};

/// Largest profile that is read, decompressed.
const PROFILE_BYTES_MAX: u64 = 256 << 20;

/// What one stack holds.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Objects in use; 0 when the profile does not count them.
    pub objects: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Outermost first; the last one is the call site. Never empty.
    pub frames: Vec<Frame>,
}

/// A profile as it was taken.
pub struct Heap {
    profile: Profile,
    path: PathBuf,
    objects_at: Option<usize>,
    bytes_at: usize,
}

impl Heap {
    /// Reads the gzipped profile `path`.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or holds no bytes in use.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bad = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
        let gzipped = std::fs::read(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        let mut raw = Vec::new();
        GzDecoder::new(gzipped.as_slice())
            .take(PROFILE_BYTES_MAX)
            .read_to_end(&mut raw)
            .map_err(|e| bad(format!("is no whole gzipped profile: {e}")))?;
        let profile =
            Profile::decode(raw.as_slice()).map_err(|e| bad(format!("is no profile: {e}")))?;
        let kind =
            |name: &str| profile.sample_type.iter().position(|k| text(&profile, k.ty) == name);
        let bytes_at = kind("inuse_space")
            .ok_or_else(|| bad("holds no inuse_space: take it from /debug/pprof/heap".into()))?;
        Ok(Self { objects_at: kind("inuse_objects"), bytes_at, path: path.to_owned(), profile })
    }

    /// When it was taken, µs since the epoch.
    pub fn taken_us(&self) -> i64 {
        self.profile.time_nanos / 1000
    }

    /// The number that a comment `name=N` gives.
    pub fn comment(&self, name: &str) -> Option<u64> {
        self.profile.comment.iter().find_map(|comment| {
            text(&self.profile, *comment).strip_prefix(name)?.strip_prefix('=')?.parse().ok()
        })
    }

    /// The process's binary and its build id.
    pub fn binary(&self) -> (&Path, &str) {
        let first = self.profile.mapping.first();
        let of = |index: fn(&Mapping) -> i64| first.map_or("", |m| text(&self.profile, index(m)));
        (Path::new(of(|m| m.filename)), of(|m| m.build_id))
    }

    /// Its stacks, named, each cut at its call site.
    ///
    /// # Errors
    /// When the profile's own list of allocator frames is no regular expression.
    pub fn stacks(&self, names: &Names<'_>) -> Result<Vec<Stack>, Failure> {
        let dropped = text(&self.profile, self.profile.drop_frames);
        // No list becomes `^()$`, which matches no name.
        let dropped = Regex::new(&format!("^({dropped})$")).map_err(|e| {
            Failure::Failed(format!("{}: its drop_frames are unusable: {e}", self.path.display()))
        })?;
        let binary = self.profile.mapping.first().map(|m| m.filename);
        let files: HashMap<u64, i64> =
            self.profile.mapping.iter().map(|m| (m.id, m.filename)).collect();
        let frames: HashMap<u64, Vec<Frame>> = (self.profile.location.iter())
            .map(|location| {
                let file = files.get(&location.mapping_id).copied();
                let frames = if file.is_some() && file == binary {
                    names.frames(location.address)
                } else {
                    let file = Path::new(text(&self.profile, file.unwrap_or(0))).file_name();
                    let file = file.map_or("?".into(), |f| f.to_string_lossy());
                    vec![Frame::named(format!("[{file}]"))]
                };
                (location.id, frames)
            })
            .collect();
        let value = |sample: &Sample, at: usize| {
            sample.value.get(at).and_then(|v| u64::try_from(*v).ok()).unwrap_or(0)
        };
        let stack = |sample: &Sample| Stack {
            objects: self.objects_at.map_or(0, |at| value(sample, at)),
            bytes: value(sample, self.bytes_at),
            frames: to_call_site(
                sample
                    .location_id
                    .iter()
                    .rev()
                    .filter_map(|id| frames.get(id))
                    .flat_map(|frames| frames.iter().rev().cloned())
                    .collect(),
                &dropped,
            ),
        };
        Ok(self.profile.sample.iter().map(stack).collect())
    }
}

/// Cuts off the inner end of a stack: first all from the allocator's outermost frame on, as pprof
/// does with `drop_frames`, then the standard library's frames. One frame always stays.
fn to_call_site(mut frames: Vec<Frame>, dropped: &Regex) -> Vec<Frame> {
    let allocator =
        frames.iter().position(|frame| dropped.is_match(without_arguments(&frame.function)));
    frames.truncate(allocator.unwrap_or(frames.len()).max(1));
    let std = frames.iter().rev().take_while(|frame| frame.is_std()).count();
    if std < frames.len() {
        frames.truncate(frames.len() - std);
    }
    if frames.is_empty() {
        frames.push(Frame::named("?"));
    }
    frames
}

/// As pprof compares names: up to the first `(`.
fn without_arguments(function: &str) -> &str {
    function.split('(').next().unwrap_or(function)
}

fn text(profile: &Profile, index: i64) -> &str {
    usize::try_from(index).ok().and_then(|i| profile.string_table.get(i)).map_or("", String::as_str)
}

/// `stacks` as a gzipped profile that any pprof reader shows with names, without the binary.
///
/// # Errors
/// When it cannot be compressed.
pub fn named(stacks: &[Stack], heap: &Heap) -> io::Result<Vec<u8>> {
    let from = &heap.profile;
    let mut out = Writer::default();
    out.string("");
    for kind in &from.sample_type {
        let kind = ValueType {
            ty: out.string(text(from, kind.ty)),
            unit: out.string(text(from, kind.unit)),
        };
        out.profile.sample_type.push(kind);
    }
    for comment in &from.comment {
        let comment = out.string(text(from, *comment));
        out.profile.comment.push(comment);
    }
    out.profile.default_sample_type = out.string(text(from, from.default_sample_type));
    out.profile.time_nanos = from.time_nanos;
    // One mapping, which says that all names are known; the reader does not need its folder.
    let (binary, build_id) = heap.binary();
    let file = binary.file_name().unwrap_or_default().to_string_lossy();
    let mapping = Mapping {
        id: MAPPING,
        memory_limit: u64::MAX,
        filename: out.string(&file),
        build_id: out.string(build_id),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
        ..Mapping::default()
    };
    out.profile.mapping.push(mapping);
    for stack in stacks {
        let mut value = vec![0; from.sample_type.len()];
        for (at, known) in [(heap.objects_at, stack.objects), (Some(heap.bytes_at), stack.bytes)] {
            if let Some(slot) = at.and_then(|at| value.get_mut(at)) {
                *slot = i64::try_from(known).unwrap_or(i64::MAX);
            }
        }
        let location_id = stack.frames.iter().rev().map(|frame| out.location(frame)).collect();
        out.profile.sample.push(Sample { location_id, value, ..Sample::default() });
    }
    let mut gzipped = Vec::new();
    GzEncoder::new(out.profile.encode_to_vec().as_slice(), Compression::default())
        .read_to_end(&mut gzipped)?;
    Ok(gzipped)
}

const MAPPING: u64 = 1;

/// A profile in the making: each string, function and place in it once.
#[derive(Default)]
struct Writer {
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, u32), u64>,
}

impl Writer {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.strings.len() as i64;
        self.strings.insert(text.to_owned(), index);
        self.profile.string_table.push(text.to_owned());
        index
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let (name, filename) = (self.string(&frame.function), self.string(&frame.file));
        let next = self.functions.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            // Without a system name: go would take an equal one for mangled and strip `<T>`.
            self.profile.function.push(Function { id, name, filename, ..Function::default() });
        }
        id
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        let function_id = self.function(frame);
        let next = self.locations.len() as u64 + 1;
        let id = *self.locations.entry((function_id, frame.line)).or_insert(next);
        if id == next {
            let line = vec![Line { function_id, line: frame.line.into() }];
            let mapping_id = MAPPING;
            self.profile.location.push(Location { id, mapping_id, line, ..Location::default() });
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(names: &[&str]) -> Vec<String> {
        let dropped = Regex::new("^(calloc|<?alloc::alloc(::| ).*)$").expect("regex");
        let frames = names.iter().map(|name| Frame::named(*name)).collect();
        to_call_site(frames, &dropped).into_iter().map(|frame| frame.function).collect()
    }

    // Prevents: bytes that belong to `Box::from` or to `malloc` instead of to their caller; a
    // thread's start, which is std's as well, taken for the call site of all.
    #[test]
    fn a_call_site_is_neither_the_allocators_nor_stds() {
        let thread = ["[libc.so.6]", "std::thread::start", "core::ops::FnOnce::call_once"];
        let with = |inner: &[&str]| cut(&[&thread, inner].concat());
        let box_from = ["a::decode", "<T as core::Into<U>>::into", "alloc::boxed::Box<T>::from"];
        let alloc = [box_from.as_slice(), &["alloc::alloc::alloc", "a::hook", "calloc"]].concat();
        assert_eq!(with(&alloc).last().map(String::as_str), Some("a::decode"));
        assert_eq!(with(&alloc).len(), 4);
        assert_eq!(with(&["rd_kafka_new", "calloc(size_t)"]).last().unwrap(), "rd_kafka_new");
        assert_eq!(cut(&thread).last().unwrap(), "[libc.so.6]", "one that is nobody else's");
        assert_eq!(cut(&["calloc"]), ["calloc"]);
        assert_eq!(cut(&["std::thread::start"]), ["std::thread::start"]);
    }
}
