//! Measures the cost of a write at the sink, beside two peers that only answer: tiny_http without
//! the guard, and Go's net/http where `go` is on PATH. `cargo bench --bench http`
//!
//! Each server is a separate process, so its CPU time is its own. The load comes from threads of
//! this process; each posts again as soon as it is answered. Servers take turns within a round, and
//! a ratio is taken within a round, so other work on the machine disturbs both servers alike.

#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use backpressure_lab::event::HEADER_BYTES;
use backpressure_lab::transform::Transform;
use procfs::process::Process;

/// Bytes of an event, as the lab's producer makes them: 24 of fields and 512 of payload.
const EVENT_BYTES: usize = 536;
/// An answer that takes longer has hung: all others take below 0.1 s.
const HUNG_AFTER: Duration = Duration::from_secs(2);
/// Time from the first request to the measured window.
const WARM_UP: Duration = Duration::from_millis(300);
/// Measures writes at the sink and at its peers.
#[derive(FromArgs)]
struct Flags {
    /// given by `cargo bench`
    #[argh(switch)]
    #[allow(dead_code, reason = "only taken, so that it is no error")]
    bench: bool,
    /// rounds; in each, every server has every load once (5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// seconds of a measured window (2)
    #[argh(option, default = "2.0")]
    seconds: f64,
    /// another sink binary to measure beside this one
    #[argh(option)]
    other_sink: Option<PathBuf>,
    /// what follows each event, none or digest (none)
    #[argh(option, default = "Transform::None")]
    transform: Transform,
    /// servers to measure: names from the table, with commas between (all)
    #[argh(option, default = "String::new()")]
    only: String,
    /// serve as tiny_http without the guard on this address, and measure nothing
    #[argh(option)]
    serve: Option<SocketAddr>,
}

/// What is posted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Events of a POST; 1 is `/write`.
    events: usize,
    connections: usize,
}

/// The loads: single writes and batches as the processor sends them, to each number of connections.
const LOADS: [Load; 6] = [
    Load { events: 1, connections: 1 },
    Load { events: 1, connections: 4 },
    Load { events: 1, connections: 16 },
    Load { events: 200, connections: 1 },
    Load { events: 200, connections: 4 },
    Load { events: 200, connections: 16 },
];

/// The result of one window; `None` where an answer hung.
#[derive(Clone, Copy)]
struct Window {
    posts_per_second: f64,
    cpu_us_per_post: f64,
}

fn main() {
    let flags: Flags = argh::from_env();
    if let Some(addr) = flags.serve {
        return bare_tiny_http(addr);
    }
    let mut servers = servers(flags.other_sink.as_deref());
    servers.retain(|(name, _)| flags.only.is_empty() || flags.only.split(',').any(|n| n == *name));
    let window = Duration::from_secs_f64(flags.seconds);
    let mut seen: BTreeMap<(Load, &str), Vec<Option<Window>>> = BTreeMap::new();
    for round in 1..=flags.rounds {
        eprintln!("round {round} of {}", flags.rounds);
        for load in LOADS {
            for (name, start) in &servers {
                let server = Server::start(start);
                let window = measure(&server, load, flags.transform, window);
                seen.entry((load, name)).or_default().push(window);
            }
        }
    }
    println!("median (least to most) of {} rounds of {:.1} s", flags.rounds, flags.seconds);
    for load in LOADS {
        println!("\n{} events a POST, {} connections", load.events, load.connections);
        for (name, _) in &servers {
            let windows = seen.get(&(load, *name)).unwrap();
            let base = seen.get(&(load, servers.first().unwrap().0)).unwrap();
            println!("{name:>12}: {}", line(windows, base));
        }
    }
}

/// A row of the table: POSTs/s and CPU a POST, and both as shares of the first server's in that round.
fn line(windows: &[Option<Window>], base: &[Option<Window>]) -> String {
    let of = |what: fn(&Window) -> f64| spread(windows.iter().flatten().map(what).collect());
    let ratio = |what: fn(&Window) -> f64| {
        let pairs = windows.iter().zip(base).filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)));
        spread(pairs.map(|(a, b)| what(a) / what(b)).collect())
    };
    let hung = windows.iter().filter(|window| window.is_none()).count();
    let hung = if hung == 0 { String::new() } else { format!("; HUNG in {hung} rounds") };
    format!(
        "{} POSTs/s, {} us CPU; of the first's: rate {}, CPU {}{hung}",
        show(of(|w| w.posts_per_second), 0),
        show(of(|w| w.cpu_us_per_post), 1),
        show(ratio(|w| w.posts_per_second), 2),
        show(ratio(|w| w.cpu_us_per_post), 2),
    )
}

/// Median, minimum and maximum.
fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    Some((*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
}

fn show(spread: Option<(f64, f64, f64)>, digits: usize) -> String {
    spread.map_or("-".to_owned(), |(median, least, most)| {
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    })
}

/// How to start a server on an address.
type Start = Box<dyn Fn(SocketAddr) -> Command>;

fn servers(other_sink: Option<&Path>) -> Vec<(&'static str, Start)> {
    let bare = |addr: SocketAddr| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--serve", &addr.to_string()]);
        command
    };
    let mut servers: Vec<(&str, Start)> =
        vec![("tiny_http", Box::new(bare)), ("sink", sink(Path::new(env!("CARGO_BIN_EXE_sink"))))];
    servers.extend(other_sink.map(|path| ("other sink", sink(path))));
    match go_peer() {
        Some(path) => {
            servers.push((
                "net/http",
                Box::new(move |addr| {
                    let mut command = Command::new(&path);
                    command.arg(addr.to_string());
                    command
                }),
            ));
        }
        None => eprintln!("no Go on PATH: without its peer"),
    }
    servers
}

/// The sink with a rate limit above every load here.
fn sink(path: &Path) -> Start {
    let path = path.to_owned();
    Box::new(move |addr| {
        let mut command = Command::new(&path);
        command.args(["--rate-limit", "1e9", "--listen", &addr.to_string()]);
        command
    })
}

/// Builds `peers/http`; `None` where there is no Go.
fn go_peer() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-net-http");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&path).arg(".");
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/http"));
    build.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod");
    let built = build.status().ok()?;
    assert!(built.success(), "go build failed");
    Some(path)
}

/// A server process; killed when dropped.
struct Server {
    process: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(start: &Start) -> Self {
        // The port was free a moment ago, and the kernel does not give it out again soon.
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = start(addr);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { process, addr };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_err() {
            assert!(Instant::now() < end, "{command:?} does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn cpu(&self) -> Duration {
        let stat = Process::new(self.process.id().cast_signed()).unwrap().stat().unwrap();
        Duration::from_secs(stat.utime + stat.stime) / procfs::ticks_per_second() as u32
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn measure(server: &Server, load: Load, transform: Transform, window: Duration) -> Option<Window> {
    let (posts, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (posts, over) = (&posts, &over);
        let clients: Vec<_> = (0..load.connections as u64)
            .map(|n| {
                let client = Client::connect(server.addr, load, transform, n);
                scope.spawn(move || client.run(posts, over))
            })
            .collect();
        thread::sleep(WARM_UP);
        let (begun, posts_before, cpu_before) =
            (Instant::now(), posts.load(Ordering::Relaxed), server.cpu());
        thread::sleep(window);
        let cpu_us = (server.cpu() - cpu_before).as_secs_f64() * 1e6;
        let count = (posts.load(Ordering::Relaxed) - posts_before) as f64;
        let seconds = begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        // Joins all of them, also when the first one hung.
        let answered: Vec<bool> = clients.into_iter().map(|c| c.join().unwrap()).collect();
        let hung = answered.contains(&false);
        (!hung)
            .then(|| Window { posts_per_second: count / seconds, cpu_us_per_post: cpu_us / count })
    })
}

/// One kept-alive connection that posts.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where each event's id is in the request.
    ids_at: Vec<usize>,
    next_id: u64,
    answer: Vec<u8>,
}

impl Client {
    fn connect(addr: SocketAddr, load: Load, transform: Transform, n: u64) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(HUNG_AFTER)).unwrap();
        stream.set_write_timeout(Some(HUNG_AFTER)).unwrap();
        let (path, frame) = if load.events == 1 { ("/write", 0) } else { ("/batch", 4) };
        let event_bytes = EVENT_BYTES + transform.trailer_bytes();
        let length = load.events * (frame + event_bytes);
        let payload = [7; EVENT_BYTES - HEADER_BYTES];
        let mut request = format!(
            "POST {path}?transform={} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {length}\r\n\
             Content-Type: application/octet-stream\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n",
            transform.name(),
        )
        .into_bytes();
        let mut ids_at = Vec::new();
        for key in 0..load.events as u64 {
            if frame > 0 {
                request.extend((event_bytes as u32).to_be_bytes());
            }
            ids_at.push(request.len());
            request.extend([0; 8]);
            request.extend((key % 100).to_be_bytes());
            request.extend([0; 8]);
            request.extend(payload);
            transform.append_trailer(&payload, &mut request);
        }
        Self { stream, request, ids_at, next_id: n << 32, answer: vec![0; 4096] }
    }

    /// Posts until it is over; false when an answer hung.
    fn run(mut self, posts: &AtomicU64, over: &AtomicBool) -> bool {
        while !over.load(Ordering::Relaxed) {
            for at in &self.ids_at {
                self.request
                    .get_mut(*at..*at + 8)
                    .unwrap()
                    .copy_from_slice(&self.next_id.to_be_bytes());
                self.next_id += 1;
            }
            if self.stream.write_all(&self.request).is_err() || !self.is_answered() {
                return false;
            }
            posts.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Reads an answer, which must be a 200; false when it takes too long.
    fn is_answered(&mut self) -> bool {
        let mut filled = 0;
        loop {
            match self.stream.read(self.answer.get_mut(filled..).unwrap()) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(read) => filled += read,
                Err(_) => return false,
            }
            let text = std::str::from_utf8(self.answer.get(..filled).unwrap()).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap() {
                return true;
            }
        }
    }
}

/// tiny_http as its documentation shows it, with four threads that answer.
fn bare_tiny_http(addr: SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // Without it an answer of two writes waits 40 ms for the client's acknowledgement.
    socket.set_tcp_nodelay(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(64).unwrap();
    let listener: TcpListener = socket.into();
    let server = Arc::new(tiny_http::Server::from_listener(listener, None).unwrap());
    let answering: Vec<_> = (0..4)
        .map(|_| {
            let server = Arc::clone(&server);
            thread::spawn(move || {
                while let Ok(mut request) = server.recv() {
                    let mut body = Vec::with_capacity(request.body_length().unwrap_or(0));
                    request.as_reader().read_to_end(&mut body).unwrap();
                    let json = tiny_http::Header::from_bytes("Content-Type", "application/json");
                    let answer = tiny_http::Response::from_string(r#"{"acked":1}"#);
                    request.respond(answer.with_header(json.unwrap())).unwrap();
                }
            })
        })
        .collect();
    answering.into_iter().for_each(|thread| thread.join().unwrap());
}
