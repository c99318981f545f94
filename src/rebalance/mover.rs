//! The public interface: moves shards, and ends, undoes or resumes moves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::event::MoveEvent;
use super::heed::MAX_LAG;
use super::journal::Journal;
use super::kept::Kept;
use super::names::schema_at;
use super::pour::Pace;
use super::programs::Programs;
use super::report::{MoveId, MoveReport};
use super::step::MovePhase;
use super::take_up::Wish;
use crate::catalog::Snapshot;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::connect::Connector;
use crate::shard::{InstanceName, ShardId};
use crate::{Error, Result};

/// How often a run that lost a connection, or its race with others, begins again by itself.
pub(super) const ROUNDS: u32 = 8;
/// The WAL that a source may keep for a copy, by default.
const MAX_WAL: u64 = 8 << 30;

/// Moves shards live from one instance to another: `howdah move`.
///
/// While a shard is moved it is read and written as usual; for some milliseconds at the end its writes wait. No
/// acknowledged write is lost and none is done twice, whatever dies on the way: the shard is where it was, or where it
/// should go, and calling the same method again goes on. Afterwards a replication stream back keeps the old copy up to
/// date until the move is [finished](Self::finish). Until then the move can be [undone](Self::rollback), keeping all that
/// was written since.
///
/// It logs in as the configuration's `owner` and `mover`, and needs `pg_dump` and `psql` of the source's version or newer.
///
/// Dropping a future stops the work where it is; call the same method again to go on, or [`abort`](Self::abort) to undo it.
///
/// # Examples
///
/// ```no_run
/// use howdah::{Config, InstanceName, Mover, ShardId};
///
/// # async fn example() -> howdah::Result<()> {
/// let mover = Mover::new(&Config::load()?)?;
/// let moved = mover.run(ShardId::new(5)?, &InstanceName::new("pg2")?).await?;
/// println!("{} rows; writers waited {:?} at most", moved.rows, moved.fence);
/// mover.finish(moved.id).await?;
/// # Ok(())
/// # }
/// ```
pub struct Mover {
    pub(super) connector: Connector,
    pub(super) pg_bin: Option<PathBuf>,
    pub(super) max_wal: u64,
    pub(super) max_lag: u64,
    pub(super) pace: Pace,
    pub(super) kept: Kept,
    /// For instances of a major version.
    pub(super) programs: Mutex<BTreeMap<(InstanceName, i32), Programs>>,
    pub(super) reverse: bool,
    pub(super) lost: Option<InstanceName>,
    observer: Box<dyn Fn(&MoveEvent) + Send + Sync>,
    /// Held during a fence.
    pub(super) fencing: Arc<Mutex<()>>,
}

impl Mover {
    /// A mover of the cluster that the configuration names.
    ///
    /// # Errors
    ///
    /// When the configuration is wrong.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            connector: Connector::new(Arc::new(config.settings()?))?,
            pg_bin: std::env::var_os("HOWDAH_PG_BIN").map(PathBuf::from),
            max_wal: MAX_WAL,
            max_lag: MAX_LAG,
            pace: Pace::default(),
            kept: Kept::default(),
            programs: Mutex::default(),
            reverse: true,
            lost: None,
            observer: Box::new(|_| {}),
            fencing: Arc::default(),
        })
    }

    /// Whether a stream back keeps the old copy up to date, so that a move can be undone. Without one, or if the target has
    /// lost the slot that feeds it, a move is finished as soon as the shard lives on the target. Default: `true`.
    #[must_use]
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// The folder of `pg_dump` and `psql`. Default: `HOWDAH_PG_BIN`; without it they are looked for in the folder of a source
    /// on this machine, on `PATH`, and in the distribution's folders.
    #[must_use]
    pub fn pg_bin(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pg_bin = Some(folder.into());
        self
    }

    /// The bytes of WAL that a source may keep for a copy that is behind; beyond that the move is aborted. Default: 8 GiB.
    #[must_use]
    pub fn max_wal(mut self, bytes: u64) -> Self {
        self.max_wal = bytes;
        self
    }

    /// How many bytes of WAL a replica of either instance may have to replay before rows are copied at a crawl, until it has
    /// caught up so far. One that replays nothing for a minute, or cannot be reached, slows nothing down: the cutover waits for
    /// it. Default: 64 MiB, which a replica that is well replays in about a second.
    #[must_use]
    pub fn max_lag(mut self, bytes: u64) -> Self {
        self.max_lag = bytes;
        self
    }

    /// The bytes of rows that are copied in a second, by all moves of this mover together. Default: as fast as it goes.
    ///
    /// Changes made meanwhile are not slowed down, since the copy has to catch up.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u64) -> Self {
        self.pace = Pace::limited_to(bytes_per_second);
        self
    }

    /// Called with everything that happens, before each step and after it.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&MoveEvent) + Send + Sync + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Moves a shard, or goes on with its move. Ends when the shard lives on the target.
    ///
    /// # Errors
    ///
    /// [Refused](Error::is_refused), with nothing touched and all reasons named, if something stands in the way;
    /// [refused](Error::is_refused), with the shard where it was, if the copies differ. Otherwise what went wrong on the
    /// way: run it again, or [`abort`](Self::abort).
    pub async fn run(&self, shard: ShardId, to: &InstanceName) -> Result<MoveReport> {
        let _at_work = self.kept.at_work();
        for _ in 0..ROUNDS {
            if let Some(moved) = Box::pin(self.run_once(shard, to)).await? {
                return Ok(moved);
            }
        }
        Err(Error::refused(format!("others move shard {shard}, too"))
            .hint("see `howdah moves list`, and run this again"))
    }

    /// Nothing when others have changed what the move would have begun with.
    async fn run_once(&self, shard: ShardId, to: &InstanceName) -> Result<Option<MoveReport>> {
        let journal = self.journal().await?;
        if let Some(open) = journal.open_move(shard).await? {
            let rests = open.phase == MovePhase::Reversible;
            if rests || open.is_ending() {
                let home = self.snapshot().await?.map.home(shard)?.instance().clone();
                if rests && home == *to {
                    return Ok(Some(open));
                }
                let id = open.id;
                let ended = if rests { self.finish(id).await? } else { self.resume(id).await? };
                if home == *to {
                    return Ok(Some(ended));
                }
            } else if open.target == *to && !open.back {
                return self.resume(open.id).await.map(Some);
            } else {
                let way_out = if open.back { "finish" } else { "abort" };
                return Err(Error::refused(format!(
                    "shard {shard} has the open move {} from {} to {}",
                    open.id, open.source, open.target
                ))
                .hint(format!("resume or {way_out} it: `howdah moves resume {}`", open.id)));
            }
        }
        match Box::pin(self.begin(journal, shard, to)).await? {
            Some(begun) => {
                let id = begun.report.id;
                self.take_up(id, Wish::GoOn, Some(begun)).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Goes on with a move that was interrupted, in the direction that it had.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); also when it has ended.
    pub async fn resume(&self, id: MoveId) -> Result<MoveReport> {
        self.take_up(id, Wish::GoOn, None).await
    }

    /// Brings a shard back to where it was moved from, with every write that was made since; or goes on doing so. If
    /// the old copy does not have all of them, the move stays as it is, to be [finished](Self::finish).
    ///
    /// # Errors
    ///
    /// When the move has no stream back, or has none yet; [refused](Error::is_refused) when a server failed over since, or the
    /// copies differ; otherwise as [`run`](Self::run).
    pub async fn rollback(&self, id: MoveId) -> Result<MoveReport> {
        self.take_up(id, Wish::GoBack, None).await
    }

    /// Ends a move: the stream back and the old copy are dropped. Also ends a move that is being rolled back, as long as the
    /// shard has not left the target; and one whose shard lives on the target and that cannot have a stream back.
    ///
    /// # Errors
    ///
    /// When the shard does not live on the target, or something cannot be dropped; run it again.
    pub async fn finish(&self, id: MoveId) -> Result<MoveReport> {
        self.take_up(id, Wish::Finish, None).await
    }

    /// Undoes a move before its cutover: everything that it made is dropped.
    ///
    /// # Errors
    ///
    /// When the shard has left already, or something cannot be dropped; run it again.
    pub async fn abort(&self, id: MoveId) -> Result<MoveReport> {
        self.take_up(id, Wish::Abort, None).await
    }

    /// All moves that there ever were, the newest first.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    pub async fn list(&self) -> Result<Vec<MoveReport>> {
        Box::pin(Journal::look(&self.connector)).await?.list().await
    }

    /// The moves of a cluster that have not ended, the newest first, with what their movers tell of them about once a second:
    /// for whoever looks on.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read, or is of an older howdah.
    pub async fn open_moves(cluster: &Cluster) -> Result<Vec<MoveReport>> {
        let mut moves = Box::pin(Journal::look(cluster.connector())).await?.list().await?;
        moves.retain(|report| report.phase.is_open());
        Ok(moves)
    }

    /// One move.
    ///
    /// # Errors
    ///
    /// When there is no such move, or the catalog cannot be read.
    pub async fn show(&self, id: MoveId) -> Result<MoveReport> {
        Box::pin(Journal::look(&self.connector)).await?.show(id).await
    }

    /// The open move of a shard.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read.
    pub async fn open_move(&self, shard: ShardId) -> Result<Option<MoveReport>> {
        Box::pin(Journal::look(&self.connector)).await?.open_move(shard).await
    }

    /// Compares both copies of a shard while a stream back runs, and stores what was found with the move.
    ///
    /// # Errors
    ///
    /// [Refused](Error::is_refused), naming the differences, if they are not equal; otherwise when they cannot be compared.
    pub async fn verify(&self, shard: ShardId) -> Result<MoveReport> {
        let journal = Journal::open(&self.connector).await?;
        let open = journal.open_move(shard).await?;
        let open = open.filter(|open| open.phase == MovePhase::Reversible).ok_or_else(|| {
            Error::refused(format!("there is one copy of shard {shard}, so nothing to compare"))
                .hint("both are there from a move on until it is finished")
        })?;
        let snapshot = self.snapshot().await?;
        let run = Box::pin(self.lock(&snapshot, journal, &open, false)).await?;
        let epoch = super::run::next(open.epoch)?;
        let schema = schema_at(shard, epoch, &open.target);
        let verified = run.verify_reversible(&schema).await;
        if let Err(error) = &verified {
            run.journal.set_error(&run.report, error).await;
        }
        verified?;
        self.show(open.id).await
    }

    pub(super) async fn snapshot(&self) -> Result<Snapshot> {
        self.kept.snapshot(&self.connector).await
    }

    pub(super) async fn journal(&self) -> Result<Journal> {
        self.kept.journal(&self.connector).await
    }

    pub(super) fn observe(&self, event: &MoveEvent) {
        (self.observer)(event);
    }
}

impl fmt::Debug for Mover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mover")
            .field("reverse", &self.reverse)
            .field("max_wal", &self.max_wal)
            .field("max_lag", &self.max_lag)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::RebalancePlan;
    use super::*;

    /// Compiles only if they can be spawned on any runtime.
    #[allow(dead_code, reason = "it only has to compile")]
    fn all_can_be_spawned(
        mover: &Mover,
        [shard, shards]: [&[ShardId]; 2],
        to: &InstanceName,
        id: MoveId,
        plan: &RebalancePlan,
    ) {
        fn can_be_spawned(_: impl Send) {}

        can_be_spawned(mover.run(shard[0], to));
        can_be_spawned(mover.run_all(shards, to, 2));
        can_be_spawned(mover.carry_out(plan, 2));
        can_be_spawned(mover.resume(id));
        can_be_spawned(mover.resume_all());
        can_be_spawned(mover.rollback(id));
        can_be_spawned(mover.finish(id));
        can_be_spawned(mover.abort(id));
        can_be_spawned(mover.verify(shard[0]));
    }
}
