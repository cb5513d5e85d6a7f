//! The memory and the disk that a run needs, from its load.

use procfs::{Current, Meminfo};

use crate::failure::Failure;
use crate::lab::model;
use crate::lab::plan::Plan;
use crate::lab::predict::wire::log_bytes_at_most;
use crate::lab::text::scaled;

/// Of the topic.
const REPLICAS: f64 = 3.0;
/// Room for a row of the fault matrix, B.
pub const FAULTS_DISK_BYTES: f64 = 4e9;
/// Disk that a cluster takes before anything is produced, B.
const CLUSTER_BYTES: f64 = 2e9;

/// Disk that the cluster must have for its largest topic, B: topics of earlier arms are deleted.
pub fn disk_bytes(plan: &Plan) -> f64 {
    let each = REPLICAS * log_bytes_at_most(plan.setup.payload_bytes);
    CLUSTER_BYTES + each * plan.setup.arms.iter().map(|arm| arm.events()).fold(0.0, f64::max)
}

/// Checks the memory, beside the brokers that are up, that unbounded queues will hold at most.
///
/// # Errors
/// When so much is not available.
pub fn enough_memory(plan: &Plan) -> Result<(), Failure> {
    let setup = &plan.setup;
    let backlog = model::backlog(&setup.offered(), &setup.ceilings(), setup.end_s());
    let unlimited =
        setup.memory_limit.is_none() && setup.arms.iter().any(|arm| arm.queue_cap.is_none());
    let needed = if unlimited { setup.resident_bytes * backlog } else { 0.0 };
    match Meminfo::current().ok().and_then(|memory| memory.mem_available) {
        Some(free) if (free as f64) < needed => Err(Failure::Failed(format!(
            "not enough free memory for {} in its {} form: {} available, {} needed for the longest \
             queue; end other programs, or take --quick",
            plan.experiment,
            setup.form,
            scaled(free as f64, "B"),
            scaled(needed, "B")
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::experiments::{Form, named};

    /// Prevents: a run without the room it needs; a run that is refused for room that it does not
    /// need.
    #[test]
    fn room_follows_the_load() {
        let plan = |name: &str, form| Plan::of(named(name).expect(name), form).expect(name);
        let gb = |name, form| disk_bytes(&plan(name, form)) / 1e9;
        assert!((25.0..35.0).contains(&gb("exp1", Form::Full)), "{}", gb("exp1", Form::Full));
        assert!((2.0..4.0).contains(&gb("exp2", Form::Quick)), "{}", gb("exp2", Form::Quick));
        let mut plan = plan("exp2", Form::Full);
        plan.setup.schedule = vec![(1e9, 1e6)];
        let why = enough_memory(&plan).expect_err("petabytes").to_string();
        assert!(why.contains("exp2 in its full form"), "{why}");
        plan.setup.arms.retain(|arm| arm.queue_cap.is_some());
        enough_memory(&plan).expect("pull holds nothing");
    }
}
