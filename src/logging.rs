//! Logs are for people: one line an event, `key=value`, to stderr. Data goes to stdout or files.
//!
//! `LAB_LOG` sets the level (`info` by default; `debug`, `warn`, `backpressure_lab::source=trace`).
//! Write `log::info!(broker = 2, partition = 5; "leader moved")`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use log::kv::{self, Key, Value, VisitSource};

/// Starts logging once; later calls do nothing.
pub fn start() {
    // Crate kafka logs each broken socket at its own level and rdkafka repeats what our own lines
    // say: both speak up only when asked to. tiny_http calls the planned end of its accept loop an
    // error.
    let spec = std::env::var("LAB_LOG")
        .unwrap_or_else(|_| "info,kafka=off,rdkafka=off,librdkafka=off,tiny_http=off".to_owned());
    let _already_started = env_logger::Builder::new()
        .parse_filters(&spec)
        .format(|out, record| {
            let mut line = format!(
                "{} level={} thread={} msg={}",
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

#[cfg(test)]
mod tests {
    #[test]
    fn outside_data_cannot_forge_a_line() {
        assert_eq!(super::quoted("plain:9092"), "plain:9092");
        assert_eq!(super::quoted("two\nlevel=error"), "\"two\\nlevel=error\"");
    }
}
