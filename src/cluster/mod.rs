//! What an application holds: the cluster, and handles of its shards and instances.

mod admin;
mod aggregate;
mod claims;
mod copy_in;
mod copy_out;
mod deadline;
mod ended;
mod exec;
mod instance;
mod jobs;
mod many;
mod merge;
mod number;
mod options;
mod page;
mod policy;
mod pools;
mod reach;
mod read;
mod reading;
mod reserve;
mod retry;
mod rows;
mod scatter;
mod selection;
mod shard;
mod status;
mod stream;
mod token;
mod transaction;
mod two_phase;
mod union;

use std::fmt;
use std::sync::Arc;

use tokio::task::AbortHandle;

pub use aggregate::{Aggregate, Summand};
pub use claims::Claims;
pub use copy_in::{Copied, CopyIn, Place};
pub use copy_out::CopyOut;
pub use exec::{Exec, ShardAnswer, TextRows};
pub use instance::{Client, Instance};
pub use jobs::{JobProgress, JobReport, Jobs};
pub use many::{Found, GetMany};
pub use options::TransactionOptions;
pub use page::{Cursor, Page};
pub use read::{Read, ReadFrom};
pub use reserve::ReservedIds;
pub use scatter::{Gathered, Scatter};
pub use shard::Shard;
pub use status::{ClusterStatus, HostRole, HostStatus, InstanceStatus};
pub use stream::ShardStream;
pub use token::Token;
pub use transaction::{Transaction, Tx};
pub use two_phase::{ClusterTx, Decision, InDoubt, InDoubtReport, Recovery};

use crate::catalog::{Snapshot, Watch};
use crate::config::Config;
use crate::connect::Connector;
use crate::id::{Id, Layout};
use crate::shard::{InstanceName, ShardCount, ShardId, ShardKey, ShardMap};
use crate::statement::Statement;
use crate::{Error, Result};
use pools::Pools;
use two_phase::Sweeper;
use union::Unions;

/// A cluster of PostgreSQL servers, as one application sees it.
///
/// Cheap to clone; all clones share the map and the connections. Looking up a shard does no I/O. Connections are
/// made when they are needed, so a server that is down affects only the shards that live on it.
///
/// As long as any clone lives, a background task follows the shard map; and once a
/// [transaction over shards](Cluster::transaction) was run, another one finishes what other processes left behind.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Cluster, Config, Id, Statement};
///
/// const ADD: Statement =
///     Statement::new("INSERT INTO {shard}.photos (user_id, caption) VALUES ($1, $2) RETURNING id");
///
/// # async fn example() -> howdah::Result<()> {
/// let cluster = Cluster::connect(Config::load()?).await?;
/// let user: Id = "11637205499910025".parse()?;
/// let shard = cluster.shard_of_id(user)?;
/// let photo: Id = shard.query_one(&ADD, &[&user, &"first light"]).await?.get(0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    watch: Arc<Watch>,
    pools: Arc<Pools>,
    sweeper: Sweeper,
    following: AbortHandle,
    unions: Unions,
    /// Fixed at `init`, like the number of shards: it takes no map to find an id's shard.
    layout: Layout,
    shards: ShardCount,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Cluster {
    /// Reads the map, and follows it from then on.
    ///
    /// # Errors
    ///
    /// When the configuration is wrong, or neither the catalog nor a copy of the map (`map_cache`) can be read.
    pub async fn connect(config: Config) -> Result<Self> {
        let connector = Connector::new(Arc::new(config.settings()?))?;
        let watch = Arc::new(Watch::start(connector.clone()).await?);
        let sweeper = Sweeper::new(connector.settings(), watch.current().instances.len());
        let pools = Arc::new(Pools::new(connector));
        let snapshot = watch.current();
        pools.follow(&snapshot)?;
        let following = tokio::spawn({
            let (watch, pools) = (watch.clone(), pools.clone());
            async move {
                let following = watch.run(|snapshot| {
                    // What cannot be pooled is reported to whoever asks for a connection there.
                    let _ = pools.follow(snapshot);
                });
                tokio::join!(following, pools.publish());
            }
        })
        .abort_handle();
        let (layout, shards, unions) = (snapshot.layout, snapshot.map.count(), Unions::new());
        Ok(Self(Arc::new(Inner { watch, pools, sweeper, following, unions, layout, shards })))
    }

    /// The layout of the cluster's ids.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// The shard map as this process knows it.
    #[must_use]
    pub fn map(&self) -> ShardMap {
        self.snapshot().map.clone()
    }

    /// The shard on which the row of an id lives. No I/O.
    ///
    /// # Errors
    ///
    /// When the id names a shard that this cluster does not have: it was not issued here.
    pub fn shard_of_id(&self, id: Id) -> Result<Shard> {
        self.shard(self.0.layout.shard_of(id)).map_err(|error| {
            Error::input(format!("{id} was not issued by this cluster")).because(error)
        })
    }

    /// The shard on which a key's family of rows lives, by the frozen hash of [`ShardKey`]. No I/O.
    #[must_use]
    pub fn shard_for_key<'a>(&self, key: impl Into<ShardKey<'a>>) -> Shard {
        Shard::new(self.clone(), key.into().shard(self.0.shards))
    }

    /// A shard by its number. No I/O.
    ///
    /// # Errors
    ///
    /// When the cluster has no such shard.
    pub fn shard(&self, shard: ShardId) -> Result<Shard> {
        self.0.shards.check(shard)?;
        Ok(Shard::new(self.clone(), shard))
    }

    /// All instances, by name.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        let snapshot = self.snapshot();
        let instance =
            |(name, record)| Instance::new(self.clone(), InstanceName::clone(name), record);
        snapshot.instances.iter().map(instance).collect()
    }

    /// An instance by its name, for SQL that belongs to no shard.
    ///
    /// # Errors
    ///
    /// When the cluster has no such instance.
    pub fn instance(&self, name: &InstanceName) -> Result<Instance> {
        let snapshot = self.snapshot();
        let known = || snapshot.instances.keys().map(InstanceName::as_str).collect::<Vec<_>>();
        let record = snapshot.instances.get(name).ok_or_else(|| {
            Error::input(format!("there is no instance {name}"))
                .hint(format!("this cluster has {}", known().join(", ")))
        })?;
        Ok(Instance::new(self.clone(), name.clone(), record))
    }

    /// A read over many shards. No shard is asked until you say which, by [`Scatter::all`] or [`Scatter::shard`].
    pub fn scatter<'a>(&self, statement: &Statement) -> Scatter<'a> {
        Scatter::new(self.clone(), statement.clone())
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.watch.current()
    }

    /// The map as the catalog has it now.
    pub(crate) async fn refresh(&self) -> Result<Arc<Snapshot>> {
        let newest = self.0.watch.newest().await?;
        self.0.pools.follow(&newest)?;
        Ok(newest)
    }

    /// Makes connections that are no pool's.
    pub(crate) fn connector(&self) -> &Connector {
        self.0.pools.connector()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("Cluster")
            .field("cluster", &snapshot.cluster.as_str())
            .field("map_version", &snapshot.map.version())
            .field("shards", &snapshot.map.count())
            .finish_non_exhaustive()
    }
}
