//! The handle of one instance, for SQL that belongs to no shard.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::Cluster;
use crate::Result;
use crate::catalog::{InstanceRecord, InstanceState};
use crate::config::Dsn;
use crate::pool::Lent;
use crate::shard::{InstanceName, ShardId};

/// One instance: a PostgreSQL primary and its replicas.
#[derive(Clone)]
pub struct Instance {
    pub(super) cluster: Cluster,
    name: InstanceName,
    dsn: Dsn,
    state: InstanceState,
}

impl Instance {
    pub(super) fn new(cluster: Cluster, name: InstanceName, record: &InstanceRecord) -> Self {
        Self { cluster, name, dsn: record.dsn.clone(), state: record.state }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// How applications reach it.
    #[must_use]
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// Whether it takes new shards.
    #[must_use]
    pub fn state(&self) -> InstanceState {
        self.state
    }

    /// The shards that live there, in order.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        self.cluster.snapshot().map.shards_on(&self.name).collect()
    }

    /// A connection of one's own, out of the pool: the raw client of tokio-postgres.
    ///
    /// Whatever was set on it ends with it: it is closed when dropped, and the pool makes a new one. Nothing here knows of
    /// shards: SQL that names a shard's schema by itself is not followed when the shard moves.
    ///
    /// It is logged in as the role of the instance's address, usually `howdah_app`, which makes no tables. The configuration's
    /// `statement_timeout` holds until the client sets another one. `LISTEN` is of no use: nobody is handed the notifications.
    ///
    /// # Errors
    ///
    /// When no connection can be had.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(instance: howdah::Instance) -> howdah::Result<()> {
    /// let mut client = instance.client().await?;
    /// client.batch_execute("SET statement_timeout = '10min'").await?;
    /// let tx = client.transaction().await?;
    /// let tables: i64 = tx.query_one("SELECT count(*) FROM pg_class", &[]).await?.get(0);
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn client(&self) -> Result<Client> {
        let snapshot = self.cluster.snapshot();
        let pool = self.cluster.0.pools.get(&self.name, &snapshot)?;
        let lent = pool.lend().await?;
        lent.tell_limit_at_once().await.map_err(|error| error.at(&self.name))?;
        Ok(Client(lent))
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({}, {}, {})", self.name, self.dsn, self.state)
    }
}

/// A raw client that counts as one of its instance's connections until it is dropped; see [`Instance::client`].
#[derive(Debug)]
pub struct Client(Lent);

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.0.client()
    }
}

/// For what the driver wants to have alone, such as [`tokio_postgres::Client::transaction`].
impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        self.0.client_mut()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.spend();
    }
}
