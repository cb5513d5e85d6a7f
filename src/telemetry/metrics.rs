//! Every metric's name, unit and meaning, once, by whose they are. Stages hold the handles and count.
//! Prometheus conventions: base units, `_total` for counters.

mod lab;
mod processor;
mod producer;
mod sink;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::allocator::HeapCollector;
use crate::failure::Failure;

pub use lab::{AutoscaleMetrics, WatchMetrics};
pub use processor::{ProcessorMetrics, SpillMetrics};
pub use producer::ProducerMetrics;
pub use sink::SinkMetrics;

/// A registry and its text form.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A registry with the process's own figures (`process_resident_memory_bytes`, …) and the
    /// allocator's (`heap_inuse_bytes`, `heap_resident_bytes`).
    pub fn new() -> Result<Self, Failure> {
        let metrics = Self::default();
        metrics.register(prometheus::process_collector::ProcessCollector::for_self())?;
        metrics.register(HeapCollector::new()?)?;
        Ok(metrics)
    }

    /// Registers a collector and returns it.
    pub fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Failure> {
        self.register(collector.clone())?;
        Ok(collector)
    }

    fn register(&self, collector: impl Collector + 'static) -> Result<(), Failure> {
        self.registry
            .register(Box::new(collector))
            .map_err(|e| Failure::Failed(format!("cannot register a metric: {e}")))
    }

    /// The Prometheus text format.
    pub fn text(&self) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .map_err(|e| Failure::Failed(format!("cannot write the metrics: {e}")))?;
        Ok(out)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Failure> {
        self.add(IntCounter::new(name, help).map_err(Failure::failed)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Failure> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels).map_err(Failure::failed)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Failure> {
        self.add(Gauge::new(name, help).map_err(Failure::failed)?)
    }

    fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, Failure> {
        self.add(IntGauge::new(name, help).map_err(Failure::failed)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Failure> {
        self.add(GaugeVec::new(Opts::new(name, help), labels).map_err(Failure::failed)?)
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Failure> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels).map_err(Failure::failed)?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, Failure> {
        // 1 ms to 2,097 s, doubling: at four times the ceiling an event waits for 1,350 s after half an hour.
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 22).map_err(Failure::failed)?;
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.add(Histogram::with_opts(opts).map_err(Failure::failed)?)
    }
}

/// A counter's sum over all its labels.
pub fn sum(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let values = families.iter().flat_map(|f| f.get_metric()).map(|m| m.get_counter().value());
    // Counters of whole events, exact in an f64 up to 2^53.
    values.sum::<f64>() as u64
}
