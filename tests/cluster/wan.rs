//! Hosts far apart on one machine: each is a network namespace with one tun device, and this process is the wire.
//! A packet goes to the host of its address, so many ms later and in order. The kernel needs no netem.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::until;

/// `linux/if_tun.h`; the third byte of an address is the host's number, from 1.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const PACKET_BYTES_MAX: usize = 1500;
const LOOK: Duration = Duration::from_millis(50);

type Packet = (Instant, Vec<u8>);

/// The hosts and their network; gone when dropped.
pub struct Wan {
    holders: Vec<Child>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Wan {
    /// So many hosts, each `delay` from every other, one way.
    pub fn new(hosts: usize, delay: Duration) -> Self {
        let mut wan = Self { holders: Vec::new(), over: Arc::default(), threads: Vec::new() };
        let (mut ends, mut devices) = (Vec::new(), Vec::new());
        for n in 1..=hosts {
            wan.holders.push(holder());
            let device = Arc::new(tun_in(&wan.namespace(n)));
            wan.run(n, "ip link set lo up");
            wan.run(n, &format!("ip address add {}/16 dev wan", Self::address(n)));
            wan.run(n, "ip link set wan up");
            let (tx, rx) = channel();
            ends.push(tx);
            devices.push((device, rx));
        }
        for (device, arrivals) in devices {
            let (from, over, ends) = (Arc::clone(&device), Arc::clone(&wan.over), ends.clone());
            wan.threads.push(std::thread::spawn(move || take(&from, &over, &ends, delay)));
            wan.threads.push(std::thread::spawn(move || deliver(&device, &arrivals)));
        }
        wan
    }

    /// The address of host `n`.
    pub fn address(n: usize) -> String {
        format!("10.199.{n}.1")
    }

    /// The prefix of a command that is to run on host `n`.
    pub fn on(&self, n: usize) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", self.namespace(n))]
    }

    /// Runs `body` on host `n` and returns its value.
    pub fn within<T: Send>(&self, n: usize, body: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace(n);
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                enter(&namespace);
                body()
            });
            there.join().expect("no panic there")
        })
    }

    fn namespace(&self, n: usize) -> String {
        format!("/proc/{}/ns/net", self.holders[n - 1].id())
    }

    fn run(&self, n: usize, line: &str) {
        let words = self.on(n).into_iter().chain(line.split(' ').map(str::to_owned));
        let words: Vec<String> = words.collect();
        let output = Command::new(&words[0]).args(&words[1..]).output().expect("nsenter");
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for holder in &mut self.holders {
            let _already_ended = holder.kill();
            let _reaped = holder.wait();
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A process in a network namespace of its own.
fn holder() -> Child {
    let mut command = Command::new("unshare");
    command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
    let mut child = command.spawn().expect("unshare");
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let ours = of("self");
    until("a network namespace, which needs root", || {
        assert!(
            child.try_wait().expect("a status").is_none(),
            "unshare ended: this test needs root"
        );
        of(&child.id().to_string()).is_some_and(|it| Some(it) != ours)
    });
    child
}

/// Moves this thread into a network namespace.
fn enter(namespace: &str) {
    let namespace = File::open(namespace).expect("a namespace");
    // SAFETY: the descriptor is open, and only this thread moves.
    let moved = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(moved, 0, "setns: {}", std::io::Error::last_os_error());
}

/// A tun device, `wan`, in a namespace: it belongs to the namespace of the thread that opens it.
fn tun_in(namespace: &str) -> File {
    let namespace = namespace.to_owned();
    let open = move || {
        enter(&namespace);
        let tun =
            File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // `struct ifreq`: the name in 16 bytes, then the flags.
        let mut request = [0u8; 40];
        request[..3].copy_from_slice(b"wan");
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: the request is as long as `struct ifreq`, and lives through the call.
        let made = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        tun
    };
    std::thread::spawn(open).join().expect("a device")
}

/// Takes the packets of a host, until all is over.
fn take(from: &File, over: &AtomicBool, ends: &[Sender<Packet>], delay: Duration) {
    let mut bytes = [0; PACKET_BYTES_MAX];
    while !over.load(Ordering::Relaxed) {
        let mut waits = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which is open.
        if unsafe { libc::poll(&mut waits, 1, LOOK.as_millis() as i32) } < 1 {
            continue;
        }
        let mut device = from;
        let Ok(length) = device.read(&mut bytes) else { return };
        // IPv4 alone: its destination is at 16.
        let is_ipv4 = length >= 20 && bytes[0] >> 4 == 4;
        let end = is_ipv4.then(|| ends.get(usize::from(bytes[18]).wrapping_sub(1))).flatten();
        if let Some(end) = end {
            let _host_is_gone = end.send((Instant::now() + delay, bytes[..length].to_vec()));
        }
    }
}

/// Delivers a host's packets, each at its time.
fn deliver(to: &File, arrivals: &Receiver<Packet>) {
    for (due, packet) in arrivals {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut device = to;
        let _link_is_down = device.write(&packet);
    }
}
