//! One statement, typed in by a person, on many shards: answers as text, and a shard that fails hinders no other.

use futures_util::{StreamExt as _, stream};
use tokio_postgres::SimpleQueryMessage;

use super::Cluster;
use super::retry::{Patience, Visit};
use super::selection::Selection;
use crate::connect::{statement_failure, within_read_only};
use crate::shard::ShardId;
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// The most shards asked at once; the pools bound the connections besides.
const MAX_PARALLEL: usize = 256;

/// A statement for many shards, each in a transaction of its own; made by [`Cluster::exec`].
///
/// # Examples
///
/// ```no_run
/// # use howdah::{Cluster, Statement};
/// # async fn example(cluster: Cluster) -> howdah::Result<()> {
/// let count = Statement::new("SELECT count(*) FROM {shard}.photos");
/// for answer in cluster.exec(&count).run(|_| {}).await? {
///     match answer.result {
///         Ok(rows) => println!("{}: {:?}", answer.shard, rows.rows[0][0]),
///         Err(error) => eprintln!("{}: {error}", answer.shard),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is sent before `run`"]
pub struct Exec<'a> {
    cluster: Cluster,
    statement: &'a Statement,
    shards: Selection,
    parallel: usize,
    write: bool,
}

/// What one shard answered.
#[derive(Debug)]
#[non_exhaustive]
pub struct ShardAnswer {
    /// The shard.
    pub shard: ShardId,
    /// Its answer, or why there is none.
    pub result: Result<TextRows>,
}

/// Rows as PostgreSQL shows them to people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TextRows {
    /// The names of the columns; none when the statement returns no rows.
    pub columns: Vec<String>,
    /// The rows, with `None` for NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many rows were returned or changed.
    pub affected: u64,
}

impl Cluster {
    /// A statement for all shards, read only unless [`Exec::write`] is said.
    pub fn exec<'a>(&self, statement: &'a Statement) -> Exec<'a> {
        let cluster = self.clone();
        Exec { cluster, statement, shards: Selection::default(), parallel: 8, write: false }
    }
}

impl Exec<'_> {
    /// These shards alone, each once; where there are none, nothing is done. Default: all.
    pub fn shards(mut self, shards: impl IntoIterator<Item = ShardId>) -> Self {
        self.shards.add(shards);
        self
    }

    /// How many shards are asked at once, from 1 to 256. Default: 8.
    pub fn parallel(mut self, shards: usize) -> Self {
        self.parallel = shards;
        self
    }

    /// Lets the statement write: each shard commits by itself.
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Runs it, and returns the answers in the order of the shards. `on_answer` sees each as it comes.
    ///
    /// # Errors
    ///
    /// When nothing was sent: a shard does not exist, or `parallel` is out of bounds. What goes wrong on a shard is in its
    /// answer.
    pub async fn run(
        self,
        mut on_answer: impl FnMut(&ShardAnswer) + Send,
    ) -> Result<Vec<ShardAnswer>> {
        if !(1..=MAX_PARALLEL).contains(&self.parallel) {
            return Err(Error::input(format!("{} shards at once", self.parallel))
                .hint(format!("from 1 to {MAX_PARALLEL} are possible")));
        }
        let map = self.cluster.map();
        let shards = self.shards.of(&map);
        for shard in &shards {
            map.home(*shard)?;
        }
        let mut answers = Vec::with_capacity(shards.len());
        let mut coming =
            stream::iter(shards).map(|shard| self.ask(shard)).buffer_unordered(self.parallel);
        while let Some(answer) = coming.next().await {
            on_answer(&answer);
            answers.push(answer);
        }
        drop(coming);
        answers.sort_by_key(|answer| answer.shard);
        Ok(answers)
    }

    async fn ask(&self, shard: ShardId) -> ShardAnswer {
        let mut patience = Patience::new();
        loop {
            let visit = match self.cluster.visit(shard).await {
                Ok(visit) => visit,
                Err(error) => return ShardAnswer { shard, result: Err(error) },
            };
            let error = match self.send(&visit).await {
                Ok(rows) => return ShardAnswer { shard, result: Ok(rows) },
                Err(error) => error,
            };
            if let Err(error) = self.cluster.reconsider(error, Some(visit), &mut patience).await {
                return ShardAnswer { shard, result: Err(error) };
            }
        }
    }

    async fn send(&self, visit: &Visit) -> Result<TextRows> {
        if !self.statement.is_bounded() {
            // It may set what the next one would find.
            visit.lent.spend();
        }
        let begun = visit.lent.begin().await;
        begun.map_err(|error| error.with_outcome(Outcome::NotExecuted))?;
        let answer = visit.lent.watch(self.send_within(visit)).await;
        let answer = if self.write { answer } else { answer.map_err(within_read_only) };
        // Without a COMMIT nothing is left of it.
        let answer = answer.map_err(|error| error.if_unknown(Outcome::NotExecuted));
        let end = if answer.is_ok() { "COMMIT" } else { "ROLLBACK" };
        // After an error that error is what matters; a session that cannot roll back is not lent again.
        let ended = visit.lent.end(end).await;
        answer.and_then(|rows| ended.map(|()| rows))
    }

    async fn send_within(&self, visit: &Visit) -> Result<TextRows> {
        let failed = |error| statement_failure(error, "the statement was refused");
        let client = visit.lent.client();
        let mode = if self.write { "READ WRITE" } else { "READ ONLY" };
        client.batch_execute(&format!("SET TRANSACTION {mode}")).await.map_err(failed)?;
        // Text answers take the simple protocol, which would run several statements, and with them a COMMIT that
        // ends READ ONLY. One that can be parsed is a single one.
        visit.lent.parse(self.statement, &visit.home).await.map_err(failed)?;
        let sql = self.statement.render(&visit.home);
        let messages = client.simple_query(&sql).await.map_err(failed)?;
        Ok(TextRows::collect(&messages))
    }
}

impl TextRows {
    fn collect(messages: &[SimpleQueryMessage]) -> Self {
        let mut collected = Self::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    collected.columns = columns.iter().map(|c| c.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    let value = |i| row.get(i).map(str::to_owned);
                    collected.rows.push((0..row.len()).map(value).collect());
                }
                SimpleQueryMessage::CommandComplete(count) => collected.affected = *count,
                _ => {}
            }
        }
        collected
    }
}
