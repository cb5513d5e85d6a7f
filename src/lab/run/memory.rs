//! A memory limit that the kernel enforces on one process, by the first of cgroup v2, cgroup v1 and
//! systemd-run that works. Else [`WATCHED`]: the run itself kills the process that grew beyond it,
//! and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::lab::run_folder::WATCHED;

/// See the module.
pub struct Limit {
    /// B.
    pub bytes: u64,
    /// What enforces it.
    pub by: &'static str,
    /// The prefix of the process's command.
    pub prefix: Vec<String>,
    folder: Option<PathBuf>,
    scope: Option<String>,
}

impl Limit {
    /// Sets up a limit of `bytes` under `name`, which no other limit on this machine has.
    pub fn new(name: &str, bytes: u64) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let limit = by_cgroup_v2(&mounts, name, bytes)
            .or_else(|| by_cgroup_v1(&mounts, name, bytes))
            .or_else(|| by_systemd(name, bytes));
        limit.unwrap_or_else(|| Self {
            bytes,
            by: WATCHED,
            prefix: Vec::new(),
            folder: None,
            scope: None,
        })
    }

    /// How many processes the limit killed, by the kernel's own count; 0 where there is none.
    pub fn kills(&self) -> u64 {
        if let Some(scope) = &self.scope {
            // The scope is gone with its process; its result, the reason, stays until `Drop`.
            let shown = systemctl().args(["show", "-P", "Result", scope]).output();
            let killed =
                |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).contains("oom-kill");
            return u64::from(shown.ok().is_some_and(|output| killed(&output)));
        }
        let Some(folder) = &self.folder else { return 0 };
        let count = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        };
        count("memory.events").or_else(|| count("memory.oom_control")).unwrap_or(0)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some(scope) = &self.scope {
            // One whose process was killed stays in the list of failed units.
            let _absent = systemctl().args(["reset-failed", scope]).output();
        }
        if let Some(folder) = &self.folder {
            // Busy until the last process is reaped.
            for _ in 0..20 {
                if fs::remove_dir(folder).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Where the first mount of `kind` with `option` is.
fn mounted(mounts: &str, kind: &str, option: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, is) = (fields.next()?, fields.next()?);
        let has = option.is_empty() || fields.next()?.split(',').any(|word| word == option);
        (is == kind && has).then(|| PathBuf::from(at))
    })
}

fn by_cgroup_v2(mounts: &str, name: &str, bytes: u64) -> Option<Limit> {
    let root = mounted(mounts, "cgroup2", "")?;
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
    controllers.split_whitespace().find(|word| *word == "memory")?;
    fs::write(root.join("cgroup.subtree_control"), "+memory").ok()?;
    let limits = [("memory.max", bytes), ("memory.swap.max", 0)];
    in_group(root.join(name), "cgroup v2", bytes, limits)
}

fn by_cgroup_v1(mounts: &str, name: &str, bytes: u64) -> Option<Limit> {
    let root = mounted(mounts, "cgroup", "memory")?;
    let limits = [("memory.limit_in_bytes", bytes), ("memory.memsw.limit_in_bytes", bytes)];
    in_group(root.join(name), "cgroup v1", bytes, limits)
}

/// The first of `limits` is required; the other, of swap, only where the kernel accounts for swap.
fn in_group(
    folder: PathBuf,
    by: &'static str,
    bytes: u64,
    limits: [(&str, u64); 2],
) -> Option<Limit> {
    fs::create_dir(&folder).ok()?;
    // The shell enters the group and becomes the command: one pid throughout.
    let script = "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"";
    let prefix = ["sh", "-c", script].map(str::to_owned).into_iter();
    let prefix = prefix.chain([folder.display().to_string()]).collect();
    // Its `Drop` removes the folder.
    let limit = Limit { bytes, by, prefix, folder: Some(folder), scope: None };
    let set = |(file, value): (&str, u64)| {
        let folder = limit.folder.as_deref().unwrap_or(Path::new(""));
        fs::write(folder.join(file), value.to_string())
    };
    let [memory, swap] = limits;
    set(memory).ok()?;
    let _not_accounted = set(swap);
    Some(limit)
}

fn by_systemd(name: &str, bytes: u64) -> Option<Limit> {
    let scope = format!("{name}.scope");
    let mut prefix: Vec<String> = ["systemd-run", "--quiet", "--scope"].map(str::to_owned).into();
    prefix.extend([format!("-pMemoryMax={bytes}"), "-pMemorySwapMax=0".into()]);
    if !rustix::process::geteuid().is_root() {
        prefix.push("--user".into());
    }
    let (program, flags) = prefix.split_first()?;
    let tried = Command::new(program).args(flags).arg("true").output().ok()?;
    if !tried.status.success() {
        return None;
    }
    prefix.extend(["--unit".into(), name.to_owned()]);
    Some(Limit { bytes, by: "systemd-run", prefix, folder: None, scope: Some(scope) })
}

fn systemctl() -> Command {
    let mut command = Command::new("systemctl");
    if !rustix::process::geteuid().is_root() {
        command.arg("--user");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_mounts_are_read() {
        let mounts = "proc /proc proc rw 0 0\n\
                      cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n\
                      cgroup /old/cpu cgroup rw,cpu 0 0\ncgroup /old/mem cgroup rw,memory 0 0\n";
        assert_eq!(mounted(mounts, "cgroup2", ""), Some("/sys/fs/cgroup".into()));
        assert_eq!(mounted(mounts, "cgroup", "memory"), Some("/old/mem".into()));
        assert_eq!(mounted(mounts, "cgroup", "pids"), None);
    }

    /// Prevents: a limit without effect, a kill that is not counted, a group that stays. Where this
    /// user may set no limit, the test checks nothing.
    #[test]
    fn a_process_that_grows_beyond_it_is_killed_and_counted() {
        let name = format!("backpressure-lab-test-{}", std::process::id());
        let limit = Limit::new(&name, 32 << 20);
        if limit.by == WATCHED {
            assert!(limit.prefix.is_empty() && limit.kills() == 0);
            return;
        }
        let (program, first) = limit.prefix.split_first().expect("a prefix");
        // tail keeps its one endless line in memory.
        let ended = Command::new(program).args(first).args(["tail", "/dev/zero"]).status();
        let status = ended.expect("started");
        assert_eq!((super::super::children::code(status), limit.kills()), (137, 1), "{}", limit.by);
        let folder = limit.folder.clone();
        drop(limit);
        assert!(folder.is_none_or(|folder| !folder.exists()));
    }
}
