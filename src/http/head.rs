//! Checks a request's head before anything else sees it.
//!
//! Invariant: a forwarded head was parsed here and written anew: one host, ASCII, no hop-by-hop
//! header, and no length, because the body stays with the guard. So nothing behind the guard can
//! read the request differently. It deliberately takes no transfer coding: every client of the lab
//! knows its body's length.

use std::borrow::Cow;

use httparse::{Error, Status};

use super::Limits;

/// Most headers in one request; the lab's own clients send about ten.
const HEADERS_MAX: usize = 64;

/// What the guard needs to know of a request whose head is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, the empty line included.
    pub len: usize,
    /// Bytes of the body that follows.
    pub body_len: usize,
    /// A `HEAD` request: its answer has a length and no body.
    pub is_head: bool,
    /// The connection may carry another request after this one.
    pub keep_alive: bool,
    /// HTTP/1.0: staying open must be said in the answer.
    pub http_1_0: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// The guard's own answer to a request that it does not forward.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub status: u16,
    /// The reason, for the body.
    pub why: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with `status`.
    pub fn new(status: u16, why: impl Into<Cow<'static, str>>) -> Self {
        Self { status, why: why.into() }
    }

    /// The answer's bytes. The connection may only stay where the next request's start is known.
    pub fn answer(&self, is_head: bool, stays: bool) -> Vec<u8> {
        let Self { status, why } = self;
        let reason = tiny_http::StatusCode(*status).default_reason_phrase();
        let length = why.len() + 1;
        let connection = if stays { "keep-alive" } else { "close" };
        let retry = if *status == 503 { "Retry-After: 1\r\n" } else { "" };
        let body = if is_head { String::new() } else { format!("{why}\n") };
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\n{retry}Connection: {connection}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Reads a head from the start of `bytes`; `None` when it has not all arrived. `forward` is filled
/// with the head to forward.
///
/// # Errors
/// The refusal for the client; nothing after this head can be read.
pub fn parse(
    bytes: &[u8],
    limits: &Limits,
    forward: &mut Vec<u8>,
) -> Result<Option<Head>, Refusal> {
    let too_large = || {
        let (bytes, headers) = (limits.head_bytes_max, HEADERS_MAX);
        Refusal::new(431, format!("the head is over {bytes} bytes or {headers} headers"))
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes.get(..limits.head_bytes_max).unwrap_or(bytes)) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() >= limits.head_bytes_max => return Err(too_large()),
        Ok(Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(too_large()),
        Err(Error::Version) => return Err(Refusal::new(505, "only HTTP/1.0 and HTTP/1.1")),
        Err(e) => return Err(Refusal::new(400, format!("malformed head: {e}"))),
    };
    if !bytes.get(..len).is_some_and(<[u8]>::is_ascii) {
        return Err(Refusal::new(400, "malformed head: not ASCII"));
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Refusal::new(400, "malformed request line"));
    };
    // tiny_http takes `head` for `HEAD`; both sides must agree on whether a body follows.
    if !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(Refusal::new(400, "malformed method: expected capital letters"));
    }
    if !target.starts_with('/') {
        return Err(Refusal::new(400, "malformed target: expected a path; this is no proxy"));
    }

    forward.clear();
    push(forward, &[method, " ", target, " HTTP/1.1\r\n"]);
    let mut length = None;
    let mut hosts = 0;
    let mut coding = None;
    let mut expects_continue = false;
    let (mut closes, mut keeps) = (false, version == 1);
    for header in request.headers {
        let value = std::str::from_utf8(header.value).unwrap_or_default();
        match header.name {
            name if is(name, "content-length") => {
                if length.replace(content_length(value, limits)?).is_some() {
                    return Err(Refusal::new(400, "more than one Content-Length"));
                }
            }
            name if is(name, "transfer-encoding") => coding = Some(value),
            name if is(name, "expect") => {
                if !is(value, "100-continue") {
                    return Err(Refusal::new(417, "the only Expect taken is 100-continue"));
                }
                expects_continue = version == 1;
            }
            name if is(name, "connection") => {
                let has = |token| value.split(',').any(|t| is(t.trim(), token));
                closes |= has("close");
                keeps |= has("keep-alive");
            }
            name if HOP_BY_HOP.iter().any(|hop| is(name, hop)) => {}
            name => {
                hosts += usize::from(is(name, "host"));
                push(forward, &[name, ": ", value, "\r\n"]);
            }
        }
    }
    match coding {
        None => {}
        Some(_) if length.is_some() || version == 0 => {
            return Err(Refusal::new(400, "Transfer-Encoding where only Content-Length may be"));
        }
        Some(coding) if is(coding, "chunked") => {
            return Err(Refusal::new(411, "send a Content-Length instead of chunks"));
        }
        Some(_) => return Err(Refusal::new(501, "no Transfer-Encoding is taken")),
    }
    if hosts > 1 || (hosts == 0 && version == 1) {
        return Err(Refusal::new(400, "expected one Host header"));
    }
    let body_len = length.unwrap_or(0);
    forward.extend_from_slice(b"\r\n");
    Ok(Some(Head {
        len,
        body_len,
        is_head: method == "HEAD",
        keep_alive: keeps && !closes,
        http_1_0: version == 0,
        expects_continue,
    }))
}

/// Headers that concern one connection only. `TE` among them: tiny_http would answer in chunks.
const HOP_BY_HOP: [&str; 5] = ["keep-alive", "proxy-connection", "te", "trailer", "upgrade"];

fn is(text: &str, lower_case: &str) -> bool {
    text.eq_ignore_ascii_case(lower_case)
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

fn content_length(value: &str, limits: &Limits) -> Result<usize, Refusal> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::new(400, "malformed Content-Length: expected one whole number"));
    }
    // Digits that do not fit a number are too large, whatever the limit.
    match value.parse() {
        Ok(len) if len <= limits.body_bytes_max => Ok(len),
        _ => {
            let limit = limits.body_bytes_max;
            Err(Refusal::new(413, format!("a body of {value:.20} bytes; at most {limit}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<Head>, Refusal> {
        parse(text.as_bytes(), &Limits::default(), &mut Vec::new())
    }

    fn status(text: &str) -> u16 {
        read(text).expect_err(text).status
    }

    #[test]
    fn a_head_that_two_readers_could_read_differently_is_refused() {
        let post = |headers: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
        for (headers, expected) in [
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: +1", 400),
            ("Content-Length: 0x10", 400),
            ("Content-Length:", 400),
            ("Content-Length: 10000000000000", 413),
            ("Content-Length: 99999999999999999999999", 413),
            ("Transfer-Encoding: chunked", 411),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
            ("Expect: a miracle", 417),
            ("Host: b", 400),
            ("Name : value", 400),
            ("Folded: one\r\n two", 400),
            ("Name: caf\u{e9}", 400),
        ] {
            assert_eq!(status(&post(headers)), expected, "{headers}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400, "no Host");
        assert_eq!(status("get / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(status("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
        let many = "A: b\r\n".repeat(HEADERS_MAX);
        assert_eq!(status(&post(many.trim_end())), 431);
        assert_eq!(status(&"x".repeat(Limits::default().head_bytes_max)), 431);
    }

    #[test]
    fn keep_alive_follows_the_version_and_the_header() {
        let keeps = |version: &str, header: &str| {
            let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{header}\r\n");
            read(&text).expect("valid").expect("whole").keep_alive
        };
        assert!(keeps("1.1", ""));
        assert!(!keeps("1.1", "Connection: close\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!keeps("1.1", "Connection: keep-alive, close\r\n"));
        assert!(!keeps("1.1", "Connection: close\r\nConnection: keep-alive\r\n"));
    }

    #[test]
    fn only_what_concerns_the_request_is_forwarded() {
        let mut forward = Vec::new();
        let text = "POST /x?y HTTP/1.0\r\nTE: chunked\r\nConnection: close\r\nUpgrade: h2c\r\n\
                    Expect: 100-continue\r\nA: b\r\nContent-Length: 003\r\n\r\nabc";
        let head = parse(text.as_bytes(), &Limits::default(), &mut forward);
        let head = head.expect("valid").expect("whole");
        assert_eq!((head.len + head.body_len, head.body_len), (text.len(), 3));
        assert_eq!(forward, b"POST /x?y HTTP/1.1\r\nA: b\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _any_answer = parse(&bytes, &Limits::default(), &mut Vec::new());
        }

        #[test]
        fn a_head_cut_anywhere_is_waited_for(cut in 0usize..57) {
            let text = "POST /write HTTP/1.1\r\nHost: a\r\nContent-Length: 540\r\n\r\n";
            prop_assume!(cut < text.len());
            prop_assert_eq!(read(text.split_at(cut).0), Ok(None));
        }
    }
}
