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
//! * **Ids** are made in the database, by `next_id()` of each shard's schema: unique and strictly increasing under any
//!   concurrency, wherever the clock goes. [`Layout`] takes them apart.
//! * **Keys**: rows without an id yet are found by a key, such as a name: [`Cluster::shard_for_key`] uses PostgreSQL's
//!   own hash, so that SQL finds the same shard.
//! * **Statements** name tables as `{shard}.table`. A [`Statement`] without the placeholder is refused, because the
//!   schema's name is also what keeps a client with an old map from writing to the wrong server: PostgreSQL itself
//!   refuses the name of a shard that lives elsewhere, the map is read anew, and the statement runs there.
//! * **Transactions** on one shard: [`Shard::transaction`] takes a closure and runs it again when the database asks for
//!   that, [`Shard::begin`] gives a guard. **Over shards**: [`Cluster::transaction`] commits on all or none, by two-phase
//!   commit where several servers were written to; [`Claims`] make a value unique in the whole cluster.
//! * **Reads over many shards**: [`Cluster::scatter`] asks them side by side, and merges keyset pages that stay right
//!   while rows are added and servers come and go; it streams, counts and adds up. [`Cluster::get_many`] finds the rows of many
//!   ids. Where a shard is away, the caller chooses: fail, or go without it and name it.
//! * **Work on all shards**: [`Cluster::copy_in`] and [`Cluster::copy_out`] for bulk loads, [`Cluster::jobs`] for the rest.
//! * **Connections** are pooled per instance: in order of asking, bounded in number and in wait. A server that is down
//!   hurts those shards alone that live on it, at once and with the reason.
//! * **Failover** needs nobody: connections go to whichever host of an instance is the primary, and never back to one that
//!   was replaced. [`Shard::read`] may ask a replica, within a lag bound or as fresh as a [`Token`].
//! * **Errors** are one type, [`Error`], and each says whether the work was not executed, failed, or may have happened:
//!   [`Outcome`]. Only what was not executed is ever done again by itself.
//! * **Operation**: [`Init`] makes a cluster, [`Migrations`] brings all shards from one version to the next,
//!   [`Instances`] come and go, a [`Mover`] takes shards from one to another, live, [`Rebalance`] plans what it should move,
//!   and a [`CatalogMove`] takes the map itself elsewhere; the command-line tool `howdah` (feature `cli`) does all of it and
//!   shows the rest.
//!
//! All futures are `Send`, and may be dropped at any time: no transaction stays open, and no connection is lent again in
//! the middle of something.
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `tls` | encrypted connections by rustls; without it, servers that are not local are refused unless the configuration says `sslmode = "disable"` |
//! | `local` | [`local`]: development clusters of real servers on this machine; [`testing`]: the same for tests |
//! | `tracing` | events of the `tracing` crate: connections, waits, statements, changes of the map |
//! | `metrics` | the same as counters and histograms of the `metrics` crate, one label an instance |
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
