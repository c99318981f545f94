//! Rows of many shards as a stream: some shards at a time, a batch of each, and nothing is fetched before it is asked
//! for.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use postgres_types::ToSql;
use tokio_postgres::Row;

use super::Cluster;
use super::policy::Policy;
use super::reading::Reading;
use super::scatter::Scatter;
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Result};

/// How many rows of a shard are fetched at once.
const BATCH: usize = 500;
/// How many shards of an instance are read at once, on the average: each has a connection to itself meanwhile.
const LANES_PER_INSTANCE: usize = 2;

/// Something of many shards, as it comes: from [`Scatter::stream`], [`Scatter::merge`] and
/// [`Cluster::copy_out`].
///
/// A [`Stream`], and an error is its last item. Nothing is fetched ahead of who reads it but for a batch of each shard
/// under way. Dropped early, it closes its connections.
pub struct ShardStream<'a, T> {
    /// None after an error.
    items: Option<BoxStream<'a, Result<T>>>,
    progress: Progress,
}

/// How far the shards of a stream are, for whoever holds the stream.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Reached>>);

#[derive(Default)]
struct Reached {
    finished: Vec<ShardId>,
    missing: Vec<ShardId>,
}

impl Progress {
    pub(super) fn finish(&self, shard: ShardId) {
        self.lock().finished.push(shard);
    }

    pub(super) fn miss(&self, shard: ShardId) {
        self.lock().missing.push(shard);
    }

    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a, T> ShardStream<'a, T> {
    pub(super) fn new(
        items: impl Stream<Item = Result<T>> + Send + 'a,
        progress: Progress,
    ) -> Self {
        Self { items: Some(items.boxed()), progress }
    }

    /// One that has come to nothing.
    pub(super) fn failed(error: Error) -> Self
    where
        T: Send + 'a,
    {
        Self::new(stream::iter([Err(error)]), Progress::default())
    }

    /// The next item; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<T>> {
        std::future::poll_fn(|cx| self.poll_next_unpin(cx)).await
    }

    /// The shards that were read to their end so far, in order.
    #[must_use]
    pub fn finished(&self) -> Vec<ShardId> {
        in_order(&self.progress.lock().finished)
    }

    /// The shards that were gone without so far, in order: none of their rows came, or not all. Empty unless the
    /// caller allowed it.
    #[must_use]
    pub fn missing(&self) -> Vec<ShardId> {
        in_order(&self.progress.lock().missing)
    }
}

fn in_order(shards: &[ShardId]) -> Vec<ShardId> {
    let mut shards = shards.to_vec();
    shards.sort_unstable();
    shards
}

impl<T> Stream for ShardStream<'_, T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(items) = &mut self.items else { return Poll::Ready(None) };
        let item = items.poll_next_unpin(cx);
        if let Poll::Ready(Some(Err(_))) = &item {
            // The other shards' parts end here, and their connections go back.
            self.items = None;
        }
        item
    }
}

impl<T> fmt::Debug for ShardStream<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = self.progress.lock();
        f.debug_struct("ShardStream")
            .field("finished", &reached.finished.len())
            .field("missing", &reached.missing)
            .finish_non_exhaustive()
    }
}

/// One shard's part in a stream.
struct Lane<'a> {
    cluster: Cluster,
    statement: Statement,
    shard: ShardId,
    params: Vec<&'a (dyn ToSql + Sync)>,
    policy: Policy,
    progress: Progress,
    state: State,
}

enum State {
    Waiting,
    Open(Box<Reading>),
    Over,
}

impl<'a> Scatter<'a> {
    /// All rows of all shards, in no order, however many they are: a few shards at a time, 500 rows of each.
    ///
    /// Each shard is read as it is at one moment, when its turn comes, in a transaction that is open until its last row
    /// was taken: who is slow holds back the clean-up of dead rows on that server. A shard that moves meanwhile is read to its
    /// end where it was.
    ///
    /// With [`Scatter::partial`], a shard that cannot be reached, or is lost half-way, is named by
    /// [`ShardStream::missing`]. [`Scatter::timeout`] does not limit a stream, which takes as long as its reader.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use howdah::{Cluster, Id, Statement};
    /// const ALL: Statement = Statement::new("SELECT id, caption FROM {shard}.photos");
    ///
    /// # async fn example(cluster: Cluster) -> howdah::Result<()> {
    /// let mut photos = cluster.scatter(&ALL).all(&[]).stream();
    /// while let Some(photo) = photos.next().await {
    ///     let (shard, row) = photo?;
    ///     println!("{shard}: {:?}", row.get::<_, Id>("id"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> ShardStream<'a, (ShardId, Row)> {
        if let Err(twice) = self.refuse_twice() {
            return ShardStream::failed(twice);
        }
        let progress = Progress::default();
        let at_once = self.cluster.lanes();
        let (cluster, statement, policy) =
            (self.cluster.clone(), self.statement.clone(), self.policy);
        let lanes = self.into_targets().into_iter().map({
            let progress = progress.clone();
            move |(shard, params)| {
                let (cluster, statement) = (cluster.clone(), statement.clone());
                let (progress, state) = (progress.clone(), State::Waiting);
                let lane = Lane { cluster, statement, shard, params, policy, progress, state };
                stream::try_unfold(lane, Lane::next).boxed()
            }
        });
        let batches = stream::iter(lanes).flatten_unordered(at_once);
        let rows = batches.map_ok(|(shard, rows)| {
            stream::iter(rows.into_iter().map(move |row| Ok((shard, row))))
        });
        ShardStream::new(rows.try_flatten(), progress)
    }
}

impl Cluster {
    /// How many shards are streamed at once.
    pub(super) fn lanes(&self) -> usize {
        LANES_PER_INSTANCE * self.snapshot().instances.len()
    }
}

impl Lane<'_> {
    async fn next(mut self) -> Result<Option<((ShardId, Vec<Row>), Self)>> {
        let batch = self.batch().await;
        let rows = match self.policy.judge(batch)? {
            Some(rows) => rows,
            None => {
                self.progress.miss(self.shard);
                return Ok(None);
            }
        };
        Ok((!rows.is_empty()).then_some(((self.shard, rows), self)))
    }

    async fn batch(&mut self) -> Result<Vec<Row>> {
        if matches!(self.state, State::Waiting) {
            let target = (self.shard, self.params.as_slice());
            let reading = Box::pin(Reading::of_shard(&self.cluster, &self.statement, target));
            self.state = State::Open(Box::new(reading.await?));
        }
        let State::Open(reading) = &self.state else { return Ok(Vec::new()) };
        let rows = reading.fetch(0, BATCH).await?;
        if rows.len() < BATCH
            && let State::Open(reading) = std::mem::replace(&mut self.state, State::Over)
        {
            reading.close().await;
            self.progress.finish(self.shard);
        }
        Ok(rows)
    }
}
