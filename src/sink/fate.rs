//! The meaning of the sink's answers for the posted events: the one table, which README repeats.
//!
//! | answer | fate of the events |
//! |---|---|
//! | 2xx with `{"acked": n}` | the first n are delivered |
//! | 2xx without a body | all are delivered |
//! | 2xx with anything else, 3xx, 4xx but those below, 501, 505 | refused: halved until one stands alone, which is given up |
//! | 425, 429, 5xx, a connection that broke before the answer's end | not now: they are sent again |
//! | 503 with `Retry-After` | not now, as 429: nginx's `limit_req` says its limit so |
//! | no answer in time, 408, 504, 413 with `Retry-After` (RFC 9110 15.5.14: temporary) | not now, and fewer at a time |
//!
//! It knows no events and retries nothing: the worker decides whether and when to try again.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

use crate::logging::said;
use crate::sink::wire::Acked;

/// The result of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// The first so many events are delivered.
    Acked(usize),
    /// The sink will not take these bytes, however often.
    Refused {
        /// Its status.
        status: u16,
        /// The beginning of its text.
        why: String,
    },
    /// Busy, failing or unreachable. Some events may have been delivered all the same.
    NotNow(NotNow),
}

/// Why the call must be tried again, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotNow {
    /// The kind of failure.
    pub trouble: Trouble,
    /// How long the sink asks to wait, where it says so (`Retry-After`, RFC 9110 10.2.3).
    pub after: Option<Duration>,
    /// What happened.
    pub why: String,
}

/// A kind of temporary failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A rate limit (429).
    Limit,
    /// A limit, or a pause, that says when it ends (503 with `Retry-After`).
    Closed,
    /// No answer within the time of a call; or, by a server between here and there, of its own.
    Slow,
    /// The connection broke before an answer.
    Cut,
    /// A success without a body whose end nothing marks: it may have been cut off.
    Endless,
    /// Anything else: nothing listens, 5xx.
    Other,
}

/// Longest wait that a `Retry-After` can ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The meaning of an answer to `sent` events. The answer may be anything. `says_when`: whether it has a `Retry-After`, if
/// only of a time that is over.
pub(crate) fn understood(
    url: &str,
    status: u16,
    (says_when, after): (bool, Option<Duration>),
    text: &[u8],
    sent: usize,
) -> Posted {
    let not_now = |trouble| {
        let why = format!("{url}: status {status} {}", said(text));
        Posted::NotNow(NotNow { trouble, after, why })
    };
    match status {
        200..=299 => match acked(text, sent) {
            Ok(acked) => Posted::Acked(acked),
            Err(e) => Posted::Refused { status, why: format!("no count of acks: {e}") },
        },
        408 | 504 => not_now(Trouble::Slow),
        TOO_LARGE if says_when => not_now(Trouble::Slow),
        503 if says_when => not_now(Trouble::Closed),
        425 => not_now(Trouble::Other),
        429 => not_now(Trouble::Limit),
        300..=499 | 501 | 505 => Posted::Refused { status, why: said(text) },
        _ => not_now(Trouble::Other),
    }
}

/// A refusal because the body was too large.
pub(crate) const TOO_LARGE: u16 = 413;

/// Whether a refusal is about the event, and not about the sender or the address.
pub(crate) fn is_about_the_event(status: u16) -> bool {
    matches!(status, 400 | 409 | TOO_LARGE | 415 | 422)
}

/// Whether a count of acks may have followed: nothing came, or the beginning of JSON.
pub(crate) fn is_beginning(text: &[u8]) -> bool {
    serde_json::from_slice::<Acked>(text).is_err_and(|e| e.is_eof())
}

/// How many of `sent` events a successful answer acks.
fn acked(text: &[u8], sent: usize) -> Result<usize, String> {
    if text.trim_ascii().is_empty() {
        return Ok(sent);
    }
    match serde_json::from_slice::<Acked>(text) {
        Ok(Acked { acked }) => Ok(usize::try_from(acked).unwrap_or(usize::MAX).min(sent)),
        Err(e) => Err(format!("{} in {:?}", said(e.to_string().as_bytes()), said(text))),
    }
}

/// The exact milliseconds where the sink gives them, else the standard's two forms: whole seconds,
/// or a date. Any other value is ignored.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    whole(headers, "retry-after-ms")
        .filter(|ms| *ms > 0)
        .map(|ms| Duration::from_millis(ms).min(RETRY_AFTER_MAX))
        .or_else(|| retry_after_seconds(headers, now))
}

/// Whether it has one of these headers, of whatever time.
pub(crate) fn says_when(headers: &HeaderMap) -> bool {
    let is_date = |text| httpdate::parse_http_date(text).is_ok();
    whole(headers, "retry-after-ms").or_else(|| whole(headers, "retry-after")).is_some()
        || text(headers, "retry-after").is_some_and(is_date)
}

/// The same by the standard's header alone.
pub(crate) fn retry_after_seconds(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let date = || {
        let date = httpdate::parse_http_date(text(headers, "retry-after")?).ok()?;
        date.duration_since(now).ok()
    };
    whole(headers, "retry-after")
        .map(Duration::from_secs)
        .or_else(date)
        .filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(RETRY_AFTER_MAX))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn whole(headers: &HeaderMap, name: &str) -> Option<u64> {
    let digits = text(headers, name)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit count as the largest number.
    is_number.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(status: u16, text: &str) -> Posted {
        understood("u", status, (false, None), text.as_bytes(), 3)
    }

    #[test]
    fn no_more_is_acked_than_was_sent() {
        assert_eq!(fate(200, r#"{"acked":2}"#), Posted::Acked(2));
        assert_eq!(fate(200, r#"{"acked":18446744073709551615}"#), Posted::Acked(3));
        for status in [200, 201, 202, 204] {
            assert_eq!(fate(status, ""), Posted::Acked(3), "{status}: nothing is said against it");
        }
        // A page of another server is no answer of a sink.
        for none in ["{}", r#"{"acked":-1}"#, r#"{"acked":1}x"#, "<html>", "ok"] {
            assert!(matches!(fate(200, none), Posted::Refused { .. }), "{none}");
        }
    }

    /// Prevents: a limit that says 503 and starves the worker that lost; a temporary 413 that costs an event.
    #[test]
    fn a_status_that_says_when_to_come_back_is_temporary() {
        let said = |status, when| understood("u", status, when, b"words", 3);
        let trouble = |posted| match posted {
            Posted::NotNow(not_now) => Some(not_now.trouble),
            _ => None,
        };
        let after = Some(Duration::from_secs(5));
        for (status, without, with) in [
            (503, Some(Trouble::Other), Some(Trouble::Closed)),
            (413, None, Some(Trouble::Slow)),
            (500, Some(Trouble::Other), Some(Trouble::Other)),
            (422, None, None),
        ] {
            assert_eq!(trouble(said(status, (false, None))), without, "{status}");
            assert_eq!(trouble(said(status, (true, after))), with, "{status}");
            assert_eq!(trouble(said(status, (true, None))), with, "{status}: its time is over");
        }
    }

    /// Prevents: a permanent refusal that is retried for ever; a temporary refusal that costs an
    /// event.
    #[test]
    fn every_status_has_one_fate() {
        for status in 100..600 {
            let fate = fate(status, "words");
            let expected = match status {
                408 | 425 | 429 => false,
                200..=499 | 501 | 505 => true,
                _ => false,
            };
            assert_eq!(matches!(fate, Posted::Refused { .. }), expected, "{status}: {fate:?}");
        }
        assert!(matches!(fate(429, ""), Posted::NotNow(NotNow { trouble: Trouble::Limit, .. })));
        // Sent whole again, they would take as long again.
        for slow in [408, 504] {
            let fate = fate(slow, "");
            assert!(
                matches!(fate, Posted::NotNow(NotNow { trouble: Trouble::Slow, .. })),
                "{slow}"
            );
        }
    }

    /// Prevents: a limit that is ignored because it has a date; text that is no time and is obeyed
    /// as one.
    #[test]
    fn retry_after_is_seconds_or_a_date_and_nothing_else() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header's value"));
            retry_after(&headers, now)
        };
        let s = Duration::from_secs;
        let at = |time| httpdate::fmt_http_date(time);
        assert_eq!(wait("retry-after", "3"), Some(s(3)));
        assert_eq!(wait("retry-after", "86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("retry-after", &at(now + s(20))), Some(s(20)));
        assert_eq!(wait("retry-after", &at(now + s(86_400))), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("retry-after", "99999999999999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("retry-after-ms", "7"), Some(Duration::from_millis(7)));
        let past = at(now - s(20));
        for none in ["1.5", "-1", "+3", "3s", "", "soon", "0", past.as_str()] {
            assert_eq!(wait("retry-after", none), None, "{none:?}");
        }
    }
}
