//! What one event costs in memory while it waits in the queue: computed from the layouts of
//! crossbeam's channel and the size classes of jemalloc, never fitted to a measurement.
//!
//! It counts what the allocator hands out, not the allocator's own bookkeeping (about 128 B of
//! extent record for each slab) nor what else the process does.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicUsize};

/// Messages in one block of crossbeam-channel's list flavour (`flavors/list.rs`, `BLOCK_CAP`).
const BLOCK_CAP: usize = 31;

/// Mirrors of `flavors/list.rs`, for their size alone.
#[allow(dead_code, reason = "only their size is asked for")]
struct Slot<T> {
    msg: MaybeUninit<T>,
    state: AtomicUsize,
}

#[allow(dead_code, reason = "only their size is asked for")]
struct Block<T> {
    next: AtomicPtr<Block<T>>,
    slots: [Slot<T>; BLOCK_CAP],
}

/// Heap bytes of one message `T` in an unbounded crossbeam channel, with a boxed payload of
/// `payload_bytes` beside it. Exact for full blocks; a queue of n messages has at most one block
/// that is not.
pub fn queued_event_bytes<T>(payload_bytes: usize) -> f64 {
    allocated(size_of::<Block<T>>()) as f64 / BLOCK_CAP as f64 + allocated(payload_bytes) as f64
}

/// What jemalloc really sets aside for a request of `bytes`: the size class.
fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        return 0; // an empty box allocates nothing
    }
    // SAFETY: nallocx has no precondition but a size above 0; it computes and allocates nothing.
    unsafe { tikv_jemalloc_sys::nallocx(bytes, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_512_bytes_with_40_bytes_of_fields() {
        // 31 slots of 40 + 8 B and a pointer are 1,496 B, class 1,536: 49.5 B each; 512 is a class.
        let bytes = queued_event_bytes::<[u64; 5]>(512);
        assert!((bytes - (1536.0 / 31.0 + 512.0)).abs() < 1e-9, "{bytes}");
        assert_eq!(queued_event_bytes::<[u64; 5]>(0), 1536.0 / 31.0);
    }

    // Guards the mirror against another layout in a later crossbeam: what its channel really
    // allocates for 31,000 messages is what the mirror says, within the one open block.
    #[test]
    fn the_mirror_agrees_with_the_real_channel() {
        let before = thread_allocated();
        let (tx, rx) = crossbeam_channel::unbounded::<[u64; 5]>();
        for n in 0..31_000 {
            tx.send([n; 5]).expect("open");
        }
        let real = (thread_allocated() - before) as f64;
        drop(rx);
        let model = 31_000.0 * queued_event_bytes::<[u64; 5]>(0);
        assert!((real / model - 1.0).abs() < 0.01, "real {real} model {model}");
    }

    fn thread_allocated() -> u64 {
        tikv_jemalloc_ctl::thread::allocatedp::read().expect("jemalloc").get()
    }
}
