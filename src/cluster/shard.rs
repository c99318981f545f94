//! The handle of one shard.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use postgres_types::ToSql;
use tokio_postgres::Row;

use super::Cluster;
use super::deadline::Deadline;
use super::ended::Undone;
use super::options::TransactionOptions;
use super::retry::{Patience, Visit};
use super::rows;
use super::transaction::{Transaction, Tx};
use crate::Result;
use crate::pool::Limits;
use crate::shard::{Home, ShardId};
use crate::statement::Statement;

/// One logical shard, wherever it lives at the moment.
///
/// A handle is cheap, holds no connection, and stays good when its shard moves.
///
/// # Outcomes
///
/// Every error says whether the work was not executed, failed or may have happened: see
/// [`Outcome`](crate::Outcome). A shard that has moved is followed without an error, except by a transaction from
/// [`Shard::begin`].
///
/// # Cancellation
///
/// Dropping a future in the middle leaves no transaction open and loses no connection; whether a write that was
/// sent took effect is then unknown.
#[derive(Clone)]
pub struct Shard {
    cluster: Cluster,
    id: ShardId,
    timeout: Option<Duration>,
    limits: Limits,
}

impl Shard {
    pub(super) fn new(cluster: Cluster, id: ShardId) -> Self {
        Self { cluster, id, timeout: None, limits: Limits::default() }
    }

    /// The shard's number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Where the shard lives, as far as this process knows.
    ///
    /// # Errors
    ///
    /// When the map lacks the shard, which does not happen.
    pub fn home(&self) -> Result<Home> {
        self.cluster.snapshot().map.home(self.id).cloned()
    }

    /// The same shard with a limit on the time of each call, waiting for a connection included. Default: only the
    /// configuration's limits for each phase.
    ///
    /// A transaction is one call: its time runs from [`Shard::begin`] to the end of its commit, or over all runs of
    /// [`Shard::transaction`].
    ///
    /// A statement that was sent and is not done in time is cancelled. Whether a write took effect is then
    /// [unknown](crate::Outcome::Unknown). A transaction is rolled back instead, unless it was the commit that was not
    /// answered. The server is told the limit as well, so that it stops by itself if the request to cancel does not reach it.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.timeout
    }

    /// The same shard with a limit on each wait for a connection. Default: the configuration's `queue_timeout`.
    #[must_use]
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.limits.queue = Some(timeout);
        self
    }

    /// The same shard with a limit, kept by the server, on each statement: one that takes longer has
    /// [failed](crate::Outcome::Failed), and nothing of it remains. Default, and the most: the configuration's
    /// `statement_timeout`.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.limits.statement = Some(timeout);
        self
    }

    /// Runs a statement and collects its rows.
    ///
    /// # Errors
    ///
    /// When no connection can be had, or the database refuses the statement.
    pub async fn query(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        Ok(self.run(statement, params).await?.0)
    }

    /// Runs a statement that returns exactly one row.
    ///
    /// # Errors
    ///
    /// As [`Shard::query`]; also when there is no row, or more than one. A statement that writes has been committed by then,
    /// so the outcome is [unknown](crate::Outcome::Unknown). In a [transaction](Shard::transaction) it would be undone.
    pub async fn query_one(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        rows::one(self.query(statement, params).await?, statement)
    }

    /// Runs a statement that returns one row or none.
    ///
    /// # Errors
    ///
    /// As [`Shard::query`]; also when there is more than one row, as for [`Shard::query_one`].
    pub async fn query_opt(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>> {
        rows::at_most_one(self.query(statement, params).await?, statement)
    }

    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    ///
    /// As [`Shard::query`].
    pub async fn execute(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        Ok(self.run(statement, params).await?.1)
    }

    /// Begins a transaction. If it is dropped without a commit, it is rolled back.
    ///
    /// [`Shard::transaction`] does the same with retries; use this to control it yourself. `BEGIN` is sent together with the
    /// first statement, which saves a round trip. If the shard moves before the commit, the next statement fails, with
    /// nothing executed.
    ///
    /// # Errors
    ///
    /// When no connection can be had.
    pub async fn begin(&self) -> Result<Transaction> {
        self.begin_with(&TransactionOptions::new()).await
    }

    /// Begins a transaction with options, such as an isolation level or read only. See [`Shard::begin`].
    ///
    /// # Errors
    ///
    /// When no connection can be had.
    pub async fn begin_with(&self, options: &TransactionOptions) -> Result<Transaction> {
        self.begin_within(options, self.deadline()).await
    }

    async fn begin_within(
        &self,
        options: &TransactionOptions,
        deadline: Deadline,
    ) -> Result<Transaction> {
        let visit = self.visit_within(deadline).await?;
        Transaction::begin(visit, options, deadline).await
    }

    /// Runs the closure in a transaction, and commits when it returns `Ok`.
    ///
    /// After a serialization failure or a deadlock, and when the shard has moved, nothing of it remains and the closure is
    /// run again, within the bounds of [`TransactionOptions::max_runs`]. So it must have no effects but on the transaction.
    /// Use the [`Tx`] that it is given; after the closure has returned, a clone of it is of no use.
    ///
    /// # Errors
    ///
    /// The closure's own, after a rollback, such as [`Error::abort`](crate::Error::abort); the transaction's. If the closure
    /// ignores a statement's error, the commit fails with it: PostgreSQL would have rolled back without reporting it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use howdah::{Id, Shard, Statement};
    /// const LIKE: Statement = Statement::new("INSERT INTO {shard}.likes (photo, fan) VALUES ($1, $2)");
    /// const COUNT: Statement = Statement::new("UPDATE {shard}.photos SET likes = likes + 1 WHERE id = $1");
    ///
    /// # async fn example(shard: Shard, photo: Id, user: Id) -> howdah::Result<()> {
    /// shard
    ///     .transaction(async |tx| {
    ///         tx.execute(&LIKE, &[&photo, &user]).await?;
    ///         tx.execute(&COUNT, &[&photo]).await
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transaction<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnMut(Tx) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        self.transaction_with(&TransactionOptions::new(), work).await
    }

    /// Runs the closure in a transaction with options, such as an isolation level or read only. See [`Shard::transaction`].
    ///
    /// # Errors
    ///
    /// As [`Shard::transaction`]. [`Error::is_conflict`](crate::Error::is_conflict), if the last of the runs that the options
    /// allow has lost a conflict, too.
    pub async fn transaction_with<T, F, Fut>(
        &self,
        options: &TransactionOptions,
        mut work: F,
    ) -> Result<T>
    where
        T: Send,
        F: FnMut(Tx) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let deadline = self.deadline();
        let mut patience = Patience::with_runs(options.runs());
        loop {
            let transaction = self.begin_within(options, deadline).await?;
            let value = work(transaction.tx()).await;
            let Undone { error, visit } = match transaction.finish(value).await {
                Ok(value) => return Ok(value),
                Err(undone) => undone,
            };
            let visit = visit.map(|visit| *visit);
            let mut again = Box::pin(self.cluster.reconsider(error, visit, &mut patience));
            deadline.before_sending(again.as_mut()).await?;
        }
    }

    async fn run(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<(Vec<Row>, u64)> {
        let deadline = self.deadline();
        // One that has to end sooner than any on a pipeline needs a connection that was told so.
        if statement.is_single_read()
            && self.limits.allow_pipelines()
            && let Some(answer) = self.read_along(statement, params, deadline).await?
        {
            return Ok(answer);
        }
        let mut patience = Patience::new();
        loop {
            let visit = self.visit_within(deadline).await?;
            let answer = {
                let sent = pin!(visit.send_at_once(statement, params));
                deadline.running(statement, sent).await
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let again = self.cluster.reconsider(error, Some(visit), &mut patience);
                    deadline.before_sending(Box::pin(again).as_mut()).await?;
                }
            }
        }
    }

    // Phases of a call, each in a function of its own: so they take the same place in turn, and a call is as large as the largest
    // of them and not as all together.

    async fn read_along(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
        deadline: Deadline,
    ) -> Result<Option<(Vec<Row>, u64)>> {
        deadline.before_sending(pin!(self.cluster.read_along(self.id, statement, params))).await
    }

    async fn visit_within(&self, deadline: Deadline) -> Result<Visit> {
        deadline.before_sending(pin!(self.cluster.visit_within(self.id, self.limits()))).await
    }

    /// What the server works on for somebody who has gone by then is of no use.
    pub(super) fn limits(&self) -> Limits {
        let statement = self.limits.statement.into_iter().chain(self.timeout).min();
        Limits { statement, ..self.limits }
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline::new(self.id, self.timeout)
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({})", self.id)
    }
}
