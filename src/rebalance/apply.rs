//! Carrying out a plan: many moves, each of its own, so that one which fails hinders no other.

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::dump::Wanted;
use super::mover::Mover;
use super::plan::RebalancePlan;
use super::report::MoveReport;
use super::step::MovePhase;
use super::turns::{Turn, Turns};
use crate::Result;
use crate::shard::{Home, InstanceName, ShardId};

/// How a shard's move went.
type Moved = (ShardId, Result<MoveReport>);

impl Mover {
    /// Moves several shards to one instance: [`run`](Self::run) for each. Each instance takes part in up to `parallel` moves
    /// at once, so as many go on at the target. What one move has opened serves the next, and what the servers are asked for is
    /// asked for together where it can be.
    #[must_use = "some moves may have failed"]
    pub async fn run_all(
        &self,
        shards: &[ShardId],
        to: &InstanceName,
        parallel: usize,
    ) -> Vec<Moved> {
        let moves = shards.iter().map(|shard| (*shard, to.clone()));
        self.move_each(moves.collect(), parallel).await
    }

    /// Makes the moves of a plan, the largest first. Each instance takes part in up to `parallel` of them at once, as source
    /// or as target; moves that share none go on beside each other. Stopped half-way, planning again goes on from there.
    #[must_use = "some moves may have failed"]
    pub async fn carry_out(&self, plan: &RebalancePlan, parallel: usize) -> Vec<Moved> {
        let moves = plan.moves.iter().map(|planned| (planned.shard, planned.to.clone()));
        self.move_each(moves.collect(), parallel).await
    }

    async fn move_each(&self, moves: Vec<(ShardId, InstanceName)>, parallel: usize) -> Vec<Moved> {
        let _at_work = self.kept.at_work();
        // Where the catalog does not answer, the moves say so.
        let snapshot = self.snapshot().await.ok();
        let home = |shard| snapshot.as_ref().and_then(|snapshot| snapshot.map.home(shard).ok());
        self.expect(moves.iter().filter_map(|(shard, _)| home(*shard)));
        let turns = moves.into_iter().map(|(shard, to)| {
            let from = home(shard).map(|home| home.instance().clone());
            Turn { shard, from, to }
        });
        let mut turns = Turns::new(turns, parallel);
        let (mut moving, mut moved) = (FuturesUnordered::new(), Vec::new());
        loop {
            while let Some(turn) = turns.take() {
                moving.push(async move { (self.run(turn.shard, &turn.to).await, turn) });
            }
            let Some((done, turn)) = moving.next().await else { return moved };
            turns.give_back(&turn);
            moved.push((turn.shard, done));
        }
    }

    /// These shards are to be moved soon, from where they are now.
    fn expect<'a>(&self, homes: impl Iterator<Item = &'a Home>) {
        let wanted =
            |home: &Home| Wanted { instance: home.instance().clone(), schema: home.schema() };
        self.kept.dumps.expect(homes.map(wanted));
    }

    /// Goes on with every move that was interrupted, one after the other.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be read. What goes wrong with a move is part of the answer.
    #[must_use = "some moves may have failed"]
    pub async fn resume_all(&self) -> Result<Vec<Moved>> {
        let interrupted =
            |report: &MoveReport| report.phase.is_open() && report.phase != MovePhase::Reversible;
        let _at_work = self.kept.at_work();
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
    #[must_use = "some moves may have failed"]
    pub async fn finish_away_from(&self, instance: &InstanceName) -> Result<Vec<Moved>> {
        let left = |report: &MoveReport| {
            report.phase == MovePhase::Reversible && report.source == *instance
        };
        let _at_work = self.kept.at_work();
        let mut finished = Vec::new();
        for report in self.list().await?.into_iter().filter(left) {
            finished.push((report.shard, self.finish(report.id).await));
        }
        Ok(finished)
    }
}
