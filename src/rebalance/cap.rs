//! A move gives up before the WAL that it holds back fills its source's disk.

use std::time::Duration;

use futures_util::join;
use tokio::time::sleep;

use super::run::Run;
use super::stream;
use crate::{Error, Result};

/// How often the slot is looked at. Even a fast disk writes few gigabytes in that time.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Run<'_> {
    /// Does what takes long. When the source has to keep more WAL for it than is allowed, everything is undone: the shard
    /// stays where it is, and the WAL is free.
    pub(super) async fn within_cap<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let kept = tokio::select! {
            biased;
            done = work => return done,
            kept = self.beyond_cap() => kept?,
        };
        let (source, target, name) = (&self.source, &self.target, &self.names.forward);
        // The slot is dropped whatever becomes of the target: that may be busy for long with what it was told before, or gone. The
        // subscription goes behind the slot, as always.
        let (dropped, disabled) =
            join!(stream::drop_slot(source, name), stream::disable(target, name));
        dropped?;
        disabled?;
        source.work.roll_back().await;
        target.work.roll_back().await;
        self.abort().await?;
        Err(Error::refused(format!(
            "{} kept {kept} bytes of WAL for the copy, and {} are allowed, so the move was given up",
            source.name, self.mover.max_wal
        ))
        .hint(format!("{} was too slow or stood still", target.name)))
    }

    /// Ends when there is more than is allowed, with how much there is.
    async fn beyond_cap(&self) -> Result<i64> {
        loop {
            let held = stream::held_back(&self.source, &self.names.forward).await?;
            if let Some((bytes, is_whole)) = held {
                let is_allowed =
                    u64::try_from(bytes).is_ok_and(|bytes| bytes <= self.mover.max_wal);
                if !is_whole || !is_allowed {
                    return Ok(bytes);
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
