//! Ports for servers.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{Error, Result};

/// Below what systems hand out by themselves to outgoing connections, above what services are known by.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// How long a port is waited for before another one is taken.
const RELEASE: Duration = Duration::from_secs(1);

/// Whether nobody listens on a port of 127.0.0.1.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The same, after a moment's patience: of a process that was killed, the sockets are closed a little later than it seems
/// gone.
pub(super) async fn is_free_soon(port: u16) -> bool {
    let began = Instant::now();
    while !is_free(port) {
        if began.elapsed() > RELEASE {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
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
