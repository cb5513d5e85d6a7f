//! Two "hosts" on one machine, and faults on the links between them. This process is root in a
//! network namespace of its own (`unshare --net`); a second one is the processor's. Three links, .1
//! here and .2 there:
//!
//! ```text
//! brokers 10.199.1.0/24     sink 10.199.2.0/24     management 10.199.3.0/24 (never harmed)
//! ```
//! One fault a link at a time. It touches no other namespace; its namespaces are gone with this
//! process, however that ends.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::failure::Failure;
use crate::lab::experiments::faults::strike::{Harm, Link};
use crate::lab::interrupt::Interrupt;
use crate::lab::tools::{self, is_gone_within, send, tied};
use rustix::process::Signal;

/// Where brokers and sink listen, here; and the processors, there.
pub const BROKERS: &str = "10.199.1.1";
/// The sink's.
pub const SINK: &str = "10.199.2.1:9900";
/// A processor's, and that of another beside it.
pub const PROCESSOR: [&str; 2] = ["10.199.3.2:9902", "10.199.3.2:9912"];

const LINKS: [&str; 3] = ["brokers", "sink", "management"];
/// `delay` where the kernel has no netem: a bottleneck, whose delay is the queue before it. W calls
/// of B bytes in flight at once wait W x B / rate: 64 x 770 B at 1 MB/s are 50 ms. The rate is half
/// of what 1,500 events/s need, so late events are late for that reason.
const BOTTLENECK: [&str; 7] = ["tbf", "rate", "4mbit", "burst", "16kb", "latency", "300ms"];
const UP_WITHIN: Duration = Duration::from_secs(5);

/// The fault on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Netem,
    Nft,
    Tbf,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Netem => "netem",
            Self::Nft => "nft",
            Self::Tbf => "tbf",
        }
    }
}

/// See the module.
pub struct Hosts {
    /// The namespace lives as long as this process.
    holder: Child,
    net: String,
    /// By link.
    on: BTreeMap<&'static str, By>,
}

fn name(link: Link) -> &'static str {
    match link {
        Link::Brokers => "brokers",
        Link::Sink => "sink",
    }
}

impl Hosts {
    /// Makes both hosts and their links.
    ///
    /// # Errors
    /// When this process has no network namespace of its own, or a tool fails.
    pub fn up(interrupt: &Interrupt) -> Result<Self, Failure> {
        let ours = namespace("self")?;
        if namespace("1").is_ok_and(|machine| machine == ours) {
            return Err(Failure::Failed(
                "the fault matrix needs namespaces of its own: run it by run/faults.sh".into(),
            ));
        }
        tools::run(&["ip", "link", "set", "lo", "up"])?;
        // Here, and not minutes later in the first row that cuts a link.
        let netem = tools::run(&["tc", "qdisc", "replace", "dev", "lo", "root", "netem"]);
        match netem {
            Ok(_) => drop(tools::run(&["tc", "qdisc", "delete", "dev", "lo", "root"])?),
            Err(_) => drop(tools::run(&["nft", "list", "tables"]).map_err(|why| no_tool(&why))?),
        }
        let command = ["unshare", "--net", "sleep", "infinity"].map(str::to_owned);
        let holder = tied(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| Failure::Failed(format!("a second namespace: unshare: {e}")))?;
        let pid = holder.id().to_string();
        let hosts = Self { holder, net: format!("--net=/proc/{pid}/ns/net"), on: BTreeMap::new() };
        let apart = || Ok(namespace(&pid).ok().filter(|theirs| *theirs != ours));
        interrupt.until(UP_WITHIN, apart)?.ok_or_else(|| {
            Failure::Failed(
                "no second network namespace: 'unshare --net true' must work here, as root".into(),
            )
        })?;
        hosts.join(&pid)?;
        // Without a carrier, which takes up to a second, packets are dropped.
        let up = interrupt.until(UP_WITHIN, || {
            let shown = hosts.both(&["ip", "-o", "link", "show"])?;
            Ok((shown.matches("state UP").count() == 2 * LINKS.len()).then_some(()))
        })?;
        let down = || Failure::Failed("the links between the namespaces do not come up".into());
        up.ok_or_else(down)?;
        Ok(hosts)
    }

    fn join(&self, holder: &str) -> Result<(), Failure> {
        self.both(&["ip", "link", "set", "lo", "up"])?;
        for (n, link) in (1..).zip(LINKS) {
            let [here, there] = [1, 2].map(|end| format!("02:00:00:00:0{n}:0{end}"));
            let [at, to] = [1, 2].map(|end| format!("10.199.{n}.{end}"));
            let (at_net, to_net) = (format!("{at}/24"), format!("{to}/24"));
            tools::run(&[
                "ip", "link", "add", link, "address", &here, "type", "veth", "peer", "name", link,
                "address", &there, "netns", holder,
            ])?;
            tools::run(&["ip", "address", "add", &at_net, "dev", link])?;
            self.there(&["ip", "address", "add", &to_net, "dev", link])?;
            // What is lost or delayed is a packet of 1500 bytes, as on a wire, not 64 KiB at once.
            self.both(&["ip", "link", "set", link, "gso_max_segs", "1", "up"])?;
            // Fixed neighbours: without ARP a cut cannot make it fail, which the sender would learn
            // of.
            tools::run(&["ip", "neighbour", "add", &to, "lladdr", &there, "dev", link])?;
            self.there(&["ip", "neighbour", "add", &at, "lladdr", &here, "dev", link])?;
        }
        Ok(())
    }

    /// The prefix of a command that is to run on the processor's host.
    pub fn at_processor(&self) -> Vec<String> {
        vec!["nsenter".into(), self.net.clone()]
    }

    fn there(&self, words: &[&str]) -> Result<String, Failure> {
        tools::run(&[&["nsenter", &self.net], words].concat())
    }

    /// Runs a command here and there; a link has the same name at both ends.
    fn both(&self, words: &[&str]) -> Result<String, Failure> {
        Ok(tools::run(words)? + &self.there(words)?)
    }

    /// Harms a link in both directions; returns the means.
    ///
    /// # Errors
    /// When neither netem nor its substitute works here.
    pub fn harm(&mut self, harm: Harm, link: Link) -> Result<&'static str, Failure> {
        self.heal(link)?;
        let dev = name(link);
        let netem: &[&str] = match harm {
            // Packets vanish: no reset, no ICMP, and the sender's kernel believes that they went out.
            Harm::Cut => &["loss", "100%"],
            Harm::Lose => &["loss", "5%"],
            // Each way; with that jitter packets also overtake each other.
            Harm::Delay => &["delay", "100ms", "20ms"],
        };
        let qdisc = ["tc", "qdisc", "replace", "dev", dev, "root"];
        let by_netem = [&qdisc[..], &["netem", "limit", "10000"], netem].concat();
        let by = match (self.both(&by_netem), harm) {
            (Ok(_), _) => By::Netem,
            (Err(_), Harm::Delay) => {
                self.both(&[&qdisc[..], &BOTTLENECK].concat()).map_err(|why| no_tool(&why))?;
                By::Tbf
            }
            (Err(_), Harm::Cut) => self.vanish(dev, "")?,
            (Err(_), Harm::Lose) => self.vanish(dev, "numgen random mod 100 < 5")?,
        };
        self.on.insert(dev, by);
        log::info!(link = dev, by = by.name(); "network harmed");
        Ok(by.name())
    }

    /// Drops packets where they arrive, before anything reads them.
    fn vanish(&self, dev: &str, which: &str) -> Result<By, Failure> {
        let rules = format!(
            "add table ip fault_{dev}; \
             add chain ip fault_{dev} arrival {{ type filter hook prerouting priority -300; }}; \
             add rule ip fault_{dev} arrival iifname {dev} {which} counter drop"
        );
        self.both(&["nft", &rules]).map_err(|why| no_tool(&why))?;
        Ok(By::Nft)
    }

    /// Removes the fault of a link.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn heal(&mut self, link: Link) -> Result<(), Failure> {
        let dev = name(link);
        match self.on.remove(dev) {
            None => return Ok(()),
            Some(By::Nft) => {
                let table = format!("fault_{dev}");
                self.both(&["nft", "delete", "table", "ip", &table])?
            }
            Some(By::Netem | By::Tbf) => {
                self.both(&["tc", "qdisc", "delete", "dev", dev, "root"])?
            }
        };
        log::info!(link = dev; "network healed");
        Ok(())
    }

    /// How many packets the fault has dropped, or held up, by the kernel's own counts at both ends.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn harmed(&self, harm: Harm, link: Link) -> Result<u64, Failure> {
        let dev = name(link);
        let by = self.on.get(dev);
        let shown = match by {
            Some(By::Nft) => self.both(&["nft", "list", "table", "ip", &format!("fault_{dev}")])?,
            _ => self.both(&["tc", "-s", "qdisc", "show", "dev", dev])?,
        };
        let word = match (harm, by) {
            (_, Some(By::Nft)) => "packets",    // counter packets N bytes B drop
            (_, Some(By::Tbf)) => "overlimits", // had to wait: (dropped N, overlimits N requeues N)
            (Harm::Delay, _) => "bytes",        // all of them: Sent B bytes N pkt
            _ => "(dropped",
        };
        Ok(after(&shown, word))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        send(&self.holder, Signal::KILL);
        is_gone_within(&mut self.holder, UP_WITHIN);
    }
}

/// The sum of the numbers that follow `word`.
fn after(text: &str, word: &str) -> u64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |word: &str| word.trim_end_matches([',', ')']).parse::<u64>().ok();
    let pairs = words.iter().zip(words.iter().skip(1));
    pairs.filter(|(before, _)| **before == word).filter_map(|(_, value)| number(value)).sum()
}

fn namespace(process: &str) -> Result<String, Failure> {
    let path = format!("/proc/{process}/ns/net");
    fs::read_link(&path)
        .map(|link| link.display().to_string())
        .map_err(|e| Failure::Failed(format!("{path}: {e}")))
}

fn no_tool(why: &Failure) -> Failure {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Failure::Failed(format!(
        "the network cannot be harmed: this kernel has no netem (Debian: modprobe sch_netem; Ubuntu: apt-get \
         install linux-modules-extra-{}), and what stands in for it does not work either: {why}",
        kernel.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counts_are_read_at_both_ends() {
        let nft = "counter packets 83 bytes 9 drop\ncounter packets 2 bytes 1 drop";
        assert_eq!(after(nft, "packets"), 85);
        let tc = "Sent 70 bytes 3 pkt (dropped 4, overlimits 12 requeues 0)";
        assert_eq!(
            (after(tc, "(dropped"), after(tc, "overlimits"), after(tc, "bytes")),
            (4, 12, 3)
        );
    }
}
