//! The memory of one event while it waits in the queue: computed from the layouts of a run and of
//! crossbeam's channel and the size classes of jemalloc, never fitted to a measurement.
//!
//! An event waits in a run ([`Run`]). It has its own frame in the run's body and its own mark; it
//! shares the run and the run's place in the channel. So its memory depends on how many events came
//! together ([`run_events`]). [`queued_event_bytes`] counts what the allocator hands out,
//! [`resident_event_bytes`] also the allocator's records about it; neither counts the rest of the
//! process.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicUsize};

use crate::event::HEADER_BYTES;
use crate::sink::wire::FRAME_HEADER_BYTES;
use crate::source::Run;
use crate::source::run::Mark;
use crate::transform::Transform;

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

/// Events of one partition that a fetch finds while the queue keeps up with it, at `rate` events/s over
/// `partitions`: those of one linger of the producer, which are one batch in the log. At least one.
pub fn run_events(rate: f64, linger_s: f64, partitions: f64) -> f64 {
    (rate * linger_s / partitions).max(1.0)
}

/// Heap bytes of one event with a payload of `payload_bytes` in an unbounded queue of runs of about
/// `run_events` events, transformed by digest.
pub fn queued_event_bytes(payload_bytes: usize, run_events: f64) -> f64 {
    mean_of_runs(run_events, |events| {
        run_bytes(payload_bytes, events, |bytes| allocated(bytes) as f64)
    })
}

/// Resident bytes of the same: the allocator keeps one record for each slab of a size class.
pub fn resident_event_bytes(payload_bytes: usize, run_events: f64) -> f64 {
    let resident = |bytes| allocated(bytes) as f64 + record_bytes(bytes);
    mean_of_runs(run_events, |events| run_bytes(payload_bytes, events, resident))
}

/// Bytes on disk of one event, where the queue spills: its value, frame and trailer, its mark, its share of a record's
/// head.
pub fn spilled_event_bytes(payload_bytes: usize) -> f64 {
    const MARK_BYTES: usize = 8;
    const OF_HEAD: f64 = 10.0;
    let frame =
        FRAME_HEADER_BYTES + HEADER_BYTES + payload_bytes + Transform::Digest.trailer_bytes();
    (frame + MARK_BYTES) as f64 + OF_HEAD
}

/// The memory of a run of `events`, given the memory of each allocation of so many bytes.
fn run_bytes(payload_bytes: usize, events: usize, each: impl Fn(usize) -> f64) -> f64 {
    let frame =
        FRAME_HEADER_BYTES + HEADER_BYTES + payload_bytes + Transform::Digest.trailer_bytes();
    each(size_of::<Block<Box<Run>>>()) / BLOCK_CAP as f64
        + each(size_of::<Run>())
        + each(events * size_of::<Mark>())
        + each(events * frame)
}

/// The mean cost of an event over runs of about `mean` events: their lengths vary as counts of arrivals
/// do (Poisson's law, by its normal approximation), and with them how well they fill a size class.
fn mean_of_runs(mean: f64, cost: impl Fn(usize) -> f64) -> f64 {
    let deviation = mean.sqrt();
    let (mut events, mut bytes) = (0.0, 0.0);
    for step in -20..=20 {
        let sigmas = f64::from(step) / 8.0;
        let length = (mean + sigmas * deviation).round().max(1.0);
        let weight = (-sigmas * sigmas / 2.0).exp();
        events += weight * length;
        bytes += weight * cost(length as usize);
    }
    bytes / events
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

/// The bytes that jemalloc really reserves for a request of `bytes`: the size class.
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

    /// One event a run: its frame of 548 B is of class 640, its mark of class 8.
    #[test]
    fn an_event_of_512_bytes_alone_pays_for_its_run() {
        let (run, block) = (allocated(size_of::<Run>()), allocated(size_of::<Block<Box<Run>>>()));
        let expected = 640.0 + 8.0 + run as f64 + block as f64 / 31.0;
        let bytes = run_bytes(512, 1, |bytes| allocated(bytes) as f64);
        assert!((bytes - expected).abs() < 1e-9, "{bytes} {expected}");
    }

    /// The longer the runs, the less of them an event pays for; and a size class holds at most a
    /// quarter more than the request.
    #[test]
    fn an_event_among_others_costs_its_frame_and_its_mark() {
        for run_events in [13.0, 50.0, 200.0, 1000.0] {
            let bytes = queued_event_bytes(512, run_events);
            let least = 548.0 + size_of::<Mark>() as f64;
            assert!(
                (least..1.25 * least + 200.0 / run_events).contains(&bytes),
                "{run_events}: {bytes}"
            );
            assert!(resident_event_bytes(512, run_events) > bytes);
        }
        assert!(queued_event_bytes(512, 1.0) > queued_event_bytes(512, 200.0) + 100.0);
    }

    // Guards the mirror against another layout in a later crossbeam: its real channel allocates for
    // 31,000 messages what the mirror says, within the one open block.
    #[test]
    fn the_mirror_agrees_with_the_real_channel() {
        let before = thread_allocated();
        let (tx, rx) = crossbeam_channel::unbounded::<u64>();
        for n in 0..31_000 {
            tx.send(n).expect("open");
        }
        let real = (thread_allocated() - before) as f64;
        drop(rx);
        let model = 1000.0 * allocated(size_of::<Block<u64>>()) as f64;
        assert!((real / model - 1.0).abs() < 0.01, "real {real} model {model}");
    }

    // Real runs allocate what the layout says of their lengths.
    #[test]
    fn the_layout_agrees_with_real_runs() {
        use std::sync::Arc;

        use crate::source::run::Builder;
        let assigned = Arc::new(crate::source::Assigned::new(0, 0, 0));
        let value = vec![7; HEADER_BYTES + 512];
        let (mut builder, mut kept, mut offset) =
            (Builder::new(1, 200, Transform::Digest), Vec::with_capacity(1000), 0);
        let before = thread_allocated() - thread_deallocated();
        let mut model = 0.0;
        for n in 0..500 {
            let events = 1 + n % 40;
            for _ in 0..events {
                assert!(builder.push(0, offset, &value, (&assigned, 0)));
                offset += 1;
            }
            kept.extend(builder.finish());
            model += run_bytes(512, events, |bytes| allocated(bytes) as f64);
        }
        let real = (thread_allocated() - thread_deallocated() - before) as f64;
        let places = 500.0 * allocated(size_of::<Block<Box<Run>>>()) as f64 / BLOCK_CAP as f64;
        assert!((real / (model - places) - 1.0).abs() < 0.01, "real {real} model {model}");
    }

    fn thread_deallocated() -> u64 {
        tikv_jemalloc_ctl::thread::deallocatedp::read().expect("jemalloc").get()
    }

    fn thread_allocated() -> u64 {
        tikv_jemalloc_ctl::thread::allocatedp::read().expect("jemalloc").get()
    }
}
