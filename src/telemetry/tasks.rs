//! The process's threads as a table: name, state, CPU time, and what each waits in.

use std::fmt::Write as _;

use procfs::process::Process;

/// One line a thread, the busiest first.
///
/// # Errors
/// When `/proc/self/task` cannot be read.
pub fn table() -> Result<String, procfs::ProcError> {
    let ticks = procfs::ticks_per_second() as f64;
    let mut rows = Vec::new();
    for task in Process::myself()?.tasks()? {
        // A thread that ends meanwhile is no error.
        let Ok(task) = task else { continue };
        let Ok(stat) = task.stat() else { continue };
        let wchan = std::fs::read_to_string(format!("/proc/self/task/{}/wchan", task.tid))
            .ok()
            .filter(|wchan| wchan != "0")
            .unwrap_or_else(|| "-".to_owned());
        rows.push((stat.utime, stat.stime, task.tid, stat.comm, stat.state, wchan));
    }
    rows.sort_by_key(|(user, system, tid, ..)| (std::cmp::Reverse(user + system), *tid));
    let mut table = format!("{} threads\n", rows.len());
    let _never_fails = writeln!(table, "    tid name            state   user_s system_s wchan");
    for (user, system, tid, name, state, wchan) in rows {
        let (user, system) = (user as f64 / ticks, system as f64 / ticks);
        let _never_fails =
            writeln!(table, "{tid:>7} {name:<15} {state:>5} {user:>8.2} {system:>8.2} {wchan}");
    }
    Ok(table)
}
