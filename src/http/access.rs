//! Who may use an endpoint that changes or reveals something: control and pprof.
//!
//! With a token, every caller that sends it. Without one, only this machine: the server must listen
//! on loopback, and a web page in a local browser must not be able to drive it, neither from
//! another origin nor by rebinding a DNS name to 127.0.0.1. It deliberately does not guard
//! `/metrics`, `/healthz`, `/readyz` and the data path.

use std::env::VarError;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use subtle::ConstantTimeEq;

use super::{Request, Response};
use crate::failure::Failure;

/// The token's environment variable; `--token-file` comes first.
const TOKEN_VARIABLE: &str = "LAB_TOKEN";
/// Shorter tokens can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The token that callers must send. It prints as its name, so that no log and no error can hold
/// it.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Token")
    }
}

impl Token {
    /// A token out of `text`; `None` when it is too short or holds anything but visible ASCII.
    pub fn new(text: &str) -> Option<Self> {
        let long = text.len() >= TOKEN_BYTES_MIN;
        (long && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    /// The `Authorization` header that carries it.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether `given` is this token, in a time that depends only on the token's length.
    fn is(&self, given: &str) -> bool {
        given.as_bytes().ct_eq(self.0.as_bytes()).into()
    }
}

/// The token from `--token-file`, else from `LAB_TOKEN`, else none.
///
/// # Errors
/// [`Failure::Usage`] when the file cannot be read or the token is no token.
pub fn token(file: Option<&Path>) -> Result<Option<Token>, Failure> {
    let (source, text) = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|e| Failure::flag("--token-file", file.display(), &e.to_string()))?;
            (format!("--token-file {}", file.display()), text)
        }
        None => match of_variable(std::env::var(TOKEN_VARIABLE)) {
            Some(text) => (TOKEN_VARIABLE.to_owned(), text),
            None => return Ok(None),
        },
    };
    let weak = || {
        Failure::Usage(format!(
            "{source}: a token is at least {TOKEN_BYTES_MIN} visible ASCII characters"
        ))
    };
    Token::new(text.trim()).ok_or_else(weak).map(Some)
}

/// The token of the variable; an empty one means none. A value that is not text is a weak token,
/// not none, because it was meant to close something.
fn of_variable(value: Result<String, VarError>) -> Option<String> {
    match value {
        Ok(text) => Some(text).filter(|text| !text.is_empty()),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(_)) => Some(String::new()),
    }
}

/// The rule of one server.
#[derive(Clone)]
pub struct Access {
    token: Option<Token>,
}

impl Access {
    /// The rule for a server that listens on `listen`.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it listens beyond loopback without a token.
    pub fn new(listen: SocketAddr, token: Option<Token>) -> Result<Self, Failure> {
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(Failure::Usage(format!(
                "--listen {listen} is open to other machines, so control and profiles need a \
                 token: give --token-file or {TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )));
        }
        Ok(Self { token })
    }

    /// Whether a caller has to send the token.
    pub fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    /// Lets the request pass, or says what to answer it.
    ///
    /// # Errors
    /// The answer to a request that may not pass: 401 or 403.
    pub fn check(&self, request: &Request) -> Result<(), Response> {
        match &self.token {
            Some(token) => bearer(request)
                .is_some_and(|given| token.is(given))
                .then_some(())
                .ok_or_else(|| {
                    Response::text(401, "send the lab's token: Authorization: Bearer …")
                        .with_header("WWW-Authenticate", "Bearer")
                }),
            None => same_site(request).map_err(|why| Response::text(403, why)),
        }
    }
}

fn bearer<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let (scheme, token) = request.headers.get("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Refuses what a page from elsewhere can make a browser send. A client that is no browser sends a
/// `Host` of its own making and no `Origin`.
fn same_site(request: &Request) -> Result<(), &'static str> {
    let header = |name: &str| request.headers.get(name);
    let host = header("host").unwrap_or_default();
    if !host.is_empty() && !is_local(host) {
        return Err("the Host header is neither localhost nor a loopback address");
    }
    if header("origin").is_some_and(|origin| origin.strip_prefix("http://") != Some(host)) {
        return Err("the request comes from another origin");
    }
    match header("sec-fetch-site") {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err("the request comes from another site"),
    }
}

/// `localhost` or a loopback address, with or without a port: no DNS name, which could be rebound,
/// and not 0.0.0.0, by which a page reaches this machine without saying where it is from.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn request(headers: &[(&str, &str)]) -> Request<'static> {
        Request {
            method: "POST".into(),
            path: "/control".into(),
            query: String::new(),
            headers: headers.iter().copied().collect(),
            peer: None,
            body: Vec::new().into(),
        }
    }

    fn status(access: &Access, headers: &[(&str, &str)]) -> u16 {
        access.check(&request(headers)).map_or_else(|refusal| refusal.status, |()| 200)
    }

    #[test]
    fn beyond_loopback_nothing_starts_without_a_token() {
        for open in ["0.0.0.0:9900", "[::]:9900", "10.0.0.1:9900"] {
            let open: SocketAddr = open.parse().expect("address");
            let failure = Access::new(open, None).err().expect("refused").to_string();
            assert!(failure.contains("--token-file") && failure.contains("LAB_TOKEN"), "{failure}");
            assert!(Access::new(open, Token::new(TOKEN)).is_ok());
        }
        assert!(Access::new("127.0.0.1:0".parse().expect("address"), None).is_ok());
        assert!(Access::new("[::1]:0".parse().expect("address"), None).is_ok());
    }

    #[test]
    fn with_a_token_only_the_token_passes() {
        let listen = "127.0.0.1:0".parse().expect("address");
        let access = Access::new(listen, Token::new(TOKEN)).expect("valid");
        let with = |value: &str| status(&access, &[("host", "a"), ("authorization", value)]);
        assert_eq!(with(&format!("Bearer {TOKEN}")), 200);
        assert_eq!(with(&format!("bearer  {TOKEN} ")), 200);
        for wrong in ["", "Bearer", "Bearer 0123456789abcde", "Bearer 0123456789abcdeff", TOKEN] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(with(&format!("Basic {TOKEN}")), 401);
        assert_eq!(status(&access, &[("host", "localhost")]), 401);
    }

    #[test]
    fn without_a_token_no_web_page_can_drive_it() {
        let access = Access::new("127.0.0.1:0".parse().expect("address"), None).expect("valid");
        for host in ["127.0.0.1:9900", "localhost:9900", "LOCALHOST", "[::1]:9900", "[::1]"] {
            assert_eq!(status(&access, &[("host", host)]), 200, "{host}");
        }
        let others = ["evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example:80"];
        for host in others.into_iter().chain(["0.0.0.0:9900", "[::]:9900", "10.0.0.1:9900"]) {
            assert_eq!(status(&access, &[("host", host)]), 403, "{host}");
        }
        let from = |origin| status(&access, &[("host", "localhost:9900"), ("origin", origin)]);
        assert_eq!(from("http://localhost:9900"), 200);
        for origin in
            ["null", "http://evil.example", "http://localhost:8080", "https://localhost:9900"]
        {
            assert_eq!(from(origin), 403, "{origin}");
        }
        let site = |site| status(&access, &[("host", "localhost"), ("sec-fetch-site", site)]);
        assert_eq!((site("none"), site("cross-site"), site("same-site")), (200, 403, 403));
    }

    #[test]
    fn a_token_file_is_trimmed_and_a_weak_token_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).expect("written");
        let found = token(Some(&path)).expect("valid").expect("a token");
        assert_eq!(found.bearer(), format!("Bearer {TOKEN}"));
        assert_eq!(format!("{found:?}"), "Token", "what is printed by mistake");
        for weak in ["", "short", "sixteen bytes and"] {
            std::fs::write(&path, weak).expect("written");
            let failure = token(Some(&path)).expect_err("refused");
            assert!(matches!(failure, Failure::Usage(_)), "{failure}");
            assert!(weak.is_empty() || !failure.to_string().contains(weak), "{failure}");
        }
        assert!(token(Some(&dir.path().join("none"))).is_err());
    }

    /// Prevents: a token that cannot be read counts as none, and everything is open.
    #[test]
    fn a_variable_that_is_no_text_is_a_weak_token_and_not_none() {
        use std::os::unix::ffi::OsStringExt as _;
        let bytes = VarError::NotUnicode(std::ffi::OsString::from_vec(vec![0xff; 20]));
        let given = of_variable(Err(bytes)).expect("something was given");
        assert!(Token::new(given.trim()).is_none());
        assert_eq!(of_variable(Ok(TOKEN.to_owned())).as_deref(), Some(TOKEN));
        assert_eq!(of_variable(Ok(String::new())), None);
        assert_eq!(of_variable(Err(VarError::NotPresent)), None);
    }

    /// Prevents an answer whose time tells how much of a guess is right. A token of 1 MiB makes the
    /// time of one comparison measurable: stopping at the first wrong byte would be about a
    /// thousandfold faster there, so a factor of 4 either way is noise.
    #[test]
    fn a_guess_takes_as_long_wherever_it_is_wrong() {
        let (size, tries) = (1 << 20, 20);
        let right = "a".repeat(size);
        let token = Token::new(&right).expect("valid");
        let fastest = |wrong_at: usize| {
            let mut guess = right.clone().into_bytes();
            guess[wrong_at] = b'b';
            let guess = String::from_utf8(guess).expect("ASCII");
            let time = || {
                let begun = std::time::Instant::now();
                assert!(!std::hint::black_box(token.is(std::hint::black_box(&guess))));
                begun.elapsed()
            };
            (0..tries).map(|_| time()).min().expect("tries").as_secs_f64()
        };
        let (first, last) = (fastest(0), fastest(size - 1));
        assert!((0.25..4.0).contains(&(first / last)), "{first:e} s against {last:e} s");
    }
}
