//! The page's figures in one line of a terminal.

use super::point::Point;
use super::story::Standing;
use crate::lab::text::thousands;

/// `exp2/pull · 8,000/s phase · 34 s left · produced 8,000/s · polled 2,003/s · sink 2,000/s ·
/// lag 60,123 · 17 MB`. An unknown value shows as `–`.
pub fn line(name: &str, standing: Option<&Standing>, point: &Point) -> String {
    let mut parts = vec![name.to_owned()];
    if let Some(standing) = standing {
        parts.push(standing.phase.clone());
        parts.extend(standing.left_s.map(|s| format!("{} left", time(s))));
    }
    let figure = |value: Option<f64>, unit| {
        value.map_or("–".into(), |value| format!("{}{unit}", thousands(value)))
    };
    parts.push(format!("produced {}", figure(point.produced, "/s")));
    parts.push(format!("polled {}", figure(point.polled, "/s")));
    parts.push(format!("sink {}", figure(point.delivered, "/s")));
    parts.push(format!("lag {}", figure(point.lag, "")));
    parts.push(figure(point.rss.map(|bytes| bytes / 1e6), " MB"));
    parts.join(" · ")
}

/// `34 s`, `9 min 05 s`.
fn time(seconds: f64) -> String {
    let s = seconds.ceil().max(0.0) as u64;
    if s < 60 { format!("{s} s") } else { format!("{} min {:02} s", s / 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_shows_phase_time_left_rates_lag_and_memory() {
        let standing = Standing { phase: "8,000/s phase".into(), left_s: Some(33.2) };
        let point = Point {
            produced: Some(8000.4),
            polled: Some(2003.0),
            delivered: Some(2000.0),
            lag: Some(60_123.0),
            rss: Some(17.2e6),
            ..Point::default()
        };
        assert_eq!(
            line("exp2/pull", Some(&standing), &point),
            "exp2/pull · 8,000/s phase · 34 s left · produced 8,000/s · polled 2,003/s · \
             sink 2,000/s · lag 60,123 · 17 MB"
        );
    }

    #[test]
    fn without_a_plan_and_before_the_first_reading_it_invents_nothing() {
        assert_eq!(
            line("watched", None, &Point::default()),
            "watched · produced – · polled – · sink – · lag – · –"
        );
        let over = Standing { phase: "load over".into(), left_s: None };
        assert!(line("a", Some(&over), &Point::default()).starts_with("a · load over · produced"));
        assert_eq!(
            (time(59.0), time(544.2), time(-1.0)),
            ("59 s".into(), "9 min 05 s".into(), "0 s".into())
        );
    }
}
