//! The HTTP server over real sockets: faults of tiny_http alone, and attacks by a client. Times are
//! asserted as ratios or with a margin of at least 10 over the expected value.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use backpressure_lab::http::{Limits, Request, Response, Server, Turn};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Answers with the body's length; `/size?n` with n bytes, `/panic` not at all.
fn echo(request: Request) -> Response {
    match request.path.as_str() {
        "/size" => Response::bytes(200, "text/plain", vec![b'x'; request.query.parse().unwrap()]),
        "/panic" => panic!("asked to"),
        "/split" => Response::text(200, "").with_header("X-A", "b\r\nX-Forged: yes"),
        "/empty" => Response::text(204, "no content must not have any"),
        _ => Response::text(200, request.body.len()).with_header("X-Method", request.method),
    }
}

fn start(limits: Limits) -> Server {
    Server::start("127.0.0.1:0".parse().unwrap(), limits, Arc::new(echo)).unwrap()
}

/// A server whose handler reports that it began and answers when the test says so.
struct Held {
    server: Server,
    began: Receiver<()>,
    go: Sender<()>,
    handled: Arc<AtomicUsize>,
}

fn start_held(limits: Limits) -> Held {
    let (begin, began) = bounded(64);
    let (go, wait) = bounded::<()>(64);
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let handler = move |_: Request| {
        count.fetch_add(1, Ordering::SeqCst);
        begin.send(()).unwrap();
        wait.recv_timeout(Duration::from_secs(20)).unwrap();
        Response::text(200, "done")
    };
    let server = Server::start("127.0.0.1:0".parse().unwrap(), limits, Arc::new(handler)).unwrap();
    Held { server, began, go, handled }
}

/// Runs one ignored test of this file in a process of its own, where it may count threads and
/// lower limits.
fn alone(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--test-threads=1", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {output:#?}");
}

struct Client {
    stream: BufReader<TcpStream>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Client {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    fn send(&mut self, text: &str) -> &mut Self {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
        self
    }

    /// Reads one answer; `None` when the connection ended instead.
    fn answer(&mut self, has_body: bool) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length: usize = header(&head, "content-length").map_or(0, |v| v.parse().unwrap());
        let mut body = vec![0; if has_body { length } else { 0 }];
        self.stream.read_exact(&mut body).ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head, body })
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).answer(true).unwrap()
    }

    fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(e) => e.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn post(body: &str, headers: &str) -> String {
    let length = body.len();
    format!("POST /write HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

// tiny_http's task pool can leave one of many connections unserved while the others live.
#[test]
fn connections_opened_at_once_and_kept_are_all_served() {
    let server = start(Limits::default());
    let begin = Instant::now();
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(server.addr())).collect();
    for client in &mut clients {
        client.send(&post("12345", ""));
    }
    for client in &mut clients {
        let answer = client.answer(true).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"5\n"[..]));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

// One such request aborts a process that serves with tiny_http alone.
#[test]
fn a_huge_length_is_refused_and_the_server_goes_on() {
    let server = start(Limits::default());
    let mut kept = Client::connect(server.addr());
    assert_eq!(kept.get("/").status, 200);
    for length in ["10000000000000", "18446744073709551616", "65537"] {
        let mut client = Client::connect(server.addr());
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabc"));
        assert_eq!(client.answer(true).unwrap().status, 413, "{length}");
        client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        assert!(client.is_closed());
    }
    assert_eq!(kept.get("/").status, 200);
}

// Kept-alive pipelining must neither lose a request nor merge its bytes with the next.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start(Limits::default());
    let mut client = Client::connect(server.addr());
    let bodies = ["a".repeat(3), String::new(), "b".repeat(20_000), "c".to_owned()];
    let all: String = bodies.iter().map(|body| post(body, "")).collect();
    client.send(&all);
    for body in &bodies {
        let answer = client.answer(true).unwrap();
        assert_eq!(answer.body, format!("{}\n", body.len()).into_bytes());
    }
    // One byte at a time is the same request.
    for byte in post("xyz", "").bytes() {
        client.stream.get_mut().write_all(&[byte]).unwrap();
    }
    assert_eq!(client.answer(true).unwrap().body, b"3\n");
}

#[test]
fn a_panicking_handler_answers_500_and_loses_no_handler() {
    let server = start(Limits { handlers: 1, ..Limits::default() });
    let mut client = Client::connect(server.addr());
    for _ in 0..3 {
        assert_eq!(client.get("/panic").status, 500);
    }
    assert_eq!(client.get("/").status, 200);
}

// A reader that takes another length than the sender meant makes the body a second request.
#[test]
fn after_a_malformed_length_nothing_more_is_read() {
    let server = start(Limits::default());
    for lengths in
        ["Content-Length: 3\r\nContent-Length: 40", "Content-Length: -1", "Content-Length: x"]
    {
        let mut client = Client::connect(server.addr());
        let smuggled = "GET /size?1 HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\nabc{smuggled}"));
        let answer = client.answer(true).unwrap();
        assert_eq!(answer.status, 400, "{lengths}");
        assert_eq!(header(&answer.head, "connection"), Some("close"));
        assert!(client.is_closed(), "{lengths}");
    }
    let mut client = Client::connect(server.addr());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(client.answer(true).unwrap().status, 411);
}

// A client that sends a byte now and then must not hold its thread for as long as it likes.
#[test]
fn slow_heads_and_bodies_are_cut_off() {
    let deadline = Duration::from_millis(300);
    let server = start(Limits { request_deadline: deadline, ..Limits::default() });
    for begin in [
        "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n",
    ] {
        let mut client = Client::connect(server.addr());
        client.send(begin);
        let started = Instant::now();
        let mut drip = client.stream.get_ref().try_clone().unwrap();
        let dripping = thread::spawn(move || {
            while drip.write_all(b"a").is_ok() && started.elapsed() < deadline * 10 {
                thread::sleep(deadline / 20);
            }
        });
        assert_eq!(client.answer(true).unwrap().status, 408, "{begin}");
        assert!(started.elapsed() >= deadline && started.elapsed() < deadline * 8);
        drop(client);
        dripping.join().unwrap();
    }
    let idle = Limits { idle_timeout: deadline, ..Limits::default() };
    let server = start(idle);
    let mut client = Client::connect(server.addr());
    assert!(client.answer(true).is_none(), "an idle connection ends without an answer");
}

#[test]
fn an_endless_header_is_cut_off_at_the_limit() {
    let server = start(Limits::default());
    let mut client = Client::connect(server.addr());
    client.send("GET / HTTP/1.1\r\nX-Endless: ");
    let mut endless = client.stream.get_ref().try_clone().unwrap();
    let writer = thread::spawn(move || {
        let mut sent = 0;
        while sent < 64 << 20 && endless.write_all(&[b'a'; 4096]).is_ok() {
            sent += 4096;
        }
        sent
    });
    assert_eq!(client.answer(true).unwrap().status, 431);
    drop(client);
    assert!(writer.join().unwrap() < 64 << 20, "the server reads on for ever");
}

#[test]
fn head_requests_and_empty_answers_have_no_body() {
    let server = start(Limits::default());
    let mut client = Client::connect(server.addr());
    client.send("HEAD /size?2000 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, header(&answer.head, "content-length")), (200, Some("2000")));
    client.send("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer(false).unwrap().status, 204);
    // What follows is read as the next answer, so no body bytes are left over.
    assert_eq!(client.get("/size?3").body, b"xxx");
}

#[test]
fn http_1_0_closes_unless_asked_to_stay() {
    let server = start(Limits::default());
    let mut client = Client::connect(server.addr());
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer(true).unwrap();
    assert_eq!(header(&answer.head, "connection"), Some("keep-alive"));
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.answer(true).unwrap();
    assert_eq!(header(&answer.head, "connection"), Some("close"));
    assert!(client.is_closed());
}

// The client waits for the go-ahead; a refusal must come before it, not after the body.
#[test]
fn a_body_is_asked_for_only_when_it_will_be_taken() {
    let server = start(Limits::default());
    let expect = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut client = Client::connect(server.addr());
    client.send(&expect(5));
    assert_eq!(client.answer(false).unwrap().status, 100);
    client.send("12345");
    assert_eq!(client.answer(true).unwrap().body, b"5\n");
    client.send(&expect(100_000));
    assert_eq!(client.answer(true).unwrap().status, 413);
}

#[test]
fn large_bodies_go_through_both_ways_unharmed() {
    let server = start(Limits { body_bytes_max: 4 << 20, ..Limits::default() });
    let mut client = Client::connect(server.addr());
    let body = "b".repeat(3 << 20);
    client.send(&post(&body, ""));
    assert_eq!(client.answer(true).unwrap().body, format!("{}\n", body.len()).into_bytes());
    let answer = client.get("/size?5000000");
    assert!(answer.body.len() == 5_000_000 && answer.body.iter().all(|b| *b == b'x'));
}

// Clients that ask for something large and do not read it would otherwise hold a copy each.
#[test]
fn a_turn_is_kept_until_its_answer_is_read_or_its_client_gone() {
    // More than the system's buffers take from a server whose client does not read.
    const LARGE: usize = 32 << 20;
    let turn = Turn::default();
    let handler = move |_: Request| match turn.take() {
        Some(taken) => Response::bytes(200, "text/plain", vec![b'x'; LARGE]).holding(taken),
        None => Response::text(503, "not now"),
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(listen, Limits::default(), Arc::new(handler)).unwrap();
    let status = || Client::connect(server.addr()).get("/").status;
    // A client that has the turn and reads nothing. The previous holder may have it for a moment
    // more.
    let slow = || {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let mut client = Client::connect(server.addr());
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut begun = [0; 12];
            while client.stream.get_ref().peek(&mut begun).unwrap() < begun.len() {}
            if begun == *b"HTTP/1.1 200" {
                return client;
            }
            assert!(Instant::now() < end, "the turn is not released");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let mut first = slow();
    for _ in 0..3 {
        assert_eq!(status(), 503);
        thread::sleep(Duration::from_millis(50));
    }
    let answer = first.answer(true).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    let gone = slow();
    assert_eq!(status(), 503);
    drop(gone);
    drop(slow());
}

// A header value with a line end in it would be a header of its own.
#[test]
fn a_handler_cannot_forge_headers() {
    let server = start(Limits::default());
    let answer = Client::connect(server.addr()).get("/split");
    assert_eq!((answer.status, header(&answer.head, "x-forged")), (500, None));
}

// With Nagle on, tiny_http's second write waits 40 ms for an ACK: 23 answers of 2 KB a second.
#[test]
fn larger_answers_are_not_delayed_on_a_kept_connection() {
    let server = start(Limits::default());
    let mut client = Client::connect(server.addr());
    let mut time = |path: &str| {
        let mut times: Vec<Duration> = (0..60)
            .map(|_| {
                let begin = Instant::now();
                assert_eq!(client.get(path).status, 200);
                begin.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    time("/size?10");
    let (small, large) = (time("/size?10"), time("/size?2048"));
    // 40 ms against some 100 us would be a ratio of 400.
    assert!(large < small * 10, "small {small:?}, 2 KB {large:?}");
}

#[test]
fn a_thousand_connections_leave_the_server_serving() {
    alone("in_its_own_process::a_thousand_connections");
}

#[test]
fn a_process_out_of_descriptors_goes_on_accepting() {
    alone("in_its_own_process::out_of_descriptors");
}

#[test]
fn dropping_the_server_finishes_what_is_handled_and_leaves_no_thread() {
    alone("in_its_own_process::graceful_drop");
}

#[path = "http/busy.rs"]
mod busy;
#[path = "http/client.rs"]
mod client;
#[path = "http/in_its_own_process.rs"]
mod in_its_own_process;
