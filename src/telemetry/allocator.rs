//! The allocator of every binary, jemalloc with its sampling profiler on, and its gauges.
//!
//! Invariant: a process that links this library runs with [`MALLOC_CONF`], because jemalloc reads
//! the symbol before `main`; the environment's `MALLOC_CONF` comes after it and can change it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;

use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use rustix::fs::{MemfdFlags, memfd_create};
use tikv_jemalloc_ctl::{epoch, raw, stats};

use crate::failure::Failure;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's options, as C's `const char *malloc_conf` would give them. One sample in 2^19 bytes
/// (512 KiB) allocated costs nothing measurable, and 1 MiB of one call site is seen with a
/// probability of 86 %. Two arenas, not four a core: memory that one thread frees for another is
/// used again sooner, and 3 to 5 MB less are resident at four times the ceiling.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 55] = b"prof:true,prof_active:true,lg_prof_sample:19,narenas:2\0";

/// Bytes that the program has allocated now; `None` when jemalloc does not report it.
pub(super) fn inuse_bytes() -> Option<u64> {
    // jemalloc keeps its figures until the epoch moves.
    epoch::advance().and_then(|_| stats::allocated::read()).ok().map(|bytes| bytes as u64)
}

/// Memory in use by call site, in jemalloc's own format (`heap_v2`); `None` when its profiler is
/// off.
pub(super) fn heap_dump() -> io::Result<Option<String>> {
    let refused = |e: tikv_jemalloc_ctl::Error| io::Error::other(e.to_string());
    // SAFETY: `opt.prof` is a bool.
    let is_on: bool = unsafe { raw::read(b"opt.prof\0") }.map_err(refused)?;
    if !is_on {
        return Ok(None);
    }
    // jemalloc writes to a file; this one needs no folder and no disk.
    let mut file = File::from(memfd_create(c"heap", MemfdFlags::CLOEXEC)?);
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // SAFETY: `prof.dump` takes a C string, which lives until the call is over.
    unsafe { raw::write(b"prof.dump\0", path.as_ptr()) }.map_err(refused)?;
    let mut dump = String::new();
    file.read_to_string(&mut dump)?;
    Ok(Some(dump))
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
