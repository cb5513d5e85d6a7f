//! A kept connection to one broker: a question, its whole answer, and no question in between.
//!
//! Invariant: every wait has a limit, and an answer belongs to the question it is read for (its
//! correlation id). After any error the connection is of no use: its owner drops it. Versions are
//! negotiated once, when it is made (KIP-35). It knows no topic and retries nothing.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, encode_request_header_into_buffer};

use crate::threads;

/// Bound of a name's look-up, of a connect, and of each control-plane question.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Kafka's `client.id`, by which quotas and broker logs know the lab.
pub const CLIENT_ID: &str = "backpressure-lab";

/// Largest answer that is read: a batch of 64 MiB and its envelope.
pub const ANSWER_BYTES_MAX: usize = (64 << 20) + (1 << 20);

/// ApiVersions is asked in the version that every broker answers.
const API_VERSIONS_VERSION: i16 = 0;

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
    stream: TcpStream,
    host: String,
    versions: BTreeMap<i16, Range>,
    correlation_id: i32,
    question: BytesMut,
    /// The read and write limit that the socket has now.
    patience: Duration,
}

pub(super) fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_string())
}

impl Connection {
    /// Connects to `host` (`name:port`) and asks which versions it speaks.
    ///
    /// # Errors
    /// When nobody answers as a Kafka broker does within [`TIMEOUT`] a step.
    pub fn open(host: &str) -> io::Result<Self> {
        let stream = connect(host)?;
        let mut connection = Self {
            stream,
            host: host.to_owned(),
            versions: BTreeMap::new(),
            correlation_id: 0,
            question: BytesMut::new(),
            patience: TIMEOUT,
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
        Ok(connection)
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

    /// Asks and reads the answer, each step at most `patience`.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` for an answer that is none. The connection must be dropped.
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

    /// Sends a question; its answer is read by [`Connection::receive`] before the next one.
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
        self.stream.write_all(out)
    }

    /// Reads the answer to the last question into `answer`, whose memory is used again: all that
    /// follows its size, from the correlation id on.
    ///
    /// # Errors
    /// As [`Connection::ask`]; an answer of over `bytes_max` is `InvalidData` and not read.
    pub(crate) fn receive(&mut self, answer: &mut Vec<u8>, bytes_max: usize) -> io::Result<()> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = u32::from_be_bytes(size) as usize;
        if !(4..=bytes_max).contains(&size) {
            return Err(invalid(format!(
                "{} answered with a length of {size} bytes (4 to {bytes_max} expected): not Kafka?",
                self.host
            )));
        }
        answer.clear();
        self.read_all(answer, size)?;
        let correlation_id = answer.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        if correlation_id != Some(self.correlation_id) {
            return Err(invalid(format!("{} answered another question: not Kafka?", self.host)));
        }
        Ok(())
    }

    /// Reads `size` bytes behind what `into` holds, without filling them with zeros first.
    fn read_all(&mut self, into: &mut Vec<u8>, size: usize) -> io::Result<()> {
        /// Memory follows what arrives: a length that was only announced reserves no more.
        const STEP_BYTES: usize = 4 << 20;
        let deadline = Instant::now() + self.patience;
        let mut left = size;
        while left > 0 {
            let step = left.min(STEP_BYTES);
            into.reserve(step);
            let read = (&self.stream).take(step as u64).read_to_end(into)?;
            if read < step {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            left -= read;
            if left > 0 && Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        if self.patience != patience {
            limit(&self.stream, patience)?;
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

fn limit(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in resolve(host)? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                limit(&stream, TIMEOUT)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The addresses of `host`. The system's look-up has no limit, so a name is looked up on a thread of
/// its own, which is left behind when it takes longer than [`TIMEOUT`].
fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let (answer, answered) = crossbeam_channel::bounded(1);
    let name = host.to_owned();
    threads::spawn("look-up", move || {
        let addresses = name.to_socket_addrs().map(Iterator::collect);
        // Nobody waits any more when the time is over.
        let _too_late = answer.send(addresses);
    })
    .map_err(io::Error::other)?;
    answered.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
        Err(io::Error::new(ErrorKind::TimedOut, "its name was not looked up in time"))
    })
}
