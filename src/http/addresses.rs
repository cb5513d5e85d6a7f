//! The addresses of a URL's host, without a thread for each call.
//!
//! ureq's own resolver starts a thread for every call that has a time limit, also where the host is
//! an address and the connection is kept: 130 us a call. Here an address needs no look-up, and a
//! name is looked up at most once in [`KEPT`]. The look-up has a thread, because the system's has
//! no limit that a caller can set; a call's own limit covers its wait for it. It deliberately does
//! not check that an address answers: a call that fails is made again, and looks again.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::threads;

/// How long a name's addresses are used: after a move, a container is called at its old address for
/// so long.
const KEPT: Duration = Duration::from_secs(5);
/// Most addresses of a name that are tried: as many as ureq takes.
const ADDRESSES_MAX: usize = 16;

/// The system's lookup of a name, or a test's.
type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Addresses {
    lookup: Lookup,
    last: Mutex<Option<Known>>,
}

/// The result of the last look-up; a client calls one host.
#[derive(Debug)]
struct Known {
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
    since: Instant,
}

impl Default for Addresses {
    fn default() -> Self {
        Self::by(|name, port| (name, port).to_socket_addrs().map(Iterator::collect))
    }
}

impl Addresses {
    fn by(lookup: Lookup) -> Self {
        Self { lookup, last: Mutex::new(None) }
    }

    fn of_name(
        &self,
        host: &str,
        port: u16,
        timeout: NextTimeout,
    ) -> Result<Vec<SocketAddr>, ureq::Error> {
        let is_known = |known: &&Known| {
            known.host == host && known.port == port && known.since.elapsed() < KEPT
        };
        if let Some(known) = self.last.lock().as_ref().filter(is_known) {
            return Ok(known.addresses.clone());
        }
        let (done, answer) = bounded(1);
        let (lookup, name) = (self.lookup, host.to_owned());
        threads::spawn("name-lookup", move || {
            // A caller that waited long enough is gone.
            let _unheard = done.send(lookup(&name, port));
        })
        .map_err(|e| io::Error::other(e.to_string()))?;
        let addresses = match answer.recv_timeout(*timeout.after) {
            Ok(found) => found?,
            Err(RecvTimeoutError::Timeout) => return Err(ureq::Error::Timeout(timeout.reason)),
            Err(RecvTimeoutError::Disconnected) => return Err(ureq::Error::HostNotFound),
        };
        let (host, since) = (host.to_owned(), Instant::now());
        *self.last.lock() = Some(Known { host, port, addresses: addresses.clone(), since });
        Ok(addresses)
    }
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or_else(|| ureq::Error::BadUri(uri.to_string()))?;
        let port = uri.port_u16().unwrap_or(80); // the lab speaks plain HTTP only
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let addresses = match bare.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => self.of_name(host, port, timeout)?,
        };
        let mut resolved = self.empty();
        let family = config.ip_family();
        let wanted = family.keep_wanted(addresses.into_iter());
        wanted.take(ADDRESSES_MAX).for_each(|address| resolved.push(address));
        if resolved.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(resolved) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn resolve(
        addresses: &Addresses,
        url: &str,
        time: Duration,
    ) -> Result<Vec<SocketAddr>, String> {
        let uri = url.parse().expect("a URL");
        let timeout = NextTimeout {
            after: time.into(),
            reason: ureq::Timeout::Global,
            ..NextTimeout::default()
        };
        let found = addresses.resolve(&uri, &Config::default(), timeout);
        found.map(|found| found.iter().copied().collect()).map_err(|e| e.to_string())
    }

    /// Prevents a lookup, and with it a thread, for every call.
    #[test]
    fn an_address_is_not_looked_up_and_a_name_once() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let addresses = Addresses::by(|name, port| {
            LOOKUPS.fetch_add(1, Ordering::SeqCst);
            let last = u8::try_from(name.len()).expect("short");
            Ok(vec![SocketAddr::from(([10, 0, 0, last], port))])
        });
        let of = |url| {
            resolve(&addresses, url, Duration::from_secs(5)).map(|found| found[0].to_string())
        };
        for (url, expected) in [
            ("http://127.0.0.1:9900/write", "127.0.0.1:9900"),
            ("http://[::1]:9900", "[::1]:9900"),
            ("http://10.1.2.3/metrics", "10.1.2.3:80"),
        ] {
            assert_eq!(of(url).as_deref(), Ok(expected));
        }
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 0);
        for _ in 0..3 {
            assert_eq!(of("http://sink:9900/write").as_deref(), Ok("10.0.0.4:9900"));
        }
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
        // Another host or port is another question.
        assert_eq!(of("http://other:9900").as_deref(), Ok("10.0.0.5:9900"));
        assert_eq!(of("http://other:1").as_deref(), Ok("10.0.0.5:1"));
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 3);
        // A result that is too old is looked up again.
        if let Some(known) = addresses.last.lock().as_mut() {
            known.since -= KEPT;
        }
        assert_eq!(of("http://other:1").as_deref(), Ok("10.0.0.5:1"));
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 4);
    }

    /// Prevents: a call that waits for a name server without a limit.
    #[test]
    fn a_lookup_that_hangs_is_given_up_and_one_that_fails_is_not_kept() {
        let hangs = Addresses::by(|_, _| {
            std::thread::sleep(Duration::from_secs(5));
            Ok(Vec::new())
        });
        let begun = Instant::now();
        let why =
            resolve(&hangs, "http://sink:9900", Duration::from_millis(100)).expect_err("late");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(why.contains("timeout"), "{why}");
        let unknown = Addresses::by(|_, _| Err(io::Error::other("no such name")));
        resolve(&unknown, "http://sink:9900", Duration::from_secs(5)).expect_err("unknown");
        assert!(unknown.last.lock().is_none());
        let real = resolve(&Addresses::default(), "http://localhost:7", Duration::from_secs(5));
        assert!(real.expect("every machine has it").iter().all(|a| a.ip().is_loopback()));
    }
}
