//! A kept connection to one broker: a request, its whole answer, then the next request.
//!
//! Invariant: every wait has a limit, and an answer belongs to the request it is read for (its
//! correlation id). After any error the owner must drop the connection. Versions are negotiated
//! once, when it is made (KIP-35). It knows no topic and retries nothing.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, encode_request_header_into_buffer};

use super::security::{Conversation, Security};
use super::stream::{Stream, connect};

/// Limit of a name's look-up, of a connect, and of each control-plane request.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Kafka's `client.id`, by which quotas and broker logs know the lab.
pub const CLIENT_ID: &str = "backpressure-lab";

/// Largest answer that is read: a batch of 64 MiB and its envelope.
pub const ANSWER_BYTES_MAX: usize = (64 << 20) + (1 << 20);

/// ApiVersions is asked in the version that every broker answers.
const API_VERSIONS_VERSION: i16 = 0;

/// SaslHandshake 1 is followed by SaslAuthenticate (KIP-152); SaslAuthenticate 1 returns how long
/// the login is valid (KIP-368).
const SASL_HANDSHAKE: Range = Range { min: 1, max: 1 };
const SASL_AUTHENTICATE: Range = Range { min: 0, max: 2 };

/// Lowest and highest version of a message that the lab and a broker both speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Lowest version.
    pub min: i16,
    /// Highest version.
    pub max: i16,
}

/// See the module.
pub struct Connection {
    stream: Stream,
    host: String,
    versions: BTreeMap<i16, Range>,
    correlation_id: i32,
    question: BytesMut,
    /// The read and write limit that the socket has now.
    patience: Duration,
    /// When the broker closes it, because the login is too old (KIP-368).
    ends: Option<Instant>,
}

pub(super) fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_string())
}

impl Connection {
    /// Connects to `host` (`name:port`), asks which versions it speaks, and authenticates where
    /// `security` says so.
    ///
    /// # Errors
    /// When no Kafka broker answers within [`TIMEOUT`] a step; `PermissionDenied`, when one side
    /// does not trust the other.
    pub(super) fn open(host: &str, security: Option<&Security>) -> io::Result<Self> {
        let tcp = connect(host)?;
        let stream = match security {
            Some(security) => security.wrap(tcp, host)?,
            None => Stream::Plain(tcp),
        };
        let mut connection = Self {
            stream,
            host: host.to_owned(),
            versions: BTreeMap::new(),
            correlation_id: 0,
            question: BytesMut::new(),
            patience: TIMEOUT,
            ends: None,
        };
        let question = ApiVersionsRequest::default();
        let answer: ApiVersionsResponse =
            connection.ask(ApiKey::ApiVersions, API_VERSIONS_VERSION, &question, TIMEOUT)?;
        if answer.error_code != 0 {
            return Err(refused("ApiVersions", answer.error_code));
        }
        let range = |api: &kafka_protocol::messages::api_versions_response::ApiVersion| {
            (api.api_key, Range { min: api.min_version, max: api.max_version })
        };
        connection.versions = answer.api_keys.iter().map(range).collect();
        if let Some(conversation) = security.map(Security::conversation).transpose()?.flatten() {
            connection.sign_on(conversation)?;
        }
        Ok(connection)
    }

    fn sign_on(&mut self, mut conversation: Conversation) -> io::Result<()> {
        let version = self.version(ApiKey::SaslHandshake, SASL_HANDSHAKE)?;
        let mechanism = StrBytes::from_string(conversation.mechanism().to_owned());
        let question = SaslHandshakeRequest::default().with_mechanism(mechanism);
        let answer: SaslHandshakeResponse =
            self.ask(ApiKey::SaslHandshake, version, &question, TIMEOUT)?;
        if answer.error_code != 0 {
            let offered: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
            let code = in_words(answer.error_code);
            let why = format!("{code}; the broker offers {}", offered.join(", "));
            return Err(conversation.refused(&why));
        }
        let version = self.version(ApiKey::SaslAuthenticate, SASL_AUTHENTICATE)?;
        let mut heard: Option<Bytes> = None;
        while let Some(said) = conversation.step(heard.as_deref())? {
            let question = SaslAuthenticateRequest::default().with_auth_bytes(said.into());
            let answer: SaslAuthenticateResponse =
                self.ask(ApiKey::SaslAuthenticate, version, &question, TIMEOUT)?;
            if answer.error_code != 0 {
                let why = answer.error_message.as_deref().unwrap_or_default();
                return Err(
                    conversation.refused(&format!("{}: {why}", in_words(answer.error_code)))
                );
            }
            let life = u64::try_from(answer.session_lifetime_ms).ok().filter(|ms| *ms > 0);
            self.ends = life.map(|ms| Instant::now() + Duration::from_millis(ms));
            heard = Some(answer.auth_bytes);
        }
        Ok(())
    }

    /// Whether the broker closes it within [`TIMEOUT`]: the caller should make another one now.
    pub fn is_about_to_end(&self) -> bool {
        self.ends.is_some_and(|end| Instant::now() + TIMEOUT > end)
    }

    /// `name:port` as it was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the broker speaks of `key`; `None` when it does not know it.
    pub fn speaks(&self, key: ApiKey) -> Option<Range> {
        self.versions.get(&(key as i16)).copied()
    }

    /// The highest version of `key` that is in `ours` and that the broker speaks.
    ///
    /// # Errors
    /// `Unsupported`, when there is none: it names both ranges.
    pub fn version(&self, key: ApiKey, ours: Range) -> io::Result<i16> {
        let theirs = self.speaks(key).ok_or_else(|| {
            let why = format!("broker {} does not know {key:?}", self.host);
            io::Error::new(ErrorKind::Unsupported, why)
        })?;
        let version = theirs.max.min(ours.max);
        if version < theirs.min.max(ours.min) {
            let why = format!(
                "broker {} speaks {key:?} {} to {}, the lab {} to {}",
                self.host, theirs.min, theirs.max, ours.min, ours.max
            );
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        Ok(version)
    }

    /// Sends a request and reads the answer, each step at most `patience`.
    ///
    /// # Errors
    /// Errors of the socket; `InvalidData` for a malformed answer. The connection must be dropped.
    pub fn ask<Q: Encodable, A: Decodable>(
        &mut self,
        key: ApiKey,
        version: i16,
        question: &Q,
        patience: Duration,
    ) -> io::Result<A> {
        let mut answer = Vec::new();
        self.send(key, version, question, patience)?;
        self.receive(&mut answer, ANSWER_BYTES_MAX)?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, key.response_header_version(version));
        header.map_err(invalid)?;
        A::decode(&mut answer, version).map_err(invalid)
    }

    /// Sends a request; its answer is read by [`Connection::receive`] before the next one.
    pub(crate) fn send<Q: Encodable>(
        &mut self,
        key: ApiKey,
        version: i16,
        question: &Q,
        patience: Duration,
    ) -> io::Result<()> {
        self.be_patient(patience)?;
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut header = RequestHeader::default();
        header.request_api_key = key as i16;
        header.request_api_version = version;
        header.correlation_id = self.correlation_id;
        header.client_id = Some(StrBytes::from_static_str(CLIENT_ID));
        let out = &mut self.question;
        out.clear();
        out.extend_from_slice(&[0; 4]);
        encode_request_header_into_buffer(out, &header).map_err(invalid)?;
        question.encode(out, version).map_err(invalid)?;
        let size = u32::try_from(out.len() - 4).map_err(invalid)?;
        if let Some(head) = out.first_chunk_mut() {
            *head = size.to_be_bytes();
        }
        let sent = self.stream.write_all(out).and_then(|()| self.stream.flush());
        sent.map_err(|e| self.in_time(e))
    }

    /// Reads the answer to the last request into `answer`, whose memory is used again: all that
    /// follows its size, from the correlation id on.
    ///
    /// # Errors
    /// As [`Connection::ask`]; an answer above `bytes_max` is `FileTooLarge` and not read.
    pub(crate) fn receive(&mut self, answer: &mut Vec<u8>, bytes_max: usize) -> io::Result<()> {
        self.read_answer(answer, bytes_max).map_err(|e| self.in_time(e))
    }

    /// Names the limit in the error of a wait that timed out; a socket's own error only says "try
    /// again".
    fn in_time(&self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let patience = crate::units::show(self.patience);
                io::Error::new(ErrorKind::TimedOut, format!("no answer within {patience}"))
            }
            _ => error,
        }
    }

    fn read_answer(&mut self, answer: &mut Vec<u8>, bytes_max: usize) -> io::Result<()> {
        /// First bytes of a TLS server's reply to a client without TLS: an alert, of any version.
        const ALERT: [u8; 2] = [0x15, 0x03];
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        if size.starts_with(&ALERT) {
            return Err(invalid(format!(
                "{} speaks TLS: give its security.protocol by --command-config",
                self.host
            )));
        }
        let size = u32::from_be_bytes(size) as usize;
        if !(4..=bytes_max).contains(&size) {
            let why = format!(
                "{} answered with a length of {size} bytes (4 to {bytes_max} expected)",
                self.host
            );
            // One that said which versions it speaks is a broker.
            return Err(match !self.versions.is_empty() && size > bytes_max {
                true => io::Error::new(ErrorKind::FileTooLarge, why),
                false => invalid(format!("{why}: not Kafka?")),
            });
        }
        answer.clear();
        self.read_all(answer, size)?;
        let correlation_id = answer.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        if correlation_id != Some(self.correlation_id) {
            return Err(invalid(format!("{} answered another question: not Kafka?", self.host)));
        }
        Ok(())
    }

    /// Appends `size` bytes to `into`.
    fn read_all(&mut self, into: &mut Vec<u8>, size: usize) -> io::Result<()> {
        /// Memory grows with what arrives: an announced length reserves no more than this.
        const STEP_BYTES: usize = 4 << 20;
        let deadline = Instant::now() + self.patience;
        let mut left = size;
        while left > 0 {
            let read = match self.stream.read_some(left.min(STEP_BYTES), into) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            left -= read;
            if left > 0 && Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        if self.patience != patience {
            self.stream.limit(patience)?;
            self.patience = patience;
        }
        Ok(())
    }
}

/// A broker's refusal in words.
pub(crate) fn refused(api: &str, code: i16) -> io::Error {
    io::Error::other(format!("{api} refused with {}", in_words(code)))
}

/// An error code in words: `error code 3: ` and Kafka's name of it.
pub fn in_words(code: i16) -> String {
    let name = kafka_protocol::ResponseError::try_from_code(code);
    let name = name.map_or_else(|| "unknown".to_owned(), |e| e.to_string());
    format!("error code {code}: {name}")
}
