//! Heap and CPU profiles in pprof's format, as `go tool pprof` reads them.
//!
//! A profile holds addresses, file mappings and build ids, and the paths of our functions from the
//! symbol table (`symbols`); the reader adds lines and inlined functions. Reading the debug
//! information in the process would take more memory than the profile is about: near a limit the
//! dump itself would cause the kill. Invariant: one profile at a time.

use std::io::Read;
use std::time::Duration;

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use mappings::MAPPINGS;
use parking_lot::Mutex;
use pprof_util::{StackProfile, WeightedStack};

use super::pprof::{Message, Profile, ValueType};
use super::{allocator, cpu, symbols};

/// Functions whose bytes belong to their caller: jemalloc, Rust's entry points to it, the growing
/// of a `Vec`. A reader drops such a frame with all frames below it; these functions call back into
/// no other code.
const HEAP_DROP_FRAMES: &str = concat!(
    "(_rjem_)?(je_)?(prof_|.?malloc|.?allocx|calloc|realloc|posix_memalign|aligned_alloc|do_rallocx",
    "|arena_|large_|te_|tcache_).*",
    "|(__rustc::)?__(rust|rdl|rg)_(alloc|dealloc|realloc).*",
    "|<?(tikv_jemallocator|alloc::alloc|alloc::raw_vec)(::| ).*",
    // As a reader without paths spells them.
    "|exchange_malloc|alloc_impl|try_allocate_in|with_capacity_in|finish_grow|grow_.*",
);

static BUSY: Mutex<()> = Mutex::new(());

/// Who names the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// The process, with full paths, from its symbol table.
    Here,
    /// The reader, with inlined functions and lines, if its tools can.
    Reader,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// One profile at a time.
    #[error("another profile is being taken; try again when it is done")]
    Busy,
    /// `MALLOC_CONF` of the environment turned it off.
    #[error("jemalloc's profiler is off; start without MALLOC_CONF=prof:false")]
    Off,
    /// The profiler failed.
    #[error("cannot take the profile: {0}")]
    Failed(String),
}

fn failed(why: impl std::fmt::Display) -> ProfileError {
    ProfileError::Failed(why.to_string())
}

/// Objects and bytes in use by call site, as sampled since the start: a gzipped pprof profile. Its
/// comments give the process's memory just before: [`RESIDENT`] and [`INUSE`].
///
/// # Errors
/// When another profile is being taken, or the profiler is off or fails.
pub fn heap(names: Names) -> Result<Vec<u8>, ProfileError> {
    let _one = BUSY.try_lock().ok_or(ProfileError::Busy)?;
    let before = [(RESIDENT, resident_bytes()), (INUSE, allocator::inuse_bytes())];
    let dump = allocator::heap_dump().map_err(failed)?.ok_or(ProfileError::Off)?;
    let mut stacks =
        pprof_util::parse_jeheap(dump.as_bytes(), MAPPINGS.as_deref()).map_err(failed)?;
    name_executable(&mut stacks);
    let raw = stacks.to_pprof(("inuse_space", "bytes"), ("space", "bytes"), None);
    finish(&raw, names, |profile| {
        add_objects(profile, &dump);
        profile.drop_frames = add_string(profile, HEAP_DROP_FRAMES);
        for (name, bytes) in before.iter().filter_map(|(name, bytes)| Some((name, (*bytes)?))) {
            let comment = add_string(profile, &format!("{name}={bytes}"));
            profile.comment.push(comment);
        }
    })
}

/// The comment `resident_bytes=N`: resident memory of the process.
pub const RESIDENT: &str = "resident_bytes";
/// The comment `heap_inuse_bytes=N`: by the allocator's own count, not sampled.
pub const INUSE: &str = "heap_inuse_bytes";

fn resident_bytes() -> Option<u64> {
    let pages = procfs::process::Process::myself().ok()?.statm().ok()?.resident;
    Some(pages * procfs::page_size())
}

/// Puts the number of objects before each stack's bytes: the converter knows only the latter.
fn add_objects(profile: &mut Profile, dump: &str) {
    let count =
        ValueType { ty: add_string(profile, "inuse_objects"), unit: add_string(profile, "count") };
    profile.sample_type.insert(0, count);
    profile.default_sample_type = profile.sample_type.last().map_or(0, |bytes| bytes.ty);
    for (sample, each) in profile.sample.iter_mut().zip(mean_bytes(dump)) {
        let bytes = sample.value.first().copied().unwrap_or(0);
        sample.value.insert(0, (bytes as f64 / each).round() as i64);
    }
}

/// Bytes of a sampled object, stack by stack: after `@ ADDRESS...`, `t*: OBJECTS: BYTES [0: 0]`.
fn mean_bytes(dump: &str) -> impl Iterator<Item = f64> + '_ {
    dump.lines().skip_while(|line| !line.starts_with('@')).filter_map(|line| {
        let (objects, rest) = line.trim().strip_prefix("t*: ")?.split_once(": ")?;
        let (bytes, _) = rest.split_once(' ')?;
        Some(bytes.parse::<f64>().ok()? / objects.parse::<f64>().ok()?)
    })
}

/// CPU time by call site over the next `time`: a gzipped pprof profile. Threads that block
/// SIGPROF (see [`block_profiler_signal`]) are not seen.
///
/// # Errors
/// When another profile is being taken or the timer cannot be set.
pub fn cpu(time: Duration, names: Names) -> Result<Vec<u8>, ProfileError> {
    let _one = BUSY.try_lock().ok_or(ProfileError::Busy)?;
    let samples = cpu::sample(time).map_err(failed)?;
    let mut stacks = StackProfile::default();
    MAPPINGS.iter().flatten().for_each(|mapping| stacks.push_mapping(mapping.clone()));
    name_executable(&mut stacks);
    let period_ns = 1_000_000_000 / cpu::HZ;
    for ((thread, mut addrs), count) in samples {
        if let Some(exact) = addrs.first_mut() {
            // The others are return addresses; all get 1 taken off, to point into the call.
            *exact += 1;
        }
        addrs.reverse();
        let weight = (count * period_ns as u64) as f64;
        stacks.push_stack(WeightedStack { addrs, weight }, Some(&thread));
    }
    let unit = ("cpu", "nanoseconds");
    let raw = stacks.to_pprof(unit, unit, Some("thread".to_owned()));
    finish(&raw, names, |profile| {
        // The converter repeats the label for each frame.
        profile.sample.iter_mut().for_each(|sample| sample.label.truncate(1));
        profile.period = period_ns;
        profile.duration_nanos = time.as_nanos().try_into().unwrap_or(i64::MAX);
    })
}

/// The loader knows the program by the name it was called by; the reader needs the file.
fn name_executable(stacks: &mut StackProfile) {
    let Ok(executable) = std::env::current_exe() else { return };
    let Some(called) = stacks.mappings.first().map(|mapping| mapping.pathname.clone()) else {
        return;
    };
    for mapping in stacks.mappings.iter_mut().filter(|mapping| mapping.pathname == called) {
        mapping.pathname.clone_from(&executable);
    }
}

/// Reads a profile, names its functions, changes it and writes it again.
fn finish(
    gzipped: &[u8],
    names: Names,
    change: impl FnOnce(&mut Profile),
) -> Result<Vec<u8>, ProfileError> {
    let mut raw = Vec::new();
    GzDecoder::new(gzipped).read_to_end(&mut raw).map_err(failed)?;
    let mut profile = Profile::decode(raw.as_slice()).map_err(failed)?;
    if names == Names::Here
        && let Err(e) = symbols::name(&mut profile)
    {
        log::warn!(error = e.to_string().as_str(); "a profile goes out without names");
    }
    change(&mut profile);
    let mut out = Vec::new();
    GzEncoder::new(profile.encode_to_vec().as_slice(), Compression::fast())
        .read_to_end(&mut out)
        .map_err(failed)?;
    Ok(out)
}

/// Adds a string to the profile's table, returns its number.
fn add_string(profile: &mut Profile, text: &str) -> i64 {
    profile.string_table.push(text.to_owned());
    i64::try_from(profile.string_table.len()).unwrap_or(i64::MAX) - 1
}

/// Keeps the CPU profiler's signal from the calling thread, whose system calls it would
/// interrupt: crate `kafka` gives up on a connection then.
pub fn block_profiler_signal() {
    // SAFETY: the set is initialised by `sigemptyset` before it is read, and the calls touch
    // nothing but it and the calling thread's mask.
    let blocked = unsafe {
        let mut set = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPROF);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if blocked != 0 {
        log::warn!(code = blocked; "cannot block SIGPROF; a CPU profile may cost connections");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The shape of jemalloc's dump: the sum of all stacks comes before the first of them.
    #[test]
    fn each_stack_has_the_size_of_its_objects() {
        let dump = "heap_v2/524288\n  t*: 5: 2560 [0: 0]\n  t0: 5: 2560 [0: 0]\n@ 0x1 0x2\n  \
                    t*: 4: 2048 [0: 0]\n  t0: 4: 2048 [0: 0]\n@ 0x3\n  t*: 1: 1536 [0: 0]\n";
        assert_eq!(mean_bytes(dump).collect::<Vec<_>>(), [512.0, 1536.0]);
    }
}
