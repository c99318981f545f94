//! A transaction on one shard: a guard that commits or rolls back, and the handle with which to work in it.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use postgres_types::ToSql;
use tokio::sync::RwLock;
use tokio_postgres::Row;

use super::deadline::Deadline;
use super::retry::Visit;
use super::rows;
use crate::error::Kind;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// An open transaction, from [`Shard::begin`](crate::Shard::begin).
///
/// Statements are run through [`Tx`], to which it dereferences. Dropped without [`Transaction::commit`], it is
/// rolled back; the connection is lent again only after that.
///
/// # Examples
///
/// ```no_run
/// # use howdah::{Id, Shard, Statement};
/// # const RENAME: Statement = Statement::new("UPDATE {shard}.users SET name = $2 WHERE id = $1");
/// # async fn example(shard: Shard, user: Id) -> howdah::Result<()> {
/// let tx = shard.begin().await?;
/// tx.execute(&RENAME, &[&user, &"Zoë"]).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Transaction(Tx);

/// The handle with which to work in an open transaction.
///
/// It can be cloned and used from several futures at once; their statements are run one after the other. When the
/// transaction is over, it refuses.
#[derive(Clone)]
pub struct Tx(Arc<Inner>);

struct Inner {
    /// Read by statements, written by the end of the transaction: none can slip behind the other.
    visit: RwLock<Option<Visit>>,
    /// The guard is gone: nobody will commit.
    ended: AtomicBool,
    /// The first error of a statement: PostgreSQL refuses all that follow, and would answer COMMIT with a rollback.
    failure: Mutex<Option<Error>>,
    deadline: Deadline,
}

impl Transaction {
    pub(super) async fn begin(visit: Visit, deadline: Deadline) -> Result<Self> {
        // Dropped in the middle, the connection is not lent again.
        let begun = deadline.before_sending(visit.lent.begin()).await;
        begun
            .map_err(|error| error.at(visit.home.instance()).with_outcome(Outcome::NotExecuted))?;
        let visit = RwLock::new(Some(visit));
        Ok(Self(Tx(Arc::new(Inner {
            visit,
            ended: AtomicBool::new(false),
            failure: Mutex::default(),
            deadline,
        }))))
    }

    /// A handle for others to work in the transaction.
    #[must_use]
    pub fn tx(&self) -> Tx {
        self.0.clone()
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// When a statement had failed, even if its error went unnoticed: nothing is left of the transaction then.
    /// When the connection is lost after the commit was sent, its outcome is [unknown](Outcome::Unknown).
    pub async fn commit(self) -> Result<()> {
        self.finish(Ok(())).await.map_err(|(error, _)| error)
    }

    /// Rolls back, and waits for it. Dropping does the same in the background.
    ///
    /// # Errors
    ///
    /// When the connection is lost; the server rolls back all the same.
    pub async fn rollback(self) -> Result<()> {
        match self.take().await {
            Some(visit) => visit.lent.end("ROLLBACK").await,
            None => Ok(()),
        }
    }

    /// Commits an `Ok`, rolls back an `Err`. With the error comes the visit, while its connection is of use: the
    /// transaction is over then.
    pub(super) async fn finish<T>(self, value: Result<T>) -> Result<T, (Error, Option<Visit>)> {
        let deadline = self.0.0.deadline;
        let Some(visit) = self.take().await else {
            return Err((ended(), None));
        };
        let failure = self.failure();
        if visit.lent.is_abandoned() {
            // Its connection is closed, and the server rolls back.
            let dropped = Error::new(Kind::Input, "a statement was dropped before it was answered");
            let dropped = dropped.with_outcome(Outcome::Failed);
            return Err((value.err().unwrap_or(dropped), None));
        }
        let error = match (value, failure) {
            (Ok(value), None) => match deadline.after_sending(visit.lent.end("COMMIT")).await {
                Ok(()) => return Ok(value),
                Err(error) => error.at(visit.home.instance()),
            },
            (Ok(_), Some(failure)) => failure.hint("an earlier statement had failed"),
            (Err(error), _) => error,
        };
        // What the server refused at COMMIT, such as a deferred constraint, it has rolled back itself.
        match deadline.before_sending(visit.lent.end("ROLLBACK")).await {
            Ok(()) if error.outcome() == Outcome::Unknown => {
                // The server did answer, and nothing is left.
                Err((error.with_outcome(Outcome::Failed), Some(visit)))
            }
            Ok(()) => Err((error, Some(visit))),
            Err(_) => Err((error, None)),
        }
    }

    async fn take(&self) -> Option<Visit> {
        self.0.0.visit.write().await.take()
    }

    fn failure(&self) -> Option<Error> {
        self.0.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Deref for Transaction {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.0
    }
}

impl Tx {
    /// Runs a statement and collects its rows.
    ///
    /// # Errors
    ///
    /// When the database refuses the statement; the transaction can only be rolled back then.
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
    /// As [`Tx::query`]; also when there is no row, or more than one.
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
    /// As [`Tx::query`]; also when there is more than one row.
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
    /// As [`Tx::query`].
    pub async fn execute(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        Ok(self.run(statement, params).await?.1)
    }

    async fn run(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<(Vec<Row>, u64)> {
        let visit = self.0.visit.read().await;
        let Some(visit) = visit.as_ref().filter(|_| !self.0.ended.load(Ordering::Acquire)) else {
            return Err(ended());
        };
        let sent = visit.send(statement, params);
        self.0.deadline.after_sending(sent).await.map_err(|error| {
            let mut error = error.at(visit.home.instance());
            if error.outcome() == Outcome::Unknown {
                // Whatever it did, it is never committed.
                error = error.with_outcome(Outcome::Failed);
            }
            let mut failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.clone());
            error
        })
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.ended.store(true, Ordering::Release);
        // Where a statement is under way on a clone, the last clone to go rolls back.
        if let Ok(mut visit) = inner.visit.try_write() {
            roll_back(visit.take());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        roll_back(self.visit.get_mut().take());
    }
}

/// Rolls back in the background. A connection that was left in the middle of a statement is closed instead, which
/// cancels the statement; so is one without a runtime.
fn roll_back(visit: Option<Visit>) {
    let Some(visit) = visit.filter(|visit| !visit.lent.is_abandoned()) else { return };
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            // A connection on which this fails is not lent again.
            let _ = visit.lent.end("ROLLBACK").await;
        });
    }
}

fn ended() -> Error {
    Error::input("the transaction is over").hint("a Tx is of no use after its closure has returned")
}
