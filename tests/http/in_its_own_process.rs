//! Tests that count threads or lower limits: `alone` runs them, one a process.

use super::*;

fn limit_descriptors(soft: impl FnOnce(u64) -> u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid for both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = soft(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
#[ignore = "run by a_thousand_connections_leave_the_server_serving"]
fn a_thousand_connections() {
    limit_descriptors(|hard| hard);
    let server = start(Limits::default());
    let mut kept: Vec<Client> = Vec::new();
    for n in 0..1000 {
        kept.push(Client::connect(server.addr()));
        if n % 100 == 50 {
            // The earlier ones had their chance: now they must make room.
            thread::sleep(Duration::from_millis(150));
            let begin = Instant::now();
            assert_eq!(Client::connect(server.addr()).get("/").status, 200, "{n}");
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        }
    }
    assert!(threads() < 150, "{} threads for 1000 connections", threads());
}

#[test]
#[ignore = "run by a_process_out_of_descriptors_goes_on_accepting"]
fn out_of_descriptors() {
    let server = start(Limits::default());
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    limit_descriptors(|_| open + 20);
    let mut kept = Vec::new();
    while let Ok(stream) = TcpStream::connect(server.addr()) {
        kept.push(stream);
    }
    // Accepting fails now, and goes on failing until descriptors come back.
    thread::sleep(Duration::from_millis(300));
    kept.clear();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(Client::connect(server.addr()).get("/").status, 200);
}

#[test]
#[ignore = "run by dropping_the_server_finishes_what_is_handled_and_leaves_no_thread"]
fn graceful_drop() {
    let before = threads();
    let Held { server, began, go, .. } = start_held(Limits::default());
    let addr = server.addr();
    let mut idle = Client::connect(addr);
    let mut busy = Client::connect(addr);
    busy.send(&post("", ""));
    began.recv().unwrap();
    let dropping = thread::spawn(move || {
        let begin = Instant::now();
        drop(server);
        begin.elapsed()
    });
    assert!(idle.is_closed(), "an idle connection is not waited for");
    thread::sleep(Duration::from_millis(200));
    go.send(()).unwrap();
    let answer = busy.answer(true).unwrap();
    assert_eq!((answer.status, header(&answer.head, "connection")), (200, Some("close")));
    assert!(busy.is_closed());
    assert!(dropping.join().unwrap() < Duration::from_secs(3));
    assert!(TcpStream::connect(addr).is_err());
    drop(TcpListener::bind(addr).unwrap());
    // tiny_http's own idle threads wait 5 s before they end.
    let begin = Instant::now();
    while threads() > before && begin.elapsed() < Duration::from_secs(15) {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(threads(), before);
}
