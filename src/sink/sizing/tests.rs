use super::*;

const MS: Duration = Duration::from_millis(1);

fn answered(sizer: &Sizer, events: usize, acked: usize, (posted, now): (Instant, Instant)) {
    if let Some(rule) = &sizer.rule {
        rule.lock().answered(events, acked, posted, now);
    }
}

/// A sink that takes `call` tokens of `rate` a second and 0.1 for each event, one call after the other, and workers that
/// take what waits up to the rule's size, in steps of 1 ms: the events that wait at the end of each second.
fn waiting(sizing: Sizing, call: f64, loads: &[(f64, u32)], rate: impl Fn(u32) -> f64) -> Vec<f64> {
    let cost = |events: f64| call + 0.1 * events;
    const WORKERS: usize = 4;
    let start = Instant::now();
    let sizer = Sizer::new(sizing, WORKERS, start);
    let (mut waiting, mut tokens, mut out) = (0.0_f64, 0.0_f64, Vec::new());
    // Of each worker: its batch, what is left to pay for it, and when it was posted, ms.
    let mut calls = [None::<(f64, f64, u32)>; WORKERS];
    let mut ms = 0;
    for &(offered, seconds) in loads {
        for _ in 0..seconds * 1000 {
            ms += 1;
            // In puffs of the producer's linger.
            if ms % 7 == 0 {
                waiting += offered * 7e-3;
            }
            tokens = (tokens + rate(ms) / 1e3).min(100.0);
            for call in &mut calls {
                if call.is_none() && waiting >= 1.0 {
                    // What is not cut comes in runs, of four partitions a puff.
                    let ((full, most), run) = (sizer.full(), offered * 7e-3 / 4.0);
                    let whole = (full as f64 / run).ceil() * run;
                    let events = waiting.min(whole.min(most as f64)).floor();
                    sizer.posted(events as usize);
                    waiting -= events;
                    *call = Some((events, cost(events), ms));
                }
            }
            // Who called first is served first.
            let mut turns: Vec<usize> = (0..WORKERS).filter(|n| calls[*n].is_some()).collect();
            turns.sort_by_key(|n| calls[*n].map(|call| call.2));
            for n in turns {
                let Some((events, left, at)) = &mut calls[n] else { continue };
                let paid = tokens.min(*left);
                tokens -= paid;
                *left -= paid;
                if *left <= 0.0 {
                    let (events, posted) = (*events as usize, start + *at * MS);
                    answered(&sizer, events, events, (posted, start + ms * MS));
                    calls[n] = None;
                }
            }
            if ms % 1000 == 0 {
                out.push(waiting);
            }
        }
    }
    out
}

const TARGET: Duration = Duration::from_millis(500);

fn rules() -> [Sizing; 4] {
    [Sizing::Auto, Sizing::Aimd(TARGET), Sizing::Dql, Sizing::Debloat(TARGET)]
}

/// Prevents: a rule that does not find a batch that carries 95 % of what the sink can take, or that does not come back
/// after the sink stood still. DQL is asked of a sink whose calls cost nothing.
#[test]
fn every_rule_carries_the_load_and_comes_back_after_a_standstill() {
    for sizing in rules() {
        let call = if sizing == Sizing::Dql { 0.0 } else { 0.9 };
        let stall = |ms: u32| if (14_000..17_000).contains(&ms) { 0.0 } else { 2000.0 };
        let seconds = waiting(sizing, call, &[(1500.0, 4), (19_000.0, 6), (1500.0, 20)], stall);
        // Within the target of what is served at 19,000/s.
        assert!(seconds[3..10].iter().all(|held| *held < 9_500.0), "{sizing:?}: {seconds:?}");
        assert!(seconds[16] > 3_000.0, "{sizing:?}: it stood still: {seconds:?}");
        assert!(seconds[24..].iter().all(|held| *held < 100.0), "{sizing:?}: {seconds:?}");
    }
}

/// A device's queue starves or does not; that each call costs is nothing it could see. Small batches keep the sink busy,
/// so the limit never grows.
#[test]
fn dql_does_not_see_what_a_call_costs() {
    let seconds = waiting(Sizing::Dql, 0.9, &[(1500.0, 4), (19_000.0, 6)], |_| 2000.0);
    assert!(seconds[9] > 9_500.0, "{seconds:?}");
}

/// Prevents: a test that any size passes.
#[test]
fn a_small_fixed_batch_falls_behind() {
    let seconds = waiting(Sizing::Fixed(50), 0.9, &[(1500.0, 4), (19_000.0, 6)], |_| 2000.0);
    let behind = (19_000.0 - 2000.0 * 50.0 / 5.9) * 6.0;
    assert!((seconds[9] / behind - 1.0).abs() < 0.1, "{seconds:?}, {behind} by the fluid model");
}

#[test]
fn a_size_is_at_least_one_and_has_a_limit() {
    for sizing in rules() {
        let (now, slow) = (Instant::now(), Duration::from_secs(60));
        let sizer = Sizer::new(sizing, 4, now);
        for n in 1..5_000_u32 {
            let at = now + n * 100 * MS;
            sizer.posted(1);
            answered(&sizer, 1, 0, (at, at + slow));
            assert!(sizer.full().0 >= 1, "{sizing:?}");
        }
        for n in 1..5_000_u32 {
            let events = sizer.full().1;
            sizer.posted(events);
            let at = now + slow * 10 + n * MS;
            answered(&sizer, events, events, (at, at + MS));
            assert!(sizer.full().0 <= SIZE_MAX && events <= SIZE_MAX, "{sizing:?}");
        }
    }
}

#[test]
fn a_number_or_a_rule_is_read_and_nothing_else() {
    assert_eq!(Name::parse("200"), Ok(Name::Events(200)));
    assert_eq!(Name::parse("auto"), Ok(Name::Auto));
    for wrong in ["0", "100001", "-1", "natural", ""] {
        let why = Name::parse(wrong).expect_err(wrong);
        assert!(why.contains("dql") && why.contains("100000"), "{why}");
    }
}
