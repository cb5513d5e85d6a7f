//! Reads one `/metrics` page, in Prometheus' text format, into plain numbers.
//!
//! Invariant: two series never get one key; a line that cannot be read makes the page unread.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::logging::said;

/// Largest page that is read: ours are below 30 kB, with a thousand partitions 250 kB.
const PAGE_BYTES_MAX: u64 = 1 << 20;
/// Most numbers that are kept: ours have a hundred, and four more for each partition.
pub(crate) const SERIES_MAX: usize = 8_000;
/// Most bytes of their names together, 64 each. With 56 B of records for each number a page is at most
/// 960 kB in a sample; the live page keeps 512 samples (`live::story`), 492 MB if a page is made to be
/// the worst.
const NAMES_BYTES_MAX: usize = 64 * SERIES_MAX;

/// One page to read.
pub struct Target {
    /// Its name in the samples.
    pub name: String,
    url: String,
    agent: ureq::Agent,
}

impl Target {
    /// A page whose reading ends after `timeout`.
    pub fn new(name: &str, url: &str, timeout: Duration) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            agent: crate::http::client::agent(timeout),
        }
    }

    /// Reads it now: value by `metric{label="value",…}`; `Err` says why it could not be read.
    pub fn read(&self) -> Result<BTreeMap<String, f64>, String> {
        let mut answer = self.agent.get(&self.url).call().map_err(|e| e.to_string())?;
        if answer.status() != 200 {
            return Err(format!("{}: status {}", self.url, answer.status()));
        }
        let body = answer.body_mut().with_config().limit(PAGE_BYTES_MAX);
        let text = body.read_to_string().map_err(|e| format!("{}: {e}", self.url))?;
        numbers(&text).map_err(|why| format!("{}: {why}", self.url))
    }
}

/// The finite numbers of a page: value by `metric{label="value",…}`, labels by name, their values as
/// they are escaped there. Buckets are left out: their `_sum` and `_count` are rows of their own.
///
/// # Errors
/// A line that is no sample, a series that is there twice, and a page above the limits.
pub(crate) fn numbers(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut out, mut names) = (BTreeMap::<String, f64>::new(), 0);
    for line in lines {
        let (name, labels, value) =
            sample(line).ok_or_else(|| format!("no sample: {}", said(line.as_bytes())))?;
        let is_bucket = name.ends_with("_bucket") && labels.iter().any(|(label, _)| *label == "le");
        if is_bucket || !value.is_finite() {
            continue;
        }
        let key = key(name, labels);
        names += key.len();
        if names > NAMES_BYTES_MAX {
            return Err(format!("names of more than {NAMES_BYTES_MAX} bytes together"));
        }
        if let Some((twice, _)) = out.get_key_value(&key) {
            return Err(format!("series told twice: {}", said(twice.as_bytes())));
        }
        out.insert(key, value);
        if out.len() > SERIES_MAX {
            return Err(format!("more than {SERIES_MAX} numbers"));
        }
    }
    Ok(out)
}

/// (name, value as it is escaped).
type Labels<'a> = Vec<(&'a str, &'a str)>;

fn key(name: &str, mut labels: Labels<'_>) -> String {
    labels.sort_unstable();
    let labels: Vec<String> =
        labels.into_iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// A line's metric, labels and value. The rest of the line, such as a time, is ignored.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
    let (name, rest) = word(line, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':')?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// The labels up to `}`, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = rest.trim_start().strip_prefix('}') {
            return Some((labels, rest));
        }
        let (label, after) = word(rest.trim_start(), |c| c.is_ascii_alphanumeric() || c == '_')?;
        let quoted = after.strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let mut escaped = false;
        let end = quoted.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        })?;
        let (value, after) = quoted.split_at_checked(end)?;
        if labels.iter().any(|(earlier, _)| *earlier == label) {
            return None;
        }
        labels.push((label, value));
        let after = after.strip_prefix('"')?.trim_start();
        rest = match after.strip_prefix(',') {
            Some(rest) => rest,
            None if after.starts_with('}') => after,
            None => return None,
        };
    }
}

/// The name at the start of `text`, and what follows it and blanks.
fn word(text: &str, of: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    let is_name = word.starts_with(|c: char| !c.is_ascii_digit());
    is_name.then(|| (word, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Metrics, ProcessorMetrics};

    // Guards the contract between the binaries' exports and the keys that the report reads.
    #[test]
    fn our_own_metrics_come_back_under_the_keys_that_the_report_reads() {
        let metrics = Metrics::default();
        let processor = ProcessorMetrics::register(&metrics).expect("names");
        processor.fetched.inc_by(41);
        processor.shed.with_label_values(&["newest", "normal"]).inc();
        processor.latency_quantiles.with_label_values(&["end_to_end", "0.99"]).set(0.25);
        processor.latency_quantiles.with_label_values(&["sink", "0.99"]).set(f64::NAN);
        processor.end_to_end.observe(0.5);
        let text = String::from_utf8(metrics.text().expect("text")).expect("utf-8");
        let read = numbers(&text).expect("page");
        let is = |key: &str, value: f64| assert_eq!(read.get(key), Some(&value), "{key}: {read:?}");
        is("processor_events_fetched_total", 41.0);
        is("processor_events_shed_total{by=\"newest\",class=\"normal\"}", 1.0);
        is("latency_quantile_seconds{quantile=\"0.99\",stage=\"end_to_end\"}", 0.25);
        is("end_to_end_latency_seconds_sum", 0.5);
        is("end_to_end_latency_seconds_count", 1.0);
        assert!(!read.keys().any(|key| key.contains("stage=\"sink\"")), "NaN is no number");
    }

    /// Prevents: series that get the same key, or are left out without an error.
    #[test]
    fn any_label_of_the_text_format_makes_a_key_of_its_own() {
        let page = r#"# TYPE odd gauge
odd{path="/a",q="x=1"} 1
odd{path="/a",q="x=2"} 2
odd{path="/b,c",q="z"} 3
odd{q="z",path="/{id}/d"} 4
odd{path="say \"hi\"",q="z",} 5
odd:recorded:rate5m{q="z"} 6 1700000000000

odd_bare{} 7
  spaced { a = "}" , b = "\\" }	8
odd_bucket{le="1"} 9
odd_sum +Inf
"#;
        let expected = [
            (r#"odd:recorded:rate5m{q="z"}"#, 6.0),
            ("odd_bare", 7.0),
            (r#"odd{path="/a",q="x=1"}"#, 1.0),
            (r#"odd{path="/a",q="x=2"}"#, 2.0),
            (r#"odd{path="/b,c",q="z"}"#, 3.0),
            (r#"odd{path="/{id}/d",q="z"}"#, 4.0),
            (r#"odd{path="say \"hi\"",q="z"}"#, 5.0),
            (r#"spaced{a="}",b="\\"}"#, 8.0),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value)).into();
        assert_eq!(numbers(page), Ok(expected));
        for line in [
            "a",
            "a b",
            "a{b} 1",
            "a{b=c} 1",
            "a{b=\"c} 1",
            "a{b=\"c\" d=\"e\"} 1",
            "1a 1",
            "{} 1",
            "a{b=\"c\",b=\"d\"} 1",
        ] {
            let why = numbers(&format!("fine 1\n{line}\n")).expect_err(line);
            assert!(why.contains(line), "{line}: {why}");
        }
        let why = numbers("a{b=\"c\",d=\"e\"} 1\na{d=\"e\",b=\"c\"} 2\n").expect_err("twice");
        assert!(why.contains(r#"a{b="c",d="e"}"#), "{why}");
    }

    /// Prevents: a page that fills the memory of the watch, which keeps hundreds of samples.
    #[test]
    fn a_page_with_more_than_is_kept_counts_as_unread() {
        let rows = |count: usize, name: &str| -> String {
            (0..count).map(|n| format!("{name}{{n=\"{n}\"}} 1\n")).collect()
        };
        let metrics = Metrics::default();
        let processor = ProcessorMetrics::register(&metrics).expect("names");
        let of_partition = [
            &processor.committable,
            &processor.position,
            &processor.high_watermark,
            &processor.lag,
        ];
        for partition in 0..1_000 {
            let partition = partition.to_string();
            of_partition.iter().for_each(|row| row.with_label_values(&[&partition]).set(1 << 40));
        }
        let large = String::from_utf8(metrics.text().expect("text")).expect("utf-8");
        assert!(large.len() as u64 <= PAGE_BYTES_MAX / 2, "{} B", large.len());
        assert!(numbers(&large).expect("a page").len() > 4_000);
        assert_eq!(numbers(&rows(SERIES_MAX, "a")).expect("a page").len(), SERIES_MAX);
        let why = numbers(&rows(SERIES_MAX + 1, "a")).expect_err("too many");
        assert!(why.contains("8000"), "{why}");
        let why = numbers(&rows(100, &"a".repeat(10_000))).expect_err("too long");
        assert!(why.contains("512000 bytes"), "{why}");
    }

    #[test]
    fn a_page_without_end_or_that_is_no_text_is_given_up() {
        use crate::http::{Limits, Request, Response, Server};
        let page = |request: Request| {
            if request.query == "odd" {
                return Response::bytes(200, "text/plain", b"a{b=\"\xff\"} 1\n".to_vec());
            }
            let bytes = request.query.parse().expect("a size");
            Response::text(200, format_args!("a 1\n#{}", "x".repeat(bytes)))
        };
        let listen = ([127, 0, 0, 1], 0).into();
        let server = Server::start(listen, Limits::default(), std::sync::Arc::new(page));
        let server = server.expect("a server");
        let read = |what: &dyn std::fmt::Display| {
            let url = format!("http://{}/metrics?{what}", server.addr());
            Target::new("big", &url, Duration::from_secs(10)).read()
        };
        assert_eq!(read(&(PAGE_BYTES_MAX / 2)).expect("a page").get("a"), Some(&1.0));
        let why = read(&PAGE_BYTES_MAX).expect_err("too large");
        assert!(why.contains("/metrics") && why.contains("1048576"), "{why}");
        // Bytes that are no text would get one key together.
        assert!(read(&"odd").is_err());
    }
}
