//! Readings of brokers that are not there: `brokers::fake`.

use kafka_protocol::messages::ApiKey;

use super::*;
use crate::brokers::fake::{Cluster, Model, Partition, TOPIC};

const ID: u128 = 7;

/// A partition that `leader` leads: 100 to 1,000, an open transaction from 400 on, 300 committed.
fn partition(leader: i32) -> Partition {
    let committed = group::commit_metadata(ID);
    Partition {
        leader,
        start: 100,
        high_watermark: 1000,
        last_stable: 400,
        committed: 300,
        metadata: committed,
        ..Partition::default()
    }
}

fn cluster(brokers: i32, partitions: impl IntoIterator<Item = Partition>) -> Cluster {
    let partitions = (0..).zip(partitions).collect();
    Cluster::start(brokers, Model { topic_id: ID, partitions, ..Model::default() })
}

fn reader(cluster: &Cluster, isolation: Isolation) -> LagReader {
    LagReader::new(&cluster.brokers(), TOPIC, "g", isolation)
}

fn lags(reading: &LogReading) -> Vec<Option<i64>> {
    reading.partitions.values().map(|row| row.lag).collect()
}

/// Prevents: a request for each partition; a connection for each round.
#[test]
fn a_round_asks_a_leader_twice_however_many_partitions_it_has() {
    let cluster = cluster(2, (0..1000).map(|n| partition(n % 2)));
    let mut reader = reader(&cluster, Isolation::ReadUncommitted);
    for round in 1..=3 {
        let reading = reader.read();
        assert_eq!((reading.lag, &reading.unread), (Some(700_000), &vec![]), "round {round}");
        for id in 0..2 {
            assert_eq!(cluster.asked(id, ApiKey::ListOffsets), 2 * round, "broker {id}");
        }
        let all = |key| cluster.asked(0, key) + cluster.asked(1, key);
        assert_eq!((all(ApiKey::Metadata), all(ApiKey::OffsetFetch)), (round, round));
    }
    // Of broker 1 only the leader's connection: the others ask broker 0, the first and the coordinator.
    assert_eq!(cluster.asked(1, ApiKey::ApiVersions), 1);
}

/// Prevents: a lag of a reader of uncommitted records that an open transaction hides (and one of a
/// reader of committed records that it does not).
#[test]
fn an_open_transaction_holds_back_readers_of_committed_records_alone() {
    let mut late = partition(0);
    late.committed = 500; // by another reader, after the transaction's start
    let mut foreign = partition(0);
    foreign.committed = 5000; // of a log that is gone
    let cluster = cluster(1, [partition(0), late, foreign]);
    let read = |isolation| lags(&reader(&cluster, isolation).read());
    assert_eq!(read(Isolation::ReadUncommitted), [Some(700), Some(500), Some(900)]);
    assert_eq!(read(Isolation::ReadCommitted), [Some(100), Some(0), Some(300)]);
}

/// Prevents: lag of events that cannot be read, and none where all of a new topic is still to be
/// read.
#[test]
fn only_what_is_in_this_log_is_lag() {
    let with = |committed, metadata: &str| Partition {
        committed,
        metadata: metadata.to_owned(),
        ..partition(0)
    };
    let other = group::commit_metadata(ID + 1);
    let cases = [
        (with(300, ""), Some(300), 700),
        (with(300, "text of another client"), Some(300), 700),
        (with(-1, ""), None, 900),
        // Retention has deleted all of it.
        (with(20, ""), Some(20), 900),
        (Partition { start: 1000, ..with(20, "") }, Some(20), 0),
        // Of a topic that was deleted: by the lab's metadata, and above all offsets of the log.
        (with(300, &other), None, 900),
        (with(5000, &other), None, 900),
        (with(5000, ""), None, 900),
        (with(1000, ""), Some(1000), 0),
    ];
    let cluster = cluster(1, cases.iter().map(|(partition, ..)| partition.clone()));
    let reading = reader(&cluster, Isolation::ReadUncommitted).read();
    for (row, (_, committed, lag)) in reading.partitions.values().zip(&cases) {
        assert_eq!((row.committed, row.lag), (*committed, Some(*lag)), "{row:?}");
    }
}

/// Prevents: one partition's error that loses the lag of all; a 0 for an unknown lag.
#[test]
fn one_partitions_error_is_its_own() {
    let moved = Partition { error: 6, ..partition(0) };
    let unstable = Partition { committed_error: 88, ..partition(0) };
    let leaderless = partition(-1);
    let cluster = cluster(1, [partition(0), moved, unstable, leaderless]);
    let reading = reader(&cluster, Isolation::ReadUncommitted).read();
    assert_eq!(lags(&reading), [Some(700), None, None, None]);
    assert_eq!(reading.partitions[&2].end, Some(1000), "its end is known");
    assert_eq!(reading.lag, None);
    for said in [
        "[1]: end of the log: error code 6",
        "[2]: committed offset: error code 88",
        "[3]: end of the log: it has no leader",
    ] {
        assert!(
            reading.unread.iter().any(|why| why.contains(said)),
            "{said}: {:?}",
            reading.unread
        );
    }
}

/// Prevents: a broker that is frozen taking the others' partitions along, or holding a round up for
/// longer than its own timeouts; one that comes back being missed for ever.
#[test]
fn a_silent_broker_leaves_a_hole_in_its_own_partitions() {
    let cluster = cluster(3, [partition(0), partition(1), partition(2), partition(1)]);
    let mut reader = reader(&cluster, Isolation::ReadUncommitted);
    assert_eq!(reader.read().lag, Some(2800));
    cluster.model.lock().silent.insert(1);
    let begun = Instant::now();
    let reading = reader.read();
    assert!(begun.elapsed() < TIMEOUT * 2, "{:?}", begun.elapsed());
    assert_eq!(lags(&reading), [Some(700), None, Some(700), None]);
    let unread = reading.unread.concat();
    assert!(unread.starts_with("partitions [1, 3]: end of the log: broker "), "{unread}");
    assert!(unread.ends_with(": no answer within 3 s"), "once: {unread}");
    cluster.model.lock().silent.clear();
    assert_eq!(reader.read().lag, Some(2800));
}

/// Prevents: a watch without data because the one broker of its list is down.
#[test]
fn the_brokers_that_were_heard_of_are_asked_when_the_list_is_down() {
    let cluster = cluster(2, [partition(1)]);
    let listed = cluster.brokers().hosts().next().map(str::to_owned);
    let brokers = cluster.brokers().at(listed);
    let mut reader = LagReader::new(&brokers, TOPIC, "g", Isolation::ReadUncommitted);
    assert_eq!(reader.read().lag, Some(700));
    cluster.model.lock().down.insert(0);
    let reading = reader.read();
    assert_eq!((reading.partitions[&0].end, reading.lag), (Some(1000), None), "no coordinator");
    assert_eq!(cluster.asked(1, ApiKey::Metadata), 1);
    cluster.model.lock().down = [1].into();
    assert_eq!(reader.read().partitions[&0].end, None);
    cluster.model.lock().down.clear();
    assert_eq!(reader.read().lag, Some(700));
}
