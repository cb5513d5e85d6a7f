//! The settings of a broker that is a JVM.

use std::path::Path;

use super::{Cluster, secure};
use crate::failure::Failure;

/// The settings that are the same for each broker.
const SAME: &str = include_str!("server.properties");

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
