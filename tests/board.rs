//! The board and the rules of docker/ on a real Prometheus that scrapes a real pipeline.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;
#[path = "common/prometheus.rs"]
mod prometheus;

use std::path::Path;
use std::time::{Duration, Instant};

use common::lab::{Served, processor, producer, sink};
use common::{Running, Topic};

/// The committed file, with the addresses of these programs in place of the stack's names.
fn config(served: [(&str, &Served); 3]) -> String {
    let mut config = include_str!("../docker/prometheus/prometheus.yml").to_owned();
    for (name, one) in served {
        assert!(config.contains(name), "{name} is not scraped");
        config = config.replace(name, one.url.trim_start_matches("http://"));
    }
    config
}

fn start(dir: &Path, config: &str) -> (Running, String) {
    std::fs::write(dir.join("prometheus.yml"), config).expect("written");
    std::fs::write(dir.join("rules.yml"), include_str!("../docker/prometheus/rules.yml"))
        .expect("written");
    let (config, data) = (dir.join("prometheus.yml"), dir.join("data"));
    let flags = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", data.display()),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ];
    let mut running = Running::start("prometheus", flags);
    // Before that it says port 0.
    let said = "\"Listening on\" address=127.0.0.1:";
    running.await_log(said);
    running.await_log("Server is ready");
    let log = running.log();
    let port = log.split(said).nth(1).and_then(|rest| rest.split_whitespace().next());
    (running, format!("http://127.0.0.1:{}", port.expect("a port")))
}

/// The numbers that a query gives now.
fn values(base: &str, query: &str) -> Vec<f64> {
    prometheus::values(base, query).expect("an answer")
}

/// Prevents: a panel that stays empty because of a wrong metric name, a missing label, or a rule
/// that is not recorded.
#[test]
fn every_panel_has_data_and_only_a_standstill_sets_off_an_alert() {
    let (topic, sink) = (Topic::create("board", 3), sink(&["--rate-limit", "2000"]));
    let processor = processor(&topic, &sink, &[]);
    let producer = producer(&topic, &["--rate", "500"]);
    let served =
        [("producer:9901", &producer), ("processor:9902", &processor), ("sink:9900", &sink)];
    let dir = tempfile::tempdir().expect("dir");
    let (_running, base) = start(dir.path(), &config(served));
    for query in prometheus::queries_of_the_board() {
        producer.until(&query, |_| {
            let values = values(&base, &query);
            !values.is_empty() && values.iter().all(|value| value.is_finite())
        });
    }
    // Without the target that this test does not have: the watch.
    let firing = values(&base, r#"ALERTS{alertstate="firing",job!="watch"}"#);
    assert!(firing.is_empty(), "{firing:?}");
    producer.until("the sink's rate is seen", |_| {
        values(&base, "sum(rate(sink_events_total[10s]))").first().is_some_and(|v| *v >= 400.0)
    });
    // Prevents: an alert of a standstill that works on paper only, or comes when nobody needs it any more.
    let stalled = Instant::now();
    let flags = ["pause", "--for", "60s", "--sink", &sink.url];
    let _pause = Running::start(env!("CARGO_BIN_EXE_chaos"), flags);
    producer.until("the standstill is noticed", |_| {
        let alerts =
            values(&base, r#"ALERTS{alertname="PartitionStandsStill",alertstate="firing"}"#);
        !alerts.is_empty()
    });
    // The target is 10 s; twice that, because tests run beside each other.
    assert!(stalled.elapsed() <= Duration::from_secs(20), "after {:?}", stalled.elapsed());
}
