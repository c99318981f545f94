//! How a move is begun, taken up again after an interruption, and ended: what is looked at and locked first, and what is then
//! done as it was wished.

use std::time::Duration;

use tokio::time::sleep;

use super::event::{MoveEvent, MoveNews};
use super::journal::{Intent, Journal};
use super::mover::{Mover, ROUNDS};
use super::names::{self, Names, schema_at};
use super::preflight;
use super::report::{MoveId, MoveReport};
use super::run::{Run, next};
use super::side::Side;
use super::step::{MovePhase, MoveStep};
use crate::catalog::{InstanceState, Snapshot};
use crate::shard::{Home, InstanceName, ShardId};
use crate::{Error, Outcome, Result};

/// The pause after the first connection that was lost; after each further one it is twice as long. A server that restarts is
/// given twelve seconds in all.
const PAUSE: Duration = Duration::from_millis(100);

/// A move that was entered just now, with what was opened for it: both servers are locked.
pub(super) struct Begun {
    journal: Journal,
    snapshot: Snapshot,
    pub(super) report: MoveReport,
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
    /// Everything up to the journal's entry. Nothing when, while we waited for the locks, the shard has moved or got a move.
    pub(super) async fn begin(
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
            preflight::rehearse(
                &self.connector,
                &journal,
                &self.kept,
                sides,
                (shard, self.reverse),
            )
            .await?;
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
    pub(super) async fn take_up(
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
                Ok(()) => return self.show_kept(id).await,
            }
        }
    }

    /// What the journal says, in a session that is there already.
    async fn show_kept(&self, id: MoveId) -> Result<MoveReport> {
        let journal = self.journal().await?;
        let report = journal.show(id).await?;
        self.kept.keep_journal(journal);
        Ok(report)
    }

    async fn take_up_once(&self, id: MoveId, wish: Wish, begun: Option<Box<Begun>>) -> Result<()> {
        if let Some(begun) = begun {
            let Begun { journal, snapshot, report, sides } = *begun;
            let run = self.take_over(&snapshot, journal, &report, false, sides).await?;
            let done = run.go_on().await;
            return Box::pin(ended(run, done)).await;
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
        Box::pin(ended(run, done)).await
    }

    /// Locks both servers for a move that is in the journal, and takes it over.
    pub(super) async fn lock<'a>(
        &'a self,
        snapshot: &Snapshot,
        journal: Journal,
        report: &MoveReport,
        back: bool,
    ) -> Result<Run<'a>> {
        let (id, shard, step) = (Some(report.id), report.shard, MoveStep::LockServers);
        let observe = |what| self.observe(&MoveEvent { id, shard, back, step, what });
        observe(MoveNews::Begun);
        let (source, target) = futures_util::try_join!(
            self.kept.side(&self.connector, snapshot, &report.source),
            self.kept.side(&self.connector, snapshot, &report.target)
        )?;
        source.lock(shard).await?;
        target.lock(shard).await?;
        observe(MoveNews::Done);
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
    let (shard, new) = (home.shard(), next(home.epoch())?);
    if !source.epochs(shard).await?.is_empty() || target.epochs(shard).await? != [new] {
        return Ok(false);
    }
    let comment = target.comment(&schema_at(shard, new, &target.name)).await?;
    Ok(!comment.is_some_and(|comment| names::is_of_copy(&comment)))
}

fn is_lost(error: &Error) -> bool {
    error.kind() == crate::error::Kind::Unavailable
}
