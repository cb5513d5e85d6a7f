//! The race as data: the contestants, the points, and their laps.
//!
//! Invariant: a curve varies one thing at a time around the default point. Contestants change places from round to
//! round. Round 0 is a warm-up and gives no figure, because brokers that just started compile themselves on the cores that
//! are measured.

use super::settings::{Kind, Settings};
use crate::event::HEADER_BYTES;
use crate::planes::Client;

/// Who runs a lap: its name in the lines, the client of ours that it uses (franz-go has none), and
/// its own flags.
#[derive(Debug, Clone, Copy)]
pub struct Contestant {
    pub who: &'static str,
    pub client: Option<Client>,
    pub flags: &'static str,
}

const OURS: [Contestant; 2] = [
    Contestant { who: "ours wire", client: Some(Client::Wire), flags: "--client wire" },
    Contestant { who: "ours kafka", client: Some(Client::Kafka), flags: "--client kafka" },
];
const FRANZ_GO: Contestant = Contestant { who: "franz-go", client: None, flags: "" };
/// Faster, with more memory, than with its own default of 1 MiB.
const FRANZ_GO_2MIB: Contestant =
    Contestant { who: "franz-go 2MiB", flags: "--fetch-partition-bytes 2097152", ..FRANZ_GO };

/// What a lap runs on. `mode` is its name in the lines: the queue of a race, or what a curve
/// varies.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub mode: &'static str,
    pub queue: &'static str,
    pub partitions: u32,
    pub payload: u64,
    pub workers: u32,
    pub batch: u32,
    /// An event takes so many times longer than at the default point.
    slower: u64,
    /// Not with --quick.
    is_extra: bool,
}

/// The default point.
pub const DEFAULT: Point = Point {
    mode: "default",
    queue: "bounded",
    partitions: 12,
    payload: 512,
    workers: 4,
    batch: 200,
    slower: 1,
    is_extra: false,
};
const EXTRA: Point = Point { is_extra: true, ..DEFAULT };

const RACE: [Point; 3] = [
    Point { mode: "bounded", ..DEFAULT },
    Point { mode: "pull", queue: "pull", ..DEFAULT },
    Point { mode: "unbounded", queue: "unbounded", ..DEFAULT },
];
const PRODUCER: [Point; 1] = [Point { mode: "flat out", ..DEFAULT }];
/// Neighbours share a topic where they can.
const CURVE: [Point; 16] = [
    DEFAULT,
    Point { mode: "workers 1", workers: 1, ..DEFAULT },
    Point { mode: "workers 16", workers: 16, ..DEFAULT },
    Point { mode: "batch 1000", batch: 1000, ..DEFAULT },
    Point { mode: "batch 50", batch: 50, ..EXTRA },
    Point { mode: "batch 5000", batch: 5000, ..EXTRA },
    // One request for each event: some 15,000/s, where the default makes some 500,000.
    Point { mode: "batch 1", batch: 1, slower: 20, ..DEFAULT },
    Point { mode: "partitions 1", partitions: 1, ..DEFAULT },
    Point { mode: "partitions 3", partitions: 3, ..EXTRA },
    Point { mode: "partitions 6", partitions: 6, ..EXTRA },
    Point { mode: "payload 64", payload: 64, ..DEFAULT },
    Point { mode: "payload 256", payload: 256, ..EXTRA },
    Point { mode: "payload 1024", payload: 1024, ..EXTRA },
    Point { mode: "payload 4096", payload: 4096, ..DEFAULT },
    Point { mode: "payload 16384", payload: 16_384, ..EXTRA },
    Point { mode: "payload 65536", payload: 65_536, ..DEFAULT },
];

impl Point {
    /// An event with its header, B.
    pub fn value_bytes(&self) -> u64 {
        self.payload + HEADER_BYTES as u64
    }

    /// The number of events that takes about as long as `all` of the default: as many bytes, but at
    /// most twice as many events, because small events take time by their number.
    fn events(&self, all: u64) -> u64 {
        (all * DEFAULT.value_bytes() / self.value_bytes()).min(2 * all) / self.slower
    }

    fn shares_a_topic(&self, other: &Self) -> bool {
        let topic = |it: &Self| (it.partitions, it.payload, it.slower);
        topic(self) == topic(other)
    }
}

/// One contestant, once, with so many events.
#[derive(Debug)]
pub struct Lap {
    pub round: u64,
    pub events: u64,
    pub point: Point,
    pub by: Contestant,
}

/// Who runs, in turn.
pub fn contestants(settings: &Settings) -> Vec<Contestant> {
    let ours = |client: &Client| OURS.into_iter().find(|it| it.client == Some(*client));
    let mut all: Vec<Contestant> = settings.client.iter().filter_map(ours).collect();
    if settings.kind != Kind::Curve || settings.peers {
        all.push(FRANZ_GO);
    }
    if settings.kind == Kind::Race && settings.peers {
        all.push(FRANZ_GO_2MIB);
    }
    all
}

/// All laps in turn, those that share a topic together. A producer has a new one each time.
pub fn by_topic(settings: &Settings, contestants: &[Contestant]) -> Vec<Vec<Lap>> {
    let points: &[Point] = match settings.kind {
        Kind::Race => &RACE,
        Kind::Producer => &PRODUCER,
        Kind::Curve => &CURVE,
    };
    let chosen = points.iter().filter(|point| !(settings.quick && point.is_extra));
    let points: Vec<Point> = chosen.copied().collect();
    let mut topics: Vec<Vec<Lap>> = Vec::new();
    for points in points.chunk_by(Point::shares_a_topic) {
        let mut laps = Vec::new();
        // One warm-up for all, on one point.
        for round in u64::from(!topics.is_empty())..=settings.rounds() {
            for &point in points.iter().take(if round == 0 { 1 } else { points.len() }) {
                let events = point.events(settings.events());
                let lap = |&by: &Contestant| Lap { round, events, point, by };
                // Nobody always comes first: what a lap leaves behind is the next one's trouble.
                if round > 0 && round % 2 == 0 {
                    laps.extend(contestants.iter().rev().map(lap));
                } else {
                    laps.extend(contestants.iter().map(lap));
                }
            }
        }
        match settings.kind {
            Kind::Producer => topics.extend(laps.into_iter().map(|lap| vec![lap])),
            Kind::Race | Kind::Curve => topics.push(laps),
        }
    }
    topics
}
