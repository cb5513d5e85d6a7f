//! The answer for a terminal: a table for each arm, and one over all of them.

use std::fmt::Write as _;

use super::{Answer, Scored};
use crate::lab::text::{aligned, figure};

/// The whole of it.
pub fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for arm in &answer.arms {
        of_arm(&mut text, arm);
    }
    if answer.arms.len() > 1 {
        over_all(&mut text, answer);
    }
    for why in &answer.unread {
        line(&mut text, format_args!("not read: {why}"));
    }
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    let _a_string_takes_all = writeln!(text, "{words}");
}

/// A head and rows, set off by an empty line.
fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    text.push_str(&aligned(std::iter::once(head).chain(rows).collect(), false));
    text.push('\n');
}

fn seconds(s: Option<f64>, none: &str) -> String {
    s.map_or(none.to_owned(), |s| format!("{s:.1}"))
}

fn of_arm(text: &mut String, arm: &Scored) {
    line(text, format_args!("{}: {:.0} s quiet", arm.arm, arm.quiet_s));
    for trouble in &arm.troubles {
        let until = |s: f64| match s.is_finite() {
            true => format!("{s:.0} s"),
            false => "the end".to_owned(),
        };
        let (to, clear) = (until(trouble.to), until(trouble.clear));
        let from = trouble.from;
        line(text, format_args!("  trouble from {from:.0} s to {to}, its backlog until {clear}"));
    }
    if let Some(why) = &arm.note {
        line(text, format_args!("  all of it counts as quiet: {why}"));
    }
    let rows = arm.scores.iter().map(|score| {
        let found = match (score.needs, score.found_after_s.as_slice()) {
            (Some(what), _) => format!("not in these samples: {what}"),
            (None, []) => "–".to_owned(),
            (None, found) => {
                let found: Vec<String> =
                    found.iter().map(|after| seconds(*after, "missed")).collect();
                found.join(", ")
            }
        };
        let counts = |text: String| if score.needs.is_some() { "–".to_owned() } else { text };
        vec![
            score.rule.clone(),
            counts(seconds(score.first_s, "never")),
            counts(score.false_alarms.to_string()),
            counts(score.false_alarms_per_hour.map_or("–".to_owned(), figure)),
            found,
        ]
    });
    table(
        text,
        &["rule", "first at, s", "false alarms", "an hour of quiet", "found after, s"],
        rows,
    );
    if let Some(why) = arm.time_lag.why_not {
        line(text, format_args!("lag in seconds, estimated: {why}\n"));
        return;
    }
    line(text, format_args!("lag in seconds, against the {}:", arm.time_lag.truth));
    let percent = |share: Option<f64>| {
        share.map_or("no estimate".to_owned(), |share| format!("{} %", figure(100.0 * share)))
    };
    let rows = arm.time_lag.estimates.iter().map(|estimate| {
        let looks = format!("{} of {}", estimate.looks, estimate.of);
        vec![estimate.name.to_owned(), percent(estimate.p50), percent(estimate.p95), looks]
    });
    table(text, &["estimator", "error, p50", "p95", "looks"], rows);
}

/// Each rule over the arms that hold what it needs.
fn over_all(text: &mut String, answer: &Answer) {
    let rows = answer.rules.iter().enumerate().map(|(place, rule)| {
        let told: Vec<_> = answer
            .arms
            .iter()
            .filter_map(|arm| Some((arm.scores.get(place)?, arm.quiet_s)))
            .filter(|(score, _)| score.needs.is_none())
            .collect();
        let troubles = || told.iter().flat_map(|(score, _)| &score.found_after_s);
        let slowest = troubles().flatten().copied().max_by(f64::total_cmp);
        let false_alarms: usize = told.iter().map(|(score, _)| score.false_alarms).sum();
        let hours: f64 = told.iter().map(|(_, quiet_s)| quiet_s / 3600.0).sum();
        let rate = (hours > 0.0).then(|| false_alarms as f64 / hours);
        vec![
            rule.detector().label(),
            format!("{} of {}", told.len(), answer.arms.len()),
            format!("{} of {}", troubles().flatten().count(), troubles().count()),
            seconds(slowest, "–"),
            false_alarms.to_string(),
            rate.map_or("–".to_owned(), figure),
        ]
    });
    line(text, format_args!("all arms"));
    table(text, &["rule", "arms", "found", "slowest, s", "false alarms", "an hour of quiet"], rows);
}
