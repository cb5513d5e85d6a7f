//! Queries to a real Prometheus in tests: those of the board, and others.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::time::Duration;

use backpressure_lab::http::client;
use serde_json::Value;

/// Every query of every panel of docker/grafana/board.json.
pub fn queries_of_the_board() -> Vec<String> {
    let board: Value =
        serde_json::from_str(include_str!("../../docker/grafana/board.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<String> =
        targets.filter_map(|target| Some(target["expr"].as_str()?.to_owned())).collect();
    assert!(queries.len() > 20, "{queries:?}");
    queries
}

/// The numbers that a query gives now; `None` where no Prometheus answers at `base`.
pub fn values(base: &str, query: &str) -> Option<Vec<f64>> {
    let agent = client::agent(Duration::from_secs(10));
    let answer = agent.get(format!("{base}/api/v1/query")).query("query", query).call();
    let text = answer.ok()?.body_mut().read_to_string().ok()?;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["status"], "success", "{query}: {text}");
    let all = answer["data"]["result"].as_array().expect("a vector");
    Some(all.iter().filter_map(|one| one["value"][1].as_str()?.parse().ok()).collect())
}
