//! Heap and CPU profiles in pprof's format, as `go tool pprof` reads them.
//!
//! A profile holds addresses, file mappings and build ids; names are added by the reader, from
//! the binary. Naming them in the process would take more memory than the profile is about: near
//! a memory limit the dump itself would be the kill. Invariant: one profile at a time.

use std::io::Read;
use std::time::Duration;

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use jemalloc_pprof::{PROF_CTL, StackProfile, WeightedStack};
use parking_lot::Mutex;
use pprof::protos::{Message, Profile};

/// CPU samples a second; not a divisor of the kernel's tick, so that it does not beat with it.
const CPU_HZ: i32 = 99;

/// Functions whose bytes belong to their caller: jemalloc's and Rust's ways into it. They call
/// back nobody, so all below them may go; pprof drops a frame and what it called.
const HEAP_DROP_FRAMES: &str =
    "(_rjem_)?(je_)?(prof_|malloc|calloc|realloc|posix_memalign|do_rallocx).*";

static BUSY: Mutex<()> = Mutex::new(());

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

/// Bytes in use by call site, as sampled since the start: a gzipped pprof profile.
///
/// # Errors
/// When another profile is being taken, the profiler is off, or the temporary folder, where
/// jemalloc writes its raw dump, cannot be written.
pub fn heap() -> Result<Vec<u8>, ProfileError> {
    let _one = BUSY.try_lock().ok_or(ProfileError::Busy)?;
    let control = PROF_CTL.as_ref().ok_or(ProfileError::Off)?;
    let mut stacks = control.blocking_lock().dump_profile().map_err(failed)?;
    name_executable(&mut stacks);
    let raw = stacks.to_pprof(("inuse_space", "bytes"), ("space", "bytes"), None);
    finish(&raw, |profile| {
        let drop_frames = add_string(profile, HEAP_DROP_FRAMES);
        profile.drop_frames = drop_frames;
    })
}

/// CPU time by call site over the next `time`: a gzipped pprof profile. Threads that block
/// SIGPROF (see [`block_profiler_signal`]) are not seen.
///
/// # Errors
/// When another profile is being taken or the timer cannot be set.
pub fn cpu(time: Duration) -> Result<Vec<u8>, ProfileError> {
    let _one = BUSY.try_lock().ok_or(ProfileError::Busy)?;
    let mut builder = pprof::ProfilerGuardBuilder::default().frequency(CPU_HZ);
    if !unwinder_takes_no_lock() {
        // A signal inside these could wait for a lock that its own thread holds.
        builder = builder.blocklist(&["libc", "libgcc", "pthread", "vdso"]);
    }
    let sampling = builder.build().map_err(failed)?;
    std::thread::sleep(time);
    let report = sampling.report().build_unresolved().map_err(failed)?;
    drop(sampling);

    let mut stacks = StackProfile::default();
    mappings::MAPPINGS.iter().flatten().for_each(|mapping| stacks.push_mapping(mapping.clone()));
    name_executable(&mut stacks);
    let period_ns = 1e9 / f64::from(CPU_HZ);
    for (sample, count) in &report.data {
        let frames: Vec<(usize, usize)> = sample
            .frames
            .iter()
            .map(|frame| (frame.ip() as usize, frame.symbol_address() as usize))
            .collect();
        let name = sample.thread_name.get(..sample.thread_name_length).unwrap_or_default();
        let weight = *count as f64 * period_ns;
        let stack = WeightedStack { addrs: interrupted(&frames), weight };
        stacks.push_stack(stack, Some(&String::from_utf8_lossy(name)));
    }
    let unit = ("cpu", "nanoseconds");
    let raw = stacks.to_pprof(unit, unit, Some("thread".to_owned()));
    finish(&raw, |profile| {
        profile.period = period_ns as i64;
        profile.duration_nanos = time.as_nanos().try_into().unwrap_or(i64::MAX);
    })
}

/// The addresses of the stack that was interrupted, outermost first, from (address, start of its
/// function) innermost first. The profiler's own frames are on top of it: its handler, and the
/// kernel's return from it.
fn interrupted(frames: &[(usize, usize)]) -> Vec<usize> {
    let handler = perf_signal_handler as *const () as usize;
    let own = frames.iter().position(|(_, function)| *function == handler).map_or(0, |at| at + 2);
    let mut stack: Vec<usize> = frames.iter().skip(own).map(|(ip, _)| *ip).collect();
    if let Some(exact) = stack.first_mut() {
        // The others are return addresses, and all get 1 taken off to point into the call.
        *exact += 1;
    }
    stack.reverse();
    stack
}

unsafe extern "C" {
    /// Crate `pprof`'s handler of SIGPROF; only its address is used.
    fn perf_signal_handler();
}

/// Since glibc 2.35 the unwinder finds its tables without the loader's lock.
fn unwinder_takes_no_lock() -> bool {
    // SAFETY: both arguments are valid for the whole call; the result is only compared.
    !unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) }.is_null()
}

/// The loader knows the program by how it was called; the reader needs the file.
fn name_executable(stacks: &mut StackProfile) {
    let Ok(executable) = std::env::current_exe() else { return };
    let Some(called) = stacks.mappings.first().map(|mapping| mapping.pathname.clone()) else {
        return;
    };
    for mapping in stacks.mappings.iter_mut().filter(|mapping| mapping.pathname == called) {
        mapping.pathname.clone_from(&executable);
    }
}

/// Reads a profile, changes it and writes it again.
fn finish(gzipped: &[u8], change: impl FnOnce(&mut Profile)) -> Result<Vec<u8>, ProfileError> {
    let mut raw = Vec::new();
    GzDecoder::new(gzipped).read_to_end(&mut raw).map_err(failed)?;
    let mut profile = Profile::decode(raw.as_slice()).map_err(failed)?;
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
