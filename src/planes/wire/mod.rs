//! The data plane of today's protocol: messages of crate `kafka-protocol` over one kept connection a
//! broker, one blocking question at a time.
//!
//! - `fetch`   Fetch 4 to 17, by topic id where the broker has it; records are read where they lie
//! - `produce` Produce 3 to 12: record batches v2 with the due time, idempotent where all replicas ack

mod fetch;
mod produce;

pub use fetch::Fetcher;
pub use produce::{Sender, producer_id};
