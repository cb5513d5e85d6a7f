//! Each rule on small courses written out by hand: high watermark and committed offset, second by second.

use std::collections::BTreeMap;

use super::burrow::{Burrow, Status};
use super::falling_behind::FallingBehind;
use super::lag_events::LagEvents;
use super::lag_seconds::LagSeconds;
use super::lag_slope::LagSlope;
use super::poll_gap::PollGap;
use super::sojourn::Sojourn;
use super::*;
use crate::lab::detect::tests::{course, look};
use crate::lab::samples::PartitionReading;

/// When `rule` fires, s.
fn firing(rule: &dyn Detector, looks: &[Look]) -> Vec<f64> {
    let states = looks.iter().zip(rule.states(looks));
    states.filter(|(_, state)| *state == State::Firing).map(|(look, _)| look.at).collect()
}

fn first(rule: &dyn Detector, looks: &[Look]) -> Option<f64> {
    firing(rule, looks).first().copied()
}

/// Prevents: a Burrow that finds what the real one misses (its issue 738), or other rules that miss it too.
#[test]
fn burrow_says_ok_of_a_lag_that_climbs_beyond_200_000() {
    let looks = course(120, |t| (8_000 * t + 300, 2_000 * t));
    assert_eq!(looks.last().and_then(Look::lag), Some(720_300.0));
    let burrow = Burrow::default();
    assert_eq!(burrow.worst(&looks)[1..], [Some(Status::Ok); 120]);
    // It is the stale high watermark that does it.
    let fresh = Burrow { end_refresh_s: 0.0, ..burrow };
    assert_eq!(fresh.worst(&looks)[1..], [Some(Status::Warning); 120]);
    assert_eq!(first(&LagEvents::default(), &looks), Some(2.0));
    assert_eq!(first(&LagSlope::default(), &looks), Some(2.0), "a line needs three points");
    assert_eq!(first(&LagSeconds::default(), &looks), Some(10.0), "the rate is there from 1 s on");
    assert_eq!(first(&FallingBehind::default(), &looks), Some(2.0), "at the second look");
}

/// Prevents: the same for a lag that is a saw by itself: the log grows every third second.
#[test]
fn burrow_says_ok_of_a_saw_that_climbs() {
    let looks = course(120, |t| (24_000 * (t / 3) + 10_000, 2_000 * t));
    let fresh = Burrow { end_refresh_s: 0.0, ..Burrow::default() };
    // Of a single commit it says that all of them are the same.
    assert_eq!(fresh.worst(&looks)[0], Some(Status::Stall));
    assert_eq!(fresh.worst(&looks)[1..], [Some(Status::Ok); 120]);
    assert_eq!(first(&LagSlope::default(), &looks), Some(3.0));
    assert_eq!(first(&FallingBehind::default(), &looks), Some(4.0));
    assert!(firing(&LagEvents::default(), &looks).contains(&120.0));
}

/// Prevents: a false alarm when a source goes idle, and when it comes back: 1,500/s, committed a second later.
#[test]
fn an_idle_source_is_no_trouble_but_to_a_quotient() {
    let looks = course(100, |t| {
        let end = 1_500 * if t < 80 { t.min(20) } else { t - 59 };
        let committed = 1_500 * if t <= 80 { (t - 1).clamp(0, 20) } else { t - 60 };
        (end, committed)
    });
    assert_eq!(looks[50].lag(), Some(0.0));
    assert_eq!(
        (looks[79].lag(), looks[80].lag(), looks[90].lag()),
        (Some(0.0), Some(1_500.0), Some(1_500.0))
    );
    let quiet: [&dyn Detector; 4] = [
        &LagEvents::default(),
        &Burrow::default(),
        &LagSlope::default(),
        &FallingBehind::default(),
    ];
    for rule in quiet {
        assert_eq!(firing(rule, &looks), [0.0; 0], "{}", rule.name());
    }
    // At a rate of 0 nothing is late while nothing waits, and what waits is late without end.
    let quotient = LagSeconds::default();
    assert_eq!(quotient.states(&looks)[50], State::Quiet);
    assert_eq!(firing(&quotient, &looks), [1.0, 80.0, 81.0]);
}

/// Prevents: a rewind that is taken for progress, or for a rate below 0.
#[test]
fn a_commit_that_goes_back_is_a_rewind_and_no_rate() {
    let looks = course(30, |t| (1_500 * t + 1_500, 1_500 * t - if t < 20 { 0 } else { 6_000 }));
    let worst = Burrow { end_refresh_s: 0.0, ..Burrow::default() }.worst(&looks);
    // A lag that stays what it is never falls: Burrow warns of it.
    assert_eq!(worst[1..20], [Some(Status::Warning); 19]);
    assert_eq!(worst[20..29], [Some(Status::Rewind); 9], "while it is among ten commits");
    assert_eq!(worst[29..], [Some(Status::Warning); 2]);
    let states = LagSeconds { over_s: 3.0, ..LagSeconds::default() }.states(&looks);
    assert_eq!(states[19..21], [State::Quiet, State::Unknown]);
    assert_eq!(first(&FallingBehind::default(), &looks), Some(21.0), "6,000 are to be done again");
}

/// Prevents: an overload that is not found because one reading of what is done was too low.
#[test]
fn a_dip_in_what_is_done_is_no_work() {
    let mut looks = course(30, |t| (8_000 * t + 300, 2_000 * t));
    for log in looks[1].log.iter_mut() {
        log.committed = Some(-5_000_000.0);
    }
    looks[1].done = Some((1.0, -5_000_000.0));
    assert_eq!(first(&FallingBehind::default(), &looks), Some(3.0), "a look later than without it");
}

/// Prevents: a window that counts looks instead of seconds, and a look without a reading that ends an alarm.
#[test]
fn a_gap_in_the_samples_is_no_answer() {
    // From 20 s on 6,500/s more than is committed; no look from 21 s to 40 s.
    let mut looks = course(50, |t| (1_500 * t + 300 + 6_500 * (t - 20).max(0), 1_500 * t));
    looks.retain(|look| !(21.0..=40.0).contains(&look.at));
    looks[24].log = None;
    looks[24].done = None;
    assert_eq!(looks[24].at, 44.0);
    let slope = LagSlope::default().states(&looks);
    assert_eq!(slope[21..25], [State::Unknown, State::Unknown, State::Firing, State::Unknown]);
    let behind = FallingBehind::default().states(&looks);
    assert_eq!(
        behind[20..25],
        [State::Quiet, State::Quiet, State::Firing, State::Firing, State::Unknown]
    );
    for rule in defaults().iter().map(Rule::detector) {
        assert_eq!(rule.states(&looks)[24], State::Unknown, "{}", rule.name());
        assert!(rule.states(&[]).is_empty(), "{}", rule.name());
    }
}

/// Prevents: a group that stands still before a few events, which no threshold sees.
#[test]
fn a_group_that_stands_still_is_found_however_little_waits() {
    let looks = course(30, |t| (10, t.min(9)));
    assert_eq!(first(&FallingBehind::default(), &looks), Some(15.0), "five intervals and a look");
    let fresh = Burrow { end_refresh_s: 0.0, ..Burrow::default() };
    // Silent for longer than the ten commits took: 9 s. Who repeats its commits stalls instead.
    assert_eq!(fresh.worst(&looks)[18..20], [Some(Status::Ok), Some(Status::Stop)]);
    let repeats = Burrow { repeats: true, ..fresh };
    assert_eq!(
        repeats.worst(&looks)[17..20],
        [Some(Status::Ok), Some(Status::Stall), Some(Status::Stall)]
    );
    for rule in [&LagEvents::default() as &dyn Detector, &LagSlope::default()] {
        assert_eq!(first(rule, &looks), None, "{}", rule.name());
    }
}

/// Prevents: one partition that stands still behind others that go on.
#[test]
fn one_partition_that_stands_still_is_found() {
    let mut looks = course(20, |t| (1_500 * t + 300, 1_500 * t));
    assert_eq!(first(&FallingBehind::default(), &looks), None);
    let row = PartitionReading { end: Some(100), committed: Some(50), lag: Some(50) };
    for log in looks.iter_mut().filter_map(|look| look.log.as_mut()) {
        log.partitions.insert(1, row.clone());
    }
    assert_eq!(first(&FallingBehind::default(), &looks), Some(5.0));
    looks.retain(|look| look.at % 10.0 == 0.0);
    assert_eq!(first(&FallingBehind::default(), &looks), Some(10.0), "looks may be rare");
}

/// Prevents: a member that waits among others that do not, and a page that is not there taken for a 0.
#[test]
fn what_the_processors_tell_is_the_worst_of_them() {
    let page = |rows: &[(&str, f64)]| -> BTreeMap<String, f64> {
        rows.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
    };
    let key = "latency_quantile_seconds{quantile=\"0.99\",stage=\"queue\"}";
    let (gap, interval) = ("processor_poll_gap_seconds", "processor_max_poll_interval_seconds");
    let told = |late: f64| Look {
        metrics: [
            ("processor-1".to_owned(), page(&[(key, 0.1), (gap, 0.1), (interval, 60.0)])),
            ("processor-2".to_owned(), page(&[(key, late), (gap, late), (interval, 6.0)])),
            ("sink".to_owned(), page(&[(key, 9.0)])),
        ]
        .into(),
        ..look(0.0, 0, 0)
    };
    let looks = [told(0.2), told(3.1), look(2.0, 0, 0)];
    let states = [State::Quiet, State::Firing, State::Unknown];
    assert_eq!(Sojourn::default().states(&looks), states);
    assert_eq!(PollGap::default().states(&looks), states);
    let bare =
        Look { metrics: [("processor".to_owned(), page(&[(gap, 4.0)]))].into(), ..Look::default() };
    assert_eq!(PollGap::default().states(std::slice::from_ref(&bare)), [State::Unknown]);
    let by_hand = PollGap { interval_s: Some(6.0), ..PollGap::default() };
    assert_eq!(by_hand.states(&[bare]), [State::Firing]);
}

/// Prevents: a file of rules that is half understood, and an error that does not say where.
#[test]
fn a_file_of_rules_is_what_is_printed_or_refused_by_field_and_value() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("rules.json");
    let given = |text: &str| {
        std::fs::write(&path, text).expect("written");
        read(&path)
    };
    let printed = serde_json::to_string_pretty(&defaults()).expect("JSON");
    assert_eq!(given(&printed).expect("rules"), defaults());
    let twice = r#"[{"lag_events": {"above": 5}}, {"lag_events": {}}]"#;
    let expected = [LagEvents { above: 5.0 }, LagEvents::default()].map(Rule::LagEvents);
    assert_eq!(given(twice).expect("rules"), expected);
    for (text, says) in [
        (r#"[{"lag_event": {}}]"#, &["`lag_event`", "`lag_events`", "line 1"][..]),
        (r#"[{"burrow": {"comits": 5}}]"#, &["`comits`", "`commits`", "`end_refresh_s`"][..]),
        (r#"[{"burrow": {"commits": "ten"}}]"#, &["\"commits\": \"ten\"", "u32"][..]),
        (r#"[{"burrow": {"commits": 1}}]"#, &["burrow: commits 1: allowed: 2 to 1000"][..]),
        (
            r#"[{"lag_seconds": {"over_s": 1}}]"#,
            &["lag_seconds: over_s 1: allowed: 2 to 86400"][..],
        ),
        (
            r#"[{"sojourn": {"stage": "disk"}}]"#,
            &["stage \"disk\": allowed: log, queue, batch"][..],
        ),
        (r#"[{"sojourn": {"quantile": "0.9"}}]"#, &["quantile \"0.9\": allowed: 0.5, 0.99"][..]),
        (r#"[{"poll_gap": {"share": 2}}]"#, &["poll_gap: share 2: allowed: 0 to 1"][..]),
        ("[]", &["at least one rule"][..]),
        ("", &["EOF"][..]),
    ] {
        let why = given(text).expect_err(text);
        assert!(matches!(why, Failure::Usage(_)), "{why}");
        let why = why.to_string();
        assert!(why.contains("rules.json") && why.starts_with("--rules "), "{why}");
        assert!(says.iter().all(|words| why.contains(words)), "{text}: {why}");
    }
    assert!(matches!(read(&dir.path().join("none")), Err(Failure::Usage(_))));
}
