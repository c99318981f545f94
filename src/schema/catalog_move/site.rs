//! One of the two databases, with the session that works there.
//!
//! That session holds the lock of the catalog and sends every change: so whoever has the lock knows that what a run before
//! had sent is decided, one way or the other.

use std::time::Duration;

use postgres_types::ToSql;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Row};

use super::super::preflight::{CATALOG_LOCK, lock};
use crate::catalog::{CHANNEL, Signpost};
use crate::config::Dsn;
use crate::connect::{sqlstate, statement_failure};
use crate::shard::MapVersion;
use crate::{Error, Result};

/// Whatever the servers' defaults are: a run that was stopped keeps nobody from writing for long, and values have the same
/// form on both sides.
const SETTINGS: &str = "SET statement_timeout = '60s'; SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '30s'; SET default_transaction_isolation = 'read committed'; \
    SET search_path = pg_catalog; SET client_min_messages = warning; SET DateStyle = 'ISO, MDY'; \
    SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1";
/// What is done is on disk when it is said to be done; who asked for more keeps that.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// In this order movers lock them too. Shorter than `deadlock_timeout`: who gives way is us.
const FENCE: &str = "BEGIN; SET LOCAL lock_timeout = '200ms'; \
    LOCK TABLE howdah.move, howdah.move_step, howdah.move_verified, howdah.home, howdah.instance, howdah.cluster \
    IN SHARE ROW EXCLUSIVE MODE; SET LOCAL lock_timeout = '5s'";
/// How long writers are waited for. Ours write for milliseconds.
const FENCE_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// When a signpost of an earlier move is turned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn<'a> {
    /// With the move that leads there: it becomes that move's.
    With(&'a Signpost),
    /// Later, when the map has come to some version. The signpost's own version grows by one alone: the catalog has left
    /// where it leads to, so every move from now on is of a later one, even where a failover loses what was added since.
    Later { to: &'a Dsn, version: MapVersion },
}

/// A database that has the catalog, or shall have it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) client: Client,
    /// How applications reach it.
    pub(super) dsn: Dsn,
}

impl Site {
    /// Prepares a session; to change what is here but a signpost's direction, it must have the lock.
    pub(super) async fn prepared(client: Client, dsn: Dsn) -> Result<Self> {
        let site = Self { client, dsn };
        site.batch(SETTINGS, "cannot set up the session").await?;
        site.batch(DURABLE, "cannot set up the session").await?;
        Ok(site)
    }

    /// Takes the lock first.
    pub(super) async fn lock(client: Client, dsn: Dsn) -> Result<Self> {
        if !lock(&client, CATALOG_LOCK).await? {
            return Err(Error::refused(format!("another run is at work on {dsn}"))
                .hint("wait for it, then run this again"));
        }
        Self::prepared(client, dsn).await
    }

    /// Nothing is copied over a catalog.
    pub(super) async fn refuse_catalog(&self) -> Result<()> {
        const HAS_ONE: &str = "SELECT to_regclass('howdah.cluster') IS NOT NULL \
                               AND to_regclass('howdah.signpost') IS NULL";

        if self.one(HAS_ONE, &[], "cannot look at the database").await?.get(0) {
            return Err(Error::refused(
                "the database has a catalog already, which is not the one in use",
            )
            .hint("was it restored from a backup? see what is there, and drop its tables"));
        }
        Ok(())
    }

    /// Begins the transaction that lets nobody else change the catalog; it is read as ever.
    pub(super) async fn fence(&self) -> Result<()> {
        let give_up = Instant::now() + FENCE_PATIENCE;
        loop {
            match self.client.batch_execute(FENCE).await {
                Ok(()) => return Ok(()),
                Err(error) if error.code().is_some_and(sqlstate::is_in_the_way) => {
                    self.batch("ROLLBACK", "cannot step back").await?;
                    if Instant::now() > give_up {
                        return Err(Error::refused(
                            "somebody has been writing to the catalog all the while",
                        )
                        .because(error)
                        .hint("end that transaction, then run this again"));
                    }
                    sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(statement_failure(error, "cannot close the catalog")),
            }
        }
    }

    /// Commits that transaction with a signpost in the catalog's place: from then on it is where that leads.
    pub(super) async fn close(&self, instance: &str, to: &Signpost) -> Result<()> {
        // The map would be read; the rest is small, and in nobody's way.
        const EMPTY: &str = "DELETE FROM howdah.move_verified; DELETE FROM howdah.move_step; DELETE FROM howdah.cluster";

        self.batch(EMPTY, "cannot close the catalog").await?;
        self.put_signpost(Some(instance), to).await?;
        self.batch(&format!("NOTIFY {CHANNEL}; COMMIT"), "cannot close the catalog").await
    }

    /// Makes a signpost, within a transaction.
    pub(super) async fn put_signpost(&self, instance: Option<&str>, to: &Signpost) -> Result<()> {
        const PUT: &str = "INSERT INTO howdah.signpost (instance, dsn, map_version, mark) \
                           VALUES ($1, $2, $3, $4::text::uuid)";

        self.batch(include_str!("../../../sql/signpost.sql"), "cannot make the signpost").await?;
        let dsn = to.dsn.to_string();
        let params: [&(dyn ToSql + Sync); 4] = [&instance, &dsn, &to.map_version.get(), &to.mark];
        let put = self.client.execute(PUT, &params).await;
        put.map(|_| ()).map_err(|error| statement_failure(error, "cannot make the signpost"))
    }

    /// Lets a copy be the catalog.
    pub(super) async fn open(&self) -> Result<()> {
        let open = format!("DROP TABLE howdah.signpost; NOTIFY {CHANNEL}");
        self.batch(&open, "cannot open the catalog").await
    }

    /// Lets a signpost of an earlier move lead to where the catalog is now, so that it depends on no database in between.
    pub(super) async fn redirect(&self, instance: &str, turn: Turn<'_>) -> Result<()> {
        const WITH: &str = "UPDATE howdah.signpost SET instance = $1, dsn = $2, map_version = $3, \
                            mark = $4::text::uuid WHERE map_version < $3";
        const LATER: &str = "UPDATE howdah.signpost SET instance = $1, dsn = $2, map_version = map_version + 1, \
                             mark = gen_random_uuid() WHERE map_version < $3 AND dsn <> $2";

        if Signpost::read(&self.client).await?.is_none() {
            return Ok(());
        }
        let redirected = match turn {
            Turn::With(to) => {
                let (dsn, version) = (to.dsn.to_string(), to.map_version.get());
                self.client.execute(WITH, &[&instance, &dsn, &version, &to.mark]).await
            }
            Turn::Later { to, version } => {
                let params: [&(dyn ToSql + Sync); 3] = [&instance, &to.to_string(), &version.get()];
                self.client.execute(LATER, &params).await
            }
        };
        redirected.map(|_| ()).map_err(|error| statement_failure(error, "cannot turn the signpost"))
    }

    pub(super) async fn batch(&self, sql: &str, what: &str) -> Result<()> {
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| statement_failure(error, what))
    }

    pub(super) async fn one(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        what: &str,
    ) -> Result<Row> {
        let row = self.client.query_one(sql, params).await;
        row.map_err(|error| statement_failure(error, what))
    }
}
