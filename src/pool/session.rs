//! A connection as the pool keeps it: the driver's client, its prepared statements, and whether it is sound.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use postgres_types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::statements::{Prepared, Statements};
use crate::connect::{Connector, is_read_only, is_stale_plan, statement_failure};
use crate::error::Kind;
use crate::shard::Home;
use crate::statement::{Nature, Statement};
use crate::{Outcome, Result};

/// Parameters of a statement, as the driver takes them.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(crate) struct Session {
    client: Client,
    connector: Connector,
    statements: Statements,
    /// Requests sent and not answered to the end. What is left when the session comes back was abandoned.
    in_flight: AtomicUsize,
    in_transaction: AtomicBool,
    /// Used in ways that nobody has followed.
    spent: AtomicBool,
    last_used: Instant,
}

impl Session {
    pub(super) fn new(client: Client, connector: Connector) -> Self {
        let cache = connector.settings().pool.statement_cache;
        Self {
            client,
            connector,
            statements: Statements::new(cache),
            in_flight: AtomicUsize::new(0),
            in_transaction: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            last_used: Instant::now(),
        }
    }

    /// The bare client. What is done with it must leave the session as it was, or else [`Session::spend`] it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the session must not be lent again: closed, in a transaction, or with an answer still to come.
    pub(super) fn is_unsound(&self) -> bool {
        self.client.is_closed()
            || self.is_abandoned()
            || self.is_in_transaction()
            || self.spent.load(Ordering::Relaxed)
    }

    /// Marks the session as one that must not be lent again.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.last_used.elapsed()
    }

    pub(super) fn touch(&mut self) {
        self.last_used = Instant::now();
    }

    /// Asks the server to stop what nobody waits for any more. Only for a session that will not be lent again: the
    /// request could otherwise hit the next one's statement.
    pub(super) fn cancel_in_background(&self) {
        // Without a runtime the closed connection has to be enough.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.connector.cancel(&self.client));
        }
    }

    /// Opens a transaction. Until [`Session::end`] the session is unfit to be lent again.
    pub(crate) async fn begin(&self) -> Result<()> {
        self.begin_by("BEGIN").await
    }

    /// Opens a transaction by commands of the caller's.
    pub(crate) async fn begin_by(&self, command: &str) -> Result<()> {
        self.in_transaction.store(true, Ordering::Relaxed);
        self.command(command, "cannot begin a transaction").await
    }

    /// Ends the transaction by `COMMIT`, `ROLLBACK` or `PREPARE TRANSACTION`.
    pub(crate) async fn end(&self, command: &str) -> Result<()> {
        self.command(command, "cannot end the transaction").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn command(&self, sql: &str, what: &str) -> Result<()> {
        let answer = self.watch(self.client.batch_execute(sql)).await;
        answer.map_err(|error| statement_failure(error, what))
    }

    /// Does something with the bare client. Dropping the future leaves the session unfit to be lent again, and has the
    /// server stop what it was doing.
    pub(crate) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let flight = Flight::take_off(self);
        let done = work.await;
        flight.land();
        done
    }

    /// Runs one statement, collects its rows and counts those that it changed.
    ///
    /// Dropping the future leaves the session unfit to be lent again.
    pub(crate) async fn send(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64)> {
        if statement.nature() == Nature::Other {
            // It may set what the next one would find.
            self.spend();
        }
        let flight = Flight::take_off(self);
        let mut again = !self.is_in_transaction() && statement.nature() != Nature::Other;
        let answer = loop {
            match self.attempt(statement, home, params).await {
                Err(error) if again && is_stale_plan(&error) => {
                    self.statements.forget(statement, home);
                    again = false;
                }
                answer => break answer,
            }
        };
        flight.land();
        answer.map_err(|error| {
            let error =
                statement_failure(error, format!("shard {} refused {statement:?}", home.shard()));
            // What only reads is no primary any more.
            if error.outcome() == Outcome::Unknown || is_read_only(&error) {
                self.spend();
            }
            match statement.nature() {
                // A read leaves nothing, whether it happened or not.
                Nature::SingleRead if error.outcome() == Outcome::Unknown => {
                    error.with_outcome(Outcome::NotExecuted)
                }
                // A procedure may have committed what came before the error.
                Nature::Other if error.kind() == Kind::Conflict && !self.is_in_transaction() => {
                    error.with_kind(Kind::Database).with_outcome(Outcome::Unknown)
                }
                _ => error,
            }
        })
    }

    async fn attempt(
        &self,
        statement: &Statement,
        home: &Home,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u64), tokio_postgres::Error> {
        let rows = match self.prepare(statement, home).await? {
            Prepared::Named(named) => self.client.query_raw(&named, params.iter().copied()).await?,
            Prepared::Typed(text, types) => {
                let params = params.iter().copied().zip(types.iter().cloned());
                self.client.query_typed_raw(&text, params).await?
            }
        };
        let mut rows = pin!(rows);
        let mut collected = Vec::new();
        while let Some(row) = rows.try_next().await? {
            collected.push(row);
        }
        Ok((collected, rows.rows_affected().unwrap_or(0)))
    }

    async fn prepare(
        &self,
        statement: &Statement,
        home: &Home,
    ) -> Result<Prepared, tokio_postgres::Error> {
        match self.statements.get(statement, home) {
            Some(prepared) => Ok(prepared),
            // Boxed because it is rare, and large.
            None => Box::pin(self.prepare_anew(statement, home)).await,
        }
    }

    async fn prepare_anew(
        &self,
        statement: &Statement,
        home: &Home,
    ) -> Result<Prepared, tokio_postgres::Error> {
        let text = statement.render(home);
        let prepared = if self.connector.settings().pool.prepared {
            Prepared::Named(self.client.prepare(&text).await?)
        } else {
            Prepared::Typed(text.as_str().into(), self.parameter_types(&text).await?)
        };
        self.statements.insert(statement, home, prepared.clone());
        Ok(prepared)
    }

    /// Asks the server for the types of a statement's parameters, and leaves nothing on it: behind a pooler in
    /// transaction mode, one transaction is all that is sure to reach one server.
    async fn parameter_types(&self, text: &str) -> Result<Arc<[Type]>, tokio_postgres::Error> {
        if self.is_in_transaction() {
            return Ok(self.client.prepare(text).await?.params().into());
        }
        self.client.batch_execute("BEGIN").await?;
        let types = self.client.prepare(text).await.map(|named| named.params().into());
        self.client.batch_execute("ROLLBACK").await?;
        types
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("unsound", &self.is_unsound()).finish_non_exhaustive()
    }
}

/// A request under way. Dropped before it landed, it leaves its mark on the session.
struct Flight<'a>(&'a Session);

impl<'a> Flight<'a> {
    fn take_off(session: &'a Session) -> Self {
        session.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(session)
    }

    fn land(self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
