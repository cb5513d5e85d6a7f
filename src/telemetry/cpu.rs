//! The CPU sampler: a timer interrupts the running thread, and the handler notes its stack.
//!
//! It takes 140 KB. Crate `pprof`'s sampler would take 70 MB for its table and, by naming frames
//! once at its start, 110 MB more: that would kill a process near its memory limit. Invariant: the
//! handler allocates nothing, takes no lock and leaves `errno` alone; a sample that finds no free
//! slot is counted as lost.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Samples for each second of CPU; not a divisor of the kernel's tick, so that the two do not beat.
pub(super) const HZ: i64 = 99;
/// Frames kept of a stack, from the inside.
const DEPTH: usize = 64;
/// How often the slots are emptied. With 256 of them, 50 busy cores lose nothing.
const DRAIN: Duration = Duration::from_millis(50);
const SLOTS: usize = 256;

const EMPTY: u8 = 0;
const FILLING: u8 = 1;
const FULL: u8 = 2;

/// A stack that the handler noted. Atomics, because handler and reader are different threads;
/// `state` says which of them owns it.
struct Slot {
    state: AtomicU8,
    /// The thread's name, 16 bytes at most, 0-terminated.
    name: [AtomicU64; 2],
    len: AtomicUsize,
    addresses: [AtomicUsize; DEPTH],
}

static RING: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicU8::new(EMPTY),
        name: [const { AtomicU64::new(0) }; 2],
        len: AtomicUsize::new(0),
        addresses: [const { AtomicUsize::new(0) }; DEPTH],
    }
}; SLOTS];
static NEXT: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Samples by thread name and stack; addresses innermost first.
pub(super) type Samples = HashMap<(String, Vec<usize>), u64>;

/// Samples the process for `time`; the caller ensures that only one does.
pub(super) fn sample(time: Duration) -> io::Result<Samples> {
    install_handler()?;
    // The unwinder's first walk loads its tables: a signal handler must not do that.
    backtrace::trace(|_| true);
    let end = Instant::now() + time;
    let mut samples = Samples::new();
    LOST.store(0, Ordering::Relaxed);
    ACTIVE.store(true, Ordering::Relaxed);
    let started = set_timer(1_000_000 / HZ);
    while started.is_ok() && Instant::now() < end {
        std::thread::sleep(end.saturating_duration_since(Instant::now()).min(DRAIN));
        drain(&mut samples);
    }
    let stopped = set_timer(0);
    ACTIVE.store(false, Ordering::Relaxed);
    drain(&mut samples);
    let lost = LOST.load(Ordering::Relaxed);
    if lost > 0 {
        log::warn!(lost = lost; "the CPU profile misses samples that found no slot");
    }
    started.and(stopped).map(|()| samples)
}

/// The handler stays for good: a signal that arrives after the timer has stopped would end the
/// process without it.
fn install_handler() -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`; the handler has the type that SA_SIGINFO asks
    // for, lives as long as the process and does only what a signal handler may.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut())
    };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A signal each time the process has used so much CPU; 0 stops it.
fn set_timer(interval_us: i64) -> io::Result<()> {
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval_us };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: both pointers are valid or null as the call allows.
    let set = unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the location is this thread's own and always valid.
    let errno = unsafe { *libc::__errno_location() };
    if ACTIVE.load(Ordering::Relaxed) {
        // SAFETY: the kernel passes a valid `ucontext_t` to a handler with SA_SIGINFO.
        note(interrupted_at(unsafe { &*context.cast::<libc::ucontext_t>() }));
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn interrupted_at(context: &libc::ucontext_t) -> usize {
    #[cfg(target_arch = "x86_64")]
    let address = context.uc_mcontext.gregs.get(libc::REG_RIP as usize).copied().unwrap_or(0);
    #[cfg(target_arch = "aarch64")]
    let address = context.uc_mcontext.pc;
    address as usize
}

/// Notes the stack of the calling thread from `address`, where it was interrupted, outwards.
fn note(address: usize) {
    let slot = RING.get(NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS);
    let claim =
        |s: &&Slot| s.state.compare_exchange(EMPTY, FILLING, Ordering::Acquire, Ordering::Relaxed);
    let Some(slot) = slot.filter(|slot| claim(slot).is_ok()) else {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let mut name = [0u64; 2];
    // SAFETY: PR_GET_NAME writes at most 16 bytes to the pointer.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    for (kept, word) in slot.name.iter().zip(name) {
        kept.store(word, Ordering::Relaxed);
    }
    let mut addresses = slot.addresses.iter();
    let mut keep = |address: usize| match addresses.next() {
        Some(kept) => {
            kept.store(address, Ordering::Relaxed);
            true
        }
        None => false,
    };
    keep(address);
    let mut len = 1;
    let mut inside = false;
    // SAFETY: the walk is only unsynchronised with itself on other threads, which share nothing:
    // no frame is given a name here. The loader's lock that the unwinder of an older glibc takes
    // may be taken again by the thread that holds it.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let ip = frame.ip() as usize;
            // The handler's own frames come first.
            if !inside {
                inside = ip == address;
                return true;
            }
            let kept = keep(ip);
            len += usize::from(kept);
            kept
        });
    }
    slot.len.store(len, Ordering::Relaxed);
    slot.state.store(FULL, Ordering::Release);
}

fn drain(samples: &mut Samples) {
    for slot in RING.iter().filter(|slot| slot.state.load(Ordering::Acquire) == FULL) {
        let name: Vec<u8> =
            slot.name.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let len = slot.len.load(Ordering::Relaxed);
        let stack = slot.addresses.iter().take(len).map(|a| a.load(Ordering::Relaxed)).collect();
        slot.state.store(EMPTY, Ordering::Release);
        *samples.entry((String::from_utf8_lossy(name).into_owned(), stack)).or_default() += 1;
    }
}
