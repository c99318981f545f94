//! One run of a move: it takes the locks, looks at what is on the servers, and goes on from there.
//!
//! Running it again after any interruption is the same code: each step finds what is there and does what is missing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::cutover::Cutover;
use super::event::{MoveEvent, MoveNews};
use super::headway::Headway;
use super::journal::Journal;
use super::mover::Mover;
use super::names::{Names, schema_at};
use super::relations::Relations;
use super::report::MoveReport;
use super::side::Side;
use super::step::{MovePhase, MoveStep};
use super::stream;
use super::verify::{Findings, Pair};
use crate::shard::Epoch;
use crate::{Error, Result};

/// A move in the hands of this process: both servers are locked, and the journal has our attempt.
pub(super) struct Run<'a> {
    pub(super) mover: &'a Mover,
    pub(super) journal: Journal,
    pub(super) report: MoveReport,
    /// Which way it goes. The journal knows of the way back once nothing was found that would keep it from that.
    back: bool,
    pub(super) names: Names,
    pub(super) source: Side,
    pub(super) target: Side,
    fence_began: Mutex<Option<Instant>>,
    headway: Mutex<Headway>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        mover: &'a Mover,
        journal: Journal,
        report: MoveReport,
        back: bool,
        names: Names,
        [source, target]: [Side; 2],
    ) -> Self {
        let (fence_began, headway) = Default::default();
        Self { mover, journal, report, back, names, source, target, fence_began, headway }
    }

    /// Leaves what it has worked with to the next one. After a failure nobody may want it: sessions that are closed hold no
    /// locks, and nothing is on its way in them.
    pub(super) async fn leave(self) {
        let kept = &self.mover.kept;
        for side in [self.source, self.target] {
            if side.unlock().await.is_ok() {
                kept.keep_side(side);
            }
        }
        self.journal.forget_statements();
        kept.keep_journal(self.journal);
    }

    /// How the other server reaches this one.
    pub(super) async fn conninfo(&self, from: &Side, to: &Side) -> Result<String> {
        stream::conninfo(&self.mover.connector, &self.journal, from, to).await
    }

    /// Brings the move to its rest: the shard lives on the target, or, on the way back, on the source.
    pub(super) async fn go_on(&self) -> Result<()> {
        match (self.report.is_ending(), self.back) {
            (false, false) => self.forward().await,
            (false, true) => self.backward().await,
            // The schema that would say so may be dropped already; the journal says it.
            (true, false) => self.finish().await,
            (true, true) => self.settle_back().await,
        }
    }

    async fn forward(&self) -> Result<()> {
        let (old, new) = (self.report.epoch, next(self.report.epoch)?);
        let (source, target) = (&self.source, &self.target);
        let cutover = Cutover {
            run: self,
            from: source,
            to: target,
            old,
            new,
            stream: &self.names.forward,
            reverse: self.report.reverse,
        };
        if !self.is_closed([source, target], old, new).await? {
            if !self.servers_are_the_same() {
                return Err(self.void());
            }
            let schema = schema_at(self.report.shard, old, &source.name);
            let relations = Relations::read(&source.work, &schema).await?;
            let findings = async {
                cutover.take_back().await?;
                self.copy(&schema, &relations).await?;
                self.verify([source, target], &schema, &relations).await
            };
            let findings = Box::pin(self.within_cap(findings)).await?;
            cutover.perform(&relations, &findings).await?;
        } else {
            self.conclude(&cutover).await?;
        }
        self.settle().await
    }

    async fn backward(&self) -> Result<()> {
        let old = next(self.report.epoch)?;
        let new = next(old)?;
        let (home, copy) = (&self.target, &self.source);
        let cutover = Cutover {
            run: self,
            from: home,
            to: copy,
            old,
            new,
            stream: &self.names.reverse,
            reverse: false,
        };
        if !self.is_closed([home, copy], old, new).await? {
            if !self.servers_are_the_same() {
                return Err(Error::refused(format!(
                    "{} or {} failed over since the move, so the old copy may not have everything",
                    home.name, copy.name
                ))
                .hint(format!(
                    "`howdah moves finish {}`, then move the shard anew",
                    self.report.id
                )));
            }
            let schema = schema_at(self.report.shard, old, &home.name);
            let relations = Relations::read(&home.work, &schema).await?;
            cutover.take_back().await?;
            // Until here it can be undone, whatever is found; from here on it goes back when it is resumed.
            self.event_begin(MoveStep::Verify);
            let comparing = Box::pin(self.compare([home, copy], &schema, &relations));
            let findings = tokio::select! {
                biased;
                compared = comparing => compared?,
                Err(error) = self.tell_journal() => return Err(error),
            };
            self.journal.turn_back(&self.report).await?;
            self.end(MoveStep::Verify).await?;
            cutover.perform(&relations, &findings).await?;
        } else {
            self.conclude(&cutover).await?;
        }
        self.settle_back().await
    }

    /// Whether the home was closed already: where the schema has its old name, it is the home; where it has the new one, it takes
    /// no more writes. It alone decides.
    async fn is_closed(&self, [home, copy]: [&Side; 2], old: Epoch, new: Epoch) -> Result<bool> {
        let epochs = home.epochs(self.report.shard).await?;
        match (epochs.contains(&old), epochs.contains(&new)) {
            (true, false) => Ok(false),
            (false, true) => Ok(true),
            // Dropped when the move was ended, which a catalog that failed over may have forgotten.
            (false, false) if copy.epochs(self.report.shard).await?.contains(&new) => Ok(true),
            (both, _) => Err(Error::refused(format!(
                "{} has {} of the schemas that shard {} may have there",
                home.name,
                if both { "both" } else { "none" },
                self.report.shard
            ))
            .hint("was it restored from a backup? see what is there before anything else")),
        }
    }

    /// The home is closed: the copy is the only one that can serve.
    async fn conclude(&self, cutover: &Cutover<'_>) -> Result<()> {
        if !cutover.to.epochs(self.report.shard).await?.contains(&cutover.new) {
            return Err(Error::refused(format!(
                "shard {} is closed on {}, and {} does not have it",
                self.report.shard, cutover.from.name, cutover.to.name
            ))
            .hint("did that server lose its last commits in a failover? bring back the one that has them"));
        }
        cutover.go_on().await
    }

    /// Compares both copies, and notes what was found. Without it, no cutover.
    async fn verify(
        &self,
        sides: [&Side; 2],
        schema: &str,
        relations: &Relations,
    ) -> Result<Findings> {
        self.begin(MoveStep::Verify).await?;
        let findings = self.compare(sides, schema, relations).await?;
        self.end(MoveStep::Verify).await?;
        Ok(findings)
    }

    /// The same by hand, for a move that can be undone: it stays what it is, whatever is found.
    pub(super) async fn verify_reversible(&self, schema: &str) -> Result<()> {
        let relations = Relations::read(&self.target.work, schema).await?;
        self.event_begin(MoveStep::Verify);
        self.compare([&self.target, &self.source], schema, &relations).await?;
        self.event_end(MoveStep::Verify);
        Ok(())
    }

    async fn compare(
        &self,
        [home, copy]: [&Side; 2],
        schema: &str,
        relations: &Relations,
    ) -> Result<Findings> {
        self.journal.set_verified(&self.report, false).await?;
        self.check_stream(home).await?;
        let is_forward = home.name == self.source.name;
        let stream = if is_forward { &self.names.forward } else { &self.names.reverse };
        let pair = Pair { home, copy, stream, schema, id: self.report.id.get() };
        let progress = |rows| {
            let (bytes, of_bytes, bytes_per_second, left) = (0, 0, None, None);
            let news = MoveNews::Progress { rows, bytes, of_bytes, bytes_per_second, left };
            self.event(MoveStep::Verify, news);
        };
        pair.work_off(|news| self.event(MoveStep::Verify, news)).await?;
        let findings = pair.compare(relations, progress).await?;
        self.store(&findings).await?;
        if let Some(difference) = findings.difference() {
            return Err(self.differ(&difference));
        }
        self.journal.set_verified(&self.report, true).await?;
        Ok(findings)
    }

    /// The next step where the copies are not the same.
    pub(super) fn differ(&self, difference: &str) -> Error {
        let has_left = self.back || self.report.phase == MovePhase::Reversible;
        Error::refused(format!("the copies differ: {difference}")).hint(format!(
            "the shard stays where it is; the move can be ended by `howdah moves {} {}`",
            if has_left { "finish" } else { "abort" },
            self.report.id
        ))
    }

    /// Nothing catches up any more where the server gave up the slot.
    async fn check_stream(&self, home: &Side) -> Result<()> {
        let to_target = home.name == self.source.name;
        let (name, end) = if to_target {
            (&self.names.forward, "abort")
        } else {
            (&self.names.reverse, "finish")
        };
        match stream::held_back(home, name).await? {
            Some((_, false)) => Err(Error::refused(format!(
                "the copy fell so far behind that {} dropped what it lacks (max_slot_wal_keep_size)",
                home.name
            ))
            .hint(format!("`howdah moves {end} {}`, then move the shard anew", self.report.id))),
            _ => Ok(()),
        }
    }

    async fn store(&self, findings: &Findings) -> Result<()> {
        let structure = findings.structure_difference.as_deref();
        self.journal.store_verified(&self.report, None, [0, 0], structure).await?;
        for found in &findings.tables {
            let (name, difference) = (found.table.name.as_str(), found.difference.as_deref());
            let counts = [found.rows, found.chunks];
            self.journal.store_verified(&self.report, Some(name), counts, difference).await?;
        }
        Ok(())
    }

    /// Neither server failed over, and neither is another one, since the copy began.
    pub(super) fn servers_are_the_same(&self) -> bool {
        let [source, target] = [&self.report.source_server, &self.report.target_server];
        source.as_ref() == Some(&self.source.server) && target.as_ref() == Some(&self.target.server)
    }

    /// The copy may lack what a failover has lost, or have too much.
    pub(super) fn void(&self) -> Error {
        Error::refused(format!(
            "{} or {} failed over since the copy began, so it is void",
            self.source.name, self.target.name
        ))
        .hint(format!("`howdah moves abort {}`, then move the shard anew", self.report.id))
    }

    pub(super) async fn begin(&self, step: MoveStep) -> Result<()> {
        self.journal.note(&self.report, step, false).await?;
        self.event_begin(step);
        Ok(())
    }

    pub(super) async fn end(&self, step: MoveStep) -> Result<()> {
        self.event_end(step);
        self.journal.note(&self.report, step, true).await
    }

    /// For the steps within the fence: what they leave behind says itself how far they came, and each note would keep writers
    /// waiting.
    pub(super) fn event_begin(&self, step: MoveStep) {
        self.event(step, MoveNews::Begun);
    }

    pub(super) fn event_end(&self, step: MoveStep) {
        self.event(step, MoveNews::Done);
    }

    pub(super) fn tell(&self, step: MoveStep, note: &str) {
        self.event(step, MoveNews::Note(note.to_owned()));
    }

    pub(super) fn lag(&self, step: MoveStep, lag: Duration) {
        self.event(step, MoveNews::Lag(lag));
    }

    pub(super) fn event(&self, step: MoveStep, what: MoveNews) {
        self.headway.lock().unwrap_or_else(PoisonError::into_inner).hear(step, &what);
        let (id, shard) = (Some(self.report.id), self.report.shard);
        self.mover.observe(&MoveEvent { id, shard, back: self.back, step, what });
    }

    pub(super) fn headway(&self) -> Headway {
        *self.headway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was copied, now that it is known.
    pub(super) async fn set_copied(&self, rows: u64, bytes: u64) -> Result<()> {
        let copied = Headway { rows: Some(rows), bytes: Some(bytes), ..Headway::default() };
        *self.headway.lock().unwrap_or_else(PoisonError::into_inner) = copied;
        self.journal.set_headway(&self.report, &copied).await
    }

    pub(super) async fn rest(&self, phase: MovePhase) -> Result<()> {
        self.journal.rest(&self.report, phase).await
    }

    pub(super) fn fence_begins(&self, at: Instant) {
        *self.fence_began.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fence_began.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn fence_ends(&self) -> Option<Instant> {
        self.fence_began.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(super) fn next(epoch: Epoch) -> Result<Epoch> {
    let number = epoch.get().checked_add(1).and_then(|number| i32::try_from(number).ok());
    Epoch::new(number.ok_or_else(|| Error::refused("the shard has moved as often as it can"))?)
}
