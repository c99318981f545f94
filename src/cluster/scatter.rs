//! One read over many shards.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use postgres_types::ToSql;
use tokio_postgres::Row;

use super::Cluster;
use super::deadline::Deadline;
use super::page::{Cursor, Merge, Page, Part};
use super::policy::Policy;
use super::union::{Group, Union};
use crate::pool::Params;
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Result};

/// How many shards, or groups of them, are asked at once; each instance's pool has a bound of its own.
const CONCURRENCY: usize = 32;

/// A read over many shards, from [`Cluster::scatter`].
///
/// Every shard is asked at most once, a bounded number at a time. The rows are not of one moment: each shard answers
/// with what it has committed when it is asked.
///
/// | | for | in memory |
/// | --- | --- | --- |
/// | [`rows`](Scatter::rows) | a few rows of each shard | all of them |
/// | [`page`](Scatter::page) | the newest rows of all, page after page | a page |
/// | [`count`](Scatter::count), [`sum`](Scatter::sum), [`min`](Scatter::min), [`max`](Scatter::max), [`average`](Scatter::average) | one value out of each shard's | the values |
/// | [`stream`](Scatter::stream) | more rows than fit into memory, in any order | some batches |
/// | [`merge`](Scatter::merge) | the first rows in an order of one's own | some rows of each shard |
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
#[must_use = "a read does nothing until one of its results is awaited"]
pub struct Scatter<'a> {
    pub(super) cluster: Cluster,
    pub(super) statement: Statement,
    /// Every shard, with the same parameters.
    all: Option<Vec<&'a (dyn ToSql + Sync)>>,
    /// Shards with parameters of their own.
    some: Vec<Target<'a>>,
    /// The statement of a page takes the least key to look for.
    takes_floor: bool,
    pub(super) policy: Policy,
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

/// Whom to ask for a part of a page, with which parameters, and below which key.
struct Ask<'s, 'a> {
    whom: Whom<'s>,
    params: &'s [&'a (dyn ToSql + Sync)],
    bound: i64,
}

/// What all are asked for a page.
#[derive(Clone, Copy)]
struct Wanted<'c> {
    start: &'c Cursor,
    limit: usize,
    /// One row more than the limit: it tells whether there is a next page.
    fetch: i64,
    key: &'c str,
    /// The least key to look for.
    floor: i64,
}

enum Whom<'s> {
    Shard(ShardId),
    Group(&'s Union, &'s Group),
}

impl<'a> Scatter<'a> {
    pub(super) fn new(cluster: Cluster, statement: Statement) -> Self {
        Self {
            cluster,
            statement,
            all: None,
            some: Vec::new(),
            takes_floor: false,
            policy: Policy::default(),
        }
    }

    /// Asks every shard of the cluster, with the same parameters.
    pub fn all(mut self, params: &[&'a (dyn ToSql + Sync)]) -> Self {
        self.all = Some(params.to_vec());
        self.some.clear();
        self
    }

    /// Asks one more shard, with parameters of its own. A shard that is asked twice is an error.
    pub fn shard(mut self, shard: ShardId, params: &[&'a (dyn ToSql + Sync)]) -> Self {
        self.some.push(Target { shard, params: params.to_vec() });
        self
    }

    /// Goes on without shards that cannot be reached, and names them. Without it the first one fails the whole.
    ///
    /// Only a shard is gone without that is [unavailable](Error::is_unavailable) and has [not executed](crate::Outcome::NotExecuted)
    /// the read. Any other error fails the whole, such as that of a statement which ran into its `statement_timeout`.
    pub fn partial(mut self) -> Self {
        self.policy.partial = true;
        self
    }

    /// The time that the whole may take. Default: none but the configuration's for each phase.
    ///
    /// A shard that has not answered by then counts as one that could not be reached; so do those that shared its statement,
    /// on a page.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = Some(timeout);
        self
    }

    /// The statement of a [page](Scatter::page) takes one parameter more, the last: the least key to look for, a `bigint`.
    ///
    /// PostgreSQL reads a leaf of an index to its end, hundreds of keys for the one or two rows that a shard adds to a page. A
    /// statement that says where to stop takes about two thirds of the time. The key is guessed from the page before, where
    /// [all](Scatter::all) shards are asked; a page for which the guess was too high is read again without, so it pays where keys
    /// come at a steady rate, as ids do.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use howdah::{Cluster, Statement};
    ///
    /// const RECENT: Statement = Statement::new(
    ///     "SELECT id, caption FROM {shard}.photos WHERE id < $1 AND id >= $3 ORDER BY id DESC LIMIT $2");
    ///
    /// # async fn example(cluster: Cluster) -> howdah::Result<()> {
    /// let page = cluster.scatter(&RECENT).all(&[]).takes_floor().page("id", None, 50).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn takes_floor(mut self) -> Self {
        self.takes_floor = true;
        self
    }

    /// All rows of all shards.
    ///
    /// # Errors
    ///
    /// The first that any shard has, but for those that [`Scatter::partial`] goes without; when a shard is asked twice.
    pub async fn rows(self) -> Result<Gathered> {
        let (answers, missing) = self.answers().await?;
        let of_shard =
            |(shard, rows): (ShardId, Vec<Row>)| rows.into_iter().map(move |row| (shard, row));
        Ok(Gathered { rows: answers.into_iter().flat_map(of_shard).collect(), missing })
    }

    /// One page of rows, newest first: ordered by a key that falls, and merged over the shards.
    ///
    /// The statement must take two more parameters after those given to it: the key below which to start (a `bigint`,
    /// exclusive) and how many rows to return at most (a `bigint`); with [`Scatter::takes_floor`], also the least key to look
    /// for. It must order by that key, descending. `key` is the name of its column, a `bigint` that no two rows share, such as
    /// an id.
    ///
    /// The pages stay right while rows are added: a row that was there when the first page was read is
    /// returned exactly once, and newer ones do not shift the others. A shard that cannot be reached, where [`Scatter::partial`]
    /// allows it, keeps its own position in [`Page::next`]: when it is back, its rows follow on the next page, later
    /// than they would have, but none is skipped.
    ///
    /// # Cost
    ///
    /// Where [all](Scatter::all) shards are asked, one statement for each 32 of an instance, which the server merges and cuts
    /// off at about `limit` rows, on page 200 as on page 1; up to 32 statements are under way at once. Shards with parameters
    /// of their own are asked side by side, each for up to `limit` rows.
    ///
    /// # Errors
    ///
    /// As [`Scatter::rows`]; when the limit is 0, or the key's column is missing or no `bigint`.
    pub async fn page(self, key: &str, cursor: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.refuse_twice()?;
        let start = cursor.cloned().unwrap_or_default();
        let fetch = i64::try_from(limit).ok().filter(|limit| (1..i64::MAX).contains(limit));
        let fetch = fetch.ok_or_else(|| Error::input("a page has at least one row"))? + 1;
        let policy = self.policy.begin();
        let union = self.all.as_ref().map(|_| self.cluster.union(&self.statement, key, limit));
        let reach = union.as_deref().filter(|_| self.takes_floor).map(Union::reach);
        let floor = reach.map_or(0, |reach| reach.floor(start.lowest()));
        let mut wanted = Wanted { start: &start, limit, fetch, key, floor };
        let mut merge = self.merge_page(union.as_deref(), wanted, policy).await?;
        let mut ends = merge.ends_if_full();
        if floor > 0 && ends.is_none() {
            wanted.floor = 0;
            merge = self.merge_page(union.as_deref(), wanted, policy).await?;
            ends = merge.ends_if_full();
        }
        match (reach, ends) {
            (Some(reach), Some(ends)) => reach.learn(start.lowest(), ends),
            (Some(reach), None) => reach.forget(),
            (None, _) => {}
        }
        Ok(merge.into_page())
    }

    /// Asks all, and puts together what they answer.
    async fn merge_page<'c>(
        &self,
        union: Option<&Union>,
        wanted: Wanted<'c>,
        policy: Policy,
    ) -> Result<Merge<'c, Row>> {
        let mut waiting = self.asks(union, wanted.start);
        let mut merge = Merge::new(wanted.start, wanted.limit);
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < CONCURRENCY
                && let Some(ask) = waiting.pop()
            {
                asked.push(self.ask_for_page(ask, wanted, policy));
            }
            let Some(answer) = asked.next().await else { return Ok(merge) };
            match answer? {
                (ask, Some(rows)) => {
                    merge.add(Part::new(ask.whom.shards(), policy.judge(rows)?, wanted.key)?)
                }
                (ask, None) => waiting.extend(ask.apart()),
            }
        }
    }

    /// A cursor knows one position for each shard, and what was counted twice would be wrong.
    pub(super) fn refuse_twice(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        match self.some.iter().find(|one| self.all.is_some() || !seen.insert(one.shard)) {
            None => Ok(()),
            Some(twice) => Err(Error::input(format!("shard {} is asked twice", twice.shard))
                .hint("give the statement all that it needs there at once, such as an array")),
        }
    }

    /// Whom to ask for a page. A shard whose rows are all returned has nothing below its position.
    fn asks<'s>(&'s self, union: Option<&'s Union>, start: &Cursor) -> Vec<Ask<'s, 'a>> {
        let mut asks = Vec::new();
        if let (Some(union), Some(params)) = (union, &self.all) {
            for group in union.groups() {
                let bounds = group.shards().iter().map(|shard| start.position(*shard));
                match bounds.clone().min().filter(|least| bounds.clone().all(|one| one == *least)) {
                    Some(bound) => {
                        asks.push(Ask { whom: Whom::Group(union, group), params, bound })
                    }
                    // Some were read further than others.
                    None => asks.extend(group.shards().iter().map(|shard| {
                        let bound = start.position(*shard);
                        Ask { whom: Whom::Shard(*shard), params, bound }
                    })),
                }
            }
        }
        asks.extend(self.some.iter().map(|target| {
            let bound = start.position(target.shard);
            Ask { whom: Whom::Shard(target.shard), params: &target.params, bound }
        }));
        asks.retain(|ask| ask.bound > 0);
        asks
    }

    /// One part of a page; no answer where the shards of a group have to be asked one by one.
    async fn ask_for_page<'s>(
        &self,
        ask: Ask<'s, 'a>,
        wanted: Wanted<'_>,
        policy: Policy,
    ) -> Result<(Ask<'s, 'a>, Option<Result<Vec<Row>>>)> {
        let mut params: Vec<&(dyn ToSql + Sync)> = ask.params.to_vec();
        params.extend([&ask.bound as &(dyn ToSql + Sync), &wanted.fetch]);
        if self.takes_floor {
            params.push(&wanted.floor);
        }
        let answer = match &ask.whom {
            Whom::Shard(shard) => {
                let shard = policy.limit(self.cluster.shard(*shard)?);
                Some(shard.query(&self.statement, &params).await)
            }
            Whom::Group(union, group) => {
                let read = pin!(async { Ok(self.cluster.read_union(union, group, &params).await) });
                let deadline = Deadline::new(group.shards()[0], policy.left());
                match deadline.before_sending(read).await {
                    Ok(answer) => answer,
                    Err(late) => Some(Err(late)),
                }
            }
        };
        drop(params);
        Ok((ask, answer))
    }

    /// What each shard answers, in the order of the shards, and those that [`Scatter::partial`] goes without.
    pub(super) async fn answers(&self) -> Result<(Vec<(ShardId, Vec<Row>)>, Vec<ShardId>)> {
        self.refuse_twice()?;
        let policy = self.policy.begin();
        let mut targets = self.targets();
        let mut asked = FuturesUnordered::new();
        let (mut answers, mut missing) = (Vec::new(), Vec::new());
        loop {
            while asked.len() < CONCURRENCY
                && let Some((shard, params)) = targets.next()
            {
                asked.push(self.ask(shard, params, policy));
            }
            let Some(answer) = asked.next().await else { break };
            match answer? {
                (shard, Some(rows)) => answers.push((shard, rows)),
                (shard, None) => missing.push(shard),
            }
        }
        answers.sort_by_key(|(shard, _)| *shard);
        missing.sort_unstable();
        Ok((answers, missing))
    }

    /// Every shard to ask, with its parameters.
    pub(super) fn targets(&self) -> impl Iterator<Item = (ShardId, Params<'_>)> + Send {
        let count = self.cluster.snapshot().map.count();
        let all = self.all.as_deref().into_iter();
        let all = all.flat_map(move |params| count.iter().map(move |shard| (shard, params)));
        all.chain(self.some.iter().map(|target| (target.shard, target.params.as_slice())))
    }

    /// Every shard to ask, with its parameters, for who outlives this.
    pub(super) fn into_targets(self) -> Vec<(ShardId, Vec<&'a (dyn ToSql + Sync)>)> {
        let count = self.cluster.snapshot().map.count();
        let all = self.all.into_iter();
        let all = all.flat_map(|params| count.iter().map(move |shard| (shard, params.clone())));
        all.chain(self.some.into_iter().map(|target| (target.shard, target.params))).collect()
    }

    async fn ask(
        &self,
        shard: ShardId,
        params: Params<'_>,
        policy: Policy,
    ) -> Result<(ShardId, Option<Vec<Row>>)> {
        let asked = policy.limit(self.cluster.shard(shard)?);
        Ok((shard, policy.judge(asked.query(&self.statement, params).await)?))
    }
}

impl<'s, 'a> Ask<'s, 'a> {
    /// The same for each shard of a group.
    fn apart(self) -> impl Iterator<Item = Ask<'s, 'a>> {
        let Self { whom, params, bound } = self;
        let shards: &[ShardId] = match whom {
            Whom::Shard(_) => &[],
            Whom::Group(_, group) => group.shards(),
        };
        shards.iter().map(move |shard| Ask { whom: Whom::Shard(*shard), params, bound })
    }
}

impl Whom<'_> {
    fn shards(&self) -> &[ShardId] {
        match self {
            Self::Shard(shard) => std::slice::from_ref(shard),
            Self::Group(_, group) => group.shards(),
        }
    }
}

impl fmt::Debug for Scatter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scatter")
            .field("statement", &self.statement)
            .field("shards", &self.targets().count())
            .field("partial", &self.policy.partial)
            .finish_non_exhaustive()
    }
}
