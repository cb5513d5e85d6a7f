//! The instruments as a client sees them: profiles are read with pprof's own types and must name
//! the function that is known to be the cause.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use assert_cmd::Command;
use backpressure_lab::http::{Access, Limits, Request, Response, Server, client};
use backpressure_lab::telemetry::metrics::Metrics;
use backpressure_lab::telemetry::pprof::{Message, Profile, Sample};
use backpressure_lab::telemetry::{self, block_profiler_signal};
use flate2::read::GzDecoder;
use parking_lot::Mutex;

/// Profiles are taken one at a time in a process, and these tests share one.
static ONE_PROFILE: Mutex<()> = Mutex::new(());

fn start() -> Server {
    let listen = "127.0.0.1:0".parse().unwrap();
    let instruments = telemetry::endpoint(
        Metrics::new().unwrap(),
        Access::new(listen, None).unwrap(),
        telemetry::Answers,
    );
    let handler = move |request: Request| {
        instruments(&request).unwrap_or_else(|| Response::text(404, "not the instruments'"))
    };
    Server::start(listen, Limits::default(), Arc::new(handler)).unwrap()
}

fn get(server: &Server, path: &str) -> (u16, Vec<u8>) {
    let agent = client::agent(Duration::from_secs(60));
    let mut answer = agent.get(format!("http://{}{path}", server.addr())).call().unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
}

fn text(server: &Server, path: &str) -> (u16, String) {
    let (status, body) = get(server, path);
    (status, String::from_utf8(body).unwrap())
}

fn profile(server: &Server, path: &str) -> Profile {
    let (status, body) = get(server, path);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let mut raw = Vec::new();
    GzDecoder::new(body.as_slice()).read_to_end(&mut raw).unwrap();
    Profile::decode(raw.as_slice()).unwrap()
}

fn string(profile: &Profile, index: i64) -> &str {
    profile.string_table.get(usize::try_from(index).unwrap()).unwrap()
}

/// A sample's function names, innermost first; an address without a name is empty.
fn names<'a>(profile: &'a Profile, sample: &Sample) -> Vec<&'a str> {
    let location = |id: u64| profile.location.iter().find(|l| l.id == id).unwrap();
    let function = |id: u64| profile.function.iter().find(|f| f.id == id).unwrap();
    let name = |id: u64| {
        location(id).line.first().map_or("", |l| string(profile, function(l.function_id).name))
    };
    sample.location_id.iter().map(|id| name(*id)).collect()
}

#[inline(never)]
fn hold_many_blocks() -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    while blocks.len() < 4096 {
        // No page of it is touched: the profiler counts requested bytes.
        blocks.push(Vec::with_capacity(64 << 10));
    }
    blocks
}

// A profile whose bytes all belong to the allocator's own frames names nothing.
#[test]
fn the_heap_profile_gives_a_plain_reader_the_call_site() {
    let _one = ONE_PROFILE.lock();
    let server = start();
    let blocks = hold_many_blocks();
    let profile = profile(&server, "/debug/pprof/heap");
    let kinds: Vec<_> = profile.sample_type.iter().map(|k| string(&profile, k.ty)).collect();
    assert_eq!(kinds, ["inuse_objects", "inuse_space"]);
    assert_eq!(string(&profile, profile.default_sample_type), "inuse_space");
    assert!(profile.mapping.iter().all(|m| !string(&profile, m.filename).is_empty()));
    assert!(!string(&profile, profile.mapping[0].build_id).is_empty());

    // As pprof does it: from the outside in, the first frame that matches goes, with all inside.
    let dropped =
        regex::Regex::new(&format!("^({})$", string(&profile, profile.drop_frames))).unwrap();
    let flat = |sample: &Sample| {
        let mut names = names(&profile, sample);
        names.reverse();
        let kept = names.iter().take_while(|name| !dropped.is_match(name)).last();
        kept.copied().unwrap_or_default().to_owned()
    };
    let mut by_function: HashMap<String, i64> = HashMap::new();
    for sample in &profile.sample {
        *by_function.entry(flat(sample)).or_default() += sample.value[1];
    }
    let ours: i64 = by_function
        .iter()
        .filter_map(|(name, bytes)| name.contains("hold_many_blocks").then_some(bytes))
        .sum();
    let expected = blocks.iter().map(Vec::capacity).sum::<usize>();
    // 256 MiB in samples of 512 KiB: 512 of them, one standard deviation is 4.4 %.
    let ratio = ours as f64 / expected as f64;
    assert!((0.75..1.25).contains(&ratio), "{ratio} of {expected}: {by_function:?}");
}

#[inline(never)]
fn burn_cpu(stop: &AtomicBool) -> u64 {
    let mut sum = 1u64;
    while !stop.load(Ordering::Relaxed) {
        for n in 0..10_000u64 {
            sum = std::hint::black_box(sum.wrapping_mul(n | 1).rotate_left(7));
        }
    }
    sum
}

#[inline(never)]
fn burn_unseen(stop: &AtomicBool) -> u64 {
    block_profiler_signal();
    burn_cpu(stop)
}

fn cpu_seconds_of_this_thread() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

// Samples of the wrong thread, or without the function that was interrupted, mislead.
#[test]
fn the_cpu_profile_names_the_function_that_burns_and_its_thread() {
    let _one = ONE_PROFILE.lock();
    let server = start();
    let stop = Arc::new(AtomicBool::new(false));
    let burner = |name: &str, burn: fn(&AtomicBool) -> u64| {
        let stop = stop.clone();
        let body = move || {
            std::hint::black_box(burn(&stop));
            cpu_seconds_of_this_thread()
        };
        thread::Builder::new().name(name.to_owned()).spawn(body).unwrap()
    };
    let seen = burner("burner", burn_cpu);
    let unseen = burner("unseen", burn_unseen);
    thread::sleep(Duration::from_millis(100));
    let profile = profile(&server, "/debug/pprof/profile?seconds=3");
    stop.store(true, Ordering::Relaxed);
    let used = seen.join().unwrap();
    unseen.join().unwrap();

    let of_thread = |sample: &&Sample, name: &str| {
        sample.label.iter().any(|label| string(&profile, label.str) == name)
    };
    let samples: Vec<&Sample> = profile.sample.iter().filter(|s| of_thread(s, "burner")).collect();
    let total: i64 = samples.iter().map(|s| s.value[0]).sum();
    let named: i64 = samples
        .iter()
        .filter(|sample| names(&profile, sample)[0].contains("burn_cpu"))
        .map(|sample| sample.value[0])
        .sum();
    assert!(named as f64 > 0.9 * total as f64, "{named} of {total} ns are in burn_cpu");
    // The timer counts the process's CPU, so the hidden thread's share falls on others: the
    // burner has what it used and up to as much again.
    let ratio = total as f64 / 1e9 / used;
    assert!((0.5..3.0).contains(&ratio), "{total} ns sampled, {used} s used");
    assert!(!profile.sample.iter().any(|s| of_thread(&s, "unseen")), "SIGPROF is not blocked");
}

#[test]
fn one_profile_at_a_time_and_bounded() {
    let _one = ONE_PROFILE.lock();
    let server = Arc::new(start());
    for bad in ["0", "601", "-1", "x", ""] {
        assert_eq!(get(&server, &format!("/debug/pprof/profile?seconds={bad}")).0, 400, "{bad}");
    }
    let other = server.clone();
    let first = thread::spawn(move || get(&other, "/debug/pprof/profile?seconds=1").0);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(get(&server, "/debug/pprof/profile?seconds=1").0, 409);
    assert_eq!(get(&server, "/debug/pprof/heap").0, 409);
    assert_eq!(first.join().unwrap(), 200);
}

// The dump must not be the kill: crate pprof's own profiler takes 230 MB.
#[test]
fn profiles_take_little_memory() {
    let _one = ONE_PROFILE.lock();
    let server = start();
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    let before = peak();
    get(&server, "/debug/pprof/profile?seconds=1");
    get(&server, "/debug/pprof/heap");
    // Measured: 4 MB. The tests beside this one hold no touched memory to speak of.
    assert!(peak() - before < 32 << 20, "{} bytes more", peak() - before);
}

#[test]
fn metrics_threads_and_pages_are_served_to_the_right_clients() {
    let server = start();
    let (status, metrics) = text(&server, "/metrics");
    assert_eq!(status, 200);
    for name in ["heap_inuse_bytes", "heap_resident_bytes", "process_resident_memory_bytes"] {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(value.trim().parse::<f64>().unwrap() > 100_000.0, "{name}{value}");
    }
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(text(&server, probe), (200, "ok\n".to_owned()));
    }
    assert!(text(&server, "/debug/pprof/").1.contains("profile?seconds="));
    let (_, threads) = text(&server, "/debug/pprof/threads");
    assert!(threads.contains(" http-accept ") && threads.contains(" http-reader "), "{threads}");
    assert_eq!(get(&server, "/debug/pprof/none").0, 404);
    assert_eq!(get(&server, "/other").0, 404);

    let agent = client::agent(Duration::from_secs(5));
    let url = |path: &str| format!("http://{}{path}", server.addr());
    assert_eq!(agent.post(url("/metrics")).send_empty().unwrap().status(), 405);
    // `go tool pprof` drops the whole profile when this fails.
    assert_eq!(agent.post(url("/debug/pprof/symbol")).send("0x1").unwrap().status(), 200);
    let rebound = agent.get(url("/debug/pprof/threads")).header("Host", "evil.example");
    assert_eq!(rebound.call().unwrap().status(), 403);
    let scraped = agent.get(url("/metrics")).header("Host", "sink:9900");
    assert_eq!(scraped.call().unwrap().status(), 200);
}

// Figures that jemalloc caches would stand still between scrapes.
#[test]
fn the_heap_gauge_follows_the_heap() {
    let server = start();
    let inuse = || {
        let (_, metrics) = text(&server, "/metrics");
        let line = metrics.lines().find(|line| line.starts_with("heap_inuse_bytes ")).unwrap();
        line.split(' ').nth(1).unwrap().parse::<f64>().unwrap()
    };
    let before = inuse();
    // Twice what the heap test beside this one holds and frees.
    let block: Vec<u8> = Vec::with_capacity(512 << 20);
    let held = inuse();
    drop(std::hint::black_box(block));
    let after = inuse();
    let size = f64::from(512 << 20);
    assert!(held - before > 0.4 * size && held - after > 0.4 * size, "{before} {held} {after}");
}

// The options live in the library: a binary whose linker left them out would profile nothing.
#[test]
fn every_binary_runs_with_the_profiler_on() {
    for binary in ["producer", "processor", "sink", "chaos", "lab"] {
        #[allow(deprecated, reason = "the macro that replaces it takes only a literal name")]
        let mut command = Command::cargo_bin(binary).unwrap();
        let output = command.arg("--help").env("MALLOC_CONF", "stats_print:true").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        for option in ["opt.prof: true", "opt.prof_active: true", "opt.lg_prof_sample: 19"] {
            assert!(text.contains(option), "{binary} runs without {option}");
        }
    }
}
