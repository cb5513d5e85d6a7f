//! The rows of the fault matrix: a pipeline under load, one thing broken at a time, and the ledger
//! after it. A row that fails has no verdict and does not end the run; the next row finds nothing
//! left of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::arm::{Arm, Bench, emptied};
use super::clock::OwnClock;
use super::commands::{self, LOOPBACK};
use super::disks::SmallFolder;
use super::hosts::{self, Hosts};
use crate::clock;
use crate::failure::Failure;
use crate::lab::experiments::Launch;
use crate::lab::experiments::faults::matrix::{FAULTS, Fault};
use crate::lab::experiments::faults::strike::{Harm, Link, Strike};
use crate::lab::experiments::faults::{Case, launch, row};
use crate::lab::tools;
use crate::lab::{samples, write_json};

/// Time before the fault, and after it: longer where there is much to catch up with.
const BEFORE: Duration = Duration::from_secs(7);
const AFTER: Duration = Duration::from_secs(14);
const AFTER_SLOW: Duration = Duration::from_secs(30);
/// A new connection through a harmed link.
const CONNECTION_WITHIN: Duration = Duration::from_secs(4);
/// Room on the disks that are filled, as tmpfs has it.
const RESULTS_DISK: &str = "64m";
const BROKER_DISK: &str = "2g";
/// One step of the clock meets a wait of librdkafka's or, when an answer just comes, none: several
/// steps at this distance do not all miss.
const STEPS_APART: Duration = Duration::from_millis(370);

/// Runs these rows one after the other.
///
/// # Errors
/// When the hosts cannot be made; [`Failure::Interrupted`].
pub fn run(
    bench: &Bench<'_>,
    hosts: &mut Hosts,
    rows: &[(&'static Fault, Case)],
) -> Result<(), Failure> {
    // For the report: the number of rows that must run to their end.
    let path = bench.out.join(row::MEANT_FILE);
    std::fs::write(&path, format!("{}\n", rows.len()))
        .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    let begun = Instant::now();
    for (fault, case) in rows {
        let mut row = Row::new(bench, hosts, fault, *case);
        let (ran, undone) = (row.run(), row.undo());
        let ended = ran.and(undone);
        let seconds = begun.elapsed().as_secs();
        match ended {
            Ok(()) => log::info!(row = row.launch.arm.as_str(), seconds = seconds; "row ended"),
            Err(why) => {
                // A partly written row has no verdict.
                let _not_written_yet = std::fs::remove_file(row.dir.join(row::FILE));
                if let Failure::Interrupted(_) = why {
                    return Err(why);
                }
                log::error!(row = row.launch.arm.as_str(), why = why.to_string(); "row broke");
            }
        }
    }
    Ok(())
}

/// The names that a user gave.
///
/// # Errors
/// Names the first that is no fault's.
pub fn check_names(names: &[String]) -> Result<(), Failure> {
    let known: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Failure::Usage(format!("fault {name}: allowed: {}", known.join(", ")))),
    }
}

struct Row<'a, 'b> {
    bench: &'a Bench<'a>,
    hosts: &'b mut Hosts,
    fault: &'static Fault,
    case: Case,
    launch: Launch,
    dir: PathBuf,
    /// The prefix of the processors' commands.
    through: Vec<String>,
    /// What the run saw of the fault.
    seen: String,
    /// Start and end of the fault, µs since the epoch.
    began_us: i64,
    ended_us: i64,
    clock: Option<OwnClock>,
    results: Option<SmallFolder>,
    broker_disk: Option<(u32, SmallFolder)>,
}

impl<'a, 'b> Row<'a, 'b> {
    fn new(bench: &'a Bench<'a>, hosts: &'b mut Hosts, fault: &'static Fault, case: Case) -> Self {
        let launch = launch(fault, case);
        Self {
            bench,
            through: hosts.at_processor(),
            hosts,
            fault,
            case,
            dir: bench.out.join(&launch.arm),
            launch,
            seen: String::new(),
            began_us: 0,
            ended_us: 0,
            clock: None,
            results: None,
            broker_disk: None,
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        emptied(&self.dir)?;
        match self.fault.strike {
            Strike::ResultsDiskFull(_) => {
                self.results = Some(SmallFolder::lay(&self.dir, RESULTS_DISK)?);
            }
            Strike::BrokerDiskFull(n, _) => self.small_disk(n)?,
            _ => {}
        }
        let mut arm = Arm::begin(self.bench, &self.launch, &self.dir)?;
        self.sink(&mut arm, "sink")?;
        if let Strike::ClockBack(_) = self.fault.strike {
            let clock = OwnClock::new(&self.dir, &arm.places.bin)?;
            self.through.extend(clock.prefix());
            self.clock = Some(clock);
        }
        self.member(&mut arm, "processor")?;
        if let Strike::ProcessorFrozen(_) = self.fault.strike {
            self.member(&mut arm, "processor-2")?;
        }
        arm.offer(&self.launch, false)?;
        self.rest(BEFORE)?;
        arm.alive()?;
        self.strike(&mut arm)?;
        self.mark()?;
        self.rest(match self.fault.strike {
            Strike::BrokersKilled(&[_, _], _) | Strike::TopicAnew(_) => AFTER_SLOW,
            Strike::LinkHarmed(Harm::Cut, ..) => AFTER_SLOW,
            _ => AFTER,
        })?;
        arm.alive()?;
        arm.children.stop("producer")?;
        let mut producers = vec!["producer".to_owned()];
        if let Strike::Retention(_) = self.fault.strike {
            // The processor cannot count what retention deletes after the processor's end.
            self.rest(Duration::from_secs(4))?;
        }
        if arm.children.runs("producer-2") {
            arm.children.stop("producer-2")?;
            producers.push("producer-2".into());
        }
        arm.finish(&producers)?;
        arm.end()
    }

    /// A sink that is to be killed keeps a journal, with which its replacement goes on.
    fn sink(&self, arm: &mut Arm<'_>, name: &str) -> Result<(), Failure> {
        let journal = match self.fault.strike {
            Strike::SinkKilled(_) => {
                vec!["--journal".into(), self.dir.join("journal.jsonl").display().to_string()]
            }
            _ => Vec::new(),
        };
        arm.sink(name, &self.launch, hosts::SINK, &journal)
    }

    /// A replacement has the address of the one before, so that the watch finds it there.
    fn member(&self, arm: &mut Arm<'_>, name: &str) -> Result<(), Failure> {
        let [first, beside] = hosts::PROCESSOR;
        let listen = if arm.children.runs("processor") { beside } else { first };
        let flags = self.launch.processors.first().map_or("", |(_, flags)| flags);
        arm.processor(name, listen, flags, &self.through)
    }

    fn begins(&mut self) {
        self.began_us = clock::now_us();
    }

    /// Where something is started again, which takes time, the fault ends when the start begins:
    /// what is seen after that may be an effect of the start.
    fn ends(&mut self) {
        self.ended_us = clock::now_us();
    }

    fn strike(&mut self, arm: &mut Arm<'_>) -> Result<(), Failure> {
        let s = Duration::from_secs;
        self.begins();
        match self.fault.strike {
            Strike::ProcessorKilled => {
                arm.children.kill("processor")?;
                self.rest(s(1))?;
                self.ends();
                self.member(arm, "processor-2")?;
            }
            Strike::ProcessorFrozen(seconds) => {
                let pid = arm.children.pid("processor");
                self.note(&format!("kill -STOP {pid}"))?;
                arm.children.signal("processor", Signal::STOP);
                self.rest(s(seconds))?;
                self.note(&format!("kill -CONT {pid}"))?;
                arm.children.signal("processor", Signal::CONT);
                self.ends();
            }
            Strike::BrokersKilled(brokers, seconds) => self.brokers_die(brokers, s(seconds))?,
            Strike::CoordinatorKilled(seconds) => {
                let was = self.bench.cluster.tell(&["coordinator", &arm.places.topic])?;
                let broker = was.parse().map_err(|_| {
                    Failure::Failed(format!("no coordinator of the group: {was:?}"))
                })?;
                self.begins();
                self.brokers_die(&[broker], s(seconds))?;
                let now = self.bench.cluster.tell(&["coordinator", &arm.places.topic])?;
                if now != was {
                    self.seen = format!("broker {was} was the coordinator, {now} is");
                }
            }
            Strike::BrokerDiskFull(n, seconds) => self.disk_fills(n, s(seconds))?,
            Strike::SinkKilled(seconds) => {
                arm.children.kill("sink")?;
                self.rest(s(seconds))?;
                self.ends();
                self.sink(arm, "sink-2")?;
            }
            Strike::SinkTold(command, _, seconds) => {
                let command = format!("{command} --for {seconds}s");
                arm.children.start("chaos", &arm.places.chaos(&command))?;
                arm.children.finished("chaos", s(60))?;
                self.ends();
            }
            Strike::LinkHarmed(harm, link, seconds) => self.link(harm, link, s(seconds))?,
            Strike::ResultsDiskFull(seconds) => self.results_fill(s(seconds))?,
            Strike::ClockBack(steps) => {
                for seconds in steps {
                    self.clock.as_ref().map_or(Ok(()), |clock| clock.step(-seconds))?;
                    self.rest(STEPS_APART)?;
                }
                self.ends();
            }
            Strike::PartitionsAdded(partitions) => self.partitions_added(arm, partitions)?,
            Strike::TopicAnew(seconds) => {
                let (topic, partitions) = (arm.places.topic.clone(), self.launch.partitions);
                self.tell(&["topic", "delete", &topic])?;
                self.rest(s(seconds))?;
                self.tell(&["topic", "create", &topic, "--partitions", &partitions.to_string()])?;
                self.ends();
            }
            Strike::Retention(seconds) => {
                self.rest(s(seconds))?;
                self.ends();
            }
        }
        if !self.seen.is_empty() {
            log::info!(fault = self.fault.name, what = self.seen.as_str(); "seen");
        }
        Ok(())
    }

    /// The controllers take a broker for dead after 9 s, and it was 16 s until every partition
    /// moved again: the fault must last longer, so that others lead for a while.
    fn brokers_die(&mut self, brokers: &[u32], time: Duration) -> Result<(), Failure> {
        for n in brokers {
            self.tell(&["kill", &n.to_string()])?;
        }
        self.rest(time)?;
        self.ends();
        brokers.iter().try_for_each(|n| self.tell(&["start", &n.to_string()]))
    }

    /// A broker does not mind a file that is not its own among the folders of its partitions. It halts at the
    /// first write that fails (the only folder for its logs is gone); an idle one goes on.
    fn small_disk(&mut self, n: u32) -> Result<(), Failure> {
        let (cluster, name) = (self.bench.cluster, n.to_string());
        cluster.tell(&["stop", &name])?;
        self.broker_disk = Some((n, SmallFolder::lay(&cluster.data_of(n), BROKER_DISK)?));
        cluster.tell(&["start", &name]).map(drop)
    }

    fn disk_fills(&mut self, n: u32, time: Duration) -> Result<(), Failure> {
        let cluster = self.bench.cluster;
        let pid =
            cluster.pid(n).ok_or_else(|| Failure::Failed(format!("broker {n} has no process")))?;
        let Some((_, disk)) = &self.broker_disk else { return Ok(()) };
        disk.fill()?;
        let (filled, process) = (Instant::now(), PathBuf::from(format!("/proc/{pid}")));
        let gone = || Ok((!process.exists()).then(|| filled.elapsed().as_secs_f64()));
        let halted = self.bench.interrupt.until(time, gone)?;
        if let Some(after) = halted {
            self.seen = format!("the broker halted itself after {:.0} s", after.ceil());
        }
        self.rest(time.saturating_sub(filled.elapsed()))?;
        self.ends();
        self.broker_disk.as_ref().map_or(Ok(()), |(_, disk)| disk.free())?;
        cluster.tell(&["start", &n.to_string()]).map(drop)
    }

    /// The count of dropped or delayed packets shows that the link is harmed; a new connection from
    /// the processor's host shows the effect.
    fn link(&mut self, harm: Harm, link: Link, time: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        let by = self.hosts.harm(harm, link)?;
        self.rest(Duration::from_secs(3))?; // a bottleneck has filled by then
        let to = match link {
            Link::Brokers => self.bench.cluster.brokers().split(',').next().unwrap_or_default(),
            Link::Sink => hosts::SINK,
        };
        let took = self.connection_to(to);
        self.rest(time.saturating_sub(begun.elapsed()))?;
        let harmed = self.hosts.harmed(harm, link)?;
        let how = if harm == Harm::Delay { "held up" } else { "dropped" };
        let felt = match took {
            Some(took) => format!("{} ms", took.as_millis()),
            None => format!("no connection in {} s", CONNECTION_WITHIN.as_secs()),
        };
        if harmed > 0 && (harm != Harm::Cut || took.is_none()) {
            self.seen = format!("{harmed} packets {how} by {by}; a connection: {felt}");
        }
        self.hosts.heal(link)?;
        self.ends();
        Ok(())
    }

    /// The time of a new connection from the processor's host.
    fn connection_to(&self, address: &str) -> Option<Duration> {
        let (host, port) = address.rsplit_once(':')?;
        let script = format!(": <>/dev/tcp/{host}/{port}");
        let within = CONNECTION_WITHIN.as_secs().to_string();
        let through = self.hosts.at_processor();
        let mut words: Vec<&str> = through.iter().map(String::as_str).collect();
        words.extend(["timeout", &within, "bash", "-c", &script]);
        let begun = Instant::now();
        tools::run(&words).ok().map(|_| begun.elapsed())
    }

    fn results_fill(&mut self, time: Duration) -> Result<(), Failure> {
        let lines = |dir: &Path| {
            let text = std::fs::read_to_string(dir.join(samples::FILE)).unwrap_or_default();
            text.lines().count()
        };
        let before = lines(&self.dir);
        self.results.as_ref().map_or(Ok(()), SmallFolder::fill)?;
        self.rest(time)?;
        if lines(&self.dir) <= before + 2 {
            self.seen = "no sample was written meanwhile".into();
        }
        self.results.as_ref().map_or(Ok(()), SmallFolder::free)?;
        self.ends();
        Ok(())
    }

    /// A producer that is started now knows all partitions. Its ids are above the first producer's.
    fn partitions_added(&mut self, arm: &mut Arm<'_>, partitions: u32) -> Result<(), Failure> {
        let topic = arm.places.topic.clone();
        self.tell(&["topic", "grow", &topic, "--partitions", &partitions.to_string()])?;
        let load = "--rate 500 --first-id 100000000 --msg-size 512 --seed 2";
        arm.children.start("producer-2", &arm.places.producer(LOOPBACK, load))?;
        arm.children.address("producer-2")?;
        self.ends();
        Ok(())
    }

    fn mark(&self) -> Result<(), Failure> {
        let mark = row::Mark {
            fault: self.fault.name.into(),
            queue: self.case.queue.into(),
            load: self.case.load.name.into(),
            offered: self.case.load.offered,
            began_us: self.began_us,
            ended_us: self.ended_us,
            note: self.seen.clone(),
        };
        write_json(&self.dir.join(row::FILE), &mark)
    }

    fn note(&self, line: &str) -> Result<(), Failure> {
        commands::note(&self.dir, line)
    }

    fn tell(&self, words: &[&str]) -> Result<(), Failure> {
        self.note(&format!("run/cluster.sh {}", words.join(" ")))?;
        self.bench.cluster.tell(words).map(drop)
    }

    /// Waits; a signal ends it.
    fn rest(&self, time: Duration) -> Result<(), Failure> {
        self.bench.interrupt.until(time, || Ok(None::<()>)).map(drop)
    }

    /// Undoes the fault: however a row ended, the next one finds nothing left of it.
    fn undo(&mut self) -> Result<(), Failure> {
        let cluster = self.bench.cluster;
        let mut undone = self.hosts.heal(Link::Brokers).and(self.hosts.heal(Link::Sink));
        // A broker may be down.
        undone = undone.and(cluster.tell(&["up"]).map(drop));
        if let Some(results) = self.results.take() {
            undone = undone.and(results.gone());
        }
        if let Some((n, disk)) = self.broker_disk.take() {
            let name = n.to_string();
            let back = cluster.tell(&["stop", &name]).and_then(|_| disk.gone());
            undone = undone.and(back).and(cluster.tell(&["start", &name]).map(drop));
        }
        undone
    }
}
