//! One session of a mover: settings of its own, statements prepared once, errors that name the instance.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use bytes::Buf;
use tokio::task::AbortHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{
    Client, CopyInSink, CopyOutStream, Row, SimpleQueryMessage, SimpleQueryRow, Statement,
};

use crate::Result;
use crate::catalog::Place;
use crate::config::Dsn;
use crate::connect::{Connector, Identity, Link, Role, gone, statement_failure};
use crate::shard::InstanceName;

/// Whatever the servers' defaults are: no limit ends a long copy, a mover that was stopped holds no transaction open
/// for long, names are printed with their schemas, and values in one form on all versions. A comparison takes one processor and leaves the others to the clients,
/// what was asked once is not planned again in the fence, and joins are written in their order, which saves half of what planning
/// them takes: each schema that comes or goes has all plans made anew.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; \
    SET default_transaction_isolation = 'read committed'; \
    SET default_transaction_read_only = off; SET search_path = pg_catalog; SET row_security = off; SET jit = off; \
    SET max_parallel_workers_per_gather = 0; SET plan_cache_mode = force_generic_plan; \
    SET join_collapse_limit = 1; SET from_collapse_limit = 1; \
    SET client_min_messages = warning; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; \
    SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET check_function_bodies = off; ";

/// What is done is on disk when it is said to be done; who asked for more keeps that. And from 17 on there is one more limit.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') IN ('off', 'local'); \
    SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) <> '0'";

/// How many statements a session keeps from one move to the next.
const MOST_PREPARED: usize = 200;

const CANNOT_SET_UP: &str = "cannot set up the session";

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection to an instance, or to the catalog. One to an instance is closed when it is dropped, whatever the server is
/// doing for it, so that a mover which was stopped leaves nobody behind who builds indexes and holds the shard's lock.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    driven: Option<AbortHandle>,
    at: String,
    /// Each is asked once for its plan: in the fence, every message more keeps writers waiting.
    prepared: Mutex<BTreeMap<String, Statement>>,
}

fn settings() -> String {
    format!("{}{SETTINGS}", gone::LIMITS)
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(driven) = &self.driven {
            driven.abort();
        }
    }
}

impl Session {
    /// Logs in to an instance and makes sure that it is the one.
    pub(super) async fn open(
        connector: &Connector,
        dsn: &Dsn,
        identity: &Identity,
        role: Role,
    ) -> Result<Self> {
        let name: &InstanceName = &identity.instance;
        let Link { client, driven, .. } =
            connector.link(dsn, role).await.map_err(|error| error.at(name))?;
        let (driven, prepared) = (Some(driven.abort_handle()), Mutex::default());
        let session = Self { client, driven, at: name.to_string(), prepared };
        session.greet(identity).await?;
        session.set_up().await?;
        Ok(session)
    }

    /// Logs in to the catalog, wherever it is.
    pub(super) async fn open_catalog(connector: &Connector, role: Role) -> Result<Self> {
        let client = match role {
            Role::App => Place::find(connector, role).await?.client,
            Role::Owner | Role::Mover => Place::find_open(connector, role).await?,
        };
        let (at, prepared) = ("the catalog".into(), Mutex::default());
        let session = Self { client, driven: None, at, prepared };
        session.batch(&settings(), CANNOT_SET_UP).await?;
        session.set_up().await?;
        Ok(session)
    }

    /// Makes sure that the server is the one.
    pub(super) async fn greet(&self, identity: &Identity) -> Result<()> {
        identity.greet(&self.client, &settings()).await.map(|_| ())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the server has ended it, as far as is known here.
    pub(super) fn is_lost(&self) -> bool {
        self.client.is_closed()
    }

    /// Puts our settings back after somebody else's SQL, such as a dump's.
    pub(super) async fn refresh(&self) -> Result<()> {
        self.reset().await?;
        self.set_up().await
    }

    /// The same within a transaction, where nothing may be tried in vain.
    pub(super) async fn reset(&self) -> Result<()> {
        self.batch(&format!("RESET ALL; {}", settings()), CANNOT_SET_UP).await
    }

    /// What cannot be said in one message with the other settings.
    async fn set_up(&self) -> Result<()> {
        gone::notice(&self.client).await;
        self.batch(DURABLE, CANNOT_SET_UP).await
    }

    /// Statements in one message: one transaction, unless they say otherwise.
    pub(super) async fn batch(&self, sql: &str, what: impl Display + Send) -> Result<()> {
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| self.failure(error, &what))
    }

    /// The same, and the rows of all of them as text.
    pub(super) async fn batch_rows(
        &self,
        sql: &str,
        what: impl Display + Send,
    ) -> Result<Vec<SimpleQueryRow>> {
        let answer = self.client.simple_query(sql).await;
        let answer = answer.map_err(|error| self.failure(error, &what))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(answer.into_iter().filter_map(row).collect())
    }

    pub(super) async fn rows(
        &self,
        sql: &str,
        params: Params<'_>,
        what: impl Display + Send,
    ) -> Result<Vec<Row>> {
        let rows = async { self.client.query(&self.prepare(sql).await?, params).await };
        rows.await.map_err(|error| self.failure(error, &what))
    }

    pub(super) async fn one(
        &self,
        sql: &str,
        params: Params<'_>,
        what: impl Display + Send,
    ) -> Result<Row> {
        let row = async { self.client.query_one(&self.prepare(sql).await?, params).await };
        row.await.map_err(|error| self.failure(error, &what))
    }

    pub(super) async fn opt(
        &self,
        sql: &str,
        params: Params<'_>,
        what: impl Display + Send,
    ) -> Result<Option<Row>> {
        let row = async { self.client.query_opt(&self.prepare(sql).await?, params).await };
        row.await.map_err(|error| self.failure(error, &what))
    }

    async fn prepare(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let statement = self.client.prepare(sql).await?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Rows, as the server sends them.
    pub(super) async fn copy_out(&self, sql: &str) -> Result<CopyOutStream, tokio_postgres::Error> {
        self.client.copy_out(sql).await
    }

    /// Takes rows, as the server wants them. Dropped before it was finished, it takes none.
    pub(super) async fn copy_in<T: Buf + Send + 'static>(
        &self,
        sql: &str,
    ) -> Result<CopyInSink<T>, tokio_postgres::Error> {
        self.client.copy_in(sql).await
    }

    /// Forgets the statements of a move where they have become many: those that name the shard are of no use for another.
    pub(super) fn forget_statements(&self) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.len() > MOST_PREPARED {
            prepared.clear();
        }
    }

    /// Ends a transaction of which nothing shall remain. A session that cannot is closed, which does the same.
    pub(super) async fn roll_back(&self) {
        let _ = self.client.batch_execute("ROLLBACK").await;
    }

    pub(super) fn failure(
        &self,
        error: tokio_postgres::Error,
        what: &impl Display,
    ) -> crate::Error {
        statement_failure(error, what.to_string()).at(&self.at)
    }
}
