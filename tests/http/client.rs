//! The one client: the cost of a call besides its bytes, and its longest time.

use backpressure_lab::http::client::agent;

use super::*;

/// Lets this thread start no other: its `clone` and `clone3` fail from now on (seccomp(2)).
fn forbid_threads() {
    let filter = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let is_not = |call: i64| filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32);
    let end = |what| filter(libc::BPF_RET | libc::BPF_K, 0, 0, what);
    let fail = |errno: i32| end(libc::SECCOMP_RET_ERRNO | errno as u32);
    let mut filters = [
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the call's number
        is_not(libc::SYS_clone3),
        fail(libc::ENOSYS), // then glibc tries the older one
        is_not(libc::SYS_clone),
        fail(libc::EPERM),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

// ureq's own resolver starts a thread for every call that has a time limit: 130 us a POST.
#[test]
fn a_call_of_an_address_starts_no_thread() {
    let server = start(Limits::default());
    let url = format!("http://{}/write", server.addr());
    let calling = thread::spawn(move || {
        forbid_threads();
        thread::Builder::new().spawn(|| ()).expect_err("else nothing is tested here");
        let agent = agent(Duration::from_secs(10));
        for _ in 0..3 {
            let mut answer = agent.post(&url).send("123").unwrap();
            assert_eq!(answer.body_mut().read_to_string().unwrap(), "3\n");
        }
        // A name's lookup has a thread, and can fail like any call.
        let named = url.replace("127.0.0.1", "localhost");
        let why = agent.post(&named).send("123").expect_err("no thread").to_string();
        assert!(why.contains("name-lookup"), "{why}");
    });
    calling.join().unwrap();
}

#[test]
fn a_name_is_called_like_an_address() {
    let server = start(Limits::default());
    let agent = agent(Duration::from_secs(10));
    for _ in 0..2 {
        let url = format!("http://localhost:{}/write", server.addr().port());
        let mut answer = agent.post(&url).send("123").unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "3\n");
    }
}

// A time limit for each read alone lets a server that sends a byte now and then hold its caller.
#[test]
fn a_call_is_over_in_its_time_however_its_answer_drips() {
    let limit = Duration::from_millis(300);
    for begin in
        ["", "HTTP/1.1 200 OK\r\nX-Drip: ", "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let begun = Instant::now();
            let mut sent = stream.write_all(begin.as_bytes());
            while sent.is_ok() && begun.elapsed() < limit * 20 {
                thread::sleep(limit / 20);
                sent = if begin.is_empty() { Ok(()) } else { stream.write_all(b"a") };
                // The client's end is noticed when there is something to read: nothing, at last.
                stream.set_nonblocking(true).unwrap();
                let mut bytes = [0; 4096];
                if matches!(stream.read(&mut bytes), Ok(0)) {
                    return;
                }
                stream.set_nonblocking(false).unwrap();
            }
        });
        let begun = Instant::now();
        let answer = agent(limit).get(&url).call();
        let read = answer.and_then(|mut answer| answer.body_mut().read_to_vec());
        let why = read.expect_err("it never ends").to_string();
        assert!(why.contains("timeout"), "{begin}: {why}");
        // A margin of 10 over what is expected.
        assert!(begun.elapsed() < limit * 10, "{begin}: {:?}", begun.elapsed());
        serving.join().unwrap();
    }
}
