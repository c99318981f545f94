//! The first rows of many shards, in an order of the caller's: a merge that fetches little more than it returns.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use futures_util::future::join_all;
use futures_util::stream;
use postgres_types::ToSql;
use tokio_postgres::Row;

use super::Cluster;
use super::policy::Policy;
use super::reading::{Reading, Target};
use super::scatter::Scatter;
use super::stream::{Progress, ShardStream};
use crate::error::Kind;
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// The most rows of a shard that are fetched at once.
const MAX_BATCH: usize = 500;

/// A merge that is not begun.
struct Plan<'a, F> {
    shards: Shards<'a>,
    key: F,
    limit: usize,
}

/// What to read.
struct Shards<'a> {
    cluster: Cluster,
    statement: Statement,
    targets: Vec<(ShardId, Vec<&'a (dyn ToSql + Sync)>)>,
    policy: Policy,
    progress: Progress,
}

struct Merging<K, F> {
    readings: Vec<Reading>,
    sources: Vec<Source>,
    /// The first row of each source that has one.
    heads: BinaryHeap<Head<K>>,
    /// The source and key of the row that was returned last: its next one is not among the heads yet.
    taken: Option<(usize, K)>,
    left: usize,
    key: F,
    policy: Policy,
    progress: Progress,
}

/// One shard's rows.
struct Source {
    shard: ShardId,
    reading: usize,
    cursor: usize,
    buffered: VecDeque<Row>,
    /// How many rows to fetch next time; doubled each time.
    batch: usize,
    over: bool,
}

struct Head<K> {
    key: K,
    source: usize,
    row: Row,
}

impl<'a> Scatter<'a> {
    /// The first `limit` rows of all shards together, in the order of a key that `key` reads from a row; the least
    /// first ([`std::cmp::Reverse`] turns that round).
    ///
    /// The statement must return its rows in that order; a shard that does not is an error, and never a wrong merge. It
    /// needs no limit of its own: each shard has a cursor, of which few rows are fetched at first, and more only
    /// where they are wanted. Rows with equal keys come in the order of their shards. Where the key is text, order it by bytes, as
    /// Rust does: `ORDER BY name COLLATE "C"`.
    ///
    /// All shards of an instance are read as they are at one moment, over one connection to it, in a transaction that
    /// is open until the stream has ended or is dropped. With [`Scatter::partial`], a shard that cannot be reached, or is
    /// lost half-way, is named by [`ShardStream::missing`], and none of its rows follow. [`Scatter::timeout`] does not limit a
    /// stream.
    ///
    /// For pages of the newest rows [`Scatter::page`] is far cheaper: this plans the statement anew for each
    /// shard, each time.
    ///
    /// # Panics
    ///
    /// The stream does when `key` does, as [`Row::get`] for a column that is not there.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::cmp::Reverse;
    /// # use howdah::{Cluster, Id, Statement};
    ///
    /// const LIKED: Statement = Statement::new("SELECT id, likes FROM {shard}.photos ORDER BY likes DESC, id");
    ///
    /// # async fn example(cluster: Cluster) -> howdah::Result<()> {
    /// let by_likes = |row: &howdah::postgres::Row| (Reverse(row.get::<_, i64>("likes")), row.get::<_, Id>("id"));
    /// let mut top = cluster.scatter(&LIKED).all(&[]).merge(10, by_likes);
    /// while let Some(row) = top.next().await {
    ///     println!("{:?}", row?.get::<_, Id>("id"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge<K, F>(self, limit: usize, key: F) -> ShardStream<'a, Row>
    where
        K: Ord + Send + 'a,
        F: Fn(&Row) -> K + Send + 'a,
    {
        if let Err(twice) = self.refuse_twice() {
            return ShardStream::failed(twice);
        }
        let progress = Progress::default();
        let (cluster, statement, policy) =
            (self.cluster.clone(), self.statement.clone(), self.policy);
        let targets = self.into_targets();
        let shards = Shards { cluster, statement, targets, policy, progress: progress.clone() };
        let plan = Plan { shards, key, limit };
        let rows = stream::try_unfold(Step::Begin(plan), Step::next);
        ShardStream::new(rows, progress)
    }
}

enum Step<'a, K, F> {
    Begin(Plan<'a, F>),
    Going(Merging<K, F>),
}

impl<K: Ord, F: Fn(&Row) -> K> Step<'_, K, F> {
    async fn next(self) -> Result<Option<(Row, Self)>> {
        let mut merging = match self {
            Self::Begin(plan) => Box::pin(plan.begin()).await?,
            Self::Going(merging) => merging,
        };
        match merging.next().await? {
            Some(row) => Ok(Some((row, Self::Going(merging)))),
            None => {
                merging.close().await;
                Ok(None)
            }
        }
    }
}

impl<F> Plan<'_, F> {
    async fn begin<K: Ord>(self) -> Result<Merging<K, F>>
    where
        F: Fn(&Row) -> K,
    {
        let readings = self.shards.open().await?;
        // Twice its share of each shard: the most likely to be enough, and little too much.
        let shards: usize = readings.iter().map(|reading| reading.shards().len()).sum();
        let batch = (self.limit.saturating_mul(2) / shards.max(1)).clamp(1, MAX_BATCH);
        let mut sources = Vec::with_capacity(shards);
        for (number, reading) in readings.iter().enumerate() {
            for (cursor, shard) in reading.shards().iter().enumerate() {
                let (shard, buffered) = (*shard, VecDeque::new());
                sources.push(Source {
                    shard,
                    reading: number,
                    cursor,
                    buffered,
                    batch,
                    over: false,
                });
            }
        }
        // In the order of the shards, which decides among equals.
        sources.sort_by_key(|source| source.shard);
        let mut merging = Merging {
            readings,
            sources,
            heads: BinaryHeap::with_capacity(shards),
            taken: None,
            left: self.limit,
            key: self.key,
            policy: self.shards.policy,
            progress: self.shards.progress,
        };
        merging.fill().await?;
        Ok(merging)
    }
}

impl Shards<'_> {
    /// All cursors at once, or, where shards may be gone without, those of each instance by themselves.
    async fn open(&self) -> Result<Vec<Reading>> {
        let targets: Vec<Target<'_>> =
            self.targets.iter().map(|(shard, params)| (*shard, params.as_slice())).collect();
        if !self.policy.partial {
            return Reading::of_shards(&self.cluster, &self.statement, &targets).await;
        }
        let snapshot = self.cluster.snapshot();
        let mut readings = Vec::new();
        for name in snapshot.instances.keys() {
            let lives_here =
                |shard| snapshot.map.home(shard).is_ok_and(|home| home.instance() == name);
            let here: Vec<_> =
                targets.iter().copied().filter(|(shard, _)| lives_here(*shard)).collect();
            let opened = Reading::of_shards(&self.cluster, &self.statement, &here).await;
            match self.policy.judge(opened)? {
                Some(opened) => readings.extend(opened),
                None => here.iter().for_each(|(shard, _)| self.progress.miss(*shard)),
            }
        }
        Ok(readings)
    }
}

impl<K: Ord, F: Fn(&Row) -> K> Merging<K, F> {
    async fn next(&mut self) -> Result<Option<Row>> {
        if self.left == 0 {
            return Ok(None);
        }
        if let Some((source, last)) = self.taken.take() {
            if self.sources[source].buffered.is_empty() {
                self.fetch(source).await?;
            }
            self.advance(source, Some(&last))?;
        }
        let Some(Head { key, source, row }) = self.heads.pop() else { return Ok(None) };
        self.taken = Some((source, key));
        self.left -= 1;
        Ok(Some(row))
    }

    /// Fetches the first rows of all sources, side by side.
    async fn fill(&mut self) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let readings = &self.readings;
        let fetched = self
            .sources
            .iter()
            .map(|source| readings[source.reading].fetch(source.cursor, source.batch));
        let fetched: Vec<_> = join_all(fetched).await;
        for (source, rows) in fetched.into_iter().enumerate() {
            self.take(source, rows)?;
            self.advance(source, None)?;
        }
        Ok(())
    }

    async fn fetch(&mut self, number: usize) -> Result<()> {
        let source = &mut self.sources[number];
        if source.over {
            return Ok(());
        }
        source.batch = (source.batch * 2).min(MAX_BATCH).min(self.left);
        let rows = self.readings[source.reading].fetch(source.cursor, source.batch).await;
        self.take(number, rows)
    }

    fn take(&mut self, number: usize, rows: Result<Vec<Row>>) -> Result<()> {
        let source = &mut self.sources[number];
        match self.policy.judge(rows)? {
            Some(rows) => {
                source.over = rows.len() < source.batch;
                if source.over {
                    self.progress.finish(source.shard);
                }
                source.buffered.extend(rows);
            }
            None => {
                source.over = true;
                self.progress.miss(source.shard);
            }
        }
        Ok(())
    }

    /// Makes the next row of a source a head. It must not come before the last one.
    fn advance(&mut self, source: usize, last: Option<&K>) -> Result<()> {
        let Some(row) = self.sources[source].buffered.pop_front() else { return Ok(()) };
        let key = (self.key)(&row);
        if last.is_some_and(|last| key < *last) {
            let shard = self.sources[source].shard;
            let text =
                format!("shard {shard} returned its rows in another order than that of the key");
            return Err(Error::new(Kind::Rows, text).with_outcome(Outcome::Failed).hint(
                "the statement's ORDER BY and the key must agree; text is compared by bytes",
            ));
        }
        self.heads.push(Head { key, source, row });
        Ok(())
    }

    async fn close(self) {
        join_all(self.readings.into_iter().map(Reading::close)).await;
    }
}

impl<K: Ord> Ord for Head<K> {
    /// Turned round: the heap has its greatest at the top.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key).then_with(|| other.source.cmp(&self.source))
    }
}

impl<K: Ord> PartialOrd for Head<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> Eq for Head<K> {}

impl<K: Ord> PartialEq for Head<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
