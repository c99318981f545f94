//! One read over many shards.

use std::fmt;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use postgres_types::ToSql;
use tokio_postgres::Row;

use super::Cluster;
use super::page::{Cursor, Page, Part, merge};
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// How many shards are asked at once; each instance's pool has a bound of its own.
const CONCURRENCY: usize = 32;

/// A read over many shards, from [`Cluster::scatter`].
///
/// Every shard is asked at most once, a bounded number at a time. The rows are not of one moment: each shard answers
/// with what it has committed when it is asked.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Cluster, Cursor, Statement};
///
/// const RECENT: Statement = Statement::new(
///     "SELECT id, caption FROM {shard}.photos WHERE id < $1 ORDER BY id DESC LIMIT $2");
///
/// # async fn example(cluster: Cluster) -> howdah::Result<()> {
/// let first = cluster.scatter(&RECENT).all(&[]).page("id", None, 50).await?;
/// let second = cluster.scatter(&RECENT).all(&[]).page("id", first.next.as_ref(), 50).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a read does nothing until `rows` or `page` is awaited"]
pub struct Scatter<'a> {
    cluster: Cluster,
    statement: Statement,
    targets: Vec<Target<'a>>,
    partial: bool,
}

struct Target<'a> {
    shard: ShardId,
    params: Vec<&'a (dyn ToSql + Sync)>,
}

/// What a read over many shards found, from [`Scatter::rows`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Gathered {
    /// The rows, shard by shard, with the shard of each.
    pub rows: Vec<(ShardId, Row)>,
    /// The shards that could not be reached; empty unless [`Scatter::partial`] was asked for.
    pub missing: Vec<ShardId>,
}

impl<'a> Scatter<'a> {
    pub(super) fn new(cluster: Cluster, statement: Statement) -> Self {
        Self { cluster, statement, targets: Vec::new(), partial: false }
    }

    /// Asks every shard of the cluster, with the same parameters.
    pub fn all(mut self, params: &[&'a (dyn ToSql + Sync)]) -> Self {
        let shards = self.cluster.snapshot().map.count();
        let target = |shard| Target { shard, params: params.to_vec() };
        self.targets = shards.iter().map(target).collect();
        self
    }

    /// Asks one more shard, with parameters of its own.
    pub fn shard(mut self, shard: ShardId, params: &[&'a (dyn ToSql + Sync)]) -> Self {
        self.targets.push(Target { shard, params: params.to_vec() });
        self
    }

    /// Goes on without shards that cannot be reached, and names them. Without it the first one fails the whole.
    ///
    /// Only an [unavailable](Error::is_unavailable) shard is gone without; any other error fails the whole.
    pub fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// All rows of all shards.
    ///
    /// # Errors
    ///
    /// The first that any shard has, but for those that [`Scatter::partial`] goes without.
    pub async fn rows(self) -> Result<Gathered> {
        // Futures of closures that take references are `Send` for one lifetime alone, which no handler accepts.
        let mut asked = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            asked.push(self.ask(target.shard, target.params.clone()));
        }
        let mut answers: Vec<_> =
            stream::iter(asked).buffer_unordered(CONCURRENCY).try_collect().await?;
        answers.sort_by_key(|(shard, _)| *shard);
        let mut gathered = Gathered { rows: Vec::new(), missing: Vec::new() };
        for (shard, rows) in answers {
            match rows {
                Some(rows) => gathered.rows.extend(rows.into_iter().map(|row| (shard, row))),
                None => gathered.missing.push(shard),
            }
        }
        Ok(gathered)
    }

    /// One page of rows, newest first: ordered by a key that falls, and merged over the shards.
    ///
    /// The statement must take two more parameters after those given to it: the key below which to start (a `bigint`,
    /// exclusive) and how many rows to return at most (a `bigint`); and it must order by that key, descending. `key` is
    /// the name of its column, a `bigint` that no two rows share, such as an id.
    ///
    /// The pages stay right while rows are added: a row that was there when the first page was read is
    /// returned exactly once, and newer ones do not shift the others. A shard that cannot be reached, where [`Scatter::partial`]
    /// allows it, keeps its own position in [`Page::next`]: when it is back, its rows follow on the next page, later
    /// than they would have, but none is skipped.
    ///
    /// # Errors
    ///
    /// As [`Scatter::rows`]; when the limit is 0, or the key's column is missing or no `bigint`.
    pub async fn page(self, key: &str, cursor: Option<&Cursor>, limit: usize) -> Result<Page> {
        let start = cursor.cloned().unwrap_or_default();
        // One row more than asked for tells whether there is a next page.
        let fetch = i64::try_from(limit).ok().filter(|limit| (1..i64::MAX).contains(limit));
        let fetch = fetch.ok_or_else(|| Error::input("a page has at least one row"))? + 1;
        let bounds: Vec<i64> =
            self.targets.iter().map(|target| start.position(target.shard)).collect();
        let mut asked = Vec::with_capacity(self.targets.len());
        for (target, bound) in self.targets.iter().zip(&bounds) {
            // A shard whose rows are all returned has nothing below its position.
            if *bound > 0 {
                let mut params = target.params.clone();
                params.extend([bound as &(dyn ToSql + Sync), &fetch]);
                asked.push(self.ask(target.shard, params));
            }
        }
        let answers: Vec<_> =
            stream::iter(asked).buffer_unordered(CONCURRENCY).try_collect().await?;
        let mut parts = Vec::with_capacity(answers.len());
        for (shard, rows) in answers {
            parts.push(Part::new(shard, rows, key)?);
        }
        Ok(merge(&start, parts, limit))
    }

    async fn ask(
        &self,
        shard: ShardId,
        params: Vec<&(dyn ToSql + Sync)>,
    ) -> Result<(ShardId, Option<Vec<Row>>)> {
        match self.cluster.shard(shard)?.query(&self.statement, &params).await {
            Ok(rows) => Ok((shard, Some(rows))),
            // What ran into a timeout of its own was reached.
            Err(error)
                if self.partial
                    && error.is_unavailable()
                    && error.outcome() == Outcome::NotExecuted =>
            {
                Ok((shard, None))
            }
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for Scatter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scatter")
            .field("statement", &self.statement)
            .field("shards", &self.targets.len())
            .field("partial", &self.partial)
            .finish_non_exhaustive()
    }
}
