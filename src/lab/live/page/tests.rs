use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::chaos::Chaos;
use crate::http::Access;
use crate::lab::live::Sources;
use crate::lab::live::example::{arm, look};
use crate::lab::web::{JSON, SHARED};

fn live(out: &Path, chaos: bool) -> Live {
    let names = || ["processor", "producer", "sink"].map(str::to_owned).to_vec();
    // No process listens there: a command that gets so far is answered 502.
    let chaos = chaos.then(|| Chaos::new("http://127.0.0.1:1", None).expect("a URL"));
    let access = Access::new("127.0.0.1:0".parse().expect("address"), None).expect("loopback");
    let second = Duration::from_secs(1);
    Live::new(Sources::new(names(), names()), (None, out), second, chaos, access).expect("a page")
}

fn ask(live: &Live, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    live.answer(&Request {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        headers: headers.iter().copied().collect(),
        peer: None,
        body: body.as_bytes().into(),
    })
}

fn points(live: &Live, query: &str) -> Value {
    let answer = ask(live, "GET", &format!("/live{query}"), &[], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[test]
fn a_page_gets_all_points_once_and_then_the_new_ones() {
    let live = live(Path::new("watched"), false);
    assert_eq!(points(&live, "")["points"], Value::Array(vec![]));
    (1..=3).for_each(|t| drop(live.add(&look(t))));
    let all = points(&live, "");
    assert_eq!(all["points"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        (&all["chaos"], &all["verdicts"], &all["phase"]),
        (&false.into(), &Value::Null, &Value::Null)
    );
    live.add(&look(4));
    let new = points(&live, "?since=3");
    assert_eq!(new["points"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&new["points"][0]["seq"], &new["points"][0]["produced"]),
        (&4.into(), &1500.0.into())
    );
    assert_eq!(new["watch"], all["watch"]);
    assert_eq!(ask(&live, "GET", "/live?since=x", &[], "").status, 400);
}

/// Prevents: live verdicts that are not the report's; a check that fails, or holds, before there
/// is anything to check; a model that is not where the run is.
#[test]
fn the_experiments_own_checks_follow_the_run() {
    let (_dir, arm) = arm();
    let live = live(&arm, false);
    let state = |name: &str| {
        let answer = points(&live, "");
        let all = answer["verdicts"].as_array().expect("verdicts").clone();
        let found = all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("{all:?}"));
        found["state"].as_str().expect("a state").to_owned()
    };
    let mut line = String::new();
    for t in 1..=22 {
        line = live.add(&look(t));
    }
    assert!(line.starts_with("exp2/pull · 8,000/s phase · 58 s left · produced 8,000/s"), "{line}");
    assert_eq!(
        (state("pull_lag_baseline"), state("pull_lag_overload")),
        ("holds".into(), "open".into())
    );
    for t in 23..=50 {
        live.add(&look(t));
    }
    for check in ["pull_lag_overload", "pull_delivered", "pull_rss_slope", "pull_rss_max"] {
        assert_eq!(state(check), "holds", "{check}");
    }
    let last = points(&live, "?since=49");
    let point = &last["points"][0];
    assert_eq!((&point["lag"], &point["lag_model"]), (&180_000.0.into(), &180_000.0.into()));
    assert_eq!(point["queue_model"], 0.0);
    // The sink slows down: the check turns, and it is the report's own margin that turns it.
    for t in 51..=80 {
        let mut slow = look(t);
        slow.metrics.entry("sink".into()).or_default().insert("sink_events_total".into(), 90_000.0);
        live.add(&slow);
    }
    assert_eq!(state("pull_delivered"), "off");
}

/// Prevents chaos by a web page from elsewhere, by a form, and a slow sink without an end.
#[test]
fn chaos_takes_json_from_its_own_page_alone() {
    const PAUSE: &str = r#"{"do":"pause","for":"1s"}"#;
    let own = [("host", "127.0.0.1:9903"), ("content-type", JSON)];
    let post = |headers: &[(&str, &str)], body| {
        ask(&live(Path::new("watched"), true), "POST", "/chaos", headers, body).status
    };
    assert_eq!(post(&own, PAUSE), 502, "passed on, and nobody listens");
    assert_eq!(post(&own[..1], PAUSE), 415);
    assert_eq!(post(&[own[0], ("content-type", "text/plain")], PAUSE), 415);
    assert_eq!(post(&[own[0], own[1], ("origin", "http://evil.example")], PAUSE), 403);
    assert_eq!(post(&[("host", "evil.example:9903"), own[1]], PAUSE), 403);
    assert_eq!(post(&[own[0], own[1], ("sec-fetch-site", "cross-site")], PAUSE), 403);
    for body in ["", "{}", r#"{"do":"rate","rate":1}"#, r#"{"do":"pause","for":"25h"}"#] {
        assert_eq!(post(&own, body), 400, "{body}");
    }
    let without = live(Path::new("watched"), false);
    assert_eq!(ask(&without, "POST", "/chaos", &own, PAUSE).status, 404);
    assert_eq!(ask(&without, "GET", "/chaos", &own, "").status, 405);
    assert_eq!(ask(&without, "POST", "/", &own, "").status, 405);
}

/// Prevents a page that may load something from elsewhere, or that names such a thing.
#[test]
fn every_answer_forbids_what_is_not_its_own() {
    let (live, files) = (live(Path::new("watched"), true), || FILES.iter().chain(&SHARED));
    for path in files().map(|file| file.path).chain(["/live", "/nothing"]) {
        let answer = ask(&live, "GET", path, &[], "");
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        let header = |name| answer.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str());
        assert!(
            header("Content-Security-Policy").is_some_and(|p| p.starts_with("default-src 'self'"))
        );
        assert_eq!(header("X-Content-Type-Options"), Some("nosniff"));
    }
    for File { path, text, .. } in files().filter(|file| !file.path.contains("uplot")) {
        assert!(!text.contains("//cdn") && !text.contains("https://"), "{path} names another host");
        assert!(!text.contains(" style=") && !text.contains("<style"), "{path} has inline style");
    }
}
