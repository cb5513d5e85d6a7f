//! Clients that send again what is not answered in time, in front of a queue that drops what does not fit: a
//! fluid model in steps of [`STEP_S`], by expected values.
//!
//! Events that are due in one step are a cohort. Of a cohort a share is unanswered; at each age that share is
//! sent again. Of what comes in a step the queue admits what it has room for ([`Dropped`] says whom); it serves in order. An attempt that is served answers its event, if no other did: else the work was for nothing.

use std::collections::VecDeque;

use crate::lab::model::Rates;

/// A hundredth of a second: a tenth of the shortest wait that is asked for.
const STEP_S: f64 = 0.01;
const STEPS_A_SECOND: usize = 100;
/// A share is found to a billionth.
const HALVINGS: usize = 30;

/// A second of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Second {
    /// Attempts that came, events/s: first ones and those sent again.
    pub came: f64,
    /// Attempts that were served, events/s.
    pub served: f64,
    /// Events that were answered for the first time, events/s.
    pub delivered: f64,
    /// Of the attempts served, the share whose event was due longer ago than the first age.
    pub late: f64,
}

/// Who is dropped of what comes, where there is no room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Anybody: an event that is sent again has another chance.
    ByChance,
    /// The same ones again: an event's id says at which share of all it goes.
    ByEvent,
}

/// The pipeline, as clients see it.
#[derive(Debug, Clone, Copy)]
pub struct Pipeline<'a> {
    /// What it serves, events/s.
    pub ceiling: f64,
    /// Events that it holds at most, in its queue and with its workers.
    pub room: f64,
    /// Who does not get in.
    pub dropped: Dropped,
    /// Ages at which clients send again, s, ascending; none: they wait for ever.
    pub ages_s: &'a [f64],
    /// An answer that takes longer than this is late, s.
    pub late_s: f64,
}

/// The events that were due in one step.
#[derive(Clone, Copy)]
struct Cohort {
    events: f64,
    /// The share of them that is not answered. Where an event's id decides, it is those of the lowest ids.
    unanswered: f64,
}

/// Attempts of a cohort's events that wait to be served.
struct Block {
    cohort: usize,
    attempts: f64,
    /// By chance: the share of the unanswered events that they are. By event: the end of their ids, as a share.
    part: f64,
}

impl Pipeline<'_> {
    /// The seconds from 0 to `end_s` under the load `offered`.
    pub fn under(&self, offered: &Rates, end_s: f64) -> Vec<Second> {
        let mut cohorts: Vec<Cohort> = Vec::new();
        let mut queue: VecDeque<Block> = VecDeque::new();
        let mut depth = 0.0;
        let mut seconds = Vec::new();
        let mut second = Second::default();
        let steps = |s: f64| (s / STEP_S).round() as usize;
        let ages: Vec<usize> = self.ages_s.iter().map(|age| steps(*age)).collect();
        let late_after = steps(self.late_s);
        let mut late = 0.0;
        for step in 0..steps(end_s) {
            cohorts.push(Cohort {
                events: offered.at(step as f64 * STEP_S) * STEP_S,
                unanswered: 1.0,
            });
            let again = ages.iter().filter_map(|age| step.checked_sub(*age));
            let coming: Vec<(usize, Cohort)> =
                again.chain([step]).filter_map(|n| Some((n, *cohorts.get(n)?))).collect();
            let mut left = self.ceiling * STEP_S;
            while left > 0.0
                && let Some(block) = queue.front_mut()
            {
                let taken = block.attempts.min(left);
                left -= taken;
                depth -= taken;
                second.served += taken;
                late += if step - block.cohort > late_after { taken } else { 0.0 };
                if let Some(cohort) = cohorts.get_mut(block.cohort) {
                    second.delivered += self.answer(cohort, block, taken);
                }
                if block.attempts <= 0.0 {
                    queue.pop_front();
                }
            }
            second.came +=
                coming.iter().map(|(_, cohort)| cohort.events * cohort.unanswered).sum::<f64>();
            for block in self.admitted(&coming, self.room - depth) {
                depth += block.attempts;
                queue.push_back(block);
            }
            if (step + 1) % STEPS_A_SECOND == 0 {
                second.late = if second.served > 0.0 { late / second.served } else { 0.0 };
                seconds.push(std::mem::take(&mut second));
                late = 0.0;
            }
        }
        seconds
    }

    /// What gets in of what comes, into `room`.
    fn admitted(&self, coming: &[(usize, Cohort)], room: f64) -> Vec<Block> {
        let room = room.max(0.0);
        match self.dropped {
            Dropped::ByChance => {
                let all: f64 =
                    coming.iter().map(|(_, cohort)| cohort.events * cohort.unanswered).sum();
                let part = if all > room { room / all } else { 1.0 };
                let block = |&(cohort, Cohort { events, unanswered })| Block {
                    cohort,
                    attempts: events * unanswered * part,
                    part,
                };
                coming.iter().map(block).collect()
            }
            Dropped::ByEvent => {
                let above = |share: f64| {
                    move |cohort: &Cohort| cohort.events * (cohort.unanswered - share).max(0.0)
                };
                let entering =
                    |share| coming.iter().map(|(_, cohort)| above(share)(cohort)).sum::<f64>();
                // The share that goes, by halves: what enters falls with it.
                let (mut low, mut high) = (0.0, 1.0);
                let is_full = entering(0.0) > room;
                for _ in 0..if is_full { HALVINGS } else { 0 } {
                    let middle = f64::midpoint(low, high);
                    if entering(middle) > room { low = middle } else { high = middle }
                }
                let share = if is_full { high } else { 0.0 };
                let block = |(cohort, of): &(usize, Cohort)| Block {
                    cohort: *cohort,
                    attempts: above(share)(of),
                    part: of.unanswered,
                };
                coming.iter().map(block).collect()
            }
        }
    }

    /// Serves `taken` of the block's attempts; returns how many of the cohort's events that answers.
    fn answer(&self, cohort: &mut Cohort, block: &mut Block, taken: f64) -> f64 {
        let before = cohort.unanswered;
        match self.dropped {
            Dropped::ByChance => {
                let part =
                    if block.attempts > 0.0 { block.part * taken / block.attempts } else { 0.0 };
                cohort.unanswered *= 1.0 - part;
                // Of what stays unanswered a larger share is in the rest of the block.
                block.part = if part < 1.0 { (block.part - part) / (1.0 - part) } else { 0.0 };
            }
            Dropped::ByEvent => {
                block.part -= if cohort.events > 0.0 { taken / cohort.events } else { 0.0 };
                cohort.unanswered = before.min(block.part.max(0.0));
            }
        }
        block.attempts -= taken;
        cohort.events * (before - cohort.unanswered)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn offered(steps: &[(f64, u64)]) -> Rates {
        Rates::schedule(steps.iter().map(|(rate, s)| (*rate, Duration::from_secs(*s))))
    }

    fn last(seconds: &[Second]) -> Second {
        *seconds.last().expect("a second")
    }

    const TRIGGER: [(f64, u64); 3] = [(1500.0, 10), (2800.0, 10), (1800.0, 100)];

    const SHORT: Pipeline<'static> = Pipeline {
        ceiling: 2000.0,
        room: 400.0,
        dropped: Dropped::ByChance,
        ages_s: &[1.0, 3.0],
        late_s: 1.0,
    };
    /// Room of five seconds.
    const LONG: f64 = 10_000.0;

    /// With nobody who sends again it is the queue of every textbook.
    #[test]
    fn patient_clients_see_the_fluid_time() {
        let pipeline = Pipeline { room: LONG, ages_s: &[], ..SHORT };
        let seconds = pipeline.under(&offered(&TRIGGER), 120.0);
        // 800/s × 10 s wait, and go at 200/s: a wait of 1 s, 2,000 events, is reached after 30 s.
        let late = seconds.iter().rposition(|second| second.late > 0.01).expect("late");
        assert!((late as f64 - 50.0).abs() <= 1.0, "{late}");
        assert!((last(&seconds).delivered - 1800.0).abs() < 1.0);
        let all: f64 = seconds.iter().map(|second| second.delivered).sum();
        assert!((all - 223_000.0).abs() < 30.0, "{all}");
    }

    /// A queue longer than the clients' patience never comes back: three attempts for each event, of which the
    /// sink takes 2,000 of 5,400, and 1 − (1 − p)³ of the events are answered.
    #[test]
    fn a_long_queue_stays_full_of_what_nobody_waits_for() {
        let seconds = Pipeline { room: LONG, ..SHORT }.under(&offered(&TRIGGER), 120.0);
        let end = last(&seconds);
        assert!((end.came - 5400.0).abs() < 5.0, "{end:?}");
        let p: f64 = 2000.0 / 5400.0;
        let answered = 1800.0 * (1.0 - (1.0 - p).powi(3));
        assert!((end.delivered - answered).abs() < 5.0, "{end:?}: {answered}");
        assert!(end.late > 0.99);
    }

    /// A short queue wastes nothing, so what is sent again costs the sink nothing.
    #[test]
    fn a_short_queue_comes_back_when_the_trigger_ends() {
        let seconds = SHORT.under(&offered(&TRIGGER), 120.0);
        let late = seconds.iter().rposition(|second| second.late > 0.01).expect("late");
        assert!((20..35).contains(&late), "{late}");
        assert!((last(&seconds).delivered - 1800.0).abs() < 1.0);
        let twice: f64 = seconds.iter().map(|second| second.served - second.delivered).sum();
        assert!(twice.abs() < 1.0, "{twice}");
    }

    /// Where the same ones go again, sending again does not help them, and who does not get in comes three times.
    #[test]
    fn who_is_dropped_by_event_is_dropped_each_time() {
        let pipeline = Pipeline { dropped: Dropped::ByEvent, ..SHORT };
        let seconds = pipeline.under(&offered(&[(2800.0, 30)]), 30.0);
        let end = last(&seconds);
        // 800/s of 2,800/s go, and come twice more.
        assert!((end.came - (2800.0 + 2.0 * 800.0)).abs() < 5.0, "{end:?}");
        assert!((end.delivered - 2000.0).abs() < 1.0 && end.late < 0.01, "{end:?}");
    }
}
