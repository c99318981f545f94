//! A transaction over shards, as a program writes it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit};

use super::commit::{commit, roll_back};
use crate::cluster::ended::{Ended, Undone};
use crate::cluster::options::TransactionOptions;
use crate::cluster::retry::Patience;
use crate::cluster::transaction::{Transaction, over};
use crate::cluster::{Cluster, Shard, Tx};
use crate::connect::sqlstate::is_lock_timeout;
use crate::error::Kind;
use crate::{Error, Outcome, Result};

/// What each part is told when it begins. PostgreSQL finds deadlocks on one server; those that go over several end here,
/// as a conflict. And where a client vanishes without a word, its locks are not held for ever.
const LIMITS: [&str; 2] =
    ["SET LOCAL lock_timeout = '2s'", "SET LOCAL idle_in_transaction_session_timeout = '60s'"];

/// The handle with which to work in a transaction over shards, from [`Cluster::transaction`].
///
/// It can be cloned and used from several futures at once.
#[derive(Clone)]
pub struct ClusterTx(Arc<Open>);

struct Open {
    cluster: Cluster,
    options: TransactionOptions,
    /// One for each instance, in the order of use; none any more when the transaction is over. Held while another one
    /// begins.
    parts: Mutex<Option<Vec<Transaction>>>,
}

impl Cluster {
    /// Runs the closure in a transaction over as many shards as it uses, and commits everywhere or nowhere when it returns
    /// `Ok`.
    ///
    /// What only reads, and what is written on one instance alone, costs a plain commit. Written on several instances, it
    /// is two-phase commit: three more round trips, three waits for a disk in a row instead of one, and a row that holds the
    /// decision. Beside others, servers that were only read are asked whether they wrote: one more round trip.
    /// Between the two phases other readers may see one shard's part already and another's not yet: it is atomic, but no
    /// snapshot. `max_prepared_transactions` of each server must allow for it.
    ///
    /// As with [`Shard::transaction`], the closure is run again when nothing was executed and trying again makes sense: it
    /// must have no effects but on the transaction. Who waits for a lock for two seconds counts as
    /// deadlocked with somebody over two servers, and is run again too; touching shards in the order of their numbers
    /// avoids it. A server on which nothing is asked for a minute gives its part up, and with it the whole.
    ///
    /// A process runs at most as many at once as a pool has connections to lend: `max_size`, or its instance's share of
    /// `total_max_size` where that is less, without the `pipelines`. Others wait in the order of asking, up to `queue_timeout`.
    /// So a closure must not wait for another transaction over shards.
    ///
    /// Dropping the future before the closure has returned rolls back. Later, it does not stop the commit; whether it
    /// took effect is unknown to who dropped it.
    ///
    /// # Errors
    ///
    /// The closure's own, after a rollback, such as [`Error::abort`]; the transaction's. With [`Outcome::Unknown`] only where the decision could not
    /// be asked for either: whatever it is, it is the same on all shards. Any process can [find out](Cluster::recover).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use howdah::{Cluster, Id, Statement};
    /// const DEBIT: Statement =
    ///     Statement::new("UPDATE {shard}.users SET points = points - $2 WHERE id = $1 RETURNING points");
    /// const CREDIT: Statement =
    ///     Statement::new("UPDATE {shard}.users SET points = points + $2 WHERE id = $1 RETURNING points");
    ///
    /// # async fn example(cluster: Cluster, payer: Id, payee: Id) -> howdah::Result<()> {
    /// let (from, to) = (cluster.shard_of_id(payer)?, cluster.shard_of_id(payee)?);
    /// cluster
    ///     .transaction(async |tx| {
    ///         // Whoever is not there returns no row, which is an error and undoes the whole.
    ///         tx.on(&from).await?.query_one(&DEBIT, &[&payer, &5_i64]).await?;
    ///         tx.on(&to).await?.query_one(&CREDIT, &[&payee, &5_i64]).await?;
    ///         Ok(())
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transaction<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnMut(ClusterTx) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        self.transaction_with(&TransactionOptions::new(), work).await
    }

    /// Runs the closure in a transaction over shards of a certain isolation. See [`Cluster::transaction`].
    ///
    /// The isolation is that of each instance: two serializable transactions over the same two instances may still
    /// see each other in different orders there.
    ///
    /// # Errors
    ///
    /// As [`Cluster::transaction`].
    pub async fn transaction_with<T, F, Fut>(
        &self,
        options: &TransactionOptions,
        mut work: F,
    ) -> Result<T>
    where
        T: Send,
        F: FnMut(ClusterTx) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let mut patience = Patience::with_runs(options.runs());
        loop {
            let turn = self.0.sweeper.turn(self).await?;
            let tx = ClusterTx(Arc::new(Open {
                cluster: self.clone(),
                options: *options,
                parts: Mutex::new(Some(Vec::new())),
            }));
            let value = work(tx.clone()).await;
            let Undone { error, visit } = match tx.finish(value, turn).await {
                Ok(value) => return Ok(value),
                Err(undone) => undone,
            };
            Box::pin(self.reconsider(error, visit.map(|visit| *visit), &mut patience)).await?;
        }
    }
}

impl ClusterTx {
    /// The handle for one shard. A connection to its instance is taken when the first shard there is asked for.
    ///
    /// A [timeout](Shard::timeout) of the shard's counts from here on. Its other limits hold for the instance, where it is the
    /// first shard there.
    ///
    /// # Errors
    ///
    /// When no connection can be had, or the transaction is over.
    pub async fn on(&self, shard: &Shard) -> Result<Tx> {
        let deadline = shard.deadline();
        let Open { cluster, options, parts } = &*self.0;
        let mut parts = parts.lock().await;
        let parts = parts.as_mut().ok_or_else(over)?;
        let home = shard.home()?;
        if let Some(part) = parts.iter().find(|part| part.home().instance() == home.instance()) {
            return Ok(part.on(home, deadline));
        }
        let visit = pin!(cluster.visit_within(shard.id(), shard.limits()));
        let visit = deadline.before_sending(visit).await?;
        let part = Transaction::begin_by(visit, options, LIMITS, deadline).await?;
        let tx = part.tx();
        parts.push(part);
        Ok(tx)
    }

    pub(in crate::cluster) fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// Commits an `Ok` everywhere, rolls back an `Err` everywhere.
    async fn finish<T>(self, value: Result<T>, turn: OwnedSemaphorePermit) -> Result<T, Undone> {
        let parts = self.0.parts.lock().await.take().unwrap_or_default();
        let mut ended = Vec::with_capacity(parts.len());
        for part in parts {
            ended.extend(part.end().await);
        }
        let obstacle = ended.iter().find_map(Ended::obstacle);
        match (value, obstacle) {
            (Ok(value), None) => {
                // In a task of its own: who drops our future must not leave it half done.
                let committing = tokio::spawn(commit(self.0.cluster.clone(), ended, turn));
                committing.await.unwrap_or_else(|_| Err(Undone::without(interrupted())))?;
                Ok(value)
            }
            (Ok(_), Some(error)) | (Err(error), _) => {
                Err(roll_back(ended, self.lost_a_race(error.rolled_back())).await)
            }
        }
    }

    /// Whoever waited too long for a lock may have waited for somebody who waits for them on another server, or for
    /// somebody who died.
    fn lost_a_race(&self, error: Error) -> Error {
        if !error.is_aborted() && error.as_db_error().is_some_and(is_lock_timeout) {
            self.0.cluster.0.sweeper.look();
            error.with_kind(Kind::Conflict).with_outcome(Outcome::NotExecuted)
        } else {
            error
        }
    }
}

impl fmt::Debug for ClusterTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTx").finish_non_exhaustive()
    }
}

fn interrupted() -> Error {
    Error::system("the commit was interrupted").with_outcome(Outcome::Unknown)
}
