//! Placeholder of the guard's seam; replaced before anything runs.
use std::net::SocketAddr;

use super::{Handler, Limits};
use crate::failure::Failure;

pub struct Running;

impl Running {
    pub fn addr(&self) -> SocketAddr {
        todo!()
    }
}

pub fn start(_: SocketAddr, _: Limits, _: Handler) -> Result<Running, Failure> {
    todo!()
}
