//! What one event costs in memory while it waits in the queue: computed from the layouts of
//! crossbeam's channel and the size classes of jemalloc, never fitted to a measurement.
//!
//! [`queued_event_bytes`] counts what the allocator hands out, [`resident_event_bytes`] the records
//! that it keeps about that as well; neither counts what else the process does.

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

/// Resident bytes of the same: the allocator keeps one record for each slab of a size class.
pub fn resident_event_bytes<T>(payload_bytes: usize) -> f64 {
    queued_event_bytes::<T>(payload_bytes)
        + record_bytes(size_of::<Block<T>>()) / BLOCK_CAP as f64
        + record_bytes(payload_bytes)
}

/// jemalloc's own record of one allocation of `bytes`, its share of its slab's: an `edata_t` of
/// 128 B (`edata.h`: one to a cache-line pair) and, in the radix tree that finds it, a leaf of 8 B
/// for each page (`rtree.h`).
fn record_bytes(bytes: usize) -> f64 {
    const EDATA_BYTES: f64 = 128.0;
    const LEAF_BYTES: f64 = 8.0;
    const PAGE_BYTES: f64 = 4096.0;
    let class = allocated(bytes);
    if class == 0 {
        return 0.0;
    }
    // The smallest run of whole pages that the class fills without a rest (`sc.c`, slab_size); of a
    // large class, the allocation itself.
    let page = PAGE_BYTES as usize;
    let pages = (1..=class / page + 8).find(|pages| (pages * page).is_multiple_of(class));
    let slab = pages.unwrap_or(1) as f64 * PAGE_BYTES;
    (EDATA_BYTES + LEAF_BYTES * slab / PAGE_BYTES) / (slab / class as f64)
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

    // 512 B: 8 to a page, (128 + 8) / 8; 1,536 B: 8 to three pages, (128 + 24) / 8 for 31 events.
    #[test]
    fn the_allocators_records_come_on_top() {
        let bytes = resident_event_bytes::<[u64; 5]>(512) - queued_event_bytes::<[u64; 5]>(512);
        assert!((bytes - (17.0 + 19.0 / 31.0)).abs() < 1e-9, "{bytes}");
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
