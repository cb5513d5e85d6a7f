//! Brokers in containers, by `docker/compose.yaml`. The project's name comes from the data folder, so clusters do
//! not mix.

use std::time::Duration;

use rustix::process::Signal;

use super::{BROKERS, Cluster, Engine, not_had};
use crate::failure::Failure;
use crate::lab::interrupt::Interrupt;
use crate::lab::tools;

/// Given by stdin: an installed program has no source beside it.
const COMPOSE: &str = include_str!("../../../docker/compose.yaml");
const PULL_WITHIN: Duration = Duration::from_secs(900);

/// See the module.
pub struct Docker;

/// Whether an engine answers, and has the compose plugin.
pub fn answers() -> bool {
    let asked = [&["timeout", "10", "docker", "info"][..], &["docker", "compose", "version"]];
    asked.iter().all(|words| tools::run(words).is_ok())
}

/// Kills and deletes the containers.
///
/// # Errors
/// In Docker's words.
pub fn remove(cluster: &Cluster) -> Result<(), Failure> {
    compose(cluster, &["down", "-v", "-t", "0", "--remove-orphans"]).map(drop)
}

impl Engine for Docker {
    /// By its name in `docker/compose.yaml`; an image that is here needs no network.
    fn fetch(&self, version: &str, interrupt: &Interrupt) -> Result<(), Failure> {
        let image = format!("apache/kafka:{version}");
        if tools::run(&["docker", "image", "inspect", &image]).is_ok() {
            return Ok(());
        }
        tools::attend(&["docker", "pull", &image], PULL_WITHIN, interrupt).map_err(not_had(
            "docker could not pull",
            version,
            "--mode jvm",
        ))
    }

    fn pids(&self, cluster: &Cluster, n: u32) -> Vec<u32> {
        let pid = inspected(cluster, n, "{{.State.Pid}}");
        pid.and_then(|pid| pid.parse().ok()).into_iter().collect()
    }

    /// The engine's proxy accepts on the published port before the broker does: ask the health check.
    fn is_ready(&self, cluster: &Cluster, n: u32) -> bool {
        inspected(cluster, n, "{{.State.Health.Status}}").as_deref() == Some("healthy")
    }

    fn launch(
        &self,
        cluster: &Cluster,
        brokers: &[u32],
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        brokers.iter().try_for_each(|n| {
            interrupt.check()?;
            compose(cluster, &["up", "-d", "--no-deps", &format!("broker-{n}")]).map(drop)
        })
    }

    fn signal(&self, cluster: &Cluster, n: u32, signal: Signal) {
        let name = if signal == Signal::KILL { "SIGKILL" } else { "SIGTERM" };
        let _may_be_gone = compose(cluster, &["kill", "-s", name, &format!("broker-{n}")]);
    }

    fn last_words(&self, cluster: &Cluster, n: u32) -> String {
        let (name, tail) = (format!("broker-{n}"), tools::LAST_LINES.to_string());
        compose(cluster, &["logs", "--no-log-prefix", "--tail", &tail, &name]).unwrap_or_default()
    }
}

/// What Docker says of the container of broker `n`, if that runs.
fn inspected(cluster: &Cluster, n: u32, what: &str) -> Option<String> {
    let id = compose(cluster, &["ps", "-q", "--status", "running", &format!("broker-{n}")]).ok()?;
    let id = Some(id.trim()).filter(|id| !id.is_empty())?;
    Some(tools::run(&["docker", "inspect", "-f", what, id]).ok()?.trim().to_owned())
}

fn compose(cluster: &Cluster, words: &[&str]) -> Result<String, Failure> {
    let project =
        format!("backpressure-lab-{}", crc32c::crc32c(cluster.data.as_os_str().as_encoded_bytes()));
    let mut set = vec![
        format!("KAFKA_VERSION={}", cluster.version),
        format!("KAFKA_CLUSTER_ID={}", cluster.id),
    ];
    set.extend(BROKERS.map(|n| format!("KAFKA_PORT_{n}={}", cluster.broker_port(n))));
    let env = std::iter::once("env").chain(set.iter().map(String::as_str));
    let docker = ["docker", "compose", "-f", "-", "-p", &project];
    let all: Vec<&str> = env.chain(docker).chain(words.iter().copied()).collect();
    tools::run_on(COMPOSE, &all)
}
