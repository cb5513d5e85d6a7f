//! `lab`: the instruments of a run, from its prediction to its report. Under the name of one of the
//! four pipeline programs it is that program, so that all five are linked once.

use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use backpressure_lab::failure::Failure;
use backpressure_lab::lab::{
    audit, autopsy, autoscale, bench, cluster, detect, plan, predict, probe, report, run, watch,
};
use backpressure_lab::{chaos, cli, load, pipeline, sink, threads};

/// Instruments of the backpressure lab.
#[derive(FromArgs, ArgsInfo)]
struct Lab {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Command {
    Run(run::Settings),
    Cluster(cluster::Flags),
    Bench(bench::Settings),
    Predict(predict::Settings),
    Plan(plan::Settings),
    Watch(watch::Settings),
    Autoscale(autoscale::Flags),
    Probe(probe::Settings),
    Audit(audit::Settings),
    Autopsy(autopsy::Settings),
    Detect(detect::Settings),
    Report(report::Settings),
}

fn main() -> ExitCode {
    let revision = option_env!("LAB_REVISION");
    let name = cli::program();
    threads::name_process(&name);
    match name.as_str() {
        "producer" => {
            cli::main(revision, load::settings::GROUPS, |flags: load::settings::Flags| {
                load::producer::run(flags.settings()?)
            })
        }
        "processor" => {
            cli::main(revision, pipeline::flags::GROUPS, |flags: pipeline::flags::Flags| {
                cli::say_json(&pipeline::run(flags.settings()?)?)
            })
        }
        "sink" => cli::main(revision, sink::settings::GROUPS, |flags: sink::settings::Flags| {
            sink::server::run(flags.settings()?)
        }),
        "chaos" => cli::main(revision, &[], chaos::flags::run),
        _ => cli::main(revision, &[], instruments),
    }
}

fn instruments(lab: Lab) -> Result<(), Failure> {
    match lab.command {
        Command::Run(settings) => run::run(&settings),
        Command::Cluster(flags) => cluster::run(&flags),
        Command::Bench(settings) => bench::run(&settings),
        Command::Predict(settings) => predict::run(&settings),
        Command::Plan(settings) => plan::run(&settings),
        Command::Watch(settings) => watch::run(&settings),
        Command::Autoscale(flags) => autoscale::run(flags),
        Command::Probe(settings) => probe::run(&settings),
        Command::Audit(settings) => audit::run(&settings).map(drop),
        Command::Autopsy(settings) => autopsy::run(&settings),
        Command::Detect(settings) => detect::run(&settings),
        Command::Report(settings) => report::run(&settings),
    }
}
