//! The lab: watches a run, audits its ledger, and compares it with the model.
//!
//! - `watch`       samples the whole pipeline on a fixed cadence
//! - `lag`, `procs`, `scrape`  the sources of a sample: Kafka, `/proc`, `/metrics`
//! - `autoscale`   as many members of a group as help: rules, and the copies of a command
//! - `scaled`      these rules in simulated time
//! - `probe`       whether a program lives, or takes events
//! - `live`        the page that the watch serves, and its line in a terminal
//! - `samples`     a sample and its file
//! - `model`, `layout`  the fluid model, and the bytes that one queued event costs
//! - `web`         what the pages have in common: look, charts, headers
//! - `predict`     the model's figures for any load, without a run, as text or as a page
//! - `audit`       the ledger, id by id
//! - `heaps`, `autopsy`  the last heap profile of a process, and the call sites that it names
//! - `stats`, `text`  lines, rates, means; how a figure is written
//! - `experiments` what is asked, predicted and checked: one file an experiment
//! - `plan`        before a run: the prediction, the host
//! - `cluster`     three Kafka brokers on this machine, up and down
//! - `run`         from the declaration to the verdict: processes, cluster, arms
//! - `interrupt`, `tools`  a signal, and waits that it ends; other programs, run to their end
//! - `bench`       the race against a franz-go program of the same job
//! - `detect`      rules that notice trouble, scored over recorded samples
//! - `run_folder`, `charts`, `report`  after it: from its files to its verdict
//! - `verdict`, `slo`, `index`  what came of it; all of them against the targets, and in one page

pub mod audit;
pub mod autopsy;
pub mod autoscale;
pub mod bench;
pub mod charts;
pub mod cluster;
pub mod detect;
pub mod experiments;
pub mod heaps;
pub mod index;
mod interrupt;
pub mod lag;
pub mod layout;
pub mod live;
pub mod model;
pub mod paced;
pub mod plan;
pub mod predict;
pub mod probe;
pub mod procs;
pub mod report;
pub mod run;
pub mod run_folder;
pub mod samples;
pub mod scaled;
pub mod scrape;
pub mod slo;
pub mod stats;
pub mod text;
mod tools;
pub mod verdict;
pub mod watch;
mod web;

use std::path::Path;

use crate::failure::Failure;

/// Writes `value` to `path` as JSON that people can read.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::Failed(format!("{}: cannot be written: {e}", path.display()))
    };
    let mut text = serde_json::to_string_pretty(value).map_err(|e| failed(&e))?;
    text.push('\n');
    std::fs::write(path, text).map_err(|e| failed(&e))
}

/// Reads a JSON file.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| failed(format!("cannot be read: {e}")))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(format!("is damaged: {e}")))
}

/// As [`read_json`]; `None` where there is no such file.
fn read_json_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    path.exists().then(|| read_json(path)).transpose()
}
