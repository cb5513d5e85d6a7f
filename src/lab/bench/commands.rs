//! The commands of a race, word by word. commands.txt has the same words; `--dry-run` has names in
//! place of values that only a run knows.

use std::path::{Path, PathBuf};

use super::laps::{Lap, Point};
use super::settings::Kind;
use crate::lab::run::commands::{Command, LOOPBACK};

/// The peer's source.
pub const PEER_SOURCE: &str = "benches/peers/franz-go";
/// Above what any producer sends in a second: all is due at once, so the lap measures how fast it
/// is sent.
const FLAT_OUT: &str = "producer --rate 5000000 --linger 1ms --drain-timeout 10m";

/// Where everything is: our programs' folder, the peer's program, its sink (one for all laps: they
/// reset it), the folder of the laps' output.
pub struct Places {
    pub kind: Kind,
    pub bin: PathBuf,
    pub peer: PathBuf,
    pub said: PathBuf,
    pub brokers: String,
    /// Of brokers on this machine, for their CPU time.
    pub broker_pids: Vec<String>,
    pub sink: String,
    pub sink_pid: String,
}

impl Places {
    /// Names in place of values that only a run knows.
    pub fn named(kind: Kind) -> Self {
        Self {
            kind,
            bin: "target/release".into(),
            peer: "target/franz-go/peer".into(),
            said: "DIR".into(),
            brokers: "BROKERS".into(),
            broker_pids: Vec::new(),
            sink: "SINK".into(),
            sink_pid: "PID".into(),
        }
    }

    /// Builds the peer from its folder, for this machine, whatever the user's settings are.
    pub fn build(&self) -> Command {
        let go = "-u GOOS -u GOARCH GOWORK=off GOFLAGS=-buildvcs=false go build -C";
        let mut words = words(Path::new("env"), go);
        words.extend([PEER_SOURCE, "-o", &self.peer.display().to_string(), "."].map(str::to_owned));
        words
    }

    /// Fills a topic.
    pub fn fill(&self, lap: &Lap, topic: &str) -> Command {
        let (brokers, events, payload) = (&self.brokers, lap.events, lap.point.payload);
        let rest = format!("--topic {topic} --count {events} --msg-size {payload}");
        words(&self.peer, &format!("fill --brokers {brokers} {rest}"))
    }

    /// One lap: the peer starts the contestant, watches, checks and measures it, and prints a line. The job is
    /// the same for all.
    pub fn lap(&self, lap: &Lap, topic: &str, group: &str) -> Command {
        let (Self { sink, sink_pid, .. }, Lap { round, events, point, by }) = (self, lap);
        let Point { mode, queue, payload, workers, batch, .. } = point;
        let on = format!("--brokers {} --topic {topic}", self.brokers);
        let (checked_by, ours, peers, job) = if self.kind == Kind::Producer {
            let job = format!("{on} --count {events} --msg-size {payload}");
            (String::new(), FLAT_OUT, "produce", job)
        } else {
            let end = format!("--group {group} --sink http://{sink}");
            let each = format!("--queue {queue} --batch-size {batch} --sink-workers {workers}");
            let checked_by = format!("{end} --sink-pid {sink_pid} --transform digest");
            (checked_by, "processor", "pipe", format!("{on} {end} {each} --transform digest"))
        };
        let mut all = words(
            &self.peer,
            &format!(
                "lap --kind {} --round {round} --events {events} --value-bytes {} {on} {checked_by}",
                self.kind.name(),
                point.value_bytes()
            ),
        );
        for pid in &self.broker_pids {
            all.extend(["--broker-pid".to_owned(), pid.clone()]);
        }
        let said = self.said.join(format!("{round}-{}-{mode}.log", by.who).replace(' ', "-"));
        let said = said.display().to_string();
        all.extend(["--who", by.who, "--mode", mode, "--log", &said, "--"].map(str::to_owned));
        all.extend(if by.client.is_some() {
            let (program, own) = ours.split_once(' ').unwrap_or((ours, ""));
            let rest = format!("{job} {own} {} --listen {LOOPBACK}", by.flags);
            words(&self.bin.join(program), &rest)
        } else {
            words(&self.peer, &format!("{peers} {job} {}", by.flags))
        });
        all
    }
}

/// A path may hold blanks; the words of `rest` have none.
pub fn words(program: &Path, rest: &str) -> Command {
    let program = program.display().to_string();
    std::iter::once(program).chain(rest.split_whitespace().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use argh::FromArgs as _;

    use super::super::laps;
    use super::super::settings::Settings;
    use super::*;
    use crate::lab::run::commands::line;

    /// `ROUND MODE WHO` of each lap and its command, by topic.
    fn laps_of(flags: &str) -> Vec<Vec<(String, String)>> {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let settings = Settings::from_args(&["lab"], &flags).expect("flags");
        let places = Places::named(settings.kind);
        let said = |lap: &Lap| {
            let name = format!("{} {} {}", lap.round, lap.point.mode, lap.by.who);
            (name, line(&places.lap(lap, "T", "G")))
        };
        let topics = laps::by_topic(&settings, &laps::contestants(&settings));
        topics.iter().map(|laps| laps.iter().map(said).collect()).collect()
    }

    /// Prevents: a contestant that has another job than its rival.
    #[test]
    fn a_race_is_each_queue_in_turn_after_a_warm_up() {
        let race = laps_of("race --quick --rounds 1 --client wire --peers").concat();
        let names: Vec<&str> = race.iter().map(|(name, _)| name.as_str()).collect();
        let each =
            |of: &str| ["ours wire", "franz-go", "franz-go 2MiB"].map(|who| format!("{of} {who}"));
        assert_eq!(names, ["0 bounded", "1 bounded", "1 pull", "1 unbounded"].map(each).concat());
        let second = laps_of("race --quick --rounds 2 --client wire").concat();
        let second: Vec<&str> = second.iter().map(|(name, _)| name.as_str()).collect();
        let places = ["1 bounded ours wire", "1 bounded franz-go", "2 bounded franz-go"];
        let place = |name: &&str| second.iter().position(|it| it == name).expect("a lap");
        assert!(places.iter().map(place).is_sorted(), "{second:?}");
        assert!(place(&"2 bounded franz-go") < place(&"2 bounded ours wire"), "{second:?}");
        let lap = "target/franz-go/peer lap --kind race --round 0 --events 200000 --value-bytes 536 \
                   --brokers BROKERS --topic T --group G --sink http://SINK --sink-pid PID \
                   --transform digest --who";
        let job = "--brokers BROKERS --topic T --group G --sink http://SINK --queue bounded \
                   --batch-size 200 --sink-workers 4 --transform digest";
        let [ours, _, peers] = [0, 1, 2].map(|at| race[at].1.as_str());
        assert_eq!(
            ours,
            format!(
                "{lap} 'ours wire' --mode bounded --log DIR/0-ours-wire-bounded.log -- \
                 target/release/processor {job} --client wire --listen 127.0.0.1:0"
            )
        );
        let flags = "--fetch-partition-bytes 2097152";
        assert!(peers.ends_with(&format!("target/franz-go/peer pipe {job} {flags}")), "{peers}");
    }

    #[test]
    fn a_producer_has_a_new_topic_each_time() {
        let topics = laps_of("producer --rounds 1 --client kafka");
        let [_, _, ours, peers] = &topics[..] else { panic!("{topics:?}") };
        let job = "--brokers BROKERS --topic T --count 1000000 --msg-size 512";
        let flat_out = "--rate 5000000 --linger 1ms --drain-timeout 10m --client kafka --listen";
        let ends = format!("-- target/release/producer {job} {flat_out} 127.0.0.1:0");
        assert!(ours.len() == 1 && ours[0].1.ends_with(&ends), "{ours:?}");
        let ends = format!("-- target/franz-go/peer produce {job}");
        assert!(peers.len() == 1 && peers[0].1.ends_with(&ends), "{peers:?}");
    }

    /// Prevents: a point that varies two things, or takes all day.
    #[test]
    fn a_curve_varies_one_thing_at_a_time() {
        let counts = |flags: &str| laps_of(flags).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(counts("curve --client wire"), [7, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(counts("curve --client wire --quick --peers"), [10, 2, 2, 2, 2, 2]);
        let all = laps_of("curve --client wire --events 200000").concat();
        for (mode, what) in [
            ("batch 1", "--events 10000 --value-bytes 536"),
            ("payload 64", "--events 400000 --value-bytes 88"),
            ("payload 65536", "--events 1635 --value-bytes 65560"),
            ("workers 16", "--batch-size 200 --sink-workers 16"),
        ] {
            let lap = all.iter().find(|(name, _)| *name == format!("1 {mode} ours wire"));
            assert!(lap.is_some_and(|(_, command)| command.contains(what)), "{mode}: {lap:?}");
        }
    }
}
