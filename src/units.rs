//! The one spelling of quantities in flags: time `20ms`, `90s`, `30m`; sizes `512`, `64KiB`;
//! rates are events/s as plain numbers. Each parser's error says what it expected.

use std::num::NonZeroUsize;
use std::time::Duration;

/// A time such as `20ms`, `90s`, `1m30s`; at most 365 days.
pub fn duration(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let time = if text == "0" {
        Duration::ZERO
    } else {
        humantime::parse_duration(text)
            .map_err(|e| format!("expected a time such as 20ms, 90s or 30m ({e})"))?
    };
    if time > YEAR {
        return Err("expected a time of at most 365d".into());
    }
    Ok(time)
}

/// A time as `duration` takes it, but not 0.
pub fn duration_above_zero(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected a time above 0 such as 20ms, 90s or 30m".into()),
        time => Ok(time),
    }
}

/// A size in bytes such as `512`, `64KiB` or `1MiB`; at most 1 TiB.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = text
        .parse::<bytesize::ByteSize>()
        .map_err(|e| format!("expected a size such as 512, 64KiB or 1MiB ({e})"))?
        .as_u64();
    if bytes > 1 << 40 {
        return Err("expected a size of at most 1TiB".into());
    }
    Ok(bytes)
}

/// A rate in events/s, finite, above 0 and at most 1e9; `8k` is 8000, `1.5M` 1500000.
pub fn rate(text: &str) -> Result<f64, String> {
    match scaled(text) {
        Some(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => {
            Err("expected a rate in events/s such as 1500 or 8k, above 0 and at most 1000000000"
                .into())
        }
    }
}

fn scaled(text: &str) -> Option<f64> {
    let (number, factor) = match text.strip_suffix('k') {
        Some(number) => (number, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// A rate as `rate` takes it, or 0: nothing passes.
pub fn rate_or_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0.0),
        _ => rate(text).map_err(|_| {
            "expected a rate in events/s such as 1500 or 8k, from 0 to 1000000000".to_owned()
        }),
    }
}

/// A share such as `10%` or `0.1`, from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    number
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a share such as 10% or 0.1, from 0 to 1".to_owned())
}

/// A count of at least 1; `10k` is 10000.
pub fn count(text: &str) -> Result<NonZeroUsize, String> {
    // Whole numbers up to 2^53 are exact.
    let whole = |n: f64| (n.fract() == 0.0 && (1.0..9e15).contains(&n)).then_some(n as usize);
    let count = text.parse().ok().or_else(|| NonZeroUsize::new(scaled(text).and_then(whole)?));
    count.ok_or_else(|| "expected a whole number of at least 1, such as 200 or 10k".into())
}

/// One of a few names.
pub fn one_of<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, String> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("expected {}", names.join(", "))
    })
}

/// Whether it is made of letters, digits, '.', '_' and '-' alone, as Kafka's names are.
pub fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// A duration as people write it, rounded to its significant digits: `90s` not `90.000012s`.
pub fn show(time: Duration) -> String {
    let rounded = if time >= Duration::from_secs(10) {
        Duration::from_secs(time.as_secs_f64().round() as u64)
    } else if time >= Duration::from_millis(10) {
        Duration::from_millis(time.as_millis() as u64)
    } else {
        Duration::from_micros(time.as_micros() as u64)
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_examples_parse() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        let counted = ["200", "10k", "1.5k", "1M"].map(|text| count(text).map(NonZeroUsize::get));
        assert_eq!(counted, [Ok(200), Ok(10_000), Ok(1_500), Ok(1_000_000)]);
        assert!(
            ["", "0", "-1", "10K", "1.5", "0.0001k", "1e999k"]
                .iter()
                .all(|text| count(text).is_err())
        );
        assert_eq!((share("10%"), share("0.25"), share("0")), (Ok(0.1), Ok(0.25), Ok(0.0)));
        assert!(
            ["", "%", "-1%", "101%", "1.5", "nan", "a%"].iter().all(|text| share(text).is_err())
        );
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(rate("8000"), Ok(8000.0));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for bad in ["", "-1", "nan", "inf", "1e10", "x"] {
            assert!(rate(bad).is_err(), "{bad}");
            assert!(rate_or_zero(bad).is_err(), "{bad}");
        }
        for bad in ["", "20", "-5s", "10 parsecs", "400d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(count("0").is_err());
        assert!(size("-1").is_err());
    }
}
