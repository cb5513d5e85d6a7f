//! The data plane of today's protocol: messages of crate `kafka-protocol` over one kept connection
//! a broker, one blocking request at a time.
//!
//! - `debloat` the size of an answer: what is taken downstream in a quarter of a second
//! - `fetch`   Fetch 4 to 17, by topic id where the broker has it; records are read in place
//! - `produce` Produce 3 to 12: record batches v2 with the due time, idempotent where all replicas ack

pub mod debloat;
mod fetch;
mod produce;

use std::io::{self, ErrorKind};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use super::Lost;
use crate::brokers::Brokers;
use crate::brokers::connection::{Connection, Range};

pub use fetch::Fetcher;
pub use produce::{Sender, producer_id};

/// Longest throttle time of a broker that is obeyed (KIP-219). A quota of bytes has none of its own: what one request is
/// above it takes as long as it takes.
const THROTTLE_MAX: Duration = Duration::from_secs(3_600);

/// The throttle time of an answer, up to the limit.
fn throttled(millis: i32) -> Duration {
    Duration::from_millis(millis.max(0).unsigned_abs().into()).min(THROTTLE_MAX)
}

/// The kept connection to one broker, for one message; it is opened on demand.
struct Link {
    brokers: Brokers,
    address: String,
    key: ApiKey,
    ours: Range,
    open: Option<(Connection, i16)>,
}

impl Link {
    /// To the broker at `address`, for messages `key` in the versions `ours`.
    fn new(brokers: &Brokers, address: &str, key: ApiKey, ours: Range) -> Self {
        Self { brokers: brokers.clone(), address: address.to_owned(), key, ours, open: None }
    }

    /// The connection, and the highest common version.
    fn open(&mut self) -> io::Result<(&mut Connection, i16)> {
        if self.open.as_ref().is_some_and(|(connection, _)| connection.is_about_to_end()) {
            self.open = None;
        }
        let (connection, version) = match &mut self.open {
            Some(open) => open,
            empty => {
                let connection = self.brokers.connect(&self.address)?;
                let version = connection.version(self.key, self.ours)?;
                empty.insert((connection, version))
            }
        };
        Ok((connection, *version))
    }

    /// Drops the connection after `error`, and returns what the error means.
    fn lose(&mut self, error: &io::Error) -> Lost {
        self.open = None;
        match error.kind() {
            ErrorKind::Unsupported => Lost::Never(error.to_string()),
            _ => Lost::Connection(error.to_string()),
        }
    }
}
