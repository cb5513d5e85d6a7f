//! The HTTP server over real sockets: what tiny_http alone would do wrong, and what a client can
//! do to it. Times are asserted as ratios or with a margin of at least 10 over what is expected.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use backpressure_lab::http::{Limits, Request, Response, Server};
use crossbeam_channel::bounded;

/// Answers with the body's length; `/size?n` with n bytes, `/panic` not at all.
fn echo(request: Request) -> Response {
    match request.path.as_str() {
        "/size" => Response::bytes(200, "text/plain", vec![b'x'; request.query.parse().unwrap()]),
        "/panic" => panic!("asked to"),
        _ => Response::text(200, request.body.len()).with_header("X-Method", request.method),
    }
}

fn start(limits: Limits) -> Server {
    Server::start("127.0.0.1:0".parse().unwrap(), limits, Arc::new(echo)).unwrap()
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
        !matches!(self.stream.read(&mut [0]), Ok(1..))
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
    let bodies = ["a".repeat(3), String::new(), "b".repeat(20_000), "c".repeat(1)];
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
