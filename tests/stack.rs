//! docker/compose.yaml on a real engine: the whole pipeline in containers, watched, and one that the kernel kills.
//! The images are those that the file names, or docker/stand-ins.sh's of the same names; Grafana is left out.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;
#[path = "common/prometheus.rs"]
mod prometheus;

use std::process::Command;
use std::time::{Duration, Instant};

use backpressure_lab::http::client;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/compose.yaml");
/// Brokers, a topic and a JVM's first minute on two cores.
const UP_WITHIN: Duration = Duration::from_secs(240);

/// Both publish the same ports.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The stack with these variables; dropping it removes the stack.
struct Stack {
    project: String,
    set: Vec<(&'static str, &'static str)>,
}

impl Stack {
    fn up(name: &str, set: &[(&'static str, &'static str)]) -> Self {
        let stack = Self { project: format!("lab-{name}-{}", std::process::id()), set: set.into() };
        stack.compose(&["up", "-d", "--no-build", "producer", "watch", "prometheus"]);
        stack
    }

    fn compose(&self, words: &[&str]) -> String {
        let mut docker = Command::new("docker");
        docker.args(["compose", "-f", FILE, "-p", &self.project]).args(words);
        for name in ["QUEUE", "POLICY", "RATE", "CEILING", "MEMORY"] {
            docker.env_remove(name);
        }
        docker.envs(self.set.iter().copied());
        let output = docker.output().expect("docker");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The engine's data of the container of `service`, ended or not.
    fn inspect(&self, service: &str, what: &str) -> String {
        let id = self.compose(&["ps", "-a", "-q", service]);
        let output = Command::new("docker").args(["inspect", "-f", what, id.trim()]).output();
        let output = output.expect("docker");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + UP_WITHIN;
        while !holds(self) {
            let logs = || self.compose(&["logs", "--tail", "20"]);
            assert!(Instant::now() < end, "not within {UP_WITHIN:?}: {what}\n{}", logs());
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut docker = Command::new("docker");
        docker.args(["compose", "-f", FILE, "-p", &self.project, "down", "-v", "-t", "1"]);
        let gone = docker.output().is_ok_and(|output| output.status.success());
        assert!(gone || std::thread::panicking(), "containers are left");
    }
}

/// The first value that Prometheus has for a query now.
fn value(query: &str) -> Option<f64> {
    prometheus::values("http://127.0.0.1:9090", query)?.first().copied()
}

/// Prevents: a stack that starts in the wrong order, as root, or with a writable file system; a
/// bounded queue that grows; a panel without data; a token that the programs do not share.
#[test]
fn the_bounded_pipeline_runs_flat_and_every_panel_has_data() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stack = Stack::up("bounded", &[("MEMORY", "128m")]);
    stack.until("four times the ceiling is offered", |_| {
        value("sum(rate(producer_events_sent_total[10s]))").is_some_and(|rate| rate > 6000.0)
    });
    stack.until("the sink takes its ceiling", |_| {
        value("sum(rate(sink_events_total[20s]))")
            .is_some_and(|rate| (rate / 2000.0 - 1.0).abs() < 0.05)
    });
    for query in prometheus::queries_of_the_board() {
        stack.until(&query, |_| value(&query).is_some_and(f64::is_finite));
    }
    std::thread::sleep(Duration::from_secs(30));
    let most = value("max_over_time(process_resident_memory_bytes{job=\"processor\"}[30s])");
    assert!(most.is_some_and(|most| most < 64e6), "{most:?} bytes resident");
    let running = "{{.State.Status}} {{.State.OOMKilled}} {{.RestartCount}}";
    assert_eq!(stack.inspect("processor", running), "running false 0");
    for service in ["broker-1", "sink", "processor", "producer", "watch", "prometheus"] {
        let guarded = stack.inspect(service, "{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}");
        assert!(guarded.starts_with("true ") && guarded != "true root", "{service}: {guarded}");
    }
    // From outside only loopback, and control asks for the token.
    let ports =
        stack.inspect("sink", "{{range .NetworkSettings.Ports}}{{(index . 0).HostIp}}{{end}}");
    assert_eq!(ports, "127.0.0.1");
    let agent = client::agent(Duration::from_secs(10));
    let control = agent.post("http://127.0.0.1:9900/control").send("{}").expect("an answer");
    assert_eq!(control.status().as_u16(), 401);
}

/// Prevents: a limit without effect; a container that ends for another reason.
#[test]
fn the_kernel_kills_the_unbounded_processor() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let stack = Stack::up("unbounded", &[("QUEUE", "unbounded"), ("MEMORY", "96m")]);
    stack.until("the processor ends", |stack| {
        stack.inspect("processor", "{{.State.Status}}") == "exited"
    });
    assert_eq!(stack.inspect("processor", "{{.State.ExitCode}} {{.State.OOMKilled}}"), "137 true");
}
