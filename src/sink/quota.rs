//! The sink's rate limit in its answers, by draft-ietf-httpapi-ratelimit-headers-10: what the sink writes and what
//! its client reads.
//!
//! ```text
//! RateLimit-Policy: "default";q=2000;w=1;qu="tokens";lab-burst=100;lab-call-cost=0;lab-event-cost=1
//! RateLimit: "default";r=55;t=1
//! ```
//! `q` units are earned in `w` seconds, `r` are there now, one more after `t` seconds. Both times are whole seconds:
//! the draft knows no smaller ones. Its units are requests, bytes or concurrent requests, and a token of ours is none
//! of them: so the unit has a name of its own, and what a call costs of it stands beside it, in parameters that begin
//! with `lab-`, as the draft asks for.
//!
//! What is malformed is ignored, as the draft requires.

use ureq::http::HeaderMap;

use super::control::Costs;

/// The names of the two headers.
pub const POLICY: &str = "RateLimit-Policy";
/// See [`POLICY`].
pub const REMAINING: &str = "RateLimit";

const NAME: &str = "default";
const UNIT: &str = "tokens";
/// Largest window that is written, s, and the error of a rate that is written in whole tokens and windows.
const WINDOWS: [f64; 4] = [1.0, 10.0, 60.0, 3_600.0];
const ERROR_MAX: f64 = 1e-3;

/// A limit, as the sink has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Tokens earned, tokens/s.
    pub rate: f64,
    /// Tokens that are saved up at most, where the sink says so.
    pub burst: Option<f64>,
    /// What a call costs, tokens.
    pub costs: Costs,
}

/// What an answer says of the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quota {
    /// The limit.
    pub policy: Option<Policy>,
    /// Tokens that are there, in whole ones.
    pub remaining: Option<f64>,
}

/// A bucket at the moment of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// Its limit.
    pub policy: Policy,
    /// Tokens that are there; below 0 what is owed.
    pub level: f64,
}

impl Now {
    /// The values of [`POLICY`] and [`REMAINING`].
    pub fn written(&self) -> (String, String) {
        let Policy { rate, burst, costs } = self.policy;
        let is_near = |window: &&f64| {
            let written = (rate * **window).floor();
            rate * **window - written <= ERROR_MAX * rate * **window
        };
        let window = WINDOWS.iter().find(is_near).or(WINDOWS.last()).copied().unwrap_or(1.0);
        let mut policy =
            format!("\"{NAME}\";q={};w={window};qu=\"{UNIT}\"", (rate * window).floor());
        if let Some(burst) = burst {
            policy += &format!(";lab-burst={}", decimal(burst));
        }
        policy += &format!(
            ";lab-call-cost={};lab-event-cost={}",
            decimal(costs.call_cost),
            decimal(costs.event_cost)
        );
        let whole = self.level.max(0.0).floor();
        let mut remaining = format!("\"{NAME}\";r={whole}");
        let more_s = (whole + 1.0 - self.level) / rate;
        // A sink that earns nothing cannot say when.
        if more_s.is_finite() {
            remaining += &format!(";t={}", more_s.ceil());
        }
        (policy, remaining)
    }
}

/// A structured field's decimal has three digits at most; a cost must not become nothing.
fn decimal(value: f64) -> f64 {
    (value * 1e3).ceil() / 1e3
}

/// What the headers of an answer say.
pub fn read(headers: &HeaderMap) -> Quota {
    // A list may be spread over several fields of one name (RFC 9651 3.1).
    let text = |name: &str| -> String {
        let fields = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        fields.collect::<Vec<_>>().join(", ")
    };
    let (policies, limits) = (text(POLICY), text(REMAINING));
    let policies = items(&policies).unwrap_or_default();
    let policies = policies.iter().filter_map(|item| Some((item, policy(item)?)));
    // Of several limits the tightest counts.
    let tightest = policies.min_by(|a, b| a.1.rate.total_cmp(&b.1.rate));
    let Some((named, policy)) = tightest else { return Quota::default() };
    let limits = items(&limits).unwrap_or_default();
    let limit = limits.iter().find(|limit| limit.name == named.name);
    Quota { policy: Some(policy), remaining: limit.and_then(|limit| limit.number("r")) }
}

fn policy(item: &Item<'_>) -> Option<Policy> {
    let window = item.number("w").filter(|window| *window > 0.0)?;
    let costs = match item.parameter("qu") {
        None | Some("\"requests\"") => Costs { call_cost: 1.0, event_cost: 0.0 },
        Some("\"tokens\"") => Costs {
            call_cost: item.number("lab-call-cost").unwrap_or(0.0),
            event_cost: item.number("lab-event-cost").unwrap_or(1.0),
        },
        // Bytes, or calls at once: no rate of events or calls.
        Some(_) => return None,
    };
    let burst = item.number("lab-burst").filter(|burst| *burst >= 1.0);
    Some(Policy { rate: item.number("q")? / window, burst, costs })
}

/// An item of a structured field (RFC 9651 3.1), with its parameters.
struct Item<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Item<'a> {
    fn parameter(&self, key: &str) -> Option<&'a str> {
        // Of a key that comes twice the last counts (RFC 9651 4.2.3.2).
        self.parameters.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// A number that is finite and not below 0.
    fn number(&self, key: &str) -> Option<f64> {
        let text = self.parameter(key)?;
        let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        text.parse().ok().filter(|number: &f64| is_plain && number.is_finite())
    }
}

fn items<'a>(text: &'a str) -> Option<Vec<Item<'a>>> {
    let item = |text: &'a str| {
        let mut parts = parts(text, ';')?.into_iter().map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        // One without a value is true (RFC 9651 3.1.2).
        let parameter = |part: &'a str| match part {
            "" => None,
            _ => Some(part.split_once('=').unwrap_or((part, "?1"))),
        };
        let parameters = parts.map(parameter).collect::<Option<_>>()?;
        Some(Item { name, parameters })
    };
    parts(text, ',')?.into_iter().map(item).collect()
}

/// The parts of `text` between separators outside of quotes; none where a quote is left open.
fn parts(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text
        .split(|c| {
            is_quoted ^= c == '"' && !is_escaped;
            is_escaped = is_quoted && c == '\\' && !is_escaped;
            c == separator && !is_quoted
        })
        .collect();
    (!is_quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_of(policy: &str, remaining: &str) -> Quota {
        let mut headers = HeaderMap::new();
        headers.insert(POLICY, policy.parse().expect("a header's value"));
        headers.insert(REMAINING, remaining.parse().expect("a header's value"));
        read(&headers)
    }

    /// Prevents: a limit that is not seen for a parameter that is legal, and of no interest here.
    #[test]
    fn legal_parameters_hide_no_limit() {
        for (policy, rate) in [
            (r#""a";q=100;w=10;shared"#, 10.0),
            (r#""a";q=10;w=1,"b";q=5;w=1;x"#, 5.0),
            (r#""a\"b;,c";q=10;w=1"#, 10.0),
            (r#""a";q=1;w=1;q=5"#, 5.0),
        ] {
            assert_eq!(
                read_of(policy, "").policy.map(|policy| policy.rate),
                Some(rate),
                "{policy}"
            );
        }
        assert_eq!(read_of(r#""a";q=1;w=1"#, r#""a";r=7;t"#).remaining, Some(7.0));
        assert_eq!(read_of(r#""a;q=1;w=1"#, "").policy, None, "its quote is left open");
    }

    proptest! {
        /// Prevents: a client that paces by another limit than the sink's.
        #[test]
        fn what_is_written_is_read_to_a_thousandth(
            rate in 0.01f64..1e6, burst in proptest::option::of(1.0f64..1e6), level in -1e6f64..1e6,
            call_cost in 0.0f64..100.0, event_cost in 0.0f64..100.0,
        ) {
            let costs = Costs { call_cost, event_cost };
            let (policy, remaining) = Now { policy: Policy { rate, burst, costs }, level }.written();
            let quota = read_of(&policy, &remaining);
            let read = quota.policy.expect(&policy);
            // Below 0.3/s an hour has not enough tokens.
            let error = if rate > 0.3 { 1e-3 } else { 0.03 };
            prop_assert!(read.rate <= rate && read.rate >= rate * (1.0 - error), "{} {}", rate, policy);
            prop_assert_eq!(read.burst.map(|b| (b * 1e3) as u64), burst.map(|b| ((b * 1e3).ceil() / 1e3 * 1e3) as u64));
            prop_assert!((read.costs.of(7) - costs.of(7)).abs() < 0.01);
            let left = quota.remaining.expect(&remaining);
            prop_assert!(left <= level.max(0.0) && left + 1.0 > level, "{} {}", level, remaining);
        }

        #[test]
        fn nothing_that_is_no_limit_is_read_as_one(policy in "[ -~]{0,60}", remaining in "[ -~]{0,30}") {
            if let Some(policy) = read_of(&policy, &remaining).policy {
                prop_assert!(policy.rate.is_finite() && policy.rate >= 0.0);
            }
        }
    }

    #[test]
    fn the_examples_of_the_draft() {
        let of = |policy, remaining| {
            let Quota { policy, remaining } = read_of(policy, remaining);
            (policy.map(|policy: Policy| (policy.rate, policy.costs.of(5))), remaining)
        };
        assert_eq!(
            of(r#""default";q=100;w=10"#, r#""default";r=50;t=30"#),
            (Some((10.0, 1.0)), Some(50.0))
        );
        let two = r#""permin";q=50;w=60,"perhr";q=1000;w=3600"#;
        assert_eq!(
            of(two, r#""permin";r=9;t=3, "perhr";r=7"#),
            (Some((1000.0 / 3600.0, 1.0)), Some(7.0))
        );
        let bytes = r#""peruser";q=65535;qu="content-bytes";w=10;pk=:sdfjLJUOUH==:"#;
        assert_eq!(of(bytes, r#""peruser";r=1"#), (None, None));
        for none in [
            "",
            "x",
            r#""a";q=1"#,
            r#""a";q=1;w=0"#,
            r#""a;q=1;w=1"#,
            r#""a";q=-1;w=1"#,
            r#""a";q=1e3;w=1"#,
        ] {
            assert_eq!(of(none, r#""a";r=1"#), (None, None), "{none}");
        }
    }

    #[test]
    fn a_pause_says_that_nothing_comes_and_not_when() {
        let costs = Costs { call_cost: 0.9, event_cost: 0.1 };
        let policy = Policy { rate: 0.0, burst: Some(1.0), costs };
        let (policy, remaining) = Now { policy, level: -3.5 }.written();
        assert_eq!(
            (policy.as_str(), remaining.as_str()),
            (
                r#""default";q=0;w=1;qu="tokens";lab-burst=1;lab-call-cost=0.9;lab-event-cost=0.1"#,
                r#""default";r=0"#
            )
        );
        assert_eq!(read_of(&policy, &remaining).policy.map(|policy| policy.rate), Some(0.0));
    }
}
