use proptest::prelude::*;

use super::*;
use crate::lab::model::Rates;
use crate::lab::scaled::{Cap, Course, World};

fn bounds(min: usize, max: usize) -> Bounds {
    let of = |n| NonZeroUsize::new(n).expect("at least one");
    Bounds { min: of(min), max: of(max) }
}

const SETTINGS: marginal::Settings = marginal::Settings {
    min_gain: 0.1,
    lag_s: 2.0,
    settle_s: 5.0,
    window_s: 5.0,
    idle_s: 20.0,
    again_s: 600.0,
};

fn world(offered: Rates, cap: Cap, plan: Plan, bounds: Bounds, until_s: f64) -> World {
    World {
        offered,
        partitions: 12,
        cap,
        plan,
        bounds,
        join_s: 4.0,
        look_s: 0.5,
        commit_s: 1.0,
        until_s,
    }
}

fn marginal(offered: f64, cap: Cap, max: usize, until_s: f64) -> Course {
    let plan = Plan::Marginal(SETTINGS);
    world(Rates::constant(offered), cap, plan, bounds(1, max), until_s).run()
}

fn limits(course: &Course) -> usize {
    course.looks.iter().filter(|seen| matches!(seen.said, Said::SinkIsTheLimit { .. })).count()
}

/// Prevents: a group that grows before a sink that takes no more.
#[test]
fn one_limit_for_all_is_found_within_two_steps_and_not_tried_again() {
    let course = marginal(5_000.0, Cap::All(1_000.0), 6, 600.0);
    let limit = course.limit().expect("said");
    assert_eq!((course.steps_until(limit.at_s), limit.wanted), (2, 1), "{limit:?}");
    assert_eq!((course.most(), limits(&course), course.wanted_at(600.0)), (2, 1, 1));
}

/// Prevents: a rule that never grows; one that asks ten members for what an eleventh cannot give.
#[test]
fn a_limit_of_each_connection_takes_all_the_members_that_the_load_needs() {
    for (max, load) in [(6, 5_500.0), (12, 50_000.0)] {
        let course = marginal(load, Cap::Each(1_000.0), max, 300.0);
        assert_eq!((course.wanted_at(300.0), limits(&course)), (max, 0), "{max}");
        assert!(course.delivered_in(280.0, 300.0) >= 0.9 * load.min(max as f64 * 1_000.0));
    }
    let enough = marginal(2_500.0, Cap::Each(1_000.0), 6, 300.0);
    // A fifth works off what had gathered; a fourth is the room that is left.
    assert_eq!((enough.most(), enough.wanted_at(300.0)), (5, 4));
}

/// Prevents: a step that is taken back for ever, though the sink takes more by now.
#[test]
fn a_step_is_tried_again_when_the_time_is_over_or_the_load_was_gone() {
    let again = marginal::Settings { again_s: 60.0, ..SETTINGS };
    let late =
        world(Rates::constant(5e3), Cap::All(1e3), Plan::Marginal(again), bounds(1, 6), 200.0);
    assert!((2..=4).contains(&limits(&late.run())), "once a minute, and 20 s to find out");
    let s = std::time::Duration::from_secs;
    let bursts = Rates::schedule([(5e3, s(40)), (0.0, s(400)), (5e3, s(40))]);
    let twice = world(bursts, Cap::All(1e3), Plan::Marginal(SETTINGS), bounds(1, 6), 480.0);
    assert_eq!(limits(&twice.run()), 2, "once a burst");
}

/// Prevents: members that stay for ever; a group that goes up and down under a steady load.
#[test]
fn members_go_when_the_load_has_gone_and_as_many_stay_as_it_needs() {
    let s = std::time::Duration::from_secs;
    let load = Rates::schedule([(4_500.0, s(80)), (1_200.0, s(600))]);
    let course = world(load, Cap::Each(1e3), Plan::Marginal(SETTINGS), bounds(1, 6), 600.0).run();
    assert!(course.most() >= 5, "{}", course.most());
    let last: Vec<usize> =
        course.looks.iter().filter(|seen| seen.at_s > 400.0).map(|seen| seen.wanted).collect();
    assert!(last.iter().all(|wanted| *wanted == 2), "1.2 of a member, with room: {last:?}");
}

/// Prevents: KEDA's #3997: one partition with lag that scales all.
#[test]
fn one_partition_with_lag_is_worth_one_member() {
    let mut rule = Rule::new(&Plan::Marginal(SETTINGS), bounds(1, 6));
    let mut said = Vec::new();
    for n in 0..100 {
        let mut lags = [300; 12];
        lags[3] = 1_000_000;
        let look =
            Look { at_s: f64::from(n), lags: &lags, delivered: 500.0 * f64::from(n), members: 1 };
        assert_eq!(look.lagging(), 1);
        let decision = rule.decide(&look);
        assert_eq!(decision.wanted, 1);
        said.push(decision.said);
    }
    let once = said.iter().filter(|said| **said == Said::PartitionsAreTheLimit).count();
    assert_eq!(once, 1);
}

/// Prevents: a group that grows while nothing at all is delivered.
#[test]
fn where_nothing_is_delivered_a_second_member_is_taken_back() {
    let course = marginal(1_000.0, Cap::All(0.0), 6, 300.0);
    assert_eq!((course.most(), course.wanted_at(300.0), limits(&course)), (2, 1, 1));
}

/// What it is compared with: it goes to the most in both worlds.
#[test]
fn a_rule_on_lag_alone_goes_to_the_most_whatever_the_sink_takes() {
    for cap in [Cap::All(1_000.0), Cap::Each(1_000.0)] {
        let plan = Plan::Lag(lag::Settings { threshold: 1_000.0, idle_s: 300.0 });
        let course = world(Rates::constant(5_500.0), cap, plan, bounds(1, 6), 60.0).run();
        assert_eq!(course.wanted_at(60.0), 6, "{cap:?}");
    }
}

#[test]
fn steps_follow_the_clock_from_the_first_delivery_on() {
    let plan = Plan::Steps(vec![(2, 10.0), (3, 5.0), (1, 5.0)]);
    let mut rule = Rule::new(&plan, bounds(2, 6));
    let mut at = |at_s: f64, delivered| {
        rule.decide(&Look { at_s, lags: &[0], delivered, members: 2 }).wanted
    };
    assert_eq!([at(0.0, 7.0), at(99.0, 7.0), at(100.0, 8.0), at(109.0, 9.0)], [2; 4]);
    assert_eq!([at(110.5, 9.0), at(114.5, 9.0), at(115.5, 9.0), at(999.0, 9.0)], [3, 3, 2, 2]);
}

fn plans() -> impl Strategy<Value = Plan> {
    let marginal =
        (0.01f64..0.9, 0.1f64..30.0, 0.0f64..20.0, 0.5f64..20.0, 0.0f64..60.0, 0.0f64..600.0)
            .prop_map(|(min_gain, lag_s, settle_s, window_s, idle_s, again_s)| {
                Plan::Marginal(marginal::Settings {
                    min_gain,
                    lag_s,
                    settle_s,
                    window_s,
                    idle_s,
                    again_s,
                })
            });
    let lag = (1.0f64..1e5, 0.0f64..60.0)
        .prop_map(|(threshold, idle_s)| Plan::Lag(lag::Settings { threshold, idle_s }));
    let steps = proptest::collection::vec((0usize..20, 0.0f64..20.0), 0..6).prop_map(Plan::Steps);
    prop_oneof![3 => marginal, 1 => lag, 1 => steps]
}

/// Time since the look before, lags, what was delivered meanwhile, whether as many run as are wanted.
fn looks() -> impl Strategy<Value = Vec<(f64, Vec<i64>, f64, bool)>> {
    let lags = proptest::collection::vec(prop_oneof![Just(0i64), -5i64..2_000_000], 0..12);
    proptest::collection::vec(
        (0.05f64..3.0, lags, 0.0f64..5_000.0, proptest::bool::weighted(0.9)),
        1..300,
    )
}

proptest! {
    /// Prevents: fewer than the least, more than the most, a member for whom there is no partition with lag, a
    /// step before the last one was judged, whatever is seen.
    #[test]
    fn bounds_hold_and_no_step_is_hasty(
        plan in plans(), min in 1usize..5, more in 0usize..8, begins in 0usize..20, looks in looks(),
    ) {
        let bounds = bounds(min, min + more);
        let mut rule = Rule::new(&plan, bounds);
        let (mut at_s, mut delivered, mut members) = (0.0, 0.0, begins);
        let (mut before, mut changed_s): (Option<usize>, f64) = (None, f64::NEG_INFINITY);
        for (passed, lags, more, as_wanted) in looks {
            at_s += passed;
            delivered += more;
            let look = Look { at_s, lags: &lags, delivered, members };
            let wanted = rule.decide(&look).wanted;
            prop_assert!((min..=min + more_members(bounds)).contains(&wanted), "{wanted}");
            if let (Some(before), Plan::Marginal(settings)) = (before, &plan) {
                prop_assert!(wanted.abs_diff(before) <= 1);
                if wanted > before {
                    prop_assert!(wanted <= look.lagging(), "{wanted} of {lags:?}");
                }
                if wanted != before {
                    let least_s = settings.settle_s + settings.window_s;
                    prop_assert!(at_s - changed_s >= least_s - 1e-9, "{} s", at_s - changed_s);
                    changed_s = at_s;
                }
            }
            before = Some(wanted);
            members = if as_wanted { wanted } else { wanted + 1 };
        }
    }

    /// Prevents: a group that swings under any steady load before any steady sink.
    #[test]
    fn under_a_steady_load_it_comes_to_rest(
        load in 100.0f64..20_000.0, cap in 100.0f64..5_000.0, is_shared in any::<bool>(), max in 1usize..9,
    ) {
        let cap = if is_shared { Cap::All(cap) } else { Cap::Each(cap) };
        let course = marginal(load, cap, max, 900.0);
        // The way up, and one that is tried and taken back.
        let ups = 2 * max + 2;
        prop_assert!(course.steps_until(450.0) <= ups + 4, "{}", course.steps_until(450.0));
        let later = course.steps_until(900.0) - course.steps_until(450.0);
        prop_assert!(later <= 4, "{later} steps from 450 s to 900 s");
    }
}

fn more_members(bounds: Bounds) -> usize {
    bounds.max.get() - bounds.min.get()
}

/// Prevents: a wish that nobody follows and that stays for ever, so that an alert on it never clears.
#[test]
fn a_wish_that_nobody_follows_is_given_up() {
    let mut rule = marginal::Marginal::new(SETTINGS, bounds(1, 6));
    let mut wanted = Vec::new();
    for second in 0..400_i64 {
        // One member, a thousand a second of two thousand for a minute; then nothing waits.
        let waits = if second < 60 { 1_000 * second } else { 0 };
        let (at_s, lags) = (second as f64, [waits / 2, waits / 2]);
        let look = Look { at_s, lags: &lags, delivered: 1_000.0 * at_s, members: 1 };
        wanted.push(rule.decide(&look).wanted);
    }
    assert_eq!(wanted[..60].iter().max(), Some(&2), "there was lag");
    assert_eq!((wanted[70], wanted[399]), (2, 1), "{wanted:?}");
}
