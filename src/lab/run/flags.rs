//! The flags of `lab run`, and the folders that they name.

use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use crate::failure::Failure;
use crate::lab::cluster::real;
use crate::lab::experiments::faults::Case;
use crate::lab::experiments::{Experiment, Form};
use crate::units;

/// Most repeats: a few show how far apart runs are, and more do not help.
const REPEAT_MAX: usize = 20;

/// Run an experiment: its arms one after the other on a real cluster, then its report. Exit 3 when a check
/// falls short.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "run")]
pub struct Settings {
    /// ceiling, exp1 to exp12, exp3-time, exp12-retries, exp13 to exp15, longlife; all: these but ceiling and longlife, and a page that joins them; or
    /// faults
    #[argh(positional)]
    pub experiment: String,
    /// of faults: these alone
    #[argh(positional)]
    pub faults: Vec<String>,
    /// of faults: under this queue and load alone, such as bounded:8000, bounded:bursty or bounded:idle
    #[argh(option, from_str_fn(Case::parse))]
    pub case: Option<Case>,
    /// the short form, which takes minutes
    #[argh(switch)]
    pub quick: bool,
    /// folder of the results (results/EXPERIMENT with --quick, else results/full/EXPERIMENT; of all:
    /// without EXPERIMENT)
    #[argh(option)]
    pub out: Option<PathBuf>,
    /// the cluster's folder, as for run/cluster.sh (.cluster; of faults: .cluster-faults)
    #[argh(option)]
    pub data: Option<PathBuf>,
    /// the cluster's first port, where one is started (19092)
    #[argh(option)]
    pub port: Option<u16>,
    /// folder of the source: where run/cluster.sh is (.)
    #[argh(option, default = "PathBuf::from(\".\")")]
    pub source: PathBuf,
    /// print the commands and the prediction, and run nothing
    #[argh(switch)]
    pub dry_run: bool,
    /// run it so many times: the verdict takes the worst, and the spread is shown (1)
    #[argh(option, default = "1", from_str_fn(repeats))]
    pub repeat: usize,
    /// run this arm alone, and keep the others of an earlier run of the same plan; may be repeated
    #[argh(option)]
    pub arm: Vec<String>,
    /// keep the arms of an earlier run of the same plan that ended as they should
    #[argh(switch)]
    pub resume: bool,
}

fn repeats(text: &str) -> Result<usize, String> {
    match units::count(text) {
        Ok(times) if times.get() <= REPEAT_MAX => Ok(times.get()),
        _ => Err(format!("expected 1 to {REPEAT_MAX}")),
    }
}

impl Settings {
    /// Which of its two lengths.
    pub fn form(&self) -> Form {
        if self.quick { Form::Quick } else { Form::Full }
    }

    /// Whether arms of an earlier run stay.
    pub fn keeps(&self) -> bool {
        self.resume || !self.arm.is_empty()
    }

    /// Whether all experiments are run, for one page.
    pub fn is_of_all(&self) -> bool {
        self.experiment == "all"
    }

    /// Checks that `--arm` names arms of the one experiment.
    ///
    /// # Errors
    /// Names the one that is no arm of it.
    pub fn check_arms(&self, experiments: &[&Experiment]) -> Result<(), Failure> {
        let known: Vec<&str> =
            experiments.iter().flat_map(|e| e.arms).map(|arm| arm.name).collect();
        match self.arm.iter().find(|arm| !known.contains(&arm.as_str())) {
            _ if !self.arm.is_empty() && (experiments.len() > 1 || self.repeat > 1) => {
                Err(Failure::Usage("--arm: of one experiment, not of all, and run once".into()))
            }
            Some(arm) => {
                Err(Failure::flag("--arm", arm, &format!("allowed: {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// Makes the source's folder the current one, so that paths in commands.txt work anywhere;
    /// returns the results' folder and the cluster's as paths from there.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn enter(&self) -> Result<(PathBuf, PathBuf), Failure> {
        let results = if self.quick { "results" } else { "results/full" };
        let own = if self.is_of_all() { "" } else { &self.experiment };
        let cluster = if self.experiment == "faults" { ".cluster-faults" } else { ".cluster" };
        enter(&self.source, (&self.out, &Path::new(results).join(own)), (&self.data, cluster))
    }
}

/// Makes `source` the current folder; returns those of --out and of --data, each from its flag or
/// its default, as paths from there.
///
/// # Errors
/// When one of them cannot be used.
pub fn enter(
    source: &Path,
    (out, default_out): (&Option<PathBuf>, &Path),
    (data, default_data): (&Option<PathBuf>, &str),
) -> Result<(PathBuf, PathBuf), Failure> {
    let unusable = |path: &Path, e: std::io::Error| {
        Failure::Failed(format!("{}: cannot be used: {e}", path.display()))
    };
    let source = source.canonicalize().map_err(|e| unusable(source, e))?;
    let given = |path: &Option<PathBuf>, default: &Path| {
        let path = path.clone().map_or(Ok(source.join(default)), std::path::absolute);
        path.and_then(|path| real(&path)).map_err(|e| {
            Failure::Failed(format!("a folder of --out or --data cannot be used: {e}"))
        })
    };
    let (out, data) = (given(out, default_out)?, given(data, Path::new(default_data))?);
    std::env::set_current_dir(&source).map_err(|e| unusable(&source, e))?;
    let short = |path: &Path| path.strip_prefix(&source).unwrap_or(path).to_owned();
    Ok((short(&out), short(&data)))
}
