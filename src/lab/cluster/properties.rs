//! The settings of a broker that is a JVM.

use std::path::Path;

use super::{Cluster, secure};
use crate::failure::Failure;

/// The settings that are the same for each broker.
const SAME: &str = include_str!("server.properties");

/// How often a broker looks for what its topics no longer keep, s: `log.retention.check.interval.ms`.
pub fn retention_check_s() -> f64 {
    let named = |line: &str| line.strip_prefix("log.retention.check.interval.ms=")?.parse().ok();
    SAME.lines().find_map(named).map_or(f64::NAN, |ms: f64| ms / 1000.0)
}

/// The settings of broker `n`, whose folder is `dir`.
pub fn of_broker(cluster: &Cluster, n: u32, dir: &Path) -> Result<String, Failure> {
    let voter = |n| format!("{n}@127.0.0.1:{}", cluster.controller_port(n));
    let voters = super::BROKERS.map(voter).join(",");
    let mut listeners = format!("HOST://{}:{}", cluster.plain_host(), cluster.broker_port(n));
    let mut secured = String::new();
    if cluster.secure {
        listeners += &format!(",SECURE://{}:{}", cluster.host, cluster.secure_port(n));
        secured = secure::properties(&cluster.data)?;
    }
    let (controller, logs) = (cluster.controller_port(n), dir.join("data"));
    Ok(format!(
        "node.id={n}\ncontroller.quorum.voters={voters}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={listeners}\n\
         log.dirs={}\n{SAME}{secured}",
        logs.display()
    ))
}

#[cfg(test)]
mod tests {
    /// Prevents: a prediction of what retention takes from a setting that was renamed.
    #[test]
    fn brokers_look_often_enough_for_an_experiment_on_retention() {
        assert!((0.1..=5.0).contains(&super::retention_check_s()));
    }
}
