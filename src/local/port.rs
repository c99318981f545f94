//! Ports for servers.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use crate::{Error, Result};

/// Below what systems hand out by themselves to outgoing connections, above what services are known by.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Whether nobody listens on a port of 127.0.0.1.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A free port that is not among those `taken` by servers that happen to be stopped.
///
/// The search begins anywhere, so that two clusters that search at once find different ones.
pub(super) fn pick(taken: &[u16]) -> Result<u16> {
    let anywhere = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
    let anywhere = u16::try_from(anywhere).unwrap_or_default();
    (0..COUNT)
        .map(|step| FIRST + (anywhere + step) % COUNT)
        .find(|port| !taken.contains(port) && is_free(*port))
        .ok_or_else(|| {
            Error::system(format!("no free port from {FIRST} to {}", FIRST + (COUNT - 1)))
        })
}
