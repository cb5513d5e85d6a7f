//! How each fault shows, or does not, in the records of a row.

use super::*;

/// Whether `fault` shows in a row with these samples, this log of the processor's, this note of the run's.
/// The sink is served all the time.
fn shows(fault: &str, log: &str, note: &str, metrics: &dyn Fn(i64, &mut Sample)) -> bool {
    let dir = tempfile::tempdir().expect("dir");
    folder(dir.path(), fault, 10, 0.0, &Ledger::default());
    let name = format!("{fault}-bounded-8000");
    change(dir.path(), &name, metrics);
    let row = dir.path().join(&name);
    let mark = std::fs::read_to_string(row.join(row::FILE)).expect("a mark");
    let mark = mark.replace("\"note\":\"\"", &format!("\"note\":\"{note}\""));
    std::fs::write(row.join(row::FILE), mark).expect("written");
    std::fs::write(row.join("processor.log"), log).expect("written");
    !red(&run_in(dir.path())).contains(&(name + "_shows"))
}

const BEFORE: &str = "1970-01-01T00:00:05Z ";
const AFTER: &str = "1970-01-01T00:00:20Z ";

/// Prevents: a member that is evicted and gone for good, or whose partitions are not assigned
/// again.
#[test]
fn a_frozen_member_is_evicted_replaced_and_back() {
    let seen = |evicted: f64, others: f64, at: &str| {
        shows("processor-frozen", &format!("{at}partition starts\n"), "", &|_, sample| {
            set(sample, "processor", "processor_evictions_total", evicted);
            set(sample, "processor-2", "processor_partitions", others);
        })
    };
    assert!(seen(1.0, 12.0, AFTER));
    assert!(!seen(0.0, 12.0, AFTER) && !seen(1.0, 6.0, AFTER) && !seen(1.0, 12.0, BEFORE));
}

/// Prevents: a coordinator that stayed, and commits that wait until its broker is back.
#[test]
fn a_dead_coordinator_is_another_where_commits_arrive() {
    let seen = |note: &str, until: i64, evicted: f64| {
        shows("coordinator-killed", "", note, &|second, sample| {
            set(sample, "processor", "processor_evictions_total", evicted);
            for row in sample.log.iter_mut().flat_map(|log| log.partitions.values_mut()) {
                row.committed = Some(second.min(until));
            }
        })
    };
    assert!(seen("another", 40, 0.0));
    assert!(!seen("", 40, 0.0) && !seen("another", 24, 0.0) && !seen("another", 40, 1.0));
}

#[test]
fn a_producer_waits_and_sends_again() {
    let seen = |backlog: f64, resent: f64| {
        shows("two-brokers-killed", "", "", &|_, sample| {
            set(sample, "producer", "producer_backlog_events", backlog);
            set(sample, "producer", "producer_retries_total", resent);
        })
    };
    assert!(seen(16_000.0, 1.0) && !seen(15_999.0, 1.0) && !seen(16_000.0, 0.0));
}

/// Prevents: workers that hammer a sink that is down, or come back sooner than it told them.
#[test]
fn workers_wait() {
    let seen = |status: &str, waits: &[&str]| {
        let line =
            |wait: &&str| format!("{BEFORE}why=\"status {status}\" events=2 wait={wait} n=0\n");
        let log: String = waits.iter().map(line).collect();
        shows(&format!("answers-{status}"), &log, "", &|_, sample| {
            let key = format!("sink_rejected_total{{status=\"{status}\"}}");
            set(sample, "sink", &key, 1.0);
        })
    };
    assert!(seen("429", &["1s", "\"1s 20ms\""]));
    assert!(!seen("429", &["1s", "40ms"]) && !seen("429", &[]));
    assert!(seen("500", &["40ms", "\"1s 20ms\""]));
    assert!(!seen("500", &["40ms", "80ms"]) && !seen("500", &[]));
}

/// Prevents: a link that is called slow or lossy, and is cut; and samples left out without a word.
#[test]
fn what_goes_on_is_served_meanwhile() {
    let stopped = |second: i64, sample: &mut Sample| {
        let acked = 2000 * (second - (second - 10).clamp(0, 4));
        set(sample, "sink", "sink_events_total", acked as f64);
    };
    for fault in ["sink-link-lossy", "broker-link-delayed"] {
        assert!(shows(fault, "", "9 packets", &|_, _| {}) && !shows(fault, "", "", &|_, _| {}));
        assert!(!shows(fault, "", "9 packets", &stopped));
    }
    let (fault, note) = ("results-disk-full", "no sample");
    let left_out = |second: i64, sample: &mut Sample| sample.left_out = u64::from(second == 20) * 8;
    let both = |second: i64, sample: &mut Sample| {
        stopped(second, sample);
        left_out(second, sample);
    };
    assert!(shows(fault, "", note, &left_out) && !shows(fault, "", "", &left_out));
    assert!(!shows(fault, "", note, &|_, _| {}) && !shows(fault, "", note, &both));
}

/// Prevents: latencies by the wall clock, which a step back cuts to 0 and a step on makes an hour.
#[test]
fn a_clock_that_goes_back_bends_no_latency() {
    let seen = |to: &str, least: f64, most: f64| {
        let log = format!("1970-01-01T02:00:00Z a\n1970-01-01T{to}Z b\n");
        shows("clock-back", &log, "", &|_, sample| {
            let key = |q, stage| {
                format!("latency_quantile_seconds{{quantile=\"{q}\",stage=\"{stage}\"}}")
            };
            set(sample, "processor", &key("0.5", "log"), least);
            set(sample, "processor", &key("1", "end_to_end"), most);
        })
    };
    assert!(seen("01:00:00", 0.01, 9.0));
    assert!(!seen("01:59:59", 0.01, 9.0), "no step");
    assert!(!seen("01:00:00", 0.0, 9.0) && !seen("01:00:00", 0.01, 3590.0));
}
