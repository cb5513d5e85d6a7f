//! The sink's contract, tested on the real binary over real HTTP.
//!
//! Times are compared with the model (tokens / rate); each comparison has its margin beside it.
//! `sink_rate` has the measurements that need the machine for themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod common;
#[path = "common/sink.rs"]
mod sinks;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use backpressure_lab::load::resends::Missing;
use backpressure_lab::sink::control::Command;
use backpressure_lab::sink::ledger::Totals;
use backpressure_lab::sink::wire::{self, Acked};
use backpressure_lab::transform::Transform;
use common::Running;
use roaring::RoaringTreemap;
use sinks::{Sink, event, events};

const SINK: &str = env!("CARGO_BIN_EXE_sink");

fn seconds(text: &str) -> Duration {
    backpressure_lab::units::duration(text).unwrap()
}

/// The status line that answers a `POST /write` with `header` and two bytes of body.
fn told(header: &str, sink: &Sink) -> String {
    let mut stream = TcpStream::connect(sink.addr()).unwrap();
    stream.set_read_timeout(Some(seconds("10s"))).unwrap();
    write!(stream, "POST /write HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\nxx").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn every_status_of_the_contract() {
    let sink = Sink::start(&[]);
    let caller = sink.caller();
    assert_eq!(caller.write(&event(1, 1)).json::<Acked>().acked, 1);
    assert_eq!(caller.batch(&events(2..5)).json::<Acked>().acked, 3);

    // Malformed: which event and why. Nothing of such a batch is delivered.
    let short = caller.post("/write", &[0; 23]);
    assert_eq!(short.status, 400);
    assert!(short.text().contains("23 bytes") && short.text().contains("24"), "{}", short.text());
    assert_eq!(caller.post("/write", &[]).status, 400);
    let mut cut = Vec::new();
    events(10..12).iter().for_each(|e| wire::frame(e, &mut cut));
    cut.pop();
    let cut = caller.post("/batch", &cut);
    assert_eq!(cut.status, 400);
    assert!(cut.text().contains("event 1 is cut short"), "{}", cut.text());
    assert_eq!(caller.post("/batch", &[]).status, 400);

    // Too large: an event above its limit, and a body above the server's.
    assert_eq!(caller.post("/write", &vec![0; 1_000_001]).status, 413);
    assert!(told("Content-Length: 4194305", &sink).starts_with("HTTP/1.1 413"));
    let largest =
        backpressure_lab::event::Event { payload: vec![1; 999_976].into(), ..event(9, 9) };
    assert_eq!(caller.batch(&[largest]).json::<Acked>().acked, 1);

    assert_eq!(caller.post("/nowhere", b"x").status, 404);
    for (path, allow) in [("/write", "POST"), ("/batch", "POST")] {
        let answer = sink.get(path);
        assert_eq!((answer.status, answer.header("allow")), (405, allow), "{path}");
    }
    for path in ["/ledger", "/ledger/ids", "/ledger/missing"] {
        let answer = caller.post(path, b"");
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{path}");
    }
    let agent = backpressure_lab::http::client::agent(seconds("10s"));
    let typed = |kind: &str| {
        let mut body = Vec::new();
        event(1, 1).encode(&mut body);
        let request = agent.post(format!("{}/write", sink.url)).content_type(kind);
        request.send(&body).unwrap().status().as_u16()
    };
    assert_eq!(typed("application/json"), 415);
    assert_eq!(typed("Application/Octet-Stream; x=1"), 200);

    let totals = sink.totals();
    assert_eq!((totals.events, totals.distinct, totals.duplicates), (6, 5, 1));
    let metrics = sink.get("/metrics").text();
    assert!(metrics.contains("sink_events_total 6"), "{metrics}");
    assert!(metrics.contains("sink_rejected_total{status=\"415\"} 1"), "{metrics}");
    assert_eq!(sink.get("/healthz").status, 200);
}

#[test]
fn control_refuses_nonsense_with_what_it_expects() {
    let sink = Sink::start(&[]);
    let caller = sink.caller();
    for (body, word) in [
        ("", "expected"),
        ("{\"do\":\"melt\"}", "melt"),
        ("{\"do\":\"stall\",\"rate\":200}", "for"),
        ("{\"do\":\"stall\",\"rate\":-1,\"for\":\"1s\"}", "-1"),
        ("{\"do\":\"pause\",\"for\":\"25h\"}", "1day"),
    ] {
        let agent = backpressure_lab::http::client::agent(seconds("10s"));
        let mut answer = agent.post(format!("{}/control", sink.url)).send(body).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{body}: {text}");
        assert!(text.contains(word), "{body}: {text}");
    }
    let status = sink.status();
    assert_eq!((status.base_rate, status.rate, status.fault), (2_000.0, 2_000.0, None));
    assert_eq!(caller.write(&event(1, 1)).status, 200);
}

/// Prevents requests that keep waiting at the rate at which they came.
#[test]
fn a_restore_serves_those_who_wait_at_the_new_rate() {
    let sink = Sink::start(&["--burst", "1"]);
    let status = sink.control(&Command::Stall { rate: 20.0, time: seconds("60s") });
    assert_eq!((status.rate, status.base_rate), (20.0, 2_000.0));
    let fault = status.fault.expect("a fault");
    assert_eq!((fault.kind.as_str(), fault.for_seconds), ("stall", 60.0));
    let caller = sink.caller();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || caller.batch(&events(0..200)).status);
        sink.await_status("waited for", |s| s.waiting == 1);
        thread::sleep(seconds("500ms"));
        let restored = Instant::now();
        assert_eq!(sink.control(&Command::Restore { fault: None }).rate, 2_000.0);
        assert_eq!(waiting.join().unwrap(), 200);
        // About 190 tokens were missing: 0.1 s at 2,000/s, 9.5 s at 20/s. Margin 20 either way.
        assert!(restored.elapsed() < seconds("2s"), "{:?}", restored.elapsed());
    });
}

#[test]
fn a_pause_lets_nothing_through_and_ends_by_itself() {
    let sink = Sink::start(&["--burst", "200"]);
    assert_eq!(sink.control(&Command::Pause { time: seconds("700ms") }).rate, 0.0);
    let begun = Instant::now();
    // Less than what was saved up before it.
    assert_eq!(sink.caller().batch(&events(0..100)).status, 200);
    let waited = begun.elapsed();
    // 0.7 s and 100 tokens at 2,000/s; the call began just after the pause: margin 0.1 s below.
    assert!(waited > seconds("600ms") && waited < seconds("3s"), "{waited:?}");
    let status = sink.status();
    assert_eq!((status.rate, status.fault), (2_000.0, None));
    assert!(sink.running.log().contains("fault ends"), "{}", sink.running.log());
}

#[test]
fn its_own_stall_comes_and_goes_by_the_flags() {
    let flags = ["--stall-at", "300ms", "--stall-rate=200", "-stall-for=600ms"];
    let sink = Sink::start(&flags);
    let fault = sink.await_status("stalled", |s| s.rate == 200.0).fault.expect("a fault");
    assert_eq!((fault.kind.as_str(), fault.for_seconds), ("stall", 0.6));
    sink.await_status("restored", |s| s.rate == 2_000.0 && s.fault.is_none());
}

#[test]
fn reject_answers_429_with_a_time_that_is_true() {
    let sink = Sink::start(&["--rate-limit", "10", "--burst", "10", "--on-limit", "reject"]);
    let caller = sink.caller();
    assert_eq!(caller.batch(&events(0..10)).status, 200);
    let refused = caller.write(&event(10, 10));
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    let after: u64 = refused.header("retry-after-ms").parse().unwrap();
    // One token takes 100 ms at 10/s; some of it may have passed.
    assert!((1..=100).contains(&after), "{after} ms");
    thread::sleep(Duration::from_millis(after));
    assert_eq!(caller.write(&event(10, 10)).status, 200);
    // Larger than the burst: refused until a burst is there, then it waits for the rest.
    let large = events(20..35);
    let refused = caller.batch(&large);
    assert_eq!(refused.status, 429);
    thread::sleep(Duration::from_millis(refused.header("retry-after-ms").parse().unwrap()));
    let begun = Instant::now();
    assert_eq!(caller.batch(&large).status, 200);
    // 5 tokens beyond the burst: 0.5 s, of which the call may have missed a little.
    assert!(begun.elapsed() > seconds("300ms"), "{:?}", begun.elapsed());
    assert_eq!(sink.totals().events, 26);
    assert!(sink.get("/metrics").text().contains("sink_rejected_total{status=\"429\"} 2"));
}

/// Prevents: a limit of each connection that is shared, or one of all that is not.
#[test]
fn a_limit_per_connection_is_each_callers_own() {
    let flags = "--rate-limit 10 --burst 10 --on-limit reject --limit-per";
    for (per, second) in [("connection", 200), ("all", 429)] {
        let flags: Vec<&str> = flags.split(' ').chain([per]).collect();
        let sink = Sink::start(&flags);
        let (one, two) = (sink.caller(), sink.caller());
        assert_eq!(one.batch(&events(0..10)).status, 200);
        assert_eq!(one.write(&event(10, 10)).status, 429, "{per}");
        assert_eq!(two.write(&event(11, 11)).status, second, "{per}");
    }
}

/// Prevents: a limit that is not the sink's; a client that counts requests where the sink counts tokens.
#[test]
fn a_sink_that_refuses_says_its_limit_in_every_answer_and_one_that_waits_does_not() {
    use backpressure_lab::sink::quota::{self, Policy};
    let flags = "--rate-limit 10 --burst 20 --call-cost 0.5 --event-cost 1.5 --on-limit reject";
    let sink = Sink::start(&flags.split_whitespace().collect::<Vec<_>>());
    let caller = sink.caller();
    let told = |answer: &sinks::Answer| {
        let said = quota::read(&answer.headers);
        let Policy { rate, burst, costs } = said.policy.expect("a policy");
        assert_eq!((burst, costs.call_cost, costs.event_cost), (Some(20.0), 0.5, 1.5));
        (rate, said.remaining.expect("what is left"))
    };
    let first = caller.batch(&events(0..9));
    let policy =
        r#""default";q=10;w=1;qu="tokens";lab-burst=20;lab-call-cost=0.5;lab-event-cost=1.5"#;
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, policy));
    // 20 less 14 tokens; what a second earns is the margin.
    let (rate, left) = told(&first);
    assert!(rate == 10.0 && (6.0..16.0).contains(&left), "{left}");
    let refused = caller.batch(&events(20..34));
    assert_eq!(refused.status, 429);
    assert!(refused.header("ratelimit").contains(";t="), "{refused:?}");
    // A step of the rate is in the next answer, whatever it is.
    sink.control(&Command::Stall { rate: 0.5, time: seconds("60s") });
    assert_eq!(told(&caller.batch(&events(20..34))).0, 0.5);
    sink.control(&Command::Restore { fault: None });
    assert_eq!(told(&caller.batch(&events(20..34))).0, 10.0);

    let waits = Sink::start(&[]);
    let answer = waits.caller().write(&event(1, 1));
    assert!(answer.status == 200 && answer.headers.get("ratelimit").is_none(), "{answer:?}");
}

/// Prevents: a pause that cannot be ended because all handlers are taken by waiting requests.
#[test]
fn control_answers_while_as_many_wait_as_may() {
    let sink = Sink::start(&["--handlers", "2"]);
    sink.control(&Command::Pause { time: seconds("60s") });
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..2u64)
            .map(|n| {
                let caller = sink.caller();
                scope.spawn(move || caller.batch(&events(n * 100..n * 100 + 50)).status)
            })
            .collect();
        sink.await_status("full", |s| s.waiting == 2);
        let busy = sink.caller().write(&event(1, 1));
        assert_eq!(busy.status, 503, "{}", busy.text());
        assert!(busy.header("retry-after").parse::<u64>().unwrap() >= 1);
        assert_eq!(busy.header("retry-after-ms"), "1000", "nobody knows when the pause ends");
        assert_eq!(sink.get("/metrics").status, 200);
        assert_eq!(sink.control(&Command::Restore { fault: None }).rate, 2_000.0);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), 200);
        }
    });
    assert_eq!(sink.totals().events, 100);
}

/// Prevents: an ack for tokens that were never paid; a stop that waits for the waiting requests.
#[test]
fn a_stop_answers_those_who_wait_without_acking_them() {
    let sink = Sink::start(&[]);
    assert_eq!(sink.caller().write(&event(1, 1)).status, 200);
    sink.control(&Command::Pause { time: seconds("60s") });
    let caller = sink.caller();
    let waiting = thread::spawn(move || caller.batch(&events(10..200)).status);
    sink.await_status("waited for", |s| s.waiting == 1);
    sink.running.signal(libc::SIGTERM);
    assert_eq!(waiting.join().unwrap(), 503);
    let ended = sink.running.end(seconds("10s"));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let totals: Totals = serde_json::from_str(&ended.stdout).expect("the sums on stdout");
    assert_eq!((totals.events, totals.distinct), (1, 1));
}

#[test]
fn latency_is_paid_by_each_call_and_by_calls_side_by_side() {
    let sink = Sink::start(&["--latency", "300ms"]);
    let begun = Instant::now();
    thread::scope(|scope| {
        for n in 0..8 {
            let caller = sink.caller();
            scope.spawn(move || assert_eq!(caller.write(&event(n, n)).status, 200));
        }
        thread::sleep(seconds("150ms"));
        assert_eq!(sink.status().waiting, 0, "for no token");
    });
    let elapsed = begun.elapsed();
    // Side by side 0.3 s, one after the other 2.4 s.
    assert!(elapsed >= seconds("300ms") && elapsed < seconds("1500ms"), "{elapsed:?}");
}

#[test]
fn the_ledger_counts_duplicates_and_disorder_and_hands_out_the_ids() {
    let sink = Sink::start(&["--rate-limit", "1e6"]);
    let caller = sink.caller();
    let send = |ids: &[u64], key| {
        let events: Vec<_> = ids.iter().map(|id| event(*id, key)).collect();
        assert_eq!(caller.batch(&events).json::<Acked>().acked, ids.len() as u64);
    };
    send(&[1, 2, 3, 6], 1); // in order
    send(&[2, 3], 1); // duplicates, no disorder
    send(&[5, 7], 1); // 5 after 6: disorder
    send(&[4, u64::MAX], 2); // another key has its own order
    let totals = sink.totals();
    assert_eq!((totals.events, totals.distinct, totals.duplicates), (10, 8, 2));
    assert_eq!((totals.order_violations, totals.writes, totals.keys), (1, 4, 2));
    assert_eq!((totals.min_id, totals.max_id), (Some(1), Some(u64::MAX)));
    assert!(totals.first_delivery_us <= totals.last_delivery_us);
    let ids = RoaringTreemap::deserialize_from(&*sink.get("/ledger/ids").body).unwrap();
    assert_eq!(ids.iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, u64::MAX]);
    let missing = sink.get("/ledger/missing?from=0&to=10");
    assert_eq!(missing.json::<Missing>().missing, [0, 8, 9]);
    for query in ["", "?from=1", "?from=2&to=1", "?from=0&to=20001", "?from=a&to=b", "?to=1&from=0"]
    {
        let answer = sink.get(&format!("/ledger/missing{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().contains("from=ID&to=ID"), "{}", answer.text());
    }
    let metrics = sink.get("/metrics").text();
    assert!(metrics.contains("sink_duplicates_total 2"), "{metrics}");
    assert!(metrics.contains("sink_order_violations_total 1"), "{metrics}");
}

/// Prevents: a ground truth that is lost with its process: a sink that is killed has delivered.
#[test]
fn a_sink_killed_with_9_goes_on_with_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--rate-limit", "1e6", "--journal", dir.path().join("j").to_str().unwrap()]
        .map(str::to_owned);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let first = Sink::start(&flags);
    assert_eq!(first.caller().batch(&events(0..100)).status, 200);
    assert_eq!(first.caller().batch(&events(90..110)).status, 200);
    let before = first.totals();
    assert_eq!((before.distinct, before.duplicates), (110, 10));
    first.running.signal(libc::SIGKILL);
    drop(first);
    let second = Sink::start(&flags);
    assert_eq!(second.totals(), before);
    assert!(second.get("/metrics").text().contains("sink_events_total 120\n"));
    assert_eq!(second.caller().batch(&events(100..120)).status, 200);
    assert_eq!((second.totals().distinct, second.totals().duplicates), (120, 20));
}

/// Prevents: an ack of events that could not be kept.
#[test]
fn a_journal_that_takes_nothing_means_no_ack() {
    let sink = Sink::start(&["--journal", "/dev/full"]);
    let answer = sink.caller().write(&event(1, 1));
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert_eq!(sink.totals().events, 0);
}

/// Prevents a processor that mixes up or mangles payloads unseen, and a ground truth that filters.
#[test]
fn what_is_not_what_its_digest_says_is_counted_and_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("j");
    let flags = ["--rate-limit", "1e6", "--journal", journal.to_str().unwrap()];
    let sink = Sink::start(&flags);
    let caller = sink.caller();
    let acked = |path: &str, body: &[u8]| caller.post(path, body).json::<Acked>().acked;
    let digested = |events: &[backpressure_lab::event::Event]| {
        let mut body = Vec::new();
        events.iter().for_each(|e| wire::frame_transformed(e, Transform::Digest, &mut body));
        body
    };
    let corrupt = || (sink.totals().events, sink.totals().corrupt);
    let batch = digested(&events(0..20));
    assert_eq!(acked("/batch?transform=digest", &batch), 20);
    assert_eq!(acked("/write?transform=digest", &digested(&events(20..21))[4..]), 1);
    assert_eq!(corrupt(), (21, 0));
    // A byte of a payload that was changed on the way, two digests that were exchanged.
    let (frame, mut changed) = (4 + 536 + 8, digested(&events(30..33)));
    changed[4 + 30] ^= 1;
    assert_eq!(acked("/batch?transform=digest", &changed), 3);
    assert_eq!(corrupt(), (24, 1));
    let mut unlike = event(41, 41);
    unlike.payload[0] = 9;
    let mut exchanged = digested(&[event(40, 40), unlike]);
    let (first, second) = exchanged.split_at_mut(frame);
    first[frame - 8..].swap_with_slice(&mut second[frame - 8..]);
    assert_eq!(acked("/batch?transform=digest", &exchanged), 2);
    assert_eq!(acked("/write?transform=digest", &exchanged[4..frame]), 1);
    assert_eq!(corrupt(), (27, 4));
    // Without the query, and with `none`, there is no digest: the 8 bytes are payload like others.
    assert_eq!(acked("/batch", &exchanged), 2);
    assert_eq!(acked("/batch?transform=none", &exchanged), 2);
    assert_eq!(corrupt(), (31, 4));
    assert!(sink.get("/metrics").text().contains("sink_corrupt_total 4\n"));
    assert!(
        sink.get("/ledger").text().contains("\"corrupt\":4,"),
        "{}",
        sink.get("/ledger").text()
    );
    // An event too short for a digest is malformed, and so is an unknown transform.
    let short = caller.post("/write?transform=digest", &[0; 31]);
    assert_eq!(short.status, 400);
    assert!(short.text().contains("31 bytes") && short.text().contains("32"), "{}", short.text());
    for query in ["transform=md5", "transform", "trans=digest"] {
        for path in ["/write", "/batch"] {
            let refused = caller.post(&format!("{path}?{query}"), &batch);
            let text = refused.text();
            assert_eq!(refused.status, 400, "{query}: {text}");
            let named = ["transform=none", "transform=digest", query];
            assert!(named.iter().all(|word| text.contains(word)), "{text}");
        }
    }
    // The journal keeps the count.
    let before = sink.totals();
    sink.running.signal(libc::SIGKILL);
    drop(sink);
    assert_eq!(Sink::start(&flags).totals(), before);
}

/// Prevents: a processor that cannot know whether its batches are served within its timeout.
#[test]
fn control_tells_what_a_call_costs() {
    let sink = Sink::start(&["--rate-limit", "500", "--call-cost", "0.9", "--event-cost", "0.1"]);
    let status = sink.status();
    assert_eq!((status.rate, status.costs.call_cost, status.costs.event_cost), (500.0, 0.9, 0.1));
    let text = sink.get("/control").text();
    assert!(text.contains("\"call_cost\":0.9,\"event_cost\":0.1,"), "{text}");
    let after = sink.control(&Command::Rate { rate: 50.0 });
    assert_eq!((after.rate, after.costs), (50.0, status.costs));
}

#[test]
fn an_absurd_content_length_leaves_the_sink_serving() {
    let sink = Sink::start(&[]);
    assert!(told("Content-Length: 10000000000000", &sink).starts_with("HTTP/1.1 413"));
    // The stop does not wait for a client that sends nothing more.
    let mut slow = TcpStream::connect(sink.addr()).unwrap();
    slow.write_all(b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 536\r\n\r\nxx").unwrap();
    assert_eq!(sink.caller().write(&event(1, 1)).status, 200);
    slow.shutdown(std::net::Shutdown::Write).unwrap();
    let _whatever_it_is_told = slow.read_to_end(&mut Vec::new());
    assert_eq!(sink.totals().events, 1);
}

#[test]
fn a_busy_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let ended = Running::start(SINK, ["--listen", &addr]).end(seconds("10s"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&addr) && ended.stderr.contains("--listen"), "{}", ended.stderr);
}

#[test]
fn beyond_loopback_a_token_is_needed() {
    let ended = Running::start(SINK, ["--listen", "0.0.0.0:0"]).end(seconds("10s"));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--token-file"), "{}", ended.stderr);
}

#[test]
fn bad_flags_are_refused_with_flag_value_and_range() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--rate-limit", "0"], &["--rate-limit", "0", "above 0"]),
        (&["--rate-limit", "x"], &["--rate-limit", "x", "1000000000"]),
        (&["--call-cost", "-1"], &["--call-cost", "-1", "from 0"]),
        (&["--event-cost", "nan"], &["--event-cost", "nan", "from 0 to 1000000"]),
        (&["--event-cost", "0"], &["--event-cost 0", "more than 0"]),
        (&["--burst", "0.5"], &["--burst", "0.5", "from 1"]),
        (&["--limit-per", "client"], &["--limit-per", "client", "all or connection"]),
        (&["--on-limit", "drop"], &["--on-limit", "drop", "delay or reject"]),
        (&["--latency", "5"], &["--latency", "5", "20ms"]),
        (&["--handlers", "0"], &["--handlers", "0", "at least 1"]),
        (&["--handlers", "257"], &["--handlers", "257", "from 1 to 256"]),
        (&["--stall-rate", "-1"], &["--stall-rate", "-1", "from 0"]),
        (&["--stall-for", "0s"], &["--stall-for", "0s", "above 0 and at most 1day"]),
        (&["--stall-at", "1s"], &["--stall-rate", "--stall-for", "all three"]),
        (&["--listen", "nowhere"], &["--listen", "nowhere"]),
        (&["--token-file", "/no/such/file"], &["--token-file", "/no/such/file"]),
        (&["--colour", "red"], &["--colour"]),
    ];
    for (flags, words) in cases {
        let ended = Running::start(SINK, *flags).end(seconds("10s"));
        assert_eq!(ended.status.code(), Some(2), "{flags:?}: {}", ended.stderr);
        for word in *words {
            assert!(ended.stderr.contains(word), "{flags:?}: no {word:?} in {}", ended.stderr);
        }
    }
}

#[test]
fn every_documented_spelling_works() {
    for flags in [&["-rate-limit=123"][..], &["--rate-limit=123"], &["--rate-limit", "123"]] {
        assert_eq!(Sink::start(flags).status().base_rate, 123.0, "{flags:?}");
    }
    let all = "--rate-limit 2000 --call-cost 0 --event-cost 1 --burst 100 --on-limit delay \
               --stall-rate 200 --stall-at 60s --stall-for 90s --latency 0 --handlers 32";
    let sink = Sink::start(&all.split_whitespace().collect::<Vec<_>>());
    assert_eq!(sink.caller().write(&event(1, 1)).status, 200);
}
