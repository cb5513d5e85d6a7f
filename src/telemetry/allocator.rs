//! The allocator of every binary, jemalloc with its sampling profiler on, and its gauges.
//!
//! Invariant: a process that links this library runs with [`MALLOC_CONF`], because jemalloc reads
//! the symbol before `main`; the environment's `MALLOC_CONF` comes after it and can change it.

use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tikv_jemalloc_ctl::{epoch, stats};

use crate::failure::Failure;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's options, as C's `const char *malloc_conf` would give them. One sample in 2^19 bytes
/// (512 KiB) allocated costs nothing measurable, and 1 MiB of one call site is seen with a
/// probability of 86 %. Two arenas, not four a core: what one thread frees for another is used again
/// sooner, and 3 to 5 MB less are resident at four times the ceiling.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 55] = b"prof:true,prof_active:true,lg_prof_sample:19,narenas:2\0";

/// Bytes that the program has allocated now; `None` when jemalloc does not say.
pub(super) fn inuse_bytes() -> Option<u64> {
    // jemalloc keeps its figures until the epoch moves.
    epoch::advance().and_then(|_| stats::allocated::read()).ok().map(|bytes| bytes as u64)
}

/// Bytes by jemalloc's own count, fresh at each scrape.
#[derive(Clone)]
pub(super) struct HeapCollector {
    inuse: IntGauge,
    resident: IntGauge,
}

impl HeapCollector {
    pub fn new() -> Result<Self, Failure> {
        let gauge = |name, help| IntGauge::new(name, help).map_err(Failure::failed);
        Ok(Self {
            inuse: gauge("heap_inuse_bytes", "Bytes that the program has allocated")?,
            resident: gauge("heap_resident_bytes", "Bytes of memory that the allocator holds")?,
        })
    }
}

impl Collector for HeapCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.inuse.desc(), self.resident.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // jemalloc keeps its figures until the epoch moves.
        let fresh = epoch::advance()
            .and_then(|_| Ok((stats::allocated::read()?, stats::resident::read()?)));
        match fresh {
            Ok((inuse, resident)) => {
                self.inuse.set(inuse.try_into().unwrap_or(i64::MAX));
                self.resident.set(resident.try_into().unwrap_or(i64::MAX));
                [self.inuse.collect(), self.resident.collect()].concat()
            }
            Err(e) => {
                log::error!(error = e.to_string().as_str(); "cannot read the allocator's figures");
                Vec::new()
            }
        }
    }
}
