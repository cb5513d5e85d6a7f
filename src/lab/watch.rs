//! `lab watch`: samples the whole pipeline on a fixed cadence, writes the samples, and shows them.
//!
//! ```text
//! kafka thread ─► latest reading ┐
//! /proc, every /metrics ─────────┴─► sample ─► samples.jsonl, kafka_consumergroup_lag, live page
//! ```
//! Invariant: deadlines are absolute (start + n intervals), so a slow sample delays itself and
//! never the ones after it; a skipped deadline is counted in the next sample. `exported` exports
//! and logs a sample.

mod exported;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::brokers::Brokers;
use crate::brokers::connection::TIMEOUT;
use crate::chaos::Chaos;
use crate::cli;
use crate::clock;
use crate::failure::Failure;
use crate::http::access::{self, Token};
use crate::http::client::{check_page_url, without_password};
use crate::http::{Access, Limits, Request, Server};
use crate::lab::heaps::Keeper;
use crate::lab::lag::LagReader;
use crate::lab::live::{Live, Sources};
use crate::lab::procs::{self, Watched};
use crate::lab::samples::{FILE, LogReading, ProcessReading, Sample};
use crate::lab::scrape::Target;
use crate::lines::Lines;
use crate::planes::Isolation;
use crate::telemetry;
use crate::telemetry::metrics::Metrics;
use crate::threads::{Stop, ThreadGroup};
use crate::units;
use exported::Exported;

/// Sample lag, memory and every /metrics on a fixed cadence until SIGTERM.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "watch")]
pub struct Settings {
    /// bootstrap list (LAB_BROKERS, else where run/cluster.sh listens)
    #[argh(option)]
    pub brokers: Option<String>,
    /// properties file of a Kafka client: TLS and SASL (LAB_COMMAND_CONFIG)
    #[argh(option)]
    pub command_config: Option<String>,
    /// topic whose ends are read (events)
    #[argh(option, default = "String::from(\"events\")")]
    pub topic: String,
    /// group whose committed offsets are read; it is not joined (lab)
    #[argh(option, default = "String::from(\"lab\")")]
    pub group: String,
    /// as the processor's: read-uncommitted, read-committed (read-uncommitted)
    #[argh(option, default = "Isolation::ReadUncommitted", from_str_fn(Isolation::parse))]
    pub isolation: Isolation,
    /// processes, NAME=PID[,NAME=PID…]; may be repeated
    #[argh(option)]
    pub process: Vec<String>,
    /// pages to read, NAME=URL[,NAME=URL…]; may be repeated
    #[argh(option)]
    pub metrics: Vec<String>,
    /// folder of samples.jsonl, which is appended to
    #[argh(option)]
    pub out: PathBuf,
    /// the live page and own /metrics (127.0.0.1:9903); port 0 picks one
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 9903))")]
    pub listen: SocketAddr,
    /// the run's plan, for the live page (plan.json beside the folder of --out)
    #[argh(option)]
    pub plan: Option<PathBuf>,
    /// sink that the live page may stall, pause and restore; without it, it cannot
    #[argh(option)]
    pub sink: Option<String>,
    /// file with the token that the live page's buttons ask for and that the sink gets (LAB_TOKEN)
    #[argh(option)]
    pub token_file: Option<PathBuf>,
    /// time between two samples (1s)
    #[argh(option, default = "Duration::from_secs(1)", from_str_fn(cadence))]
    pub interval: Duration,
    /// process whose newest heap profile is kept in the folder, http://HOST:PORT
    #[argh(option)]
    pub heap: Option<String>,
    /// time between two heap profiles (5s)
    #[argh(option, default = "Duration::from_secs(5)", from_str_fn(cadence))]
    pub heap_every: Duration,
    /// end by itself when the process of this NAME is gone
    #[argh(option)]
    pub until_gone: Option<String>,
}

fn cadence(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    let time = units::duration(text)?;
    if range.contains(&time) { Ok(time) } else { Err("expected a time from 100ms to 1h".into()) }
}

/// Reads `NAME=VALUE[,NAME=VALUE…]` lists.
fn named(flag: &str, lists: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut out: Vec<(String, String)> = Vec::new();
    for part in lists.iter().flat_map(|list| list.split(',')) {
        match part.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                if out.iter().any(|(taken, _)| taken == name) {
                    let part = without_password(part);
                    return Err(Failure::flag(flag, part, "this name was given before"));
                }
                out.push((name.to_owned(), value.to_owned()));
            }
            _ => {
                let part = without_password(part);
                return Err(Failure::flag(flag, part, "expected NAME=VALUE[,NAME=VALUE…]"));
            }
        }
    }
    Ok(out)
}

/// Reads the pages of `--metrics` lists.
fn pages(lists: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pages = named("--metrics", lists)?;
    for (name, url) in &pages {
        check_page_url(url).map_err(|why| {
            let given = format!("{name}={}", without_password(url));
            Failure::flag("--metrics", given, &why)
        })?;
    }
    Ok(pages)
}

fn names<T>(named: &[(String, T)]) -> Vec<String> {
    named.iter().map(|(name, _)| name.clone()).collect()
}

/// Opens the processes of `--process` lists.
fn processes(lists: &[String]) -> Result<Vec<(String, Watched)>, Failure> {
    let open = |(name, value): (String, String)| match value.parse::<i32>() {
        Ok(pid) if pid > 0 => Ok((name.clone(), Watched::open(&name, pid)?)),
        _ => Err(Failure::flag("--process", format_args!("{name}={value}"), "expected a PID")),
    };
    named("--process", lists)?.into_iter().map(open).collect()
}

/// Samples until a signal comes.
///
/// # Errors
/// As [`until`].
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let stop = Stop::default();
    stop.on_signals()?;
    until(settings, &stop)
}

/// Samples until `stop` is set.
///
/// # Errors
/// When the settings cannot be used, the folder cannot be written, or the address is taken. A value
/// that cannot be *read* is no error: the samples report it.
pub fn until(settings: &Settings, stop: &Stop) -> Result<(), Failure> {
    cli::check_topic(&settings.topic)?;
    cli::check_group(&settings.group)?;
    let brokers = Brokers::of_flags(settings.brokers.clone(), settings.command_config.clone())?;
    brokers.let_us_in(&settings.topic)?;
    let processes = processes(&settings.process)?;
    let pages = pages(&settings.metrics)?;
    if let Some(name) = &settings.until_gone
        && !processes.iter().any(|(known, _)| known == name)
    {
        return Err(Failure::flag("--until-gone", name, "not among the names of --process"));
    }
    let token = access::token(settings.token_file.as_deref())?;
    let heaps = (settings.heap.as_deref())
        .map(|url| Keeper::new(url, token.clone(), settings.heap_every, &settings.out))
        .transpose()?;
    let mut file = SampleFile::open(&settings.out)?;
    // Half an interval: a page that does not answer delays no sample.
    let timeout = (settings.interval / 2).min(Duration::from_secs(1));
    let targets: Vec<Target> =
        pages.iter().map(|(name, url)| Target::new(name, url, timeout)).collect();

    let metrics = Metrics::new()?;
    let exported = Exported::of(&metrics, &settings.group, &settings.topic)?;
    let sources = Sources::new(names(&processes), names(&pages));
    let (live, server) = serve(settings, sources, metrics, token)?;
    log::info!(addr = server.addr().to_string(); "listening");

    let latest = Arc::new(Mutex::new(None));
    let reader = LagReader::new(&brokers, &settings.topic, &settings.group, settings.isolation);
    let mut kafka = ThreadGroup::new(stop.clone());
    kafka.spawn("kafka", {
        let (latest, stop, interval) = (latest.clone(), stop.clone(), settings.interval);
        move || {
            reader.run(interval, &latest, &stop);
            Ok(())
        }
    })?;

    let mut threads = ThreadGroup::new(stop.clone());
    if let Some(keeper) = heaps {
        let stop = stop.clone();
        threads.spawn("heaps", move || {
            keeper.run(&stop);
            Ok(())
        })?;
    }
    let mut watch = Watch { settings, processes, targets, latest, exported, live };
    let sampled = watch.sample_until(stop, &mut file);
    stop.set();
    threads.join();
    // A round may take longer where every broker is frozen, and its result is not needed any more.
    kafka.join_within(TIMEOUT);
    sampled?;
    stop.outcome()
}

/// Starts the server of the live page and `/metrics`.
fn serve(
    settings: &Settings,
    sources: Sources,
    metrics: Metrics,
    token: Option<Token>,
) -> Result<(Arc<Live>, Server), Failure> {
    let access = Access::new(settings.listen, token.clone())?;
    let chaos = settings.sink.as_ref().map(|url| Chaos::new(url, token)).transpose()?;
    let story = (settings.plan.as_deref(), settings.out.as_path());
    let live = Arc::new(Live::new(sources, story, settings.interval, chaos, access.clone())?);
    let (page, answer) = (live.clone(), telemetry::endpoint(metrics, access, telemetry::Answers));
    let answer = move |request: Request| answer(&request).unwrap_or_else(|| page.answer(&request));
    let server = Server::start(settings.listen, Limits::default(), Arc::new(answer))?;
    Ok((live, server))
}

struct Watch<'a> {
    settings: &'a Settings,
    processes: Vec<(String, Watched)>,
    targets: Vec<Target>,
    latest: Arc<Mutex<Option<Arc<LogReading>>>>,
    exported: Exported,
    live: Arc<Live>,
}

impl Watch<'_> {
    fn sample_until(&mut self, stop: &Stop, file: &mut SampleFile) -> Result<(), Failure> {
        let line = ProgressBar::new_spinner(); // draws on a terminal only
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            line.set_style(style);
        }
        let (start, interval) = (Instant::now(), self.settings.interval);
        let (mut tick, mut missed, mut taken, mut left_out) = (0u32, 0u64, 0u64, 0u64);
        loop {
            let due = start + interval * tick;
            if stop.wait(due.saturating_duration_since(Instant::now())) {
                break;
            }
            let sample = Sample { left_out, ..self.look(due, missed) };
            let is_taken = file.append(&sample)?;
            taken += u64::from(is_taken);
            left_out = if is_taken { 0 } else { left_out + 1 };
            self.exported.show(&sample);
            line.set_message(self.live.add(&sample));
            if self.gone(&sample) {
                break;
            }
            let next = (start.elapsed().as_nanos() / interval.as_nanos()) as u32 + 1;
            missed = u64::from(next - tick - 1);
            tick = next;
        }
        line.finish_and_clear();
        log::info!(samples = taken, file = file.path.display().to_string(); "watched");
        Ok(())
    }

    /// One sample of everything; it takes at most as long as the slowest answer's timeout.
    fn look(&mut self, due: Instant, missed: u64) -> Sample {
        let mut sample = Sample { due_us: clock::at_us(due), missed, ..Sample::default() };
        sample.late_s = due.elapsed().as_secs_f64();
        // Memory first: the scrapes below cost the processes a little.
        for (name, watched) in &self.processes {
            match watched.read() {
                Ok(reading) => drop(sample.processes.insert(name.clone(), reading)),
                Err(why) => sample.unread.push(format!("process {name}: {why}")),
            }
        }
        match procs::host() {
            Ok(host) => sample.host = Some(host),
            Err(why) => sample.unread.push(format!("host: {why}")),
        }
        let scraped = std::thread::scope(|scope| {
            let asked: Vec<_> =
                self.targets.iter().map(|t| (t, scope.spawn(|| t.read()))).collect();
            asked.into_iter().map(|(t, answer)| (t, answer.join())).collect::<Vec<_>>()
        });
        for (target, read) in scraped {
            match read {
                Ok(Ok(values)) => drop(sample.metrics.insert(target.name.clone(), values)),
                Ok(Err(why)) => sample.miss_page(&target.name, &why.to_string()),
                Err(_) => sample.miss_page(&target.name, "panicked"),
            }
        }
        let reading = self.latest.lock().clone();
        match reading {
            Some(reading) => sample.log = Some(LogReading::clone(&reading)),
            None => sample.unread.push("log: no reading yet".into()),
        }
        sample
    }

    fn gone(&self, sample: &Sample) -> bool {
        let name = self.settings.until_gone.as_ref();
        name.and_then(|name| sample.processes.get(name))
            .is_some_and(|reading| matches!(reading, ProcessReading::Gone { .. }))
    }
}

struct SampleFile {
    lines: Lines,
    path: PathBuf,
}

impl SampleFile {
    fn open(dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(|e| {
            Failure::Failed(format!("--out {}: cannot be made: {e}", dir.display()))
        })?;
        let path = dir.join(FILE);
        let lines = Lines::open(&path).map_err(|e| {
            Failure::Failed(format!("--out {}: cannot be written: {e}", path.display()))
        })?;
        Ok(Self { lines, path })
    }

    /// Writes a line in one write, so that a reader never sees half of one. A sample that a full
    /// disk does not take is left out and logged: false.
    fn append(&mut self, sample: &Sample) -> Result<bool, Failure> {
        let mut line = serde_json::to_vec(sample).map_err(Failure::failed)?;
        line.push(b'\n');
        Ok(self.lines.append_or_go_on(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_bad_ones_name_the_part() {
        let lists = ["a=1,b=2".to_owned(), "c=http://h/m".to_owned()];
        let read = named("--metrics", &lists).expect("named");
        assert_eq!(read.last().expect("three"), &("c".to_owned(), "http://h/m".to_owned()));
        for bad in ["a", "=1", "a=", "a=1,a=2", "a=1,"] {
            let why = named("--metrics", &[bad.to_owned()]).expect_err(bad);
            assert!(matches!(why, Failure::Usage(_)), "{why}");
        }
    }
}
