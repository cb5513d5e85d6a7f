//! The lab: watches a run, audits its ledger, and compares it with the model.
//!
//! - `watch`       samples the whole pipeline on a fixed cadence
//! - `lag`, `procs`, `scrape`  what a sample is read from: Kafka, `/proc`, `/metrics`
//! - `samples`     a sample and its file
//! - `model`, `layout`  the fluid model, and the bytes that one queued event costs
//! - `audit`       the ledger, id by id
//! - `stats`       lines, rates, means
//! - `experiments` what is asked, predicted and checked: one file an experiment
//! - `run_folder`, `charts`, `report`  from a run's files to its verdict
//! - `host`        what the run ran on

pub mod lag;
pub mod layout;
pub mod model;
pub mod procs;
pub mod samples;
pub mod scrape;
pub mod stats;
pub mod watch;
