//! What an operator sees of this process's pools, and does to them.

use std::sync::Arc;

use super::{Cluster, Instance};
use crate::Result;
use crate::pool::{Pool, PoolStats};

impl Cluster {
    /// The pools of this process, by instance: that of the primary, then those of replicas that are read from. No I/O.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(cluster: howdah::Cluster) {
    /// for pool in cluster.stats() {
    ///     println!("{}: {} of {} connections lent, {} wait", pool.instance, pool.active, pool.size, pool.waiting);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Vec<PoolStats> {
        self.0.pools.all().iter().flat_map(|pool| pool.stats().collect::<Vec<_>>()).collect()
    }
}

/// All of these concern the connections of this process alone.
impl Instance {
    /// Holds back whatever is asked of this instance, and waits until what is under way has finished: transactions to
    /// their end, reads to their last row. For a restart of its server, say. Who waits gives up after `queue_timeout`
    /// as ever.
    ///
    /// Dropping the future stops the waiting and not the pause.
    ///
    /// # Errors
    ///
    /// When there is no such instance any more.
    pub async fn pause(&self) -> Result<()> {
        self.pool()?.pause().await;
        Ok(())
    }

    /// Goes on after [`Instance::pause`], in the order of asking.
    ///
    /// # Errors
    ///
    /// When there is no such instance any more.
    pub fn resume(&self) -> Result<()> {
        self.pool()?.resume();
        Ok(())
    }

    /// Replaces every connection: an idle one now, the others when what they are used for has finished. Names are resolved anew,
    /// passwords read anew.
    ///
    /// # Errors
    ///
    /// When there is no such instance any more.
    pub fn reconnect(&self) -> Result<()> {
        self.pool()?.reconnect();
        Ok(())
    }

    /// Closes every connection to the primary now, whatever it is used for: the server rolls back what was open. A statement
    /// or commit that was under way has the outcome [unknown](crate::Outcome::Unknown). Connections to replicas are replaced
    /// as [`Instance::reconnect`] does.
    ///
    /// # Errors
    ///
    /// When there is no such instance any more.
    pub fn kill(&self) -> Result<()> {
        self.pool()?.kill();
        Ok(())
    }

    /// Changes the most connections that there may be, from 1 to what `total_max_size` leaves beside the other instances. What is
    /// too many is closed, an idle one now, the others when they come back. It holds until the program ends, or a new
    /// instance needs its share.
    ///
    /// # Errors
    ///
    /// When the size is out of bounds, or there is no such instance any more.
    pub fn resize(&self, connections: u32) -> Result<()> {
        self.pool()?;
        self.cluster.0.pools.resize(self.name(), connections)
    }

    fn pool(&self) -> Result<Arc<Pool>> {
        self.cluster.0.pools.get(self.name(), &self.cluster.snapshot())
    }
}
