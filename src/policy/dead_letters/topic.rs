//! A topic that letters go to, by today's protocol, acknowledged by all replicas in sync.

use std::time::Duration;

use crate::brokers::Brokers;
use crate::clock;
use crate::planes::{
    Acks, Client, Lost, Outgoing, Parcel, ProduceSettings, Produces, Unsent, produces,
};
use crate::records::{Codec, ProducerStamp};

const SETTINGS: ProduceSettings = ProduceSettings {
    client: Client::Wire,
    acks: Acks::All,
    codec: Codec::None,
    timeout: Duration::from_secs(5),
};

/// See the module.
pub struct Topic {
    brokers: Brokers,
    name: String,
    /// To the leader of the partition that letters go to now.
    link: Option<(i32, Box<dyn Produces>)>,
    /// How often a leader was looked for: each time another partition has its turn, so that one without
    /// a leader holds up nothing.
    turn: usize,
}

/// Why a letter was not taken.
#[derive(Debug)]
pub enum Refused {
    /// It is more than the topic takes.
    TooLarge(String),
    /// Ask again later.
    Now(String),
    /// It takes none, however often it is asked.
    Never(String),
}

impl Topic {
    /// The topic `name`; nothing is asked yet.
    pub fn new(brokers: &Brokers, name: &str) -> Self {
        Self { brokers: brokers.clone(), name: name.to_owned(), link: None, turn: 0 }
    }

    /// Appends a letter.
    ///
    /// # Errors
    /// [`Refused`]: whether it arrived is not known, unless it is too large.
    pub fn append(&mut self, letter: &[u8]) -> Result<(), Refused> {
        let sent = self.send(letter);
        if matches!(sent, Err(Refused::Now(_))) {
            self.link = None;
        }
        sent
    }

    fn send(&mut self, letter: &[u8]) -> Result<(), Refused> {
        let (partition, plane) = match &mut self.link {
            Some(link) => link,
            empty => {
                empty.insert(find(&self.brokers, &self.name, &mut self.turn).map_err(Refused::Now)?)
            }
        };
        let event = Outgoing { timestamp_ms: clock::now_us() / 1000, key: &[], value: letter };
        let (stamp, events) = (ProducerStamp::NONE, vec![event]);
        let sent = plane.produce(&[Parcel { partition: *partition, stamp, events }]);
        let sent = sent.map_err(|lost| match lost {
            Lost::Never(why) => Refused::Never(why),
            Lost::Connection(why) => Refused::Now(why),
        })?;
        match sent.verdicts.into_iter().next() {
            Some((_, Ok(_))) => Ok(()),
            Some((_, Err(Unsent::TooLarge(why)))) => Err(Refused::TooLarge(why)),
            Some((_, Err(Unsent::Never(why)))) => Err(Refused::Never(why)),
            Some((_, Err(why))) => Err(Refused::Now(format!("{why:?}"))),
            None => Err(Refused::Now("no answer for it".into())),
        }
    }
}

/// A partition that has a leader, and the way there.
fn find(
    brokers: &Brokers,
    name: &str,
    turn: &mut usize,
) -> Result<(i32, Box<dyn Produces>), String> {
    *turn += 1;
    let view = brokers.describe(name, *turn).map_err(|e| e.to_string())?;
    let led = view.leaders.keys().filter_map(|p| Some((*p, view.leader_address(*p)?)));
    let led: Vec<(i32, &str)> = led.collect();
    let (partition, address) =
        led.get(*turn % led.len().max(1)).ok_or("none of its partitions has a leader")?;
    Ok((*partition, produces(brokers, address, name, SETTINGS)))
}
