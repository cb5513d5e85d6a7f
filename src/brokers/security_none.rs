//! Replaces `security` in a build without feature `tls`: it refuses TLS and SASL, and names the
//! build that has them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::stream::Stream;
use crate::failure::Failure;

/// None can be made.
#[derive(Debug)]
pub enum Security {}

/// None can be made.
pub enum TlsStream {}

/// None can be made.
pub enum Conversation {}

impl Security {
    /// # Errors
    /// Always: this build has none.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        Err(Failure::Usage(format!(
            "--command-config {}: this build has no TLS and no SASL; build one that has them: \
             cargo build --release --locked --features tls",
            file.display()
        )))
    }

    pub(super) fn wrap(&self, _tcp: TcpStream, _host: &str) -> io::Result<Stream> {
        match *self {}
    }

    pub(super) fn conversation(&self) -> io::Result<Option<Conversation>> {
        match *self {}
    }

    pub(super) fn is_plain(&self) -> bool {
        match *self {}
    }

    /// The same settings for librdkafka.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        match *self {}
    }
}

impl Conversation {
    pub(super) fn mechanism(&self) -> &str {
        match *self {}
    }

    pub(super) fn step(&mut self, _heard: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        match *self {}
    }

    pub(super) fn refused(&self, _why: &str) -> io::Error {
        match *self {}
    }
}

impl TlsStream {
    pub(super) fn tcp(&self) -> &TcpStream {
        match *self {}
    }
}

impl Read for TlsStream {
    fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
}

impl Write for TlsStream {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match *self {}
    }
}
