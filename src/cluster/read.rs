//! Reads by policy: from the primary, from a replica that is fresh enough, or from one that has seen a write.
//!
//! A replica only ever answers, or does not: whatever goes wrong there, the primary has the last word. So a replica that
//! does not know a shard's new name yet, or a new column, or ends a query in favour of what it replays, never shows.

use std::fmt;
use std::time::Duration;

use postgres_types::ToSql;
use tokio_postgres::Row;

use super::deadline::Deadline;
use super::token::Token;
use super::{Cluster, Shard, rows};
use crate::error::Kind;
use crate::observe;
use crate::pool::{Limits, Params, Pool};
use crate::shard::Home;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// How many replicas are tried before the primary. A second one takes over while the first one's loss is not known yet.
const TRIES: usize = 2;

/// Which server may answer a read, in [`Shard::read`].
///
/// A replica never serves for longer than it satisfies this, as far as this process can tell: each is looked at once a
/// second, more often where a `max_lag` of less than four seconds is asked for. One that is lost, or was promoted, is noticed
/// within two seconds, and reads under way there are asked again elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadFrom {
    /// The primary alone.
    Primary,
    /// A replica that has everything that the primary had flushed so long ago, or a shorter time; else the primary.
    ///
    /// It is measured by this process's clock alone, between two looks at the servers, so that 200 ms is about the least
    /// that a replica can satisfy. While no primary answers, no replica can be known to be any fresher than when one last
    /// did: to read on through a failover, allow for as long as one takes. With [`Duration::MAX`] any replica will do.
    Replica {
        /// How far behind it may be.
        max_lag: Duration,
    },
    /// A replica that has everything that had been committed when the token was made. Where there is none yet, it is waited for, up
    /// to half a second; else the primary.
    ///
    /// The token of another instance, as after a move of the shard, leads to the primary.
    AtLeast(Token),
}

/// Reads of one shard by a policy; made by [`Shard::read`].
#[derive(Clone)]
pub struct Read {
    shard: Shard,
    from: ReadFrom,
    timeout: Option<Duration>,
    replicas_only: bool,
}

impl Shard {
    /// Reads from whichever server satisfies the policy.
    ///
    /// Where no replica does, or none answers well, the primary is asked.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use howdah::{Id, ReadFrom, Shard, Statement};
    /// const BY_USER: Statement =
    ///     Statement::new("SELECT id, caption FROM {shard}.photos WHERE user_id = $1");
    ///
    /// # async fn example(shard: Shard, user: Id) -> howdah::Result<()> {
    /// let from = ReadFrom::Replica { max_lag: Duration::from_secs(10) };
    /// let photos = shard.read(from).timeout(Duration::from_secs(1)).query(&BY_USER, &[&user]).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn read(&self, from: ReadFrom) -> Read {
        Read { shard: self.clone(), from, timeout: self.time_limit(), replicas_only: false }
    }
}

impl Read {
    /// A limit on the time of each call, over all servers that are asked. Default: the shard's.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Never asks the primary: where no replica satisfies the policy, that is an error, and nothing was executed. For
    /// reads that would hurt it.
    #[must_use]
    pub fn replicas_only(mut self) -> Self {
        self.replicas_only = true;
        self
    }

    /// Runs a read and collects its rows.
    ///
    /// # Errors
    ///
    /// When the statement is not provably a single read, with nothing executed: see the guide for what is. When no server can
    /// be asked, or the database refuses the statement.
    pub async fn query(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        if !statement.is_single_read() {
            return Err(Error::input(format!("{statement:?} may do more than read"))
                .hint("run it by Shard::query, on the primary"));
        }
        let deadline = Deadline::new(self.shard.id(), self.timeout);
        // Boxed because it may end in either of two large ways.
        deadline.before_sending(Box::pin(self.ask(statement, params)).as_mut()).await
    }

    /// Runs a read that returns exactly one row.
    ///
    /// # Errors
    ///
    /// As [`Read::query`]; also when there is no row, or more than one.
    pub async fn query_one(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row> {
        rows::one(self.query(statement, params).await?, statement)
    }

    /// Runs a read that returns one row or none.
    ///
    /// # Errors
    ///
    /// As [`Read::query`]; also when there is more than one row.
    pub async fn query_opt(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>> {
        rows::at_most_one(self.query(statement, params).await?, statement)
    }

    async fn ask(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>> {
        if self.from != ReadFrom::Primary {
            let cluster = self.shard.cluster();
            let on_replica = cluster.read_on_replica(&self.shard, &self.from, statement, params);
            match Box::pin(on_replica).await {
                Ok(Some(rows)) => return Ok(rows),
                Err(error) if self.replicas_only || is_final(&error) => return Err(error),
                Ok(None) if self.replicas_only => {
                    let text = format!("no replica of shard {} is fresh enough", self.shard.id());
                    return Err(Error::new(Kind::Unavailable, text));
                }
                Ok(None) | Err(_) => {}
            }
        }
        self.shard.query(statement, params).await
    }
}

/// Whether the primary would answer no better: the statement took too long, or its parameters are wrong.
fn is_final(error: &Error) -> bool {
    error.kind() == Kind::Input
        || error.kind() == Kind::Timeout && error.outcome() == Outcome::Failed
}

impl Cluster {
    /// Reads on a replica that satisfies the policy; `None` where there is none, else the last one's error.
    async fn read_on_replica(
        &self,
        shard: &Shard,
        from: &ReadFrom,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Option<Vec<Row>>> {
        let snapshot = self.snapshot();
        let (home, own) = (snapshot.map.home(shard.id())?, shard.id().index());
        let pool = self.0.pools.get(home.instance(), &snapshot)?;
        let hosts = pool.hosts();
        hosts.watch();
        let fit = match from {
            ReadFrom::Primary => Vec::new(),
            ReadFrom::Replica { max_lag } => hosts.replicas_within(*max_lag, own),
            ReadFrom::AtLeast(token) if token.instance != *home.instance() => Vec::new(),
            ReadFrom::AtLeast(token) => hosts.replicas_at(token.timeline, token.lsn, own).await,
        };
        let mut answer = Ok(None);
        for host in fit.into_iter().take(TRIES) {
            answer =
                read_there(&pool, host, shard.limits(), statement, home, params).await.map(Some);
            if answer.as_ref().is_ok() || answer.as_ref().is_err_and(is_final) {
                break;
            }
        }
        observe::replica_read(home.instance(), matches!(answer, Ok(Some(_))));
        answer.map_err(|error| error.at(home.instance()))
    }
}

/// Reads on one replica, for as long as it is one.
async fn read_there(
    pool: &Pool,
    host: usize,
    limits: Limits,
    statement: &Statement,
    home: &Home,
    params: Params<'_>,
) -> Result<Vec<Row>> {
    let replica = pool.replica(host);
    let reading = async {
        if limits.allow_pipelines()
            && let Some((rows, _)) = replica.read(statement, home, params).await
        {
            return Ok(rows);
        }
        let (rows, _) = replica.lend_within(limits).await?.run(statement, home, params).await?;
        Ok(rows)
    };
    tokio::select! {
        biased;
        rows = reading => rows,
        () = pool.hosts().lost(host) => {
            let text = format!("{} was lost as a replica", pool.hosts().target(host));
            Err(Error::new(Kind::Unavailable, text))
        }
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Read({}, {:?})", self.shard.id(), self.from)
    }
}
