//! The answers of `/healthz` and `/readyz` of a processor.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Settings;
use crate::telemetry;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::threads::Pulse;
use crate::units;

/// It is alive while its workers move and its member polls; it is ready while it has partitions and
/// its sink answers. Before it joins the group it is alive, and waits.
#[derive(Clone)]
pub(super) struct Health {
    metrics: ProcessorMetrics,
    stuck_after: Duration,
    max_poll_interval: Duration,
    threads: Arc<OnceLock<(Vec<Pulse>, Pulse)>>,
}

impl Health {
    pub(super) fn of(settings: &Settings, metrics: &ProcessorMetrics) -> Self {
        Self {
            metrics: metrics.clone(),
            stuck_after: settings.stuck_after,
            max_poll_interval: settings.member.max_poll_interval,
            threads: Arc::default(),
        }
    }

    /// From now on it checks these pulses: each worker's, and the member's polls.
    pub(super) fn watch(&self, workers: &[Pulse], polls: &Pulse) {
        let _once = self.threads.set((workers.to_vec(), polls.clone()));
    }
}

impl telemetry::Health for Health {
    fn lives(&self) -> Result<(), String> {
        let Some((workers, polls)) = self.threads.get() else { return Ok(()) };
        let still = workers.iter().map(Pulse::age).max().unwrap_or_default();
        for (who, age, limit) in [
            ("a worker has not moved", still, self.stuck_after),
            ("the group member has not polled", polls.age(), self.max_poll_interval),
        ] {
            if age > limit {
                return Err(format!(
                    "{who} for {:.1} s, of {}",
                    age.as_secs_f64(),
                    units::show(limit)
                ));
            }
        }
        Ok(())
    }

    fn takes_events(&self) -> Result<(), String> {
        if self.metrics.partitions.get() == 0 {
            return Err("no partition is assigned to it".into());
        }
        if self.metrics.sink_up.get() == 0 {
            return Err("the sink does not answer".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Health as _;
    use crate::telemetry::metrics::Metrics;

    /// Prevents: a probe that is green though something stands still; a probe that kills a
    /// processor that only waits.
    #[test]
    fn it_says_what_stands_still_and_what_it_waits_for() {
        let metrics = ProcessorMetrics::register(&Metrics::default()).expect("names");
        metrics.sink_up.set(1);
        let limit = Duration::from_millis(30);
        let health = |stuck_after, max_poll_interval| Health {
            metrics: metrics.clone(),
            stuck_after,
            max_poll_interval,
            threads: Arc::default(),
        };
        let waits = health(limit, limit);
        assert_eq!(waits.lives(), Ok(()));
        assert!(waits.takes_events().is_err_and(|why| why.contains("no partition")));
        metrics.partitions.set(3);
        assert_eq!(waits.takes_events(), Ok(()));
        metrics.sink_up.set(0);
        assert!(waits.takes_events().is_err_and(|why| why.contains("sink")));

        let hour = Duration::from_secs(3600);
        let (stuck, silent) = (health(limit, hour), health(hour, limit));
        let (worker, ended, polls) = (Pulse::default(), Pulse::default(), Pulse::default());
        ended.end();
        stuck.watch(&[worker.clone(), ended], &polls);
        silent.watch(std::slice::from_ref(&worker), &polls);
        assert_eq!((stuck.lives(), silent.lives()), (Ok(()), Ok(())));
        std::thread::sleep(2 * limit);
        assert!(stuck.lives().is_err_and(|why| why.contains("a worker has not moved for 0.")));
        assert!(silent.lives().is_err_and(|why| why.contains("has not polled")));
        worker.end();
        polls.beat();
        assert_eq!((stuck.lives(), silent.lives()), (Ok(()), Ok(())));
    }
}
