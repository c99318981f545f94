//! COPY out of many shards, as one stream of rows.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Cluster;
use super::policy::Policy;
use super::retry::{Patience, Visit};
use super::selection::Selection;
use super::stream::{Progress, ShardStream};
use crate::connect::within_read_only;
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// How many rows of a shard wait for who reads them.
const BUFFERED_ROWS: usize = 256;

/// A COPY out of many shards; made by [`Cluster::copy_out`].
#[derive(Debug)]
#[must_use = "nothing is read before `stream`"]
pub struct CopyOut {
    cluster: Cluster,
    statement: Statement,
    shards: Selection,
    policy: Policy,
}

impl Cluster {
    /// Rows of all shards in one of the formats of COPY: `COPY {shard}.photos TO STDOUT (FORMAT csv)`, or
    /// `COPY (SELECT … FROM {shard}.photos) TO STDOUT`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use howdah::{Cluster, Statement};
    /// const PHOTOS: Statement = Statement::new("COPY {shard}.photos TO STDOUT (FORMAT csv)");
    ///
    /// # async fn example(cluster: Cluster) -> std::io::Result<()> {
    /// # use std::io::Write;
    /// let mut file = std::fs::File::create("photos.csv")?;
    /// let mut photos = cluster.copy_out(&PHOTOS).stream();
    /// while let Some(row) = photos.next().await {
    ///     let (_shard, line) = row.map_err(std::io::Error::other)?;
    ///     file.write_all(&line)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy_out(&self, statement: &Statement) -> CopyOut {
        let (cluster, statement) = (self.clone(), statement.clone());
        CopyOut { cluster, statement, shards: Selection::default(), policy: Policy::default() }
    }
}

impl CopyOut {
    /// These shards alone, each once; where there are none, no rows come. Default: all.
    pub fn shards(mut self, shards: impl IntoIterator<Item = ShardId>) -> Self {
        self.shards.add(shards);
        self
    }

    /// Goes on without shards that cannot be reached, or are lost half-way, and names them in
    /// [`ShardStream::missing`].
    pub fn partial(mut self) -> Self {
        self.policy.partial = true;
        self
    }

    /// The rows as PostgreSQL sends them, each with its shard: of a few shards at a time, those of one shard in their
    /// order. A line of the text and CSV formats ends with its newline; in the binary format, a shard's first piece and its
    /// last are its head and its tail.
    ///
    /// Each shard is read as it is at one moment, in a transaction that only reads, when its turn comes. Which are complete is told by
    /// [`ShardStream::finished`]; when the stream ends with an error, those alone are.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn stream(self) -> ShardStream<'static, (ShardId, Bytes)> {
        let progress = Progress::default();
        let at_once = self.cluster.lanes();
        let shards = self.shards.of(&self.cluster.snapshot().map);
        let (cluster, statement, policy) = (self.cluster, self.statement, self.policy);
        let lanes = shards.into_iter().map({
            let progress = progress.clone();
            move |shard| {
                let (cluster, statement) = (cluster.clone(), statement.clone());
                let progress = progress.clone();
                let lane =
                    Lane { shard, policy, progress, state: State::Waiting(cluster, statement) };
                stream::try_unfold(lane, Lane::next).boxed()
            }
        });
        ShardStream::new(stream::iter(lanes).flatten_unordered(at_once), progress)
    }
}

/// One shard's part in the stream.
struct Lane {
    shard: ShardId,
    policy: Policy,
    progress: Progress,
    state: State,
}

enum State {
    Waiting(Cluster, Statement),
    Copying(Copying),
}

/// A COPY under way, which is broken off when this is dropped.
struct Copying {
    rows: mpsc::Receiver<Bytes>,
    task: JoinHandle<Result<()>>,
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lane {
    async fn next(mut self) -> Result<Option<((ShardId, Bytes), Self)>> {
        let row = self.row().await;
        match self.policy.judge(row)? {
            Some(Some(row)) => return Ok(Some(((self.shard, row), self))),
            Some(None) => self.progress.finish(self.shard),
            None => self.progress.miss(self.shard),
        }
        Ok(None)
    }

    async fn row(&mut self) -> Result<Option<Bytes>> {
        if let State::Waiting(cluster, statement) = &self.state {
            let (sender, rows) = mpsc::channel(BUFFERED_ROWS);
            let copying = copy(cluster.clone(), statement.clone(), self.shard, sender);
            self.state = State::Copying(Copying { rows, task: tokio::spawn(copying) });
        }
        let State::Copying(copying) = &mut self.state else { return Ok(None) };
        if let Some(row) = copying.rows.recv().await {
            return Ok(Some(row));
        }
        let ended = (&mut copying.task).await;
        ended.map_err(|error| Error::system("copying broke off").because(error))?.map(|()| None)
    }
}

/// Follows a shard that has moved, as long as none of its rows was handed on.
async fn copy(
    cluster: Cluster,
    statement: Statement,
    shard: ShardId,
    rows: mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut patience = Patience::new();
    loop {
        let visit = cluster.visit(shard).await?;
        let mut begun = false;
        let error = match copy_from(&visit, &statement, &rows, &mut begun).await {
            Ok(()) => return Ok(()),
            // A read changes nothing.
            Err(error) => {
                within_read_only(error.at(visit.home.instance())).if_unknown(Outcome::NotExecuted)
            }
        };
        let sound = visit.lent.end("ROLLBACK").await.is_ok();
        if begun || !sound {
            return Err(error);
        }
        cluster.reconsider(error, Some(visit), &mut patience).await?;
    }
}

async fn copy_from(
    visit: &Visit,
    statement: &Statement,
    rows: &mpsc::Sender<Bytes>,
    begun: &mut bool,
) -> Result<()> {
    visit.lent.begin_reading().await?;
    let took = visit.lent.copy_out(statement, &visit.home, |row| {
        *begun = true;
        let sent = rows.send(row);
        async {
            // Who no longer listens ends this task.
            let _ = sent.await;
        }
    });
    took.await?;
    visit.lent.end("COMMIT").await
}
