//! The public face: moves shards, and ends, undoes or resumes moves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::event::{MoveEvent, MoveNews};
use super::journal::{Intent, Journal, MoveId, MoveReport};
use super::kept::Kept;
use super::names::{self, Names, schema_at};
use super::pour::Pace;
use super::preflight;
use super::programs::Programs;
use super::run::Run;
use super::side::Side;
use super::step::{MovePhase, MoveStep};
use crate::catalog::{InstanceState, Snapshot};
use crate::config::Config;
use crate::connect::Connector;
use crate::shard::{Home, InstanceName, ShardId};
use crate::{Error, Outcome, Result};

/// How often a run that lost a connection, or its race with others, begins again by itself.
const ROUNDS: u32 = 8;
/// The pause after the first connection that was lost; after each further one it is twice as long. A server that restarts is
/// given twelve seconds in all.
const PAUSE: Duration = Duration::from_millis(100);
/// The WAL that a source may keep for a copy, by default.
const MAX_WAL: u64 = 8 << 30;

/// Moves shards live from one instance to another: `howdah move`.
///
/// While a shard is moved it is read and written as ever; for some milliseconds at the end its writes wait. No
/// acknowledged write is lost and none is done twice, whatever dies on the way: the shard is where it was, or where it
/// should go, and running the same again goes on. Afterwards a stream back keeps the old copy up to date until the move is
/// [finished](Self::finish), and until then it can be [undone](Self::roll_back), with all that was written since.
///
/// It logs in as the configuration's `owner` and `mover`, and needs `pg_dump` and `psql` of the source's version or newer.
///
/// Dropping a future stops the work where it is; running the same again, or [`abort`](Self::abort), goes on from there.
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
    pub(super) pace: Pace,
    pub(super) kept: Kept,
    /// For instances of a major version.
    pub(super) programs: Mutex<BTreeMap<(InstanceName, i32), Programs>>,
    reverse: bool,
    pub(super) lost: Option<InstanceName>,
    observer: Box<dyn Fn(&MoveEvent) + Send + Sync>,
    /// Held during a fence.
    pub(super) fencing: Arc<Mutex<()>>,
}

/// A move that was entered just now, with what was opened for it: both servers are locked.
struct Begun {
    journal: Journal,
    snapshot: Snapshot,
    report: MoveReport,
    sides: [Side; 2],
}

/// What is to be done with a move that is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    GoBack,
    Finish,
    Abort,
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
            pace: Pace::default(),
            kept: Kept::default(),
            programs: Mutex::default(),
            reverse: true,
            lost: None,
            observer: Box::new(|_| {}),
            fencing: Arc::default(),
        })
    }

    /// Whether a stream back keeps the old copy up to date, so that a move can be undone. Without one, or where the target has
    /// lost what belongs into it, a move is finished as soon as the shard lives on the target. Default: `true`.
    #[must_use]
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// The folder of `pg_dump` and `psql`. Default: `HOWDAH_PG_BIN`, else that of a source on this machine, `PATH`, and the
    /// distribution's folders.
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

    /// The bytes of rows that are copied in a second, by all moves of this mover together. Default: as fast as it goes.
    ///
    /// What is written meanwhile is not slowed down: it has to catch up.
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
    /// [Refused](Error::is_refused), with nothing touched and all reasons named, where something stands in the way;
    /// [refused](Error::is_refused), with the shard where it was, where the copies differ. Otherwise what went wrong on the
    /// way; run it again, or [`abort`](Self::abort).
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

    /// Brings a shard back to where it was moved from, with every write that was made since; or goes on doing so. Where
    /// the old copy does not have all of it, the move stays as it is, to be [finished](Self::finish).
    ///
    /// # Errors
    ///
    /// When the move has no stream back, or has not come so far; [refused](Error::is_refused) when a server failed over since,
    /// or the copies differ; otherwise as [`run`](Self::run).
    pub async fn roll_back(&self, id: MoveId) -> Result<MoveReport> {
        self.take_up(id, Wish::GoBack, None).await
    }

    /// Ends a move: the stream back and the old copy are dropped. Also one that is on its way back, as long as the shard has
    /// not left the target; and one that lives there and cannot have a stream back.
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

    /// One move.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or the catalog cannot be read.
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
    /// [Refused](Error::is_refused), naming the differences, where they are not equal; otherwise when they cannot be
    /// compared.
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

    async fn journal(&self) -> Result<Journal> {
        self.kept.journal(&self.connector).await
    }

    /// Everything up to the journal's entry. Nothing when, while we waited for the locks, the shard has moved or got a move.
    async fn begin(
        &self,
        mut journal: Journal,
        shard: ShardId,
        to: &InstanceName,
    ) -> Result<Option<Box<Begun>>> {
        let snapshot = self.snapshot().await?;
        let home = snapshot.map.home(shard)?.clone();
        let target = snapshot.instances.get_key_value(to).ok_or_else(|| {
            Error::input(format!("there is no instance {to}")).hint("`howdah status` shows them")
        })?;
        if home.instance() == to {
            return Err(Error::input(format!("shard {shard} lives on {to} already")));
        }
        if target.1.state != InstanceState::Active {
            return Err(Error::refused(format!("{to} is {}: it takes no shards", target.1.state)));
        }
        let observe = |step, what| {
            self.observe(&MoveEvent { id: None, shard, back: false, step, what });
        };
        observe(MoveStep::LockServers, MoveNews::Begun);
        let (source, target) = futures_util::try_join!(
            self.kept.side(&self.connector, &snapshot, home.instance()),
            self.kept.side(&self.connector, &snapshot, to)
        )?;
        source.lock(shard).await?;
        target.lock(shard).await?;
        let open = match journal.open_move(shard).await {
            // The catalog was moved just now.
            Err(error) if is_lost(&error) => {
                journal = Journal::open(&self.connector).await?;
                journal.open_move(shard).await
            }
            open => open,
        }?;
        if open.is_some() || *self.snapshot().await?.map.home(shard)? != home {
            return Ok(None);
        }
        observe(MoveStep::LockServers, MoveNews::Done);
        observe(MoveStep::Preflight, MoveNews::Begun);
        if !is_forgotten(&source, &target, &home).await? {
            preflight::check(&source, &target, &home).await?;
            let sides = [&source, &target];
            preflight::rehearse(&self.connector, &journal, sides, (shard, self.reverse)).await?;
        }
        observe(MoveStep::Preflight, MoveNews::Done);
        observe(MoveStep::Journal, MoveNews::Begun);
        let intent = Intent {
            shard,
            source: home.instance(),
            target: to,
            epoch: home.epoch(),
            reverse: self.reverse,
            servers: [&source.server, &target.server],
        };
        let entered = match journal.enter(&intent).await {
            // The catalog was moved just now.
            Err(error) if is_lost(&error) && error.outcome() == Outcome::NotExecuted => {
                journal = Journal::open(&self.connector).await?;
                journal.enter(&intent).await
            }
            entered => entered,
        }?;
        let Some(id) = entered else { return Ok(None) };
        observe(MoveStep::Journal, MoveNews::Done);
        let report = journal.show(id).await?;
        Ok(Some(Box::new(Begun { journal, snapshot, report, sides: [source, target] })))
    }

    /// Does with a move what is wished, again where a connection was lost on the way.
    async fn take_up(
        &self,
        id: MoveId,
        wish: Wish,
        mut begun: Option<Box<Begun>>,
    ) -> Result<MoveReport> {
        let _at_work = self.kept.at_work();
        let mut round = 1;
        let mut pause = PAUSE;
        loop {
            match Box::pin(self.take_up_once(id, wish, begun.take())).await {
                // Whoever died on the way, what is on the servers says how to go on.
                Err(error) if is_lost(&error) && round < ROUNDS => {
                    round += 1;
                    sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
                Ok(()) => return self.show(id).await,
            }
        }
    }

    async fn take_up_once(&self, id: MoveId, wish: Wish, begun: Option<Box<Begun>>) -> Result<()> {
        if let Some(begun) = begun {
            let Begun { journal, snapshot, report, sides } = *begun;
            let run = self.take_over(&snapshot, journal, &report, false, sides).await?;
            let done = run.go_on().await;
            return ended(run, done).await;
        }
        let journal = self.journal().await?;
        let report = journal.show(id).await?;
        let lost = self.lost.as_ref().filter(|_| matches!(wish, Wish::Finish | Wish::Abort));
        let back = match wish {
            _ if !report.phase.is_open() => {
                let ended = matches!(
                    (wish, report.phase),
                    (Wish::Abort, MovePhase::Aborted)
                        | (Wish::Finish, MovePhase::Finished)
                        | (Wish::GoBack, MovePhase::RolledBack)
                );
                return if ended {
                    Ok(())
                } else {
                    Err(Error::refused(format!("{id} has ended: {}", report.phase)))
                };
            }
            Wish::Finish | Wish::Abort if lost.is_some() => false,
            Wish::GoOn if report.phase == MovePhase::Reversible => return Ok(()),
            Wish::GoBack if report.phase != MovePhase::Reversible && !report.back => {
                return Err(Error::refused(format!("{id} is not that far: {}", report.phase))
                    .hint(format!("abort it: `howdah moves abort {id}`")));
            }
            Wish::GoOn | Wish::Abort => report.back,
            Wish::GoBack => true,
            Wish::Finish
                if report.phase != MovePhase::Reversible
                    && !report.is_ending()
                    && !report.is_unsettled()
                    && !report.back =>
            {
                return Err(Error::refused(format!("{id} is not that far: {}", report.phase))
                    .hint(format!("`howdah moves resume {id}`")));
            }
            Wish::Finish => false,
        };
        if let Some(lost) = lost {
            return self.end_without(lost, wish, &journal, &report).await;
        }
        let snapshot = self.snapshot().await?;
        let run = Box::pin(self.lock(&snapshot, journal, &report, back)).await;
        let run = run.map_err(|error| or_without(error, wish, &report))?;
        let done = match wish {
            Wish::GoOn | Wish::GoBack => run.go_on().await,
            Wish::Finish if report.is_unsettled() => run.finish_unsettled().await,
            Wish::Finish => run.finish().await,
            Wish::Abort => run.abort().await,
        };
        ended(run, done).await
    }

    /// Locks both servers for a move that is in the journal, and takes it over.
    async fn lock<'a>(
        &'a self,
        snapshot: &Snapshot,
        journal: Journal,
        report: &MoveReport,
        back: bool,
    ) -> Result<Run<'a>> {
        let (source, target) = futures_util::try_join!(
            self.kept.side(&self.connector, snapshot, &report.source),
            self.kept.side(&self.connector, snapshot, &report.target)
        )?;
        source.lock(report.shard).await?;
        target.lock(report.shard).await?;
        self.take_over(snapshot, journal, report, back, [source, target]).await
    }

    async fn take_over<'a>(
        &'a self,
        snapshot: &Snapshot,
        journal: Journal,
        report: &MoveReport,
        back: bool,
        sides: [Side; 2],
    ) -> Result<Run<'a>> {
        let report = journal.take_over(report).await?;
        let names = Names::new(&snapshot.cluster, report.id.get(), report.shard, report.epoch);
        Ok(Run::new(self, journal, report, back, names, sides))
    }

    pub(super) fn observe(&self, event: &MoveEvent) {
        (self.observer)(event);
    }
}

/// Notes why a run ended early, or leaves what it had to the next.
async fn ended(run: Run<'_>, done: Result<()>) -> Result<()> {
    match &done {
        Ok(()) => run.leave().await,
        Err(error) => run.journal.set_error(&run.report, error).await,
    }
    done
}

/// The next step where a server that a move is to be ended with does not answer.
fn or_without(error: Error, wish: Wish, report: &MoveReport) -> Error {
    let word = match wish {
        Wish::Finish => "finish",
        Wish::Abort => "abort",
        Wish::GoOn | Wish::GoBack => return error,
    };
    let ends = [&report.source, &report.target];
    let away = ends.into_iter().find(|end| error.instance() == Some(end.as_str()));
    match away {
        Some(away) if error.is_unavailable() => error.hint(format!(
            "is it gone for good? `howdah moves {word} {} --lost {away}`",
            report.id
        )),
        _ => error,
    }
}

/// Whether this move was made and ended before, in a catalog that failed over and forgot all of it: nothing is left where the
/// shard should live, and where it should go it is at home. What remains is to write that down.
async fn is_forgotten(source: &Side, target: &Side, home: &Home) -> Result<bool> {
    let (shard, new) = (home.shard(), super::run::next(home.epoch())?);
    if !source.epochs(shard).await?.is_empty() || target.epochs(shard).await? != [new] {
        return Ok(false);
    }
    let comment = target.comment(&schema_at(shard, new, &target.name)).await?;
    Ok(!comment.is_some_and(|comment| names::is_of_copy(&comment)))
}

fn is_lost(error: &Error) -> bool {
    error.kind() == crate::error::Kind::Unavailable
}

impl fmt::Debug for Mover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mover")
            .field("reverse", &self.reverse)
            .field("max_wal", &self.max_wal)
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
        can_be_spawned(mover.roll_back(id));
        can_be_spawned(mover.finish(id));
        can_be_spawned(mover.abort(id));
        can_be_spawned(mover.verify(shard[0]));
    }
}
