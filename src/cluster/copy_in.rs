//! COPY into many shards: rows come in any order, and go to their shards in chunks that are written whole or not at all.
//!
//! A shard's rows are gathered until there are enough of them, then sent as one COPY in a transaction of its own, while
//! others are gathered. A shard has one chunk under way at a time, in the order of its rows: so what is written of a shard is
//! always its first rows, and the account says how many.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};
use postgres_types::{IsNull, ToSql, Type};
use tokio::task::JoinSet;

use super::Cluster;
use super::retry::Patience;
use crate::id::Id;
use crate::shard::{ShardId, ShardKey};
use crate::statement::Statement;
use crate::{Error, Outcome, Result};

/// What is gathered of a shard before it is sent.
const CHUNK_BYTES: usize = 256 << 10;
/// What is gathered of all shards before the largest chunk is sent, by default.
const MEMORY_BYTES: usize = 64 << 20;
/// How many chunks are under way at once for each instance, on the average.
const SENDING_PER_INSTANCE: usize = 2;
/// What a COPY in the binary format begins with: its name, no flags, no extension.
const BINARY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// And ends with: a row of -1 columns.
const BINARY_TAIL: &[u8] = &[0xff, 0xff];

/// A COPY into many shards; made by [`Cluster::copy_in`].
///
/// Dropped before [`CopyIn::finish`], it breaks off what is under way and forgets what was not sent; what was written
/// stays.
pub struct CopyIn<'a> {
    cluster: Cluster,
    statement: Statement,
    types: Vec<Type>,
    shards: BTreeMap<ShardId, Load>,
    /// Rows gathered and not sent, of all shards.
    gathered_bytes: usize,
    memory_bytes: usize,
    sending: JoinSet<Sent>,
    failure: Option<Error>,
    written: u64,
    on_progress: Box<dyn FnMut(u64) + Send + 'a>,
}

/// Where a row goes; made from an [`Id`], a [`ShardKey`] or a [`ShardId`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Place<'a> {
    /// To the shard that the id names.
    Id(Id),
    /// To the shard of a key's family of rows.
    Key(ShardKey<'a>),
    /// To this one.
    Shard(ShardId),
}

/// What became of one shard's rows: of those given, in their order, the first were written, the next may have been, and
/// the others were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Copied {
    /// How many rows are written: committed, and answered for.
    pub written: u64,
    /// How many may be written: the connection was lost while they were committed.
    pub unknown: u64,
    /// How many are not written.
    pub unwritten: u64,
}

/// One shard's share.
#[derive(Default)]
struct Load {
    gathered: BytesMut,
    gathered_rows: u64,
    /// Rows of the chunk under way.
    sending_rows: u64,
    copied: Copied,
}

/// What became of a chunk.
struct Sent {
    shard: ShardId,
    result: Result<u64>,
}

impl Cluster {
    /// Rows for many shards, by COPY in the binary format: `COPY {shard}.photos (id, caption) FROM STDIN (FORMAT
    /// binary)`. `types` are those of its columns.
    ///
    /// # Cost
    ///
    /// Rows are gathered for each shard, in 64 MiB of memory at most ([`CopyIn::memory`]), and written 256 KiB at a time.
    /// So with very many shards give them in the order of their shards, or allow more memory: chunks are small otherwise.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use howdah::postgres::types::Type;
    /// use howdah::{Cluster, Id, Statement};
    ///
    /// const LOAD: Statement =
    ///     Statement::new("COPY {shard}.photos (user_id, caption) FROM STDIN (FORMAT binary)");
    ///
    /// # async fn example(cluster: Cluster, photos: Vec<(Id, String)>) -> howdah::Result<()> {
    /// let mut load = cluster.copy_in(&LOAD, &[Type::INT8, Type::TEXT]);
    /// for (user, caption) in &photos {
    ///     load.row(*user, &[user, caption]).await?;
    /// }
    /// let written = load.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy_in<'a>(&self, statement: &Statement, types: &[Type]) -> CopyIn<'a> {
        CopyIn {
            cluster: self.clone(),
            statement: statement.clone(),
            types: types.to_vec(),
            shards: BTreeMap::new(),
            gathered_bytes: 0,
            memory_bytes: MEMORY_BYTES,
            sending: JoinSet::new(),
            failure: None,
            written: 0,
            on_progress: Box::new(|_| {}),
        }
    }
}

impl<'a> CopyIn<'a> {
    /// The most bytes of rows to gather before some are sent. Default: 64 MiB.
    #[must_use]
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Is told, each time that a chunk is written, how many rows are.
    #[must_use]
    pub fn on_progress(mut self, on_progress: impl FnMut(u64) + Send + 'a) -> Self {
        self.on_progress = Box::new(on_progress);
        self
    }

    /// One row, for the shard of an id, a key or a number: a [`Place`] is made from an [`Id`], which names its shard, from a
    /// [`ShardId`], and from text or a [`ShardKey`], which is hashed. The values are in the order of the COPY's columns, each of
    /// the type that was said.
    ///
    /// Waits while as much is under way as may be; where the future is dropped meanwhile, the row is not taken.
    ///
    /// # Errors
    ///
    /// When the values are not of the types of the columns, or the place is no shard of this cluster: the row is left out, and
    /// others may follow. When an earlier chunk could not be written, names its shard: this row and all others are not taken
    /// then, and [`CopyIn::account`] says what is written.
    pub async fn row<'p>(
        &mut self,
        place: impl Into<Place<'p>>,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<()> {
        self.check().await?;
        let shard = self.shard(place.into())?;
        self.make_room(shard).await?;
        // From here on nothing is waited for: the row is taken, or it is not.
        let load = self.shards.entry(shard).or_default();
        let before = load.gathered.len();
        if let Err(error) = encode(&self.types, values, &mut load.gathered) {
            load.gathered.truncate(before);
            return Err(error);
        }
        load.gathered_rows += 1;
        self.gathered_bytes += load.gathered.len() - before;
        if load.gathered.len() >= CHUNK_BYTES && self.may_send(shard) {
            self.send(shard);
        }
        Ok(())
    }

    /// Writes what is left, and returns how many rows were written in all.
    ///
    /// # Errors
    ///
    /// When a chunk could not be written, names its shard; [`CopyIn::account`] says what is.
    pub async fn finish(&mut self) -> Result<u64> {
        self.check().await?;
        let shards: Vec<_> = self.shards.keys().copied().collect();
        for shard in shards {
            self.send_in_turn(shard).await?;
        }
        while let Some(sent) = self.sending.join_next().await {
            self.enter(sent);
            self.check().await?;
        }
        Ok(self.written)
    }

    /// What became of each shard's rows so far. Rows under way count as not written; after a failure, as unknown if the
    /// future that reported it was dropped.
    #[must_use]
    pub fn account(&self) -> BTreeMap<ShardId, Copied> {
        let has_failed = self.failure.is_some();
        let copied = |load: &Load| {
            let mut copied = load.copied;
            copied.unwritten += load.gathered_rows;
            *(if has_failed { &mut copied.unknown } else { &mut copied.unwritten }) +=
                load.sending_rows;
            copied
        };
        self.shards.iter().map(|(shard, load)| (*shard, copied(load))).collect()
    }

    /// After a failure nothing more is taken. What is under way is waited for, so that the account is of everything that was
    /// sent.
    async fn check(&mut self) -> Result<()> {
        let Some(failure) = self.failure.clone() else { return Ok(()) };
        while let Some(sent) = self.sending.join_next().await {
            self.enter(sent);
        }
        // Of these nobody has told the end.
        for load in self.shards.values_mut() {
            load.copied.unknown += std::mem::take(&mut load.sending_rows);
        }
        Err(failure)
    }

    fn shard(&self, place: Place<'_>) -> Result<ShardId> {
        let shard = match place {
            Place::Id(id) => self.cluster.shard_of_id(id)?,
            Place::Key(key) => self.cluster.shard_for_key(key),
            Place::Shard(shard) => self.cluster.shard(shard)?,
        };
        Ok(shard.id())
    }

    /// Sends what there is too much of: of a shard, and of all together.
    async fn make_room(&mut self, shard: ShardId) -> Result<()> {
        if self.shards.get(&shard).is_some_and(|load| load.gathered.len() >= CHUNK_BYTES) {
            self.send_in_turn(shard).await?;
        }
        while self.gathered_bytes > self.memory_bytes {
            let largest = self.shards.iter().max_by_key(|(_, load)| load.gathered.len());
            let Some((shard, _)) = largest else { break };
            self.send_in_turn(*shard).await?;
        }
        Ok(())
    }

    /// Whether a shard's last chunk is written, and there is room for another under way.
    fn may_send(&self, shard: ShardId) -> bool {
        let most = SENDING_PER_INSTANCE * self.cluster.snapshot().instances.len();
        let is_busy = |load: &Load| load.sending_rows > 0;
        self.sending.len() < most && !self.shards.get(&shard).is_some_and(is_busy)
    }

    async fn send_in_turn(&mut self, shard: ShardId) -> Result<()> {
        while !self.may_send(shard) {
            if let Some(sent) = self.sending.join_next().await {
                self.enter(sent);
            }
            self.check().await?;
        }
        self.send(shard);
        Ok(())
    }

    /// Sends what was gathered of a shard.
    fn send(&mut self, shard: ShardId) {
        let Some(load) = self.shards.get_mut(&shard).filter(|load| load.gathered_rows > 0) else {
            return;
        };
        self.gathered_bytes -= load.gathered.len();
        load.gathered.extend_from_slice(BINARY_TAIL);
        let mut chunk = BytesMut::with_capacity(BINARY_HEAD.len() + load.gathered.len());
        chunk.extend_from_slice(BINARY_HEAD);
        chunk.extend_from_slice(&load.gathered);
        load.gathered = BytesMut::new();
        load.sending_rows = std::mem::take(&mut load.gathered_rows);
        let (cluster, statement) = (self.cluster.clone(), self.statement.clone());
        let chunk = chunk.freeze();
        self.sending.spawn(async move {
            let result = write(&cluster, &statement, shard, chunk).await;
            Sent { shard, result }
        });
    }

    fn enter(&mut self, sent: Result<Sent, tokio::task::JoinError>) {
        let error = match sent {
            Ok(Sent { shard, result }) => {
                let load = self.shards.entry(shard).or_default();
                let rows = std::mem::take(&mut load.sending_rows);
                match result {
                    Ok(_) => {
                        load.copied.written += rows;
                        self.written += rows;
                        (self.on_progress)(self.written);
                        return;
                    }
                    Err(error) => {
                        match error.outcome() {
                            Outcome::Unknown => load.copied.unknown += rows,
                            Outcome::NotExecuted | Outcome::Failed => {
                                load.copied.unwritten += rows;
                            }
                        }
                        error.hint("other shards have their rows: `account` says which")
                    }
                }
            }
            Err(error) => {
                Error::system("copying broke off").because(error).with_outcome(Outcome::Unknown)
            }
        };
        self.failure.get_or_insert(error);
    }
}

/// Writes a chunk in a transaction of its own, and follows a shard that has moved.
async fn write(
    cluster: &Cluster,
    statement: &Statement,
    shard: ShardId,
    chunk: Bytes,
) -> Result<u64> {
    let mut patience = Patience::new();
    loop {
        let snapshot = cluster.snapshot();
        let home = snapshot.map.home(shard)?;
        let visit = cluster.visit_home(&snapshot, home).await?;
        let lent = &visit.lent;
        let copying = async {
            lent.begin().await?;
            lent.copy_in(statement, home, chunk.clone()).await
        };
        let error = match copying.await {
            Ok(rows) => {
                let committed = lent.end("COMMIT").await;
                return committed.map(|()| rows).map_err(|error| error.at(home.instance()));
            }
            // Without a COMMIT nothing is left of it.
            Err(error) => error.if_unknown(Outcome::NotExecuted),
        };
        // The driver and the server may disagree now on which answer is to which request: the driver sends one Sync too many
        // after a COPY that was refused. So its connection is closed, and the question of the shard's home goes to another.
        drop(visit);
        let visit = cluster.visit_home(&snapshot, home).await.ok();
        cluster.reconsider(error.at(home.instance()), visit, &mut patience).await?;
    }
}

/// A row in the binary format: how many columns, then each one's length and bytes.
fn encode(types: &[Type], values: &[&(dyn ToSql + Sync)], out: &mut BytesMut) -> Result<()> {
    let wrong = |what: String| Error::input(format!("a row cannot be copied: {what}"));
    let count = i16::try_from(types.len()).ok().filter(|_| types.len() == values.len());
    let count = count
        .ok_or_else(|| wrong(format!("{} values for {} columns", values.len(), types.len())))?;
    out.put_i16(count);
    for (value, ty) in values.iter().zip(types) {
        let at = out.len();
        out.put_i32(-1);
        match value.to_sql_checked(ty, out) {
            Ok(IsNull::Yes) => {}
            Ok(IsNull::No) => {
                let bytes = i32::try_from(out.len() - at - 4);
                let bytes = bytes.map_err(|_| wrong("a value is beyond 2 GiB".to_owned()))?;
                out[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
            }
            Err(error) => return Err(wrong(format!("a column is {ty}")).because(error)),
        }
    }
    Ok(())
}

impl From<Id> for Place<'_> {
    fn from(id: Id) -> Self {
        Self::Id(id)
    }
}

impl From<ShardId> for Place<'_> {
    fn from(shard: ShardId) -> Self {
        Self::Shard(shard)
    }
}

impl<'a> From<ShardKey<'a>> for Place<'a> {
    fn from(key: ShardKey<'a>) -> Self {
        Self::Key(key)
    }
}

impl<'a> From<&'a str> for Place<'a> {
    fn from(key: &'a str) -> Self {
        Self::Key(key.into())
    }
}

impl<'a> From<&'a String> for Place<'a> {
    fn from(key: &'a String) -> Self {
        Self::Key(key.into())
    }
}

impl fmt::Debug for CopyIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyIn")
            .field("statement", &self.statement)
            .field("written", &self.written)
            .field("gathered_bytes", &self.gathered_bytes)
            .finish_non_exhaustive()
    }
}
