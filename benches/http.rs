//! What the guard costs: requests/s of 540-byte posts on kept-alive connections, through the
//! guard and tiny_http. `cargo bench --bench http`
//!
//! Client and server share the machine, so the figure is a floor.

#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use backpressure_lab::http::{Limits, Request, Response, Server, client};

const BODY_BYTES: usize = 540;
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let handler = |request: Request| Response::text(200, request.body.len());
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(listen, Limits::default(), Arc::new(handler)).unwrap();
    let url = format!("http://{}/write", server.addr());
    for clients in [1, 4] {
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                let url = url.clone();
                thread::spawn(move || post(&url))
            })
            .collect();
        let mut times: Vec<Duration> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        times.sort_unstable();
        let quantile = |q: f64| times.get((q * times.len() as f64) as usize).unwrap();
        println!(
            "{clients} connections: {:.0} requests/s, p50 {:?}, p99 {:?}",
            times.len() as f64 / TIME.as_secs_f64(),
            quantile(0.5),
            quantile(0.99),
        );
    }
}

fn post(url: &str) -> Vec<Duration> {
    let agent = client::agent(Duration::from_secs(5));
    let body = vec![7; BODY_BYTES];
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < TIME {
        let called = Instant::now();
        let mut answer = agent.post(url).send(&body).unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "540\n");
        times.push(called.elapsed());
    }
    times
}
