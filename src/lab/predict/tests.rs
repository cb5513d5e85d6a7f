//! The figures that the design states, and the limits of the input.

use proptest::prelude::*;

use super::*;
use crate::cli;

fn forecast(line: &str) -> Result<Forecast, String> {
    let settings = cli::parsed::<Settings>("predict", line.split_whitespace().map(str::to_owned))?;
    Ok(Forecast::of(&Scenario::new(&settings).map_err(|e| e.to_string())?))
}

fn says(forecast: &Forecast, name: &str) -> Option<f64> {
    let figure = forecast.figures.iter().find(|figure| figure.name == name);
    figure.unwrap_or_else(|| panic!("no {name}")).value
}

fn about(value: Option<f64>, wanted: f64) {
    assert!(value.is_some_and(|v| (v - wanted).abs() <= 1e-6 * wanted), "{value:?} for {wanted}");
}

#[test]
fn the_designs_stall_leaves_117_000_events_and_234_seconds() {
    let at_75 = forecast("--schedule 1500:30m --stall 200@10m:90s").expect("valid");
    about(says(&at_75, "stall_1_lag"), 117_000.0);
    about(says(&at_75, "stall_1_recovery"), 234.0);
    about(says(&at_75, "drain"), 0.0);
    // The longest wait is that of an event which is served after the schedule's end.
    let cut = forecast("--schedule 1500:20s,8000:60s").expect("valid");
    about(says(&cut, "wait_peak"), 180.0);
    let at_80 = forecast("--schedule=1600:30m -stall=200@600s:90s").expect("valid");
    about(says(&at_80, "stall_1_recovery"), 315.0);
    // At the ceiling itself the lag stays, until the load ends.
    let at_100 = forecast("--schedule 2000:30m --stall 200@600s:90s --drain").expect("valid");
    about(says(&at_100, "stall_1_recovery"), 1110.0 + 81.0);
    assert_eq!(
        says(
            &forecast("--schedule 2000:30m --stall 200@600s:90s").expect("valid"),
            "stall_1_recovery"
        ),
        None
    );
}

#[test]
fn the_designs_overload_climbs_at_6_000_events_a_second_wherever_it_waits() {
    for (queue, held) in [("bounded", 10_000.0), ("unbounded", 360_000.0), ("pull", 0.0)] {
        let line = format!("--schedule 1500:20s,8000:60s --queue {queue} --drain");
        let forecast = forecast(&line).expect("valid");
        about(says(&forecast, "lag_slope"), 6000.0);
        about(says(&forecast, "lag_peak"), 360_000.0);
        assert_eq!(says(&forecast, "queue_peak"), Some(held));
        about(says(&forecast, "drain"), 180.0);
        about(says(&forecast, "wait_peak"), 180.0);
        let [baseline, overload, drain] = &forecast.phases[..] else {
            panic!("{:?}", forecast.phases);
        };
        assert_eq!(
            (baseline.lag_slope, overload.lag_slope, drain.lag_slope),
            (0.0, 6000.0, -2000.0)
        );
        assert!((overload.wait_s.unwrap_or_default() - 45.0).abs() < 1e-6);
        assert_eq!(drain.lag, 0.0);
    }
}

#[test]
fn only_a_queue_that_may_fill_the_limit_is_killed_and_then_nothing_is_served() {
    let line =
        "--schedule 1500:60s,8000:10m --queue unbounded --memory-limit 512MiB --base-rss 20MiB";
    let killed = forecast(line).expect("valid");
    let event = says(&killed, "event_bytes").expect("bytes");
    // Answers hold the records of 250 ms: of 8,000/s, 553 B each.
    let answers = 8000.0 * 0.25 * 553.0;
    let headroom = f64::from(492 << 20) - answers;
    let at = 60.0 + headroom / (event * 6000.0);
    about(says(&killed, "killed_at"), at);
    about(says(&killed, "rss_peak"), f64::from(512 << 20));
    assert_eq!((says(&killed, "drain"), killed.killed_s), (None, says(&killed, "killed_at")));
    about(says(&killed, "lag_slope"), 6000.0);
    let last = killed.phases.last().expect("a phase");
    assert_eq!((last.lag_slope, last.rss_bytes, last.wait_s), (8000.0, 0.0, None));
    let lag = 6000.0 * (at - 60.0) + 8000.0 * (660.0 - at);
    about(Some(last.lag), lag);
    for queue in ["bounded", "pull"] {
        let line = line.replace("unbounded", queue);
        assert_eq!(says(&forecast(&line).expect("valid"), "killed_at"), None);
    }
}

/// Prevents: a backlog that is gone in the model but for a billionth of an event, and so never.
#[test]
fn a_backlog_ends_whatever_the_rates() {
    for (line, drained_s) in [
        ("1500:60s,8000:10m --rate-limit 7000", 600_000.0 / 7000.0),
        ("3k:1h,12k:20m,3k:10m --rate-limit 2200", 15_120_000.0 / 2200.0),
        ("3k:1h,12k:20m,3k:10m --rate-limit 3300", 10_260_000.0 / 3300.0),
    ] {
        about(says(&forecast(&format!("--schedule {line}")).expect("valid"), "drain"), drained_s);
    }
    for rate in (700..3000).step_by(100) {
        let line = format!("--schedule 3k:1h,12k:20m,3k:10m --rate-limit {rate} --drain");
        assert!(says(&forecast(&line).expect("valid"), "drain").is_some(), "{rate}");
    }
}

/// Prevents: a processor that sheds, spills, or acks after it was killed; a kill by a queue that is never so long.
#[test]
fn the_dead_do_nothing() {
    let limit = "--schedule 8000:10m --rate-limit 2000 --queue-cap 1M --memory-limit 256MiB";
    let shed = forecast(&format!("{limit} --policy shed")).expect("valid");
    let at = shed.killed_s.expect("killed");
    assert!(says(&shed, "shed_total").is_some_and(|shed| shed < 1e-3));
    about(says(&shed, "lag_peak"), 6000.0 * at + 8000.0 * (600.0 - at));
    let credit = forecast(&format!("{limit} --policy credit --credit-window 1M")).expect("valid");
    about(says(&credit, "lag_peak"), 1e6);
    let spill = forecast(&format!("{limit} --queue spill")).expect("valid");
    let at = spill.killed_s.expect("killed");
    about(says(&spill, "spill_peak"), 0.0);
    assert_eq!(says(&spill, "spill_full_at"), None);
    about(says(&spill, "queue_sojourn"), 6000.0 * at / 2000.0);
    let shallow = "--schedule 8000:5m --rate-limit 2000 --queue-cap 100k --batch-size 1000 --sink-workers 16 \
                   --policy shed --shed sojourn --memory-limit 45MiB";
    assert_eq!(forecast(shallow).expect("valid").killed_s, None);
}

/// Prevents: what is on disk counted as unread; a stop of the sink taken for the processor's death.
#[test]
fn what_is_read_is_what_has_room() {
    let out = |line: &str| {
        let forecast = forecast(&format!("--schedule 8000:60s {line}")).expect("valid");
        forecast.phases[0].network_out
    };
    let unbounded = out("--queue unbounded");
    about(Some(out("--queue spill")), unbounded);
    let stalled =
        forecast("--schedule 1500:2m --queue unbounded --stall 0@60s:30s").expect("valid");
    let rates: Vec<f64> = stalled.phases.iter().map(|row| row.network_out).collect();
    assert!(rates.iter().all(|rate| (rate - rates[0]).abs() < 1.0), "{rates:?}");
}

/// Prevents: a time in the processor that leaves out the sink's stall.
#[test]
fn the_time_inside_is_by_what_the_sink_gives_then() {
    let stalled = forecast("--schedule 1500:10m --stall 200@60s:90s").expect("valid");
    // Full after 10,800 / 1,300 s of it, and the last of them is served at 200/s.
    about(says(&stalled, "queue_sojourn"), 10_800.0 / 200.0);
    let idle = forecast("--schedule 2010:10s").expect("valid");
    about(says(&idle, "queue_sojourn"), 100.0 / 2000.0);
}

/// 12,000/s for 20 minutes after 3,000/s, to a sink of 5,000/s with 1.2 KB and 1 GiB: when is the
/// processor killed, when has it caught up, which capacity is needed?
#[test]
fn a_plan_says_when_it_dies_when_it_is_back_and_which_capacity() {
    let load = "--schedule 3k:1h,12k:20m,3k:4h --rate-limit 5k --msg-size 1200 --memory-limit 1GiB";
    let bounded = forecast(load).expect("valid");
    assert_eq!(says(&bounded, "killed_at"), None);
    // 8,400,000 events above what is served, at 2,000/s.
    about(says(&bounded, "caught_up_1"), 3600.0 + 1200.0 + 4200.0);
    about(says(&bounded, "capacity_by_wait"), 5000.0 * 2.0 * 0.95 - 1600.0);
    about(says(&bounded, "queue_sojourn"), (10_000.0 + 800.0) / 5000.0);
    let fits = says(&bounded, "capacity_by_memory").expect("a capacity");
    assert!((500_000.0..1_000_000.0).contains(&fits), "{fits}");
    let unbounded = forecast(&format!("{load} --queue unbounded")).expect("valid");
    about(says(&unbounded, "killed_at"), 3600.0 + fits / 7000.0);
    let why = unbounded.figures.iter().find(|f| f.name == "drain").expect("drain");
    assert!(why.value.is_none() && why.because.contains("is killed again"), "{why:?}");
}

#[test]
fn each_policy_pays_in_its_own_coin() {
    let load = "--schedule 1500:20s,8000:60s,1000:60s --drain";
    let [buffer, shed, slow, credit] =
        ["buffer", "shed", "slow-source", "credit --credit-window 160"]
            .map(|policy| forecast(&format!("{load} --policy {policy}")).expect("valid"));
    about(says(&buffer, "wait_peak"), 180.0);
    // Full after 10,800 events; further ones are dropped, and an event that stays waits for those
    // before it.
    about(says(&shed, "shed_total"), 360_000.0 - 10_800.0);
    about(says(&shed, "lag_peak"), 10_800.0);
    about(says(&shed, "wait_peak"), 5.4);
    about(says(&shed, "queue_peak"), 10_000.0);
    // What is not sent is neither late nor in the log.
    about(says(&slow, "wait_peak"), 1.0);
    about(says(&slow, "lag_peak"), 2000.0);
    about(says(&slow, "held_back_total"), 360_000.0 - 2000.0);
    assert!(says(&slow, "disk") < says(&buffer, "disk"), "what is held back is not written");
    about(says(&credit, "lag_peak"), 160.0);
    about(says(&credit, "held_back_total"), 360_000.0 - 160.0);
    about(says(&credit, "round_trip_max"), 0.08);
    assert_eq!(says(&shed, "disk"), says(&buffer, "disk"), "it is produced all the same");
    let spills = |rest: &str| forecast(&format!("{load} --queue spill --spill-max 64MiB{rest}"));
    let (spill, full) = (spills("").expect("valid"), spills(" --policy shed").expect("valid"));
    let room = 10_800.0 + (64 << 20) as f64 / 566.0;
    about(says(&spill, "spill_full_at"), 20.0 + room / 6000.0);
    about(says(&spill, "spill_peak"), (64 << 20) as f64);
    about(says(&full, "shed_total"), 360_000.0 - room);
    about(says(&full, "lag_peak"), room);
    let all = forecast(&format!("{load} --queue spill")).expect("valid");
    about(says(&all, "spill_peak"), (360_000.0 - 10_800.0) * 566.0);
    for wrong in ["--spill-max 64MiB", "--queue spill --policy credit --credit-window 9"] {
        forecast(&format!("{load} {wrong}")).expect_err(wrong);
    }
    let error = forecast(&format!("{load} --policy shed --queue pull")).expect_err("no queue");
    assert!(error.contains("--queue bounded"), "{error}");
    for wrong in ["--policy credit", "--credit-window 9"] {
        let error = forecast(&format!("{load} {wrong}")).expect_err(wrong);
        assert!(error.contains("--credit-window"), "{error}");
    }
    let error = forecast(&format!("{load} --shed pid")).expect_err("nothing is shed");
    assert!(error.contains("--policy shed"), "{error}");
}

/// Prevents: one wait for every way to shed, which exp12 measured 4 to 30 times apart.
#[test]
fn who_is_shed_decides_what_the_rest_waits() {
    for (who, queue) in
        [("newest", 10_000.0), ("priority", 7_500.0), ("sojourn", 1_600.0), ("pid", 1_600.0)]
    {
        let load = "--schedule 1500:20s,8000:60s --policy shed --shed";
        let shed = forecast(&format!("{load} {who}")).expect("valid");
        about(says(&shed, "queue_peak"), queue);
        about(says(&shed, "wait_peak"), (queue + 800.0) / 2000.0);
        about(says(&shed, "shed_total"), 360_000.0 - queue - 800.0);
    }
}

#[test]
fn disk_and_network_follow_from_the_layouts() {
    let forecast = forecast("--schedule 8000:60s --queue unbounded").expect("valid");
    // A record of 553 B and 61 B over the 13.3 events of a batch.
    let log = 553.0 + 61.0 * 12.0 / 160.0;
    about(says(&forecast, "log_bytes_per_event"), log);
    about(says(&forecast, "disk"), 480_000.0 * log * 3.0);
    about(says(&forecast, "network_in"), 8000.0 * 3.0 * log);
    about(says(&forecast, "network_out"), 8000.0 * 3.0 * log);
    // Held back, the log is read at the sink's rate, also when no more events come.
    let held = "--schedule 8000:60s --queue pull --drain";
    let [load, drain] = &self::forecast(held).expect("valid").phases[..] else { panic!("2") };
    about(Some(load.network_out), (2000.0 + 8000.0 * 2.0) * log);
    about(Some(drain.network_out), 2000.0 * (553.0 + 61.0 * 12.0 / 40.0));
    assert_eq!(drain.network_in, 0.0);
}

#[test]
fn a_load_that_no_machine_here_has_gives_figures() {
    let line = "--schedule 8000000:10m --rate-limit 2000000 --partitions 1200 --broker-count 60 \
                --queue-cap 10000000 --drain";
    let forecast = forecast(line).expect("valid");
    about(says(&forecast, "lag_peak"), 3.6e9);
    about(says(&forecast, "lag_peak_per_partition"), 3e6);
    about(says(&forecast, "drain"), 1800.0);
    let table = table(&forecast);
    assert!(table.contains("3,600,000,000") && table.contains("TB"), "{table}");
    assert!(!table.contains("unknown"), "{table}");
}

#[test]
fn flags_that_cannot_be_used_are_named_with_what_is_allowed() {
    for (line, parts) in [
        ("--schedule 1500", ["--schedule", "last step", "8000:10m"]),
        ("--schedule 0:5s", ["--schedule", "0:5s", "above 0"]),
        ("--schedule 3,000:60m", ["--schedule", "3000", "comma"]),
        ("--schedule 5:5s --queue big", ["--queue", "big", "unbounded"]),
        ("--schedule 5:5s --stall 200@1s", ["--stall", "200@1s", "200@600s:90s"]),
        ("--schedule 5:5s --stall 0@5s:1s", ["--stall", "from 5 s", "schedule's end"]),
        (
            "--schedule 5:9s --stall 0@1s:3s --stall 1@2s:1s",
            ["--stall", "1/s from 2 s", "before it"],
        ),
        ("--schedule 5:9s --stall 9k@1s:3s", ["--stall", "9,000/s from 1 s", "--rate-limit 2000"]),
        ("--schedule 5:5s --replication 4", ["--replication", "4", "--broker-count 3"]),
        ("--schedule 5:5s --event-cost 0", ["--event-cost", "0", "--call-cost"]),
        ("--schedule 5:5s --memory-limit 20MiB", ["--memory-limit", "20.97 MB", "--base-rss"]),
        ("--schedule 5:5s --msg-size 2MB", ["--msg-size", "2MB", "999976"]),
        ("--schedule 5:5s --partitions 0", ["--partitions", "0", "at least 1"]),
        ("--rate-limit 5", ["--schedule", "--schedule is missing", ""]),
    ] {
        let error = forecast(line).expect_err(line);
        for part in parts {
            assert!(error.contains(part), "{line}: {error:?} lacks {part:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    // Guards against a figure that is no number (serde_json would write null for it), or negative.
    #[test]
    fn every_figure_of_every_scenario_is_finite_and_not_negative(
        steps in proptest::collection::vec((0.0f64..1e9, 1u64..10_000_000), 1..5),
        ceiling in 0.001f64..1e9, stall in proptest::option::of((0.0f64..1e9, 1u64..1000, 1u64..1000)),
        queue in 0usize..3, partitions in 1u32..100_000, payload in 0u32..999_976,
        limit in proptest::option::of(10u64..1000), drain: bool,
    ) {
        let steps: Vec<String> = steps.iter().map(|(r, t)| format!("{}:{t}s", r + 1e-3)).collect();
        let queue = ["bounded", "unbounded", "pull"][queue];
        let mut line = format!(
            "--schedule {} --rate-limit {ceiling} --queue {queue} --partitions {partitions} \
             --msg-size {payload}", steps.join(",")
        );
        if let Some((rate, at, time)) = stall {
            let rate = rate.min(ceiling / 2.0);
            line += &format!(" --stall {rate}@{at}s:{time}s");
        }
        if let Some(limit) = limit {
            line += &format!(" --memory-limit {limit}GiB");
        }
        if drain {
            line += " --drain";
        }
        // A stall after the end is refused, and so is a limit above 1 TiB or below the fetches.
        if let Ok(forecast) = forecast(&line) {
            for figure in &forecast.figures {
                let fine = figure.value.is_none_or(|v| v.is_finite() && v >= 0.0);
                prop_assert!(fine, "{line}: {figure:?}");
            }
            for row in &forecast.phases {
                let json = serde_json::to_value(row).expect("json");
                for (name, value) in json.as_object().expect("an object") {
                    let fine = name == "wait_s" && value.is_null()
                        || value.as_f64().is_some_and(|v| name == "lag_slope" || v >= 0.0);
                    prop_assert!(fine, "{line}: {name} {value}");
                }
            }
        }
    }
}

/// Prevents: a group whose members count as one process, with one memory and one queue.
#[test]
fn a_group_has_the_queues_of_its_members_and_each_its_own_memory() {
    let line = "--schedule 8000:5m --rate-limit 2000 --queue unbounded --memory-limit 128MiB";
    let alone = forecast(line).expect("valid");
    let four = forecast(&format!("{line} --members 4 --drain")).expect("valid");
    let (alone, four) = (|name| says(&alone, name).expect("a figure"), |name| says(&four, name));
    // Each has a quarter of the lag and as much memory.
    let ratio = four("killed_at").expect("a kill") / alone("killed_at");
    assert!((3.9..4.2).contains(&ratio), "{ratio}");
    let bounded = forecast("--schedule 8000:60s --members 4 --batch-size 20").expect("valid");
    assert_eq!(says(&bounded, "queue_peak"), Some(40_000.0));
    about(says(&bounded, "capacity_by_wait"), 500.0 * 2.0 * 0.95 - 160.0);
    let why = forecast("--schedule 8000:60s --members 13").expect_err("12 partitions");
    assert!(why.contains("--members 13") && why.contains("--partitions 12"), "{why}");
}
