//! All configured hosts of an instance, connected or not: whichever of them is promoted must know of the rename.
//!
//! Each is asked for the fact itself, not for a position in the WAL: positions of different histories do not compare.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, ToSql, Type};

use super::names::MARK_TABLE;
use super::side::Side;
use crate::connect::{Connector, statement_failure};
use crate::error::Kind;
use crate::{Error, Result};

/// How often a host is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(2);
/// How long one may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one may take to let us in, where others are not to be kept waiting for it.
const COME: Duration = Duration::from_secs(1);
/// How often one is that cannot be reached.
const COME_AGAIN: Duration = Duration::from_millis(200);
/// How far a replica may be behind when the fence begins, in bytes.
const MOST_BEHIND: i64 = 1 << 20;

/// All configured hosts of an instance, its primary among them.
#[derive(Debug)]
pub(super) struct Hosts<'a> {
    connector: &'a Connector,
    side: &'a Side,
    reached: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    address: String,
    client: Result<Client>,
}

/// A host that is not the primary, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) address: String,
    /// How many bytes of WAL it has still to replay and up to where it has; else why it cannot be asked.
    pub(super) lag: std::result::Result<(u64, PgLsn), String>,
}

/// What each host is asked.
#[derive(Debug)]
enum Fact<'a> {
    /// Whether it has replayed all but a little of what the primary had written.
    Follows { at: String, timeline: i32 },
    /// Whether it has the schema by its new name alone.
    HasRenamed { old: &'a str, new: &'a str },
    /// Whether it has the schema by neither name.
    HasDropped { old: &'a str, new: &'a str },
    /// Whether the schema by that name has the mark of a move, or a later one.
    HasMark { schema: &'a str, id: i64, mark: i64 },
    /// Whether the schema by that name does not have the comment of a copy any more.
    IsUnsealed { schema: &'a str, comment: &'a str },
}

/// Who does not have a fact yet.
struct Missing {
    address: String,
    /// What keeps it from having it, if that is known.
    reason: Option<String>,
    is_lost: bool,
}

impl Fact<'_> {
    /// Nothing where a primary was asked that is not the one that we are connected to.
    async fn holds(&self, client: &Client) -> Result<Option<bool>, tokio_postgres::Error> {
        // A primary that was replaced and still runs never learns of anything. A replica cannot be asked where it would write.
        const BEHIND: &str = "SELECT CASE \
            WHEN pg_is_in_recovery() \
                THEN coalesce(($1::text::pg_lsn - pg_last_wal_replay_lsn())::bigint <= $2, false) \
            WHEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int = ";
        const RENAMED: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $2) \
            AND NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
        const DROPPED: &str =
            "SELECT NOT EXISTS (SELECT FROM pg_namespace WHERE nspname IN ($1, $2))";
        const UNSEALED: &str = "SELECT EXISTS (SELECT FROM pg_namespace \
            WHERE nspname = $1 AND obj_description(oid, 'pg_namespace') IS DISTINCT FROM $2)";

        let (marked, follows);
        let (sql, params): (_, [(&(dyn ToSql + Sync), Type); 2]) = match self {
            Self::HasMark { schema, id, mark } => {
                marked = format!(
                    "SELECT EXISTS (SELECT FROM {schema}.{MARK_TABLE} WHERE move = $1 AND mark >= $2)"
                );
                (marked.as_str(), [(id, Type::INT8), (mark, Type::INT8)])
            }
            Self::Follows { at, timeline } => {
                follows = format!("{BEHIND}{timeline} THEN true END");
                (follows.as_str(), [(at, Type::TEXT), (&MOST_BEHIND, Type::INT8)])
            }
            Self::HasRenamed { old, new } => (RENAMED, [(old, Type::NAME), (new, Type::NAME)]),
            Self::HasDropped { old, new } => (DROPPED, [(old, Type::NAME), (new, Type::NAME)]),
            Self::IsUnsealed { schema, comment } => {
                (UNSEALED, [(schema, Type::NAME), (comment, Type::TEXT)])
            }
        };
        Ok(client.query_typed_one(sql, &params).await?.get(0))
    }
}

impl fmt::Display for Fact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follows { .. } => "follow closely",
            Self::HasRenamed { .. } => "learn of the new name",
            Self::HasDropped { .. } => "drop the old copy",
            Self::HasMark { .. } => "receive the last rows",
            Self::IsUnsealed { .. } => "learn that it is the home",
        })
    }
}

impl<'a> Hosts<'a> {
    pub(super) async fn connect(connector: &'a Connector, side: &'a Side) -> Self {
        let mut hosts = Self { connector, side, reached: Vec::new() };
        hosts.come_again().await;
        hosts
    }

    /// Waits until each is reachable and close behind the primary; `tell` hears what is waited for.
    pub(super) async fn check(
        &mut self,
        patience: Duration,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let at = "SELECT pg_current_wal_lsn()::text";
        let at: String = self.side.watch.one(at, &[], "cannot ask for the position").await?.get(0);
        let timeline = self.side.server.timeline;
        self.until_all(patience, &Fact::Follows { at, timeline }, tell).await
    }

    /// How far each is behind that is not the primary.
    pub(super) async fn replicas(&mut self) -> Result<Vec<Replica>> {
        const AT: &str = "SELECT pg_current_wal_flush_lsn()::text";
        const LAG: &str = "SELECT greatest($1::text::pg_lsn - pg_last_wal_replay_lsn(), 0)::bigint, \
            pg_last_wal_replay_lsn() WHERE pg_is_in_recovery() AND pg_last_wal_replay_lsn() IS NOT NULL";

        if self.is_alone() {
            return Ok(Vec::new());
        }
        if self.reached.iter().any(|host| host.client.is_err()) {
            // Others are to be asked, too.
            let _ = timeout(COME, self.come_again()).await;
        }
        let at = self.side.watch.one(AT, &[], "cannot ask for the position").await?;
        let at: String = at.get(0);
        let mut replicas = Vec::new();
        for host in &mut self.reached {
            let asked = match &host.client {
                Ok(client) => {
                    let params: [(&(dyn ToSql + Sync), Type); 1] = [(&at, Type::TEXT)];
                    match timeout(ANSWER, client.query_typed(LAG, &params)).await {
                        Ok(asked) => {
                            asked.map_err(|error| statement_failure(error, "cannot ask it"))
                        }
                        Err(_) => Err(Error::new(Kind::Timeout, "it does not answer")),
                    }
                }
                Err(error) => Err(error.clone()),
            };
            let lag = match asked {
                Ok(rows) => {
                    let Some(row) = rows.first() else { continue };
                    let bytes = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
                    Ok((bytes, row.get::<_, PgLsn>(1)))
                }
                Err(error) => {
                    let reason = error.to_string();
                    host.client = Err(error);
                    Err(reason)
                }
            };
            let address = format!("{}: host {}", self.side.name, host.address);
            replicas.push(Replica { address, lag });
        }
        Ok(replicas)
    }

    /// Waits until each has the schema by its new name alone.
    pub(super) async fn have_renamed(
        &mut self,
        [old, new]: [&str; 2],
        patience: Duration,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        self.until_all(patience, &Fact::HasRenamed { old, new }, tell).await
    }

    /// Waits until each has dropped the schema, as the primary has: the move had ended, and the catalog forgot.
    pub(super) async fn have_dropped(
        &mut self,
        [old, new]: [&str; 2],
        patience: Duration,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        self.until_all(patience, &Fact::HasDropped { old, new }, tell).await
    }

    /// Waits until each has what was renamed with this mark. The new name alone may be that of an attempt before, which was
    /// taken back and which a host that lags sees only now.
    pub(super) async fn have_all(
        &mut self,
        names: [&str; 2],
        (id, mark): (i64, i64),
        patience: Duration,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        self.have_renamed(names, patience, &tell).await?;
        // Marks come under the old name: under the new one, this is what was renamed now.
        self.until_all(patience, &Fact::HasMark { schema: names[1], id, mark }, tell).await
    }

    /// Waits until each shows a schema as a home, without the comment of a copy.
    pub(super) async fn have_unsealed(
        &mut self,
        schema: &str,
        comment: &str,
        patience: Duration,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        self.until_all(patience, &Fact::IsUnsealed { schema, comment }, tell).await
    }

    /// The primary that we are connected to is the only one.
    fn is_alone(&self) -> bool {
        self.side.dsn.hosts().len() < 2
    }

    async fn until_all(
        &mut self,
        patience: Duration,
        fact: &Fact<'_>,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let began = Instant::now();
        let mut told = None;
        loop {
            // Writers may be waiting for the answer: nobody takes longer than the patience for all.
            let left = patience.saturating_sub(began.elapsed()).max(COME_AGAIN);
            let Some(missing) = self.first_without(fact, left.min(ANSWER)).await else {
                return Ok(());
            };
            if self.side.watch.is_lost() {
                // It may have failed over: what is waited for may never come, and the facts are to be looked at again.
                let lost = Error::new(Kind::Unavailable, "the connection was lost");
                return Err(lost.at(&self.side.name));
            }
            let Missing { address, reason, is_lost } = missing;
            let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
            let waits = format!("{}: host {address} has still to {fact}{reason}", self.side.name);
            if began.elapsed() > patience {
                return Err(Error::new(Kind::Timeout, waits)
                    .hint("bring it back or take it out of the instance's address, then resume"));
            }
            if began.elapsed() > COME_AGAIN && told.as_ref() != Some(&waits) {
                tell(&waits);
                told = Some(waits);
            }
            if is_lost {
                sleep(COME_AGAIN).await;
                // Who has not come by then is as lost as before.
                let _ = timeout(left, self.come_again()).await;
            } else {
                sleep(ASK_AGAIN).await;
            }
        }
    }

    /// Asks one after the other, up to the first that does not have it.
    async fn first_without(&mut self, fact: &Fact<'_>, limit: Duration) -> Option<Missing> {
        for host in &mut self.reached {
            let asked = match &host.client {
                Ok(client) => match timeout(limit, fact.holds(client)).await {
                    Ok(Ok(Some(true))) => continue,
                    Ok(Ok(Some(false))) => Ok(None),
                    Ok(Ok(None)) => Ok(Some("it is another primary".to_owned())),
                    Ok(Err(error)) => Err(statement_failure(error, "cannot ask it")),
                    Err(_) if limit < ANSWER => Ok(Some("it has not answered yet".to_owned())),
                    Err(_) => Err(Error::new(Kind::Timeout, "it does not answer")),
                },
                Err(error) => Err(error.clone()),
            };
            let (address, is_lost) = (host.address.clone(), asked.is_err());
            let reason = asked.unwrap_or_else(|error| {
                let reason = error.to_string();
                host.client = Err(error);
                Some(reason)
            });
            return Some(Missing { address, reason, is_lost });
        }
        None
    }

    /// Logs in where that has not worked yet, or not lasted.
    async fn come_again(&mut self) {
        if self.is_alone() {
            return;
        }
        let mut came = Vec::new();
        for (name, port, client) in self.connector.connect_each(&self.side.dsn).await {
            let address = format!("{name}:{port}");
            if self.reached.iter().any(|host| host.address == address && host.client.is_ok()) {
                continue;
            }
            let client = match client {
                Ok(client) => self.side.identity.greet(&client, "").await.map(|_| client),
                Err(error) => Err(error),
            };
            came.push(Host { address, client });
        }
        // All at once: a host that is missing here would be waited for by nobody, and the wait may be given up above.
        self.reached.retain(|host| host.client.is_ok());
        self.reached.extend(came);
    }
}
