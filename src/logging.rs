//! Logs are for people: one line an event, `key=value`, to stderr. Data goes to stdout or files.
//!
//! `LAB_LOG` sets the level (`info` by default; `debug`, `warn`, `backpressure_lab::source=trace`).
//! Write `log::info!(broker = 2, partition = 5; "leader moved")`.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant, SystemTime};

use log::kv::{self, Key, Value, VisitSource};

/// Starts logging once; later calls do nothing.
pub fn start() {
    // Crate kafka logs each broken socket at its own level, and rdkafka repeats our own lines: both
    // log only on request. tiny_http reports the planned end of its accept loop as an error.
    let spec = std::env::var("LAB_LOG")
        .unwrap_or_else(|_| "info,kafka=off,rdkafka=off,librdkafka=off,tiny_http=off".to_owned());
    // A progress line may be where the next line goes.
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
    let _already_started = env_logger::Builder::new()
        .parse_filters(&spec)
        .format(move |out, record| {
            let mut line = format!(
                "{clear}{} level={} thread={} msg={}",
                humantime::format_rfc3339_millis(SystemTime::now()),
                record.level().as_str().to_ascii_lowercase(),
                quoted(std::thread::current().name().unwrap_or("unnamed")),
                quoted(&record.args().to_string()),
            );
            let _never_fails = record.key_values().visit(&mut Pairs(&mut line));
            writeln!(out, "{line}")
        })
        .try_init();
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let _never_fails = write!(self.0, " {key}={}", quoted(&value.to_string()));
        Ok(())
    }
}

/// The text bare where it is one plain word, else in quotes with control characters escaped, so
/// that outside data can forge neither a line nor a key.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '=' && c != '\\');
    if plain { text.to_owned() } else { format!("{text:?}") }
}

/// Most characters of another program's answer that a message repeats.
pub const SAID_CHARS_MAX: usize = 300;

/// The beginning of another program's answer, for a message of ours. Control characters stay: a log
/// line escapes them by itself, other output by [`visible`].
pub fn said(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    let words = words.trim();
    match words.char_indices().nth(SAID_CHARS_MAX) {
        Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
        None => words.to_owned(),
    }
}

/// The text with the characters that a terminal would obey, or not show, written out: a line end as
/// `\n`, an escape as `\u{1b}`.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => out.push(c), // `escape_debug` would, but they do no harm here
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// Lets a bounded number of lines through each second, and counts the rest, so that a flood of bad
/// records is reported without hiding everything else.
pub struct Limiter {
    lines_max: u32,
    lines: u32,
    suppressed: u64,
    time: Duration,
    since: Instant,
}

impl Limiter {
    /// At most `lines_max` lines a second.
    pub fn per_second(lines_max: u32) -> Self {
        Self::per(Duration::from_secs(1), lines_max)
    }

    /// At most `lines_max` lines in each `time`.
    pub fn per(time: Duration, lines_max: u32) -> Self {
        Self { lines_max, lines: 0, suppressed: 0, time, since: Instant::now() }
    }

    /// Whether a line may be written now; with how many were suppressed since the last.
    pub fn allow(&mut self) -> Option<u64> {
        if self.since.elapsed() >= self.time {
            (self.since, self.lines) = (Instant::now(), 0);
        }
        if self.lines == self.lines_max {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn outside_data_cannot_forge_a_line() {
        assert_eq!(super::quoted("plain:9092"), "plain:9092");
        assert_eq!(super::quoted("two\nlevel=error"), "\"two\\nlevel=error\"");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        let plain = r#"--sink 'x' "y" C:\z: expected …, 5 × 2"#;
        assert_eq!(super::visible(plain), plain);
        let hostile = "a\r\n\u{1b}[2Jerror:\u{7}\u{9b}31m\u{202e}b";
        let shown = r"a\r\n\u{1b}[2Jerror:\u{7}\u{9b}31m\u{202e}b";
        assert_eq!(super::visible(hostile), shown);
    }

    /// Prevents: a message, or a log, whose size the called program decides.
    #[test]
    fn of_somebody_elses_words_the_beginning_is_repeated() {
        assert_eq!(super::said(b" short \n"), "short");
        let said = super::said("é".repeat(1 << 20).as_bytes());
        assert_eq!(said, format!("{}…", "é".repeat(super::SAID_CHARS_MAX)));
        assert_eq!(super::said(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
