//! More requests, or more connections, than there is room for.

use super::*;

#[test]
fn when_every_handler_is_busy_a_request_is_told_so_and_its_connection_stays() {
    let wait = Duration::from_millis(100);
    let held = start_held(Limits { handlers: 1, handler_wait: wait, ..Limits::default() });
    let mut first = Client::connect(held.server.addr());
    first.send(&post("", ""));
    held.began.recv().unwrap();
    let mut second = Client::connect(held.server.addr());
    second.send(&post("", ""));
    let answer = second.answer(true).unwrap();
    assert_eq!((answer.status, header(&answer.head, "retry-after")), (503, Some("1")));
    // Its answer to HEAD has no body, or the next answer would be misread.
    second.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(second.answer(false).unwrap().status, 503);
    held.go.send(()).unwrap();
    assert_eq!(first.answer(true).unwrap().status, 200);
    held.go.send(()).unwrap();
    assert_eq!(second.get("/").status, 200);
}

// A retried request must not also be handled for the client that gave it up.
#[test]
fn a_request_whose_client_left_while_waiting_is_not_handled() {
    let held = start_held(Limits { handlers: 1, ..Limits::default() });
    let mut first = Client::connect(held.server.addr());
    first.send(&post("", ""));
    held.began.recv().unwrap();
    let mut gone = Client::connect(held.server.addr());
    gone.send(&post("", ""));
    // It waits for the handler now; then its client leaves.
    thread::sleep(Duration::from_millis(200));
    drop(gone);
    thread::sleep(Duration::from_millis(100));
    (0..2).for_each(|_| held.go.send(()).unwrap());
    assert_eq!(first.answer(true).unwrap().status, 200);
    assert_eq!(first.get("/").status, 200);
    assert_eq!(held.handled.load(Ordering::SeqCst), 2);
}

// Clients that connect and say nothing must not lock out one that has a request.
#[test]
fn idle_connections_make_room_and_busy_ones_do_not() {
    let held = start_held(Limits { handlers: 2, connections_max: 4, ..Limits::default() });
    let mut busy = Client::connect(held.server.addr());
    busy.send(&post("", ""));
    held.began.recv().unwrap();
    let idle: Vec<Client> = (0..3).map(|_| Client::connect(held.server.addr())).collect();
    thread::sleep(Duration::from_millis(300));
    let mut honest = Client::connect(held.server.addr());
    honest.send(&post("", ""));
    held.began.recv_timeout(Duration::from_secs(5)).unwrap();
    (0..2).for_each(|_| held.go.send(()).unwrap());
    assert_eq!(honest.answer(true).unwrap().status, 200);
    assert_eq!(busy.answer(true).unwrap().status, 200);
    drop(idle);
}

#[test]
fn when_every_connection_is_busy_one_more_is_told_so() {
    let held = start_held(Limits { handlers: 2, connections_max: 2, ..Limits::default() });
    let mut busy: Vec<Client> = (0..2).map(|_| Client::connect(held.server.addr())).collect();
    for client in &mut busy {
        client.send(&post("", ""));
        held.began.recv().unwrap();
    }
    let mut third = Client::connect(held.server.addr());
    assert_eq!(third.answer(true).unwrap().status, 503);
    (0..2).for_each(|_| held.go.send(()).unwrap());
    for client in &mut busy {
        assert_eq!(client.answer(true).unwrap().status, 200);
    }
}

// A handler is released before its answer is sent, so a client that stops reading holds only its
// own connection.
#[test]
fn a_client_that_does_not_read_holds_no_handler() {
    let server = start(Limits { handlers: 1, ..Limits::default() });
    let mut stuck = Client::connect(server.addr());
    stuck.send("GET /size?50000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    assert_eq!(Client::connect(server.addr()).get("/").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}
