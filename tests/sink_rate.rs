//! What the sink delivers, against the model, over real HTTP. A file of its own, and one test at a
//! time: cargo runs no other test file beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod common;
#[path = "common/sink.rs"]
mod sinks;

use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sinks::{Sink, event, events};

/// Tests that measure take turns: they would measure each other.
static MEASURING: Mutex<()> = Mutex::new(());

/// Prevents: a sink that is faster or slower than the model, with any client.
///
/// Faster: acked <= rate × time + burst in every window, without a margin. Slower: at least 98 % of
/// rate × time in the best of 15 windows: a machine busy with other work spoils some of them, but a
/// sink that loses the time its handlers oversleep loses it in all.
#[test]
fn the_rate_is_held() {
    let _turn = MEASURING.lock();
    // Flags, clients, events a call, and events/s by the model.
    let cases: [(&[&str], usize, u64, f64); 4] = [
        (&[], 1, 1, 2_000.0),
        (&[], 8, 1, 2_000.0),
        (&["--burst", "200"], 4, 200, 2_000.0),
        // 50 events a call cost 0.9 + 50 × 0.1 = 5.9 tokens: 500 × 50 / 5.9 events/s.
        (
            &["--rate-limit", "500", "--call-cost", "0.9", "--event-cost", "0.1"],
            4,
            50,
            500.0 * 50.0 / 5.9,
        ),
    ];
    for (flags, clients, batch, model) in cases {
        let best =
            (0..15).map(|_| delivered_share(flags, clients, batch, model)).find(|s| *s > 0.98);
        assert!(
            best.is_some(),
            "{flags:?}, {clients} clients, batch {batch}: below 98 % in 15 windows; is the machine busy?"
        );
    }
}

/// Runs closed-loop clients for 2 s, checks the upper bound, returns the share of rate × time that
/// was delivered.
fn delivered_share(flags: &[&str], clients: usize, batch: u64, model: f64) -> f64 {
    let sink = Sink::start(flags);
    let time = Duration::from_secs(2);
    let begun = Instant::now();
    thread::scope(|scope| {
        for client in 0..clients as u64 {
            let caller = sink.caller();
            scope.spawn(move || {
                for call in 0.. {
                    let first = (client << 32) + call * batch;
                    let answer = if batch == 1 {
                        caller.write(&event(first, first))
                    } else {
                        caller.batch(&events(first..first + batch))
                    };
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    if begun.elapsed() >= time {
                        return;
                    }
                }
            });
        }
    });
    let delivered = sink.totals().events as f64;
    let elapsed = begun.elapsed().as_secs_f64();
    // The bucket starts full: 5 % of a second unless told, 200 tokens where told; in events.
    let burst = if flags.contains(&"--burst") { 200.0 } else { 0.05 * model };
    // The sink had time to earn before `begun`, but not beyond its burst.
    assert!(
        delivered <= model * elapsed + burst + 1.0,
        "{flags:?}, {clients} clients: {delivered} in {elapsed:.3} s is more than the limit"
    );
    // The credit at the start does not belong to the window.
    let share = (delivered - burst) / (model * elapsed);
    println!("{flags:?}, {clients} clients, batch {batch}: {:.2} %", share * 100.0);
    share
}

/// Prevents the starvation that keep-alive connections cause in tiny_http's own pool.
#[test]
fn sixty_four_connections_at_once_are_served_within_a_second() {
    let _turn = MEASURING.lock();
    let sink = Sink::start(&["--rate-limit", "100000"]);
    let at_once = Barrier::new(64);
    // The best of three: a busy host may delay one, starvation delays all of them for ever.
    let slowest = (0..3u64).map(|round| {
        let times = thread::scope(|scope| {
            let calls: Vec<_> = (0..64u64)
                .map(|n| {
                    let (caller, at_once) = (sink.caller(), &at_once);
                    scope.spawn(move || {
                        at_once.wait();
                        let begun = Instant::now();
                        assert_eq!(caller.write(&event(round * 64 + n, n)).status, 200);
                        (begun.elapsed(), caller)
                    })
                })
                .collect();
            // Every connection stays open until the last is served.
            calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
        });
        times.iter().map(|(time, _)| *time).max().unwrap()
    });
    assert!(slowest.into_iter().any(|slowest| slowest < Duration::from_secs(1)));
}
