//! Where the time of each event goes: stages that add up to the end-to-end latency.
//!
//! Each worker records into its own histograms, so the lock is never contended but for the swap
//! once a second. The reporter shows the last ten seconds as gauges and, when asked, appends each
//! second to an `.hlog` (see `hlog`), from which any window can be merged again exactly. It
//! deliberately keeps no totals: the log is the record.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use prometheus::GaugeVec;

use super::hlog;
use crate::clock;
use crate::failure::Failure;
use crate::threads::Stop;

/// Largest latency told apart, µs: one hour. A longer one counts as this.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Three digits: a quantile is at most 0.1 % off.
const DIGITS: u8 = 3;
/// One interval; what a `kill -9` can lose.
const INTERVAL: Duration = Duration::from_secs(1);
/// Intervals behind the gauges.
const WINDOW_INTERVALS: usize = 10;
/// Quantiles shown, as the label spells them.
pub(crate) const QUANTILES: [(f64, &str); 4] =
    [(0.5, "0.5"), (0.99, "0.99"), (0.999, "0.999"), (1.0, "1")];

/// A part of an event's way, or the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Due to fetched: the producer, the brokers, the consumer lag.
    Log,
    /// Fetched to taken by a worker: the queue's sojourn time.
    Queue,
    /// Taken to posted: waiting for the batch to fill, and for a retry.
    Batch,
    /// Posted to acked: the sink.
    Sink,
    /// Due to acked: the sum of the parts.
    EndToEnd,
    /// The same, of events of high priority alone.
    EndToEndHigh,
    /// Fetched to acked: the parts that are in the processor.
    Processor,
}

impl Stage {
    /// All, the parts first.
    pub const ALL: [Self; 7] = [
        Self::Log,
        Self::Queue,
        Self::Batch,
        Self::Sink,
        Self::EndToEnd,
        Self::EndToEndHigh,
        Self::Processor,
    ];

    /// The `stage` label and the tag in the `.hlog`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Queue => "queue",
            Self::Batch => "batch",
            Self::Sink => "sink",
            Self::EndToEnd => "end_to_end",
            Self::EndToEndHigh => "end_to_end_high",
            Self::Processor => "processor",
        }
    }
}

/// When the events of a run passed each boundary, µs since the epoch; when each was due is its own.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// They came out of the log.
    pub fetched_us: i64,
    /// A worker took them from the queue.
    pub taken_us: i64,
    /// The call that was acked began.
    pub posted_us: i64,
    /// The sink acked them.
    pub acked_us: i64,
}

fn between(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

/// Events whose latency no stage shows as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skewed {
    /// Due later than they were fetched: a sender's clock is ahead of ours, and the stage `log` is 0 for them.
    pub ahead: u64,
    /// On their way for longer than [`LATENCY_US_MAX`], which quantiles show for them.
    pub beyond: u64,
}

impl Passed {
    /// µs in the stages that all events of the run share: queue, batch, sink. A clock that runs ahead
    /// makes a stage 0, never negative.
    fn shared(&self) -> [u64; 3] {
        [
            between(self.fetched_us, self.taken_us),
            between(self.taken_us, self.posted_us),
            between(self.posted_us, self.acked_us),
        ]
    }
}

/// One histogram a stage. `u32` counts: an interval is a second.
pub(super) type Stages = [Histogram<u32>; Stage::ALL.len()];

#[allow(clippy::expect_used, reason = "new takes 0 to 5 digits, and 3 is a constant")]
pub(super) fn empty<T: hdrhistogram::Counter>() -> Histogram<T> {
    // It grows to the largest value met: most never need the hour's worth of buckets.
    Histogram::new(DIGITS).expect("3 digits")
}

fn empty_stages() -> Stages {
    std::array::from_fn(|_| empty())
}

/// The recorders of all workers.
#[derive(Clone)]
pub struct Latency {
    recorders: Vec<Recorder>,
}

/// One worker's own histograms.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Stages>>);

impl Latency {
    /// A recorder for each of `workers`.
    pub fn new(workers: usize) -> Self {
        let recorder = || Recorder(Arc::new(Mutex::new(empty_stages())));
        Self { recorders: (0..workers).map(|_| recorder()).collect() }
    }

    /// The recorder of worker `n`; workers beyond the number given to [`Latency::new`] share.
    ///
    /// # Panics
    /// When there are no recorders.
    pub fn recorder(&self, n: usize) -> Recorder {
        let recorder = self.recorders.iter().cycle().nth(n % self.recorders.len().max(1));
        #[allow(clippy::expect_used, reason = "a pipeline without workers is a broken invariant")]
        recorder.expect("latency is recorded by at least one worker").clone()
    }
}

impl Recorder {
    /// Counts acked events of one run, by when each was `due` (µs since the epoch) and whether it is of high priority;
    /// tells `each` one's end-to-end latency, µs: the sum of its stages. Gives how many of them are not as they are
    /// counted.
    pub fn record(
        &self,
        passed: &Passed,
        due: impl ExactSizeIterator<Item = (i64, bool)>,
        mut each: impl FnMut(u64),
    ) -> Skewed {
        let mut skewed = Skewed::default();
        let shared = passed.shared();
        let since_fetched = shared.iter().fold(0, |sum: u64, us| sum.saturating_add(*us));
        let events = due.len() as u64;
        let [log, queue, batch, sink, whole, whole_high, processor] = &mut *self.0.lock();
        // They grow to what they are given, and that has a limit: none can refuse.
        let shared = shared.into_iter().chain([since_fetched]);
        for (stage, us) in [queue, batch, sink, processor].into_iter().zip(shared) {
            let _never_refused = stage.record_n(us.min(LATENCY_US_MAX), events as u32);
        }
        for (due_us, is_high) in due {
            let log_us = between(due_us, passed.fetched_us);
            let whole_us = log_us.saturating_add(since_fetched);
            let _never_refused = log.record(log_us.min(LATENCY_US_MAX));
            let _never_refused = whole.record(whole_us.min(LATENCY_US_MAX));
            if is_high {
                let _never_refused = whole_high.record(whole_us.min(LATENCY_US_MAX));
            }
            skewed.ahead += u64::from(due_us > passed.fetched_us);
            skewed.beyond += u64::from(whole_us > LATENCY_US_MAX);
            each(whole_us);
        }
        skewed
    }
}

/// Value (µs) and count of each filled bucket: a second's histogram in a few KiB.
type Sparse = Vec<(u64, u32)>;

/// Collects what the recorders hold, once a second.
pub struct Reporter {
    latency: Latency,
    log: Option<hlog::Writer>,
    /// Changes places with each recorder's histograms in turn.
    spare: Stages,
    /// All recorders together, for one interval.
    interval: Stages,
    interval_start_us: i64,
    window: VecDeque<[Sparse; Stage::ALL.len()]>,
    merged: Histogram<u64>,
}

impl Reporter {
    /// A reporter over `latency`; `log` is the `.hlog` to append to, opened here.
    ///
    /// # Errors
    /// When the file cannot be opened for writing.
    pub fn new(latency: Latency, log: Option<&Path>) -> Result<Self, Failure> {
        Ok(Self {
            latency,
            log: log.map(hlog::Writer::append).transpose()?,
            spare: empty_stages(),
            interval: empty_stages(),
            interval_start_us: clock::now_us(),
            window: VecDeque::with_capacity(WINDOW_INTERVALS),
            merged: empty(),
        })
    }

    /// Reports each second until `stop`, and once more then; set it after the last event is
    /// recorded.
    ///
    /// # Errors
    /// When a histogram cannot be serialised. A disk that is full leaves a gap in the `.hlog`.
    pub fn run(&mut self, gauges: &GaugeVec, stop: &Stop) -> Result<(), Failure> {
        self.interval_start_us = clock::now_us();
        loop {
            let stopping = stop.wait(INTERVAL);
            self.collect(clock::now_us())?;
            self.show(gauges);
            if stopping {
                return Ok(());
            }
        }
    }

    /// Takes what was recorded since the last call as the interval that ends now.
    fn collect(&mut self, now_us: i64) -> Result<(), Failure> {
        for recorder in &self.latency.recorders {
            std::mem::swap(&mut *recorder.0.lock(), &mut self.spare);
            for (all, one) in self.interval.iter_mut().zip(&mut self.spare) {
                let _never_refused = all.add(&*one);
                one.reset();
            }
        }
        if let Some(log) = &mut self.log {
            log.write(self.interval_start_us, now_us, &self.interval)?;
        }
        if self.window.len() == WINDOW_INTERVALS {
            self.window.pop_front();
        }
        self.window.push_back(std::array::from_fn(|stage| {
            let buckets = self.interval.get(stage).into_iter().flat_map(Histogram::iter_recorded);
            buckets.map(|b| (b.value_iterated_to(), b.count_at_value())).collect()
        }));
        self.interval.iter_mut().for_each(Histogram::reset);
        self.interval_start_us = now_us;
        Ok(())
    }

    /// Sets the gauges from the window. A stage that nothing passed has none: 0 would be a lie.
    fn show(&mut self, gauges: &GaugeVec) {
        for (n, stage) in Stage::ALL.iter().enumerate() {
            self.merged.reset();
            let buckets = self.window.iter().filter_map(|interval| interval.get(n)).flatten();
            for &(us, count) in buckets {
                let _never_refused = self.merged.record_n(us, u64::from(count));
            }
            for (quantile, label) in QUANTILES {
                let labels = [stage.name(), label];
                if self.merged.is_empty() {
                    // There may have been none to remove.
                    let _absent = gauges.remove_label_values(&labels);
                } else {
                    let us = self.merged.value_at_quantile(quantile);
                    gauges.with_label_values(&labels).set(us as f64 / 1e6);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records one event that passed the boundaries at these times: due, fetched, taken, posted, acked.
    fn record(recorder: &Recorder, at: [i64; 5]) -> u64 {
        let [due, fetched_us, taken_us, posted_us, acked_us] = at;
        let passed = Passed { fetched_us, taken_us, posted_us, acked_us };
        let mut whole = 0;
        recorder.record(&passed, [(due, false)].into_iter(), |us| whole = us);
        whole
    }

    proptest! {
        #[test]
        fn in_order_the_sum_is_acked_less_due(mut at in proptest::array::uniform5(0i64..1 << 60)) {
            at.sort_unstable();
            prop_assert_eq!(record(&Latency::new(1).recorder(0), at), (at[4] - at[0]) as u64);
        }

        // Stages that do not add up send the reader looking for time that was never spent.
        #[test]
        fn the_stages_sum_to_the_whole(at in proptest::array::uniform5(0i64..1_000_000_000)) {
            let recorder = Latency::new(1).recorder(0);
            let whole = record(&recorder, at);
            let stages = recorder.0.lock();
            let sum: u64 = stages[..4].iter().map(|stage| stage.max()).sum();
            // The histograms round up, by at most a thousandth each.
            prop_assert!(sum >= whole && sum as f64 <= whole as f64 * 1.001 + 4.0, "{} {}", sum, whole);
        }
    }

    /// Prevents: a clock that runs ahead, or a log that is days old, of which the percentiles say nothing.
    #[test]
    fn what_no_stage_shows_is_counted() {
        let recorder = Latency::new(1).recorder(0);
        let passed = Passed { fetched_us: 100, taken_us: 100, posted_us: 100, acked_us: 150 };
        let hour = LATENCY_US_MAX as i64;
        let due = [100, 101, 3600, 99 - hour, 151 - hour].into_iter().map(|due| (due, false));
        let mut sum = 0;
        let skewed = recorder.record(&passed, due, |us| sum += us);
        assert_eq!(skewed, Skewed { ahead: 2, beyond: 1 });
        assert_eq!(sum, 3 * 50 + (LATENCY_US_MAX + 51) + (LATENCY_US_MAX - 1));
    }

    /// Prevents: a class whose wait is everybody's.
    #[test]
    fn what_is_of_high_priority_is_counted_apart_as_well() {
        let recorder = Latency::new(1).recorder(0);
        let passed =
            Passed { fetched_us: 9_000, taken_us: 9_000, posted_us: 9_000, acked_us: 9_000 };
        recorder.record(&passed, [(1_000, false), (8_000, true), (3_000, false)].into_iter(), drop);
        let [.., whole, high, _] = &*recorder.0.lock();
        assert_eq!((whole.len(), high.len(), high.max()), (3, 1, 1_000));
    }

    fn gauges() -> GaugeVec {
        GaugeVec::new(prometheus::Opts::new("q", "q"), &["stage", "quantile"]).expect("valid")
    }

    #[test]
    fn gauges_show_the_last_ten_intervals_of_all_workers_and_then_nothing() {
        let latency = Latency::new(2);
        let mut reporter = Reporter::new(latency.clone(), None).expect("no file");
        let gauges = gauges();
        let shown = |stage: &str, q: &str| gauges.with_label_values(&[stage, q]).get();
        for n in 0..100 {
            let us = if n < 99 { 10_000 } else { 2_000_000 };
            record(&latency.recorder(n % 2), [0, 0, us, us, us + 1_000]);
        }
        reporter.collect(1_000_000).expect("no file");
        reporter.show(&gauges);
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(near(shown("queue", "0.5"), 0.010), "{}", shown("queue", "0.5"));
        assert!(near(shown("queue", "1"), 2.0), "{}", shown("queue", "1"));
        assert!(near(shown("end_to_end", "0.5"), 0.011));
        for second in 2..12 {
            reporter.collect(second * 1_000_000).expect("no file");
        }
        reporter.show(&gauges);
        assert!(prometheus::core::Collector::collect(&gauges)[0].get_metric().is_empty());
    }

    #[test]
    fn any_window_of_the_log_is_merged_exactly() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("latency.hlog");
        let latency = Latency::new(1);
        let record = |us: i64| {
            record(&latency.recorder(0), [0, us, us, us, us]);
        };
        let t0 = 1_700_000_000_000_000;
        let mut reporter = Reporter::new(latency.clone(), Some(&path)).expect("file");
        reporter.interval_start_us = t0;
        for second in 1..=5 {
            (0..second * 10).for_each(|_| record(second * 1_000));
            record(10 * 3_600_000_000);
            reporter.collect(t0 + second * 1_000_000).expect("written");
        }
        drop(reporter);
        // A kill -9 in the middle of a line, then a restart on the same file.
        let mut text = std::fs::read_to_string(&path).expect("written");
        text.push_str("Tag=log,1700000005.000,1.0");
        std::fs::write(&path, &text).expect("written");
        assert_eq!(hlog::read(&path).expect("readable").len(), 35);
        let mut again = Reporter::new(latency.clone(), Some(&path)).expect("file");
        again.interval_start_us = t0 + 6_000_000;
        record(6_000);
        again.collect(t0 + 7_000_000).expect("written");

        let intervals = hlog::read(&path).expect("readable");
        let merged = hlog::merge(&intervals, Stage::Log, t0 + 1_000_000, t0 + 4_000_000);
        assert_eq!(merged.len(), 20 + 30 + 40 + 3);
        assert_eq!(merged.count_between(1_990, 2_010), 20);
        assert_eq!(merged.count_between(3_990, 4_010), 40);
        assert!(merged.max() >= LATENCY_US_MAX, "a latency beyond the range is kept at its end");
        assert_eq!(hlog::merge(&intervals, Stage::EndToEnd, 0, i64::MAX).len(), 156);
    }
}
