//! `lab`: watches a run, audits its ledger, writes its report. Flags → settings → one call.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;
use backpressure_lab::cli::{self, DEFAULT_BROKERS, or_env};
use backpressure_lab::failure::Failure;
use backpressure_lab::lab::{audit, plan, report, watch};
use backpressure_lab::units;

#[derive(FromArgs)]
/// Instruments of the backpressure lab.
struct Lab {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Plan(Plan),
    Watch(Watch),
    Audit(Audit),
    Report(Report),
}

#[derive(FromArgs)]
#[argh(subcommand, name = "plan")]
/// Before a run: write down the prediction and the host.
struct Plan {
    /// which experiment: exp2
    #[argh(option)]
    experiment: String,
    /// quick or full
    #[argh(option)]
    form: String,
    /// offered load, RATE:TIME[,RATE:TIME…]
    #[argh(option)]
    schedule: String,
    /// the sink's ceiling, events/s
    #[argh(option, default = "2000.0", from_str_fn(units::rate))]
    rate_limit: f64,
    /// payload of an event
    #[argh(option, default = "512", from_str_fn(units::size))]
    msg_size: u64,
    /// kafka's release, for the record
    #[argh(option, default = "String::from(\"unknown\")")]
    kafka: String,
    /// folder of the source, whose revision is recorded (.)
    #[argh(option, default = "PathBuf::from(\".\")")]
    source: PathBuf,
    /// the run's folder
    #[argh(positional)]
    dir: PathBuf,
}

#[derive(FromArgs)]
#[argh(subcommand, name = "watch")]
/// Sample lag, memory and every /metrics on a fixed cadence until SIGTERM.
struct Watch {
    /// bootstrap list (LAB_BROKERS)
    #[argh(option)]
    brokers: Option<String>,
    /// topic (events)
    #[argh(option, default = "String::from(\"events\")")]
    topic: String,
    /// consumer group, which is not joined (lab)
    #[argh(option, default = "String::from(\"lab\")")]
    group: String,
    /// processes, NAME=PID[,NAME=PID…]; may be repeated
    #[argh(option)]
    process: Vec<String>,
    /// pages, NAME=URL[,NAME=URL…]; may be repeated
    #[argh(option)]
    metrics: Vec<String>,
    /// folder of samples.jsonl
    #[argh(option)]
    out: PathBuf,
    /// own /metrics (127.0.0.1:9903); port 0 picks one
    #[argh(option, default = "SocketAddr::from(([127, 0, 0, 1], 9903))")]
    listen: SocketAddr,
    /// time between samples (1s)
    #[argh(option, default = "Duration::from_secs(1)", from_str_fn(units::duration_above_zero))]
    interval: Duration,
    /// end when the process of this NAME is gone
    #[argh(option)]
    until_gone: Option<String>,
}

#[derive(FromArgs)]
#[argh(subcommand, name = "audit")]
/// Account for every id, after the processor has stopped; exit 3 when one is missing.
struct Audit {
    /// bootstrap list (LAB_BROKERS)
    #[argh(option)]
    brokers: Option<String>,
    /// topic (events)
    #[argh(option, default = "String::from(\"events\")")]
    topic: String,
    /// the processor's group (lab)
    #[argh(option, default = "String::from(\"lab\")")]
    group: String,
    /// the sink's address (LAB_SINK)
    #[argh(option)]
    sink: Option<String>,
    /// what the producer printed at its end
    #[argh(option)]
    producer: PathBuf,
    /// what the processor printed at its end; without it nothing may have been shed
    #[argh(option)]
    processor: Option<PathBuf>,
    /// the ledger's file (ledger.json)
    #[argh(option, default = "PathBuf::from(audit::FILE)")]
    out: PathBuf,
}

#[derive(FromArgs)]
#[argh(subcommand, name = "report")]
/// Write report.md, verdict.json and charts into a run's folder; exit 3 when a check falls short.
struct Report {
    /// which experiment: exp2
    #[argh(option)]
    experiment: String,
    /// the run's folder
    #[argh(positional)]
    dir: PathBuf,
}

fn main() -> ExitCode {
    cli::main(|lab: Lab| match lab.command {
        Command::Plan(flags) => plan::run(&plan::Settings {
            experiment: flags.experiment,
            form: flags.form,
            schedule: flags.schedule,
            ceiling: flags.rate_limit,
            payload_bytes: flags.msg_size,
            kafka: flags.kafka,
            source: flags.source,
            out: flags.dir,
        }),
        Command::Watch(flags) => watch_settings(flags).and_then(|settings| watch::run(&settings)),
        Command::Audit(flags) => audit::run(&audit::Settings {
            brokers: or_env(flags.brokers, "LAB_BROKERS", DEFAULT_BROKERS),
            topic: flags.topic,
            group: flags.group,
            sink: or_env(flags.sink, "LAB_SINK", "http://127.0.0.1:9900"),
            producer: flags.producer,
            processor: flags.processor,
            out: flags.out,
        })
        .map(drop),
        Command::Report(flags) => report::run(&flags.experiment, &flags.dir),
    })
}

fn watch_settings(flags: Watch) -> Result<watch::Settings, Failure> {
    Ok(watch::Settings {
        brokers: or_env(flags.brokers, "LAB_BROKERS", DEFAULT_BROKERS),
        topic: flags.topic,
        group: flags.group,
        processes: watch::Settings::pids("--process", &flags.process)?,
        metrics: watch::Settings::named("--metrics", &flags.metrics)?,
        out: flags.out,
        listen: flags.listen,
        interval: flags.interval,
        until_gone: flags.until_gone,
    })
}
