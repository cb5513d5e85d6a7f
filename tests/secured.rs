//! The pipeline on brokers that require TLS and a password: SCRAM end to end by Kafka's own
//! properties file, the other mechanisms, and the messages when one side does not trust the other.
//! `run/test.sh` runs it on the secured listener, whose file is `LAB_COMMAND_CONFIG`.
#![cfg(feature = "tls")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use std::path::{Path, PathBuf};

use common::lab::{audit, figure, ledger, processor, produce, sink, watch};
use common::{Ended, PATIENCE, Running, Topic, brokers};

/// The cluster's folder `secure`: `ca.pem` and `password` of user `lab`.
fn secure() -> PathBuf {
    let file = std::env::var_os("LAB_COMMAND_CONFIG").map(PathBuf::from);
    let file = file.expect("LAB_COMMAND_CONFIG is not set: run this through run/test.sh");
    file.parent().expect("a folder").to_owned()
}

fn password() -> String {
    std::fs::read_to_string(secure().join("password")).expect("the password")
}

/// A properties file by librdkafka's names in `dir`.
fn properties(dir: &Path, protocol: &str, mechanism: &str, ca: &Path, password: &str) -> String {
    let file = dir.join("librdkafka.properties");
    let text = format!(
        "security.protocol={protocol}\nsasl.mechanisms={mechanism}\nsasl.username=lab\n\
         sasl.password={password}\nssl.ca.location={}\n",
        ca.display()
    );
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

/// A producer of ten events with the properties file `config`, run to its end.
fn ten(brokers: &str, topic: &Topic, config: &str) -> Ended {
    let flags = ["--brokers", brokers, "--topic", &topic.name, "--listen", "127.0.0.1:0"];
    let file = ["--command-config", config];
    let load = ["--rate", "1000", "--count", "10"];
    Running::start(env!("CARGO_BIN_EXE_producer"), [&flags[..], &file, &load].concat())
        .end(PATIENCE)
}

/// Prevents: a lab that only its own cluster accepts. The file is the one that Kafka's tools take.
#[test]
fn scram_by_tls_from_end_to_end() {
    let topic = Topic::create("scram", 6);
    let dir = tempfile::tempdir().expect("a folder");
    let to = sink(&["--rate-limit", "1000000"]);
    let out = dir.path().join("watch");
    let watched = processor(&topic, &to, &[]);
    let watch = watch(&topic, &[("processor", &watched)], &out, &["--interval", "200ms"]);
    let produced =
        produce(&topic, &["--rate", "20000", "--count", "40000", "--compression", "lz4"]);
    std::fs::write(dir.path().join("producer.json"), produced.to_string()).expect("written");
    watched.until("all acked", |p| p.metric("processor_events_acked_total", "") >= 40_000.0);
    // A row a partition: its end and its committed offset were read.
    watch.until("no lag of any partition", |w| {
        let rows = w.get("/metrics").matches("kafka_consumergroup_lag{").count();
        rows == 6 && w.metric("kafka_consumergroup_lag", "") == 0.0
    });
    watch.stop();
    let ended = watched.stop();
    let summary = dir.path().join("processor.json");
    std::fs::write(&summary, &ended.stdout).expect("written");
    let flags = ["--processor", &summary.display().to_string()];
    let (ended, counted) = audit(&topic, &to.url, dir.path(), &flags);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!((counted.missing, figure(&ledger(&to), "duplicates")), (0, 0));
}

#[test]
fn every_mechanism_lets_the_lab_in() {
    let topic = Topic::create("mechanisms", 3);
    let dir = tempfile::tempdir().expect("a folder");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let ca = secure().join("ca.pem");
        let config = properties(dir.path(), "SASL_SSL", mechanism, &ca, &password());
        let ended = ten(&brokers(), &topic, &config);
        assert!(ended.status.success(), "{mechanism}: {}", ended.stderr);
    }
    let records = topic.records();
    assert_eq!(records.len(), 30);
}

/// Prevents: a wrong password with which the client waits as if the brokers were down.
#[test]
fn who_is_not_trusted_is_told_why_at_once() {
    let topic = Topic::create("untrusted", 3);
    let dir = tempfile::tempdir().expect("a folder");
    let ca = secure().join("ca.pem");
    let other_ca = dir.path().join("other.pem");
    std::fs::write(&other_ca, OTHER_CA).expect("written");
    for (mechanism, ca, password, words) in [
        ("SCRAM-SHA-512", &ca, "hunter2-9f3c", &["user lab", "SCRAM-SHA-512"][..]),
        ("PLAIN", &ca, "hunter2-9f3c", &["user lab", "PLAIN"]),
        ("PLAIN", &other_ca, "x", &["certificate", "ssl.ca.location"]),
    ] {
        let config = properties(dir.path(), "SASL_SSL", mechanism, ca, password);
        let begun = std::time::Instant::now();
        let ended = ten(&brokers(), &topic, &config);
        // Three steps of a connection are 9 s at most; it is refused at the first broker.
        assert!(begun.elapsed() < PATIENCE / 6, "{:?}", begun.elapsed());
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        let line = ended.stderr.lines().last().expect("an error");
        for word in words.iter().chain(&["librdkafka.properties"]) {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
        assert!(!ended.stderr.contains("hunter2-9f3c"), "the password is shown: {}", ended.stderr);
    }
}

/// A broker that shuts down hangs up too, so the client waits for a listener of the other kind;
/// each line names both causes.
#[test]
fn a_listener_of_the_other_kind_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let list = brokers();
    let (host, port) =
        list.split(',').next().and_then(|at| at.rsplit_once(':')).expect("host:port");
    // Ten ports below is the same broker's listener without TLS.
    let plain = format!("{host}:{}", port.parse::<u16>().expect("a port") - 10);
    let (tls, none) = (dir.path().join("tls"), dir.path().join("none"));
    let ca = secure().join("ca.pem");
    std::fs::write(&tls, format!("security.protocol=SSL\nssl.ca.location={}", ca.display()))
        .expect("written");
    std::fs::write(&none, "security.protocol=PLAINTEXT").expect("written");
    for (at, config, words) in [
        (&plain, &tls, "hangs up on TLS: see security.protocol in"),
        (&list, &none, "speaks TLS: give"),
    ] {
        let flags = ["--brokers", at, "--rate", "1", "--count", "1", "--listen", "127.0.0.1:0"];
        let config = ["--command-config", config.to_str().expect("text")];
        let mut producer =
            Running::start(env!("CARGO_BIN_EXE_producer"), [&flags[..], &config].concat());
        producer.await_log(words);
    }
}

/// A CA that signed nothing here (its key was thrown away).
const OTHER_CA: &str = "-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUVYKA8sYJuMYY77htqoR8srHEglYwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNc29tZSBvdGhlciBDQTAgFw0yNjExMjYwMjA2MjBaGA8yMTI2
MTEwMjAyMDYyMFowGDEWMBQGA1UEAwwNc29tZSBvdGhlciBDQTBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABNRl3QHky1bqW+JxWYrNWwE9nZdz2ZBJ5dVhKKE21ujP
ZI6QJN9dPlpfZrFvy+D9a9cRi5Dt8ryDo6mFVzLFH+ajUzBRMB0GA1UdDgQWBBTr
Lx/t1JJOPZx+xmFLa+kl+ydYejAfBgNVHSMEGDAWgBTrLx/t1JJOPZx+xmFLa+kl
+ydYejAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCVApMWDEq2
d2UOlmVtuXiDhQVmAAixly6DkeKPAI+yGgIgK6uPD+vzVxhuqtGvaiIvoF7qi0ub
02hEGu6PLppJMH4=
-----END CERTIFICATE-----";
