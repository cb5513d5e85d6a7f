//! The live page of `lab watch`, on a real pipeline and in a real browser.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::common::Topic;
use crate::common::lab::{Served, processor, producer, sink, watch};
use serde_json::{Value, json};

const LAB: &str = env!("CARGO_BIN_EXE_lab");

fn control(sink: &Served) -> Value {
    serde_json::from_str(&sink.get("/control")).expect("JSON")
}

/// Prevents: a page that shows nothing, or always the same; one that loads something from
/// elsewhere, or fails in the console; buttons that do nothing, or that only a mouse can press; a
/// page that stays quiet when something cannot be read, or when the watch is gone.
#[test]
fn the_page_follows_a_real_pipeline_and_its_buttons_disturb_the_sink() {
    let (topic, sink) = (Topic::create("live", 12), sink(&[]));
    let processor = processor(&topic, &sink, &[]);
    let producer = producer(&topic, &["--rate", "1500"]);
    let dir = tempfile::tempdir().expect("a folder");
    let plan = ["plan", "--experiment", "exp2", "--form", "quick"];
    let planned = Command::new(LAB).args(plan).arg(dir.path()).output();
    let planned = planned.expect("lab plan");
    assert!(planned.status.success(), "{planned:?}");

    let out = dir.path().join("pull");
    let served = [("sink", &sink), ("processor", &processor), ("producer", &producer)];
    let watch = watch(&topic, &served, &out, &["--sink", &sink.url]);

    let mut page = Browser::start();
    page.open(&format!("{}/", watch.url));
    page.until("live", "document.querySelector('#state')?.textContent === 'live'");
    page.until(
        "every figure is read",
        "[...document.querySelectorAll('#now dd')].length === 10 \
         && [...document.querySelectorAll('#now dd')].every((dd) => /[0-9]/.test(dd.textContent))",
    );
    page.until("the load arrives", "Math.abs(newest.delivered / 1500 - 1) < 0.5");
    page.until(
        "the model is beside it",
        "newest.lag_model !== null && newest.queue_model !== null",
    );
    page.until("a verdict holds", "document.querySelector('#verdicts .holds') !== null");
    assert_eq!(page.eval("document.querySelector('#name').textContent"), "exp2/pull");

    // Each second another sample, and the page changes with it.
    let (begun, mut shown, mut looks) = (Instant::now(), BTreeSet::new(), BTreeSet::new());
    while begun.elapsed() < Duration::from_secs(5) {
        let seen = page.eval("[document.querySelector('#now').innerText, last]");
        shown.insert(seen[0].to_string());
        looks.insert(seen[1].to_string());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!((3..=7).contains(&looks.len()) && shown.len() >= 3, "{looks:?} {shown:?}");
    assert_eq!(page.charts_drawn(), 5, "charts with something drawn");

    // By mouse; the page shows the result.
    page.click("#stall");
    sink.until("the sink is stalled", |sink| control(sink)["rate"] == 200.0);
    assert_eq!(control(&sink)["fault"]["for_seconds"], 20.0);
    page.until(
        "what was done",
        "document.querySelector('#done').textContent.startsWith('stall: 200 ')",
    );
    page.until("the limit in force", "newest.limit === 200");
    // By keyboard: two fields on from the stall's button is the restore's.
    page.eval("document.querySelector('#stall').focus()");
    page.key("Tab", "");
    page.key("Tab", "");
    page.key("Enter", "\r");
    sink.until("the sink is restored", |sink| control(sink)["fault"].is_null());
    page.until("it says so", "document.querySelector('#done').textContent.startsWith('no fault')");

    // On a phone nothing is wider than the screen.
    page.fits_a_phone();
    page.until(
        "so do the charts",
        "[...document.querySelectorAll('canvas')].every((c) => c.clientWidth < 390)",
    );
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = page.eval(background);
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    page.call("Emulation.setEmulatedMedia", dark);
    assert_ne!(page.eval(background), light);

    // A value that cannot be read is reported and not shown as 0.
    processor.process.signal(libc::SIGKILL);
    page.until(
        "unread",
        "/unread: .*metrics processor/.test(document.querySelector('#unread').textContent)",
    );
    assert_eq!(page.eval("document.querySelector('#now-queue').textContent"), "–");

    page.kept_to(
        &format!("{}/", watch.url),
        &["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"],
    );
    // Even a script in the page may reach no other server, not even on this machine.
    let ask = format!(
        "fetch('{}/metrics', {{mode: 'no-cors'}}).then(() => 'asked', () => 'kept')",
        sink.url
    );
    assert_eq!(page.eval(&ask), "kept");

    watch.stop();
    page.until(
        "stale",
        "document.querySelector('#state').textContent.startsWith('stale: no answer')",
    );
}
