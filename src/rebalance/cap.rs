//! A move gives up before the WAL that it holds back fills its source's disk.

use std::time::Duration;

use futures_util::join;
use tokio::time::{sleep, timeout};

use super::run::Run;
use super::stream;
use crate::{Error, Result};

/// How often the slot is looked at. Even a fast disk writes few gigabytes in that time.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long it may take to undo the move: a target that hangs may never be done with it.
const UNDO: Duration = Duration::from_secs(60);

/// What becomes of WAL that is held back for too long.
enum Beyond {
    /// There are more bytes of it than are allowed.
    Kept(i64),
    /// The server has dropped it by itself.
    Dropped,
}

impl Run<'_> {
    /// Does what takes long. When the source has to keep more WAL for it than is allowed, everything is undone: the shard
    /// stays where it is, and the WAL is free.
    pub(super) async fn within_cap<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let beyond = tokio::select! {
            biased;
            done = work => return done,
            Err(error) = self.tell_journal() => return Err(error),
            beyond = self.beyond_cap() => beyond?,
        };
        let (source, target, name) = (&self.source, &self.target, &self.names.forward);
        let undone = timeout(UNDO, async {
            // The slot is dropped whatever becomes of the target: that may be busy for long with what it was told before, or gone.
            // The subscription goes behind the slot, as always.
            let (dropped, disabled) =
                join!(stream::drop_slot(source, name), stream::disable(target, name));
            dropped?;
            disabled?;
            source.work.roll_back().await;
            target.work.roll_back().await;
            self.abort().await
        });
        let is_undone = undone.await.map_or(Ok(false), |undone| undone.map(|()| true))?;
        let error = self.given_up(beyond);
        if is_undone {
            return Err(error);
        }
        Err(error.hint(format!(
            "it could not be undone within a minute: `howdah moves abort {}` when both servers answer",
            self.report.id
        )))
    }

    fn given_up(&self, beyond: Beyond) -> Error {
        let (source, target) = (&self.source.name, &self.target.name);
        match beyond {
            Beyond::Kept(bytes) => Error::refused(format!(
                "{source} kept {bytes} bytes of WAL for the copy, and {} are allowed, so the move was given up",
                self.mover.max_wal
            ))
            .hint(format!("{target} was too slow or stood still")),
            Beyond::Dropped => Error::refused(format!(
                "{source} dropped what the copy lacks (max_slot_wal_keep_size), so the move was given up"
            ))
            .hint(format!("raise that on {source}; or {target} was too slow or stood still")),
        }
    }

    /// Ends when there is more than is allowed, or less than is needed.
    async fn beyond_cap(&self) -> Result<Beyond> {
        loop {
            match stream::held_back(&self.source, &self.names.forward).await? {
                Some((_, false)) => return Ok(Beyond::Dropped),
                Some((bytes, true))
                    if !u64::try_from(bytes).is_ok_and(|bytes| bytes <= self.mover.max_wal) =>
                {
                    return Ok(Beyond::Kept(bytes));
                }
                _ => sleep(LOOK_AGAIN).await,
            }
        }
    }
}
