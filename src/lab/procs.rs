//! Reads processes and the machine from `/proc`.
//!
//! Invariant: a process is known by the `/proc/PID` folder opened at the start, so a PID that the
//! kernel gives to another process later reads as gone, never as the new process's memory.

use procfs::process::Process;
use procfs::{Current, CurrentSI, KernelStats, Meminfo, ProcError};

use crate::failure::Failure;
use crate::lab::samples::{HostReading, ProcessReading};

/// A process under watch.
pub struct Watched {
    pid: i32,
    process: Process,
}

impl Watched {
    /// Opens `pid`, which must run now.
    ///
    /// # Errors
    /// When there is no such process: a watch without a process would look like an idle one.
    pub fn open(name: &str, pid: i32) -> Result<Self, Failure> {
        Process::new(pid)
            .map(|process| Self { pid, process })
            .map_err(|e| Failure::flag("--process", format_args!("{name}={pid}"), &format!("{e}")))
    }

    /// What it uses now; `Err` when `/proc` could not be read though it runs.
    pub fn read(&self) -> Result<ProcessReading, String> {
        let stat = match self.process.stat() {
            Ok(stat) => stat,
            Err(ProcError::NotFound(_)) => return Ok(ProcessReading::Gone { pid: self.pid }),
            // An open folder of an ended process answers ESRCH.
            Err(_) if !self.process.is_alive() => {
                return Ok(ProcessReading::Gone { pid: self.pid });
            }
            Err(e) => return Err(e.to_string()),
        };
        if matches!(stat.state, 'Z' | 'X') {
            return Ok(ProcessReading::Gone { pid: self.pid });
        }
        let ticks = procfs::ticks_per_second() as f64;
        Ok(ProcessReading::Alive {
            pid: self.pid,
            rss_bytes: stat.rss * procfs::page_size(),
            threads: stat.num_threads,
            fds: self.process.fd_count().ok(),
            cpu_s: (stat.utime + stat.stime) as f64 / ticks,
        })
    }
}

/// The machine now.
pub fn host() -> Result<HostReading, String> {
    let cpu = KernelStats::current().map_err(|e| e.to_string())?.total;
    let ticks = procfs::ticks_per_second() as f64;
    let s = |n: u64| n as f64 / ticks;
    let steal_s = s(cpu.steal.unwrap_or(0));
    let busy_s =
        s(cpu.user + cpu.nice + cpu.system + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0));
    let idle_s = s(cpu.idle + cpu.iowait.unwrap_or(0));
    Ok(HostReading {
        busy_s,
        steal_s,
        total_s: busy_s + steal_s + idle_s,
        available_bytes: Meminfo::current().ok().and_then(|m| m.mem_available),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_reads_as_gone_even_while_its_folder_is_held_open() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("pid");
        let watched = Watched::open("sleep", pid).expect("it runs");
        assert!(matches!(watched.read(), Ok(ProcessReading::Alive { .. })));
        child.kill().expect("kill");
        // A zombie first, nothing at all after the wait: gone both times.
        while child.try_wait().expect("wait").is_none() {}
        assert_eq!(watched.read(), Ok(ProcessReading::Gone { pid }));
    }

    #[test]
    fn the_machines_times_add_up() {
        let host = host().expect("/proc/stat");
        assert!(host.busy_s > 0.0 && host.busy_s < host.total_s, "{host:?}");
    }
}
