//! The quantities of an arm: what its samples and latency logs say, over time or in a phase.

use hdrhistogram::Histogram;

use super::Arm;
use crate::lab::experiments::Phase;
use crate::lab::samples::{ProcessReading, Sample};
use crate::lab::stats::{self, Series};
use crate::telemetry::hlog;
use crate::telemetry::latency::Stage;

/// Events that took longer than a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Late {
    /// Their share of all.
    pub share: f64,
    /// By how much an event took longer, s: the mean over all, with 0 for those in time.
    pub behind_s: f64,
}

/// Shares of a machine's CPU time, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostShares {
    /// CPU time of processes that are not part of the run.
    pub others: f64,
    /// CPU time that the hypervisor took.
    pub steal: f64,
    /// Unused CPU time.
    pub idle: f64,
}

impl Arm {
    /// A quantity over time; samples that do not have it are left out.
    pub fn series(&self, mut of: impl FnMut(&Sample) -> Option<f64>) -> Series {
        let late = |s: &Sample| self.at(s.due_us) + s.late_s;
        self.samples.iter().filter_map(|s| Some((late(s), of(s)?))).collect()
    }

    /// The metric `key` of `source` over time.
    pub fn metric(&self, source: &str, key: &str) -> Series {
        self.series(|s| s.metric(source, key))
    }

    /// One quantity against another in `phase`, sample by sample: (x, y).
    pub fn against(
        &self,
        phase: Phase,
        x: impl Fn(&Sample) -> Option<f64>,
        y: impl Fn(&Sample) -> Option<f64>,
    ) -> Series {
        let inside = |s: &&Sample| (phase.from..=phase.to).contains(&self.at(s.due_us));
        self.samples.iter().filter(inside).filter_map(|s| Some((x(s)?, y(s)?))).collect()
    }

    /// Resident bytes of process `name` over time.
    pub fn rss_bytes(&self, name: &str) -> Series {
        self.series(|s| s.rss_bytes(name))
    }

    /// Consumer lag over time, at the times when Kafka was really asked.
    pub fn lag(&self) -> Series {
        let mut lag: Series = self
            .samples
            .iter()
            .filter_map(|s| s.log.as_ref())
            .filter_map(|log| Some((self.at(log.read_us), log.lag? as f64)))
            .collect();
        lag.dedup_by_key(|point| point.0); // a sample may carry the reading of the one before
        lag
    }

    /// The quantile `q` of the waits in `stage` of each second's events, s.
    pub fn latency(&self, stage: Stage, q: f64) -> Series {
        hlog::quantiles(&self.latencies, stage, q)
            .map(|(end_us, seconds)| (self.at(end_us), seconds))
            .collect()
    }

    /// The p99 of the waits in `stage` that 95 of 100 seconds of `phase` keep to, of those that began at least `after_s`
    /// after it, s: of ten seconds the worst.
    pub fn settled_p99(&self, stage: Stage, phase: Phase, after_s: f64) -> Option<f64> {
        // A second's figure stands at its end.
        let p99 = self.latency(stage, 0.99);
        let seconds = stats::between(&p99, phase.from + after_s + 1.0, phase.to);
        stats::quantile(seconds.into_iter().map(|second| second.1), 0.95)
    }

    /// The quantile `q` of the waits in `stage` of all events acked in `phase`, s.
    pub fn latency_in(&self, stage: Stage, q: f64, phase: Phase) -> Option<f64> {
        let all = self.latencies_in(stage, phase)?;
        Some(all.value_at_quantile(q) as f64 / 1e6)
    }

    /// The mean of the waits in `stage` of all events acked in `phase`, s.
    pub fn mean_latency_in(&self, stage: Stage, phase: Phase) -> Option<f64> {
        Some(self.latencies_in(stage, phase)?.mean() / 1e6)
    }

    /// Of all events acked in `phase`, those that waited longer than `target_s` in `stage`.
    pub fn late_in(&self, stage: Stage, target_s: f64, phase: Phase) -> Option<Late> {
        let all = self.latencies_in(stage, phase)?;
        let (mut late, mut behind_s) = (0.0, 0.0);
        for bucket in all.iter_recorded() {
            let events = bucket.count_at_value() as f64;
            let over_s = bucket.value_iterated_to() as f64 / 1e6 - target_s;
            if over_s > 0.0 {
                late += events;
                behind_s += events * over_s;
            }
        }
        let events = all.len() as f64;
        Some(Late { share: late / events, behind_s: behind_s / events })
    }

    /// Latencies, µs, of all events acked in `phase`; `None` where none was.
    fn latencies_in(&self, stage: Stage, phase: Phase) -> Option<Histogram<u64>> {
        let us = |t: f64| (self.start_us + t * 1e6) as i64;
        let all = hlog::merge(&self.latencies, stage, us(phase.from), us(phase.to));
        (!all.is_empty()).then_some(all)
    }

    /// The machine's CPU time apart from the watched processes, from the first sample of `phase` to
    /// its last.
    pub fn host_in(&self, phase: Phase) -> Option<HostShares> {
        let phase = self.alive_in(phase);
        let mut inside = self
            .samples
            .iter()
            .filter(|s| (phase.from..=phase.to).contains(&self.at(s.due_us)) && s.host.is_some());
        let first = inside.next()?;
        let last = inside.next_back()?;
        let (a, b) = (first.host.as_ref()?, last.host.as_ref()?);
        let total = b.total_s - a.total_s;
        let own: f64 = last
            .processes
            .iter()
            .filter_map(|(name, reading)| match (reading, first.processes.get(name)?) {
                (
                    ProcessReading::Alive { cpu_s: b, .. },
                    ProcessReading::Alive { cpu_s: a, .. },
                ) => Some(b - a),
                _ => None,
            })
            .sum();
        let others = (b.busy_s - a.busy_s - own).max(0.0);
        (total > 0.0).then(|| HostShares {
            others: others / total,
            steal: (b.steal_s - a.steal_s) / total,
            idle: 1.0 - (b.busy_s - a.busy_s) / total,
        })
    }

    /// Events/s that the producer sent in `phase`.
    pub fn sent_in(&self, phase: Phase) -> Option<f64> {
        self.rate_in("producer", "producer_events_sent_total", phase)
    }

    /// Events/s that the processor polled from the log in `phase`.
    pub fn polled_in(&self, phase: Phase) -> Option<f64> {
        self.rate_in("processor", "processor_events_fetched_total", phase)
    }

    /// The names of its processors whose pages were read.
    fn members(&self) -> impl Iterator<Item = &String> {
        let all: std::collections::BTreeSet<&String> =
            self.samples.iter().flat_map(|s| s.metrics.keys()).collect();
        all.into_iter().filter(|name| name.starts_with("processor"))
    }

    /// A gauge of its processors that live, put together by `put`.
    pub fn of_members(&self, key: &str, put: fn(f64, f64) -> f64) -> Series {
        let members: Vec<&String> = self.members().collect();
        self.series(|s| members.iter().filter_map(|name| s.metric(name, key)).reduce(put))
    }

    /// A counter of its processors together: one that has ended keeps its last value.
    pub fn counted_by_members(&self, key: &str) -> Series {
        let members: Vec<&String> = self.members().collect();
        let mut last = vec![0.0; members.len()];
        self.series(|s| {
            let mut any = false;
            for (name, last) in members.iter().zip(last.iter_mut()) {
                if let Some(now) = s.metric(name, key) {
                    (*last, any) = (now, true);
                }
            }
            any.then(|| last.iter().sum())
        })
    }

    /// Resident bytes of its largest processor over time.
    pub fn largest_rss_bytes(&self) -> Series {
        let members: Vec<&String> = self.members().collect();
        self.series(|s| members.iter().filter_map(|name| s.rss_bytes(name)).reduce(f64::max))
    }

    /// Evictions of all its processors together, which are `members` at least; `None` when one does not tell.
    pub fn evictions(&self, members: usize) -> Option<f64> {
        if self.members().count() < members.max(1) {
            return None;
        }
        self.members().map(|name| stats::max(&self.metric(name, "processor_evictions_total"))).sum()
    }

    /// Records that its processors took for no event, by their pages; `None` when none of them was read. One that was
    /// killed leaves no summary.
    pub fn invalid(&self) -> Option<f64> {
        let of = |name: &String| {
            let known = "processor_events_fetched_total";
            stats::max(&self.series(|s| {
                s.metric(name, known)?;
                Some(s.metric_sum(name, "processor_events_invalid_total").unwrap_or(0.0))
            }))
        };
        self.members().filter_map(of).reduce(|a, b| a + b)
    }

    /// The longest time of the load, which ends at `to` s, in which not everything was read, s: the lag, and the pages of
    /// all that lived; where members come and go (`vary`), theirs may be absent. A peak may hide in it, and a rate from
    /// first to last look passes over it.
    pub fn blind_s(&self, to: f64, vary: bool) -> f64 {
        let to = self.alive_in(Phase { rate: 0.0, from: 0.0, to }).to;
        let may_be = |why: &String| vary && why.starts_with("metrics processor");
        let pages = |s: &&Sample| s.unread_of_the_living().all(may_be);
        let pages = self.samples.iter().filter(pages).map(|s| self.at(s.due_us) + s.late_s);
        longest_gap(pages, to).max(longest_gap(self.lag().into_iter().map(|look| look.0), to))
    }

    /// Events that the sink took over time, each counted once.
    pub fn delivered(&self) -> Series {
        self.series(Sample::delivered)
    }

    /// Events shed so far: 0 before the first, when there is no counter yet.
    pub fn shed(&self) -> Series {
        self.series(|s| {
            s.metric("processor", "processor_events_fetched_total")?;
            Some(s.metric_sum("processor", "processor_events_shed_total").unwrap_or(0.0))
        })
    }

    /// Events/s that the sink took in `phase`, each counted once.
    pub fn delivered_in(&self, phase: Phase) -> Option<f64> {
        stats::overall_rate(&stats::between(&self.delivered(), phase.from, phase.to))
    }

    /// A counter's gain a second in `phase`.
    pub fn rate_in(&self, source: &str, key: &str, phase: Phase) -> Option<f64> {
        stats::overall_rate(&stats::between(&self.metric(source, key), phase.from, phase.to))
    }
}

/// The longest time between two of `times`, from 0 `to` the end.
fn longest_gap(times: impl Iterator<Item = f64>, to: f64) -> f64 {
    let inside = times.filter(|t| (0.0..to).contains(t)).chain([to]);
    let gaps = inside.scan(0.0, |last, t| Some(t - std::mem::replace(last, t)));
    gaps.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::lab::experiments::{self, Form};
    use crate::lab::plan::Plan;
    use crate::lab::run_folder::Run;

    /// Prevents: a sum that falls, or is not there, because a member of the group came or went.
    #[test]
    fn a_member_that_has_ended_keeps_its_count() {
        let experiment = experiments::named("exp2").expect("declared");
        let plan = Plan::of(experiment, Form::Quick).expect("its flags");
        let spec = experiment.arm("pull").expect("an arm");
        let mut run = Run::under_way(plan, spec, Path::new("nowhere"));
        let arm = run.arms.first_mut().expect("an arm");
        let looks = [[Some(10.0), None], [Some(20.0), Some(5.0)], [None, Some(9.0)], [None, None]];
        for (second, values) in (1..).zip(looks) {
            let pages = ["processor-1", "processor-2"].into_iter().zip(values);
            let pages = pages
                .filter_map(|(name, value)| Some((name.into(), [("n".into(), value?)].into())));
            arm.push(Sample {
                due_us: second * 1_000_000,
                metrics: pages.collect(),
                ..Sample::default()
            });
        }
        let values = |series: Series| series.into_iter().map(|look| look.1).collect::<Vec<_>>();
        assert_eq!(values(arm.counted_by_members("n")), [10.0, 25.0, 29.0]);
        assert_eq!(values(arm.of_members("n", f64::max)), [10.0, 20.0, 9.0]);
    }
}
