//! The curve against a plain simulation that adds up rate × time.

use proptest::prelude::*;

use super::*;
use crate::load::credit::Grant;

const START_US: i64 = 1_700_000_000_000_000;

fn schedule(text: &str) -> Schedule {
    text.parse().expect("a valid schedule")
}

/// As `--schedule` with these steps and an endless last rate.
fn endless(steps: &[(f64, i64)], last: f64) -> Schedule {
    let timed = steps.iter().map(|&(rate, length)| Step { rate, length_us: Some(length) });
    let steps = timed.chain([Step { rate: last, length_us: None }]).collect();
    Schedule { steps, length_us: None, count_max: None }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Grant { holder: usize, rate: f64, lasting_us: i64, follows: bool },
    EndLease(usize),
    Stop,
}

fn rates() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), 0.01..50.0f64, (1u32..20_000).prop_map(f64::from)]
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0usize..3, rates(), 1i64..3_000_000, any::<bool>()).prop_map(
            |(holder, rate, lasting_us, follows)| Act::Grant { holder, rate, lasting_us, follows }
        ),
        2 => (0usize..3).prop_map(Act::EndLease),
        1 => Just(Act::Stop),
    ]
}

/// Rate × time, added up between the moments at which the rate may change.
struct Simulation {
    steps: Vec<(f64, i64)>,
    last: f64,
    /// By holder: ceiling, end, whether it follows.
    leases: [Option<(f64, i64, bool)>; 3],
    stopped: bool,
    at_us: i64,
    due: f64,
}

impl Simulation {
    fn rate(&self) -> f64 {
        let mut from = START_US;
        let mut rate = self.last;
        for &(step, length) in &self.steps {
            from += length;
            if self.at_us < from {
                rate = step;
                break;
            }
        }
        let live = || self.leases.iter().flatten().filter(|lease| self.at_us < lease.1);
        match live().any(|lease| !lease.2) {
            _ if self.stopped => 0.0,
            true => rate.min(live().map(|lease| lease.0).sum()),
            false => rate,
        }
    }

    fn advance(&mut self, to_us: i64) {
        while self.at_us < to_us {
            let mut next = to_us;
            let mut from = START_US;
            for &(_, length) in &self.steps {
                from += length;
                if from > self.at_us {
                    next = next.min(from);
                }
            }
            for (_, expires, _) in self.leases.iter().flatten().filter(|lease| lease.1 > self.at_us)
            {
                next = next.min(*expires);
            }
            self.due += self.rate() * (next - self.at_us) as f64 / 1e6;
            self.at_us = next;
        }
    }
}

proptest! {
    /// Guards the whole promise: no event is skipped, moved or due twice whatever leases come and
    /// go, and held back events are never caught up.
    #[test]
    fn the_curve_agrees_with_a_plain_simulation(
        steps in proptest::collection::vec((rates(), 1i64..2_000_000), 0..4),
        last in rates(),
        acts in proptest::collection::vec((0i64..1_500_000, acts(), 0u8..=4), 0..12),
    ) {
        let mut pacer = Pacer::new(endless(&steps, last), START_US);
        let mut plain = Simulation {
            steps, last, leases: [None; 3], stopped: false, at_us: START_US, due: 0.0,
        };
        let mut now = START_US;
        let mut due_at: Vec<i64> = Vec::new();
        let mut slowest = 0;
        for (wait, act, trim) in acts {
            now += wait;
            plain.advance(now);
            let curve = pacer.curve();
            let count = curve.due_count(now);
            prop_assert!((count as f64 - plain.due).abs() < 1.5, "{} against {}", count, plain.due);
            prop_assert!(count >= due_at.len() as u64, "the count went back");
            for n in due_at.len() as u64..count {
                let at = curve.due_at(n).expect("a due event has a time");
                prop_assert!(at <= now && due_at.last().is_none_or(|&last| last <= at));
                due_at.push(at);
            }
            prop_assert!(curve.due_at(count).is_none_or(|at| at > now), "not counted, but due");
            // An event that is not acknowledged yet keeps its time, however often the rate changes.
            slowest = slowest.max(count * u64::from(trim) / 4);
            match act {
                Act::Grant { holder, rate, lasting_us, follows } => {
                    let lease = Lease { rate, expires_us: now + lasting_us, follows };
                    pacer.grant(&holder.to_string(), lease, now, slowest).expect("three holders");
                    plain.leases[holder] = Some((rate, now + lasting_us, follows));
                }
                Act::EndLease(holder) => {
                    pacer.end_lease(&holder.to_string(), now, slowest);
                    plain.leases[holder] = None;
                }
                Act::Stop => {
                    pacer.stop(now, slowest);
                    plain.stopped = true;
                }
            }
            let curve = pacer.curve();
            // Where the rate was 0, the next event may become due at the very moment of a change.
            let after = curve.due_count(now);
            prop_assert!(after == count || after == count + 1, "{} became {}", count, after);
            for n in slowest..count {
                prop_assert_eq!(curve.due_at(n), Some(due_at[n as usize]), "event {} moved", n);
            }
            prop_assert_eq!(pacer.rate(now), plain.rate());
        }
    }

    #[test]
    fn due_at_and_due_count_are_inverse(
        steps in proptest::collection::vec((rates(), 1i64..2_000_000), 0..4),
        last in rates(),
        at in 0i64..10_000_000,
    ) {
        let curve = Pacer::new(endless(&steps, last), START_US).curve();
        let count = curve.due_count(START_US + at);
        prop_assert!(count == 0 || curve.due_at(count - 1).expect("due") <= START_US + at);
        prop_assert!(curve.due_at(count).is_none_or(|next| next > START_US + at));
    }
}

/// A schedule of 8,000/s for 10 s is 80,000 events, not 79,999 and not 80,001.
#[test]
fn a_schedule_ends_after_exactly_rate_times_time() {
    for (text, total) in [
        ("8000:10s", 80_000),
        ("1500:60s,8000:10m", 4_890_000),
        ("0.3:10s", 3),
        ("100:1s,0:5s", 100),
    ] {
        let schedule = schedule(text);
        let end = START_US + schedule.length_us().expect("it ends");
        let pacer = Pacer::new(schedule, START_US);
        assert_eq!(pacer.curve().due_count(end), total, "{text}");
        assert_eq!(pacer.curve().due_count(end + 3_600_000_000), total, "{text}");
        assert!(pacer.ended(end) && !pacer.ended(end - 1));
        assert_eq!(pacer.ran_s(end + 5_000_000), (end - START_US) as f64 / 1e6);
    }
}

#[test]
fn the_first_event_is_due_at_the_start_and_the_rest_evenly() {
    let curve = Pacer::new(Schedule::constant(1000.0), START_US).curve();
    let at: Vec<_> = (0..4).filter_map(|n| curve.due_at(n)).map(|at| at - START_US).collect();
    assert_eq!(at, [0, 1000, 2000, 3000]);
    assert_eq!(curve.due_count(START_US - 1), 0);
}

#[test]
fn a_count_ends_the_schedule() {
    let pacer = Pacer::new(Schedule::constant(1000.0).counting(5), START_US);
    assert_eq!(pacer.curve().due_count(START_US + 3_600_000_000), 5);
    assert_eq!(pacer.curve().due_at(5), None);
    assert!(!pacer.ended(START_US + 3_999) && pacer.ended(START_US + 4_000));
    assert_eq!(pacer.ran_s(START_US + 4_000), 0.005, "5 events in it are 1,000/s");
}

/// Counting down to the limit one by one took most of the producer's CPU time once.
#[test]
fn a_count_long_past_is_found_at_once() {
    let year_us = 365 * 86_400 * 1_000_000;
    let curve = Pacer::new(Schedule::constant(1e9).counting(5), START_US).curve();
    assert_eq!(curve.due_count(START_US + year_us), 5);
}

#[test]
fn a_duration_cuts_the_steps_short() {
    let schedule = schedule("100:1s,200:10s").lasting(Duration::from_secs(2));
    let pacer = Pacer::new(schedule, START_US);
    assert_eq!(pacer.curve().due_count(i64::MAX / 2), 300);
}

fn leads(rate: f64, expires_us: i64) -> Lease {
    Lease { rate, expires_us, follows: false }
}

/// The lease ends by itself, and the events that it held back are reported, not sent in a burst.
#[test]
fn an_expired_lease_gives_the_schedules_rate_back_without_a_burst() {
    let second = 1_000_000;
    let mut pacer = Pacer::new(schedule("1000:10s"), START_US);
    let now = START_US + 2 * second;
    pacer.grant("", leads(100.0, now + 3 * second), now, 0).expect("one holder");
    assert_eq!(pacer.rate(now), 100.0);
    assert_eq!(pacer.rate(now + 3 * second), 1000.0);
    assert_eq!(pacer.leases().ceiling(now + 3 * second), None);
    let curve = pacer.curve();
    // A fraction of an event may be left over at each change of rate.
    let close = |count: u64, wanted: u64| assert!(count.abs_diff(wanted) <= 1, "{count}");
    close(curve.due_count(now), 2000);
    close(curve.due_count(now + 3 * second), 2300);
    close(curve.due_count(now + 4 * second), 3300);
    let end = START_US + 10 * second;
    close(curve.due_count(end), 7300);
    close(pacer.held_back(end), 2700);
}

fn grant(epoch: Option<i64>, granted: i64) -> Grant {
    let (holder, generation, waiting, lease_ms) = ("a".into(), 0, 1, 600_000);
    Grant { holder, generation, epoch, granted, waiting, lease_ms }
}

proptest! {
    /// Guards the promise of credit: no event above the limit is due, none is due twice or out of order, and while there
    /// is credit the schedule's rate holds.
    #[test]
    fn under_credit_no_event_above_the_limit_is_due(
        steps in proptest::collection::vec((rates(), 1i64..2_000_000), 0..4),
        last in rates(),
        acts in proptest::collection::vec((0i64..400_000, 0i64..300, 0u8..=4), 1..20),
    ) {
        let mut pacer = Pacer::new(endless(&steps, last), START_US);
        let (mut now, mut granted, mut slowest) = (START_US, 0, 0);
        let mut due_at: Vec<i64> = Vec::new();
        pacer.credit(now, 0, |account, now_us, due| account.grant(&grant(None, 0), now_us, due)).expect("room");
        let epoch = pacer.account().epoch().map(|epoch| epoch.at_us);
        for (wait, more, trim) in acts {
            now += wait;
            let curve = pacer.curve();
            let count = curve.due_count(now);
            let limit = pacer.account().limit().expect("a holder");
            prop_assert!(count <= limit, "{} of {}", count, limit);
            let held = pacer.blocked_us(now) > 0;
            let free = pacer.unleased.due_count(now);
            prop_assert!(held || count.abs_diff(free) <= 1, "{} of {}, never blocked", count, free);
            for n in due_at.len() as u64..count {
                let at = curve.due_at(n).expect("a due event has a time");
                prop_assert!(at <= now && due_at.last().is_none_or(|&last| last <= at));
                due_at.push(at);
            }
            for n in slowest..count {
                prop_assert_eq!(curve.due_at(n), due_at.get(n as usize).copied(), "event {}", n);
            }
            slowest = slowest.max(count * u64::from(trim) / 4);
            granted += more;
            pacer.credit(now, slowest, |account, now_us, due| {
                account.grant(&grant(epoch, granted), now_us, due)
            }).expect("its own");
            prop_assert!(pacer.curve().due_count(now) >= count, "what was due is not any more");
        }
    }
}

/// Prevents: time without credit that is not counted, or counted twice.
#[test]
fn the_time_without_credit_is_what_the_schedule_stood() {
    let second = 1_000_000;
    let mut pacer = Pacer::new(schedule("1000:10s"), START_US);
    let mut tell = |now_us, grant: Grant| {
        let _done =
            pacer.credit(now_us, 0, |account, at_us, due| account.grant(&grant, at_us, due));
        (pacer.account().epoch().map(|epoch| epoch.at_us), pacer.blocked_us(now_us + second))
    };
    let (epoch, blocked_us) = tell(START_US + second, grant(None, 0));
    assert!((blocked_us - second).abs() <= 1000, "at once, as nothing is granted: {blocked_us}");
    // After another second, half a second's worth.
    let (_, blocked_us) = tell(START_US + 2 * second, grant(epoch, 500));
    assert!((blocked_us - 3 * second / 2).abs() <= 1000, "{blocked_us}");
    assert!(pacer.blocked_us(START_US + 99 * second) <= 9 * second, "up to the schedule's end");
    let first = pacer.account().epoch().map_or(0, |epoch| epoch.first);
    assert_eq!(pacer.curve().due_count(START_US + 9 * second), first + 500);
    assert!(pacer.held_back(START_US + 10 * second).abs_diff(8500) <= 1);
}

/// Leases are renewed every second for hours: the curve keeps only the part that a cursor may still
/// need.
#[test]
fn renewed_leases_do_not_grow_the_curve() {
    let mut pacer = Pacer::new(Schedule::constant(1000.0), START_US);
    for second in 1..10_000 {
        let now = START_US + second * 1_000_000;
        let slowest = pacer.curve().due_count(now).saturating_sub(100);
        let rate = 500.0 + (second % 7) as f64;
        pacer.grant("", leads(rate, now + 5_000_000), now, slowest).expect("one holder");
        assert!(pacer.curve().knots.len() <= 5, "{:?}", pacer.curve().knots);
    }
}

#[test]
fn bad_schedules_name_the_step() {
    for (text, what) in [
        ("", "step 1"),
        ("1500:60s,", "step 2"),
        ("1500:60s,x:10s", "step 2"),
        ("1500,8000:10s", "step 1: only the last"),
        ("1500:0s", "step 1"),
        ("-1:10s", "step 1"),
        ("1500:60s,8000:10parsecs", "step 2"),
        ("0:10s,0", "above 0"),
    ] {
        let error = text.parse::<Schedule>().expect_err(text);
        assert!(error.contains(what), "{text}: {error}");
    }
    assert!("1500:60s,8000".parse::<Schedule>().is_ok_and(|s| s.length_us().is_none()));
}

/// Prevents: a stop that moves on with each look at it, so that the schedule never ends.
#[test]
fn the_first_stop_counts() {
    let mut pacer = Pacer::new(Schedule::constant(1000.0), START_US);
    pacer.stop(START_US + 500_000, 0);
    let due = pacer.curve().due_count(START_US + 2_000_000);
    pacer.stop(START_US + 900_000, 0);
    assert!(pacer.ended(START_US + 500_000));
    assert_eq!(pacer.curve().due_count(START_US + 2_000_000), due);
}
