//! Real PostgreSQL servers for tests: ours, and those of whoever uses howdah.
//!
//! A test asks for servers and gets databases that are fresh and its own; it needs no environment, and leaves
//! nothing behind. Servers are shared between tests, between threads and between processes, so they are
//! started once in a run.

mod cluster;
mod dir;
mod finish;
mod postgres;
mod proxy;
mod servers;
mod shared;
mod until;

pub use cluster::{TestCluster, TestClusterBuilder};
pub use dir::TestDir;
pub use proxy::Proxy;
pub use servers::{TestServers, TestServersBuilder};
pub use until::{Look, until};
