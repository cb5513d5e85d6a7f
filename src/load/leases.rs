//! Leases that slow the source, and the rate that they allow together: a group of processors, each
//! with a lease of its own.
//!
//! Invariant: while one lease leads, the source may offer the sum of all leases in force. A lease
//! that only follows states what its holder could take, and slows the source only while another
//! leads. A lease that ends or expires changes no other one. At most [`HOLDERS_MAX`] are kept.

use std::collections::BTreeMap;

/// One holder per processor. A change costs the square of it, four times a second each.
pub const HOLDERS_MAX: usize = 200;

/// A ceiling on the rate for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lease {
    /// Events/s.
    pub rate: f64,
    /// µs since the epoch.
    pub expires_us: i64,
    /// Holds only while another's leads.
    pub follows: bool,
}

/// By holder.
#[derive(Debug, Clone, Default)]
pub struct Leases(BTreeMap<String, Lease>);

impl Leases {
    /// Gives `holder` this lease, in place of its last one; forgets those that have expired.
    ///
    /// # Errors
    /// When there are too many.
    pub fn grant(&mut self, holder: &str, lease: Lease, now_us: i64) -> Result<(), String> {
        self.0.retain(|_, lease| now_us < lease.expires_us);
        if self.0.len() >= HOLDERS_MAX && !self.0.contains_key(holder) {
            return Err(format!(
                "holder {holder}: there are {HOLDERS_MAX} leases, which is the most"
            ));
        }
        self.0.insert(holder.into(), lease);
        Ok(())
    }

    /// Ends the lease of `holder`, if it has one.
    pub fn end(&mut self, holder: &str) {
        self.0.remove(holder);
    }

    /// What may be offered at `at_us`, events/s; `None` while no lease leads.
    pub fn ceiling(&self, at_us: i64) -> Option<f64> {
        (self.leading(at_us) > 0).then(|| self.at(at_us).map(|lease| lease.rate).sum())
    }

    /// How many lead at `at_us`.
    pub fn leading(&self, at_us: i64) -> usize {
        self.at(at_us).filter(|lease| !lease.follows).count()
    }

    /// When the last leading lease expires, µs since the epoch.
    pub fn until(&self, at_us: i64) -> Option<i64> {
        self.at(at_us).filter(|lease| !lease.follows).map(|lease| lease.expires_us).max()
    }

    /// When one of them expires, µs since the epoch: there the ceiling may change.
    pub fn edges(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.values().map(|lease| lease.expires_us)
    }

    fn at(&self, at_us: i64) -> impl Iterator<Item = &Lease> {
        self.0.values().filter(move |lease| at_us < lease.expires_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(rate: f64, expires_us: i64, follows: bool) -> Lease {
        Lease { rate, expires_us, follows }
    }

    /// Prevents: a last lease that replaces the others; one that ends another's; followers that
    /// hold each other down for ever.
    #[test]
    fn grants_add_up_while_one_leads_and_each_ends_alone() {
        let mut leases = Leases::default();
        leases.grant("a", lease(900.0, 100, false), 0).expect("room");
        leases.grant("b", lease(400.0, 200, false), 0).expect("room");
        leases.grant("c", lease(50.0, 300, true), 0).expect("room");
        assert_eq!((leases.ceiling(0), leases.leading(0)), (Some(1350.0), 2));
        leases.grant("a", lease(700.0, 100, false), 10).expect("its own");
        assert_eq!(leases.ceiling(10), Some(1150.0));
        assert_eq!(leases.ceiling(100), Some(450.0), "one has expired");
        assert_eq!(
            (leases.ceiling(200), leases.until(10)),
            (None, Some(200)),
            "who is left follows"
        );
        leases.end("b");
        assert_eq!(leases.ceiling(10), Some(750.0));
        leases.end("a");
        assert_eq!(leases.ceiling(10), None);
    }

    #[test]
    fn there_is_room_for_a_group_and_not_for_a_flood() {
        let mut leases = Leases::default();
        for n in 0..HOLDERS_MAX {
            leases.grant(&n.to_string(), lease(1.0, 100, false), 0).expect("room");
        }
        assert!(leases.grant("one more", lease(1.0, 100, false), 0).is_err());
        leases.grant("7", lease(2.0, 100, false), 0).expect("its own");
        leases.grant("one more", lease(1.0, 300, false), 100).expect("the others have expired");
        assert_eq!(leases.edges().count(), 1);
    }
}
