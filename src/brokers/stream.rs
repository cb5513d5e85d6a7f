//! The bytes between the lab and one broker: connect, read and write, each wait bounded; plain, or by TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use socket2::SockRef;

use super::connection::TIMEOUT;
use super::security::TlsStream;
use crate::threads;

/// See the module.
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "security_none makes none"))]
    Tls(Box<TlsStream>),
}

impl Stream {
    /// The limit of each single read and write.
    pub fn limit(&self, patience: Duration) -> io::Result<()> {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        };
        limit(tcp, patience)
    }

    /// Reads once and appends at most `bytes` to `into`; 0 is the stream's end. A plain stream does
    /// not fill the memory with zeros first.
    pub fn read_some(&mut self, bytes: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        /// A record of TLS.
        const TLS_STEP: usize = 16 << 10;
        match self {
            Self::Plain(tcp) => {
                into.reserve(bytes);
                let room = into.spare_capacity_mut();
                let most = bytes.min(room.len());
                let read = SockRef::from(&*tcp).recv(room.get_mut(..most).unwrap_or_default())?;
                // SAFETY: the read wrote so many bytes after the length just now.
                unsafe { into.set_len(into.len() + read) };
                Ok(read)
            }
            Self::Tls(tls) => {
                let before = into.len();
                into.resize(before + bytes.min(TLS_STEP), 0);
                let read = tls.read(into.get_mut(before..).unwrap_or_default());
                into.truncate(before + read.as_ref().copied().unwrap_or(0));
                read
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

fn limit(tcp: &TcpStream, patience: Duration) -> io::Result<()> {
    tcp.set_read_timeout(Some(patience))?;
    tcp.set_write_timeout(Some(patience))
}

/// A connection to `host` (`name:port`).
pub fn connect(host: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in resolve(host)? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(tcp) => {
                limit(&tcp, TIMEOUT)?;
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            // This error is the local machine's, for a prohibited route; it is not the broker's.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => last = io::Error::other(e),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The addresses of `host`. The system's look-up has no time limit, so a name is looked up on a
/// thread of its own, which is abandoned when it takes longer than [`TIMEOUT`].
fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let (answer, answered) = crossbeam_channel::bounded(1);
    let name = host.to_owned();
    threads::spawn("look-up", move || {
        let addresses = name.to_socket_addrs().map(Iterator::collect);
        // After the limit the receiver is gone.
        let _too_late = answer.send(addresses);
    })
    .map_err(io::Error::other)?;
    answered.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
        Err(io::Error::new(ErrorKind::TimedOut, "its name was not looked up in time"))
    })
}
