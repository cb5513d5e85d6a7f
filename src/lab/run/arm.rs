//! One arm, from its topic to its ledger: topic, sink, processors, producer, watch; then the processors are
//! stopped, every id is audited, and the topic is deleted.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use argh::FromArgs;
use rustix::process::Signal;

use super::children::{Children, code};
use super::cluster::Cluster;
use super::commands::{self, Places};
use super::interrupt::{Interrupt, LOOK};
use super::memory::Limit;
use crate::failure::Failure;
use crate::lab::experiments::Launch;
use crate::lab::run_folder::{KILLED_FILE, Killed, WATCHED};
use crate::lab::samples::ProcessReading;
use crate::lab::scrape::Target;
use crate::lab::{audit, autopsy, heaps, watch, write_json};
use crate::threads::{self, Stop};

/// For the group to hold all partitions; for one page of metrics.
const JOIN_WITHIN: Duration = Duration::from_secs(40);
const PAGE_WITHIN: Duration = Duration::from_secs(2);
/// Ports for a server whose address must be known before it starts: below the range from which the system
/// takes those of outgoing connections.
const FIRST_PORT: u32 = 20_000;
const PORTS: u32 = 12_000;
/// The live page's port, from the cluster's first: the same for every arm, so that a page stays open.
const LIVE_PORT: u16 = 200;

/// Where arms are run.
pub struct Bench<'a> {
    /// Which experiment's.
    pub experiment: &'a str,
    /// The brokers.
    pub cluster: &'a Cluster,
    /// Folder of the results.
    pub out: &'a Path,
    /// What ends a run early.
    pub interrupt: &'a Interrupt,
}

impl Bench<'_> {
    /// Runs one arm; its folder then holds all that a report reads.
    ///
    /// # Errors
    /// When a process, the cluster or a file does not do as it should; [`Failure::Interrupted`].
    pub fn run(&self, launch: &Launch) -> Result<(), Failure> {
        log::info!(experiment = self.experiment, arm = launch.arm; "arm begins");
        let dir = self.out.join(launch.arm);
        emptied(&dir)?;
        let topic = Topic::create(self, launch, &dir)?;
        let mut children = Children::new(&dir, self.interrupt);
        let mut places = Places {
            bin: programs()?,
            brokers: self.cluster.brokers().to_owned(),
            topic: topic.name.clone(),
            dir: dir.clone(),
            sink: String::new(),
            producer: free_address()?,
            live: live_address(self.cluster.brokers())?,
        };
        let sink = children.start("sink", &places.sink(launch))?;
        places.sink = children.address("sink")?;
        let limit = self.limit(launch);
        let mut processes = vec![("sink".to_owned(), sink.to_string())];
        let mut pages = Vec::new();
        for (name, flags) in &launch.processors {
            let mut command = limit.as_ref().map(|limit| limit.prefix.clone()).unwrap_or_default();
            command.extend(places.processor(name, flags));
            processes.push((name.clone(), children.start(name, &command)?.to_string()));
            pages.push((name.clone(), children.address(name)?));
        }
        self.await_group(launch, &mut children, &pages)?;
        let producer = children.start("producer", &places.producer(launch))?;
        processes.push(("producer".into(), producer.to_string()));
        children.address("producer")?;
        let begun = Instant::now();
        processes.extend(self.cluster.pids());
        let heap = pages.first().filter(|_| limit.is_some()).map(|(_, at)| at.as_str());
        let watch = Watch::start(&dir, &places.watch(&processes, &pages, heap))?;
        self.await_load(launch, begun, &places, &mut children, limit.as_ref(), &watch)?;

        for name in launch.processors.iter().map(|(name, _)| name) {
            if children.runs(name) {
                children.stop(name)?;
            }
        }
        let names: Vec<String> = launch.processors.iter().map(|(name, _)| name.clone()).collect();
        self.audit(launch, &dir, &places.audit(&names))?;
        watch.end()?;
        children.stop("sink")?;
        drop(limit);
        if dir.join(heaps::LAST).exists() {
            let command = places.autopsy();
            commands::note(&dir, &commands::line(&command))?;
            let found = autopsy::made(&settings(&command)?)?;
            write_json(&dir.join(autopsy::FILE), &found)?;
        }
        topic.delete()?;
        log::info!(experiment = self.experiment, arm = launch.arm; "arm ended");
        Ok(())
    }

    fn limit(&self, launch: &Launch) -> Option<Limit> {
        let name = format!("backpressure-lab-{}-{}", launch.arm, std::process::id());
        let limit = Limit::new(&name, launch.memory_limit?);
        log::info!(by = limit.by, bytes = limit.bytes; "memory limit");
        Some(limit)
    }

    /// Every partition is held before anything is produced.
    fn await_group(
        &self,
        launch: &Launch,
        children: &mut Children,
        pages: &[(String, String)],
    ) -> Result<(), Failure> {
        let targets: Vec<Target> = pages
            .iter()
            .map(|(name, at)| Target::new(name, &format!("http://{at}/metrics"), PAGE_WITHIN))
            .collect();
        let mut held = 0.0;
        let all = self.interrupt.until(JOIN_WITHIN, || {
            children.alive()?;
            let each = targets
                .iter()
                .map(|page| page.read().ok()?.get("processor_partitions").copied())
                // In a rebalance a partition may be counted twice or not at all: a member without any is one.
                .map(|held| held.filter(|held| *held > 0.0));
            held = each.sum::<Option<f64>>().unwrap_or(0.0);
            Ok((held == f64::from(launch.partitions)).then_some(()))
        })?;
        let Some((name, _)) = pages.first().filter(|_| all.is_none()) else { return Ok(()) };
        let (of, time) = (launch.partitions, JOIN_WITHIN.as_secs());
        let why = format!("and its group hold {held} of {of} partitions after {time} s");
        Err(children.broken(name, &why))
    }

    /// Waits for the end of the load. A stall that ends meanwhile is fine; so is the end of a processor at its
    /// memory limit, which ends the arm.
    fn await_load(
        &self,
        launch: &Launch,
        begun: Instant,
        places: &Places,
        children: &mut Children,
        limit: Option<&Limit>,
        watch: &Watch,
    ) -> Result<(), Failure> {
        let mut stall = launch.stall;
        let under_watch = limit.filter(|limit| limit.by == WATCHED);
        let own =
            under_watch.map(|limit| Ok::<_, Failure>((limit, children.watched("processor")?)));
        let own = own.transpose()?;
        loop {
            self.interrupt.check()?;
            watch.alive()?;
            if let Some(due) = stall.filter(|due| begun.elapsed().as_secs_f64() >= due.from) {
                commands::note(&places.dir, &format!("sleep {}", due.from))?;
                children.start("chaos", &places.stall(due))?;
                stall = None;
            }
            if let Some((limit, process)) = &own
                && let Ok(ProcessReading::Alive { rss_bytes, .. }) = process.read()
                && rss_bytes >= limit.bytes
            {
                children.signal("processor", Signal::KILL);
            }
            match children.ended()? {
                Some((name, status)) if name == "producer" && status.success() => break,
                Some((name, status)) if name == "chaos" && status.success() => {}
                Some((name, status)) if name == "processor" && code(status) == 137 => {
                    let Some(limit) = limit else {
                        return Err(children.ended_early(&name, status));
                    };
                    note_kill(&places.dir, limit)?;
                    children.stop("producer")?;
                    break;
                }
                Some((name, status)) => return Err(children.ended_early(&name, status)),
                None => std::thread::sleep(LOOK),
            }
        }
        // It may outlive the load, and is not the next arm's.
        children.dismiss("chaos")
    }

    fn audit(&self, launch: &Launch, dir: &Path, command: &[String]) -> Result<(), Failure> {
        commands::note(dir, &commands::line(command))?;
        match audit::run(&settings(command)?) {
            // Ids missing are for the report to say.
            Ok(_) | Err(Failure::Verdict(_)) => Ok(()),
            Err(why) => Err(Failure::Failed(format!("arm {} has no ledger: {why}", launch.arm))),
        }
    }
}

fn note_kill(dir: &Path, limit: &Limit) -> Result<(), Failure> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let killed = Killed {
        at_us: i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        exit_code: 137,
        oom_kills: limit.kills(),
        limit_bytes: limit.bytes,
        by: limit.by.to_owned(),
    };
    log::info!(by = limit.by, oom_kills = killed.oom_kills, bytes = limit.bytes; "processor killed");
    write_json(&dir.join(KILLED_FILE), &killed)
}

/// The folder of an arm, without what an earlier run left.
fn emptied(dir: &Path) -> Result<(), Failure> {
    let failed =
        |e: std::io::Error| Failure::Failed(format!("{}: cannot be emptied: {e}", dir.display()));
    if commands::is_arm(dir) {
        std::fs::remove_dir_all(dir).map_err(failed)?;
    }
    std::fs::create_dir_all(dir).map_err(failed)
}

/// The folder of the programs: this one's own.
fn programs() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()
        .map_err(|e| Failure::Failed(format!("where this program is cannot be told: {e}")))?;
    let dir = own.parent().unwrap_or(Path::new("."));
    let here = std::env::current_dir().unwrap_or_default();
    Ok(dir.strip_prefix(here).unwrap_or(dir).to_owned())
}

/// A free port on loopback.
fn free_address() -> Result<String, Failure> {
    let from = std::process::id() % PORTS;
    let mut ports = (0..PORTS).map(|n| FIRST_PORT + (from + n) % PORTS);
    let free = ports.find_map(|port| {
        let at = ([127, 0, 0, 1], u16::try_from(port).ok()?);
        TcpListener::bind(std::net::SocketAddr::from(at)).ok()?.local_addr().ok()
    });
    let why = || Failure::Failed(format!("no port from {FIRST_PORT} on is free on 127.0.0.1"));
    free.map(|address| address.to_string()).ok_or_else(why)
}

fn live_address(brokers: &str) -> Result<String, Failure> {
    let first = brokers.split(',').next().and_then(|first| first.rsplit_once(':'));
    let port = first.and_then(|(_, port)| port.parse::<u16>().ok()?.checked_add(LIVE_PORT));
    let port =
        port.ok_or_else(|| Failure::Failed(format!("no port for a live page: {brokers}")))?;
    let address = format!("127.0.0.1:{port}");
    log::info!(url = format!("http://{address}/"); "live page");
    Ok(address)
}

/// The settings that a command of `lab` gives itself.
fn settings<T: FromArgs>(command: &[String]) -> Result<T, Failure> {
    let words: Vec<&str> = command.iter().skip(2).map(String::as_str).collect();
    T::from_args(&["lab"], &words).map_err(|early| Failure::Failed(early.output))
}

/// The topic of an arm, deleted with what it took on disk, however the arm ends.
struct Topic<'a> {
    bench: &'a Bench<'a>,
    name: String,
    is_there: bool,
}

impl<'a> Topic<'a> {
    fn create(bench: &'a Bench<'a>, launch: &Launch, dir: &Path) -> Result<Self, Failure> {
        let name = format!("{}-{}-{}", bench.experiment, launch.arm, std::process::id());
        commands::note(dir, &commands::line(&commands::topic(&name, launch.partitions)))?;
        let topic = Self { bench, name, is_there: true };
        bench.cluster.create_topic(&topic.name, launch.partitions)?;
        Ok(topic)
    }

    fn delete(mut self) -> Result<(), Failure> {
        self.is_there = false;
        self.bench.cluster.delete_topic(&self.name)
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // A cluster of this run's own is deleted whole.
        let whole = self.bench.cluster.is_fresh() && self.bench.interrupt.check().is_err();
        if self.is_there
            && !whole
            && let Err(why) = self.bench.cluster.delete_topic(&self.name)
        {
            log::error!(topic = self.name.as_str(), why = why.to_string(); "the topic stays");
        }
    }
}

/// The watch, in this process.
struct Watch {
    stop: Stop,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Watch {
    fn start(dir: &Path, command: &[String]) -> Result<Self, Failure> {
        commands::note(dir, &commands::line(command))?;
        let (settings, stop) = (settings::<watch::Settings>(command)?, Stop::default());
        let thread = threads::spawn("watch", {
            let stop = stop.clone();
            move || watch::until(&settings, &stop)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// It goes on.
    fn alive(&self) -> Result<(), Failure> {
        match self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            true => Ok(()),
            false => Err(Failure::Failed("the watch ended too early (its words are above)".into())),
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        self.stop.set();
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(outcome)) => outcome,
            _ => Err(Failure::Failed("the watch panicked (its words are above)".into())),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(Ok(Err(why))) = self.thread.take().map(JoinHandle::join) {
            log::error!(why = why.to_string(); "the watch failed");
        }
    }
}
