//! TLS and SASL, as a client's properties file declares them: the file that Kafka's own tools take as
//! `--command-config`, or one with librdkafka's names.
//!
//! | key | values |
//! |---|---|
//! | `security.protocol` | `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT`, `SASL_SSL` |
//! | `sasl.mechanism` (`sasl.mechanisms`) | `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` |
//! | `sasl.username`, `sasl.password` | or both within `sasl.jaas.config`; the password else from [`PASSWORD_VARIABLE`] |
//! | `ssl.ca.location` | PEM; or `ssl.truststore.location` with `ssl.truststore.type=PEM`; without one, the system's CAs |
//!
//! Any other key of `ssl.` or `sasl.` is refused, not ignored, because the user relies on it. The
//! broker's name is always verified. No secret is on a command line, and `Debug` shows none.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use regex::Regex;
use rsasl::config::SASLConfig;
use rsasl::mechname::Mechname;
use rsasl::prelude::{SASLClient, Session, State};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::connection::TIMEOUT;
use super::stream::Stream;
use crate::failure::Failure;

/// The password, where the file has none.
pub const PASSWORD_VARIABLE: &str = "LAB_SASL_PASSWORD";

const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// See the module.
pub struct Security {
    file: PathBuf,
    tls: Option<Tls>,
    login: Option<Login>,
}

struct Tls {
    ca: Option<PathBuf>,
    config: Arc<ClientConfig>,
}

struct Login {
    mechanism: &'static str,
    user: String,
    password: String,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Security({})", self.file.display())
    }
}

impl Security {
    /// Reads a client's properties file, and the CAs that it names.
    ///
    /// # Errors
    /// Usage: names the file, the key, its value and what it may be.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let wrong =
            |why: String| Failure::Usage(format!("--command-config {}: {why}", file.display()));
        let text = std::fs::File::open(file).map_err(|e| wrong(e.to_string()))?;
        let properties = java_properties::read(text).map_err(|e| wrong(e.to_string()))?;
        let password = std::env::var(PASSWORD_VARIABLE).ok().filter(|word| !word.is_empty());
        Self::of(file, properties, password).map_err(wrong)
    }

    fn of(
        file: &Path,
        mut properties: HashMap<String, String>,
        password: Option<String>,
    ) -> Result<Self, String> {
        let mut take = |key: &str| properties.remove(key).map(|value| value.trim().to_owned());
        let protocol = take("security.protocol").unwrap_or_default().to_ascii_uppercase();
        let (encrypted, signs_on) = match protocol.as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            other => {
                return Err(format!(
                    "security.protocol={other}: expected PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
                ));
            }
        };
        let (one, other) = (take("sasl.mechanism"), take("sasl.mechanisms"));
        let mechanism = one.or(other);
        let jaas = take("sasl.jaas.config").unwrap_or_default();
        let user = take("sasl.username").or_else(|| in_jaas(&jaas, "username"));
        let password = take("sasl.password").or_else(|| in_jaas(&jaas, "password")).or(password);
        let pem = take("ssl.truststore.type").is_none_or(|kind| kind == "PEM");
        let store = take("ssl.truststore.location");
        if !pem && store.is_some() {
            return Err("ssl.truststore.type: expected PEM; 'keytool -exportcert -rfc' writes a \
                        certificate as PEM"
                .into());
        }
        let verified =
            take("ssl.endpoint.identification.algorithm").is_none_or(|how| how == "https");
        let checked = take("enable.ssl.certificate.verification").is_none_or(|word| word == "true");
        if !verified || !checked {
            return Err("the broker's certificate and name are always verified".into());
        }
        let ca = take("ssl.ca.location").or(store).map(PathBuf::from);
        let ours = |key: &&String| key.starts_with("ssl.") || key.starts_with("sasl.");
        if let Some(key) = properties.keys().find(ours) {
            return Err(format!("{key} is not supported"));
        }
        Ok(Self {
            file: file.to_owned(),
            tls: encrypted.then(|| Tls::new(ca)).transpose()?,
            login: signs_on.then(|| Login::new(mechanism, user, password)).transpose()?,
        })
    }

    /// The stream as the protocol wants it; with TLS, after the handshake.
    pub(super) fn wrap(&self, tcp: TcpStream, host: &str) -> io::Result<Stream> {
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
        let client = ClientConnection::new(Arc::clone(&tls.config), name);
        let mut stream = StreamOwned::new(client.map_err(io::Error::other)?, tcp);
        let end = Instant::now() + TIMEOUT;
        while stream.conn.is_handshaking() {
            shake_hands(&mut stream).map_err(|e| self.untrusted(e))?;
            if Instant::now() >= end {
                return Err(self.untrusted(ErrorKind::TimedOut.into()));
            }
        }
        Ok(Stream::Tls(Box::new(TlsStream(stream))))
    }

    /// The error of a failed TLS handshake, in words that say what to do.
    fn untrusted(&self, error: io::Error) -> io::Error {
        let of_tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        let file = self.file.display();
        let advice = match of_tls {
            Some(rustls::Error::InvalidCertificate(_)) => {
                format!("its certificate is not trusted: see ssl.ca.location in {file}")
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                format!("it does not speak TLS: see security.protocol in {file}")
            }
            None if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let why = format!("no answer to TLS within {}", crate::units::show(TIMEOUT));
                return io::Error::new(ErrorKind::TimedOut, why);
            }
            // A broker that is shutting down closes the connection in the same way.
            None if error.kind() == ErrorKind::UnexpectedEof => {
                let why = format!("it hangs up on TLS: see security.protocol in {file} ({error})");
                return io::Error::new(error.kind(), why);
            }
            _ => return error,
        };
        io::Error::new(ErrorKind::PermissionDenied, format!("{advice} ({error})"))
    }

    /// The SASL exchange; `None` where the protocol has no SASL.
    pub(super) fn conversation(&self) -> io::Result<Option<Conversation>> {
        let Some(login) = &self.login else { return Ok(None) };
        let (user, password) = (login.user.clone(), login.password.clone());
        let known = SASLConfig::with_credentials(None, user, password).map_err(io::Error::other)?;
        let mechanism = Mechname::parse(login.mechanism.as_bytes()).map_err(io::Error::other)?;
        let session = SASLClient::new(known).start_suggested(&[mechanism]);
        let session = session.map_err(io::Error::other)?;
        let (mechanism, user) = (login.mechanism, login.user.clone());
        let file = self.file.clone();
        Ok(Some(Conversation { session, mechanism, user, file, finished: false }))
    }

    /// Whether it is neither TLS nor SASL.
    pub(super) fn is_plain(&self) -> bool {
        self.tls.is_none() && self.login.is_none()
    }

    /// The same settings for librdkafka.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let protocol = match (&self.tls, &self.login) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        let mut all = vec![("security.protocol", protocol.to_owned())];
        if let Some(ca) = self.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            all.push(("ssl.ca.location", ca.display().to_string()));
        }
        if let Some(login) = &self.login {
            all.push(("sasl.mechanism", login.mechanism.to_owned()));
            all.push(("sasl.username", login.user.clone()));
            all.push(("sasl.password", login.password.clone()));
        }
        all
    }
}

/// One step of the handshake: writes what is pending, else reads.
fn shake_hands(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> io::Result<()> {
    let StreamOwned { conn, sock } = stream;
    if conn.wants_write() {
        conn.write_tls(sock)?;
        return Ok(());
    }
    if conn.read_tls(sock)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if let Err(e) = conn.process_new_packets() {
        // Sends the alert that says why.
        let _best_effort = conn.write_tls(sock);
        return Err(io::Error::new(ErrorKind::InvalidData, e));
    }
    Ok(())
}

/// Checks the iteration count that a broker requires by SCRAM (RFC 5802). Below the minimum (RFC
/// 7677) the password is cheap to guess; far above it the count only costs CPU time.
fn check_iterations(heard: &[u8]) -> Result<(), String> {
    const ITERATIONS: std::ops::RangeInclusive<u64> = 4096..=1_000_000;
    let text = String::from_utf8_lossy(heard);
    let Some(count) = text.split(',').find_map(|part| part.strip_prefix("i=")) else {
        return Ok(());
    };
    match count.parse::<u64>() {
        Ok(count) if ITERATIONS.contains(&count) => Ok(()),
        _ => Err(format!("it asks for i={count} iterations, {ITERATIONS:?} are allowed")),
    }
}

/// The value of `key="value"` in a login module's line, as Kafka's own clients write it.
fn in_jaas(line: &str, key: &str) -> Option<String> {
    let quoted = Regex::new(&format!(r#"\b{key}\s*=\s*"((?:[^"\\]|\\.)*)""#)).ok()?;
    let value = quoted.captures(line)?.get(1)?.as_str();
    Some(Regex::new(r"\\(.)").ok()?.replace_all(value, "$1").into_owned())
}

impl Tls {
    fn new(ca: Option<PathBuf>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match &ca {
            Some(file) => {
                let wrong = |e: &dyn std::fmt::Display| {
                    format!("ssl.ca.location={}: {e}; expected certificates in PEM", file.display())
                };
                for one in CertificateDer::pem_file_iter(file).map_err(|e| wrong(&e))? {
                    let one = one.map_err(|e| wrong(&e))?;
                    roots.add(one).map_err(|e| wrong(&e))?;
                }
                if roots.is_empty() {
                    return Err(wrong(&"no certificate in it"));
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(system.certs);
                if roots.is_empty() {
                    return Err("the system has no CAs: give ssl.ca.location".into());
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { ca, config: Arc::new(config) })
    }
}

impl Login {
    fn new(
        mechanism: Option<String>,
        user: Option<String>,
        password: Option<String>,
    ) -> Result<Self, String> {
        let mechanism = mechanism.unwrap_or_default();
        let known = MECHANISMS.into_iter().find(|name| *name == mechanism);
        let mechanism = known.ok_or_else(|| {
            format!("sasl.mechanism={mechanism}: expected one of {}", MECHANISMS.join(", "))
        })?;
        let some = |value: Option<String>, key: &str, or: &str| {
            let value = value.filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{key} is missing{or}"))
        };
        let or = format!(", and {PASSWORD_VARIABLE} is not set");
        Ok(Self {
            mechanism,
            user: some(user, "sasl.username", "")?,
            password: some(password, "sasl.password", &or)?,
        })
    }
}

/// One exchange of SASL: the next message to send, given the last one received.
pub struct Conversation {
    session: Session,
    mechanism: &'static str,
    user: String,
    file: PathBuf,
    finished: bool,
}

impl Conversation {
    pub(super) fn mechanism(&self) -> &str {
        self.mechanism
    }

    /// The next message to send; `None` at the end, once the broker has shown that it knows the
    /// password too (SCRAM).
    pub(super) fn step(&mut self, heard: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        if self.finished {
            return Ok(None);
        }
        if let Some(heard) = heard {
            check_iterations(heard).map_err(|why| self.refused(&why))?;
        }
        let mut said = Vec::new();
        let state = self.session.step(heard, &mut said);
        let state =
            state.map_err(|e| self.refused(&format!("the broker's answer is wrong: {e}")))?;
        self.finished = !matches!(state, State::Running);
        Ok(state.has_sent_message().then_some(said))
    }

    pub(super) fn refused(&self, why: &str) -> io::Error {
        let (user, mechanism, file) = (&self.user, self.mechanism, self.file.display());
        io::Error::new(
            ErrorKind::PermissionDenied,
            format!("user {user} is not let in by {mechanism}: {why}; see sasl.* in {file}"),
        )
    }
}

/// A stream that TLS encrypts.
pub struct TlsStream(StreamOwned<ClientConnection, TcpStream>);

impl TlsStream {
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.0.sock
    }
}

impl Read for TlsStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(&str, &str)]) -> Result<Security, String> {
        let properties = lines.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Security::of(Path::new("client.properties"), properties, None)
    }

    const PLAIN: [(&str, &str); 4] = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "u"),
        ("sasl.password", "p"),
    ];

    #[test]
    fn the_names_of_both_clients_mean_the_same() {
        let jaas = r#"org.apache.kafka.common.security.scram.ScramLoginModule required username="u" password="a\"b\\c";"#;
        let kafka = [PLAIN[0], PLAIN[1], ("sasl.jaas.config", jaas)];
        let login = read(&kafka).expect("fine").login.expect("a login");
        assert_eq!((login.user.as_str(), login.password.as_str()), ("u", r#"a"b\c"#));
        let librdkafka = [PLAIN[0], ("sasl.mechanisms", "PLAIN"), PLAIN[2], PLAIN[3]];
        let properties = read(&librdkafka).expect("fine").properties();
        assert!(properties.contains(&("sasl.password", "p".into())), "{properties:?}");
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_ignored() {
        for (changed, part) in [
            (("security.protocol", "TLS"), "security.protocol=TLS"),
            (("sasl.mechanism", "GSSAPI"), "sasl.mechanism=GSSAPI"),
            (("sasl.password", ""), PASSWORD_VARIABLE),
            (("ssl.keystore.location", "x.p12"), "ssl.keystore.location"),
            (("ssl.endpoint.identification.algorithm", ""), "always verified"),
        ] {
            let mut lines: Vec<_> = PLAIN.into_iter().filter(|(k, _)| *k != changed.0).collect();
            lines.push(changed);
            let why = read(&lines).expect_err(part);
            assert!(why.contains(part), "{why}");
        }
        let ca = [("security.protocol", "SSL"), ("ssl.ca.location", "/nowhere/ca.pem")];
        assert!(read(&ca).expect_err("no CA").contains("/nowhere/ca.pem"));
    }

    #[test]
    fn no_secret_is_shown() {
        let mut lines = PLAIN;
        lines[3].1 = "hunter2-9f3c";
        assert!(!format!("{:?}", read(&lines)).contains("hunter2-9f3c"));
    }

    /// Prevents: a broker that makes a client compute for an hour, or makes its password cheap to
    /// guess.
    #[test]
    fn the_count_that_a_broker_asks_for_has_limits() {
        for (count, fine) in
            [("4096", true), ("8192", true), ("1", false), ("4294967295", false), ("x", false)]
        {
            let heard = format!("r=abc,s=AAAA,i={count}");
            assert_eq!(check_iterations(heard.as_bytes()).is_ok(), fine, "{count}");
        }
        assert!(check_iterations(b"v=AAAA").is_ok());
    }
}
