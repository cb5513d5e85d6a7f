//! What is done to a pipeline under load, and the words for it in a table.

/// What is done to a pipeline under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// Signal 9 to the processor; another takes its place a second later.
    ProcessorKilled,
    /// One of two members is stopped for so many seconds.
    ProcessorFrozen(u64),
    /// Signal 9 to these brokers, which are started again after so many seconds.
    BrokersKilled(&'static [u32], u64),
    /// The same to the broker that coordinates the group.
    CoordinatorKilled(u64),
    /// This broker's disk is filled for so many seconds.
    BrokerDiskFull(u32, u64),
    /// Signal 9 to the sink; another goes on with its journal after so many seconds.
    SinkKilled(u64),
    /// This command of `chaos` goes to the sink, has this effect, and lasts so many seconds.
    SinkTold(&'static str, &'static str, u64),
    /// The link between the processor's host and this one is harmed for so many seconds.
    LinkHarmed(Harm, Link, u64),
    /// The disk of the results is filled for so many seconds.
    ResultsDiskFull(u64),
    /// The processor's clock is stepped back by each of these seconds, one after the other, for good.
    ClockBack(&'static [i64]),
    /// The topic grows to so many partitions, and a second producer knows them.
    PartitionsAdded(u32),
    /// The topic is deleted, and created again after so many seconds.
    TopicAnew(u64),
    /// Retention keeps little of the log for so many seconds.
    Retention(u64),
}

/// What is done to packets, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// All vanish.
    Cut,
    /// All are late.
    Delay,
    /// One of twenty vanishes.
    Lose,
}

/// The other end of the processor's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Kafka.
    Brokers,
    /// The sink.
    Sink,
}

impl Strike {
    /// The same in words.
    pub fn what(&self) -> String {
        match *self {
            Self::ProcessorKilled => {
                "signal 9 to the processor; another is started a second later".to_owned()
            }
            Self::ProcessorFrozen(s) => {
                format!(
                    "one of two members is stopped for {s} s, longer than its session and its poll interval"
                )
            }
            Self::BrokersKilled(brokers, s) => {
                let (names, below) = match brokers {
                    [one] => (format!("broker {one}"), ""),
                    more => (format!("brokers {}", listed(more)), " (below min.insync.replicas)"),
                };
                format!("signal 9 to {names}{below}, started again after {s} s")
            }
            Self::CoordinatorKilled(s) => {
                format!(
                    "signal 9 to the broker that coordinates the group, started again after {s} s"
                )
            }
            Self::BrokerDiskFull(n, s) => {
                format!(
                    "broker {n}'s disk is filled to the last byte for {s} s; then it is started again"
                )
            }
            Self::SinkKilled(s) => {
                format!("signal 9 to the sink; started again on its journal after {s} s")
            }
            Self::SinkTold(_, does, s) => format!("the sink {does} for {s} s"),
            Self::LinkHarmed(harm, link, s) => {
                let (of, happens) = match harm {
                    Harm::Cut => ("packets", "vanish"),
                    Harm::Delay => ("packets", "are late"),
                    Harm::Lose => ("one of twenty packets", "vanishes, each way,"),
                };
                let end = match link {
                    Link::Brokers => "brokers",
                    Link::Sink => "sink",
                };
                format!("{of} between processor and {end} {happens} for {s} s")
            }
            Self::ResultsDiskFull(s) => {
                format!("the disk of the results is filled to the last byte for {s} s")
            }
            Self::ClockBack(steps) => format!(
                "the processor's clock is stepped back for good, by {} s one after the other",
                listed(steps)
            ),
            Self::PartitionsAdded(n) => {
                format!(
                    "the topic grows to {n} partitions; a second producer writes to all of them"
                )
            }
            Self::TopicAnew(s) => {
                format!("the topic is deleted, and another made in its place {s} s later")
            }
            Self::Retention(s) => {
                format!("for {s} s the log keeps less of a partition than the lag grows to")
            }
        }
    }
}

/// A list as in a sentence: 1, 2 and 3.
fn listed(all: &[impl ToString]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    match all.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prevents: a table that names another fault than the one that was run.
    #[test]
    fn the_words_have_the_numbers_of_what_is_done() {
        for (strike, what) in [
            (
                Strike::BrokersKilled(&[1, 2], 6),
                "signal 9 to brokers 1 and 2 (below min.insync.replicas), started again after 6 s",
            ),
            (Strike::BrokersKilled(&[3], 25), "signal 9 to broker 3, started again after 25 s"),
            (Strike::SinkTold("pause", "answers nothing", 9), "the sink answers nothing for 9 s"),
            (
                Strike::LinkHarmed(Harm::Lose, Link::Sink, 7),
                "one of twenty packets between processor and sink vanishes, each way, for 7 s",
            ),
            (
                Strike::ClockBack(&[60, 120, 180]),
                "the processor's clock is stepped back for good, by 60, 120 and 180 s one after the other",
            ),
        ] {
            assert_eq!(strike.what(), what);
        }
    }
}
