//! What the guard costs: 540-byte posts on kept-alive connections, through the guard and on
//! tiny_http alone. `cargo bench --bench http`
//!
//! Client and server share the machine, so requests/s are a floor; the CPU time of both together
//! holds on a busy machine too.

#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use backpressure_lab::http::{Limits, Request, Response, Server, client};
use procfs::process::Process;

const BODY_BYTES: usize = 540;
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let handler = |request: Request| Response::text(200, request.body.len());
    let listen = "127.0.0.1:0".parse().unwrap();
    let guarded = Server::start(listen, Limits::default(), Arc::new(handler)).unwrap();
    let bare = bare_tiny_http();
    for clients in [1, 4] {
        measure("guard", guarded.addr(), clients);
        measure("tiny_http alone", bare, clients);
    }
}

fn measure(what: &str, addr: SocketAddr, clients: usize) {
    let cpu_before = cpu();
    let posting: Vec<_> = (0..clients).map(|_| thread::spawn(move || post(addr))).collect();
    let mut times: Vec<Duration> = posting.into_iter().flat_map(|t| t.join().unwrap()).collect();
    let cpu_us = (cpu() - cpu_before).as_secs_f64() * 1e6 / times.len() as f64;
    times.sort_unstable();
    let quantile = |q: f64| times.get((q * times.len() as f64) as usize).unwrap();
    println!(
        "{what}, {clients} connections: {:.0} requests/s, p50 {:?}, p99 {:?}, {cpu_us:.0} us CPU each",
        times.len() as f64 / TIME.as_secs_f64(),
        quantile(0.5),
        quantile(0.99),
    );
}

fn cpu() -> Duration {
    let stat = Process::myself().unwrap().stat().unwrap();
    Duration::from_secs(stat.utime + stat.stime) / procfs::ticks_per_second() as u32
}

fn bare_tiny_http() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(64).unwrap();
    let listener: std::net::TcpListener = socket.into();
    let addr = listener.local_addr().unwrap();
    let server = Arc::new(tiny_http::Server::from_listener(listener, None).unwrap());
    for _ in 0..Limits::default().handlers {
        let server = server.clone();
        thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let mut body = Vec::new();
                request.as_reader().read_to_end(&mut body).unwrap();
                let answer = tiny_http::Response::from_string(format!("{}\n", body.len()));
                request.respond(answer).unwrap();
            }
        });
    }
    addr
}

fn post(addr: SocketAddr) -> Vec<Duration> {
    let agent = client::agent(Duration::from_secs(5));
    let url = format!("http://{addr}/write");
    let body = vec![7; BODY_BYTES];
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < TIME {
        let called = Instant::now();
        let mut answer = agent.post(&url).send(&body).unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "540\n");
        times.push(called.elapsed());
    }
    times
}
