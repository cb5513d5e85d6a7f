//! The promises of SECURITY.md, on the real binaries: the sink, the producer, the processor and
//! `lab watch`, each listening on every address.
//!
//! None of them needs a cluster for it: they serve before they find one.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use argh::FromArgs;
use backpressure_lab::lab::watch;
use backpressure_lab::{load, pipeline, sink};
use common::{PATIENCE, Running};
use flate2::read::GzDecoder;

const SINK: &str = env!("CARGO_BIN_EXE_sink");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");
const PROCESSOR: &str = env!("CARGO_BIN_EXE_processor");
const CHAOS: &str = env!("CARGO_BIN_EXE_chaos");
const LAB: &str = env!("CARGO_BIN_EXE_lab");

const TOKEN: &str = "correct-horse-battery-staple";
const WRONG: &str = "correct-horse-battery-stapler";

/// A port on which nothing listens.
const NOBODY: &str = "127.0.0.1:1";

const SOON: Duration = Duration::from_secs(10);

/// One of the servers; `out` is where `lab watch` writes.
fn server(binary: &'static str, out: &Path) -> Vec<String> {
    let out = out.to_str().expect("UTF-8");
    let args: &[&str] = match binary {
        SINK => &[SINK],
        PRODUCER => &[PRODUCER, "--brokers", NOBODY, "--rate", "1"],
        PROCESSOR => &[PROCESSOR, "--brokers", NOBODY],
        _ => &[LAB, "watch", "--brokers", NOBODY, "--out", out],
    };
    args.iter().chain(&["--listen", "0.0.0.0:0"]).map(|arg| (*arg).to_owned()).collect()
}

const SERVERS: [&str; 4] = [SINK, PRODUCER, PROCESSOR, LAB];

/// Starts a command with variables in its environment and every log line there is.
fn start(variables: &[String], command: &[String]) -> Running {
    let all = [&["LAB_LOG=trace".to_owned()], variables, command].concat();
    Running::start("/usr/bin/env", all)
}

/// Its address, as a caller on this machine reaches it.
fn address(running: &mut Running) -> String {
    running.await_log("addr=0.0.0.0:");
    let log = running.log();
    let port = log.split("addr=0.0.0.0:").nth(1).expect("logged").split([' ', '\n']).next();
    format!("127.0.0.1:{}", port.expect("a port"))
}

/// The whole answer to a request that carries `token`.
fn answer(address: &str, request: &str, token: Option<&str>) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("set");
    let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let head = "HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Type: application/json\r\n";
    write!(stream, "{request} {head}{token}Content-Length: 2\r\n\r\n{{}}").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    answer
}

/// The answer's status and all of it, as text.
fn ask(address: &str, request: &str, token: Option<&str>) -> (u16, String) {
    let answer = String::from_utf8_lossy(&answer(address, request, token)).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}

/// The settings of a binary with only the flags that it needs.
fn flags<T: FromArgs>(needed: &[&str]) -> T {
    T::from_args(&["binary"], needed).map_err(|e| e.output).expect("valid flags")
}

/// Prevents: a default that is open to other machines. Each value is an address that the binary
/// listens on.
#[test]
fn everything_listens_on_loopback_unless_told_otherwise() {
    let sink = flags::<sink::settings::Flags>(&[]).settings().expect("valid").listen;
    let producer = flags::<load::settings::Flags>(&["--rate", "1"]).settings().expect("valid");
    let processor = flags::<pipeline::flags::Flags>(&[]).settings().expect("valid");
    let watch = flags::<watch::Settings>(&["--out", "unused"]);
    for (listen, port) in
        [(sink, 9900), (producer.listen, 9901), (processor.listen, 9902), (watch.listen, 9903)]
    {
        assert!(listen.ip().is_loopback(), "{listen}");
        assert_eq!(listen.port(), port);
    }
}

/// Prevents: an endpoint that other machines can drive or read because the user forgot the token.
#[test]
fn beyond_loopback_nothing_listens_without_a_token() {
    let out = tempfile::tempdir().expect("folder");
    for binary in SERVERS {
        let ended = start(&[], &server(binary, out.path())).end(SOON);
        assert_eq!(ended.status.code(), Some(2), "{binary}: {}", ended.stderr);
        assert!(ended.stderr.contains("--token-file"), "{binary}: {}", ended.stderr);
        assert!(!ended.stderr.contains("addr="), "{binary} listened: {}", ended.stderr);
        let weak = start(&["LAB_TOKEN=fifteen-letters".into()], &server(binary, out.path()));
        let ended = weak.end(SOON);
        assert_eq!(ended.status.code(), Some(2), "{binary}: {}", ended.stderr);
        assert!(!ended.stderr.contains("fifteen"), "a token is told: {}", ended.stderr);
    }
}

/// Prevents: a path that reveals or changes something without a token; metrics or probes that can
/// be written, or that need a token and so are never read.
#[test]
fn beyond_loopback_control_and_profiles_ask_for_the_token_and_metrics_are_read_only() {
    let out = tempfile::tempdir().expect("folder");
    let guarded = |binary| -> &[&str] {
        match binary {
            SINK => &["POST /control"],
            PRODUCER => &[
                "GET /rate",
                "POST /rate",
                "DELETE /rate",
                "GET /credit",
                "POST /credit",
                "DELETE /credit",
            ],
            PROCESSOR => &[],
            _ => &["POST /chaos"],
        }
    };
    let profiles = ["heap", "profile?seconds=1", "threads", "", "cmdline", "nonsense"];
    for binary in SERVERS {
        let mut command = server(binary, out.path());
        if binary == LAB {
            command.extend(["--sink".to_owned(), format!("http://{NOBODY}")]);
        }
        let mut running = start(&[format!("LAB_TOKEN={TOKEN}")], &command);
        let address = address(&mut running);
        let own = guarded(binary).iter().map(|&request| request.to_owned());
        let profiles = profiles.iter().map(|name| format!("GET /debug/pprof/{name}"));
        for request in own.chain(profiles).chain(["POST /debug/pprof/symbol".into()]) {
            for token in [None, Some(WRONG), TOKEN.get(1..), Some("")] {
                let (status, answer) = ask(&address, &request, token);
                assert_eq!(status, 401, "{binary} {request} {token:?}: {answer}");
                assert!(answer.contains("WWW-Authenticate: Bearer"), "{answer}");
            }
        }
        for request in guarded(binary).iter().chain(&["GET /debug/pprof/threads"]) {
            let (status, answer) = ask(&address, request, Some(TOKEN));
            assert!(status != 401 && status != 403, "{binary} {request}: {answer}");
        }
        for page in ["/metrics", "/healthz", "/readyz"] {
            for token in [None, Some(WRONG), Some(TOKEN)] {
                let (status, answer) = ask(&address, &format!("GET {page}"), token);
                // A processor without brokers takes no events.
                let waits = page == "/readyz" && binary == PROCESSOR;
                assert_eq!(status, if waits { 503 } else { 200 }, "{binary} {page}: {answer}");
                for method in ["POST", "PUT", "DELETE", "PATCH"] {
                    let (status, answer) = ask(&address, &format!("{method} {page}"), token);
                    assert_eq!(status, 405, "{binary} {method} {page}: {answer}");
                }
            }
        }
    }
}

/// The text of what was gzipped; it must have been.
fn gunzipped(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text).expect("gzip");
    String::from_utf8_lossy(&text).into_owned()
}

/// The text of a heap profile as the server sends it: the body is gzipped.
fn profile(address: &str, request: &str) -> String {
    let answer = answer(address, request, Some(TOKEN));
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|end| end + 4);
    gunzipped(body.and_then(|from| answer.get(from..)).expect("a body"))
}

/// Everything that is in the files below `folder`, profiles unpacked.
fn contents(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.fold(String::new(), |text, path| {
        let bytes = std::fs::read(&path).expect("a file");
        let gzipped = path.extension().is_some_and(|ending| ending == "gz");
        let plain = || String::from_utf8_lossy(&bytes).into_owned();
        let inside = if gzipped { gunzipped(&bytes) } else { plain() };
        text + &format!("\n{}: {inside}", path.display())
    })
}

/// Prevents a token in a log (at any level), in `ps`, on a page or in a folder of results, which
/// people copy into reports.
#[test]
fn a_token_is_in_no_log_command_line_page_or_result() {
    let folder = tempfile::tempdir().expect("folder");
    let (out, run) = (folder.path().join("watch"), folder.path().join("run"));
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let by_file = ["--token-file".to_owned(), file.to_str().expect("UTF-8").to_owned()];
    let by_variable = [format!("LAB_TOKEN={TOKEN}")];
    let mut seen = String::new();
    let mut pages = |running: &Running, address: &str| {
        let command = std::fs::read(format!("/proc/{}/cmdline", running.pid())).expect("it runs");
        seen += &String::from_utf8_lossy(&command);
        for request in ["GET /", "GET /metrics", "GET /control", "GET /rate", "POST /chaos"] {
            seen += &ask(address, request, Some(TOKEN)).1;
        }
        for path in ["threads", "cmdline"] {
            seen += &ask(address, &format!("GET /debug/pprof/{path}"), Some(TOKEN)).1;
        }
        let profile = profile(address, "GET /debug/pprof/heap?names=no");
        // In every heap profile: that it was unpacked, and the token looked for inside.
        assert!(profile.contains("inuse_space"), "{profile}");
        seen += &profile;
        seen += &ask(address, "GET /debug/pprof/threads", Some(WRONG)).1;
    };
    let mut ended = Vec::new();

    let mut sink = start(&[], &[&server(SINK, &out)[..], &by_file].concat());
    let sink_at = address(&mut sink);
    pages(&sink, &sink_at);
    let to_sink = ["--sink".to_owned(), format!("http://{sink_at}")];
    let words = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
    let fault = words(&[CHAOS, "stall", "--rate", "9", "--for", "1s"]);
    ended.push(start(&[], &[&fault[..], &to_sink, &by_file].concat()).end(SOON));
    let restore = words(&[CHAOS, "restore"]);
    ended.push(start(&by_variable, &[&restore[..], &to_sink].concat()).end(SOON));

    let keep = ["--heap".to_owned(), format!("http://{sink_at}")];
    let watch = [&server(LAB, &out)[..], &to_sink, &keep, &words(&["--interval", "100ms"])];
    let mut watch = start(&by_variable, &watch.concat());
    let watch_at = address(&mut watch);
    pages(&watch, &watch_at);
    for binary in [PRODUCER, PROCESSOR] {
        let mut running = start(&by_variable, &server(binary, &out));
        let at = address(&mut running);
        pages(&running, &at);
        running.signal(libc::SIGTERM);
        ended.push(running.end(Duration::from_secs(30)));
    }
    let plan = [LAB, "plan", "--experiment", "exp1", "--form", "quick", "--kafka", "none"];
    let to = words(&[run.to_str().expect("UTF-8")]);
    ended.push(start(&by_variable, &[&words(&plan)[..], &to].concat()).end(SOON));
    let end = Instant::now() + PATIENCE;
    while !out.join("heap-last.pb.gz").exists() {
        assert!(Instant::now() < end, "no heap profile: {}", watch.log());
        std::thread::sleep(Duration::from_millis(20));
    }

    for running in [watch, sink] {
        running.signal(libc::SIGTERM);
        ended.push(running.end(Duration::from_secs(30)));
    }
    for ended in &ended {
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        seen += &ended.stdout;
        seen += &ended.stderr;
    }
    seen += &contents(&out);
    seen += &contents(&run);
    // Signs that the right places were searched for the token.
    for sign in ["samples.jsonl: {", "heap-last.pb.gz: ", "plan.json: {", "host.json: {"] {
        assert!(seen.contains(sign), "no {sign}: nothing was looked at");
    }
    let kept = seen.split("heap-last.pb.gz: ").nth(1).unwrap_or_default();
    assert!(kept.contains("inuse_space"), "the kept profile is not unpacked");
    for sign in ["level=debug", "stall begins", "sink_rate_limit 2000", "HTTP/1.1 401"] {
        assert!(seen.contains(sign), "no {sign}: nothing was looked at");
    }
    for secret in [TOKEN, WRONG] {
        let at = seen.find(secret);
        assert_eq!(at, None, "{:?}", at.map(|at| seen.split_at(at).0.lines().last()));
    }
}

/// Prevents: a processor that shows its token to any process at the producer's usual address.
#[test]
fn a_token_goes_to_no_address_that_nobody_named() {
    let command = |listen: &str, more: &[&str]| {
        let fixed = [PROCESSOR, "--brokers", NOBODY, "--policy", "slow-source", "--listen", listen];
        fixed.iter().chain(more).map(|&word| word.to_owned()).collect::<Vec<_>>()
    };
    let by_variable = [format!("LAB_TOKEN={TOKEN}")];
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(&file, TOKEN).expect("written");
    let by_file = ["--token-file", file.path().to_str().expect("UTF-8")];
    for unnamed in [
        start(&[], &command("0.0.0.0:0", &by_file)),
        start(&[], &command("127.0.0.1:0", &by_file)),
        start(&by_variable, &command("127.0.0.1:0", &[])),
    ] {
        let ended = unnamed.end(SOON);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        for word in ["--producer is missing", "slow-source", "--producer http://"] {
            assert!(ended.stderr.contains(word), "no {word:?} in {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("addr="), "it listened: {}", ended.stderr);
    }
    let named = command("127.0.0.1:0", &["--producer", &format!("http://{NOBODY}")]);
    start(&by_variable, &named).await_log("addr=127.0.0.1:");
    start(&[], &command("127.0.0.1:0", &[])).await_log("addr=127.0.0.1:");
}

/// Prevents a flag that takes the token itself: `ps` shows it to every user of the machine, and
/// `commands.txt` keeps it.
#[test]
fn no_flag_takes_a_token_itself() {
    let mut commands: Vec<Vec<&str>> = [SINK, PRODUCER, PROCESSOR, CHAOS].map(|b| vec![b]).into();
    for command in ["run", "predict", "plan", "watch", "audit", "autopsy", "detect", "report"] {
        commands.push(vec![LAB, command]);
    }
    for command in commands {
        let with = |more: &[&str]| {
            let all: Vec<String> =
                command.iter().chain(more).map(|word| (*word).to_owned()).collect();
            start(&[], &all).end(SOON)
        };
        let help = with(&["--help"]);
        assert_eq!(help.status.code(), Some(0), "{command:?}: {}", help.stderr);
        let flags = help.stdout.split_whitespace().filter(|word| word.starts_with("--"));
        for flag in flags.filter(|f| ["token", "secret", "password"].iter().any(|w| f.contains(w)))
        {
            assert_eq!(flag, "--token-file", "{command:?}");
        }
        let refused = with(&[&format!("--token={TOKEN}")]);
        assert_eq!(refused.status.code(), Some(2), "{command:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains(TOKEN), "{}", refused.stderr);
    }
}
