//! What a rebalance costs, by the protocol of the group: paused partition-seconds × events/s of a partition + duplicates.

use super::pauses::{self, Expected, Rebalance, Step};
use super::{FEW, end_s, rounds};
use crate::lab::charts::Chart;
use crate::lab::experiments::asking::Asking;
use crate::lab::experiments::drawing::Drawing;
use crate::lab::experiments::{ArmSetup, Margin, Prediction, Setup, Table};
use crate::lab::run_folder::{Arm, Run};
use crate::lab::stats;
use crate::lab::text::{figure, or_not_measured};

/// How far the law of the cost may be off: the target.
const LAW: f64 = 0.15;
/// What a busy machine may add to the pause of each partition, s.
const SLACK_S: f64 = 0.1;

/// What the steps of an arm cost.
pub fn predict(setup: &Setup, arm: &ArmSetup) -> Vec<Prediction> {
    Step::ALL.into_iter().flat_map(|step| cost(setup, arm, step)).collect()
}

/// What a step costs, by one protocol.
fn cost(setup: &Setup, arm: &ArmSetup, step: Step) -> Vec<Prediction> {
    let Expected { mean, low, high } = pauses::expected(arm, step, FEW, rounds(setup.form));
    let (name, step) = (&arm.name, step.name());
    let rate = of_a_partition(arm);
    let because = format!(
        "a heartbeat at a time by chance, {FEW} members and one more; the mean of {} steps is within {} to {} in 98 of 100 cases",
        rounds(setup.form),
        figure(low),
        figure(high)
    );
    let half = (high - mean).max(mean - low) + SLACK_S * f64::from(arm.partitions);
    let p = Prediction::new;
    let events = format!("that × {} events/s of a partition", figure(rate));
    let pays =
        format!("these by {} events/s, which the member adds in a burst", figure(setup.ceiling));
    vec![
        p(&format!("{name}_{step}_paused"), mean, "partition-s", because),
        p(
            &format!("{name}_{step}_band"),
            half,
            "partition-s",
            "of the same, and a tenth of a second for each partition".into(),
        ),
        p(&format!("{name}_{step}_waits"), mean * rate, "events", events),
        p(&format!("{name}_{step}_pays_after"), mean * rate / setup.ceiling, "s", pays),
    ]
}

/// Events/s of a partition.
fn of_a_partition(arm: &ArmSetup) -> f64 {
    arm.schedule.first().map_or(f64::NAN, |step| step.0) / f64::from(arm.partitions)
}

/// Is the pause of a step as predicted, and the cost what the law says?
pub fn checks(asking: &mut Asking<'_>, run: &Run, arm: &Arm, of_arm: &ArmSetup) {
    let name = arm.spec.name;
    let all = pauses::of(arm, end_s(of_arm));
    for step in Step::ALL {
        let said = |what: &str| run.plan.predicted(&format!("{name}_{}_{what}", step.name()));
        let band = Margin::Absolute(said("band"));
        let wanted = (
            said("paused"),
            band,
            "98 of 100 draws of the heartbeat's phase, and 0.1 s for each partition",
        );
        let question = match step {
            Step::Up => {
                "A member comes: partition-seconds in which nobody reads (the members' logs)"
            }
            Step::Down => {
                "A member goes: partition-seconds in which nobody reads (the members' logs)"
            }
        };
        let paused = mean(&all, step, |it| it.paused_s);
        asking.ask(&format!("{}_paused", step.name()), question, wanted, paused, "partition-s");
    }
    let twice = arm.ledger.as_ref().map(|ledger| ledger.duplicates as f64);
    let law = total(&all, |it| it.paused_s)
        .zip(twice)
        .map(|(paused, twice)| paused * of_a_partition(of_arm) + twice);
    let wanted = (law.unwrap_or(f64::NAN), Margin::Share(LAW), "the target");
    let question = "Paused partition-seconds × events/s of a partition + duplicates: is it what the sink got later than usual?";
    asking.ask("law", question, wanted, total(&all, |it| it.waited), "events");
}

/// Of the steps of one way, the mean.
fn mean(all: &[Rebalance], step: Step, of: impl Fn(&Rebalance) -> f64) -> Option<f64> {
    let own: Vec<f64> = all.iter().filter(|it| it.step == step).map(of).collect();
    (!own.is_empty()).then(|| own.iter().sum::<f64>() / own.len() as f64)
}

fn total(all: &[Rebalance], of: impl Fn(&Rebalance) -> f64) -> Option<f64> {
    (!all.is_empty()).then(|| all.iter().map(of).sum())
}

/// What each step cost, by arm.
pub fn table<'a>(run: &'a Run, arms: impl Iterator<Item = &'a Arm>) -> Table {
    let setup = &run.plan.setup;
    let mut rows = Vec::new();
    for arm in arms {
        let Some(of_arm) = setup.arm(arm.spec.name) else { continue };
        let all = pauses::of(arm, end_s(of_arm));
        for step in Step::ALL {
            let predicted =
                run.plan.predicted(&format!("{}_{}_paused", arm.spec.name, step.name()));
            let paused = mean(&all, step, |it| it.paused_s);
            let law = paused.map(|paused| paused * of_a_partition(of_arm));
            rows.push(vec![
                format!("{}, {}", arm.spec.title, step.name()),
                or_not_measured(mean(&all, step, |it| it.partitions as f64)),
                or_not_measured(mean(&all, step, |it| it.longest_s)),
                figure(predicted),
                or_not_measured(paused),
                or_not_measured(law),
                or_not_measured(mean(&all, step, |it| it.waited)),
                match step {
                    Step::Up => or_not_measured(law.map(|events| events / setup.ceiling)),
                    Step::Down => "–".into(),
                },
            ]);
        }
    }
    let head = [
        "a member comes (up) or goes (down)",
        "partitions that stood",
        "the longest, s",
        "partition-s, predicted",
        "partition-s",
        "× events/s of a partition",
        "late at the sink",
        "a burst pays for it after, s",
    ];
    Table::new("What a rebalance costs", &head, rows)
}

/// What is on its way in the arms about rebalances.
pub fn chart<'a>(run: &'a Run, arms: impl Iterator<Item = &'a Arm>) -> Chart {
    let end_s = |arm: &Arm| run.plan.setup.arm(arm.spec.name).map_or(0.0, end_s);
    let arms: Vec<&Arm> = arms.collect();
    let drawing = Drawing::until(run, arms.iter().map(|arm| end_s(arm)).fold(0.0, f64::max));
    let lines = arms.iter().map(|arm| {
        let way = pauses::on_their_way(arm);
        drawing.arm(arm, "", &stats::between(&way, 0.0, end_s(arm)))
    });
    let up = |name| {
        drawing.figure(name, |arm| mean(&pauses::of(arm, end_s(arm)), Step::Up, |it| it.paused_s))
    };
    drawing.chart(
        "rebalances",
        format!(
            "A third member costs {} partition-seconds eager, {} cooperative, {} static, {} by KIP-848",
            up("eager"),
            up("cooperative"),
            up("static"),
            up("consumer")
        ),
        "Three quarters of what two members can; a third comes and goes, twice. Each rise is a rebalance.",
        "sent and not delivered, events",
        lines.collect(),
    )
}
