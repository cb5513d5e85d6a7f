//! A real headless Chromium, driven through its debugging pipe: JSON, each message ended by a 0,
//! written to its file 3 and read from its file 4. No port, no driver, no client library.
#![allow(dead_code, reason = "every test program compiles this module and uses a part of it")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::PATIENCE;

/// No requests of its own: to Google's hosts, for updates, through the environment's proxy.
const FLAGS: &[&str] = &[
    "--remote-debugging-pipe",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser with one page.
pub struct Browser {
    child: Child,
    /// Closing it ends the browser.
    orders: Option<ChildStdin>,
    answers: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    /// Events that the browser sent: requests, console, exceptions.
    pub events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium with an empty page.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        // The shell moves the two pipes to where Chromium looks for them.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 >/dev/null 2>&1 </dev/null", "sh"]);
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display()));
        // SAFETY: geteuid has no precondition and cannot fail.
        if unsafe { libc::geteuid() } == 0 {
            command.arg("--no-sandbox"); // Chromium refuses to start as root with it
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let orders = child.stdin.take();
        let pipe = BufReader::new(child.stdout.take().expect("piped"));
        let (tx, answers) = channel();
        std::thread::spawn(move || {
            for message in pipe.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                if tx.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            orders,
            answers,
            session: None,
            sent: 0,
            events: vec![],
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the DevTools protocol and waits for its answer.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut order = json!({"id": self.sent, "method": method, "params": params});
        if let Some(session) = &self.session {
            order["sessionId"] = session.as_str().into();
        }
        let pipe = self.orders.as_mut().expect("open");
        pipe.write_all(format!("{order}\0").as_bytes()).expect("is chromium installed?");
        let sent = self.sent;
        let answer = self.hear(&order.to_string(), |message| message["id"] == sent);
        assert!(answer["error"].is_null(), "{order}: {answer}");
        answer["result"].clone()
    }

    /// The next message for which `wanted` is true; earlier ones are kept in `events`.
    fn hear(&mut self, why: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.answers.recv_timeout(left);
            let message = message.unwrap_or_else(|e| panic!("chromium, asked for {why}: {e}"));
            if wanted(&message) {
                return message;
            }
            self.events.push(message);
        }
    }

    /// Opens `url` and waits until all of the page has been read.
    pub fn open(&mut self, url: &str) {
        self.call("Page.setLifecycleEventsEnabled", json!({"enabled": true}));
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{opened}");
        let read = |event: &Value| {
            event["method"] == "Page.lifecycleEvent"
                && event["params"]["name"] == "DOMContentLoaded"
                && event["params"]["loaderId"] == opened["loaderId"]
        };
        if !self.events.iter().any(read) {
            self.hear(url, read);
        }
    }

    /// The value of a JavaScript expression; a promise is awaited.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until `expression` is true; fails with `what` and the page's text.
    pub fn until(&mut self, what: &str, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.eval(expression) != true {
            if Instant::now() > end {
                panic!("never: {what}\n{}", self.eval("document.body.innerText"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Presses the mouse where the element is, as a person would.
    pub fn click(&mut self, selector: &str) {
        let at = self.eval(&format!(
            "(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView(); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let params =
                json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Presses a key that types `text`, such as `("Enter", "\r")`.
    pub fn key(&mut self, key: &str, text: &str) {
        let code = match key {
            "Tab" => 9,
            "ArrowRight" => 39,
            _ => 13,
        };
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}),
        );
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "code": key}));
    }

    /// How many charts have something drawn.
    pub fn charts_drawn(&mut self) -> Value {
        let inked = "[...document.querySelectorAll('canvas')].filter((c) => c.getContext('2d')\
             .getImageData(0, 0, c.width, c.height).data.some((byte) => byte > 0)).length";
        self.eval(inked)
    }

    /// Becomes as wide as a phone: nothing may be wider than the screen.
    pub fn fits_a_phone(&mut self) {
        let phone = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
        self.call("Emulation.setDeviceMetricsOverride", phone);
        self.until("it fits", "document.scrollingElement.scrollWidth <= 390");
    }

    /// Checks that only `own`, `http://HOST:PORT/`, got requests, and that there were no events of
    /// these kinds: exceptions, console output.
    pub fn kept_to(&self, own: &str, kinds: &[&str]) {
        let foreign: Vec<&Value> = self
            .told("Network.requestWillBeSent")
            .map(|request| &request["request"]["url"])
            .filter(|url| !url.as_str().is_some_and(|url| url.starts_with(own) || url == "data:,"))
            .collect();
        assert!(foreign.is_empty(), "asked for {foreign:?}");
        for kind in kinds {
            let hint = |told: &&Value| told["entry"]["level"] != "verbose";
            let told: Vec<&Value> = self.told(kind).filter(hint).collect();
            assert!(told.is_empty(), "{told:?}");
        }
    }

    /// The parameters of every event of this method so far.
    pub fn told(&self, method: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["method"] == method).map(|e| &e["params"])
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.orders.take());
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
