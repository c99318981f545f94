//! Sit on many PostgreSQL servers as if they were one.
//!
//! A cluster is a fixed number of **logical shards**, each a schema, spread over a few **instances**, each a
//! PostgreSQL server with its replicas. Every row's 64-bit [`Id`] is ordered by time and carries the number of its
//! shard, so an id alone says where its row lives. [`Cluster`] knows the map, keeps the connections, and runs each
//! statement where it belongs.
//!
//! ```no_run
//! use howdah::{Cluster, Config, Id, Statement};
//!
//! const ADD: Statement =
//!     Statement::new("INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, $2) RETURNING id");
//! const BY_ID: Statement = Statement::new("SELECT caption FROM {shard}.photos WHERE id = $1");
//!
//! # async fn example() -> howdah::Result<()> {
//! let cluster = Cluster::connect(Config::load()?).await?;
//! let user: Id = "11637205499910025".parse()?;
//!
//! // No I/O: the id says which shard, the map in memory where it lives.
//! let shard = cluster.shard_of_id(user)?;
//! let photo: Id = shard.query_one(&ADD, &[&user, &"first light"]).await?.get(0);
//!
//! // The photo's id names the same shard, so the two are always together.
//! let row = cluster.shard_of_id(photo)?.query_one(&BY_ID, &[&photo]).await?;
//! let caption: &str = row.get("caption");
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! * **Ids** are made in the database, by `next_id()` in each shard's schema: unique and strictly increasing per shard
//!   under any concurrency, whatever the clock does. [`Layout`] takes them apart.
//! * **Keys**: a row that has no id yet is placed by a key, such as a name: [`Cluster::shard_for_key`] uses PostgreSQL's
//!   own hash, so that SQL finds the same shard.
//! * **Statements** name tables as `{shard}.table`. A [`Statement`] without the placeholder is refused, because the
//!   schema's name is also what keeps a client with an old map from writing to the wrong server: PostgreSQL itself
//!   refuses the name of a shard that lives elsewhere, the map is read again, and the statement runs on the right one.
//! * **Transactions** on one shard: [`Shard::transaction`] takes a closure and runs it again when the database asks for
//!   that, [`Shard::begin`] returns a guard. **Over shards**: [`Cluster::transaction`] commits on all or none, by two-phase
//!   commit if several servers were written to; [`Claims`] make a value unique in the whole cluster.
//! * **Reads over many shards**: [`Cluster::scatter`] asks them side by side, and merges keyset pages that stay right
//!   while rows are added and servers come and go; it streams, counts and adds up. [`Cluster::get_many`] finds the rows of many
//!   ids. If a shard cannot be reached, the caller chooses: fail, or do without that shard and name it.
//! * **Work on all shards**: [`Cluster::copy_in`] and [`Cluster::copy_out`] for bulk loads, [`Cluster::jobs`] for the rest.
//! * **Connections** are pooled per instance: first come, first served, bounded in number and in wait. Only calls to shards
//!   on a server that is down fail, at once and with the reason.
//! * **Failover** is followed by itself: connections go to whichever host of an instance is the primary, and never back to
//!   one that was replaced. [`Shard::read`] may ask a replica, within a lag bound or as fresh as a [`Token`].
//! * **Errors** are one type, [`Error`], and each says whether the work was not executed, failed, or may have happened:
//!   [`Outcome`]. The library retries only what was not executed.
//! * **Operation**: [`Init`] makes a cluster, [`Migrations`] brings all shards to the newest version, [`Instances`] adds and
//!   removes servers, a [`Mover`] moves shards between them, live, [`Rebalance`] plans what it should move, and a
//!   [`CatalogMove`] moves the catalog, which holds the map. The command-line tool `howdah` (feature `cli`) does all of it.
//!
//! All futures are `Send`, and may be dropped at any time: no transaction stays open, and no connection is lent again in
//! the middle of an answer.
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `tls` | encrypted connections, by rustls; without it, servers that are not local are refused unless the configuration says `sslmode = "disable"` |
//! | `local` | [`local`]: development clusters of real servers on this machine; [`testing`]: the same for tests |
//! | `tracing` | events and spans of the `tracing` crate: connections, waits, statements, changes of the map |
//! | `metrics` | the same, and the state of the pools, as metrics of the `metrics` crate, labelled by instance |
//! | `cli` | the command-line tool `howdah`, with `tls` and `local` |
//!
//! None is on by default, and none changes what another part does.
#![cfg_attr(
    not(feature = "local"),
    allow(rustdoc::broken_intra_doc_links, reason = "two modules are features")
)]

#[cfg(not(unix))]
compile_error!("howdah runs on Unix");

mod catalog;
mod cluster;
mod config;
mod connect;
mod error;
mod file;
mod id;
#[cfg(feature = "local")]
pub mod local;
mod observe;
mod pool;
mod program;
mod random;
mod rebalance;
mod schema;
mod shard;
mod statement;
#[cfg(feature = "local")]
pub mod testing;

pub use catalog::InstanceState;
/// The times in ids and reports are its.
pub use chrono;
pub use cluster::{
    Aggregate, Claims, Client, Cluster, ClusterStatus, ClusterTx, Copied, CopyIn, CopyOut, Cursor,
    Decision, Exec, Found, Gathered, GetMany, HostRole, HostStatus, InDoubt, InDoubtReport,
    Instance, InstanceStatus, JobProgress, JobReport, Jobs, Page, Place, Read, ReadFrom, Recovery,
    ReservedIds, Scatter, Shard, ShardAnswer, ShardStream, Summand, TextRows, Token, Transaction,
    TransactionOptions, Tx,
};
pub use config::{Config, Dsn, SslMode};
pub use error::{Error, Outcome, Phase, Result};
pub use id::{Generator, Id, IdParts, Layout, NoId};
pub use pool::PoolStats;
pub use rebalance::{
    MoveEvent, MoveId, MoveNews, MovePhase, MoveReport, MoveStep, Mover, PlannedInstance,
    PlannedMove, Rebalance, RebalanceBy, RebalancePlan,
};
pub use schema::{
    CatalogMove, CatalogMoveStep, CatalogMoved, Init, InitReport, Instances, MigrationProgress,
    MigrationReport, MigrationVersion, Migrations, NewInstance, ShardMigration,
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
