//! The requests of Prometheus and Kubernetes to a processor.

use crate::common::lab::{Served, processor, produce, sink};
use crate::common::{PATIENCE, Running, Topic};

/// Prevents: a rollout that takes a processor without a partition or a sink for ready, and one that
/// kills a processor because its sink is away.
#[test]
fn it_is_ready_with_partitions_and_a_sink_and_tells_its_lag() {
    let (topic, sink) = (Topic::create("probes", 3), sink(&["--rate-limit", "1000"]));
    let processor = processor(&topic, &sink, &["--commit-interval", "100ms"]);
    processor.until("it is ready", |it| it.ask("/readyz").0 == 200);
    let lag = |it: &Served, labels: &str| it.metric("processor_lag_events", labels);
    produce(&topic, &["--rate", "10000", "--count", "3000"]);
    processor.until("each partition lags", |it| {
        (0..3).all(|n| lag(it, &format!("partition=\"{n}\"")) > 100.0)
    });
    processor.until("it has caught up", |it| lag(it, "") == 0.0);
    assert_eq!(processor.ask("/healthz"), (200, "ok\n".into()));

    drop(sink);
    produce(&topic, &["--rate", "1000", "--count", "10", "--first-id", "5000"]);
    processor.until("it is not ready", |it| it.ask("/readyz").0 == 503);
    let (_, why) = processor.ask("/readyz");
    assert!(why.contains("the sink does not answer"), "{why}");
    assert_eq!(processor.ask("/healthz").0, 200);

    // As a container's health check asks.
    for (page, code, words) in [("/healthz", 0, ""), ("/readyz", 1, "the sink does not answer")] {
        let url = format!("{}{page}", processor.url);
        let ended = Running::start(env!("CARGO_BIN_EXE_lab"), ["probe", &url]).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
    processor.stop();
}
