//! `lab watch` and `lab audit` as a user runs them: the real cluster, the real producer and sink.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::lab::{self, commit, commit_with, outsider};
use crate::common::{PATIENCE, Running, Topic, brokers};
use crate::sinks::{Sink, event};
use backpressure_lab::brokers::Brokers;
use backpressure_lab::event::Event;
use backpressure_lab::lab::audit::Ledger;
use backpressure_lab::lab::lag::LagReader;
use backpressure_lab::lab::samples::{self, ProcessReading, Sample};
use backpressure_lab::planes::Isolation;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const LAB: &str = env!("CARGO_BIN_EXE_lab");

/// Produces `count` events into `topic`; returns the folder's `producer.json`.
fn produce(topic: &Topic, count: u32, dir: &Path) -> String {
    let flags = format!("--count {count} --rate 5000 --listen 127.0.0.1:0 --topic {}", topic.name);
    let ended = Running::start(env!("CARGO_BIN_EXE_producer"), flags.split(' ')).end(PATIENCE);
    assert!(ended.status.success(), "{ended:?}");
    let path = dir.join("producer.json");
    std::fs::write(&path, ended.stdout).expect("written");
    path.display().to_string()
}

/// Prevents: a lag that is not end less committed; a watch that joins the group it watches; a
/// process that ended and still has memory; a watch that does not end with 0 on SIGTERM.
#[test]
fn watch_sees_the_lag_and_an_ended_process_and_never_joins_the_group() {
    let (topic, dir) = (Topic::create("watch", 3), tempfile::tempdir().expect("dir"));
    let group = topic.name.as_str();
    produce(&topic, 1000, dir.path());
    let of_0 = topic.records().iter().filter(|r| r.partition == 0).count() as i64;
    commit(&topic, &[(0, of_0 - 10)]);

    let mut sleep = Command::new("sleep").arg("600").spawn().expect("sleep");
    let flags = format!(
        "watch --topic {group} --group {group} --process asleep={} --metrics \
         ghost=http://127.0.0.1:1/metrics --interval 200ms --listen 127.0.0.1:0 --out {}",
        sleep.id(),
        dir.path().display()
    );
    let mut watch = Running::start(LAB, flags.split(' '));
    watch.await_log("msg=listening");
    let path = dir.path().join(samples::FILE);
    until(&path, |s| s.log.as_ref().is_some_and(|log| log.lag == Some(1000 - of_0 + 10)));
    let alive = |s: &Sample| matches!(s.processes["asleep"], ProcessReading::Alive { .. });
    until(&path, alive);
    sleep.kill().expect("killed");
    sleep.wait().expect("reaped");
    let last = until(&path, |s| !alive(s));
    assert!(last.unread.iter().any(|why| why.contains("ghost")), "{:?}", last.unread);
    assert!(last.metrics.is_empty(), "what was not read is not there");
    assert_eq!(last.log.expect("read").partitions[&1].committed, None);

    let said = watch.log();
    let addr = said.split("addr=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let addr = addr.expect("addr").to_owned();
    let page = ureq::get(format!("http://{addr}/metrics")).call().expect("page");
    let page = page.into_body().read_to_string().expect("text");
    let row = format!(
        "kafka_consumergroup_lag{{consumergroup=\"{group}\",partition=\"0\",topic=\"{group}\"}} 10"
    );
    assert!(page.contains(&row), "{page}");
    let groups = outsider(group).fetch_group_list(Some(group), PATIENCE).expect("groups");
    assert!(groups.groups().iter().all(|g| g.members().is_empty()), "the watch is a member");

    watch.signal(libc::SIGTERM);
    let ended = watch.end(PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

/// Waits for a sample for which `wanted` is true.
fn until(path: &Path, wanted: impl Fn(&Sample) -> bool) -> Sample {
    let end = Instant::now() + PATIENCE;
    loop {
        let last = path.exists().then(|| samples::read(path).ok()?.pop()).flatten();
        if let Some(last) = last.clone().filter(&wanted) {
            return last;
        }
        assert!(Instant::now() < end, "the last sample: {last:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Prevents: a ledger that adds up although an id is nowhere; one that counts an id twice; one that
/// starts at the log start offset and not at the committed offset.
#[test]
fn audit_accounts_for_every_id_and_names_the_one_that_is_lost() {
    let (topic, sink) = (Topic::create("audit", 3), Sink::start(&[]));
    let dir = tempfile::tempdir().expect("dir");
    let producer = produce(&topic, 300, dir.path());
    let audit = || -> (Option<i32>, Ledger) {
        let (ended, ledger) = lab::audit(&topic, &sink.url, dir.path(), &[]);
        (ended.status.code(), ledger)
    };

    // Nothing delivered, nothing committed: all of it is in the log, and nobody is known to read it.
    let (code, ledger) = audit();
    assert_eq!((code, ledger.in_log, ledger.delivered), (Some(1), 300, 0));

    // One partition is committed to its end and delivered, except for one id.
    let ids: BTreeSet<u64> = topic
        .records()
        .iter()
        .filter(|r| r.partition == 1)
        .map(|r| Event::decode(r.value.as_deref().expect("a value")).expect("an event").id)
        .collect();
    let lost = *ids.iter().nth(ids.len() / 2).expect("an id");
    commit(&topic, &[(1, ids.len() as i64)]);
    let caller = sink.caller();
    let deliver = |id: u64| assert_eq!(caller.write(&event(id, id)).status, 200);
    ids.iter().filter(|id| **id != lost).for_each(|id| deliver(*id));
    let (code, ledger) = audit();
    assert_eq!((code, ledger.missing, ledger.wrong()), (Some(3), 1, 1));
    assert_eq!((ledger.examples, ledger.held), (vec![lost], None));

    // Delivered late, twice, and one of another partition that is still in the log as well.
    let other = (0..300).find(|id| !ids.contains(id)).expect("another");
    [lost, lost, other].into_iter().for_each(deliver);
    let (code, ledger) = audit();
    assert_eq!(code, Some(0));
    assert_eq!((ledger.delivered, ledger.again, ledger.duplicates), (ids.len() as u64 + 1, 1, 1));
    assert_eq!(ledger.delivered + ledger.in_log - ledger.again, 300);

    // Another group: all would be in the log, and nobody to blame.
    let (ended, ledger) = lab::audit_of("nobody", &topic, &sink.url, dir.path(), &[]);
    assert_eq!((ended.status.code(), ledger.wrong()), (Some(1), 0));
    let words = ["group nobody has committed nothing", "--group"];
    assert!(words.iter().all(|word| ended.stderr.contains(word)), "{}", ended.stderr);

    // The summary of a producer that ended with unsent events covers only the ids below its first
    // unsent one.
    let said = std::fs::read_to_string(&producer).expect("the summary");
    let cut = said.replace("\"acked_below\":300", "\"acked_below\":200");
    assert_ne!(cut, said);
    std::fs::write(&producer, cut).expect("written");
    let (code, ledger) = audit();
    assert_eq!((code, ledger.produced, ledger.beyond), (Some(0), 200, 100));
}

/// The lag of a reader of that isolation, by the offsets of the topic's group.
fn lag(topic: &Topic, isolation: Isolation) -> Option<i64> {
    let brokers = Brokers::parse(&brokers()).expect("a list");
    let reading = LagReader::new(&brokers, &topic.name, &topic.name, isolation).read();
    assert!(reading.unread.is_empty(), "{:?}", reading.unread);
    reading.lag
}

/// Prevents: an open transaction that hides later records from watch and audit, though the
/// processor reads them; aborted records counted for a reader that leaves them out, or not counted
/// for one that does not.
#[test]
fn transactions_count_as_the_processor_reads_them() {
    let (topic, sink) = (Topic::create("transactions", 1), Sink::start(&[]));
    let dir = tempfile::tempdir().expect("dir");
    commit(&topic, &[(0, 0)]); // the cluster's first group takes a while
    let transaction: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("transactional.id", &topic.name)
        .create()
        .expect("a producer");
    transaction.init_transactions(PATIENCE).expect("a transaction coordinator");
    let begin = |ids: std::ops::Range<u64>| {
        transaction.begin_transaction().expect("begun");
        for id in ids {
            let mut value = Vec::new();
            event(id, id).encode(&mut value);
            let record = BaseRecord::<str, [u8]>::to(&topic.name).partition(0).payload(&value);
            transaction.send(record).map_err(|(e, _)| e).expect("queued");
        }
        transaction.flush(PATIENCE).expect("flushed");
    };
    begin(1_000_000..1_000_010);
    transaction.abort_transaction(PATIENCE).expect("aborted");
    begin(2_000_000..2_000_005); // and left open
    produce(&topic, 300, dir.path());
    // With the marker of the aborted one.
    assert_eq!(lag(&topic, Isolation::ReadUncommitted), Some(10 + 1 + 5 + 300));
    assert_eq!(lag(&topic, Isolation::ReadCommitted), Some(10 + 1));

    let audit = |flags: &[&str]| {
        let (ended, ledger) = lab::audit(&topic, &sink.url, dir.path(), flags);
        (ended.status.code(), ledger.in_log, ledger.log_records, ledger.missing)
    };
    assert_eq!(audit(&[]), (Some(0), 300, 315, 0));
    let committed = ["--isolation", "read-committed"];
    assert_eq!(audit(&committed), (Some(3), 0, 0, 300), "all of it is behind the open one");
    transaction.abort_transaction(PATIENCE).expect("aborted");
    // The coordinator answers before the partition has the marker.
    crate::common::until("the marker is there", || {
        lag(&topic, Isolation::ReadCommitted) != Some(10 + 1)
    });
    assert_eq!(audit(&committed), (Some(0), 300, 300, 0));
}

/// Prevents: lag of records that retention deleted, and none of a recreated topic: the coordinator
/// may keep the offsets of the deleted one.
#[test]
fn only_what_is_in_the_log_is_lag() {
    let (topic, sink) = (Topic::create("retained", 1), Sink::start(&[]));
    let dir = tempfile::tempdir().expect("dir");
    produce(&topic, 300, dir.path());
    commit_with(&topic, &[(0, 5000)], &format!("topic-id={:032x}", 1));
    assert_eq!(lag(&topic, Isolation::ReadUncommitted), Some(300));
    let audit = || {
        let (ended, ledger) = lab::audit(&topic, &sink.url, dir.path(), &[]);
        (ended.status.code(), ledger.in_log, ledger.missing)
    };
    assert_eq!(audit(), (Some(1), 300, 0), "in this log the group has committed nothing");
    commit(&topic, &[(0, 100)]);
    topic.delete_before(250);
    assert_eq!(lag(&topic, Isolation::ReadUncommitted), Some(50));
    assert_eq!(audit(), (Some(3), 50, 250), "what retention took is nowhere");
    topic.delete_before(300);
    assert_eq!(lag(&topic, Isolation::ReadUncommitted), Some(0));
}

/// Prevents: shed events that are accounted for by their number, so that one which is lost hides
/// behind another; ids that are gone with the processor.
#[test]
fn every_shed_id_is_accounted_for_by_itself() {
    let dir = tempfile::tempdir().expect("dir");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (topic, sink) = (Topic::create("audit-shed", 3), lab::sink(&[]));
    let shed_ids = path("shed.ids");
    let flags = ["--policy", "shed", "--queue-cap", "100", "--shed-ids", &shed_ids];
    let processor = lab::processor(&topic, &sink, &flags);
    processor.until("partitions are held", |p| p.metric("processor_partitions", "") == 3.0);
    let produced = lab::produce(&topic, &["--rate", "8000", "--count", "16000"]);
    std::fs::write(path("producer.json"), produced.to_string()).expect("written");
    processor.until("all is fetched and settled", |p| {
        p.metric("processor_events_acked_total", "") + p.metric("processor_events_shed_total", "")
            == 16000.0
    });
    std::fs::write(path("processor.json"), processor.stop().stdout).expect("written");
    let processor_json = path("processor.json");
    let files = ["--processor", &processor_json, "--shed-ids", &shed_ids];
    let audit = || lab::audit(&topic, &sink.url, dir.path(), &files);

    let (ended, ledger) = audit();
    assert_eq!((ended.status.code(), ledger.wrong()), (Some(0), 0), "{ended:?}");
    assert!(ledger.shed > 1000 && ledger.delivered > 1000, "{ledger:?}");
    assert_eq!(ledger.delivered + ledger.shed + ledger.in_log - ledger.again, 16000);
    assert_eq!((ledger.held, ledger.duplicates), (Some(0), 0));

    let text = std::fs::read_to_string(&shed_ids).expect("ids");
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let lost: u64 = lines.swap_remove(lines.len() / 2).trim_end().parse().expect("an id");
    std::fs::write(&shed_ids, lines.concat()).expect("written");
    let (ended, ledger) = audit();
    assert_eq!((ended.status.code(), ledger.examples), (Some(3), vec![lost]), "{ended:?}");
    assert!(ended.stderr.contains(&format!("[{lost}]")), "{ended:?}");

    // A missing file is a mistake; with an empty one the shed ids have no fate. (A killed processor
    // leaves no summary.)
    std::fs::write(path("processor.json"), "").expect("emptied");
    std::fs::remove_file(&shed_ids).expect("removed");
    let (ended, _earlier) = audit();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("--shed-ids"), "{ended:?}");
    std::fs::write(&shed_ids, "").expect("emptied");
    let (ended, again) = audit();
    assert_eq!((ended.status.code(), again.held), (Some(3), None), "{ended:?}");
    assert_eq!((again.delivered, again.missing), (ledger.delivered, ledger.shed + 1));
}

/// Prevents: a lag that climbs under a green "live" for a group that does not exist; the unnoticed
/// death of a consumer.
#[test]
fn a_group_that_is_not_there_and_one_that_nobody_reads_for_are_named() {
    let (topic, sink, dir) =
        (Topic::create("mien", 3), lab::sink(&[]), tempfile::tempdir().expect("dir"));
    lab::produce(&topic, &["--rate", "1000", "--count", "300"]);
    let mut watch = lab::watch(&topic, &[("sink", &sink)], &dir.path().join("a"), &[]);
    let said = |watch: &lab::Served, what: &str| watch.get("/live").contains(what);
    let none = format!("there is no group {0} that reads {0}", topic.name);
    watch.until("no such group", |it| said(it, &none));
    watch.process.await_log(&none);
    assert_eq!(watch.metric("kafka_consumergroup_members", ""), 0.0);

    let processor = lab::processor(&topic, &sink, &["--commit-interval", "100ms"]);
    watch.until("nothing is amiss", |it| said(it, "\"notes\":[]"));
    watch.until("its member", |it| it.metric("kafka_consumergroup_members", "") == 1.0);
    watch.until("its offsets", |it| {
        it.metric("kafka_consumergroup_current_offset", "") == 300.0
            && it.metric("kafka_topic_partition_current_offset", "") == 300.0
    });
    assert_eq!(watch.metric("watch_last_look_complete", ""), 1.0);
    processor.stop();
    let left = format!("group {} has no members", topic.name);
    watch.until("it left", |it| said(it, &left));
    watch.process.await_log(&left);
}

/// Prevents: a wrong flag that starts anything, or that is not named.
#[test]
fn flags_that_cannot_be_used_end_with_2_and_name_themselves() {
    for (flags, named) in [
        ("watch --out /tmp --process sink=x", "sink=x"),
        ("watch --out /tmp --topic a/b", "--topic \"a/b\""),
        ("watch --out /tmp --brokers PLAINTEXT://a:1", "--brokers PLAINTEXT://a:1"),
        ("watch --out /tmp --isolation committed", "--isolation"),
        ("audit --producer /nowhere --topic ..", "--topic \"..\""),
        ("audit --producer /nowhere --brokers PLAINTEXT://a:1", "--brokers PLAINTEXT://a:1"),
        ("audit --producer /nowhere --isolation committed", "--isolation"),
        ("watch --out /tmp --metrics sink", "sink"),
        ("watch --out /tmp --interval 1ms", "--interval"),
        ("watch --out /tmp --process a=1 --until-gone b", "--until-gone b"),
        ("watch --out /tmp --process gone=2147483647", "gone=2147483647"),
        ("predict --schedule 1500", "--schedule"),
        ("predict --shedule 1500:1s", "Did you mean \"--schedule\"?"),
        ("predict --schedule 5:5s --replication=4", "--replication 4"),
        ("watch --out /tmp --plan /nowhere/plan.json", "--plan /nowhere/plan.json"),
        ("watch --out /tmp --sink 127.0.0.1:9900", "--sink 127.0.0.1:9900"),
        // An address with a password, which every message about it would show.
        ("watch --out /tmp --sink http://a:secret@b:1", "--sink http://…@b:1"),
        ("watch --out /tmp --heap http://a:secret@b:1", "--heap http://…@b:1"),
        ("watch --out /tmp --metrics sink=http://a:secret@b:1/m", "--metrics sink=http://…@b:1/m"),
        ("watch --out /tmp --metrics http://a:secret@b:1/m", "--metrics http://…@b:1/m"),
        ("watch --out /tmp --metrics sink=https://b:1/m", "--metrics sink=https://b:1/m"),
        ("audit --producer /nowhere --sink http://a:secret@b:1", "--sink http://…@b:1"),
        ("audit --producer /nowhere --sink b:1", "--sink b:1"),
        ("report --experiment exp0 /tmp", "exp0"),
        ("report /tmp", "--slo"),
        ("plan --experiment exp2 --form slow /tmp", "slow"),
        ("plan --experiment exp0 --form quick /tmp", "exp0"),
    ] {
        let ended = Running::start(LAB, flags.split(' ')).end(PATIENCE);
        assert_eq!(ended.status.code(), Some(2), "{flags}: {ended:?}");
        assert!(ended.stderr.contains(named), "{flags}: {ended:?}");
        assert!(!ended.stderr.contains("secret"), "{flags}: {ended:?}");
    }
}
