//! Carrying out a plan: many moves, each of its own, so that one which fails hinders no other.

use futures_util::stream::{self, StreamExt};

use super::journal::MoveReport;
use super::mover::Mover;
use super::plan::RebalancePlan;
use super::step::MovePhase;
use crate::Result;
use crate::shard::{InstanceName, ShardId};

/// How a shard's move went.
type Moved = (ShardId, Result<MoveReport>);

impl Mover {
    /// Makes the moves of a plan, up to `parallel` at once, the largest first. Stopped half-way, planning again goes on
    /// from there.
    pub async fn carry_out(&self, plan: &RebalancePlan, parallel: usize) -> Vec<Moved> {
        let moving = plan
            .moves
            .iter()
            .map(|planned| async { (planned.shard, self.run(planned.shard, &planned.to).await) });
        stream::iter(moving).buffer_unordered(parallel.max(1)).collect().await
    }

    /// Goes on with every move that was interrupted, one after the other.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read. What goes wrong with a move is part of the answer.
    pub async fn resume_all(&self) -> Result<Vec<Moved>> {
        let interrupted =
            |report: &MoveReport| report.phase.is_open() && report.phase != MovePhase::Reversible;
        let mut resumed = Vec::new();
        for report in self.list().await?.into_iter().filter(interrupted) {
            resumed.push((report.shard, self.resume(report.id).await));
        }
        Ok(resumed)
    }

    /// Drops the old copies that moves have left on an instance: those moves cannot be undone from then on.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read. What goes wrong with a move is part of the answer.
    pub async fn finish_away_from(&self, instance: &InstanceName) -> Result<Vec<Moved>> {
        let left = |report: &MoveReport| {
            report.phase == MovePhase::Reversible && report.source == *instance
        };
        let mut finished = Vec::new();
        for report in self.list().await?.into_iter().filter(left) {
            finished.push((report.shard, self.finish(report.id).await));
        }
        Ok(finished)
    }
}
