//! What comes after a cutover, and instead of one: the stream back, the end of a move, and its abortion.

use std::time::Duration;

use tokio_postgres::types::PgLsn;

use super::names::{MARK_TABLE, is_of_copy, schema_at};
use super::run::{Run, next};
use super::seal;
use super::side::Side;
use super::step::{MovePhase, MoveStep};
use super::stream::{self, Takes};
use crate::error::Kind;
use crate::shard::Epoch;
use crate::{Error, Result};

/// For how long the old copy may take nothing when it begins to follow. Most have all of it within a second; while one large
/// transaction is applied, nothing of it shows.
const STANDS_STILL: Duration = Duration::from_secs(120);

impl Run<'_> {
    /// After the cutover: the stream there is dropped, and the stream back runs; or, without one, the old copy is dropped.
    pub(super) async fn settle(&self) -> Result<()> {
        let target = &self.target;
        self.drop_forward().await?;
        let Some(position) = self.position_of_way_back().await? else {
            return self.finish().await;
        };
        self.begin(MoveStep::AdvanceReverse).await?;
        stream::advance(target, &self.names.reverse, position).await?;
        self.end(MoveStep::AdvanceReverse).await?;

        self.begin(MoveStep::StartReverse).await?;
        self.start_way_back().await.map_err(|error| {
            let id = self.report.id;
            error.hint(format!(
                "resume the move; or give up the way back: `howdah moves finish {id}`"
            ))
        })?;
        self.end(MoveStep::StartReverse).await?;
        self.rest(MovePhase::Reversible).await
    }

    /// Has the old copy follow the new home, and waits until it does.
    async fn start_way_back(&self) -> Result<()> {
        let (source, target, name) = (&self.source, &self.target, &self.names.reverse);
        let conninfo = self.conninfo(target, source).await?;
        stream::subscribe(&conninfo, source, target, name, Takes::WhatIsWrittenThere).await?;
        let schema = schema_at(self.report.shard, next(self.report.epoch)?, &target.name);
        let mark = (schema.as_str(), self.report.id.get());
        let tell = |news| self.event(MoveStep::StartReverse, news);
        stream::work_off(target, source, name, mark, STANDS_STILL, tell).await.map_err(|error| {
            if error.is_timeout() {
                Error::new(Kind::Timeout, "the way back does not run").because(error)
            } else {
                error
            }
        })
    }

    async fn drop_forward(&self) -> Result<()> {
        self.begin(MoveStep::DropForward).await?;
        self.drop_stream(&self.source, &self.target, &self.names.forward).await?;
        self.end(MoveStep::DropForward).await
    }

    /// Where the stream back begins; nothing where there can be none.
    async fn position_of_way_back(&self) -> Result<Option<PgLsn>> {
        // After a failover of the new home its slot is gone, and nobody can say what the old copy lacks. And the copy may have been
        // dropped, which a catalog that failed over has forgotten.
        let is_there = !self.source.epochs(self.report.shard).await?.is_empty();
        if !self.report.reverse {
            return Ok(None);
        }
        let none = |why: &str| {
            let finished = format!("{why}, so the move is finished without a way back");
            self.tell(MoveStep::AdvanceReverse, &finished);
            Ok(None)
        };
        if !is_there {
            return none("the old copy was dropped");
        }
        if !self.servers_are_the_same() {
            return none("a server failed over since the copy began");
        }
        // So it is after the server gave up the slot, or somebody dropped it.
        if !stream::is_whole(&self.target, &self.names.reverse).await? {
            return none("the slot of the way back is lost");
        }
        match self.journal.show(self.report.id).await?.position {
            None => none("where it would begin was not noted"),
            position => Ok(position),
        }
    }

    /// After the way back: nothing of the move stays but its journal.
    pub(super) async fn settle_back(&self) -> Result<()> {
        let (home, copy) = (&self.source, &self.target);
        let new = next(next(self.report.epoch)?)?;
        self.begin(MoveStep::DropReverse).await?;
        self.drop_stream(copy, home, &self.names.reverse).await?;
        self.end(MoveStep::DropReverse).await?;
        self.drop_copy(home, copy, new, MovePhase::RolledBack).await
    }

    /// Ends a move whose shard lives on the target for good; on the way back, as long as the target was not closed.
    pub(super) async fn finish(&self) -> Result<()> {
        let (old, new) = (self.report.epoch, next(self.report.epoch)?);
        let (source, target) = (&self.source, &self.target);
        let epochs = source.epochs(self.report.shard).await?;
        if epochs.contains(&old) || !target.epochs(self.report.shard).await?.contains(&new) {
            let when = if self.report.back { "any more" } else { "yet" };
            return Err(Error::refused(format!(
                "shard {} does not live on {} {when}",
                self.report.shard, target.name
            ))
            .hint(format!("`howdah moves resume {}`", self.report.id)));
        }
        if self.report.back {
            self.journal.stay(&self.report).await?;
        }
        self.begin(MoveStep::DropReverse).await?;
        self.drop_stream(target, source, &self.names.reverse).await?;
        self.end(MoveStep::DropReverse).await?;
        self.drop_copy(target, source, new, MovePhase::Finished).await
    }

    /// Ends a move that cannot come to its rest, since no stream back can be made. What the journal says of the home has to be so.
    pub(super) async fn finish_unsettled(&self) -> Result<()> {
        let (shard, target) = (self.report.shard, &self.target);
        let new = next(self.report.epoch)?;
        let comment = target.comment(&schema_at(shard, new, &target.name)).await?;
        let is_sealed = comment.is_some_and(|comment| is_of_copy(&comment));
        if is_sealed || !self.journal.is_home(shard, &target.name, new).await? {
            return Err(Error::refused(format!(
                "shard {shard} is not open on {} yet",
                target.name
            ))
            .hint(format!("`howdah moves resume {}`", self.report.id)));
        }
        self.drop_forward().await?;
        self.finish().await
    }

    /// Undoes a move before its cutover. The source was looked at under its lock: it is the home. Or the shard has never been
    /// where the move was to begin, and nothing was made.
    pub(super) async fn abort(&self) -> Result<()> {
        let (old, new) = (self.report.epoch, next(self.report.epoch)?);
        let (source, target) = (&self.source, &self.target);
        let here = source.epochs(self.report.shard).await?;
        let there = target.epochs(self.report.shard).await?;
        let is_nowhere =
            [old, new].iter().all(|epoch| !here.contains(epoch) && !there.contains(epoch));
        if self.report.back || !here.contains(&old) && !is_nowhere {
            return Err(Error::refused(format!(
                "shard {} has left {} already",
                self.report.shard, source.name
            ))
            .hint(format!(
                "`howdah moves resume {id}`, then `howdah moves rollback {id}` or `finish`",
                id = self.report.id
            )));
        }
        // Nothing is noted: until it has ended, it can be resumed.
        self.event_begin(MoveStep::DropForward);
        self.drop_stream(source, target, &self.names.forward).await?;
        self.event_end(MoveStep::DropForward);
        self.event_begin(MoveStep::DropReverse);
        self.drop_stream(target, source, &self.names.reverse).await?;
        self.event_end(MoveStep::DropReverse);
        self.event_begin(MoveStep::DropCopy);
        self.drop_schemas_of_ours().await?;
        unmark(source, &schema_at(self.report.shard, old, &source.name)).await?;
        self.event_end(MoveStep::DropCopy);
        self.rest(MovePhase::Aborted).await
    }

    /// Drops what was made of a copy that has not become the home, with the streams.
    pub(super) async fn drop_copy_of_ours(&self) -> Result<()> {
        let (source, target) = (&self.source, &self.target);
        self.drop_stream(source, target, &self.names.forward).await?;
        self.drop_stream(target, source, &self.names.reverse).await?;
        self.drop_schemas_of_ours().await
    }

    async fn drop_schemas_of_ours(&self) -> Result<()> {
        for epoch in [self.report.epoch, next(self.report.epoch)?] {
            self.drop_schema_if_ours(&self.target, epoch).await?;
        }
        Ok(())
    }

    /// Drops a slot, then the subscription that has drawn from it. How far that came is known by its origin, which goes with it:
    /// another one made on the same slot would apply again what was applied.
    async fn drop_stream(&self, from: &Side, to: &Side, name: &str) -> Result<()> {
        stream::disable(to, name).await?;
        stream::drop_slot(from, name).await?;
        stream::unsubscribe(to, name).await?;
        stream::unpublish(from, name).await
    }

    async fn drop_copy(
        &self,
        home: &Side,
        copy: &Side,
        epoch: Epoch,
        phase: MovePhase,
    ) -> Result<()> {
        self.begin(MoveStep::DropCopy).await?;
        // A way back that was given up may have opened it.
        for epoch in [epoch, next(epoch)?] {
            self.drop_schema_if_ours(copy, epoch).await?;
        }
        unmark(home, &schema_at(self.report.shard, epoch, &home.name)).await?;
        self.end(MoveStep::DropCopy).await?;
        self.rest(phase).await
    }

    /// Drops a schema that carries this move's comment, or its mark; any other is somebody else's.
    async fn drop_schema_if_ours(&self, side: &Side, epoch: Epoch) -> Result<()> {
        let schema = schema_at(self.report.shard, epoch, &side.name);
        if !side.epochs(self.report.shard).await?.contains(&epoch) {
            return Ok(());
        }
        let ours = [self.names.comment.clone(), self.names.bare_comment()];
        let comment = side.comment(&schema).await?;
        if !comment.is_some_and(|comment| ours.contains(&comment))
            && !self.is_marked(side, &schema).await?
        {
            return Err(Error::refused(format!("{schema} was not made by {}", self.report.id))
                .at(&side.name)
                .hint("look at it, and drop it by hand"));
        }
        if self.journal.is_home(self.report.shard, &side.name, epoch).await? {
            return Err(Error::refused(format!("the catalog says that {schema} is the home"))
                .at(&side.name)
                .hint("was the catalog restored from a backup? see what is there before anything else"));
        }
        let sql = format!("SET lock_timeout = '30s'; {}", seal::drop_schema(&schema));
        side.work.batch(&sql, "cannot drop the copy").await?;
        side.work.refresh().await
    }

    /// Whether a schema has this move's mark: it was a copy, and has been opened.
    async fn is_marked(&self, side: &Side, schema: &str) -> Result<bool> {
        const TABLE: &str = "SELECT to_regclass($1) IS NOT NULL";
        const WHAT: &str = "cannot look for the mark";

        let table = format!("{schema}.{MARK_TABLE}");
        if !side.work.one(TABLE, &[&table], WHAT).await?.get::<_, bool>(0) {
            return Ok(false);
        }
        let mark = format!("SELECT FROM {table} WHERE move = $1");
        Ok(side.work.opt(&mark, &[&self.report.id.get()], WHAT).await?.is_some())
    }
}

/// Drops what a stream has on one server, whichever end of it that is.
pub(super) async fn drop_stream_at(side: &Side, name: &str) -> Result<()> {
    stream::unsubscribe(side, name).await?;
    stream::drop_slot(side, name).await?;
    stream::unpublish(side, name).await
}

/// Takes the mark of a move off the home, which migrations may change from then on.
pub(super) async fn unmark(home: &Side, schema: &str) -> Result<()> {
    let sql = format!("SET lock_timeout = '30s'; DROP TABLE IF EXISTS {schema}.{MARK_TABLE}");
    home.work.batch(&sql, "cannot unmark the shard").await?;
    home.work.refresh().await
}
