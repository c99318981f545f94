//! A transaction on one shard: a guard that commits or rolls back, and the handle with which to work in it.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postgres_types::ToSql;
use tokio::sync::RwLock;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::deadline::Deadline;
use super::ended::{Ended, Undone, Wrote, dropped};
use super::options::TransactionOptions;
use super::retry::Visit;
use super::rows;
use crate::connect::within_read_only;
use crate::shard::Home;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// How long a connection may take to roll back while nobody waits for it but who wants the connection.
const ROLL_BACK: Duration = Duration::from_secs(5);

/// An open transaction, from [`Shard::begin`](crate::Shard::begin).
///
/// Statements are run through [`Tx`], to which it dereferences. Dropped without [`Transaction::commit`], it is
/// rolled back; the connection is lent again only after that.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Id, Shard, Statement};
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

/// The handle with which to work in an open transaction, on one of its shards.
///
/// It can be cloned and used from several futures at once; their statements are run one after the other. When the
/// transaction is over, it refuses.
#[derive(Clone)]
pub struct Tx {
    open: Arc<Open>,
    /// The shard's, on the instance on which the transaction is open.
    home: Home,
    deadline: Deadline,
}

/// What all handles of a transaction on one instance share.
struct Open {
    /// Read by statements, written by the first of them and by the end of the transaction: none can slip ahead of the one or
    /// behind the other.
    visit: RwLock<Option<Visit>>,
    /// The first statement was answered, and with it the commands that begin the transaction.
    begun: AtomicBool,
    /// The guard is gone: nobody will commit.
    ended: AtomicBool,
    /// The server refuses to write in it.
    read_only: bool,
    /// A statement was sent that may have written or locked.
    wrote: AtomicBool,
    /// The first error of a statement, and where: PostgreSQL refuses all that follow, and would answer COMMIT with a
    /// rollback. Or that it did not return the rows that it should.
    failure: Mutex<Option<(Error, Home)>>,
}

impl Transaction {
    pub(super) async fn begin(
        visit: Visit,
        options: &TransactionOptions,
        deadline: Deadline,
    ) -> Result<Self> {
        Self::begin_by(visit, options, [], deadline).await
    }

    /// Begins with settings of the caller's.
    pub(super) async fn begin_by<const N: usize>(
        visit: Visit,
        options: &TransactionOptions,
        settings: [&str; N],
        deadline: Deadline,
    ) -> Result<Self> {
        let begin = options.begin();
        let commands: Vec<_> = [begin.as_str()].into_iter().chain(settings).collect();
        // Dropped in the middle, the connection is not lent again.
        let begun = deadline.before_sending(pin!(visit.lent.begin_with_next(&commands))).await;
        begun
            .map_err(|error| error.at(visit.home.instance()).with_outcome(Outcome::NotExecuted))?;
        let home = visit.home.clone();
        let open = Arc::new(Open {
            visit: RwLock::new(Some(visit)),
            begun: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            read_only: options.is_read_only(),
            wrote: AtomicBool::new(false),
            failure: Mutex::default(),
        });
        Ok(Self(Tx { open, home, deadline }))
    }

    /// A handle for others to work in the transaction.
    #[must_use]
    pub fn tx(&self) -> Tx {
        self.0.clone()
    }

    /// A handle for another shard that lives on the same instance.
    pub(super) fn on(&self, home: Home, deadline: Deadline) -> Tx {
        Tx { open: self.0.open.clone(), home, deadline }
    }

    /// The home of the shard that it was begun for.
    pub(super) fn home(&self) -> &Home {
        &self.0.home
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// When a statement had failed, even if its error went unnoticed: nothing is left of the transaction then.
    /// When the connection is lost after the commit was sent, its outcome is [unknown](Outcome::Unknown).
    pub async fn commit(self) -> Result<()> {
        self.finish(Ok(())).await.map_err(|undone| undone.error)
    }

    /// Rolls back, and waits for it. Dropping does the same in the background.
    ///
    /// # Errors
    ///
    /// When the connection is lost; the server rolls back all the same.
    pub async fn rollback(self) -> Result<()> {
        let Some(visit) = self.0.open.visit.write().await.take() else { return Ok(()) };
        if visit.lent.is_abandoned() {
            // Behind a statement that nobody waits for the ROLLBACK would wait: closed, it ends with its connection.
            return Ok(());
        }
        let ended = self.0.deadline.after_sending(pin!(visit.lent.end("ROLLBACK"))).await;
        ended.map_err(|error| error.at(visit.home.instance()).if_unknown(Outcome::Failed))
    }

    /// Commits an `Ok`, rolls back an `Err`.
    pub(super) async fn finish<T>(self, value: Result<T>) -> Result<T, Undone> {
        let Some(ended) = self.end().await else { return Err(Undone::without(over())) };
        match (value, ended.obstacle()) {
            (Ok(value), None) => ended.commit().await.map(|()| value),
            (Ok(_), Some(obstacle)) => Err(ended.roll_back(obstacle).await),
            (Err(error), _) => Err(ended.roll_back(error.rolled_back()).await),
        }
    }

    /// Takes no more statements, once those under way are answered.
    pub(super) async fn end(self) -> Option<Ended> {
        let open = &self.0.open;
        let visit = open.visit.write().await.take()?;
        let failure = open.failure().take();
        let wrote = match open.wrote.load(Ordering::Acquire) {
            true => Wrote::Perhaps,
            false if open.read_only || !open.has_begun() => Wrote::Nothing,
            false => Wrote::NothingSeen,
        };
        Some(Ended::new(visit, failure, wrote, self.0.deadline))
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
    /// As [`Tx::query`]; also when there is no row, or more than one: the transaction can only be rolled back then, too.
    pub async fn query_one(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        let rows = self.query(statement, params).await?;
        rows::one(rows, statement).map_err(|error| self.fail(undone(error)))
    }

    /// Runs a statement that returns one row or none.
    ///
    /// # Errors
    ///
    /// As [`Tx::query`]; also when there is more than one row, as for [`Tx::query_one`].
    pub async fn query_opt(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>> {
        let rows = self.query(statement, params).await?;
        rows::at_most_one(rows, statement).map_err(|error| self.fail(undone(error)))
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

    /// Fails the transaction, as an error of the server's does: also where nobody minds this error, it is not committed.
    pub(super) fn fail(&self, error: Error) -> Error {
        self.open.failure().get_or_insert_with(|| (error.clone(), self.home.clone()));
        error
    }

    async fn run(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<(Vec<Row>, u64)> {
        let open = &self.open;
        let _leaving = Leaving(open);
        let (first, next);
        let visit = if open.has_begun() {
            next = open.visit.read().await;
            &*next
        } else {
            first = open.visit.write().await;
            &*first
        };
        let Some(visit) = visit.as_ref().filter(|_| !open.ended.load(Ordering::Acquire)) else {
            return Err(over());
        };
        if !open.has_begun() {
            // Without an answer to the first one, it may be that there is no transaction.
            if let Some((error, _)) = &*open.failure() {
                return Err(error.clone().hint("an earlier statement had failed"));
            }
            if visit.lent.is_abandoned() {
                return Err(dropped());
            }
        }
        if !statement.is_single_read() && !open.read_only {
            open.wrote.store(true, Ordering::Release);
        }
        let sent = pin!(visit.send_to(&self.home, statement, params));
        let answer = self.deadline.after_sending(sent).await;
        open.begun.fetch_or(answer.is_ok(), Ordering::AcqRel);
        answer.map_err(|error| {
            let mut error = error.at(visit.home.instance());
            if open.read_only {
                error = within_read_only(error);
            }
            // Whatever it did, it is never committed; and if it was the first, nothing else was done either.
            let begun = open.has_begun();
            self.fail(error.if_unknown(if begun { Outcome::Failed } else { Outcome::NotExecuted }))
        })
    }
}

impl Open {
    /// Rolls back, unless a statement is under way on a clone: that does it when it ends.
    fn give_up(&self) {
        if let Ok(mut visit) = self.visit.try_write() {
            roll_back(visit.take());
        }
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    fn failure(&self) -> MutexGuard<'_, Option<(Error, Home)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tx({})", self.home.shard())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let open = &self.0.open;
        // With `Leaving`: of the two, whoever comes second finds the other done.
        open.ended.swap(true, Ordering::AcqRel);
        open.give_up();
    }
}

/// A statement that leaves the transaction, answered or dropped. It is declared before the lock is taken, so that it is
/// dropped after the lock.
struct Leaving<'a>(&'a Open);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.0.ended.fetch_or(false, Ordering::AcqRel) {
            self.0.give_up();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        roll_back(self.visit.get_mut().take());
    }
}

/// Rolls back in the background. A connection that was left in the middle of a statement is closed instead, which
/// cancels the statement; and so is one that does not answer.
fn roll_back(visit: Option<Visit>) {
    let Some(visit) = visit.filter(|visit| !visit.lent.is_abandoned()) else { return };
    // Whoever drops the last handle need not be within a runtime.
    let runtime = visit.lent.runtime().clone();
    runtime.spawn(async move {
        // A connection on which this fails is not lent again.
        let _ = timeout(ROLL_BACK, visit.lent.end("ROLLBACK")).await;
    });
}

/// Whatever a statement did that has not returned the rows it should, the transaction is not committed.
fn undone(error: Error) -> Error {
    error.if_unknown(Outcome::Failed)
}

pub(super) fn over() -> Error {
    Error::input("the transaction is over").hint("a Tx is of no use after its closure has returned")
}
