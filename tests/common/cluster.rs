//! Breaking the shared cluster, and healing it again; for the `faults_*` files alone.
#![allow(dead_code, reason = "every test program compiles this module and uses a part of it")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: each breaks the cluster that they share.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `lab cluster` on the tests' cluster; returns its stdout.
pub fn cluster(words: &[&str]) -> String {
    let data = std::env::var("LAB_CLUSTER_DATA").unwrap_or_else(|_| {
        panic!("LAB_CLUSTER_DATA is not set: this test stops brokers, run it through run/test.sh")
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    let out = command.arg("cluster").args(words).args(["--data", &data]).output().expect("lab");
    let stderr = String::from_utf8_lossy(&out.stderr);
    // `status` ends with 1 when a broker is down, which is the subject of these tests.
    assert!(out.status.success() || words == ["status"], "lab cluster {words:?}: {stderr}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The process id of broker `n`.
fn broker_pid(n: u32) -> i32 {
    let status = cluster(&["status"]);
    let line =
        status.lines().find(|line| line.starts_with(&format!("broker={n} "))).expect("a line");
    let pid = line.split("pid=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a pid");
    pid.parse().unwrap_or_else(|_| panic!("broker {n} has no process here: {line}"))
}

/// Heals broker `n` when the test ends, however it ends.
pub struct Healed(pub u32);

impl Drop for Healed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // Up or down, the broker answers again afterwards.
        let _best_effort = std::panic::catch_unwind(|| {
            cluster(&["kill", &self.0.to_string()]);
            cluster(&["start", &self.0.to_string()]);
        });
    }
}

/// Sends a signal, such as `libc::SIGSTOP`, to broker `n`.
pub fn signal_broker(n: u32, signal: i32) {
    // SAFETY: the pid is a broker's that `lab cluster` just named.
    assert_eq!(unsafe { libc::kill(broker_pid(n), signal) }, 0, "broker {n} cannot be signalled");
}
