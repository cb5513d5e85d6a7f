//! `lab`: the instruments of a run, from the prediction before it to the report after it.

use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};
use backpressure_lab::cli;
use backpressure_lab::lab::{
    audit, autopsy, bench, cluster, plan, predict, probe, report, run, watch,
};

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
    Probe(probe::Settings),
    Audit(audit::Settings),
    Autopsy(autopsy::Settings),
    Report(report::Settings),
}

fn main() -> ExitCode {
    cli::main(option_env!("LAB_REVISION"), |lab: Lab| match lab.command {
        Command::Run(settings) => run::run(&settings),
        Command::Cluster(flags) => cluster::run(&flags),
        Command::Bench(settings) => bench::run(&settings),
        Command::Predict(settings) => predict::run(&settings),
        Command::Plan(settings) => plan::run(&settings),
        Command::Watch(settings) => watch::run(&settings),
        Command::Probe(settings) => probe::run(&settings),
        Command::Audit(settings) => audit::run(&settings).map(drop),
        Command::Autopsy(settings) => autopsy::run(&settings),
        Command::Report(settings) => report::run(&settings),
    })
}
