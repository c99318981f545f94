//! Sit on many PostgreSQL servers as if they were one.

mod catalog;
mod cluster;
mod config;
mod connect;
mod error;
mod id;
#[cfg(feature = "local")]
pub mod local;
mod pool;
mod schema;
mod shard;
mod statement;
#[cfg(feature = "local")]
pub mod testing;

pub use catalog::InstanceState;
pub use cluster::{
    Client, Cluster, Cursor, Gathered, Instance, Page, Scatter, Shard, Transaction, Tx,
};
pub use config::{Config, Dsn, SslMode};
pub use error::{Error, Outcome, Result};
pub use id::{Generator, Id, IdParts, Layout, NoId};
pub use schema::{
    Init, InitReport, MigrationProgress, MigrationReport, MigrationVersion, Migrations,
    ShardMigration,
};
pub use shard::{Epoch, Home, InstanceName, MapVersion, ShardCount, ShardId, ShardKey, ShardMap};
pub use statement::Statement;
/// The driver: rows, types and SQLSTATEs are its. Its major version is part of howdah's.
pub use tokio_postgres as postgres;

/// The examples of the documents are compiled and run like all others.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide.md")]
    struct Guide;
}
