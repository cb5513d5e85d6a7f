//! Chaos against a real sink: a fault happens as requested, and ends, even if chaos is killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod common;
#[path = "common/sink.rs"]
mod sinks;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use backpressure_lab::http::client::agent;
use backpressure_lab::sink::wire::{self, Acked};
use common::Running;
use sinks::{Sink, event, events};
use socket2::{Domain, Socket, Type};

const CHAOS: &str = env!("CARGO_BIN_EXE_chaos");

/// Ample for a process to start, call the sink and end on a busy host.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_stall_holds_for_its_time_and_is_over_when_chaos_ends() {
    let sink = Sink::start(&[]);
    let begun = Instant::now();
    let chaos =
        Running::start(CHAOS, ["stall", "--rate", "200", "--for", "1500ms", "--sink", &sink.url]);
    let status = sink.await_status("stalled", |s| s.fault.is_some());
    assert_eq!((status.rate, status.base_rate), (200.0, 2_000.0));
    let ended = chaos.end(SOON);
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines[0].starts_with("200 tokens/s of 2000; stall 1: "), "{lines:?}");
    assert!(lines[1].starts_with("2000 tokens/s of 2000; no fault"), "{lines:?}");
    // Quiet in a pipe: no bar, no escapes.
    assert_eq!(ended.stderr, "");
    assert_eq!(sink.status().fault, None);
}

#[test]
fn an_interrupted_chaos_restores_the_sink() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let sink = Sink::start(&[]);
        let chaos = Running::start(CHAOS, ["pause", "--for=60s", "-sink", &sink.url]);
        sink.await_status("paused", |s| s.rate == 0.0);
        chaos.signal(signal);
        let ended = chaos.end(SOON);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("interrupted") && ended.stderr.contains("1m"), "{ended:?}");
        let status = sink.status();
        assert_eq!((status.rate, status.fault), (2_000.0, None));
        assert_eq!(sink.caller().write(&event(1, 1)).status, 200);
    }
}

#[test]
fn the_sink_restores_itself_when_chaos_is_killed() {
    let sink = Sink::start(&[]);
    let begun = Instant::now();
    let chaos = Running::start(CHAOS, ["pause", "--for", "2s", "--sink", &sink.url]);
    sink.await_status("paused", |s| s.rate == 0.0);
    chaos.signal(libc::SIGKILL);
    assert_eq!(chaos.end(SOON).status.code(), None, "killed by a signal");
    // 100 tokens are more than a paused bucket keeps, so this waits for the sink's own restore.
    assert_eq!(sink.caller().batch(&events(0..100)).status, 200);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(sink.status().fault, None);
}

#[test]
fn an_ending_chaos_leaves_anothers_fault_alone() {
    let sink = Sink::start(&[]);
    let first = Running::start(CHAOS, ["pause", "--for", "1s", "--sink", &sink.url]);
    sink.await_status("paused", |s| s.fault.as_ref().is_some_and(|f| f.id == 1));
    let second =
        Running::start(CHAOS, ["stall", "--rate", "5", "--for", "60s", "--sink", &sink.url]);
    sink.await_status("stalled", |s| s.fault.as_ref().is_some_and(|f| f.id == 2));
    assert_eq!(first.end(SOON).status.code(), Some(0));
    assert_eq!(sink.status().rate, 5.0);
    // `restore` ends any fault.
    let restore = Running::start(CHAOS, ["restore", "--sink", &sink.url]).end(SOON);
    assert_eq!(restore.status.code(), Some(0), "{}", restore.stderr);
    assert!(restore.stdout.starts_with("2000 tokens/s of 2000; no fault"), "{}", restore.stdout);
    assert_eq!(sink.status().fault, None);
    drop(second);
}

#[test]
fn status_tells_how_the_sink_stands_and_lab_sink_names_it() {
    let sink = Sink::start(&["--rate-limit", "77"]);
    let out = Command::new(CHAOS).arg("status").env("LAB_SINK", &sink.url).assert().success();
    let text = String::from_utf8_lossy(&out.get_output().stdout).into_owned();
    assert_eq!(text, "77 tokens/s of 77; no fault; 0 waiting\n");
}

#[test]
fn a_sink_out_of_reach_is_named_with_what_to_do() {
    // A port on which nobody listens. It is kept: one that was let go may be another test's next sink.
    let kept = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    kept.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = kept.local_addr().unwrap().as_socket().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    for args in [&["status"][..], &["restore"], &["pause", "--for", "1s"]] {
        let ended = Running::start(CHAOS, args.iter().chain(&["--sink", &url])).end(SOON);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        for word in [url.as_str(), "is the sink running?", "--sink", "LAB_SINK"] {
            assert!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
        }
    }
}

#[test]
fn a_sink_with_a_token_obeys_only_who_has_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "correct-horse-battery\n").unwrap();
    let token = ["--token-file", file.path().to_str().unwrap()];
    let sink = Sink::start(&token);
    let restore = ["restore", "--sink", &sink.url];
    let refused = Running::start(CHAOS, restore).end(SOON);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("401") && refused.stderr.contains("LAB_TOKEN"), "{refused:?}");
    let obeyed = Running::start(CHAOS, restore.iter().chain(&token)).end(SOON);
    assert_eq!(obeyed.status.code(), Some(0), "{}", obeyed.stderr);
    // Events need no token: it does not protect the data path.
    assert_eq!(sink.caller().write(&event(1, 1)).status, 200);
}

/// Prevents: a failing request that delivers what it should not; a ledger without events that were
/// delivered though their caller did not learn of it.
#[test]
fn failing_requests_fail_as_asked_and_the_ledger_knows_what_was_delivered() {
    let sink = Sink::start(&["--rate-limit", "1e6"]);
    let caller = sink.caller();
    let fail = |how: &str| {
        let flags = ["fail", "--how", how, "--for", "60s", "--sink", &sink.url];
        let chaos = Running::start(CHAOS, flags);
        let kind = format!("fail {how}");
        sink.await_status(&kind, |s| s.fault.as_ref().is_some_and(|f| f.kind == kind));
        chaos
    };
    let broken = fail("500");
    assert_eq!(caller.batch(&events(0..10)).status, 500);
    let limited = fail("429");
    let answer = caller.batch(&events(0..10));
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"));
    assert_eq!(sink.totals().events, 0);
    let partial = fail("partial");
    assert_eq!(caller.batch(&events(0..5)).json::<Acked>().acked, 3);
    assert_eq!(caller.write(&event(3, 3)).json::<Acked>().acked, 1);
    assert_eq!((sink.totals().events, sink.totals().max_id), (4, Some(3)));
    let cut = fail("cut");
    let mut body = Vec::new();
    event(4, 4).encode(&mut body);
    let agent = agent(SOON);
    let answer = agent.post(format!("{}{}", sink.url, wire::WRITE)).send(&body[..]);
    // The head came, the body never whole.
    let read = answer.map(|mut answer| answer.body_mut().read_to_string());
    assert!(!matches!(&read, Ok(Ok(_))), "{read:?}");
    assert_eq!(sink.totals().events, 5);
    let over = Running::start(CHAOS, ["restore", "--sink", &sink.url]).end(SOON);
    assert!(over.status.success(), "{over:?}");
    assert_eq!(caller.write(&event(5, 5)).status, 200);
    drop([broken, limited, partial, cut]);
}

/// Prevents: answers that are cut after the fault, because their requests came in during it and waited for tokens.
#[test]
fn a_cut_ends_for_those_who_still_wait() {
    let sink = Sink::start(&["--rate-limit", "8", "--burst", "1"]);
    let flags = ["fail", "--how", "cut", "--for", "60s", "--sink", &sink.url];
    let chaos = Running::start(CHAOS, flags);
    sink.await_status("it cuts", |s| s.fault.is_some());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| sink.caller().batch(&events(0..40)).json::<Acked>().acked);
        sink.await_status("waited for", |s| s.waiting == 1);
        let over = Running::start(CHAOS, ["restore", "--sink", &sink.url]).end(SOON);
        assert!(over.status.success(), "{over:?}");
        assert_eq!(waits.join().expect("a whole answer"), 40);
    });
    drop(chaos);
}

/// Prevents: a chaos that reports success though the sink ended during the fault.
#[test]
fn a_sink_that_dies_during_the_fault_is_a_failure() {
    let sink = Sink::start(&[]);
    let chaos = Running::start(CHAOS, ["pause", "--for", "1s", "--sink", &sink.url]);
    sink.await_status("paused", |s| s.rate == 0.0);
    drop(sink);
    let ended = chaos.end(SOON);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("no answer from"), "{}", ended.stderr);
}

#[test]
fn bad_flags_are_refused_with_what_was_expected() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "action"),
        (&["melt"], "stall, pause, fail, restore or status"),
        (&["stall", "--rate", "200"], "--for"),
        (&["stall", "--for", "90s"], "--rate"),
        (&["stall", "--rate", "x", "--for", "90s"], "from 0 to 1000000000"),
        (&["pause"], "--for"),
        (&["pause", "--for", "0s"], "above 0"),
        (&["pause", "--for", "25h"], "at most 1day"),
        (&["pause", "--for", "1s", "--rate", "5"], "--for alone"),
        (&["fail", "--for", "1s"], "--how"),
        (&["fail", "--how", "404", "--for", "1s"], "500, 429, cut or partial"),
        (&["restore", "--for", "1s"], "no --rate, --how or --for"),
        (&["status", "--sink", "127.0.0.1:9900"], "http://127.0.0.1:9900"),
    ];
    for (args, word) in cases {
        let ended = Running::start(CHAOS, *args).end(SOON);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in {}", ended.stderr);
    }
}
