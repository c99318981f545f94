//! Development clusters: real PostgreSQL servers on this machine.
//!
//! A cluster is a folder. In it are the servers `pg1`, `pg2`… with their streaming replicas `pg1-r1`…, each a
//! real server process with a port and a data folder of its own, and one file that remembers them. Servers
//! belong to no process of ours: they go on when whoever started them ends, and anybody who opens the folder
//! can stop them.
//!
//! This module knows processes and files alone. It makes servers with the three roles and an empty database;
//! to make them one howdah cluster is the caller's, by `init`.

mod account;
mod binaries;
mod cluster;
mod folders;
mod lifecycle;
mod lock;
mod place;
mod port;
mod process;
mod server;
mod settings;
mod state;
mod template;

pub(crate) use account::Account;
pub use binaries::Binaries;
pub(crate) use binaries::SUPPORTED;
pub use cluster::{LocalCluster, UpOptions};
pub(crate) use folders::make_open;
pub(crate) use lock::{Lock, is_at};
pub use server::{Server, ServerRole};
