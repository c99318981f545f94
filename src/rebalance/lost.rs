//! The end of a move one server of which is gone for good.
//!
//! The lock of the server that stays is enough: a home is closed only by the session that holds the lock there. So the shard
//! lives where the catalog says, if that server, under its lock, has it by that name.

use std::time::Duration;

use super::event::{MoveEvent, MoveNews};
use super::hosts::Hosts;
use super::journal::Journal;
use super::mover::Mover;
use super::names::{Names, schema_at};
use super::opening::{begin_unsealing_left, commit_unsealing};
use super::report::MoveReport;
use super::run::next;
use super::settle::{drop_stream_at, unmark};
use super::side::Side;
use super::step::{MovePhase, MoveStep};
use super::take_up::Wish;
use crate::shard::InstanceName;
use crate::{Error, Result};

/// How long the home's hosts may take to hear that it is open. One of them may well be what was lost.
const HOSTS: Duration = Duration::from_secs(60);

impl Mover {
    /// An instance whose server is gone for good: [`finish`](Self::finish) and [`abort`](Self::abort) end a move without it.
    /// What the move has on it is left there, and noted in the journal. Default: none.
    #[must_use]
    pub fn without(mut self, lost: InstanceName) -> Self {
        self.lost = Some(lost);
        self
    }

    /// Ends a move, where the shard lives, without the other server.
    pub(super) async fn end_without(
        &self,
        lost: &InstanceName,
        wish: Wish,
        journal: &Journal,
        report: &MoveReport,
    ) -> Result<()> {
        let (id, shard) = (report.id, report.shard);
        let ends = [&report.source, &report.target];
        if !ends.contains(&lost) {
            return Err(Error::input(format!("{id} does not touch {lost}")));
        }
        let snapshot = self.snapshot().await?;
        let home = snapshot.map.home(shard)?;
        let there = next(report.epoch)?;
        let phase = match (wish, home.instance(), home.epoch()) {
            (Wish::Abort, at, epoch) if *at == report.source && epoch == report.epoch => {
                MovePhase::Aborted
            }
            (Wish::Finish, at, epoch) if *at == report.target && epoch == there => {
                MovePhase::Finished
            }
            (Wish::Finish, at, epoch) if *at == report.source && epoch == next(there)? => {
                MovePhase::RolledBack
            }
            (_, at, _) => {
                return Err(Error::refused(format!("shard {shard} lives on {at}")).hint(
                    "where it has left its source, its move is finished; where not, aborted",
                ));
            }
        };
        if home.instance() == lost {
            return Err(Error::refused(format!("shard {shard} lives on {lost}"))
                .hint("bring that server back, or promote a standby of it"));
        }
        match Side::connect(&self.connector, &snapshot, lost).await {
            Ok(_) => {
                return Err(Error::refused(format!("{lost} is not lost: it answers"))
                    .hint("end the move with it, so that nothing is left there"));
            }
            Err(error) if error.is_unavailable() || error.is_wrong_server() => {}
            Err(error) => return Err(error),
        }
        let side = Side::connect(&self.connector, &snapshot, home.instance()).await?;
        side.lock(shard).await?;
        let report = journal.take_over(report).await?;
        if !side.epochs(shard).await?.contains(&home.epoch()) {
            return Err(Error::refused(format!(
                "shard {shard} is closed on {}: it was about to leave for {lost}",
                side.name
            ))
            .hint("bring that server back; it may have the only copy that can serve"));
        }
        let names = Names::new(&snapshot.cluster, id.get(), shard, report.epoch);
        let schema = schema_at(shard, home.epoch(), &side.name);
        let (id, back) = (Some(id), report.back);
        let observe = |step, what| self.observe(&MoveEvent { id, shard, back, step, what });
        // What is dropped below is the last that knows how to open it.
        if begin_unsealing_left(&side, &schema, &names, report.id).await? {
            observe(MoveStep::UnsealTarget, MoveNews::Begun);
            commit_unsealing(&side).await?;
            observe(MoveStep::UnsealTarget, MoveNews::Done);
        }
        // The home of a way back that was not gone was unsealed long ago.
        let came_last = match phase {
            MovePhase::Finished => !report.back,
            MovePhase::RolledBack => report.back,
            _ => false,
        };
        if came_last && report.step <= MoveStep::AwaitUnsealed {
            let step = MoveStep::AwaitUnsealed;
            observe(step, MoveNews::Begun);
            let tell = |waits: &str| observe(step, MoveNews::Note(waits.to_owned()));
            let mut hosts = Hosts::connect(&self.connector, &side).await;
            let unsealed = hosts.have_unsealed(&schema, &names.comment, HOSTS, tell).await;
            unsealed.map_err(|error| {
                error.hint(
                    "bring it back or take it out of the instance's address, then run this again",
                )
            })?;
            observe(step, MoveNews::Done);
        }
        observe(MoveStep::DropReverse, MoveNews::Begun);
        for name in [&names.forward, &names.reverse] {
            drop_stream_at(&side, name).await?;
        }
        observe(MoveStep::DropReverse, MoveNews::Done);
        unmark(&side, &schema).await?;
        let note = format!("{lost} was given as lost: what the move had there was left");
        journal.rest_without(&report, phase, &note).await
    }
}
