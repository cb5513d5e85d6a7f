use serde_json::{Value, json};

use super::*;
use crate::lab::web::JSON;

/// A committed run: two minutes at 80 % of the ceiling, then 100 s at four times the ceiling.
const CEILING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/full/ceiling/bounded");

fn page(words: Words, beside: Option<Recorded>) -> Page {
    Page { words, beside }
}

fn ask(page: &Page, method: &str, path: &str, kind: &str, body: &str) -> Response {
    page.answer(&Request {
        method: method.into(),
        path: path.into(),
        query: String::new(),
        headers: [("content-type", kind)].into_iter().collect(),
        peer: None,
        body: body.as_bytes().into(),
    })
}

fn told(page: &Page, flags: Option<Value>) -> Value {
    let answer = match flags {
        None => ask(page, "GET", "/forecast", "", ""),
        Some(flags) => ask(page, "POST", "/forecast", JSON, &flags.to_string()),
    };
    let text = String::from_utf8(answer.body).expect("text");
    assert_eq!(answer.status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

fn says<'a>(answer: &'a Value, name: &str) -> &'a str {
    let figures = answer["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("no {name}"))["says"].as_str().expect("text")
}

/// Prevents: a slider that changes the picture and not the figure, or another flag as well; an answer that is
/// not the command's.
#[test]
fn a_flag_that_is_changed_changes_the_answer_as_the_command_would() {
    let words = Words::default().with("schedule", "1500:20s,8000:60s").with("queue", "unbounded");
    let page = page(words, None);
    let first = told(&page, None);
    assert_eq!(says(&first, "lag_peak"), "360,000 events");
    assert_eq!(first["stands"]["steps"], json!([[1500.0, 20.0], [8000.0, 60.0]]));
    assert_eq!(first["stands"]["memory"], Value::Null);
    let mut flags = first["flags"].clone();
    flags["rate-limit"] = json!(["4000"]);
    flags["stall"] = json!(["0@40s:10s"]);
    flags["memory-limit"] = json!(["64MiB"]);
    let then = told(&page, Some(flags));
    assert_eq!(then["stands"]["ceiling"], 4000.0);
    assert_eq!((&then["stands"]["stall"], &then["stands"]["memory"]), (&json!(10.0), &json!(64.0)));
    assert!(says(&then, "killed_at").ends_with(" s"), "{then}");
    assert_eq!(
        then["command"],
        "lab predict --memory-limit 64MiB --queue unbounded --rate-limit 4000 --schedule 1500:20s,8000:60s \
         --stall 0@40s:10s"
    );
    let dead = then["moments"].as_array().expect("moments").last().expect("one").clone();
    assert_eq!((&dead["predicted"]["rss_model"], &dead["measured"]), (&json!(0.0), &Value::Null));
}

/// Prevents: a page that another site can ask through the browser, that writes files, or that gives
/// no answer to flags that make no sense.
#[test]
fn what_is_no_question_is_refused_with_a_reason() {
    let page = page(Words::default().with("schedule", "1500:20s"), None);
    let post = |kind: &str, body: &str| {
        let answer = ask(&page, "POST", "/forecast", kind, body);
        (answer.status, String::from_utf8(answer.body).expect("text"))
    };
    assert_eq!(post("text/plain", "{}").0, 415);
    for (body, why) in [
        ("", "flags: "),
        ("[]", "flags: "),
        ("{}", "--schedule is missing"),
        (r#"{"schedule": ["9:9s"], "chart": ["/tmp"]}"#, "--chart says how"),
        (r#"{"schedule": ["9:9s"], "queue": ["pulled"]}"#, "expected bounded"),
        (
            r#"{"schedule": ["9:9s"], "queue": ["pull"], "policy": ["shed"]}"#,
            "needs --queue bounded",
        ),
        (r#"{"schedule": ["9:9s"], "memory-limit": ["1MiB"]}"#, "--memory-limit"),
    ] {
        let (status, said) = post(JSON, body);
        assert!(status == 400 && said.contains(why), "{body}: {status} {said}");
    }
    assert_eq!(ask(&page, "PUT", "/forecast", JSON, "{}").status, 405);
    assert_eq!(ask(&page, "POST", "/", JSON, "{}").status, 405);
    assert_eq!(ask(&page, "GET", "/nothing", "", "").status, 404);
    for address in ["0.0.0.0:0", "192.0.2.1:9904"] {
        let address = address.parse().expect("an address");
        let why = serve(address, Words::default(), None).expect_err("open to all");
        assert!(why.to_string().contains("loopback"), "{why}");
    }
}

/// Prevents: a recorded run beside the prediction for another load; a curve that is shifted against it.
#[test]
fn a_recorded_arm_is_predicted_from_its_own_plan_and_lies_on_the_same_axis() {
    let recorded = Recorded::read(std::path::Path::new(CEILING)).expect("an arm");
    let page = page(recorded.words.clone(), Some(recorded));
    let answer = told(&page, None);
    assert_eq!(answer["beside"], "ceiling/bounded");
    let stands = &answer["stands"];
    assert_eq!((&stands["offered"], &stands["ceiling"]), (&json!(8000.0), &json!(2000.0)));
    let moments = answer["moments"].as_array().expect("moments");
    let both: Vec<&Value> =
        moments.iter().filter(|m| !m["predicted"].is_null() && !m["measured"].is_null()).collect();
    assert!(both.len() > 200, "{} of {} moments", both.len(), moments.len());
    for moment in both.iter().skip(20).take(90) {
        let produced = moment["measured"]["produced"].as_f64();
        let offered = moment["predicted"]["offered_model"].as_f64().expect("a rate");
        assert!(produced.is_some_and(|rate| (rate / offered - 1.0).abs() < 0.1), "{moment}");
        let rss = moment["measured"]["rss"].as_f64().expect("memory");
        assert!((5e6..64e6).contains(&rss), "{rss}");
    }
}

#[test]
fn what_is_no_recorded_arm_is_said() {
    let run = std::path::Path::new(CEILING).parent().expect("a run");
    for dir in [run.to_path_buf(), run.join("nothing"), "/".into()] {
        let why = Recorded::read(&dir).map(|_| ()).expect_err("no arm").to_string();
        assert!(why.contains("--beside"), "{why}");
    }
}
