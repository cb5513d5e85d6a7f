//! The shell around every binary: argv in the lab's documented spellings → argh → exit code.
//!
//! argh takes `--flag value` only; users also write `--flag=value` and `-flag=value`, so argv is
//! normalised once, here. Of flags it knows by name only Kafka's own for the brokers.

mod pages;

use std::io::Write as _;
use std::process::ExitCode;

use argh::{ArgsInfo, EarlyExit, FromArgs};

use crate::failure::Failure;
use crate::{logging, units};

/// Rewrites `-flag`, `-flag=value` and `--flag=value` to the one spelling argh takes,
/// `--flag value`. Everything after a bare `--`, negative numbers and single-letter flags pass
/// untouched.
pub fn normalise(args: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut verbatim = false;
    for arg in args {
        if verbatim || arg == "--" {
            verbatim = true;
            out.push(arg);
            continue;
        }
        let Some(rest) = long_flag(&arg) else {
            out.push(arg);
            continue;
        };
        match rest.split_once('=') {
            Some((name, value)) => {
                out.push(format!("--{}", ours(name)));
                out.push(value.to_owned());
            }
            None => out.push(format!("--{}", ours(rest))),
        }
    }
    out
}

/// Parses these words as `program` does, in any documented spelling.
///
/// # Errors
/// The parser's message.
pub fn parsed<T: FromArgs>(
    program: &str,
    words: impl IntoIterator<Item = String>,
) -> Result<T, String> {
    let words = normalise(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    T::from_args(&[program], &words).map_err(|early| early.output.trim_end().to_owned())
}

/// Our name for a flag that Kafka's tools name differently.
fn ours(name: &str) -> &str {
    match name {
        "bootstrap-server" | "bootstrap-servers" => "brokers",
        other => other,
    }
}

/// The part after the dashes when `arg` is a long flag in any spelling (`-queue`, `--queue=x`).
fn long_flag(arg: &str) -> Option<&str> {
    let rest = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let name = rest.split('=').next().unwrap_or(rest);
    let mut chars = name.chars();
    let is_name = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && name.len() > 1
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    is_name.then_some(rest)
}

/// The name that this program was called by.
pub fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let path = path.to_string_lossy();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The groups of a program's flags: the first flag of each, and its heading.
pub type Groups = &'static [(&'static str, &'static str)];

/// Parses the process's arguments, starts logging, runs `run` and maps its end to an exit code.
/// `revision` is the source revision of the build, where it is known (`LAB_REVISION` at the build).
pub fn main<T: FromArgs + ArgsInfo>(
    revision: Option<&str>,
    groups: Groups,
    run: impl FnOnce(T) -> Result<(), Failure>,
) -> ExitCode {
    logging::start();
    let Ok(args) =
        std::env::args_os().map(std::ffi::OsString::into_string).collect::<Result<Vec<_>, _>>()
    else {
        eprintln!("error: an argument is not UTF-8; flags and values must be");
        return ExitCode::from(2);
    };
    let program = program();
    let args = normalise(args.into_iter().skip(1));
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    // Behind the program or a command; elsewhere it may be a value.
    if let [word] | [_, word] = args.as_mut_slice()
        && *word == "-h"
    {
        *word = "--help";
    }
    match pages::asked::<T>(&program, revision, groups, &args) {
        Some(Ok(page)) => {
            let _ = write!(std::io::stdout(), "{page}");
            return ExitCode::SUCCESS;
        }
        Some(Err(allowed)) => {
            eprintln!("error: {allowed}");
            return ExitCode::from(2);
        }
        None => {}
    }
    let parsed = match T::from_args(&[&program], &args) {
        Ok(parsed) => parsed,
        Err(EarlyExit { output, status: Ok(()) }) => {
            // `--help | head` closes the pipe before all is written.
            let _ = writeln!(std::io::stdout(), "{}", pages::help(&output, groups));
            return ExitCode::SUCCESS;
        }
        Err(EarlyExit { output, status: Err(()) }) => {
            complain(&format!("error: {}", output.trim_end()));
            complain(&help_for::<T>(&program, &args));
            return ExitCode::from(2);
        }
    };
    match run(parsed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&last_line(&failure));
            if matches!(failure, Failure::Usage(_)) {
                complain(&help_for::<T>(&program, &args));
            }
            failure.exit_code()
        }
    }
}

/// Where the flags are listed: a command's own, if it was given one.
fn help_for<T: ArgsInfo>(program: &str, args: &[&str]) -> String {
    let commands = T::get_args_info().commands;
    let command = args.first().filter(|word| commands.iter().any(|it| it.name == **word));
    let command = command.map(|word| format!(" {word}")).unwrap_or_default();
    format!("Run `{program}{command} --help` for the flags.")
}

/// Writes a line to stderr, which may be a pipe without a reader.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The message of a failure. It may repeat another program's answer.
fn last_line(failure: &Failure) -> String {
    format!("error: {}", logging::visible(&failure.to_string()))
}

/// Checks `--topic` by Kafka's own rule for topic names.
///
/// # Errors
/// Usage: names the flag, its value and what it may be.
pub fn check_topic(topic: &str) -> Result<(), Failure> {
    let is_dots = topic == "." || topic == "..";
    check_name("--topic", topic, !is_dots)
}

/// Checks `--group`: Kafka takes any name but none.
///
/// # Errors
/// Usage: names the flag, its value and what it may be.
pub fn check_group(group: &str) -> Result<(), Failure> {
    if group.is_empty() {
        return Err(Failure::flag("--group", "''", "expected a name"));
    }
    Ok(())
}

/// Checks `--instance-id` by Kafka's own rule for it.
///
/// # Errors
/// Usage: names the flag, its value and what it may be.
pub fn check_instance_id(id: &str) -> Result<(), Failure> {
    check_name("--instance-id", id, true)
}

fn check_name(flag: &str, name: &str, is_fine_besides: bool) -> Result<(), Failure> {
    if is_fine_besides && (1..=249).contains(&name.len()) && units::is_name(name) {
        return Ok(());
    }
    let allowed = "expected 1 to 249 letters, digits, '.', '_' or '-'";
    Err(Failure::flag(flag, format_args!("{name:?}"), allowed))
}

/// Writes `text` to stdout, which may be a full disk. A pipe whose reader has seen enough (`| head`) is no error.
///
/// # Errors
/// When it cannot be written.
pub fn say(text: impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .or_else(|e| if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
        .map_err(|e| Failure::Failed(format!("stdout cannot be written: {e}")))
}

/// Writes `value` to stdout as one line of JSON.
///
/// # Errors
/// As [`say`].
pub fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(serde_json::to_string(value).map_err(Failure::failed)?)
}

/// The flag's value, else the environment variable's, else `default`.
pub fn or_env(flag: Option<String>, variable: &str, default: &str) -> String {
    flag.or_else(|| std::env::var(variable).ok().filter(|v| !v.is_empty()))
        .unwrap_or_else(|| default.to_owned())
}

/// Default of `--brokers`, where `run/cluster.sh up` listens.
pub const DEFAULT_BROKERS: &str = "127.0.0.1:19092,127.0.0.1:19093,127.0.0.1:19094";

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        normalise(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn every_documented_spelling_means_the_same() {
        for line in ["-queue=bounded", "--queue=bounded", "--queue bounded", "-queue bounded"] {
            assert_eq!(words(line), ["--queue", "bounded"], "{line}");
        }
    }

    /// Prevents a peer whose answer clears the terminal, or passes for another line of ours.
    #[test]
    fn a_failure_is_one_line_whatever_it_repeats() {
        let failure =
            Failure::failed("http://sink answered 500: no\nerror: \u{1b}]0;all is well\u{7}");
        let line = last_line(&failure);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(r"no\nerror: \u{1b}]0;all is well"), "{line}");
    }

    #[test]
    fn kafkas_names_of_the_brokers_are_ours() {
        assert_eq!(words("--bootstrap-server a:1"), ["--brokers", "a:1"]);
        assert_eq!(words("--bootstrap-servers=a:1"), ["--brokers", "a:1"]);
    }

    #[test]
    fn values_that_look_like_flags_survive() {
        assert_eq!(words("--rate -5"), ["--rate", "-5"]);
        assert_eq!(words("--note a=b"), ["--note", "a=b"]);
        assert_eq!(words("-- -queue=x"), ["--", "-queue=x"]);
        assert_eq!(words("-h"), ["-h"]);
        assert_eq!(words("--eq=a=b"), ["--eq", "a=b"]);
    }
}
