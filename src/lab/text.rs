//! How a figure is written for people: in reports, charts and tables. It knows no experiment and
//! no file.

use std::fmt::Write as _;

/// A whole number with its thousands apart: `360,000`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 && out != "0" { format!("-{out}") } else { out }
}

/// A figure as people read it: three or four significant digits, thousands apart.
pub fn figure(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "unknown".into(),
        v if v >= 100.0 || v == v.trunc() => thousands(value),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.2}"),
        v if v >= 0.0001 => format!("{value:.4}"),
        _ => "0".into(),
    }
}

/// A figure with its unit; a bare one where there is none.
pub fn with_unit(value: f64, unit: &str) -> String {
    if unit.is_empty() { figure(value) } else { format!("{} {unit}", figure(value)) }
}

/// A figure that a run may not show.
pub fn or_not_measured(value: Option<f64>) -> String {
    value.map_or("not measured".into(), figure)
}

/// A figure short enough for an axis: `8,000`, `250 k`, `1.5 M`, `36 G`; small numbers with the
/// decimals that they need.
pub fn short(value: f64) -> String {
    let trim = |text: String| match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text,
    };
    match value.abs() {
        v if v >= 1e12 => format!("{} T", trim(format!("{:.2}", value / 1e12))),
        v if v >= 1e9 => format!("{} G", trim(format!("{:.2}", value / 1e9))),
        v if v >= 1e6 => format!("{} M", trim(format!("{:.2}", value / 1e6))),
        v if v >= 1e4 => format!("{} k", trim(format!("{:.1}", value / 1e3))),
        v if v >= 1e3 => thousands(value),
        _ => trim(format!("{value:.2}")),
    }
}

/// A large quantity with a unit that takes prefixes: `557 B`, `13.4 MB/s`.
pub fn scaled(value: f64, unit: &str) -> String {
    let figure = short(value);
    let apart = if figure.ends_with(|c: char| c.is_ascii_digit()) { " " } else { "" };
    format!("{figure}{apart}{unit}")
}

/// Columns side by side for a terminal, their cells to the right or to the left.
pub fn aligned(rows: Vec<Vec<String>>, right: bool) -> String {
    let wide =
        |column: usize| rows.iter().filter_map(move |r| r.get(column)).map(|c| c.chars().count());
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len))
        .map(|column| wide(column).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let _a_string_takes_all = match right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_their_digits_and_their_sign() {
        for (value, said) in [
            (360_000.0, "360,000"),
            (999.6, "1,000"),
            (-1234.0, "-1,234"),
            (3.567, "3.57"),
            (45.04, "45.0"),
            (0.0, "0"),
            (0.0042, "0.0042"),
            (0.00001, "0"),
            (4.0, "4"),
        ] {
            assert_eq!(figure(value), said);
        }
    }

    #[test]
    fn figures_on_an_axis_are_short_and_keep_their_meaning() {
        for (value, said) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (64.0, "64"),
            (2000.0, "2,000"),
            (250e3, "250 k"),
            (1.5e6, "1.5 M"),
            (10e6, "10 M"),
            (100e3, "100 k"),
            (36e9, "36 G"),
            (-2.5e12, "-2.5 T"),
        ] {
            assert_eq!(short(value), said);
        }
        assert_eq!(
            (scaled(557.0, "B"), scaled(13.4e6, "B/s")),
            ("557 B".into(), "13.4 MB/s".into())
        );
    }
}
