//! The pages that every program prints about itself, requested as a user does.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::process::{Command, Output, Stdio};

const PROGRAMS: [(&str, &str); 5] = [
    ("producer", env!("CARGO_BIN_EXE_producer")),
    ("processor", env!("CARGO_BIN_EXE_processor")),
    ("sink", env!("CARGO_BIN_EXE_sink")),
    ("chaos", env!("CARGO_BIN_EXE_chaos")),
    ("lab", env!("CARGO_BIN_EXE_lab")),
];

fn asked(binary: &str, args: &[&str]) -> Output {
    Command::new(binary).args(args).stdin(Stdio::null()).output().expect("it runs")
}

fn said(binary: &str, args: &[&str]) -> String {
    let output = asked(binary, args);
    assert_eq!(output.status.code(), Some(0), "{binary} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn each_program_says_its_version_its_man_page_and_completions_that_bash_takes() {
    let dir = tempfile::tempdir().expect("dir");
    for (name, binary) in PROGRAMS {
        assert!(said(binary, &["--version"]).starts_with(&format!("{name} 0.")));
        assert!(said(binary, &["--help"]).contains("--completions"), "{name}");
        let man = said(binary, &["--man"]);
        assert!(man.contains(&format!(".TH {} 1", name.to_uppercase())), "{man}");
        assert!(man.contains("a verdict fell short"), "{man}");
        let script = dir.path().join(name);
        std::fs::write(&script, said(binary, &["--completions", "bash"])).expect("written");
        let taken = Command::new("bash").arg("-n").arg(&script).output().expect("bash");
        assert!(taken.status.success() && taken.stderr.is_empty(), "{name}: {taken:?}");
        assert_eq!(asked(binary, &["--completions", "csh"]).status.code(), Some(2), "{name}");
    }
}

/// Prevents: a heading whose flag is gone; a help that begins with two screens of usage.
#[test]
fn help_is_in_groups_and_its_usage_is_a_line() {
    use backpressure_lab::{load, pipeline, sink};
    for ((name, binary), groups) in PROGRAMS.into_iter().zip([
        load::settings::GROUPS,
        pipeline::flags::GROUPS,
        sink::settings::GROUPS,
    ]) {
        let help = said(binary, &["--help"]);
        assert!(help.starts_with(&format!("Usage: {name} [flags]\n")), "{help}");
        assert!(help.contains("Examples:"), "{help}");
        for (flag, heading) in groups {
            assert!(help.contains(&format!("\n\n{heading}:\n  {flag} ")), "{heading}: {help}");
        }
    }
}

#[test]
fn a_flag_that_is_none_is_answered_by_the_nearest() {
    for (binary, flag, nearest) in
        [(PROGRAMS[1].1, "--queu", "--queue"), (PROGRAMS[0].1, "--schedul", "--schedule")]
    {
        let output = asked(binary, &[flag, "x"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(flag) && said.contains(&format!("\"{nearest}\"")), "{said}");
    }
}

/// Prevents: a failure that sends its reader to a help without the flag; a pipe that has seen enough and is told of an
/// error.
#[test]
fn a_command_says_where_its_own_help_is() {
    let lab = PROGRAMS.iter().find(|(name, _)| *name == "lab").expect("lab").1;
    assert!(said(lab, &["predict", "-h"]).contains("--schedule"));
    assert_eq!(said(lab, &["-h"]), said(lab, &["--help"]));
    let output = asked(lab, &["predict", "--schedule", "1500"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("Run `lab predict --help` for the flags."), "{told}");
    let piped = format!("set -o pipefail; {lab} predict --schedule 1500:1m 2>&1 | head -1");
    let output = Command::new("bash").args(["-c", &piped]).output().expect("bash");
    assert!(output.status.success(), "{output:?}");
}

/// Prevents: a page of flags that describes earlier programs.
#[test]
fn the_page_of_flags_is_made_from_the_definitions() {
    let make = "for program in producer processor sink chaos lab; do target/release/$program --flags; done";
    let head = format!("# Flags\n\nMade from the definitions: `{make}`.\n\n");
    let tables: String = PROGRAMS.iter().map(|(_, binary)| said(binary, &["--flags"])).collect();
    let expected = head + &tables;
    let there = include_str!("../docs/flags.md");
    if there != expected {
        let path = std::env::temp_dir().join("flags.md");
        std::fs::write(&path, expected).expect("written");
        panic!("docs/flags.md is not what the programs say; they say {}", path.display());
    }
}
