//! One arm, from its topic to its ledger: topic, sink, processors, producer, watch; then the processors are
//! stopped, every id is audited, and the topic is deleted.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::children::{Children, code};
use super::cluster::Cluster;
use super::commands::{self, AUTOSCALER, LOOPBACK, Places, settings};
use super::memory::Limit;
use super::topic::Topic;
use super::watching::Watch;
use crate::failure::Failure;
use crate::lab::experiments::Launch;
use crate::lab::experiments::launch::scaled;
use crate::lab::interrupt::{Interrupt, LOOK};
use crate::lab::run_folder::{KILLED_FILE, Killed, WATCHED};
use crate::lab::samples::ProcessReading;
use crate::lab::scrape::Target;
use crate::lab::{audit, autopsy, heaps, write_json};
use crate::{clock, threads};

/// Limit for the group to have all partitions assigned; for one page of metrics.
const JOIN_WITHIN: Duration = Duration::from_secs(40);
const PAGE_WITHIN: Duration = Duration::from_secs(2);
/// Ports for a server whose address must be known before it starts: below the range from which the system
/// takes those of outgoing connections.
const FIRST_PORT: u32 = 20_000;
const PORTS: u32 = 12_000;
/// The live page's port, from the cluster's first: the same for every arm, so that a page stays open.
const LIVE_PORT: u16 = 200;

/// The last line of a complete arm's commands.
const CLOSED: &str = "# the arm ended as it should";

/// Whether an arm was run to its end.
pub fn is_closed(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join(commands::FILE))
        .is_ok_and(|text| text.lines().any(|line| line == CLOSED))
}

/// The setting in which arms are run.
pub struct Bench<'a> {
    /// The experiment's name.
    pub experiment: &'a str,
    /// The brokers.
    pub cluster: &'a Cluster,
    /// Folder of the results.
    pub out: &'a Path,
    /// The signal that ends a run early.
    pub interrupt: &'a Interrupt,
}

impl<'a> Bench<'a> {
    /// Runs one arm; its folder then holds all that a report reads.
    ///
    /// # Errors
    /// When a process, the cluster or a file fails; [`Failure::Interrupted`].
    pub fn run(&'a self, launch: &Launch) -> Result<(), Failure> {
        let dir = self.out.join(&launch.arm);
        emptied(&dir)?;
        let limit = limit(launch); // before the arm, so that it outlives the process under it
        let mut arm = Arm::begin(self, launch, &dir)?;
        arm.sink("sink", launch, LOOPBACK, &[])?;
        let through = limit.as_ref().map(|limit| limit.prefix.clone()).unwrap_or_default();
        if let Some(flags) = &launch.autoscaler {
            arm.autoscaler(launch, flags)?;
        } else {
            for (name, flags) in &launch.processors {
                arm.processor(name, LOOPBACK, flags, &through)?;
            }
        }
        arm.offer(launch, limit.is_some())?;
        let begun = Instant::now();
        arm.await_load(launch, begun, limit.as_ref())?;
        arm.finish(&["producer".into()])?;
        drop(limit);
        if dir.join(heaps::LAST).exists() {
            let command = arm.places.autopsy();
            commands::note(&dir, &commands::line(&command))?;
            let found = autopsy::made(&settings(&command)?)?;
            write_json(&dir.join(autopsy::FILE), &found)?;
        }
        arm.end()
    }
}

fn limit(launch: &Launch) -> Option<Limit> {
    let name = format!("backpressure-lab-{}-{}", launch.arm, std::process::id());
    let limit = Limit::new(&name, launch.memory_limit?);
    log::info!(by = limit.by, bytes = limit.bytes; "memory limit");
    Some(limit)
}

/// An arm under way. Dropped, it stops what it started and deletes its topic, in the order of its fields.
pub struct Arm<'a> {
    watch: Option<Watch>,
    /// Its processes.
    pub children: Children,
    topic: Topic<'a>,
    bench: &'a Bench<'a>,
    /// Where everything is.
    pub places: Places,
    partitions: u32,
    /// Whether its processors leave something on disk.
    spills: bool,
    /// The name of the current sink.
    sink: String,
    /// (name, pid) for the watch.
    processes: Vec<(String, String)>,
    /// (name, address) of the processors.
    pages: Vec<(String, String)>,
    /// The same of those that an autoscaler may start later, and its own.
    later: Vec<(String, String)>,
}

impl<'a> Arm<'a> {
    /// Creates its topic; the folder `dir` exists.
    ///
    /// # Errors
    /// When it cannot be made; [`Failure::Interrupted`].
    pub fn begin(bench: &'a Bench<'a>, launch: &Launch, dir: &Path) -> Result<Self, Failure> {
        log::info!(experiment = bench.experiment, arm = launch.arm.as_str(); "arm begins");
        let name = format!("{}-{}-{}", bench.experiment, launch.arm, std::process::id());
        let on = (bench.cluster, bench.interrupt);
        let topic = Topic::create(on, dir, name, launch.partitions, &launch.topic)?;
        Ok(Self {
            watch: None,
            children: Children::new(dir, bench.interrupt),
            bench,
            places: Places {
                bin: programs()?,
                brokers: bench.cluster.brokers().to_owned(),
                topic: topic.name.clone(),
                dir: dir.to_owned(),
                sink: String::new(),
                producer: free_address()?,
                live: live_address(bench.cluster.brokers())?,
            },
            topic,
            partitions: launch.partitions,
            spills: launch.spills(),
            sink: String::new(),
            processes: Vec::new(),
            pages: Vec::new(),
            later: Vec::new(),
        })
    }

    /// Starts the sink, or one called `name` that replaces it at its address; `rest` are further
    /// flags.
    ///
    /// # Errors
    /// When it does not come up; [`Failure::Interrupted`].
    pub fn sink(
        &mut self,
        name: &str,
        launch: &Launch,
        listen: &str,
        rest: &[String],
    ) -> Result<(), Failure> {
        let mut command = self.places.sink(launch, listen);
        command.extend_from_slice(rest);
        let pid = self.children.start(name, &command)?;
        self.places.sink = self.children.address(name)?;
        self.sink = name.into();
        self.processes.push((name.into(), pid.to_string()));
        Ok(())
    }

    /// Starts one more member of the group, by a command that becomes it.
    ///
    /// # Errors
    /// When it does not come up; [`Failure::Interrupted`].
    pub fn processor(
        &mut self,
        name: &str,
        listen: &str,
        flags: &str,
        through: &[String],
    ) -> Result<(), Failure> {
        let mut command = through.to_vec();
        command.extend(self.places.processor(name, listen, flags));
        let pid = self.children.start(name, &command)?;
        let address = self.children.address(name)?;
        self.processes.push((name.into(), pid.to_string()));
        self.pages.push((name.into(), address));
        Ok(())
    }

    /// Starts what starts and stops the members of the group.
    ///
    /// # Errors
    /// When its flags are not valid, or it does not come up; [`Failure::Interrupted`].
    pub fn autoscaler(&mut self, launch: &Launch, flags: &str) -> Result<(), Failure> {
        let bounds = scaled(flags)?.bounds;
        let ports = free_ports(bounds.max.get())?;
        let command = self.places.autoscaler(launch, flags, &ports);
        let pid = self.children.start(AUTOSCALER, &command)?;
        let address = self.children.address(AUTOSCALER)?;
        self.processes.push((AUTOSCALER.into(), pid.to_string()));
        let page = |n: usize| (format!("processor-{n}"), format!("{ports}{n}"));
        self.pages = (1..=bounds.min.get()).map(page).collect();
        self.later = (bounds.min.get() + 1..=bounds.max.get()).map(page).collect();
        self.later.push((AUTOSCALER.into(), address));
        Ok(())
    }

    /// Starts the load, once every partition is assigned, and the watch of all processes.
    ///
    /// # Errors
    /// When the partitions are not assigned in time, or a process does not come up;
    /// [`Failure::Interrupted`].
    pub fn offer(&mut self, launch: &Launch, heap: bool) -> Result<(), Failure> {
        self.await_group()?;
        let command = self.places.producer(&self.places.producer, &launch.producer);
        let pid = self.children.start("producer", &command)?;
        self.children.address("producer")?;
        self.processes.push(("producer".into(), pid.to_string()));
        self.processes.extend(self.bench.cluster.pids());
        let heap = self.pages.first().filter(|_| heap).map(|(_, at)| at.as_str());
        let pages = [self.pages.as_slice(), &self.later].concat();
        let command = self.places.watch(&self.processes, &pages, heap, launch.look);
        self.watch = Some(Watch::start(&self.places.dir, &command)?);
        Ok(())
    }

    /// Checks that all processes run.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn alive(&mut self) -> Result<(), Failure> {
        self.watch.as_ref().map_or(Ok(()), Watch::alive)?;
        self.children.alive()
    }

    /// Stops the processors, audits every id, and stops watch and sink; `producers` are those whose
    /// summaries count.
    ///
    /// # Errors
    /// When one does not stop as it should, or there is no ledger; [`Failure::Interrupted`].
    pub fn finish(&mut self, producers: &[String]) -> Result<(), Failure> {
        let mut names: Vec<String> = self.pages.iter().map(|(name, _)| name.clone()).collect();
        if self.children.runs(AUTOSCALER) {
            self.children.stop(AUTOSCALER)?;
            names = started(&self.places.dir)?;
        }
        for name in &names {
            if self.children.runs(name) {
                self.children.stop(name)?;
            }
        }
        let command = self.places.audit(producers, &names, self.spills);
        commands::note(&self.places.dir, &commands::line(&command))?;
        // It reads the whole log: a signal does not wait for it.
        let asked = settings(&command)?;
        let audit = threads::spawn("audit", move || audit::run(&asked))?;
        let ended = || Ok(audit.is_finished().then_some(()));
        self.bench.interrupt.until(Duration::MAX, ended)?;
        let audited = audit.join().unwrap_or_else(|_| Err(Failure::Failed("it panicked".into())));
        match audited {
            // The report judges missing ids.
            Ok(_) | Err(Failure::Verdict(_)) => {}
            Err(why) => {
                let dir = self.places.dir.display();
                return Err(Failure::Failed(format!("{dir}: no ledger: {why}")));
            }
        }
        self.watch.take().map_or(Ok(()), Watch::end)?;
        self.children.stop(&self.sink)
    }

    /// Deletes the topic.
    ///
    /// # Errors
    /// When it is not deleted.
    pub fn end(mut self) -> Result<(), Failure> {
        self.topic.delete()?;
        commands::note(&self.places.dir, CLOSED)?;
        self.bench.cluster.arm_was_run();
        log::info!(experiment = self.bench.experiment, topic = self.places.topic.as_str(); "arm ended");
        Ok(())
    }

    /// Waits until every partition is assigned, before anything is produced.
    fn await_group(&mut self) -> Result<(), Failure> {
        let targets: Vec<Target> = self
            .pages
            .iter()
            .map(|(name, at)| Target::new(name, &format!("http://{at}/metrics"), PAGE_WITHIN))
            .collect();
        let (mut held, children) = (0.0, &mut self.children);
        let all = self.bench.interrupt.until(JOIN_WITHIN, || {
            children.alive()?;
            let each = targets
                .iter()
                .map(|page| page.read().ok()?.get("processor_partitions").copied())
                // In a rebalance a partition may be counted twice or not at all: a member without
                // one shows that.
                .map(|held| held.filter(|held| *held > 0.0));
            held = each.sum::<Option<f64>>().unwrap_or(0.0);
            Ok((held == f64::from(self.partitions)).then_some(()))
        })?;
        let Some((name, _)) = self.pages.first().filter(|_| all.is_none()) else { return Ok(()) };
        let (of, time) = (self.partitions, JOIN_WITHIN.as_secs());
        let why = format!("and its group hold {held} of {of} partitions after {time} s");
        Err(self.children.broken(name, &why))
    }

    /// Waits for the end of the load. A stall may end meanwhile; so may a processor at its memory
    /// limit, which ends the arm.
    fn await_load(
        &mut self,
        launch: &Launch,
        begun: Instant,
        limit: Option<&Limit>,
    ) -> Result<(), Failure> {
        let (mut stall, children, places) = (launch.stall, &mut self.children, &self.places);
        children.alive()?;
        let under_watch = limit.filter(|limit| limit.by == WATCHED);
        let own =
            under_watch.map(|limit| Ok::<_, Failure>((limit, children.watched("processor")?)));
        let own = own.transpose()?;
        loop {
            self.bench.interrupt.check()?;
            self.watch.as_ref().map_or(Ok(()), Watch::alive)?;
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
        // It may outlive the load, and must not reach the next arm.
        children.dismiss("chaos")
    }
}

fn note_kill(dir: &Path, limit: &Limit) -> Result<(), Failure> {
    let killed = Killed {
        at_us: clock::now_us(),
        exit_code: 137,
        oom_kills: limit.kills(),
        limit_bytes: limit.bytes,
        by: limit.by.to_owned(),
    };
    log::info!(by = limit.by, oom_kills = killed.oom_kills, bytes = limit.bytes; "processor killed");
    write_json(&dir.join(KILLED_FILE), &killed)
}

/// The folder of an arm, without what an earlier run left.
///
/// # Errors
/// When it cannot be emptied or made.
pub fn emptied(dir: &Path) -> Result<(), Failure> {
    let failed =
        |e: std::io::Error| Failure::Failed(format!("{}: cannot be emptied: {e}", dir.display()));
    if commands::is_arm(dir) {
        std::fs::remove_dir_all(dir).map_err(failed)?;
    }
    std::fs::create_dir_all(dir).map_err(failed)
}

/// The folder of the programs: this one's own.
///
/// # Errors
/// When the system does not say.
pub fn programs() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()
        .map_err(|e| Failure::Failed(format!("the path of this program is not known: {e}")))?;
    let dir = own.parent().unwrap_or(Path::new("."));
    let here = std::env::current_dir().unwrap_or_default();
    Ok(dir.strip_prefix(here).unwrap_or(dir).to_owned())
}

/// The processors that an autoscaler has started, by what they printed.
fn started(dir: &Path) -> Result<Vec<String>, Failure> {
    let failed = |e: std::io::Error| Failure::Failed(format!("{}: {e}", dir.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let is_printed = name.starts_with("processor-") && name.ends_with(".json");
        names.extend(name.strip_suffix(".json").filter(|_| is_printed).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// An address such as `127.0.0.1:2345`, behind which each digit up to `count` makes a free port.
fn free_ports(count: usize) -> Result<String, Failure> {
    let tens = PORTS / 10;
    let from = std::process::id() % tens;
    let is_free = |ten: &u32| {
        (1..=count).all(|n| {
            let port = u16::try_from(*ten as usize * 10 + n).ok();
            count < 10 && port.is_some_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
    };
    let free = (0..tens).map(|n| FIRST_PORT / 10 + (from + n) % tens).find(is_free);
    let why = || {
        Failure::Failed(format!(
            "no {count} ports (at most 9) from {FIRST_PORT} on are free on 127.0.0.1"
        ))
    };
    free.map(|ten| format!("127.0.0.1:{ten}")).ok_or_else(why)
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
