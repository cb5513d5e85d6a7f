//! The committed evidence, `results/full`: today's checks come to the verdict that is written
//! there, and the figures of NOTES.md and README.md that cite it are in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::{checks, spread};
use crate::lab::experiments::{Check, named};
use crate::lab::plan::{self, Plan};
use crate::lab::read_json;
use crate::lab::run_folder::Run;
use crate::lab::verdict::{self, Verdict};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folders of experiments that were run in full.
fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("results/full")).expect("results/full");
    let folders = entries.map(|entry| entry.expect("an entry").path());
    folders.filter(|folder| folder.join(plan::FILE).exists()).collect()
}

/// Its runs, where it was repeated.
fn runs(folder: &Path) -> Vec<PathBuf> {
    (1..).map(|n| folder.join(format!("run-{n}"))).take_while(|run| run.exists()).collect()
}

fn written(folder: &Path) -> Verdict {
    read_json(&folder.join(verdict::FILE)).expect("a verdict")
}

/// Name, whether it holds, what was measured, what was wanted and why.
fn said(checks: &[Check]) -> Vec<[String; 5]> {
    let each = checks.iter();
    each.map(|c| {
        let (wanted, because) = (verdict::wanted(c), c.because.clone());
        [c.name.clone(), c.pass.to_string(), verdict::measured(c), wanted, because]
    })
    .collect()
}

fn agree(at: &Path, today: &[Check], written: &[Check]) {
    let (today, written) = (said(today), said(written));
    let apart = today.iter().zip(&written).find(|(a, b)| a != b);
    assert!(apart.is_none(), "{}: {apart:?}", at.display());
    assert_eq!(today.len(), written.len(), "{}", at.display());
}

/// Prevents: a verdict that was edited, or that differs from that of today's checks.
#[test]
fn todays_judge_says_of_the_evidence_what_is_written_there() {
    for folder in folders() {
        let plan: Plan = read_json(&folder.join(plan::FILE)).expect("a plan");
        let experiment = named(&plan.experiment).expect("it");
        let repeated = runs(&folder);
        let each = if repeated.is_empty() { vec![folder.clone()] } else { repeated.clone() };
        for at in each {
            let run = Run::read(experiment, &at).expect("a run");
            agree(&at, &checks(experiment, &run), &written(&at).checks);
        }
        let verdicts: Vec<_> = repeated.iter().map(|run| (run, written(run))).collect();
        if let Some((_, joined)) = spread::joined(&verdicts) {
            agree(&folder, &joined.checks, &written(&folder).checks);
        }
    }
}

/// Every number of a text, as it is written; an ASCII minus for the typographic one.
fn numbers(text: &str) -> BTreeSet<String> {
    let number = Regex::new(r"[-−]?\d[\d,]*(?:\.\d+)?").expect("a pattern");
    let plain = |found: regex::Match<'_>| found.as_str().replace('−', "-");
    number.find_iter(text).map(plain).map(|text| text.trim_end_matches(',').to_owned()).collect()
}

/// The sections of `text` whose heading names an experiment's folder: its name, and the cells of its
/// tables that stand neither in the head nor in the first column.
fn sections(text: &str) -> Vec<(String, String)> {
    let named = Regex::new(r"^#+ .*`results/full/([\w-]+)`").expect("a pattern");
    let mut sections: Vec<(String, String)> = Vec::new();
    let (mut inside, mut below_head) = (false, false);
    for line in text.lines() {
        below_head &= line.starts_with('|');
        if line.starts_with('#') {
            let found = named.captures(line);
            inside = found.is_some();
            sections.extend(found.map(|found| (found[1].to_owned(), String::new())));
        } else if line.starts_with("|--") || line.starts_with("|:-") {
            below_head = true;
        } else if inside && below_head {
            let cells = line.split('|').skip(2).collect::<Vec<_>>().join(" | ");
            if let Some((_, all)) = sections.last_mut() {
                *all += &(cells + "\n");
            }
        }
    }
    sections
}

fn absent(section: &(String, String), reported: &str) -> Vec<String> {
    let known = numbers(reported);
    numbers(&section.1).into_iter().filter(|figure| !known.contains(figure)).collect()
}

/// Prevents: a figure that no run measured.
#[test]
fn the_figures_said_to_be_from_the_evidence_are_in_it() {
    let mut all = 0;
    for file in ["NOTES.md", "README.md"] {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        for section in sections(&text) {
            let report = Path::new("results/full").join(&section.0).join(super::FILE);
            let reported = std::fs::read_to_string(root().join(&report)).expect("a report");
            let absent = absent(&section, &reported);
            assert!(absent.is_empty(), "{file}: not in {}: {absent:?}", report.display());
            all += numbers(&section.1).len();
        }
    }
    assert!(all > 0, "no section names its evidence");
}

#[test]
fn a_figure_that_is_not_in_the_report_is_found() {
    let text = "## 5 A stall (`results/full/exp5`)\n\nOf 7.\n\n| | p99, s |\n|---|---|\n| row 9 | 1,204 and −3.5 |\n\n## Next\n\n| a | 8 |\n";
    let sections = sections(text);
    let [section] = &sections[..] else { panic!("{sections:?}") };
    assert_eq!(section.0, "exp5");
    assert_eq!(absent(section, "1,204, then -3.5"), [""; 0]);
    assert_eq!(absent(section, "1,205; −3.5"), ["1,204"]);
}
