//! Many rows by their ids, wherever they are.
//!
//! The ids are sorted by shard, which groups them, drops repetitions and lets each shard look them up in order; each
//! shard is asked for its own by one statement. All statements for an instance are under way together, on its
//! [pipelines](crate::pool), so the whole takes about as long as one round trip and the server's work.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use postgres_types::ToSql;
use tokio_postgres::Row;

use super::Cluster;
use super::policy::Policy;
use crate::error::Kind;
use crate::id::{Id, Layout};
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// The most ids in one call: the rows are held in memory.
const MAX_IDS: usize = 100_000;
/// The most ids in one statement, so that no pipeline is held up for long by one of them.
const CHUNK: usize = 1_000;
/// The most statements under way at once on one instance: enough that it never waits for us, and not so many that all
/// its pipelines are full of them.
const IN_FLIGHT: usize = 64;

/// A read of many rows by their ids; made by [`Cluster::get_many`], done when awaited.
#[must_use = "a read does nothing until it is awaited"]
pub struct GetMany<'a> {
    cluster: Cluster,
    statement: Statement,
    ids: &'a [Id],
    key: Option<&'a str>,
    params: Vec<&'a (dyn ToSql + Sync)>,
    policy: Policy,
}

/// The rows of many ids, from [`Cluster::get_many`].
pub struct Found {
    /// The shards that could not be reached, in order; empty unless [`GetMany::partial`] was asked for.
    pub missing: Vec<ShardId>,
    layout: Layout,
    asked: Vec<Id>,
    /// Each id once, by shard and then by id.
    wanted: Vec<Id>,
    /// The row of each wanted one.
    rows: Vec<Option<Row>>,
}

/// Ids of one shard that are asked for together.
struct Chunk {
    shard: ShardId,
    range: Range<usize>,
}

impl Cluster {
    /// The rows of many ids, from whatever shards they are on, in the order asked.
    ///
    /// The statement takes the ids of a shard as `$1`, a `bigint[]`, and returns at most one row for each, with the id in
    /// its first column or in the one that [`GetMany::key`] names. An id may be asked for more than once.
    ///
    /// # Cost
    ///
    /// One statement for each shard that has any of the ids, and a thousand ids in one at most. They are sent to all
    /// instances at once, without waiting for one another, so that the time is about that of one round trip. Each
    /// statement is prepared once for each shard; `statement_cache` should hold as many as there are shards to a pipeline.
    ///
    /// # Errors
    ///
    /// When there are more than 100,000 ids; when the statement returns a row that was not asked for, or two of one id;
    /// else the first that any shard has, but for those that [`GetMany::partial`] goes without.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use howdah::{Cluster, Id, Statement};
    ///
    /// const BY_IDS: Statement = Statement::new("SELECT id, caption FROM {shard}.photos WHERE id = ANY($1)");
    ///
    /// # async fn example(cluster: Cluster, ids: &[Id]) -> howdah::Result<()> {
    /// let photos = cluster.get_many(&BY_IDS, ids).await?;
    /// for (id, row) in photos.iter() {
    ///     match row {
    ///         Some(row) => println!("{id}: {}", row.get::<_, &str>("caption")),
    ///         None => println!("{id}: gone"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many<'a>(&self, statement: &Statement, ids: &'a [Id]) -> GetMany<'a> {
        let (cluster, statement) = (self.clone(), statement.clone());
        let (key, params, policy) = (None, Vec::new(), Policy::default());
        GetMany { cluster, statement, ids, key, params, policy }
    }
}

impl<'a> GetMany<'a> {
    /// The column that holds the id. Default: the first.
    pub fn key(mut self, column: &'a str) -> Self {
        self.key = Some(column);
        self
    }

    /// What the statement takes after the ids: `$2` and on, the same for every shard.
    pub fn params(mut self, params: &[&'a (dyn ToSql + Sync)]) -> Self {
        self.params = params.to_vec();
        self
    }

    /// Goes on without shards that cannot be reached, and names them in [`Found::missing`]. Without it the first one
    /// fails the whole.
    pub fn partial(mut self) -> Self {
        self.policy.partial = true;
        self
    }

    /// The time that the whole may take. Default: none but the configuration's for each phase.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Found> {
        if self.ids.len() > MAX_IDS {
            return Err(Error::input(format!("{} ids at once", self.ids.len()))
                .hint(format!("ask for up to {MAX_IDS}, and several times")));
        }
        let policy = self.policy.begin();
        let mut found = Found::new(self.cluster.layout(), self.ids);
        let instances = self.chunks(&found);
        let asked = instances.iter().map(|chunks| self.ask_instance(chunks, &found.wanted, policy));
        let answers = try_join_all(asked).await?;
        for (chunk, rows) in answers.into_iter().flatten() {
            match rows {
                Some(rows) => found.take(chunk.range.clone(), rows, self.key)?,
                None => found.missing.push(chunk.shard),
            }
        }
        found.missing.sort_unstable();
        found.missing.dedup();
        Ok(found)
    }

    /// What to ask each instance for.
    fn chunks(&self, found: &Found) -> Vec<Vec<Chunk>> {
        let snapshot = self.cluster.snapshot();
        let mut instances = Vec::new();
        let mut by_name = std::collections::BTreeMap::new();
        let mut start = 0;
        for ids in found.wanted.chunk_by(|one, other| found.shard(*one) == found.shard(*other)) {
            let shard = found.shard(ids[0]);
            let end = start + ids.len();
            // An id of a shard that this cluster does not have has no row.
            if let Ok(home) = snapshot.map.home(shard) {
                let number = *by_name.entry(home.instance()).or_insert_with(|| {
                    instances.push(Vec::new());
                    instances.len() - 1
                });
                let starts = (start..end).step_by(CHUNK);
                let chunk = |start| Chunk { shard, range: start..end.min(start + CHUNK) };
                instances[number].extend(starts.map(chunk));
            }
            start = end;
        }
        instances
    }

    async fn ask_instance<'c>(
        &self,
        chunks: &'c [Chunk],
        wanted: &[Id],
        policy: Policy,
    ) -> Result<Vec<(&'c Chunk, Option<Vec<Row>>)>> {
        let mut waiting = chunks.iter();
        let mut asked = FuturesUnordered::new();
        let mut answers = Vec::with_capacity(chunks.len());
        loop {
            while asked.len() < IN_FLIGHT
                && let Some(chunk) = waiting.next()
            {
                asked.push(self.ask(chunk, &wanted[chunk.range.clone()], policy));
            }
            let Some(answer) = asked.next().await else { return Ok(answers) };
            answers.push(answer?);
        }
    }

    async fn ask<'c>(
        &self,
        chunk: &'c Chunk,
        ids: &[Id],
        policy: Policy,
    ) -> Result<(&'c Chunk, Option<Vec<Row>>)> {
        let mut params: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(1 + self.params.len());
        params.push(&ids);
        params.extend(&self.params);
        let shard = policy.limit(self.cluster.shard(chunk.shard)?);
        Ok((chunk, policy.judge(shard.query(&self.statement, &params).await)?))
    }
}

impl<'a> IntoFuture for GetMany<'a> {
    type Output = Result<Found>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Found>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for GetMany<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetMany")
            .field("statement", &self.statement)
            .field("ids", &self.ids.len())
            .field("partial", &self.policy.partial)
            .finish_non_exhaustive()
    }
}

impl Found {
    fn new(layout: Layout, asked: &[Id]) -> Self {
        let mut wanted = asked.to_vec();
        wanted.sort_unstable_by_key(|id| (layout.shard_of(*id), *id));
        wanted.dedup();
        let rows = wanted.iter().map(|_| None).collect();
        Self { missing: Vec::new(), layout, asked: asked.to_vec(), wanted, rows }
    }

    fn shard(&self, id: Id) -> ShardId {
        self.layout.shard_of(id)
    }

    /// Puts the rows of a chunk to their ids.
    fn take(&mut self, range: Range<usize>, rows: Vec<Row>, key: Option<&str>) -> Result<()> {
        let wrong = |what: String| Error::new(Kind::Rows, what).with_outcome(Outcome::Failed);
        for row in rows {
            let id: Result<Id, _> = match key {
                Some(column) => row.try_get(column),
                None => row.try_get(0),
            };
            let id = id.map_err(|error| {
                wrong("a row has no id".to_owned())
                    .because(error)
                    .hint("return it in the first column, or name its column with `key`")
            })?;
            let place = self.wanted[range.clone()].binary_search(&id);
            let place = place.map_err(|_| wrong(format!("row {id} was not asked for")))?;
            let place = &mut self.rows[range.start + place];
            if place.replace(row).is_some() {
                return Err(wrong(format!("two rows have the id {id}")));
            }
        }
        Ok(())
    }

    fn place(&self, id: Id) -> Option<usize> {
        let by = (self.shard(id), id);
        self.wanted.binary_search_by_key(&by, |wanted| (self.shard(*wanted), *wanted)).ok()
    }

    /// The row of an id; `None` when there is none, or its shard is [missing](Found::missing).
    #[must_use]
    pub fn get(&self, id: Id) -> Option<&Row> {
        self.rows[self.place(id)?].as_ref()
    }

    /// Every id in the order asked, as often as it was, with its row.
    pub fn iter(&self) -> impl Iterator<Item = (Id, Option<&Row>)> {
        self.asked.iter().map(|id| (*id, self.get(*id)))
    }

    /// The ids that have no row, in the order asked, each once. Those of a [missing](Found::missing) shard are not
    /// among them: nobody knows.
    #[must_use]
    pub fn absent(&self) -> Vec<Id> {
        self.without_row(|shard| self.missing.binary_search(&shard).is_err())
    }

    /// The ids of [missing](Found::missing) shards, in the order asked, each once.
    #[must_use]
    pub fn unknown(&self) -> Vec<Id> {
        self.without_row(|shard| self.missing.binary_search(&shard).is_ok())
    }

    fn without_row(&self, on: impl Fn(ShardId) -> bool) -> Vec<Id> {
        let mut told = vec![false; self.wanted.len()];
        let is_new = |id: &Id| {
            self.place(*id).is_some_and(|place| {
                self.rows[place].is_none() && !std::mem::replace(&mut told[place], true)
            })
        };
        self.asked.iter().copied().filter(is_new).filter(|id| on(self.shard(*id))).collect()
    }

    /// The rows that were found, in the order asked, each once.
    #[must_use]
    pub fn into_rows(mut self) -> Vec<Row> {
        let asked = std::mem::take(&mut self.asked);
        asked
            .iter()
            .filter_map(|id| self.place(*id).and_then(|place| self.rows[place].take()))
            .collect()
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("asked", &self.asked.len())
            .field("found", &self.rows.iter().flatten().count())
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}
