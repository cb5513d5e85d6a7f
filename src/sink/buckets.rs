//! Whose limit it is: one bucket for all clients, or one for each connection, as sinks have that limit each client.
//!
//! Invariant: a bucket that is full, and for which nobody waits, is as good as a new one, so the buckets of connections that
//! are idle or gone are let go without a loss; one that owes tokens stays until it has earned them. (In a pause an empty
//! one is as full as it gets: one that is let go then has its burst again when the pause is over.)

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::bucket::Bucket;

/// Buckets of connections above which those that are full are let go: more than a sink has connections by default.
const KEPT_MAX: usize = 512;

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Per {
    /// One for all of its clients together.
    #[default]
    All,
    /// One for each connection. A connection that is opened anew has a burst of its own.
    Connection,
}

impl std::str::FromStr for Per {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "connection" => Ok(Self::Connection),
            _ => Err("expected all or connection"),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Buckets {
    per: Per,
    /// Of all; with [`Per::Connection`] what a new connection's is made like.
    all: Bucket,
    fixed_burst: Option<f64>,
    own: HashMap<SocketAddr, Own>,
}

#[derive(Debug)]
struct Own {
    bucket: Bucket,
    /// Requests that have a place in it and were not served yet.
    waiting: usize,
}

impl Buckets {
    /// Buckets of `rate` tokens/s each, as in [`Bucket::new`].
    pub fn new(per: Per, rate: f64, burst: Option<f64>, now: Instant) -> Self {
        let all = Bucket::new(rate, burst, now);
        Self { per, all, fixed_burst: burst, own: HashMap::new() }
    }

    /// That of `peer`'s connection, or of all; a caller without a connection has that of all.
    pub fn of(&mut self, peer: Option<SocketAddr>, now: Instant) -> &mut Bucket {
        let (Per::Connection, Some(peer)) = (self.per, peer) else { return &mut self.all };
        if self.own.len() >= KEPT_MAX && !self.own.contains_key(&peer) {
            self.own.retain(|_, own| own.waiting > 0 || !own.bucket.is_full(now));
        }
        let (rate, burst) = (self.all.rate(), self.fixed_burst);
        let new = || Own { bucket: Bucket::new(rate, burst, now), waiting: 0 };
        &mut self.own.entry(peer).or_insert_with(new).bucket
    }

    /// A request that has a place in `peer`'s bucket begins to wait: that bucket stays until it does no more.
    pub fn waits(&mut self, peer: Option<SocketAddr>) {
        if let Some(own) = peer.and_then(|peer| self.own.get_mut(&peer)) {
            own.waiting += 1;
        }
    }

    /// It waits no more.
    pub fn waits_no_more(&mut self, peer: Option<SocketAddr>) {
        if let Some(own) = peer.and_then(|peer| self.own.get_mut(&peer)) {
            own.waiting = own.waiting.saturating_sub(1);
        }
    }

    /// Sets the rate of each, as [`Bucket::set_rate`].
    pub fn set_rate(&mut self, rate: f64, at: Instant) {
        self.all.set_rate(rate, at);
        self.own.values_mut().for_each(|own| own.bucket.set_rate(rate, at));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sink::bucket::Due;

    fn peer(port: u16) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], port).into())
    }

    /// Prevents: connections that share a limit of their own; clients that do not share one that is for all.
    #[test]
    fn a_connection_pays_for_itself_alone_unless_the_limit_is_for_all() {
        let now = Instant::now();
        for (per, waits) in [(Per::Connection, false), (Per::All, true)] {
            let mut buckets = Buckets::new(per, 100.0, Some(1.0), now);
            buckets.of(peer(1), now).claim(1_000.0, now);
            let place = buckets.of(peer(2), now).claim(1.0, now);
            assert_eq!(buckets.of(peer(2), now).due(place, now) != Due::Now, waits, "{per:?}");
        }
    }

    /// Prevents: a debt that is forgiven to who comes with a thousand connections; memory that grows with each.
    #[test]
    fn full_buckets_are_let_go_and_debts_are_not() {
        let now = Instant::now();
        let mut buckets = Buckets::new(Per::Connection, 1.0, Some(1.0), now);
        let place = buckets.of(peer(1), now).claim(1e6, now);
        for port in 2..5_000 {
            buckets.of(peer(port), now);
        }
        assert!(buckets.own.len() <= KEPT_MAX, "{}", buckets.own.len());
        assert_ne!(buckets.of(peer(1), now).due(place, now), Due::Now);
        // Earned, but its request has not woken yet: a new bucket would know no such place.
        let mut waited = Buckets::new(Per::Connection, 1_000.0, Some(1.0), now);
        let place = waited.of(peer(1), now).claim(500.0, now);
        waited.waits(peer(1));
        let later = now + Duration::from_secs(1);
        for port in 2..5_000 {
            waited.of(peer(port), later);
        }
        assert_eq!(waited.of(peer(1), later).due(place, later), Due::Now);
        waited.waits_no_more(peer(1));
        for port in 5_000..10_000 {
            waited.of(peer(port), later);
        }
        assert!(!waited.own.contains_key(&peer(1).expect("a peer")));
        // A change of the rate reaches every one.
        buckets.set_rate(1e9, now);
        let later = now + Duration::from_millis(2);
        assert_eq!(buckets.of(peer(1), later).due(place, later), Due::Now);
    }
}
