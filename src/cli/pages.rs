//! A program's pages besides argh's help: its version, its man page, completions for a shell, its
//! flags as a table. All but the version are made from the definitions of the flags.

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind};
use argh_complete::Generator as _;
use roff::{Inline, Roff, bold, roman};

use super::Groups;

/// What each program's help says of these pages.
const HELP: &str = "\
Of every program: --version; --man, its man page; --completions bash, zsh or fish; --flags, its flags as Markdown.";

const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "done"),
    ("1", "failed; the last line on stderr says why"),
    ("2", "wrong usage"),
    ("3", "a verdict fell short"),
];

/// argh's help, its flags under the headings of their groups.
pub(super) fn help(text: &str, groups: Groups) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| groups.is_empty() || *line != "Options:") {
        let flag = line.strip_prefix("  ").and_then(|rest| rest.split([' ', ',']).next());
        if let Some(heading) = flag.and_then(|flag| heading(groups, flag)) {
            let apart = if out.ends_with("\n\n") { "" } else { "\n" };
            out += &format!("{apart}{heading}:\n");
        }
        out += line;
        out.push('\n');
    }
    out + "\n" + HELP
}

/// The heading of the group that begins at `flag`.
fn heading(groups: Groups, flag: &str) -> Option<&'static str> {
    groups.iter().find(|(first, _)| *first == flag).map(|(_, heading)| *heading)
}

/// The page that `args` ask for; `None` when they ask for none. `Err` says what is allowed.
pub(super) fn asked<T: ArgsInfo>(
    program: &str,
    revision: Option<&str>,
    groups: Groups,
    args: &[&str],
) -> Option<Result<String, String>> {
    let info = T::get_args_info;
    Some(match args {
        ["--version" | "-V"] => Ok(version(program, revision)),
        ["--man"] => Ok(man(program, groups, &info()).to_roff()),
        ["--flags"] => Ok(table(program, groups, &info())),
        ["--completions", "bash"] => Ok(argh_complete::bash::Bash::generate(program, &info())),
        ["--completions", "zsh"] => Ok(argh_complete::zsh::Zsh::generate(program, &info())),
        ["--completions", "fish"] => Ok(argh_complete::fish::Fish::generate(program, &info())),
        ["--completions", ..] => Err("--completions: allowed: bash, zsh, fish".to_owned()),
        _ => return None,
    })
}

fn version(program: &str, revision: Option<&str>) -> String {
    let revision = revision.filter(|revision| !revision.is_empty()).unwrap_or("unknown");
    format!("{program} {} (revision {revision})\n", env!("CARGO_PKG_VERSION"))
}

/// As a user types it: `--rate <rate>`.
fn spelled(flag: &FlagInfo<'_>) -> String {
    match flag.kind {
        FlagInfoKind::Switch => flag.long.to_owned(),
        FlagInfoKind::Option { arg_name } => format!("{} <{arg_name}>", flag.long),
    }
}

/// The parts of a command line: the flags, the words, and for a program with commands, those.
struct Parts<'a> {
    name: String,
    info: &'a CommandInfoWithArgs,
}

impl<'a> Parts<'a> {
    fn all(program: &str, info: &'a CommandInfoWithArgs) -> Vec<Self> {
        let itself = Self { name: program.to_owned(), info };
        let commands = info.commands.iter();
        let commands = commands
            .map(|sub| Self { name: format!("{program} {}", sub.name), info: &sub.command });
        std::iter::once(itself).chain(commands).collect()
    }

    fn rows(&self, groups: Groups) -> Vec<Row<'a>> {
        let words = self.info.positionals.iter().map(|word| Row {
            heading: None,
            name: format!("<{}>", word.name),
            what: word.description,
        });
        let flags = self.info.flags.iter().filter(|flag| flag.long != "--help").map(|flag| Row {
            heading: heading(groups, flag.long),
            name: spelled(flag),
            what: flag.description,
        });
        words.chain(flags).collect()
    }
}

/// A word or a flag.
struct Row<'a> {
    /// The heading of the group that it begins.
    heading: Option<&'static str>,
    name: String,
    what: &'a str,
}

fn man(program: &str, groups: Groups, info: &CommandInfoWithArgs) -> Roff {
    let mut page = Roff::new();
    let source = format!("backpressure-lab {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", [program.to_uppercase().as_str(), "1", "", source.as_str()]);
    let first = info.description.split(['.', ':']).next().unwrap_or_default();
    page.control("SH", ["NAME"]).text([roman(format!("{program} - {first}"))]);
    let usage = if info.commands.is_empty() { "[flags]" } else { "<command> [flags]" };
    page.control("SH", ["SYNOPSIS"]).text([bold(program), roman(format!(" {usage}"))]);
    page.control("SH", ["DESCRIPTION"]).text([roman(info.description)]);
    for parts in Parts::all(program, info) {
        let rows = parts.rows(groups);
        if parts.info.description != info.description {
            page.control("SH", [parts.name.to_uppercase().as_str()]);
            page.text([roman(parts.info.description)]);
        } else if !rows.is_empty() {
            page.control("SH", ["OPTIONS"]);
        }
        for Row { heading, name, what } in rows {
            if let Some(heading) = heading {
                page.control("SS", [heading]);
            }
            tagged(&mut page, bold(name), what);
        }
    }
    page.control("SH", ["EXIT STATUS"]);
    for (code, means) in EXIT_CODES {
        tagged(&mut page, bold(code), means);
    }
    page
}

fn tagged(page: &mut Roff, tag: Inline, what: &str) {
    page.control("TP", []).text([tag]).text([roman(what)]);
}

fn table(program: &str, groups: Groups, info: &CommandInfoWithArgs) -> String {
    let mut out = String::new();
    for parts in Parts::all(program, info) {
        let rows = parts.rows(groups);
        out += &format!("### `{}`\n\n{}\n\n", parts.name, parts.info.description);
        if rows.is_empty() {
            continue;
        }
        out += "| | |\n|---|---|\n";
        for Row { heading, name, what } in rows {
            if let Some(heading) = heading {
                out += &format!("| **{heading}** | |\n");
            }
            out += &format!("| `{name}` | {} |\n", what.replace('|', "\\|"));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::FromArgs;

    /// Counts.
    #[derive(FromArgs, ArgsInfo)]
    #[allow(dead_code, reason = "of interest is what is said of it")]
    struct Counts {
        /// how often: a|b
        #[argh(option)]
        times: Option<u32>,
        /// says nothing
        #[argh(switch)]
        quiet: bool,
        /// what is counted
        #[argh(positional)]
        what: String,
    }

    const GROUPS: Groups = &[("--times", "Counting"), ("--quiet", "Talking")];

    fn page(args: &[&str]) -> String {
        asked::<Counts>("counts", Some("abc"), GROUPS, args).expect("a page").expect("allowed")
    }

    #[test]
    fn help_puts_each_group_under_its_heading() {
        let text =
            Counts::from_args(&["counts"], &["--help"]).map(|_| ()).expect_err("help").output;
        let said = help(&text, GROUPS);
        let order =
            ["Counts.", "\nCounting:\n  --times", "\nTalking:\n  --quiet", "Of every program"];
        let found: Vec<_> = order.map(|part| said.find(part)).into();
        assert!(found.is_sorted() && found.iter().all(Option::is_some), "{found:?} in {said}");
        assert!(!said.contains("Options:") && help(&text, &[]).contains("Options:"), "{said}");
    }

    #[test]
    fn pages_are_made_from_the_definitions() {
        assert!(page(&["--version"]).ends_with("(revision abc)\n"));
        let flags = page(&["--flags"]);
        assert!(flags.contains("| `--times <times>` | how often: a\\|b |"), "{flags}");
        assert!(flags.contains("| `--quiet` | says nothing |"), "{flags}");
        assert!(flags.contains("| `<what>` | what is counted |"), "{flags}");
        assert!(flags.contains("| **Talking** | |\n| `--quiet`"), "{flags}");
        let man = page(&["--man"]);
        assert!(man.contains(".SS Counting"), "{man}");
        assert!(man.contains(".TH COUNTS 1") && man.contains("\\-\\-times <times>"), "{man}");
        for shell in ["bash", "zsh", "fish"] {
            assert!(page(&["--completions", shell]).contains("times"), "{shell}");
        }
        assert!(
            asked::<Counts>("counts", None, &[], &["--completions", "csh"])
                .is_some_and(|it| it.is_err())
        );
        assert!(asked::<Counts>("counts", None, &[], &["--times", "3", "--version"]).is_none());
    }
}
